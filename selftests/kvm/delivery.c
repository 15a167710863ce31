// SPDX-License-Identifier: GPL-2.0
/*
 * Events whose delivery writes to read-only memory: the handler's stack, and
 * descriptors whose accessed bits the CPU sets. Such writes are lost, and the
 * handler starts. Each scene runs with all of its memory writable, which is
 * the CPU's own delivery, and with parts of it read-only: registers, segments
 * and what of the stack is writable must be the same.
 *
 * State: struct machine, one guest at a time; its memory map is below.
 * Read next: rom.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

/* Guest-physical addresses. All is below 1 MiB, within reach of real mode. */
#define CODE 0x9000u
#define HANDLERS 0xa000u		/* of 16 bytes each */
#define IDT 0xc000u
#define TSS 0xe000u
#define LOW_SIZE 0x40000u
#define LOWER 0x50000u			/* two slots that meet in the middle of stacks */
#define UPPER 0x58000u
#define HALF 0x8000u
#define GDT 0x60000u
#define OUTER_STACK (LOWER + 0x7000)

enum { SLOT_LOWER = SLOT_TEST, SLOT_UPPER, SLOT_GDT };
enum { ROM_LOWER = 1, ROM_UPPER = 2, ROM_GDT = 4 };
static const u32 parts[] = { ROM_LOWER, ROM_UPPER, ROM_GDT, ROM_LOWER | ROM_UPPER | ROM_GDT };

#define PORT_HANDLER 0x70
#define VECTOR 0x60
#define VEC_OF 4
#define VEC_TS 10
#define VEC_SS 12
#define RFLAGS_OF (1u << 11)
#define RFLAGS_IOPL3 (3u << 12)
#define RFLAGS_NT (1u << 14)
#define RFLAGS_VM (1u << 17)
#define RFLAGS_VIF (1u << 19)
#define FILL 0x5a
#define TSS_SIZE 169u		/* with a bitmap of INTs, and one of ports up to 255 */
#define CR4_VME 1u

/* None of the descriptors says "accessed". */
enum {
	CODE32 = 0x08,
	DATA = 0x10,
	USER_CODE = 0x1b,
	USER_DATA = 0x23,
	CODE64 = 0x28,
	CODE16 = 0x30,
	DATA16 = 0x38,
	CONFORMING = 0x40,
	ABSENT_DATA = 0x48,
	SMALL_DATA = 0x50,
	GDT_SIZE = 0x58,
};
static const u64 gdt_entries[GDT_SIZE / 8] = {
	[CODE32 / 8] = 0x00cf9a000000ffff, [DATA / 8] = 0x00cf92000000ffff,
	[USER_CODE / 8] = 0x00cffa000000ffff, [USER_DATA / 8] = 0x00cff2000000ffff,
	[CODE64 / 8] = 0x00af9a000000ffff, [CODE16 / 8] = 0x00009a000000ffff,
	[DATA16 / 8] = 0x000092050000ffff, [CONFORMING / 8] = 0x00cf9e000000ffff,
	[ABSENT_DATA / 8] = 0x00cf12000000ffff, [SMALL_DATA / 8] = 0x0040920000000fff,
};

enum mode { REAL, PROTECTED, VM86, LONG, COMPATIBILITY };
enum event { BY_CODE, BY_INTERRUPT, BY_NMI };
enum { GATE_INT16 = 6, GATE_TRAP16 = 7, GATE_INT = 14, GATE_TRAP = 15 };

struct scene {
	enum mode mode;
	bool user;		/* CPL 3 */
	bool data16;		/* the stack's segment is of 16 bits */
	u8 gate;
	u16 handler_cs;
	u16 fault_cs;		/* of the handlers for exceptions, if another */
	u8 ist;
	bool tss16;
	u16 ss0;
	enum event event;
	u8 code[4];
	u8 vector;		/* the handler that starts */
	u64 rflags;
	bool vme, redirected;	/* CR4.VME; the TSS's bitmap sends INT n to virtual-8086 mode */
	bool low_iopl;
};

struct machine {
	struct vm *vm;
	struct vcpu *vcpu;
	u8 *lower, *upper, *gdt;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	u32 exit;
};

static void put_gate(struct machine *m, const struct scene *s, u32 vector)
{
	bool is_long = s->mode == LONG || s->mode == COMPATIBILITY;
	u8 *at = m->vm->low + IDT + vector * (is_long ? 16 : 8);
	u32 entry = HANDLERS + vector * 16;
	u64 cs = s->fault_cs && vector < 32 && vector != VEC_DF ? s->fault_cs : s->handler_cs;
	u64 gate = entry | cs << 16 | (u64)(0xe000 | s->gate << 8 | s->ist) << 32;

	if (s->redirected) {
		entry = vector * 16 | HANDLERS >> 4 << 16;
		memcpy(m->vm->low + vector * 4, &entry, 4);
		entry = HANDLERS + vector * 16;
	}
	if (s->mode == REAL) {
		entry = vector * 16 | HANDLERS >> 4 << 16;
		memcpy(m->vm->low + IDT + vector * 4, &entry, 4);
		return;
	}
	memcpy(at, &gate, 8);
	if (is_long)
		memset(at + 8, 0, 8);
}

static void put_tss(struct machine *m, const struct scene *s, u64 top)
{
	u8 *tss = m->vm->low + TSS;
	u32 sp = (s->ss0 & ~7) == DATA16 ? top - LOWER : top;
	u16 io_map = 136;

	memset(tss, 0, TSS_SIZE);
	memcpy(tss + 102, &io_map, 2);
	memset(tss + 104, s->redirected ? 0 : 0xff, 32);
	tss[TSS_SIZE - 1] = 0xff;
	if (s->mode == LONG || s->mode == COMPATIBILITY) {
		memcpy(tss + 4, &top, 8);
		memcpy(tss + 36, &top, 8);
	} else if (s->tss16) {
		memcpy(tss + 2, &sp, 2);
		memcpy(tss + 4, &s->ss0, 2);
	} else {
		memcpy(tss + 4, &sp, 4);
		memcpy(tss + 8, &s->ss0, 2);
	}
}

static struct kvm_segment segment(u16 selector)
{
	u64 d = gdt_entries[selector / 8];
	struct kvm_segment s = {
		.selector = selector,
		.base = d >> 16 & 0xffffff,
		.limit = (d & 0xffff) | (d >> 32 & 0xf0000),
		.type = (d >> 40 & 15) | 1,
		.s = 1,
		.dpl = d >> 45 & 3,
		.present = 1,
		.l = d >> 53 & 1,
		.db = d >> 54 & 1,
		.g = d >> 55 & 1,
	};

	if (s.g)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

static struct kvm_segment real_segment(u16 selector, u8 dpl)
{
	return (struct kvm_segment){
		.selector = selector,
		.base = selector * 16,
		.limit = 0xffff,
		.type = 3,
		.s = 1,
		.dpl = dpl,
		.present = 1,
	};
}

static void set_segments(struct kvm_sregs *sregs, const struct scene *s)
{
	u16 code = s->mode == LONG && !s->user ? CODE64 : CODE32;

	if (s->mode == REAL || s->mode == VM86) {
		sregs->cs = sregs->ds = sregs->es = sregs->fs = sregs->gs =
			real_segment(0, s->mode == VM86 ? 3 : 0);
		sregs->ss = real_segment(LOWER >> 4, s->mode == VM86 ? 3 : 0);
		return;
	}
	sregs->cs = segment(s->user ? USER_CODE : code);
	if (s->mode == LONG && s->user) {
		sregs->cs.l = 1;
		sregs->cs.db = 0;
	}
	sregs->ss = sregs->ds = sregs->es = sregs->fs = sregs->gs =
		segment(s->user ? USER_DATA : DATA);
	if (s->data16)
		sregs->ss = segment(DATA16);
}

static void set_registers(struct machine *m, const struct scene *s, u64 top)
{
	bool is_long = s->mode == LONG || s->mode == COMPATIBILITY;
	bool lower = s->mode == REAL || s->mode == VM86 || s->data16;
	struct kvm_sregs *sregs = &m->sregs;

	vcpu_get_sregs(m->vcpu, sregs);
	if (!is_long) {
		sregs->cr0 = s->mode == REAL ? CR0_ET | CR0_NE : CR0_PE | CR0_ET | CR0_NE;
		sregs->cr4 = s->vme ? CR4_VME : 0;
		sregs->efer = 0;
	}
	set_segments(sregs, s);
	sregs->gdt.base = GDT;
	sregs->gdt.limit = GDT_SIZE - 1;
	sregs->idt.base = IDT;
	sregs->idt.limit = 0xfff;
	/* TCG ends itself where a delivery finds a TSS that is busy. */
	sregs->tr = (struct kvm_segment){
		.base = TSS, .limit = s->vme ? TSS_SIZE - 1 : 103, .selector = 8, .present = 1,
		.type = (s->tss16 ? 1 : 9) | (cpu_is_tcg() ? 0 : 2),
	};
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	vcpu_set_sregs(m->vcpu, sregs);
	if (s->user || s->mode == VM86)
		top = OUTER_STACK;
	m->regs = (struct kvm_regs){
		.rax = 0x1111,
		.rbx = 0x2222,
		.rcx = 0x3333,
		.rdx = 0x4444,
		.rsi = 0x5555,
		.rdi = 0x6666,
		.rbp = 0x7777,
		.rip = CODE,
		.rsp = lower ? top - LOWER : top,
		.rflags = RFLAGS_FIXED | (s->low_iopl ? 0 : RFLAGS_IOPL3) | s->rflags |
			  (s->mode == VM86 ? RFLAGS_VM : 0),
	};
	vcpu_set_regs(m->vcpu, &m->regs);
}

/* Runs the scene until a handler's first instruction. */
static struct machine observe(const struct scene *s, u32 rom, u64 top)
{
	static const u8 handler[] = { 0xe6, PORT_HANDLER, 0xeb, 0xfe };
	struct kvm_interrupt interrupt = { VECTOR };
	struct machine m = { .vm = vm_create(0) };

	m.vcpu = vcpu_add(m.vm, NULL, 0);
	ASSERT_OK(vm_set_slot(m.vm, SLOT_LOW, 0, 0, 0, NULL));
	ASSERT_OK(vm_set_slot(m.vm, SLOT_LOW, 0, 0, LOW_SIZE, m.vm->low));
	m.lower = vm_add_memory(m.vm, SLOT_LOWER, rom & ROM_LOWER ? KVM_MEM_READONLY : 0, LOWER,
				HALF);
	m.upper = vm_add_memory(m.vm, SLOT_UPPER, rom & ROM_UPPER ? KVM_MEM_READONLY : 0, UPPER,
				HALF);
	m.gdt = vm_add_memory(m.vm, SLOT_GDT, rom & ROM_GDT ? KVM_MEM_READONLY : 0, GDT, PAGE_SIZE);
	memset(m.lower, FILL, HALF);
	memset(m.upper, FILL, HALF);
	memcpy(m.gdt, gdt_entries, sizeof(gdt_entries));
	for (u32 vector = 0; vector < 256; vector++) {
		memcpy(m.vm->low + HANDLERS + vector * 16, handler, sizeof(handler));
		put_gate(&m, s, vector);
	}
	put_tss(&m, s, top);
	memcpy(m.vm->low + CODE, s->code, sizeof(s->code));
	set_registers(&m, s, top);
	if (s->event == BY_INTERRUPT)
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_INTERRUPT, &interrupt));
	if (s->event == BY_NMI)
		ASSERT_OK(ioctl(m.vcpu->fd, KVM_NMI, 0));
	m.exit = vcpu_run(m.vcpu);
	vcpu_get_regs(m.vcpu, &m.regs);
	vcpu_get_sregs(m.vcpu, &m.sregs);
	return m;
}

/* TCG's own deliveries set no accessed bits. Of a null selector nothing else counts. */
static void expect_like_segment(const char *name, const struct kvm_segment *a,
				const struct kvm_segment *b)
{
	struct kvm_segment wanted = *a, seen = *b;

	EXPECT_EQ(a->unusable, b->unusable);
	EXPECT_EQ(a->selector, b->selector);
	if (a->unusable)
		return;
	wanted.type |= a->s && cpu_is_tcg();
	seen.type |= b->s && cpu_is_tcg();
	expect_same_segment(name, &wanted, &seen);
}

static void expect_same_table(const struct machine *ram, const struct machine *m)
{
	u64 mask = cpu_is_tcg() ? ~(1ull << 40) : ~0ull;

	for (u32 i = 0; i < GDT_SIZE / 8; i++)
		EXPECT_EQ(((u64 *)ram->gdt)[i] & mask, ((u64 *)m->gdt)[i] & mask);
}

static void expect_same_state(const struct machine *a, const struct machine *b)
{
	static const char *const names[] = { "CS", "DS", "ES", "FS", "GS", "SS", "TR" };
	const struct kvm_segment *sa = &a->sregs.cs, *sb = &b->sregs.cs;
	const u64 *ra = (const u64 *)&a->regs, *rb = (const u64 *)&b->regs;

	ASSERT_EQ(a->exit, b->exit);
	EXPECT_EQ(a->regs.rip, b->regs.rip);
	EXPECT_EQ(a->regs.rsp, b->regs.rsp);
	EXPECT_EQ(a->regs.rflags, b->regs.rflags);
	for (u32 i = 0; i < sizeof(a->regs) / 8; i++)
		EXPECT_EQ(ra[i], rb[i]);
	for (u32 i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		expect_like_segment(names[i], sa + i, sb + i);
	EXPECT_EQ(a->sregs.cr0, b->sregs.cr0);
	EXPECT_EQ(a->sregs.cr2, b->sregs.cr2);
}

static void expect_filled(const u8 *half)
{
	for (u32 i = 0; i < HALF; i++)
		ASSERT_EQ(FILL, half[i]);
}

/* Tells the first byte that differs, of two halves. */
static void expect_same_half(const u8 *want, const u8 *seen)
{
	for (u32 i = 0; i < HALF; i++) {
		if (want[i] != seen[i])
			ktap_note("byte 0x%x differs", i);
		ASSERT_EQ(want[i], seen[i]);
	}
}

static void expect_same_memory(const struct machine *ram, const struct machine *m, u32 rom)
{
	if (rom & ROM_LOWER)
		expect_filled(m->lower);
	else
		expect_same_half(ram->lower, m->lower);
	if (rom & ROM_UPPER)
		expect_filled(m->upper);
	else
		expect_same_half(ram->upper, m->upper);
	if (rom & ROM_GDT)
		EXPECT_EQ(0, memcmp(gdt_entries, m->gdt, sizeof(gdt_entries)));
	else
		expect_same_table(ram, m);
}

/* The frame begins at the edge of the two slots, or so many bytes beyond it. */
static const u32 beyond[] = { 0, 4, 12 };

static void compare(const struct scene *s)
{
	bool tcg_lacks = s->ss0 == ABSENT_DATA || s->ss0 == SMALL_DATA ||
			 (s->event == BY_NMI && s->mode == PROTECTED);
	u64 start = s->mode == REAL || s->redirected ? 0 : HANDLERS;
	struct machine ram, m;

	if (is_linux_kvm())
		SKIP("on Linux KVM such a delivery ends the VM with an internal error");
	if (tcg_lacks && cpu_is_tcg())
		SKIP("TCG sets RF for an NMI, has #TS for an inner stack that is absent, and checks no limit");
	if (s->vme && cpu_is_tcg())
		SKIP("TCG has no virtual-8086 mode extensions (CR4.VME)");
	NEED_CAP(KVM_CAP_READONLY_MEM);
	for (u32 i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		if (cpu_is_bochs() && beyond[i] != 4)	/* which is slow */
			continue;
		ram = observe(s, 0, UPPER + beyond[i]);
		ASSERT_EQ(KVM_EXIT_IO, ram.exit);
		ASSERT_EQ(start + s->vector * 16, ram.regs.rip & ~15ull);
		for (u32 n = 0; n < sizeof(parts) / sizeof(parts[0]); n++) {
			u32 rom = parts[n];

			ktap_about("stack %u bytes beyond the edge, read-only parts 0x%x", beyond[i], rom);
			m = observe(s, rom, UPPER + beyond[i]);
			if (s->ist && cpu_is_tcg()) /* with a stack of its own TCG has SS null */
				m.sregs.ss = ram.sregs.ss;
			expect_same_state(&ram, &m);
			expect_same_memory(&ram, &m, rom);
		}
	}
}

#define SCENE(name, ...)						\
	TEST_LIMIT(name, 120)						\
	{								\
		static const struct scene scene = { __VA_ARGS__ };	\
		compare(&scene);					\
	}

#define INT_N { 0xcd, VECTOR }
#define INT3 { 0xcc }
#define INTO { 0xce }
#define UD2 { 0x0f, 0x0b }
#define HLT { 0xf4 }			/* at CPL 3: #GP(0) */
#define LOOP { 0xeb, 0xfe }

/* --- Real mode --- */

SCENE(int_n_in_real_mode, .mode = REAL, .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(int3_in_real_mode, .mode = REAL, .code = INT3, .vector = VEC_BP)
SCENE(an_exception_in_real_mode, .mode = REAL, .code = UD2, .vector = VEC_UD)
SCENE(an_interrupt_in_real_mode, .mode = REAL, .code = LOOP, .event = BY_INTERRUPT,
      .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(an_nmi_in_real_mode, .mode = REAL, .code = LOOP, .event = BY_NMI, .vector = VEC_NMI,
      .rflags = RFLAGS_IF)

/* --- Protected mode, within a level --- */

SCENE(int_n_through_an_interrupt_gate, .mode = PROTECTED, .gate = GATE_INT, .handler_cs = CODE32,
      .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF | RFLAGS_NT)
SCENE(int_n_through_a_trap_gate, .mode = PROTECTED, .gate = GATE_TRAP, .handler_cs = CODE32,
      .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(int_n_through_a_16_bit_gate, .mode = PROTECTED, .gate = GATE_INT16, .handler_cs = CODE16,
      .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(int_n_on_a_16_bit_stack, .mode = PROTECTED, .data16 = true, .gate = GATE_INT,
      .handler_cs = CODE32, .code = INT_N, .vector = VECTOR)
SCENE(an_interrupt_within_a_level, .mode = PROTECTED, .gate = GATE_INT, .handler_cs = CODE32,
      .code = LOOP, .event = BY_INTERRUPT, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(an_exception_with_an_error_code, .mode = PROTECTED, .gate = GATE_INT, .handler_cs = CODE32,
      .code = { 0x8e, 0xd8 }, .vector = VEC_GP)

/* --- Protected mode, to an inner level --- */

SCENE(int_n_to_an_inner_level, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .ss0 = DATA, .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(int3_to_an_inner_level, .mode = PROTECTED, .user = true, .gate = GATE_TRAP,
      .handler_cs = CODE32, .ss0 = DATA, .code = INT3, .vector = VEC_BP)
SCENE(an_nmi_to_an_inner_level, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .ss0 = DATA, .code = LOOP, .event = BY_NMI, .vector = VEC_NMI)
SCENE(a_fault_with_error_code_to_an_inner_level, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .ss0 = DATA, .code = HLT, .vector = VEC_GP)
SCENE(an_inner_16_bit_stack, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .ss0 = DATA16, .code = HLT, .vector = VEC_GP)
SCENE(a_16_bit_tss_and_gate, .mode = PROTECTED, .user = true, .gate = GATE_INT16,
      .handler_cs = CODE16, .tss16 = true, .ss0 = DATA16, .code = HLT, .vector = VEC_GP)
SCENE(a_conforming_handler_stays_at_its_level, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CONFORMING, .code = HLT, .vector = VEC_GP)

/* --- Faults of a delivery, behind the first write to the GDT --- */

SCENE(an_inner_stack_that_is_null, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .fault_cs = USER_CODE, .ss0 = 0, .code = INT_N, .vector = VEC_TS)
SCENE(an_inner_stack_of_another_level, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .fault_cs = USER_CODE, .ss0 = USER_DATA, .code = INT_N,
      .vector = VEC_TS)
SCENE(an_inner_stack_beyond_the_table, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .fault_cs = USER_CODE, .ss0 = GDT_SIZE, .code = LOOP,
      .event = BY_INTERRUPT, .rflags = RFLAGS_IF, .vector = VEC_TS)
SCENE(an_inner_stack_that_is_absent, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .fault_cs = USER_CODE, .ss0 = ABSENT_DATA, .code = LOOP,
      .event = BY_INTERRUPT, .rflags = RFLAGS_IF, .vector = VEC_SS)
SCENE(an_inner_stack_that_is_too_small, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = CODE32, .fault_cs = USER_CODE, .ss0 = SMALL_DATA, .code = LOOP,
      .event = BY_INTERRUPT, .rflags = RFLAGS_IF, .vector = VEC_SS)
SCENE(a_second_fault_is_a_double_fault, .mode = PROTECTED, .user = true, .gate = GATE_INT,
      .handler_cs = USER_CODE, .fault_cs = CODE32, .ss0 = 0, .code = HLT, .vector = VEC_DF)

/* --- Virtual-8086 mode --- */

SCENE(int_n_in_virtual_8086_mode, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32, .ss0 = DATA,
      .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(int3_in_virtual_8086_mode_with_vme, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32,
      .ss0 = DATA, .code = INT3, .vector = VEC_BP, .rflags = RFLAGS_IF, .vme = true)
SCENE(into_in_virtual_8086_mode_with_vme, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32,
      .ss0 = DATA, .code = INTO, .vector = VEC_OF, .rflags = RFLAGS_OF, .vme = true)
SCENE(int3_below_iopl_3_with_vme, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32,
      .ss0 = DATA, .code = INT3, .vector = VEC_BP, .vme = true, .low_iopl = true)
SCENE(int_n_that_vme_does_not_redirect, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32,
      .ss0 = DATA, .code = INT_N, .vector = VECTOR, .rflags = RFLAGS_IF, .vme = true)
SCENE(int_n_that_vme_redirects, .mode = VM86, .code = INT_N, .vector = VECTOR,
      .rflags = RFLAGS_IF, .vme = true, .redirected = true)
SCENE(int_n_that_vme_redirects_below_iopl_3, .mode = VM86, .code = INT_N, .vector = VECTOR,
      .rflags = RFLAGS_VIF, .vme = true, .redirected = true, .low_iopl = true)
SCENE(a_fault_in_virtual_8086_mode, .mode = VM86, .gate = GATE_INT, .handler_cs = CODE32,
      .ss0 = DATA, .code = HLT, .vector = VEC_GP)

/* --- Long mode --- */

SCENE(int_n_in_long_mode, .mode = LONG, .gate = GATE_INT, .handler_cs = CODE64, .code = INT_N,
      .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(an_exception_in_long_mode, .mode = LONG, .gate = GATE_TRAP, .handler_cs = CODE64, .code = UD2,
      .vector = VEC_UD, .rflags = RFLAGS_IF)
SCENE(an_interrupt_on_a_stack_of_its_own, .mode = LONG, .gate = GATE_INT, .handler_cs = CODE64,
      .ist = 1, .code = LOOP, .event = BY_INTERRUPT, .vector = VECTOR, .rflags = RFLAGS_IF)
SCENE(an_nmi_in_long_mode, .mode = LONG, .gate = GATE_INT, .handler_cs = CODE64, .code = LOOP,
      .event = BY_NMI, .vector = VEC_NMI)
SCENE(a_fault_at_cpl_3_in_long_mode, .mode = LONG, .user = true, .gate = GATE_INT,
      .handler_cs = CODE64, .code = HLT, .vector = VEC_GP)
SCENE(int_n_in_compatibility_mode, .mode = COMPATIBILITY, .user = true, .gate = GATE_INT,
      .handler_cs = CODE64, .code = INT_N, .vector = VECTOR)
