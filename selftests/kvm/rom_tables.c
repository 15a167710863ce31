// SPDX-License-Identifier: GPL-2.0
/*
 * Page tables in read-only memory in the paging modes of 32 bits: two levels, with and without
 * large pages, and PAE; and what interrupts a guest whose tables are there: interrupts, NMIs, SMIs
 * and task switches. rom.c has 64-bit tables.
 *
 * State: the tables that build_tables() makes; each is at the same address in ROM and in `ram`.
 * Read next: rom.c, taskswitch.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

/* Guest-physical. All but AREA's second address is mapped to itself. */
#define ROM_GPA TEST_GPA
#define AREA 0x4200000
#define ALIAS 0xc0200000
#define ABSENT 0xd0000000
#define GDT 0x6000u
#define IDT 0x7000u
#define STACK 0x9000u
#define CODE 0xa000u
#define HANDLERS 0xb000u
#define TASKS 0xc000u		/* two TSSs, half a page apart */
#define DIRECTORY_B 0xe000u
#define COUNTS 0x5000		/* u32 each: INTs, #PFs, its error code, its address, IRQs, NMIs */
#define SMBASE 0x30000u
#define SMI_COUNT 0x9000
#define SLOT_ROM SLOT_TEST
#define SLOT_AREA (SLOT_TEST + 1)
#define SLOT_SMRAM 0x10000u

#define PTE_A 0x20u
#define PTE_D 0x40u
#define PTE_PS 0x80u
#define PTE_ALL 7u
#define PF_W 2
#define VECTOR 0x60
#define IRQ 0x61

enum { COUNT_INT, COUNT_PF, PF_ERROR, PF_ADDRESS, COUNT_IRQ, COUNT_NMI, NR_COUNTS };
enum paging { TWO_LEVELS, LARGE_PAGES, PAE };

#define STRING_OF(x) #x
#define STR(x) STRING_OF(x)

/*
 * Three times: writes each page of AREA by way of ALIAS and reads it back, takes INT, loads CR3,
 * takes a #PF.
 */
CODE_BLOB(all_kinds, 32,
	  "movl $3, %ebp\n"
	  "1: xorl %ecx, %ecx\n"
	  "2: movl %ecx, %eax\n"
	  "shll $12, %eax\n"
	  "leal (%ecx, %ebp), %edx\n"
	  "movl %edx, " STR(ALIAS) "(%eax, %ecx, 4)\n"
	  "incl %ecx\n"
	  "cmpl $64, %ecx\n"
	  "jne 2b\n"
	  "xorl %ecx, %ecx\n"
	  "3: movl %ecx, %eax\n"
	  "shll $12, %eax\n"
	  "leal (%ecx, %ebp), %edx\n"
	  "cmpl %edx, " STR(AREA) "(%eax, %ecx, 4)\n"
	  "jne 9f\n"
	  "incl %ecx\n"
	  "cmpl $64, %ecx\n"
	  "jne 3b\n"
	  "int $0x60\n"
	  "movl %cr3, %eax\n"
	  "movl %eax, %cr3\n"
	  "movl $1, " STR(ABSENT) "\n"
	  "movl %cr4, %eax\n"
	  "xorl $0x80, %eax\n"		/* PGE */
	  "movl %eax, %cr4\n"
	  "movl %cr0, %eax\n"
	  "xorl $0x10000, %eax\n"	/* WP */
	  "movl %eax, %cr0\n"
	  "decl %ebp\n"
	  "jnz 1b\n"
	  "outb %al, $0x70\n"
	  "9: ud2\n");

/* Ten stages, with interrupts enabled; behind each one of every kind has come. */
CODE_BLOB(interrupted, 32,
	  "sti\n"
	  "movl $1, %ebp\n"
	  "1: outb %al, $0x60\n"
	  "cmpl %ebp, " STR(COUNTS) " + 16\n"
	  "jne 9f\n"
	  "cmpl %ebp, " STR(COUNTS) " + 20\n"
	  "jne 9f\n"
	  "movl %ebp, %eax\n"
	  "shll $12, %eax\n"
	  "movl %ebp, " STR(ALIAS) "(%eax)\n"
	  "cmpl %ebp, " STR(AREA) "(%eax)\n"
	  "jne 9f\n"
	  "incl %ebp\n"
	  "cmpl $11, %ebp\n"
	  "jne 1b\n"
	  "outb %al, $0x70\n"
	  "9: ud2\n");

/* To task B and back, which has another CR3, ten times. */
CODE_BLOB(switching, 32,
	  "movl $10, %ebp\n"
	  "1: movl %ebp, " STR(ALIAS) "\n"
	  "ljmpl $0x20, $0\n"
	  "cmpl $10, " STR(AREA) "\n"
	  "jne 9f\n"
	  "decl %ebp\n"
	  "jnz 1b\n"
	  "outb %al, $0x70\n"
	  "9: ud2\n");
CODE_BLOB(task_b, 32,
	  "1: movl $10, " STR(AREA) "\n"
	  "ljmpl $0x18, $0\n"
	  "jmp 1b\n");

CODE_BLOB(on_int, 32, "incl " STR(COUNTS) "\niretl\n");
CODE_BLOB(on_pf, 32,
	  "incl " STR(COUNTS) " + 4\n"
	  "popl " STR(COUNTS) " + 8\n"
	  "movl %cr2, %eax\n"
	  "movl %eax, " STR(COUNTS) " + 12\n"
	  "addl $10, (%esp)\n"
	  "iretl\n");
CODE_BLOB(on_irq, 32, "incl " STR(COUNTS) " + 16\niretl\n");
CODE_BLOB(on_nmi, 32, "incl " STR(COUNTS) " + 20\niretl\n");
CODE_BLOB(on_smi, 16, "incl %cs:0x9000\nrsm\n");

struct tables {
	u8 top[PAGE_SIZE];		/* the page directory, or PDPTEs at TOP_PAE */
	union {
		u32 low[1024];		/* page table of the first 4 MiB */
		u64 pd[512];		/* PAE: page directory of the first GiB */
	};
	u64 pd_alias[512];		/* PAE: of ALIAS's GiB */
	u64 pt[1024];			/* page table of AREA and, with two levels, of ROM */
};

#define TOP_PAE 0x7e0
#define IN_ROM(field) (ROM_GPA + offsetof(struct tables, field))

struct machine {
	struct vm *vm;
	struct vcpu *vcpu;
	u8 *rom, *area, *smram;
	struct tables ram;
	struct kvm_sregs sregs;
};

static void build_two_levels(struct tables *t, bool large, u32 flags)
{
	u32 *pd = (u32 *)t->top, *pt = (u32 *)t->pt;

	for (u32 i = 0; i < 1024; i++) {
		t->low[i] = i << 12 | flags;
		pt[i] = (ROM_GPA + i * PAGE_SIZE) | flags;
	}
	pd[0] = large ? flags | PTE_PS : IN_ROM(low) | flags;
	pd[ROM_GPA >> 22] = IN_ROM(pt) | flags;
	pd[ALIAS >> 22] = large ? ROM_GPA | flags | PTE_PS : IN_ROM(pt) | flags;
}

static void build_pae(struct tables *t, u32 flags)
{
	u64 *pdpt = (u64 *)(t->top + TOP_PAE);

	pdpt[0] = IN_ROM(pd) | 1;
	pdpt[3] = IN_ROM(pd_alias) | 1;
	for (u64 i = 0; i < 512; i++)
		t->pt[i] = (AREA + i * PAGE_SIZE) | flags;
	t->pd[0] = flags | PTE_PS;
	t->pd[1] = 2 * MIB | flags | PTE_PS;
	t->pd[AREA >> 21] = IN_ROM(pt) | flags;
	t->pd_alias[ALIAS >> 21 & 511] = AREA | flags | PTE_PS;
}

static void put_gate(struct machine *m, u32 vector, const u8 *start, const u8 *end)
{
	u32 entry = HANDLERS + vector * 32;
	u64 gate = (entry & 0xffff) | 0x08 << 16 | 0x8e00ull << 32;

	vm_load(m->vm, entry, start, end);
	memcpy(m->vm->low + IDT + vector * 8, &gate, 8);
}

static void set_registers(struct machine *m, enum paging paging)
{
	struct kvm_regs regs = { .rip = CODE, .rsp = STACK, .rflags = RFLAGS_FIXED };
	struct kvm_sregs *s = &m->sregs;

	vcpu_get_sregs(m->vcpu, s);
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr3 = ROM_GPA + (paging == PAE ? TOP_PAE : 0);
	s->cr4 = paging == PAE ? CR4_PAE : 0;
	if (paging == LARGE_PAGES)
		s->cr4 = CR4_PSE;
	s->efer = 0;
	s->cs = flat_segment(0x08, 11, false);
	s->ss = s->ds = s->es = s->fs = s->gs = flat_segment(0x10, 3, false);
	s->gdt.base = GDT;
	s->gdt.limit = 0x27;
	s->idt.base = IDT;
	s->idt.limit = 0x7ff;
	s->tr = (struct kvm_segment){
		.base = TASKS, .limit = 103, .selector = 0x18, .type = 11, .present = 1,
	};
	s->ldt = (struct kvm_segment){ .unusable = 1 };
	vcpu_set_sregs(m->vcpu, s);
	vcpu_set_regs(m->vcpu, &regs);
}

static struct machine machine_create(enum paging paging, u32 flags, const u8 *code, const u8 *end)
{
	static const u64 gdt[5] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff,
				    0x00008b00c0000067, 0x00008900c8000067 };
	struct machine m = { .vm = NULL };

	NEED_CAP(KVM_CAP_READONLY_MEM);
	if (is_linux_kvm())
		SKIP("Linux KVM loses stores of a guest with page tables in ROM, or ends it");
	m.vm = vm_create(0);
	m.vcpu = vcpu_create(m.vm, 0);
	m.rom = vm_add_memory(m.vm, SLOT_ROM, KVM_MEM_READONLY, ROM_GPA, 2 * MIB);
	m.area = vm_add_memory(m.vm, SLOT_AREA, 0, AREA, 2 * MIB);
	if (paging == PAE)
		build_pae(&m.ram, flags);
	else
		build_two_levels(&m.ram, paging == LARGE_PAGES, flags);
	memcpy(m.rom, &m.ram, sizeof(m.ram));
	memcpy(m.vm->low + GDT, gdt, sizeof(gdt));
	memset(m.vm->low + COUNTS, 0, NR_COUNTS * 4);
	vm_load(m.vm, CODE, code, end);
	put_gate(&m, VECTOR, on_int, on_int_end);
	put_gate(&m, VEC_PF, on_pf, on_pf_end);
	put_gate(&m, IRQ, on_irq, on_irq_end);
	put_gate(&m, VEC_NMI, on_nmi, on_nmi_end);
	set_registers(&m, paging);
	return m;
}

static u32 count_of(const struct machine *m, u32 n)
{
	return ((u32 *)(m->vm->low + COUNTS))[n];
}

static void run_to_port(struct machine *m, u16 port)
{
	struct kvm_run *run = vcpu_run_to_exit(m->vcpu, KVM_EXIT_IO);

	ASSERT_EQ(port, run->io.port);
}

/* The end of a guest's program; its tables are as they were built. */
static void run_to_end(struct machine *m)
{
	struct kvm_sregs sregs;

	run_to_port(m, 0x70);
	vcpu_get_sregs(m->vcpu, &sregs);
	EXPECT_EQ(m->sregs.cr3, sregs.cr3);
	EXPECT_EQ(0, memcmp(&m->ram, m->rom, sizeof(m->ram)));
}

/* ---- each mode, with and without accessed and dirty bits ---- */

static void use_memory(enum paging paging)
{
	static const u32 flags[] = { PTE_ALL, PTE_ALL | PTE_A, PTE_ALL | PTE_A | PTE_D };
	struct machine m;

	for (u32 i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		ktap_about("entries with flags 0x%x", flags[i]);
		m = machine_create(paging, flags[i], all_kinds, all_kinds_end);
		run_to_end(&m);
		EXPECT_EQ(3, count_of(&m, COUNT_INT));
		EXPECT_EQ(3, count_of(&m, COUNT_PF));
		EXPECT_EQ(PF_W, count_of(&m, PF_ERROR));
		EXPECT_EQ(ABSENT, count_of(&m, PF_ADDRESS));
		for (u32 page = 0; page < 64; page++)
			EXPECT_EQ(page + 1, *(u32 *)(m.area + page * PAGE_SIZE + page * 4));
	}
}

TEST(tables_of_two_levels_may_be_in_rom)
{
	use_memory(TWO_LEVELS);
}

TEST(tables_with_large_pages_of_two_levels_may_be_in_rom)
{
	use_memory(LARGE_PAGES);
}

TEST(tables_of_pae_paging_may_be_in_rom)
{
	use_memory(PAE);
}

/* ---- interrupts, NMIs and SMIs ---- */

static void interrupt(enum paging paging)
{
	struct kvm_interrupt irq = { IRQ };
	struct machine m;

	NEED_CAP(KVM_CAP_X86_SMM);
	m = machine_create(paging, PTE_ALL, interrupted, interrupted_end);
	m.smram = vm_add_memory(m.vm, SLOT_SMRAM, 0, SMBASE, 0x10000);
	memcpy(m.smram + 0x8000, on_smi, on_smi_end - on_smi);
	for (u32 i = 1; i <= 10; i++) {
		run_to_port(&m, 0x60);
		ASSERT_EQ(1, m.vcpu->run->if_flag);
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_INTERRUPT, &irq));
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_NMI, 0));
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_SMI));
	}
	run_to_end(&m);
	EXPECT_EQ(10, count_of(&m, COUNT_IRQ));
	EXPECT_EQ(10, count_of(&m, COUNT_NMI));
	EXPECT_EQ(10, *(u32 *)(m.smram + SMI_COUNT));
}

TEST(a_guest_with_tables_of_two_levels_in_rom_is_interrupted)
{
	interrupt(TWO_LEVELS);
}

TEST(a_guest_with_large_pages_and_tables_in_rom_is_interrupted)
{
	interrupt(LARGE_PAGES);
}

TEST(a_guest_with_pae_tables_in_rom_is_interrupted)
{
	interrupt(PAE);
}

/* ---- task switches ---- */

/* B's tables are in ROM as A's are, or in RAM: one page directory of large pages. */
static void switch_tasks(enum paging paging, bool b_in_rom)
{
	struct machine m = machine_create(paging, PTE_ALL, switching, switching_end);
	u32 *b = (u32 *)(m.vm->low + TASKS + 0x800);
	u32 *directory = (u32 *)(m.vm->low + DIRECTORY_B);

	if (cpu_is_tcg())
		SKIP("TCG does the first half of a task switch twice if a page is missing in it");
	vm_load(m.vm, CODE + 0x200, task_b, task_b_end);
	for (u32 i = 0; i < 1024; i++)
		directory[i] = i << 22 | PTE_ALL | PTE_PS;
	memset(b, 0, 104);
	b[7] = b_in_rom ? m.sregs.cr3 : DIRECTORY_B;
	b[8] = CODE + 0x200;
	b[9] = RFLAGS_FIXED;
	b[14] = STACK - 0x400;
	b[18] = b[20] = b[21] = b[22] = b[23] = 0x10;
	b[19] = 0x08;
	((u32 *)(m.vm->low + TASKS))[7] = m.sregs.cr3;
	run_to_end(&m);
	EXPECT_EQ(10, *(u32 *)m.area);
}

TEST(tasks_whose_tables_of_two_levels_are_in_rom_are_switched)
{
	switch_tasks(TWO_LEVELS, true);
}

TEST(tasks_with_tables_in_rom_and_in_ram_are_switched)
{
	switch_tasks(LARGE_PAGES, false);
}

TEST(tasks_whose_pae_tables_are_in_rom_are_switched)
{
	switch_tasks(PAE, true);
}
