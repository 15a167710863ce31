// SPDX-License-Identifier: GPL-2.0
/*
 * What a CPU reads and writes by itself in memory that is read-only, or is not
 * there: page tables, descriptor tables, and what the delivery of an event
 * needs. Reads work, accessed and dirty bits that are written are lost, as on
 * any bus; what the guest itself writes there still is MMIO.
 *
 * State: the page tables, in RAM or in ROM, that build_tables() makes.
 * Read next: memslots.c for read-only slots, events.c for deliveries.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "vm.h"

/* Guest-physical, and mapped to itself: the ROM; RAM that is mapped by 4 KiB pages. */
#define ROM_GPA TEST_GPA
#define AREA (TEST_GPA + 2 * MIB)
#define AREA_PAGES 64
#define SLOT_ROM SLOT_TEST
#define SLOT_AREA (SLOT_TEST + 1)
#define ROM_DATA (ROM_GPA + 16 * PAGE_SIZE)	/* a page of the ROM without tables */
#define VECTOR 0x60

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_ALL (PTE_P | PTE_W | PTE_U)
#define PF_P 1
#define PF_W 2
#define PF_RESERVED 8

/* What of the tables is in ROM. */
enum { ROM_PML4 = 1, ROM_PDPT = 2, ROM_PD = 4, ROM_PT = 8, ROM_ALL = 15 };

struct tables {
	u64 pml4[512], pdpt[512], pd[4][512], pt[512];
};

static struct tables ram __attribute__((aligned(4096)));
static u8 *rom, *area;			/* host addresses */
static u64 pml4_gpa, pd_gpa, pt_gpa;	/* of the guest's, for the guest */
static volatile u64 answer;

#define IN_ROM(field) (ROM_GPA + offsetof(struct tables, field))
#define WHERE(in_rom, mask, field) ((in_rom) & (mask) ? IN_ROM(field) : (u64)ram.field)

/* Four levels that map 4 GiB to themselves, of which AREA by 4 KiB pages. */
static void build_tables(u32 in_rom, u64 flags)
{
	struct tables *t = &ram;

	pml4_gpa = WHERE(in_rom, ROM_PML4, pml4);
	pd_gpa = WHERE(in_rom, ROM_PD, pd);
	pt_gpa = WHERE(in_rom, ROM_PT, pt);
	t->pml4[0] = WHERE(in_rom, ROM_PDPT, pdpt) | flags;
	for (u64 gib = 0; gib < 4; gib++) {
		t->pdpt[gib] = (pd_gpa + gib * PAGE_SIZE) | flags;
		for (u64 i = 0; i < 512; i++)
			t->pd[gib][i] = (gib << 30 | i << 21) | flags | PTE_PS;
	}
	t->pd[AREA >> 30][AREA >> 21 & 511] = pt_gpa | flags;
	for (u64 i = 0; i < 512; i++)
		t->pt[i] = (AREA + i * PAGE_SIZE) | flags;
	memcpy(rom, t, sizeof(*t));
}

static struct vcpu *rom_guest(struct vm **vm, void (*entry)(u64 arg), u32 in_rom, u64 flags)
{
	struct kvm_sregs sregs;
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_READONLY_MEM);
	*vm = vm_create(VM_IRQCHIP);
	vcpu = vcpu_add(*vm, entry, 0);
	rom = vm_add_memory(*vm, SLOT_ROM, KVM_MEM_READONLY, ROM_GPA, 2 * MIB);
	area = vm_add_memory(*vm, SLOT_AREA, 0, AREA, 2 * MIB);
	build_tables(in_rom, flags);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr3 = pml4_gpa;
	vcpu_set_sregs(vcpu, &sregs);
	return vcpu;
}

static u64 read_cr3(void)
{
	u64 cr3;

	asm volatile("mov %%cr3, %0" : "=r"(cr3) :: "memory");
	return cr3;
}

static void write_cr3(u64 cr3)
{
	asm volatile("mov %0, %%cr3" :: "r"(cr3) : "memory");
}

static void invlpg(u64 addr)
{
	asm volatile("invlpg (%0)" :: "r"(addr) : "memory");
}

static volatile u64 *at(u64 gpa)
{
	return (volatile u64 *)gpa;
}

/* Stores and loads of many kinds; each is done just once. */
static void store_and_load(void)
{
	u64 *to = (u64 *)AREA, pair[2] = { 1, 2 };
	u64 from = AREA, dest = AREA + 3 * PAGE_SIZE - 8, count = 4;
	bool same;

	for (u64 i = 0; i < AREA_PAGES; i++)
		at(AREA)[i * 512 + i] = i + 1;
	for (u64 i = 0; i < AREA_PAGES; i++)
		GUEST_EQ(i + 1, at(AREA)[i * 512 + i]);
	to[0] = 5;
	asm volatile("lock xaddq %0, %1" : "+r"(count), "+m"(to[0]) :: "memory");
	GUEST_EQ(5, count);
	GUEST_EQ(9, to[0]);
	to[2] = 1;
	to[3] = 2;
	asm volatile("lock cmpxchg16b %1; sete %0"
		     : "=q"(same), "+m"(*(u64 (*)[2])(to + 2)), "+a"(pair[0]), "+d"(pair[1])
		     : "b"(3ull), "c"(4ull) : "memory", "cc");
	GUEST_TRUE(same);
	GUEST_EQ(3, to[2]);
	GUEST_EQ(4, to[3]);
	count = 4;
	asm volatile("rep movsq" : "+S"(from), "+D"(dest), "+c"(count) :: "memory");
	GUEST_EQ(9, at(AREA + 3 * PAGE_SIZE - 8)[0]);
	GUEST_EQ(4, at(AREA + 3 * PAGE_SIZE - 8)[3]);
	/* 3.0 squared; the guest has the registers to itself. */
	to[8] = 0x4008000000000000;
	asm volatile("movsd %0, %%xmm0; mulsd %0, %%xmm0; movsd %%xmm0, %0; fldl %0; fistpq %0"
		     : "+m"(to[8]) :: "memory");
	GUEST_EQ(9, to[8]);
	asm volatile("pushq %0; popq 8(%0)" :: "r"(AREA) : "memory");
	GUEST_EQ(AREA, to[1]);
}

static void all_kinds(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count_only;
	for (u32 i = 0; i < 3; i++) {
		store_and_load();
		write_cr3(read_cr3());
		asm volatile("int %0" :: "i"(VECTOR));
		GUEST_EQ(VEC_UD, GUEST_TRY("ud2", "=m"(answer)));
		GUEST_EQ(VEC_PF, GUEST_TRY("movq $1, (%1)", "=m"(answer) : "r"(GUEST_UNMAPPED)));
		GUEST_EQ(PF_W, guest_caught.error);
		GUEST_EQ(GUEST_UNMAPPED, guest_caught.cr2);
	}
	GUEST_EQ(3, irqs[VECTOR]);
	GUEST_EQ(pml4_gpa, read_cr3());
}

/* No entry in ROM has changed. */
static void expect_rom_as_built(void)
{
	struct tables *t = (struct tables *)rom;

	EXPECT_EQ(0, t->pml4[0] & (PTE_A | PTE_D));
	EXPECT_EQ(0, t->pdpt[0] & (PTE_A | PTE_D));
	EXPECT_EQ(0, t->pd[0][2] & (PTE_A | PTE_D));
	EXPECT_EQ(0, t->pt[0] & (PTE_A | PTE_D));
}

static void run_with_tables(u32 in_rom, u64 flags)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu = rom_guest(&vm, all_kinds, in_rom, flags);

	vcpu_run_to_done(vcpu);
	vcpu_get_sregs(vcpu, &sregs);
	EXPECT_EQ(pml4_gpa, sregs.cr3);
	if (!(flags & PTE_A))
		expect_rom_as_built();
}

/* Linux KVM has its emulator run each instruction, the few that it knows. */
#define NOT_ON_LINUX_KVM() do {						\
	if (is_linux_kvm())						\
		SKIP("Linux KVM loses stores of a guest with page tables in ROM, or ends it"); \
} while (0)

TEST(page_tables_in_rom_that_are_accessed_and_dirty_are_walked)
{
	NOT_ON_LINUX_KVM();
	run_with_tables(ROM_ALL, PTE_ALL | PTE_A | PTE_D);
}

TEST(page_tables_in_rom_are_walked_and_stay_as_they_are)
{
	NOT_ON_LINUX_KVM();
	run_with_tables(ROM_ALL, PTE_ALL);
}

TEST(the_upper_page_tables_alone_may_be_in_rom)
{
	NOT_ON_LINUX_KVM();
	run_with_tables(ROM_PML4 | ROM_PDPT, PTE_ALL);
}

TEST(the_page_directory_alone_may_be_in_rom)
{
	NOT_ON_LINUX_KVM();
	run_with_tables(ROM_PD, PTE_ALL);
}

TEST(the_last_page_table_alone_may_be_in_rom)
{
	NOT_ON_LINUX_KVM();
	run_with_tables(ROM_PT, PTE_ALL);
}

/* --- Two processors: one with tables in ROM, whose instructions the emulator may run --- */

#define ROUNDS 300

static volatile bool counting, counted;
static volatile u64 others;

static void count_emulated(u64 arg)
{
	u64 *to = (u64 *)AREA, n = 1, old;

	(void)arg;
	counting = true;
	while (!others)
		asm volatile("pause");
	for (u32 i = 0; i < ROUNDS; i++) {
		asm volatile("lock incq %0" : "+m"(to[0]) :: "memory");
		asm volatile("lock xaddl %k1, %0" : "+m"(*(u32 *)&to[0]), "+r"(n) :: "memory");
		n = 1;
		old = to[0];
		while (!__atomic_compare_exchange_n(&to[0], &old, old + 1, false, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			;
		asm volatile("lock btsq $63, %0; lock btrq $63, %0" : "+m"(to[1]) :: "memory");
	}
	counted = true;
}

static void count_with_it(u64 arg)
{
	u64 *to = (u64 *)AREA;

	(void)arg;
	while (!counting)
		asm volatile("pause");
	while (!counted) {
		asm volatile("lock incq %0; lock incq %1" : "+m"(to[0]), "+m"(to[1]) :: "memory");
		others++;
	}
}

TEST(locked_operations_below_tables_in_rom_are_atomic)
{
	struct vm *vm;
	struct vcpu *vcpu, *other;

	NOT_ON_LINUX_KVM();
	vcpu = rom_guest(&vm, count_emulated, ROM_PT, PTE_ALL);
	other = vcpu_add(vm, count_with_it, 0);
	vcpu_start(other);
	vcpu_run_to_done(vcpu);
	vcpu_wait_done(other);
	EXPECT_LT(0, others);
	EXPECT_EQ(others + 3 * ROUNDS, ((u64 *)area)[0]);
	EXPECT_EQ(others, ((u64 *)area)[1]);
}

/* --- What of the tables is RAM is as always --- */

static void dirty_bits(u64 arg)
{
	(void)arg;
	answer = at(AREA)[0];
	GUEST_EQ(PTE_A, at(pt_gpa)[0] & (PTE_A | PTE_D));
	GUEST_EQ(0, at(pt_gpa)[1] & (PTE_A | PTE_D));
	at(AREA)[0] = 1;
	GUEST_EQ(PTE_A | PTE_D, at(pt_gpa)[0] & (PTE_A | PTE_D));
	at(AREA)[512] = 1;
	GUEST_EQ(PTE_A | PTE_D, at(pt_gpa)[1] & (PTE_A | PTE_D));
	/* Read-only for a supervisor that may write it all the same. */
	at(pt_gpa)[2] &= ~PTE_W;
	answer = at(AREA)[2 * 512];
	GUEST_EQ(VEC_PF, GUEST_TRY("movq $1, (%1)", "=m"(answer) : "r"(AREA + 2 * PAGE_SIZE)));
	GUEST_EQ(PF_P | PF_W, guest_caught.error);
	GUEST_EQ(PTE_A, at(pt_gpa)[2] & (PTE_A | PTE_D));
	asm volatile("mov %%cr0, %%rax; btr $16, %%eax; mov %%rax, %%cr0" ::: "rax", "memory");
	answer = at(AREA)[2 * 512];
	GUEST_EQ(PTE_A, at(pt_gpa)[2] & (PTE_A | PTE_D));
	at(AREA)[2 * 512] = 7;
	GUEST_EQ(PTE_A | PTE_D, at(pt_gpa)[2] & (PTE_A | PTE_D));
	GUEST_EQ(7, at(AREA)[2 * 512]);
}

TEST(a_first_write_sets_the_dirty_bit_in_a_table_in_ram)
{
	struct vm *vm;

	NOT_ON_LINUX_KVM();
	vcpu_run_to_done(rom_guest(&vm, dirty_bits, ROM_PML4 | ROM_PDPT | ROM_PD, PTE_ALL));
}

static void remap(u64 arg)
{
	(void)arg;
	for (u64 i = 0; i < AREA_PAGES; i++)
		at(AREA)[i * 512] = i;
	for (u64 i = 1; i < AREA_PAGES; i++) {
		at(pt_gpa)[0] = (AREA + i * PAGE_SIZE) | PTE_ALL;
		invlpg(AREA);
		GUEST_EQ(i, at(AREA)[0]);
		at(pt_gpa)[0] = 0;
		invlpg(AREA);
		GUEST_EQ(VEC_PF, GUEST_TRY("movq (%1), %%rax", "=m"(answer) : "r"(AREA) : "rax"));
		GUEST_EQ(0, guest_caught.error);
		/* An entry that becomes present needs no INVLPG. */
		at(pt_gpa)[0] = (AREA + (AREA_PAGES - i) * PAGE_SIZE) | PTE_ALL;
		GUEST_EQ(AREA_PAGES - i, at(AREA)[0]);
		at(pt_gpa)[0] = AREA | PTE_ALL;
		write_cr3(read_cr3());
		GUEST_EQ(0, at(AREA)[0]);
	}
}

TEST(changed_entries_below_tables_in_rom_are_seen)
{
	struct vm *vm;

	NOT_ON_LINUX_KVM();
	vcpu_run_to_done(rom_guest(&vm, remap, ROM_PML4 | ROM_PDPT | ROM_PD, PTE_ALL));
}

static void many_pages(u64 arg)
{
	(void)arg;
	/* More pages, and more tables, than any TLB holds. */
	for (u64 i = 0; i < 3; i++) {
		for (u64 n = 0; n < 512; n++)
			at(AREA)[n * 512] += n;
		for (u64 gpa = 0; gpa < 4 * MIB; gpa += PAGE_SIZE)
			answer += *at(gpa);
	}
	for (u64 n = 0; n < 512; n++)
		GUEST_EQ(3 * n, at(AREA)[n * 512]);
}

TEST(a_guest_with_tables_in_rom_may_use_much_memory)
{
	struct vm *vm;

	NOT_ON_LINUX_KVM();
	vcpu_run_to_done(rom_guest(&vm, many_pages, ROM_ALL, PTE_ALL));
}

/* --- From ROM to RAM and back --- */

static void switch_tables(u64 arg)
{
	(void)arg;
	for (u32 i = 0; i < 20; i++) {
		write_cr3((u64)guest_pml4);
		GUEST_EQ((u64)guest_pml4, read_cr3());
		store_and_load();
		write_cr3(pml4_gpa);
		GUEST_EQ(pml4_gpa, read_cr3());
		store_and_load();
		asm volatile("mov %%cr4, %%rax; xor $0x80, %%eax; mov %%rax, %%cr4" ::: "rax", "memory");
		asm volatile("mov %%cr0, %%rax; btc $16, %%eax; mov %%rax, %%cr0" ::: "rax", "memory");
		asm volatile("mov %%cr0, %%rax; bts $3, %%eax; mov %%rax, %%cr0; clts" ::: "rax", "memory");
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) ^ EFER_NXE);
		store_and_load();
	}
}

TEST(a_guest_may_change_between_tables_in_rom_and_in_ram)
{
	struct vm *vm;

	NOT_ON_LINUX_KVM();
	vcpu_run_to_done(rom_guest(&vm, switch_tables, ROM_ALL, PTE_ALL));
}

/* --- The guest's own accesses to such a ROM --- */

static void own_accesses(u64 arg)
{
	(void)arg;
	at(AREA)[0] = 1;
	GUEST_EQ(0, at(IN_ROM(pml4))[0] & (PTE_A | PTE_D));
	GUEST_EQ(0, at(IN_ROM(pt))[0] & (PTE_A | PTE_D));
	*(volatile u32 *)(IN_ROM(pt) + 8) = 0x1234567;
	GUEST_EQ((AREA + PAGE_SIZE) | PTE_ALL, at(IN_ROM(pt))[1]);
	*(volatile u32 *)ROM_DATA = 0x89abcdef;
	GUEST_EQ(0x55, at(ROM_DATA)[0]);
	GUEST_EQ(0x77, mmio_read32(MMIO_GPA));
}

static void expect_mmio_write(struct vcpu *vcpu, u64 gpa, u32 value)
{
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	u32 seen;

	EXPECT_EQ(gpa, run->mmio.phys_addr);
	EXPECT_EQ(1, run->mmio.is_write);
	EXPECT_EQ(4, run->mmio.len);
	memcpy(&seen, run->mmio.data, 4);
	EXPECT_EQ(value, seen);
}

TEST(what_a_guest_writes_to_its_page_tables_in_rom_is_mmio)
{
	struct vm *vm;
	struct vcpu *vcpu;
	struct kvm_run *run;

	NOT_ON_LINUX_KVM();
	vcpu = rom_guest(&vm, own_accesses, ROM_ALL, PTE_ALL);
	rom[ROM_DATA - ROM_GPA] = 0x55;
	expect_mmio_write(vcpu, IN_ROM(pt) + 8, 0x1234567);
	expect_mmio_write(vcpu, ROM_DATA, 0x89abcdef);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(MMIO_GPA, run->mmio.phys_addr);
	EXPECT_EQ(0, run->mmio.is_write);
	run->mmio.data[0] = 0x77;
	vcpu_run_to_done(vcpu);
}

/* --- The host's doings --- */

static void read_all(u64 arg)
{
	(void)arg;
	for (u32 i = 1;; i++) {
		for (u64 n = 0; n < AREA_PAGES; n++)
			GUEST_EQ(i, at(AREA)[n * 512]);
		stage(i);
	}
}

static void fill_area(u64 value)
{
	for (u64 n = 0; n < AREA_PAGES; n++)
		*(u64 *)(area + n * PAGE_SIZE) = value;
}

TEST(memory_below_tables_in_rom_follows_the_host)
{
	struct vm *vm;
	struct vcpu *vcpu;

	NOT_ON_LINUX_KVM();
	vcpu = rom_guest(&vm, read_all, ROM_ALL, PTE_ALL);
	for (u32 i = 1; i < 10; i++) {
		fill_area(i);
		vcpu_run_to_stage(vcpu, i);
		/* Other pages take their place. */
		ASSERT_OK(madvise(area, AREA_PAGES * PAGE_SIZE, MADV_DONTNEED));
	}
	/* And the ROM may have other tables, once the CPU has been told. */
	ASSERT_OK(vm_set_slot(vm, SLOT_ROM, 0, ROM_GPA, 0, NULL));
	((struct tables *)rom)->pt[0] = (AREA + 100 * PAGE_SIZE) | PTE_ALL;
	ASSERT_OK(vm_set_slot(vm, SLOT_ROM, KVM_MEM_READONLY, ROM_GPA, 2 * MIB, rom));
	fill_area(10);
	*(u64 *)area = 0;
	*(u64 *)(area + 100 * PAGE_SIZE) = 10;
	vcpu_run_to_stage(vcpu, 10);
}

static void write_all(u64 arg)
{
	(void)arg;
	for (u32 i = 1;; i++) {
		for (u64 n = 0; n < AREA_PAGES; n++)
			at(AREA)[n * 512] = i;
		stage(i);
	}
}

TEST(writes_below_tables_in_rom_are_logged)
{
	u64 bitmap[512 / 64];
	struct kvm_dirty_log log = { .slot = SLOT_AREA, .dirty_bitmap = bitmap };
	struct vm *vm;
	struct vcpu *vcpu;

	NOT_ON_LINUX_KVM();
	vcpu = rom_guest(&vm, write_all, ROM_ALL, PTE_ALL);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(vm_set_slot(vm, SLOT_AREA, KVM_MEM_LOG_DIRTY_PAGES, AREA, 2 * MIB, area));
	for (u32 i = 2; i < 5; i++) {
		vcpu_run_to_stage(vcpu, i);
		ASSERT_OK(ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log));
		EXPECT_EQ(~0ull, bitmap[0]);
		EXPECT_EQ(0, bitmap[1]);
	}
}

/* --- Interrupts --- */

static void interrupted(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count;
	guest_handlers[VEC_NMI] = irq_count_only;
	apic_enable();
	for (u32 i = 1; i <= 10; i++) {
		stage(i);
		sti_nop_cli();
		GUEST_EQ(i, irqs[VECTOR]);
		GUEST_EQ(i, irqs[VEC_NMI]);
		write_cr3(read_cr3());
	}
}

TEST(interrupts_and_nmis_are_delivered_by_way_of_tables_in_rom)
{
	struct vm *vm;
	struct vcpu *vcpu;

	NOT_ON_LINUX_KVM();
	vcpu = rom_guest(&vm, interrupted, ROM_ALL, PTE_ALL);
	for (u32 i = 1; i <= 10; i++) {
		vcpu_run_to_stage(vcpu, i);
		vm_msi(vm, MSI_ADDR(0), VECTOR);
		ASSERT_OK(ioctl(vcpu->fd, KVM_NMI, 0));
	}
	vcpu_run_to_done(vcpu);
}

CODE_BLOB(smi_handler, 16, "incl %cs:0x9000\nrsm\n");

static void count_stages(u64 arg)
{
	(void)arg;
	for (u32 i = 1; i <= 10; i++) {
		stage(i);
		store_and_load();
	}
}

TEST(smis_interrupt_a_guest_with_tables_in_rom)
{
	struct vm *vm;
	struct vcpu *vcpu;
	u8 *smram;

	NOT_ON_LINUX_KVM();
	NEED_CAP(KVM_CAP_X86_SMM);
	vcpu = rom_guest(&vm, count_stages, ROM_ALL, PTE_ALL);
	smram = vm_add_memory(vm, 0x10000, 0, 0x30000, 0x10000);
	memcpy(smram + 0x8000, smi_handler, smi_handler_end - smi_handler);
	for (u32 i = 1; i <= 10; i++) {
		vcpu_run_to_stage(vcpu, i);
		ASSERT_OK(ioctl(vcpu->fd, KVM_SMI));
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(10, *(u32 *)(smram + 0x9000));
	expect_rom_as_built();
}

/* --- Deliveries by way of tables in ROM, and over its end, behind which AREA is --- */

static void take_interrupts(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count;
	apic_enable();
	for (u32 i = 1; i <= 3; i++) {
		stage(i);
		sti_nop_cli();
		GUEST_EQ(i, irqs[VECTOR]);
		asm volatile("int %0" :: "i"(VECTOR + 1));
		GUEST_EQ(i, irqs[VECTOR + 1]);
		GUEST_EQ(VEC_UD, GUEST_TRY("ud2", "=m"(answer)));
		/* Loads of segments read the GDT. */
		asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" :: "r"(SEL_DATA));
		asm volatile("pushq %0; pushq $1f; lretq; 1:" :: "i"(SEL_CODE64) : "memory");
	}
}

/* Puts a table into ROM, or so that its byte number over is the first behind it. */
static u64 put_table(const void *table, u64 size, u64 over)
{
	u64 gpa = over ? AREA - over : ROM_DATA;

	for (u64 i = 0; i < size; i++) {
		u64 to = gpa + i;

		if (to < AREA)
			rom[to - ROM_GPA] = ((const u8 *)table)[i];
		else
			area[to - AREA] = ((const u8 *)table)[i];
	}
	return gpa;
}

static void deliver_all(struct vm *vm, struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	vcpu_set_sregs(vcpu, sregs);
	guest_handlers[VECTOR + 1] = irq_count_only;
	for (u32 i = 1; i <= 3; i++) {
		vcpu_run_to_stage(vcpu, i);
		vm_msi(vm, MSI_ADDR(0), VECTOR);
	}
	vcpu_run_to_done(vcpu);
}

static void deliver_by_idt(u64 over)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu = rom_guest(&vm, take_interrupts, 0, PTE_ALL);

	vcpu_get_sregs(vcpu, &sregs);
	sregs.idt.base = put_table(guest_idt, sizeof(guest_idt), over);
	deliver_all(vm, vcpu, &sregs);
}

TEST(an_idt_in_rom_is_read)
{
	deliver_by_idt(0);
}

TEST(a_gate_of_the_idt_may_lie_over_the_end_of_rom)
{
	deliver_by_idt(VECTOR * 16 + 8);
}

static void deliver_by_gdt(u64 over)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu = rom_guest(&vm, take_interrupts, 0, PTE_ALL);

	vcpu_get_sregs(vcpu, &sregs);
	sregs.gdt.base = put_table(guest_gdt, sizeof(guest_gdt), over);
	deliver_all(vm, vcpu, &sregs);
}

TEST(a_gdt_in_rom_is_read)
{
	deliver_by_gdt(0);
}

TEST(a_descriptor_of_the_gdt_may_lie_over_the_end_of_rom)
{
	deliver_by_gdt(SEL_CODE64 + 4);
}

#define ACCESSED (1ull << 40)

/* Whatever loads a segment would have the CPU write to the GDT, as the SDM and APM have it. */
static void load_segments(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count;
	guest_handlers[VEC_NMI] = irq_count_only;
	apic_enable();
	for (u32 i = 1; i <= 3; i++) {
		stage(i);
		sti_nop_cli();			/* a delivery loads CS; IRET does, and SS */
		GUEST_EQ(i, irqs[VECTOR]);
		GUEST_EQ(i, irqs[VEC_NMI]);
		GUEST_EQ(VEC_UD, GUEST_TRY("ud2", "=m"(answer)));
		asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" :: "r"(SEL_DATA));
		asm volatile("pushq %q0; popq %%fs; pushq %q0; popq %%gs" :: "r"(SEL_DATA) : "memory");
		asm volatile("pushq %0; pushq $1f; lretq; 1:" :: "i"(SEL_CODE64) : "memory");
		at(AREA)[0] = i;
		GUEST_EQ(i, at(AREA)[0]);
	}
}

static struct vcpu *unaccessed_gdt(struct vm **vm, void (*entry)(u64 arg), u32 in_rom)
{
	struct vcpu *vcpu = rom_guest(vm, entry, in_rom, PTE_ALL);
	u64 *gdt = (u64 *)(rom + (ROM_DATA - ROM_GPA));
	struct kvm_sregs sregs;

	for (u32 i = 0; i < 8; i++)
		gdt[i] = guest_gdt[i] & ~ACCESSED;
	vcpu_get_sregs(vcpu, &sregs);
	sregs.gdt.base = ROM_DATA;
	vcpu_set_sregs(vcpu, &sregs);
	return vcpu;
}

static void deliver_by_unaccessed_gdt(u32 in_rom)
{
	struct vm *vm;
	struct vcpu *vcpu = unaccessed_gdt(&vm, load_segments, in_rom);
	u64 *gdt = (u64 *)(rom + (ROM_DATA - ROM_GPA));

	for (u32 i = 1; i <= 3; i++) {
		vcpu_run_to_stage(vcpu, i);
		vm_msi(vm, MSI_ADDR(0), VECTOR);
		ASSERT_OK(ioctl(vcpu->fd, KVM_NMI, 0));
	}
	vcpu_run_to_done(vcpu);
	for (u32 i = 0; i < 8; i++)
		EXPECT_EQ(guest_gdt[i] & ~ACCESSED, gdt[i]);
}

TEST(the_accessed_bit_of_a_descriptor_in_rom_is_lost)
{
	if (is_linux_kvm())
		SKIP("on Linux KVM the delivery of an event through such a descriptor ends the VM");
	deliver_by_unaccessed_gdt(0);
}

static void told(struct guest_frame *frame)
{
	(void)frame;
	stage(2);
}

static void wait_for_one(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = told;
	apic_enable();
	stage(1);
	sti_nop_cli();
}

TEST(an_interrupt_loads_a_descriptor_in_rom_that_is_not_accessed)
{
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("on Linux KVM the delivery of an event through such a descriptor ends the VM");
	vcpu = unaccessed_gdt(&vm, wait_for_one, 0);
	vcpu_run_to_stage(vcpu, 1);
	vm_msi(vm, MSI_ADDR(0), VECTOR);
	vcpu_run_to_stage(vcpu, 2);
}

TEST(page_tables_and_descriptors_may_both_be_in_rom)
{
	NOT_ON_LINUX_KVM();
	deliver_by_unaccessed_gdt(ROM_ALL);
}

/* --- IRET, RETF and call gates whose stack and descriptors are in ROM: they are only read --- */

#define RET_CODE CODE_GPA
#define RET_TARGET (CODE_GPA + 0x20)
#define RET_GDT (ROM_DATA + 0x100)
#define RET_POINTER (ROM_DATA + 0x200)
#define RET_TSS (ROM_DATA + 0x300)
#define RAM_STACK (AREA + 0x1000)
#define RFLAGS_IOPL3 (3ull << 12)
#define TARGET_PORT 0x71
#define FLAGS (RFLAGS_FIXED | RFLAGS_IOPL3)
enum {
	RET_CS = 0x08,
	RET_SS = 0x10,
	RET_USER_CS = 0x1b,
	RET_USER_SS = 0x23,
	RET_GATE = 0x2b,
	RET_TR = 0x38,
};

CODE_BLOB(ret_code, 64,
	  "iretq; nop; nop; nop; nop; nop; nop\n"	/* 0 */
	  "lretq; nop; nop; nop; nop; nop; nop\n"	/* 8 */
	  "lcall *(%rbx)\n"				/* 16 */
	  ".balign 16\n"
	  "outb %al, $0x71\n"
	  "hlt\n");

struct ret_scene {
	u32 code;		/* offset in ret_code */
	bool from_user, to_user;
	bool fresh;		/* the accessed bits of the descriptors are clear */
	u64 frame[5];
};

static void put_rom(u64 gpa, u64 value)
{
	memcpy(rom + (gpa - ROM_GPA), &value, sizeof(value));
}

static void put_ret_tables(bool fresh)
{
	const u64 gdt[] = {
		0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff,
		(RET_TARGET & 0xffff) | RET_CS << 16 | 0xecull << 40, 0,
		0x67 | (RET_TSS & 0xffffff) << 16 | 0x8bull << 40 | RET_TSS >> 24 << 56, 0,
	};

	for (u32 i = 0; i < sizeof(gdt) / 8; i++)
		put_rom(RET_GDT + i * 8,
			gdt[i] & ~(fresh && i <= RET_USER_SS / 8 ? ACCESSED : 0));
	put_rom(RET_POINTER, (u64)RET_GATE << 32);
	put_rom(RET_TSS + 4, RAM_STACK);
}

static void run_ret_scene(const struct ret_scene *s)
{
	struct kvm_regs regs = {
		.rip = RET_CODE + s->code, .rsp = ROM_DATA, .rbx = RET_POINTER,
		.rflags = FLAGS,
	};
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu = rom_guest(&vm, take_interrupts, 0, PTE_ALL);
	struct kvm_run *run;

	vm_load(vm, RET_CODE, ret_code, ret_code_end);
	put_ret_tables(s->fresh);
	for (u32 i = 0; i < 5; i++)
		put_rom(ROM_DATA + i * 8, s->frame[i]);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.gdt.base = RET_GDT;
	sregs.gdt.limit = 9 * 8 - 1;
	sregs.tr = (struct kvm_segment){
		.base = RET_TSS, .limit = 0x67, .selector = RET_TR, .type = 11, .present = 1,
	};
	sregs.cs.selector = s->from_user ? RET_USER_CS : RET_CS;
	sregs.ss.selector = s->from_user ? RET_USER_SS : RET_SS;
	sregs.cs.dpl = sregs.ss.dpl = s->from_user ? 3 : 0;
	vcpu_set_sregs(vcpu, &sregs);
	if (s->code == 16)
		regs.rsp = AREA + 0x800;	/* a call writes to its stack */
	vcpu_set_regs(vcpu, &regs);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(TARGET_PORT, run->io.port);
	vcpu_get_regs(vcpu, &regs);
	vcpu_get_sregs(vcpu, &sregs);
	EXPECT_EQ(RET_TARGET, regs.rip & ~15ull);
	EXPECT_EQ(s->to_user ? RET_USER_CS : RET_CS, sregs.cs.selector);
	EXPECT_EQ(s->to_user ? 3 : 0, sregs.ss.dpl);
	if (s->code == 16)
		EXPECT_EQ(s->from_user ? RAM_STACK - 32 : AREA + 0x800 - 16, regs.rsp);
	else
		EXPECT_EQ(s->to_user || !s->code ? RAM_STACK : ROM_DATA + 16, regs.rsp);
}

TEST(iret_from_a_stack_in_rom)
{
	static const struct ret_scene same = {
		.frame = { RET_TARGET, RET_CS, FLAGS, RAM_STACK, RET_SS },
	}, outer = {
		.to_user = true,
		.frame = { RET_TARGET, RET_USER_CS, FLAGS, RAM_STACK, RET_USER_SS },
	};

	run_ret_scene(&same);
	run_ret_scene(&outer);
}

TEST(returns_through_descriptors_in_rom_that_are_not_accessed)
{
	static const struct ret_scene scenes[] = {
		{ .frame = { RET_TARGET, RET_CS, FLAGS, RAM_STACK, RET_SS } },
		{ .to_user = true,
		  .frame = { RET_TARGET, RET_USER_CS, FLAGS, RAM_STACK, RET_USER_SS } },
		{ .code = 8, .frame = { RET_TARGET, RET_CS } },
		{ .code = 8, .to_user = true,
		  .frame = { RET_TARGET, RET_USER_CS, RAM_STACK, RET_USER_SS } },
	};

	if (is_linux_kvm())
		SKIP("Linux KVM knows no return to an outer level");
	for (u32 i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		struct ret_scene s = scenes[i];

		ktap_about("scene %u", i);
		s.fresh = true;
		run_ret_scene(&s);
	}
}

TEST(far_returns_from_a_stack_in_rom)
{
	static const struct ret_scene same = {
		.code = 8,
		.frame = { RET_TARGET, RET_CS },
	}, outer = {
		.code = 8,
		.to_user = true,
		.frame = { RET_TARGET, RET_USER_CS, RAM_STACK, RET_USER_SS },
	};

	run_ret_scene(&same);
	run_ret_scene(&outer);
}

TEST(calls_through_a_gate_and_descriptors_in_rom_that_are_not_accessed)
{
	static const struct ret_scene same = { .code = 16, .fresh = true };
	static const struct ret_scene inner = { .code = 16, .from_user = true, .fresh = true };

	if (is_linux_kvm())
		SKIP("Linux KVM knows no call gates");
	run_ret_scene(&same);
	run_ret_scene(&inner);
}

TEST(calls_through_a_gate_in_rom)
{
	static const struct ret_scene same = { .code = 16 };
	static const struct ret_scene inner = { .code = 16, .from_user = true };

	run_ret_scene(&same);
	run_ret_scene(&inner);
}

#define TSS_IST1 36

static void deliver_by_tss(u64 over)
{
	u64 stack = (u64)guest_stacks[3];
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu = rom_guest(&vm, take_interrupts, 0, PTE_ALL);

	memcpy(guest_tss[0] + TSS_IST1, &stack, sizeof(stack));
	for (u32 vector = 0; vector < 256; vector++)
		guest_idt[vector * 2] |= 1ull << 32;
	vcpu_get_sregs(vcpu, &sregs);
	sregs.tr.base = put_table(guest_tss[0], sizeof(guest_tss[0]), over);
	deliver_all(vm, vcpu, &sregs);
}

TEST(a_tss_in_rom_is_read)
{
	deliver_by_tss(0);
}

TEST(a_stack_of_the_tss_may_lie_over_the_end_of_rom)
{
	deliver_by_tss(TSS_IST1 + 4);
}

static void soft_interrupt(u64 arg)
{
	(void)arg;
	asm volatile("int %0" :: "i"(VECTOR));
}

/* KVM_RUN ends with what the CPU said, and does so again when it is called again. */
static void expect_delivery_error(struct vcpu *vcpu, u32 type, u64 gpa)
{
	struct kvm_run *run = vcpu->run;

	for (u32 i = 0; i < 2; i++) {
		ASSERT_EQ(KVM_EXIT_INTERNAL_ERROR, vcpu_run(vcpu));
		ASSERT_EQ(KVM_INTERNAL_ERROR_DELIVERY_EV, run->internal.suberror);
		ASSERT_EQ(5, run->internal.ndata);
		EXPECT_EQ(1u << 31 | type << 8 | VECTOR, run->internal.data[0]);
		EXPECT_EQ(cpu_is_intel() ? 48 : 0x400, run->internal.data[1]);
		EXPECT_TRUE(run->internal.data[2]);
		EXPECT_EQ(gpa, run->internal.data[3]);
		EXPECT_LT(run->internal.data[4], 1024);
	}
}

#define EVENT_INTR 0
#define EVENT_SOFT 4

TEST(a_delivery_by_an_idt_that_is_nowhere_is_reported_with_its_address)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM's data depend on the vendor, and have the address since 6.14");
	vcpu = rom_guest(&vm, take_interrupts, 0, PTE_ALL);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.idt.base = MMIO_GPA;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_run_to_stage(vcpu, 1);
	vm_msi(vm, MSI_ADDR(0), VECTOR);
	expect_delivery_error(vcpu, EVENT_INTR, MMIO_GPA + VECTOR * 16);
	/* With a table it goes on from there. */
	guest_handlers[VECTOR + 1] = irq_count_only;
	vcpu_get_sregs(vcpu, &sregs);
	sregs.idt.base = (u64)guest_idt;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VECTOR]);
}

TEST(a_software_interrupt_by_an_idt_that_is_nowhere_is_reported_alike)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM's data depend on the vendor, and have the address since 6.14");
	vcpu = rom_guest(&vm, soft_interrupt, 0, PTE_ALL);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.idt.base = MMIO_GPA;
	vcpu_set_sregs(vcpu, &sregs);
	expect_delivery_error(vcpu, EVENT_SOFT, MMIO_GPA + VECTOR * 16);
}

TEST(a_delivery_whose_stack_is_nowhere_is_reported_with_its_address)
{
	struct kvm_regs regs;
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM's data depend on the vendor, and have the address since 6.14");
	vcpu = rom_guest(&vm, soft_interrupt, 0, PTE_ALL);
	vcpu_get_regs(vcpu, &regs);
	regs.rsp = MMIO_GPA + 0x100;
	vcpu_set_regs(vcpu, &regs);
	expect_delivery_error(vcpu, EVENT_SOFT, MMIO_GPA + 0x100 - 8);
}

/* The frame begins in RAM or in ROM, and ends where nothing is. */
TEST(a_delivery_that_is_reported_has_changed_no_register)
{
	static const u64 edge[] = { AREA, ROM_GPA };
	struct kvm_regs regs, after;
	struct kvm_sregs sregs, sregs_after;
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM's data depend on the vendor, and have the address since 6.14");
	for (u32 i = 0; i < 2; i++) {
		vcpu = rom_guest(&vm, soft_interrupt, 0, PTE_ALL);
		/* AREA alone, with nothing before it. */
		if (edge[i] == AREA)
			ASSERT_OK(vm_set_slot(vm, SLOT_ROM, 0, ROM_GPA, 0, NULL));
		vcpu_get_regs(vcpu, &regs);
		regs.rsp = edge[i] + 16;
		vcpu_set_regs(vcpu, &regs);
		vcpu_get_sregs(vcpu, &sregs);
		ASSERT_EQ(KVM_EXIT_INTERNAL_ERROR, vcpu_run(vcpu));
		EXPECT_EQ(KVM_INTERNAL_ERROR_DELIVERY_EV, vcpu->run->internal.suberror);
		vcpu_get_regs(vcpu, &after);
		vcpu_get_sregs(vcpu, &sregs_after);
		EXPECT_EQ(regs.rip, after.rip);
		EXPECT_EQ(regs.rsp, after.rsp);
		EXPECT_EQ(regs.rflags, after.rflags);
		EXPECT_EQ(sregs.cs.selector, sregs_after.cs.selector);
		EXPECT_EQ(sregs.ss.selector, sregs_after.ss.selector);
	}
}

static void masked_move(u64 arg)
{
	(void)arg;
	asm volatile("pcmpeqb %%mm0, %%mm0; maskmovq %%mm0, %%mm0" :: "D"(ROM_DATA + 0x200) : "memory");
}

/*
 * Nobody emulates it, so it is asked whether the CPU was at a descriptor: in 64 KiB up to the
 * last byte, and beyond.
 */
TEST(a_write_to_rom_ends_though_the_gdt_wraps_at_the_end_of_addresses)
{
	struct kvm_sregs sregs;
	struct vm *vm;
	struct vcpu *vcpu;

	for (u64 base = 0xffffffffffff0000; base; base += PAGE_SIZE * 5) {
		vcpu = rom_guest(&vm, masked_move, 0, PTE_ALL);
		vcpu_get_sregs(vcpu, &sregs);
		sregs.gdt.base = base;
		sregs.gdt.limit = 0xffff;
		vcpu_set_sregs(vcpu, &sregs);
		ASSERT_EQ(KVM_EXIT_INTERNAL_ERROR, vcpu_run(vcpu));
		EXPECT_EQ(KVM_INTERNAL_ERROR_EMULATION, vcpu->run->internal.suberror);
		if (base + PAGE_SIZE * 5 < base)
			break;
	}
}

/* --- Where no memory is --- */

static void walk_into_nothing(u64 arg)
{
	(void)arg;
	/* Ones: present, with reserved bits. */
	GUEST_EQ(VEC_PF, GUEST_TRY("movq (%1), %%rax", "=m"(answer) : "r"(AREA) : "rax"));
	GUEST_EQ(AREA, guest_caught.cr2);
	GUEST_EQ(PF_P | PF_RESERVED, guest_caught.error);
	GUEST_EQ(VEC_PF, GUEST_TRY("movq $1, (%1)", "=m"(answer) : "r"(AREA) : "rax"));
	GUEST_EQ(PF_P | PF_RESERVED | PF_W, guest_caught.error);
	at(pd_gpa)[AREA >> 21] = AREA | PTE_ALL | PTE_PS;
	at(AREA)[0] = 3;
	GUEST_EQ(3, at(AREA)[0]);
}

TEST(a_page_table_where_no_memory_is_reads_as_ones)
{
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("on Linux KVM such an entry is not present, or the VM ends");
	vcpu = rom_guest(&vm, walk_into_nothing, 0, PTE_ALL);
	ram.pd[AREA >> 30][AREA >> 21 & 511] = MMIO_GPA | PTE_ALL;
	vcpu_run_to_done(vcpu);
}

static void load_bad_cr3(u64 arg)
{
	write_cr3(arg);
	stage(1);
}

TEST(page_tables_that_are_nowhere_are_a_triple_fault)
{
	struct kvm_regs regs;
	struct vm *vm;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("on Linux KVM it depends on the instruction how such a VM ends");
	vcpu = rom_guest(&vm, load_bad_cr3, 0, PTE_ALL);
	vcpu_get_regs(vcpu, &regs);
	regs.rdi = MMIO_GPA;
	vcpu_set_regs(vcpu, &regs);
	vcpu_run_to_exit(vcpu, KVM_EXIT_SHUTDOWN);
}
