// SPDX-License-Identifier: GPL-2.0
/*
 * Task switches: by far JMP and CALL, task gates, and IRET. Intel's CPUs leave
 * them to software, AMD's do them unless a TSS is in read-only memory; then
 * what a switch writes there is lost.
 *
 * State: struct machine, one guest at a time. Task A is the one that runs
 * first, B the one that it switches to.
 * Read next: delivery.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

#define TOUCH 0x9000u			/* where A begins */
#define CODE (TOUCH + 12)		/* its instruction that is tested */
#define HANDLERS 0xa000u		/* of 16 bytes each */
#define IDT 0xc000u
#define STACK 0xf000u
#define DIRECTORY_A 0x10000u		/* page directories of 4 MiB pages */
#define DIRECTORY_B 0x11000u
#define LOW_SIZE 0x40000u
#define TASKS 0x50000u
#define TSS_A TASKS
#define TSS_B (TASKS + 0x800)
#define GDT 0x60000u
#define NOWHERE 0x70000u

enum { SLOT_TASKS = SLOT_TEST, SLOT_GDT };
enum { ROM_TASKS = 1, ROM_GDT = 2 };

#define PORT_HANDLER 0x70
#define VECTOR 0x60
#define VEC_NP 11
#define RFLAGS_CF 1u
#define RFLAGS_NT (1u << 14)
#define CR0_TS (1u << 3)
#define EIP_B (HANDLERS + 0xff0)	/* of a vector that nothing uses */

enum {
	CODE32 = 0x08,
	DATA = 0x10,
	SEL_A = 0x18,
	SEL_B = 0x20,
	GATE = 0x28,
	SEL_LDT = 0x30,
	ABSENT = 0x38,
	GDT_SIZE = 0x40,
};

#define BUSY (2ull << 40)
#define TSS_DESCRIPTOR(base, type, limit) \
	(0x0000800000000000ull | (u64)(type) << 40 | (limit) | (u64)(base) << 16)

enum how { JMP, CALL, BY_GATE, INT_N, FAULT, NMI, IRET };

struct scene {
	enum how how;
	bool narrow;		/* B's TSS has 16 bits */
	bool paging;
	u16 b_ldt, b_ds;	/* b_ds: 0: what is right */
	bool b_absent, b_busy, b_nowhere;
	bool b_trap;		/* the T bit */
	u8 vector;		/* the handler that starts, 0: B */
	u32 error;		/* on its stack */
};

struct machine {
	struct vm *vm;
	struct vcpu *vcpu;
	u8 *tasks;
	u64 *gdt;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	u32 exit;
};

/* Register values of B in the order of a TSS; rSP is replaced. */
static const u32 b_regs[8] = { 0xb0, 0xb1, 0xb2, 0xb3, STACK - 0x800, 0xb5, 0xb6, 0xb7 };

static void put_tasks(struct machine *m, const struct scene *s)
{
	u32 *a = (u32 *)m->tasks, *b = (u32 *)(m->tasks + (TSS_B - TASKS));
	u16 *narrow = (u16 *)b;

	memset(m->tasks, 0, PAGE_SIZE);
	a[0] = SEL_B;
	if (s->narrow) {
		narrow[7] = EIP_B;
		narrow[8] = RFLAGS_FIXED | RFLAGS_CF;
		for (u32 i = 0; i < 8; i++)
			narrow[9 + i] = b_regs[i];
		narrow[17] = narrow[20] = DATA;
		narrow[18] = CODE32;
		narrow[19] = DATA;
		narrow[21] = s->b_ldt;
		return;
	}
	b[7] = DIRECTORY_B;
	b[8] = EIP_B;
	b[9] = RFLAGS_FIXED | RFLAGS_CF;
	memcpy(b + 10, b_regs, sizeof(b_regs));
	b[18] = b[22] = b[23] = DATA;
	b[21] = s->b_ds ?: DATA;
	b[19] = CODE32;
	b[20] = DATA;
	b[24] = s->b_ldt;
	b[25] = s->b_trap;
}

static void put_gdt(struct machine *m, const struct scene *s)
{
	u32 b = s->b_nowhere ? NOWHERE : TSS_B;

	m->gdt[CODE32 / 8] = 0x00cf9b000000ffff;
	m->gdt[DATA / 8] = 0x00cf93000000ffff;
	m->gdt[SEL_A / 8] = TSS_DESCRIPTOR(TSS_A, 11, 103);
	m->gdt[SEL_B / 8] = TSS_DESCRIPTOR(b, s->narrow ? 1 : 9, 103);
	if (s->b_absent)
		m->gdt[SEL_B / 8] &= ~0x0000800000000000ull;
	if (s->b_busy || s->how == IRET)
		m->gdt[SEL_B / 8] |= BUSY;
	m->gdt[GATE / 8] = 0x0000850000000000ull | SEL_B << 16;
	m->gdt[SEL_LDT / 8] = TSS_DESCRIPTOR(0x12000, 2, 0xff);
	m->gdt[ABSENT / 8] = 0x00cf13000000ffff;
}

static void put_idt(struct machine *m, const struct scene *s)
{
	static const u8 handler[] = { 0xe6, PORT_HANDLER, 0xeb, 0xfe };
	u8 task = 0xff;

	if (s->how == INT_N)
		task = VECTOR;
	else if (s->how == NMI)
		task = VEC_NMI;
	else if (s->how == FAULT)
		task = VEC_GP;
	for (u64 vector = 0; vector < 256; vector++) {
		u64 entry = HANDLERS + vector * 16;
		u64 gate = vector == task ? m->gdt[GATE / 8] :
					    entry | CODE32 << 16 | 0x8e00ull << 32;

		memcpy(m->vm->low + entry, handler, sizeof(handler));
		memcpy(m->vm->low + IDT + vector * 8, &gate, 8);
	}
}

/*
 * First PUSH and POP of a word of B's page directory, so that all that TCG needs is mapped: of a
 * second-level fault within a switch it does the first half twice.
 */
static void put_code(struct machine *m, const struct scene *s)
{
	static const u8 touch[] = {
		0xff, 0x35, 0xfc, 0x1f, 0x01, 0,
		0x8f, 0x05, 0xfc, 0x1f, 0x01, 0,
	};
	static const u8 code[][8] = {
		[JMP] = { 0xea, 0, 0, 0, 0, SEL_B, 0 }, [CALL] = { 0x9a, 0, 0, 0, 0, SEL_B, 0 },
		[BY_GATE] = { 0xea, 0, 0, 0, 0, GATE, 0 }, [INT_N] = { 0xcd, VECTOR },
		[FAULT] = { 0x8e, 0xd8 }, [NMI] = { 0xeb, 0xfe }, [IRET] = { 0xcf },
	};

	memcpy(m->vm->low + TOUCH, touch, sizeof(touch));
	memcpy(m->vm->low + CODE, code[s->how], 8);
}

static void set_registers(struct machine *m, const struct scene *s)
{
	struct kvm_sregs *sregs = &m->sregs;

	for (u32 i = 0; i < 1024; i++)
		((u32 *)(m->vm->low + DIRECTORY_A))[i] = ((u32 *)(m->vm->low + DIRECTORY_B))[i] =
			i << 22 | 0xe3;
	vcpu_get_sregs(m->vcpu, sregs);
	sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | (s->paging ? CR0_PG : 0);
	sregs->cr3 = DIRECTORY_A;
	sregs->cr4 = CR4_PSE;
	sregs->efer = 0;
	sregs->cs = flat_segment(CODE32, 11, false);
	sregs->ss = sregs->ds = sregs->es = sregs->fs = sregs->gs = flat_segment(DATA, 3, false);
	sregs->gdt.base = GDT;
	sregs->gdt.limit = GDT_SIZE - 1;
	sregs->idt.base = IDT;
	sregs->idt.limit = 0x7ff;
	sregs->tr = (struct kvm_segment){
		.base = TSS_A, .limit = 103, .selector = SEL_A, .type = 11, .present = 1,
	};
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	vcpu_set_sregs(m->vcpu, sregs);
	m->regs = (struct kvm_regs){
		.rax = 0xa0,
		.rcx = 0xa1,
		.rdx = 0xa2,
		.rbx = 0xa3,
		.rsp = STACK,
		.rbp = 0xa5,
		.rsi = 0xa6,
		.rdi = 0xa7,
		.rip = s->how == NMI ? CODE : TOUCH,
		.rflags = RFLAGS_FIXED | (s->how == IRET ? RFLAGS_NT : 0),
	};
	vcpu_set_regs(m->vcpu, &m->regs);
}

static struct machine observe(const struct scene *s, u32 rom)
{
	struct machine m = { .vm = vm_create(0) };

	m.vcpu = vcpu_add(m.vm, NULL, 0);
	ASSERT_OK(vm_set_slot(m.vm, SLOT_LOW, 0, 0, 0, NULL));
	ASSERT_OK(vm_set_slot(m.vm, SLOT_LOW, 0, 0, LOW_SIZE, m.vm->low));
	m.tasks = vm_add_memory(m.vm, SLOT_TASKS, rom & ROM_TASKS ? KVM_MEM_READONLY : 0, TASKS,
				PAGE_SIZE);
	m.gdt = vm_add_memory(m.vm, SLOT_GDT, rom & ROM_GDT ? KVM_MEM_READONLY : 0, GDT, PAGE_SIZE);
	put_tasks(&m, s);
	put_gdt(&m, s);
	put_idt(&m, s);
	put_code(&m, s);
	set_registers(&m, s);
	if (s->how == NMI)
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_NMI, 0));
	m.exit = vcpu_run(m.vcpu);
	vcpu_get_regs(m.vcpu, &m.regs);
	vcpu_get_sregs(m.vcpu, &m.sregs);
	return m;
}

static u32 stack_top(const struct machine *m)
{
	return *(u32 *)(m->vm->low + (u32)m->regs.rsp);
}

/* What B finds, whatever memory the tasks are in. */
static void expect_task_b(const struct machine *m, const struct scene *s)
{
	bool nested = s->how != JMP && s->how != BY_GATE && s->how != IRET;
	const u64 *r = (const u64 *)&m->regs;	/* RAX RBX RCX RDX RSI RDI RSP RBP */
	static const u8 order[] = { 0, 3, 1, 2, 6, 7, 4, 5 };
	u32 width = s->narrow ? 2 : 4;

	EXPECT_EQ(SEL_B, m->sregs.tr.selector);
	EXPECT_EQ(TSS_B, m->sregs.tr.base);
	EXPECT_EQ(s->narrow ? 3 : 11, m->sregs.tr.type);
	EXPECT_EQ(CR0_TS, m->sregs.cr0 & CR0_TS);
	EXPECT_EQ(s->paging && !s->narrow ? DIRECTORY_B : DIRECTORY_A, m->sregs.cr3);
	if (s->vector)
		return;
	EXPECT_EQ(RFLAGS_FIXED | RFLAGS_CF | (nested ? RFLAGS_NT : 0), m->regs.rflags);
	for (u32 i = 0; i < 8; i++)
		EXPECT_EQ(b_regs[order[i]] - (i == 6 && s->how == FAULT ? width : 0),
			  r[i] & (s->narrow ? 0xffff : ~0ull));
	EXPECT_EQ(CODE32, m->sregs.cs.selector);
	EXPECT_EQ(DATA, m->sregs.ss.selector);
	EXPECT_EQ(DATA, m->sregs.ds.selector);
	EXPECT_EQ(s->narrow ? 0 : DATA, m->sregs.gs.selector);
	EXPECT_EQ(s->b_ldt, m->sregs.ldt.selector);
}

/* What A's and B's TSSs and descriptors have in RAM. */
static void expect_saved(const struct machine *m, const struct scene *s)
{
	static const u8 length[] = {
		[JMP] = 7, [CALL] = 7, [BY_GATE] = 7, [INT_N] = 2, [IRET] = 1, [NMI] = 0
	};
	bool nested = s->how != JMP && s->how != BY_GATE && s->how != IRET;
	const u32 *a = (const u32 *)m->tasks;

	EXPECT_EQ(CODE + length[s->how], a[8]);
	EXPECT_EQ(RFLAGS_FIXED, a[9] & ~(1u << 16));
	for (u32 i = 0; i < 8; i++)
		EXPECT_EQ(i == 4 ? STACK : 0xa0 + i, a[10 + i]);
	EXPECT_EQ(DATA, a[18]);
	EXPECT_EQ(CODE32, a[19]);
	EXPECT_EQ(nested ? SEL_A : 0, *(u16 *)(m->tasks + (TSS_B - TASKS)));
	EXPECT_EQ(nested ? BUSY : 0, m->gdt[SEL_A / 8] & BUSY);
	EXPECT_EQ(BUSY, m->gdt[SEL_B / 8] & BUSY);
}

static void run_scene(const struct scene *s)
{
	u8 before[PAGE_SIZE];
	struct machine m;

	NEED_CAP(KVM_CAP_READONLY_MEM);
	for (u32 rom = 0; rom < 4; rom++) {
		if (rom && is_linux_kvm())
			SKIP("on Linux KVM a task switch by way of ROM ends the VM or writes there");
		ktap_about("read-only parts 0x%x", rom);
		m = observe(s, rom);
		ASSERT_EQ(KVM_EXIT_IO, m.exit);
		ASSERT_EQ(s->vector ? HANDLERS + s->vector * 16u : EIP_B, m.regs.rip & ~15ull);
		expect_task_b(&m, s);
		if (s->vector || s->how == FAULT)
			EXPECT_EQ(s->error, stack_top(&m) & (s->narrow ? 0xffff : ~0u));
		if (!rom) {
			expect_saved(&m, s);
			continue;
		}
		if (rom & ROM_TASKS) {
			memcpy(before, m.tasks, PAGE_SIZE);
			put_tasks(&m, s);
			EXPECT_EQ(0, memcmp(before, m.tasks, PAGE_SIZE));
		}
		if (rom & ROM_GDT)
			EXPECT_EQ(s->how == IRET ? BUSY : 0, m.gdt[SEL_B / 8] & BUSY);
	}
}

#define SCENE(name, ...)						\
	TEST(name)							\
	{								\
		static const struct scene scene = { __VA_ARGS__ };	\
		run_scene(&scene);					\
	}

SCENE(a_far_jump_switches_tasks, .how = JMP)
SCENE(a_far_call_switches_tasks, .how = CALL)
SCENE(a_far_jump_to_a_task_gate, .how = BY_GATE)
SCENE(int_n_through_a_task_gate, .how = INT_N)
SCENE(an_nmi_through_a_task_gate, .how = NMI)
SCENE(an_exception_pushes_its_error_code_onto_the_new_stack, .how = FAULT, .error = 0xa0)
SCENE(iret_returns_to_the_task_that_the_back_link_names, .how = IRET)
SCENE(a_task_switch_changes_page_tables, .how = JMP, .paging = true)
SCENE(a_task_may_have_a_16_bit_tss, .how = CALL, .narrow = true)
SCENE(a_16_bit_task_takes_an_error_code, .how = FAULT, .narrow = true, .error = 0xa0)
SCENE(a_task_may_have_an_ldt, .how = JMP, .b_ldt = SEL_LDT)

/* --- Faults of the new task --- */

SCENE(a_segment_that_is_absent_is_a_fault_of_the_new_task, .how = JMP, .b_ds = ABSENT,
      .vector = VEC_NP, .error = ABSENT)

/* --- The T bit --- */

#define DR6_BT (1u << 15)

static struct machine observe_trap(const struct scene *s, u32 rom, u64 *dr6)
{
	struct kvm_debugregs dr;
	struct machine m;

	if (is_linux_kvm())
		SKIP("Linux KVM ignores the T bit of a TSS");
	m = observe(s, rom);
	ASSERT_EQ(KVM_EXIT_IO, m.exit);
	EXPECT_EQ(HANDLERS + s->vector * 16u, m.regs.rip & ~15ull);
	EXPECT_EQ(SEL_B, m.sregs.tr.selector);
	ASSERT_OK(ioctl(m.vcpu->fd, KVM_GET_DEBUGREGS, &dr));
	*dr6 = dr.dr6;
	return m;
}

/* TCG's own task switches ignore the bit; those by way of ROM are not its own. */
TEST(the_t_bit_traps_before_the_new_tasks_first_instruction)
{
	static const struct scene s = { .how = JMP, .b_trap = true, .vector = VEC_DB };
	struct machine m;
	u64 dr6;

	for (u32 rom = cpu_is_tcg() ? ROM_TASKS : 0; rom < 4; rom++) {
		m = observe_trap(&s, rom, &dr6);
		EXPECT_EQ(DR6_BT, dr6 & DR6_BT);
		EXPECT_EQ(b_regs[4] - 12, m.regs.rsp);
		EXPECT_EQ(EIP_B, stack_top(&m));
	}
}

TEST(the_t_bit_does_not_trap_beside_a_fault_of_the_new_task)
{
	static const struct scene scenes[] = {
		{ .how = JMP, .b_trap = true, .b_ds = ABSENT, .vector = VEC_NP },
		{ .how = INT_N, .b_trap = true, .b_ds = ABSENT, .vector = VEC_NP },
	};
	struct machine m;
	u64 dr6;

	for (u32 i = 0; i < 2; i++) {
		for (u32 rom = cpu_is_tcg() ? ROM_TASKS : 0; rom < 4; rom++) {
			ktap_about("scene %u, read-only parts 0x%x", i, rom);
			m = observe_trap(&scenes[i], rom, &dr6);
			EXPECT_EQ(0, dr6 & DR6_BT);
			EXPECT_EQ(b_regs[4] - 16, m.regs.rsp);
			EXPECT_EQ(ABSENT, stack_top(&m));
		}
	}
}

/* --- Faults of the old task --- */

static void expect_old_fault(const struct scene *s)
{
	struct machine m = observe(s, 0);

	ASSERT_EQ(KVM_EXIT_IO, m.exit);
	ASSERT_EQ(HANDLERS + s->vector * 16u, m.regs.rip & ~15ull);
	EXPECT_EQ(SEL_A, m.sregs.tr.selector);
	EXPECT_EQ(0, m.sregs.cr0 & CR0_TS);
	EXPECT_EQ(STACK - 16, m.regs.rsp);
	EXPECT_EQ(s->error, stack_top(&m));
	EXPECT_EQ(CODE, *(u32 *)(m.vm->low + STACK - 12));
	EXPECT_EQ(0, *(u32 *)(m.tasks + 32));
}

TEST(a_jump_to_a_task_that_is_absent_is_a_fault_of_the_old_one)
{
	static const struct scene s = {
		.how = JMP, .b_absent = true, .vector = VEC_NP, .error = SEL_B
	};

	expect_old_fault(&s);
}

TEST(a_jump_to_a_task_that_is_busy_is_a_fault_of_the_old_one)
{
	static const struct scene s = {
		.how = JMP, .b_busy = true, .vector = VEC_GP, .error = SEL_B
	};

	expect_old_fault(&s);
}

/* --- Where nothing is --- */

TEST(a_task_whose_tss_is_nowhere_is_an_internal_error)
{
	static const struct scene jump = { .how = JMP, .b_nowhere = true },
				  fault = { .how = INT_N, .b_nowhere = true };
	struct machine m;

	if (is_linux_kvm())
		SKIP("Linux KVM asks devices for a TSS");
	m = observe(&jump, 0);
	ASSERT_EQ(KVM_EXIT_INTERNAL_ERROR, m.exit);
	EXPECT_EQ(KVM_INTERNAL_ERROR_EMULATION, m.vcpu->run->internal.suberror);
	EXPECT_EQ(CODE, m.regs.rip);
	EXPECT_EQ(SEL_A, m.sregs.tr.selector);
	m = observe(&fault, 0);
	ASSERT_EQ(KVM_EXIT_INTERNAL_ERROR, m.exit);
	EXPECT_EQ(CODE, m.regs.rip);
	EXPECT_EQ(SEL_A, m.sregs.tr.selector);
}
