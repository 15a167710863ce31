/* SPDX-License-Identifier: GPL-2.0 */
/*
 * descriptor.h - segment descriptors, gates and task-state segments in the guest's memory, for the
 * parts of the emulator that load segments.
 *
 * Manual: AMD APM vol. 2, "Segment Descriptors".
 * Read next: emulate_seg.c, emulate_event.c.
 */
#ifndef MKVM_DESCRIPTOR_H
#define MKVM_DESCRIPTOR_H

#include "decode.h"

#define DESC_S		BIT_ULL(44)
#define DESC_P		BIT_ULL(47)
#define DESC_L		BIT_ULL(53)
#define DESC_DB		BIT_ULL(54)
#define DESC_G		BIT_ULL(55)

/* Of code and data, and of the others. */
enum { TYPE_ACCESSED = 1, TYPE_WRITABLE = 2, TYPE_CONFORMING = 4, TYPE_CODE = 8 };
enum { TSS_16 = 1, LDT = 2, TSS_BUSY = 2, TSS = 9 };
enum { TASK_GATE = 5, INTERRUPT_GATE_16 = 6, TRAP_GATE_16 = 7, INTERRUPT_GATE = 14, TRAP_GATE = 15 };

/* A descriptor, and where it was found. */
struct mkvm_descriptor {
	u64 low, high;		/* high: of those of 16 bytes in long mode */
	u64 la;
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

/* A fault whose error code is the selector. */
static inline enum mkvm_emu_result selector_fault(struct mkvm_emu *c, u8 vector, u16 selector)
{
	return fault_with(c, vector, selector & ~3);
}

/* descriptor.c */

/* Reads the descriptor that a selector names; none: #GP. wide: 16 bytes where long mode has such. */
enum mkvm_emu_result mkvm_emu_read_descriptor(struct mkvm_emu *c, u16 selector, bool wide,
					      struct mkvm_descriptor *d);
/* Sets bits of the type, in memory too. RETRY: they are no longer what was checked. */
enum mkvm_emu_result mkvm_emu_set_type_bits(struct mkvm_emu *c, struct mkvm_descriptor *d,
					    unsigned int bits);
struct kvm_segment mkvm_emu_segment_of(const struct mkvm_descriptor *d);

/* emulate_task.c */

enum { MKVM_TASK_JMP, MKVM_TASK_CALL, MKVM_TASK_IRET, MKVM_TASK_GATE };

struct mkvm_task_switch {
	u8 why;			/* MKVM_TASK_* */
	u16 selector;		/* of the new TSS */
	bool external;		/* faults have EXT in their error code */
	bool has_error;
	u32 error;		/* for the new task's stack */
	u64 rip, rflags;	/* for the old TSS */
};

/* Does it; DONE with c->next_rip and c->flags, as an instruction. */
enum mkvm_emu_result mkvm_emu_task_switch(struct mkvm_emu *c, const struct mkvm_task_switch *t);
/* Far JMP and CALL to a selector whose descriptor is no segment's. */
enum mkvm_emu_result mkvm_emu_branch_to_task(struct mkvm_emu *c, u16 selector);
/* IRET with NT set. */
enum mkvm_emu_result mkvm_emu_return_to_task(struct mkvm_emu *c);

#endif
