// SPDX-License-Identifier: GPL-2.0
/*
 * provenance.c - the origin of each interrupt: ids, and the events that carry them.
 *
 * An interrupt, NMI, SMI, INIT or SIPI gets an id when it is raised, a number that is not used
 * again. The id is in struct mkvm_irq while it is a message, and in the tables of provenance.h
 * while it is pending somewhere. A GSI that leads to several pins has a child for each.
 * Requests that merge in IRR or in the pending word keep the oldest id; the others are reported
 * (coalesce). An event whose delivery an exit interrupts keeps its id.
 *
 * State: the tables, which are written only while tracing is on, and the last id. Ids from
 * before tracing began are 0. The tables have no locks: if two senders race for the same bit,
 * their ids may be exchanged.
 *
 * Read next: trace.h, Documentation/tracepoints.rst.
 */
#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/kvm.h>
#include <linux/nospec.h>
#include <asm/apicdef.h>

#include "hw_ops.h"
#include "irqchip/irqchip.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

DEFINE_STATIC_KEY_FALSE(mkvm_trace_key);

static atomic_t last_id = ATOMIC_INIT(0);
static u32 before_first;	/* this id and lower ones are from an earlier tracing session */

static const char *const deliveries[] = { "fixed", "lowest", "SMI",  "reserved",
					  "NMI",   "INIT",   "SIPI", "ExtINT" };
static const char *const pending_names[] = { "INIT", "SIPI", "NMI",
					     "SMI", [MKVM_PEND_NMI2] = "NMI" };

/* Called for each event of the system that gets its first user. Context: tracepoints_mutex held. */
int mkvm_trace_reg(void)
{
	if (!static_key_enabled(&mkvm_trace_key))
		before_first = atomic_read(&last_id);
	static_branch_inc(&mkvm_trace_key);
	return 0;
}

void mkvm_trace_unreg(void)
{
	static_branch_dec(&mkvm_trace_key);
}

/* Returns a table's entry if it was written since tracing began, else 0. */
static u32 known(const u32 *slot)
{
	u32 id = READ_ONCE(*slot);

	return (s32)(id - before_first) > 0 ? id : 0;
}

static u32 take(u32 *slot)
{
	u32 id = known(slot);

	WRITE_ONCE(*slot, 0);
	return id;
}

/* ---- raising ---- */

u32 mkvm_trace_raise(struct mkvm *vm, const char *origin, int vcpu, int gsi, u64 address, u32 data)
{
	u32 id = atomic_inc_return(&last_id);

	trace_raise(vm->nr, id, origin, vcpu, gsi, address, data);
	return id;
}

u32 mkvm_trace_raise_gsi(struct mkvm *vm, int source, u32 gsi, int level)
{
	static const char *const names[] = { "irq_line", "pit", "irqfd", "irqfd-resample",
					     "restored" };

	return level ? mkvm_trace_raise(vm, names[source], -1, gsi, 0, 0) : 0;
}

/* An event is raised by the ICR of a LAPIC or by an entry of its local vector table. */
u32 mkvm_trace_raise_local(struct mkvm_vcpu *vcpu, const char *origin, u64 address, u32 data)
{
	return mkvm_trace_raise(vcpu->vm, origin, vcpu->id, -1, address, data);
}

/*
 * An NMI has the same slot for both bits: its sender does not know whether it will be the second.
 */
static int posted_as(int bit)
{
	return bit == MKVM_PEND_NMI2 ? MKVM_PEND_NMI : bit;
}

/* An event is raised whose bit is about to be posted. */
void mkvm_trace_raise_post(struct mkvm_vcpu *vcpu, int bit, const char *origin)
{
	WRITE_ONCE(vcpu->ids.posted[posted_as(bit)], mkvm_trace_raise_local(vcpu, origin, 0, 0));
}

/* KVM_SET_IRQCHIP says that the pin is high. */
void mkvm_trace_raise_pin(struct mkvm *vm, unsigned int chip, unsigned int pin)
{
	WRITE_ONCE(vm->ids.pin[chip][pin], mkvm_trace_raise(vm, "set_irqchip", -1, -1, 0, pin));
}

/* KVM_SET_LAPIC loads this vector into IRR, or ISR. */
void mkvm_trace_raise_restored(struct mkvm_vcpu *vcpu, int vector)
{
	vcpu->ids.isr[vector] = mkvm_trace_raise_local(vcpu, "set_lapic", 0, vector);
	WRITE_ONCE(vcpu->ids.irr[vector], vcpu->ids.isr[vector]);
}

/* KVM_SET_VCPU_EVENTS or KVM_SET_SREGS, the origin, loads an interrupt or NMI in delivery. */
void mkvm_trace_restore_event(struct mkvm_vcpu *vcpu, int vector, const char *origin)
{
	vcpu->ids.event = mkvm_trace_raise_local(vcpu, origin, 0, vector);
	if (!vcpu->lapic)
		vcpu->ids.user = vcpu->ids.event;
	vcpu->ids.went_in = true;
}

void mkvm_trace_raised(struct mkvm *vm, u32 id, int result)
{
	if (id)
		trace_raised(vm->nr, id, result);
}

/* ---- to a LAPIC ---- */

u32 mkvm_trace_route(struct mkvm *vm, u32 parent, unsigned int chip, unsigned int pin, int level)
{
	bool pic = chip < KVM_IRQCHIP_IOAPIC, msi = chip > KVM_IRQCHIP_IOAPIC;
	u32 id;

	if (!level)
		return 0;
	id = atomic_inc_return(&last_id);
	if (!msi)
		WRITE_ONCE(vm->ids.before[chip][pin], xchg(&vm->ids.pin[chip][pin], id));
	if (msi)
		trace_route(vm->nr, parent, id, "MSI", -1);
	else if (pic)
		trace_route(vm->nr, parent, id, "PIC", chip * 8 + pin);
	else
		trace_route(vm->nr, parent, id, "IOAPIC", pin);
	return id;
}

u32 mkvm_trace_pin_id(struct mkvm *vm, unsigned int chip, unsigned int pin)
{
	return known(&vm->ids.pin[chip][pin]);
}

/*
 * The pin's newest id merges with its previous one, which stays. @number: the pin's number in
 * traces.
 */
static void pin_merges(struct mkvm *vm, unsigned int chip, unsigned int pin, int number,
		       const char *kind)
{
	u32 id = mkvm_trace_pin_id(vm, chip, pin), into = known(&vm->ids.before[chip][pin]);

	if (into)
		WRITE_ONCE(vm->ids.pin[chip][pin], into);
	trace_coalesce(vm->nr, -1, id, number, kind, "", into);
}

/* @fresh: the pin had no request in IRR */
void mkvm_trace_pic_set(struct mkvm *vm, unsigned int pin, int level, bool fresh, bool masked)
{
	u32 id = mkvm_trace_pin_id(vm, pin >> 3, pin & 7);

	trace_pic_set(vm->nr, id, pin, level, 0);
	if (level && !fresh)
		pin_merges(vm, pin >> 3, pin & 7, pin, "PIC pin");
	else if (level && masked)
		trace_block(vm->nr, -1, id, pin, "PIC pin", "masked", 0);
	else if (level)
		WRITE_ONCE(vm->ids.pic_waits, id);
}

void mkvm_trace_ioapic_set(struct mkvm *vm, unsigned int pin, int level, u64 rte)
{
	trace_ioapic_set(vm->nr, mkvm_trace_pin_id(vm, KVM_IRQCHIP_IOAPIC, pin), pin, level, rte);
}

/*
 * A pin sends no message: an edge merges if the pin is high and is lost if it is masked; a level
 * waits.
 */
void mkvm_trace_pin_held(struct mkvm *vm, unsigned int pin, u64 rte, bool high)
{
	u32 id = mkvm_trace_pin_id(vm, KVM_IRQCHIP_IOAPIC, pin);

	if (high)
		pin_merges(vm, KVM_IRQCHIP_IOAPIC, pin, pin, "IOAPIC pin");
	else
		trace_block(vm->nr, -1, id, pin, "IOAPIC pin",
			    rte & BIT(16) ? "masked" : "remote-IRR", 0);
}

void mkvm_trace_msi(struct mkvm *vm, const struct mkvm_irq *irq)
{
	trace_msi(vm->nr, -1, irq->id, irq->vector, deliveries[irq->delivery],
		  irq->logical ? "logical" : "physical", irq->dest);
}

/* ---- at a LAPIC ---- */

static void accepted(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq)
{
	trace_apic_accept(vcpu->vm->nr, vcpu->id, irq->id, irq->vector, deliveries[irq->delivery],
			  irq->level ? "level" : "edge", 0);
}

/* A message that becomes a bit of the pending word is about to be posted. */
void mkvm_trace_message(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq)
{
	static const s8 bits[8] = {
		-1, -1, MKVM_PEND_SMI, -1, MKVM_PEND_NMI, MKVM_PEND_INIT, MKVM_PEND_SIPI, -1
	};
	int bit = bits[irq->delivery];

	if (bit < 0 || (bit == MKVM_PEND_INIT && irq->level && !irq->assert))
		return;
	WRITE_ONCE(vcpu->ids.posted[bit], irq->id);
	accepted(vcpu, irq);
}

/* Called before the vector's bit in IRR is set. Returns the id of a request that waits, 0: none. */
u32 mkvm_trace_request(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq)
{
	u32 *slot = &vcpu->ids.irr[irq->vector], old = READ_ONCE(*slot);

	if (known(slot))
		return old;
	cmpxchg(slot, old, irq->id);
	return 0;
}

/*
 * Called after the vector's bit in IRR is set. @holder: what mkvm_trace_request returned. If the
 * vCPU has taken that request meanwhile, this one waits alone.
 */
void mkvm_trace_accept(struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq, bool was_set, u32 holder)
{
	u32 *slot = &vcpu->ids.irr[irq->vector];

	if (was_set && !holder)
		cmpxchg(slot, irq->id, 0);
	else if (!was_set && holder)
		WRITE_ONCE(*slot, irq->id);
	if (was_set)
		trace_coalesce(vcpu->vm->nr, vcpu->id, irq->id, irq->vector, "vector", "", holder);
	else
		accepted(vcpu, irq);
}

/* @vcpu: NULL if no target was found */
void mkvm_trace_drop(struct mkvm *vm, struct mkvm_vcpu *vcpu, const struct mkvm_irq *irq,
		     const char *why)
{
	trace_drop(vm->nr, vcpu ? (int)vcpu->id : -1, irq->id, irq->vector,
		   deliveries[irq->delivery], why, 0);
}

/* ---- the pending word ---- */

void mkvm_trace_pend(struct mkvm_vcpu *vcpu, int bit, unsigned long before, unsigned long after,
		     const char *how)
{
	u32 id = take(&vcpu->ids.posted[posted_as(bit)]);

	if (before & ~after & BIT(MKVM_PEND_SIPI))
		mkvm_trace_consume(vcpu, MKVM_PEND_SIPI, before, "by-INIT");
	trace_pend(vcpu, id, pending_names[bit], before, after, how);
	if (before & BIT(bit))
		trace_coalesce(vcpu->vm->nr, vcpu->id, id, -1, pending_names[bit], "",
			       known(&vcpu->ids.pending[bit]));
	else
		WRITE_ONCE(vcpu->ids.pending[bit], id);
}

void mkvm_trace_consume(struct mkvm_vcpu *vcpu, int bit, unsigned long before, const char *how)
{
	u32 id = take(&vcpu->ids.pending[bit]) ?: known(&vcpu->ids.posted[bit]);

	trace_consume(vcpu, id, pending_names[bit], before, before & ~MKVM_PEND_MARKED(bit),
		      how);
	if (bit == MKVM_PEND_SMI)
		vcpu->ids.smi = id;
	else if (bit == MKVM_PEND_NMI)
		vcpu->ids.taken = id;
	if (bit == MKVM_PEND_NMI && (before & BIT(MKVM_PEND_NMI2)))	/* it moves up */
		WRITE_ONCE(vcpu->ids.pending[bit], take(&vcpu->ids.pending[MKVM_PEND_NMI2]));
}

/* A reset has dropped all events that the vCPU held but INIT, SIPI and SMI. */
void mkvm_trace_reset(struct mkvm_vcpu *vcpu)
{
	unsigned long before = READ_ONCE(vcpu->pending);

	if (before & BIT(MKVM_PEND_NMI2))
		mkvm_trace_consume(vcpu, MKVM_PEND_NMI2, before, "by-INIT");
	if (before & BIT(MKVM_PEND_NMI))
		mkvm_trace_consume(vcpu, MKVM_PEND_NMI, before, "by-INIT");
	memset(vcpu->ids.irr, 0, sizeof(vcpu->ids.irr));
	memset(vcpu->ids.isr, 0, sizeof(vcpu->ids.isr));
	memset(vcpu->ids.blocked, 0, sizeof(vcpu->ids.blocked));
}

const char *mkvm_mp_state_name(u32 state)
{
	static const char *const names[] = { "RUNNABLE", "UNINITIALIZED", "INIT_RECEIVED", "HALTED",
					     "SIPI_RECEIVED" };

	return state < ARRAY_SIZE(names) ? names[array_index_nospec(state, ARRAY_SIZE(names))] :
					   "?";
}

/* ---- into the guest, and EOI ---- */

void mkvm_trace_ack(struct mkvm_vcpu *vcpu, u8 vector)
{
	vcpu->ids.isr[vector] = xchg(&vcpu->ids.irr[vector], 0);
	vcpu->ids.taken = known(&vcpu->ids.isr[vector]);
}

void mkvm_trace_pic_ack(struct mkvm *vm, unsigned int pin)
{
	WRITE_ONCE(vm->ids.pic_taken, mkvm_trace_pin_id(vm, pin >> 3, pin & 7));
}

void mkvm_trace_took_extint(struct mkvm_vcpu *vcpu)
{
	vcpu->ids.taken = vcpu->user_irqchip.pic ? take(&vcpu->ids.user) :
						   take(&vcpu->vm->ids.pic_taken);
}

/* @again: the event was in delivery already and was not chosen now */
void mkvm_trace_inject(struct mkvm_vcpu *vcpu, bool again)
{
	static const char * const names[] = { "none", "interrupt", "NMI", "exception", "INT n" };
	struct mkvm_vcpu_ids *ids = &vcpu->ids;
	u8 type = vcpu->ev.delivering.type, vector = vcpu->ev.delivering.vector;

	if (type == MKVM_EV_NONE)
		return;
	if (type == MKVM_EV_EXCEPTION || type == MKVM_EV_SOFT)
		ids->event = 0;
	else if (!again)
		ids->event = ids->taken;
	if (!again)
		trace_inject(vcpu->vm->nr, vcpu->id, ids->event, vector, names[type], "", 0);
	else if (ids->went_in)
		trace_reinject(vcpu->vm->nr, vcpu->id, ids->event, vector, names[type], "", 0);
	ids->went_in = false;
}

void mkvm_trace_eoi(struct mkvm_vcpu *vcpu, u8 vector)
{
	trace_eoi(vcpu->vm->nr, vcpu->id, take(&vcpu->ids.isr[vector]), vector, "", "", 0);
}

void mkvm_trace_ioapic_eoi(struct mkvm *vm, unsigned int pin, u64 rte, bool high)
{
	trace_ioapic_eoi(vm->nr, mkvm_trace_pin_id(vm, KVM_IRQCHIP_IOAPIC, pin), pin, high, rte);
}

void mkvm_trace_pic_eoi(struct mkvm *vm, unsigned int pin, bool high)
{
	trace_pic_eoi(vm->nr, mkvm_trace_pin_id(vm, pin >> 3, pin & 7), pin, high, 0);
}

void mkvm_trace_resample(struct mkvm *vm, u32 gsi)
{
	trace_resample(vm->nr, 0, gsi, false, 0);
}

/* ---- what waits, and why ---- */

enum { WAITS_IRQ, WAITS_NMI, WAITS_SMI, WAITS_INIT };

/* Reports each reason once. */
static void blocked(struct mkvm_vcpu *vcpu, int what, u32 id, int vector, enum mkvm_hold hold)
{
	static const char * const names[] = { "interrupt", "NMI", "SMI", "INIT" };

	if (hold && (vcpu->ids.blocked[what].hold != hold || vcpu->ids.blocked[what].id != id))
		trace_block(vcpu->vm->nr, vcpu->id, id, vector, names[what], mkvm_hold_name(hold),
			    0);
	vcpu->ids.blocked[what].hold = hold;
	vcpu->ids.blocked[what].id = id;
}

const char *mkvm_hold_name(enum mkvm_hold hold)
{
	static const char * const names[] = {
		[MKVM_HOLD_SIPI] = "wait-for-SIPI", [MKVM_HOLD_DEBUGGER] = "debugger",
		[MKVM_HOLD_SHADOW] = "shadow", [MKVM_HOLD_EVENT] = "event", [MKVM_HOLD_IF] = "IF=0",
		[MKVM_HOLD_TPR] = "TPR", [MKVM_HOLD_PPR] = "PPR", [MKVM_HOLD_SMM] = "SMM",
		[MKVM_HOLD_NMI_MASK] = "NMI-mask",
	};

	return names[hold];
}

/* Returns the id of the interrupt that waits, 0: none, or unknown. */
static u32 id_that_waits(struct mkvm_vcpu *vcpu, const struct mkvm_waits *w)
{
	if (w->extint)
		return known(vcpu->user_irqchip.pic ? &vcpu->ids.user : &vcpu->vm->ids.pic_waits);
	return w->vector >= 0 ? known(&vcpu->ids.irr[w->vector]) : 0;
}

/* Traces what waits before an entry or a sleep. Context: own thread. */
void mkvm_trace_blocked(struct mkvm_vcpu *vcpu, const struct mkvm_waits *w)
{
	u32 nmi = known(&vcpu->ids.pending[MKVM_PEND_NMI]), irq = id_that_waits(vcpu, w);

	blocked(vcpu, WAITS_IRQ, irq, w->vector, w->irq);
	blocked(vcpu, WAITS_NMI, nmi, -1, w->nmi);
	blocked(vcpu, WAITS_SMI, known(&vcpu->ids.pending[MKVM_PEND_SMI]), -1, w->smi);
	blocked(vcpu, WAITS_INIT, known(&vcpu->ids.pending[MKVM_PEND_INIT]), -1, w->init);
	if (w->window_irq)
		trace_window_open(vcpu->vm->nr, vcpu->id, irq, w->vector, "interrupt", "", 0);
	if (w->window_nmi)
		trace_window_open(vcpu->vm->nr, vcpu->id, nmi, X86_TRAP_NMI, "NMI", "", 0);
}
