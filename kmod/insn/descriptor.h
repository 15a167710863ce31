/* SPDX-License-Identifier: GPL-2.0 */
/*
 * descriptor.h - segment descriptors, gates and task-state segments in the guest's memory, for the
 * parts of the emulator that load segments.
 *
 * Manual: AMD APM vol. 2, "Segment Descriptors".
 *
 * Read next: descriptor.c; emulate_seg.c and emulate_event.c, which use it.
 */
#ifndef MKVM_DESCRIPTOR_H
#define MKVM_DESCRIPTOR_H

#include "decode.h"

#define DESC_S		BIT_ULL(44)
#define DESC_P		BIT_ULL(47)
#define DESC_L		BIT_ULL(53)
#define DESC_DB		BIT_ULL(54)
#define DESC_G		BIT_ULL(55)

/* Type bits of code and data segments; types of system segments; types of gates. */
enum { TYPE_ACCESSED = 1, TYPE_WRITABLE = 2, TYPE_CONFORMING = 4, TYPE_CODE = 8 };
enum { TSS_16 = 1, LDT = 2, TSS_BUSY = 2, TSS = 9 };
enum {
	CALL_GATE_16 = 4,
	TASK_GATE = 5,
	INTERRUPT_GATE_16 = 6,
	TRAP_GATE_16 = 7,
	CALL_GATE = 12,
	INTERRUPT_GATE = 14,
	TRAP_GATE = 15
};

/* A descriptor and where it was read from. */
struct mkvm_descriptor {
	u64 low, high;		/* high: 0 unless the descriptor has 16 bytes */
	u64 la;			/* linear address of low */
	u16 selector;
};

static inline unsigned int desc_type(const struct mkvm_descriptor *d)
{
	return d->low >> 40 & 15;
}

static inline unsigned int desc_dpl(const struct mkvm_descriptor *d)
{
	return d->low >> 45 & 3;
}

static inline bool long_mode(const struct mkvm_emu *c)
{
	return c->mode.efer & EFER_LMA;
}

static inline unsigned int cpl(const struct mkvm_emu *c)
{
	return c->mode.cr0 & X86_CR0_PE ? c->mode.cpl : 0;
}

/* Raises a fault whose error code is the selector. */
static inline enum mkvm_emu_result selector_fault(struct mkvm_emu *c, u8 vector, u16 selector)
{
	return fault_with(c, vector, selector & ~3);
}

/* The fault was met for an event that the program did not cause, if external. Not told by #PF. */
static inline void mark_external(struct mkvm_emu *c, bool external)
{
	if (external && c->fault.vector != PF_VECTOR)
		c->fault.error |= 1;
}

/* descriptor.c */

/*
 * Reads the descriptor that a selector names. With wide set, long mode reads 16 bytes, as it does
 * for system descriptors. Return: as mkvm_emu_system; FAULT with #GP(selector) if the table does
 * not contain it.
 */
enum mkvm_emu_result mkvm_emu_read_descriptor(struct mkvm_emu *c, u16 selector, bool wide,
					      struct mkvm_descriptor *d);
/*
 * Sets type bits (accessed, busy) in *d and in the descriptor in memory. Return: as
 * mkvm_emu_system; RETRY if the type in memory is no longer the one in *d.
 */
enum mkvm_emu_result mkvm_emu_set_type_bits(struct mkvm_emu *c, struct mkvm_descriptor *d,
					    unsigned int bits);
/* Decodes a descriptor; the limit is in bytes, whatever G says. */
struct kvm_segment mkvm_emu_segment_of(const struct mkvm_descriptor *d);
/* Makes *s what the register holds after a load in real or virtual-8086 mode. */
void mkvm_emu_real_segment(struct mkvm_emu *c, int seg, u16 selector, struct kvm_segment *s);

/* emulate_event.c */

/* The stack that the TSS has for an inner level. */
struct mkvm_inner_stack {
	u64 sp;
	struct kvm_segment ss;		/* null in long mode */
	struct mkvm_descriptor desc;	/* of SS; selector 0 in long mode */
};

/* Finds that stack. Return: as mkvm_emu_system; FAULT with #TS or #SS. */
enum mkvm_emu_result mkvm_emu_inner_stack(struct mkvm_emu *c, unsigned int level,
					  struct mkvm_inner_stack *s);

/*
 * emulate_gate.c: executes a far JMP or CALL whose selector names a call gate. Return: as
 * mkvm_emulate; FAULT with #GP(selector) if it names anything else.
 */
enum mkvm_emu_result mkvm_emu_branch_by_gate(struct mkvm_emu *c, u16 selector);

/* emulate_ret.c: execute RETF, and IRET. Return: as mkvm_emulate. */

enum mkvm_emu_result mkvm_emu_ret_far(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_iret(struct mkvm_emu *c);

/* emulate_task.c */

enum { MKVM_TASK_JMP, MKVM_TASK_CALL, MKVM_TASK_IRET, MKVM_TASK_GATE };

struct mkvm_task_switch {
	u8 why;			/* MKVM_TASK_* */
	u16 selector;		/* of the new task's TSS */
	bool external;		/* the error codes of faults have EXT set */
	bool has_error;
	u32 error;		/* to be pushed on the new task's stack */
	u64 rip, rflags;	/* to be saved in the old task's TSS */
};

/*
 * Performs the switch. DONE leaves the new RIP and RFLAGS in c->next_rip and c->flags, as an
 * instruction does; c->fault_after then says whether a fault of the new task follows.
 */
enum mkvm_emu_result mkvm_emu_task_switch(struct mkvm_emu *c, const struct mkvm_task_switch *t);
/*
 * Executes a far JMP or CALL whose selector names a TSS or a task gate. UNHANDLED: it names
 * anything else, which then must be a call gate.
 */
enum mkvm_emu_result mkvm_emu_branch_to_task(struct mkvm_emu *c, u16 selector);
/* Executes IRET with NT set: a return to the task that the back link names. */
enum mkvm_emu_result mkvm_emu_return_to_task(struct mkvm_emu *c);

#endif
