/* SPDX-License-Identifier: GPL-2.0 */
/*
 * provenance.h - the steps of an interrupt's path that tracing sees.
 *
 * A step in the code is one line, mkvm_trace(STEP, ARGUMENTS...). While no event of system
 * "mkvm" is enabled, it is a static branch that is not taken, and the arguments are not
 * evaluated. A step that creates an id is mkvm_trace_id(STEP, ...), which is 0 while tracing is
 * off. Steps that concern no interrupt are plain tracepoints (trace.h); on frequent paths they
 * are mkvm_trace_event(EVENT, ...), which evaluates no argument while tracing is off.
 *
 * Read next: provenance.c, trace.h.
 */
#ifndef MKVM_PROVENANCE_H
#define MKVM_PROVENANCE_H

#include <linux/types.h>

#include "uapi/mkvm.h"

struct mkvm;
struct mkvm_irq;
struct mkvm_vcpu;

#ifdef __MKVM_UNIT_TEST__
#define mkvm_tracing()	false
#else
#include <linux/jump_label.h>
DECLARE_STATIC_KEY_FALSE(mkvm_trace_key);
#define mkvm_tracing()	static_branch_unlikely(&mkvm_trace_key)
#endif

#define mkvm_trace(step, ...) do { if (mkvm_tracing()) mkvm_trace_##step(__VA_ARGS__); } while (0)
#define mkvm_trace_event(event, ...)                \
	do {                                        \
		if (mkvm_tracing())                 \
			trace_##event(__VA_ARGS__); \
	} while (0)
#define mkvm_trace_id(step, ...) (mkvm_tracing() ? mkvm_trace_##step(__VA_ARGS__) : 0)

/* The events that wait in a vCPU, and what holds them back. */
struct mkvm_waits {
	int vector;				/* -1: no interrupt; MKVM_WAITS_EXTINT */
	enum mkvm_hold irq, nmi, smi, init;
	bool extint;				/* the interrupt is the PIC's, or KVM_INTERRUPT's */
	bool window_irq, window_nmi;		/* the guest exits as soon as it can be taken */
};

/* The ids of the interrupts that a VM's controllers hold; embedded in struct mkvm. */
struct mkvm_vm_ids {
	u32 pin[3][24];		/* (a) the id that raised the pin last, by KVM_IRQCHIP_* */
	u32 before[3][24];	/* (a) the previous value of pin[] */
	u32 pic_waits;		/* (a) the id that the PIC accepted last */
	u32 pic_taken;		/* (a) the id that it gave to a vCPU last */
};

/* The ids of the events that a vCPU holds; embedded in struct mkvm_vcpu. */
struct mkvm_vcpu_ids {
	u32 irr[256];		/* (a) of the oldest request that waits, by vector */
	u32 isr[256];		/* (v) of the vector in service */
	u32 posted[8];		/* (a) of the next post, by enum mkvm_pending */
	u32 pending[8];		/* (a) of the pending event, by enum mkvm_pending */
	u32 user;		/* (v) of vcpu->user_irqchip.vector */
	u32 taken;		/* (v) of the event that choose_event has chosen */
	u32 event;		/* (v) of vcpu->ev.delivering */
	u32 smi;		/* (v) of the SMI that the vCPU handles in SMM */
	bool went_in; /* (v) an entry injected vcpu->ev.delivering, or userspace restored it */
	u8 refused;		/* (v) pending bits that KVM_SET_VCPU_EVENTS may not remove */
	struct {
		u32 id;
		enum mkvm_hold hold;
	} blocked[4];		/* (v) as reported last: interrupt, NMI, SMI, INIT */
};

int mkvm_trace_reg(void);
void mkvm_trace_unreg(void);

/* Steps up to a LAPIC's acceptance. Any context. */
u32 mkvm_trace_raise(struct mkvm *vm, const char *origin, int vcpu, int gsi, u64 address, u32 data);
u32 mkvm_trace_raise_gsi(struct mkvm *vm, int source, u32 gsi, int level);
u32 mkvm_trace_raise_local(struct mkvm_vcpu *vcpu, const char *origin, u64 address, u32 data);
void mkvm_trace_raise_post(struct mkvm_vcpu *vcpu, int bit, const char *origin);
void mkvm_trace_raise_pin(struct mkvm *vm, unsigned int chip, unsigned int pin);
void mkvm_trace_raise_restored(struct mkvm_vcpu *vcpu, int vector);
void mkvm_trace_raised(struct mkvm *vm, u32 id, int result);
u32 mkvm_trace_route(struct mkvm *vm, u32 parent, unsigned int chip, unsigned int pin, int level);
void mkvm_trace_pic_set(struct mkvm *vm, unsigned int pin, int level, bool fresh, bool masked);
void mkvm_trace_ioapic_set(struct mkvm *vm, unsigned int pin, int level, u64 rte);
void mkvm_trace_pin_held(struct mkvm *vm, unsigned int pin, u64 rte, bool high);
u32 mkvm_trace_pin_id(struct mkvm *vm, unsigned int chip, unsigned int pin);
void mkvm_trace_msi(struct mkvm *vm, const struct mkvm_irq *irq);
void mkvm_trace_message(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq);
u32 mkvm_trace_request(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq);
void mkvm_trace_accept(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq, bool was_set,
		       u32 holder);
void mkvm_trace_drop(struct mkvm *vm, struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq,
		     const char *why);
void mkvm_trace_pend(struct mkvm_vcpu *vcpu, int bit, unsigned long before, unsigned long after,
		     const char *how);
void mkvm_trace_ioapic_eoi(struct mkvm *vm, unsigned int pin, u64 rte, bool high);
void mkvm_trace_pic_eoi(struct mkvm *vm, unsigned int pin, bool high);
void mkvm_trace_resample(struct mkvm *vm, u32 gsi);
void mkvm_trace_pic_ack(struct mkvm *vm, unsigned int pin);

/* Steps at a vCPU. Own thread. */
void mkvm_trace_consume(struct mkvm_vcpu *vcpu, int bit, unsigned long before, const char *how);
void mkvm_trace_reset(struct mkvm_vcpu *vcpu);
void mkvm_trace_ack(struct mkvm_vcpu *vcpu, u8 vector);
void mkvm_trace_took_extint(struct mkvm_vcpu *vcpu);
void mkvm_trace_restore_event(struct mkvm_vcpu *vcpu, int vector, const char *origin);
void mkvm_trace_inject(struct mkvm_vcpu *vcpu, bool again);
void mkvm_trace_blocked(struct mkvm_vcpu *vcpu, const struct mkvm_waits *w);
void mkvm_trace_eoi(struct mkvm_vcpu *vcpu, u8 vector);
const char *mkvm_mp_state_name(u32 state);
const char *mkvm_hold_name(enum mkvm_hold hold);	/* NULL: MKVM_HOLD_NOTHING */

#endif
