// SPDX-License-Identifier: GPL-2.0
/*
 * inject.c - chooses the event that the guest gets next, and merges faults.
 *
 * State: vcpu->ev.delivering (its delivery was interrupted by an exit, or it has just been
 * chosen; it is injected first), vcpu->ev.raised (raised by an exit, not yet in delivery), the
 * pending word. Whatever blocks an event, the windows at the end of mkvm_events_inject handle it.
 *
 * Priority (AMD APM vol. 2, "Priorities"): the event in delivery, exceptions of the previous
 * instruction, NMI, external interrupts. An exception that is pending beside the event in
 * delivery comes before the first instruction of that event's handler.
 *
 * Read next: svm/event.c for the encoding.
 */
#include <linux/kernel.h>
#include <linux/string.h>
#include <uapi/asm/debugreg.h>

#include "internal.h"
#include "explain/trace.h"

/* Classes for double faults: AMD APM vol. 2, "#DF - Double-Fault Exception". */
static bool is_contributory(u8 vector)
{
	return vector == X86_TRAP_DE || (vector >= X86_TRAP_TS && vector <= X86_TRAP_GP);
}

/*
 * Merges a second exception that occurs while the first is being delivered:
 *
 *   first \ second   benign    contributory   #PF
 *   benign           second    second         second
 *   contributory     second    #DF            second
 *   #PF              second    #DF            #DF
 *   #DF              second    shutdown       shutdown
 *
 * Returns the vector that results, or -1 for shutdown.
 */
static int merge_faults(u8 first, u8 second)
{
	bool bad = is_contributory(second) || second == X86_TRAP_PF;

	if (first == X86_TRAP_DF)
		return bad ? -1 : second;
	if ((is_contributory(first) && is_contributory(second)) || (first == X86_TRAP_PF && bad))
		return X86_TRAP_DF;
	return second;
}

#define DR6_ACTIVE_HIGH	MKVM_DR6_CAUSES
#define DR6_ACTIVE_LOW	(BIT(11) | BIT(16))		/* a payload has them inverted */

/* Applies the payload that userspace gave with vcpu->ev.raised, which is now delivered. */
static void deliver_payload(struct mkvm_vcpu *vcpu)
{
	u64 payload = vcpu->ev.payload, dr6;

	if (!vcpu->ev.has_payload)
		return;
	vcpu->ev.has_payload = false;
	if (vcpu->ev.raised.vector == X86_TRAP_PF) {
		mkvm_hw->set_cr(vcpu, 2, payload);
	} else if (vcpu->ev.raised.vector == X86_TRAP_DB) {
		dr6 = mkvm_hw->get_dr(vcpu, 6) & ~(u64)DR_TRAP_BITS;
		dr6 |= (payload & DR6_ACTIVE_HIGH) | DR6_ACTIVE_LOW;
		mkvm_hw->set_dr(vcpu, 6, dr6 & ~(payload & DR6_ACTIVE_LOW));
	}
}

/*
 * mkvm_payload_settle - apply a pending payload if userspace no longer wants to see payloads
 *
 * KVM_CAP_EXCEPTION_PAYLOAD may be disabled while an exception with a payload is pending. Then
 * KVM_GET_VCPU_EVENTS cannot report the payload, so CR2 or DR6 has it before any of them is read.
 * Context: vcpu->mutex held, vCPU loaded.
 */
void mkvm_payload_settle(struct mkvm_vcpu *vcpu)
{
	if (unlikely(vcpu->ev.has_payload) && !READ_ONCE(vcpu->vm->payload_events))
		deliver_payload(vcpu);
}

/*
 * mkvm_queue_exception - have the guest take an exception at the next entry
 *
 * It merges with one that was being delivered. Context: own thread.
 */
void mkvm_queue_exception(struct mkvm_vcpu *vcpu, u8 vector, bool has_error, u32 error)
{
	const struct mkvm_event *first = NULL;
	int merged = vector;

	mkvm_assert_owner(vcpu);
	if (vcpu->ev.delivering.type == MKVM_EV_EXCEPTION)
		first = &vcpu->ev.delivering;
	else if (vcpu->ev.raised.type)
		first = &vcpu->ev.raised;
	if (first)
		merged = merge_faults(first->vector, vector);
	if (merged < 0) {
		vcpu->ev.triple_fault = true;
		return;
	}
	if (merged != vector) {
		has_error = true;
		error = 0;
	}
	if (first == &vcpu->ev.delivering)
		vcpu->ev.delivering.type = MKVM_EV_NONE;
	else if (first)
		deliver_payload(vcpu);
	vcpu->ev.has_payload = false;
	vcpu->ev.raised = (struct mkvm_event) {
		.type = MKVM_EV_EXCEPTION, .vector = merged, .has_error = has_error, .error = error,
	};
}

/* Puts vcpu->ev.raised into delivery: moves it to vcpu->ev.delivering, which is empty. */
static void deliver_exception(struct mkvm_vcpu *vcpu)
{
	deliver_payload(vcpu);
	if (vcpu->ev.raised.vector == X86_TRAP_DB) /* its handler may use the debug registers */
		mkvm_hw->set_dr(vcpu, 7, mkvm_hw->get_dr(vcpu, 7) & ~(u64)MKVM_DR7_GD);
	if (mkvm_is_fault(vcpu->ev.raised.vector))
		vcpu->rflags |= X86_EFLAGS_RF;
	vcpu->ev.delivering = vcpu->ev.raised;
	vcpu->ev.raised.type = MKVM_EV_NONE;
}

/*
 * mkvm_queue_machine_check - have the guest take #MC at the next entry
 *
 * It is unrelated to the event in delivery and to an exception of the previous instruction, so it
 * merges with neither: they are delivered, and then #MC before the first instruction of their
 * handler. If both exist already, it replaces the exception. Own thread.
 */
void mkvm_queue_machine_check(struct mkvm_vcpu *vcpu)
{
	mkvm_assert_owner(vcpu);
	if (vcpu->ev.raised.type != MKVM_EV_NONE && vcpu->ev.delivering.type == MKVM_EV_NONE)
		deliver_exception(vcpu);
	vcpu->ev.has_payload = false;
	vcpu->ev.raised = (struct mkvm_event) { .type = MKVM_EV_EXCEPTION, .vector = X86_TRAP_MC };
}

void mkvm_queue_page_fault(struct mkvm_vcpu *vcpu, u64 cr2, u32 error)
{
	mkvm_hw->set_cr(vcpu, 2, cr2);
	mkvm_queue_exception(vcpu, X86_TRAP_PF, true, error);
}

/* ---- interrupts ---- */

static bool accepts_extint(struct mkvm_vcpu *vcpu)
{
	return !vcpu->lapic || mkvm_lapic_accepts_pic(vcpu->lapic);
}

/*
 * Whether the PIC, or userspace in its place, has an interrupt for this vCPU. Any context: a
 * snapshot.
 */
bool mkvm_has_extint(struct mkvm_vcpu *vcpu)
{
	return accepts_extint(vcpu) &&
	       (vcpu->user_irqchip.pic ? vcpu->user_irqchip.vector >= 0 :
					 mkvm_pic_output(vcpu->vm->irqchip.pic));
}

/* Whether an interrupt waits, even if it cannot be taken now. */
static bool has_interrupt(struct mkvm_vcpu *vcpu)
{
	return (vcpu->lapic && mkvm_lapic_pending(vcpu->lapic) >= 0) || mkvm_has_extint(vcpu);
}

/*
 * Takes the interrupt from its source, which now holds it in service. ExtINT comes first, as
 * in hardware.
 */
static int take_interrupt(struct mkvm_vcpu *vcpu)
{
	int vector;

	if (mkvm_has_extint(vcpu)) {
		if (!vcpu->user_irqchip.pic) {
			vector = mkvm_pic_ack(vcpu->vm->irqchip.pic);
		} else {
			vector = vcpu->user_irqchip.vector;
			vcpu->user_irqchip.vector = -1;
		}
		mkvm_trace(took_extint, vcpu);
		return vector;
	}
	vector = vcpu->lapic ? mkvm_lapic_pending(vcpu->lapic) : -1;
	if (vector >= 0)
		mkvm_lapic_ack(vcpu->lapic, vector);
	return vector;
}

/* Whether userspace steps through the guest and does not want handlers to run in between. */
static bool debugger_holds(const struct mkvm_vcpu *vcpu)
{
	return vcpu->debug.control & KVM_GUESTDBG_BLOCKIRQ;
}

/* Returns what holds back all events that the CPU could deliver now. */
static enum mkvm_hold hold_delivery(struct mkvm_vcpu *vcpu)
{
	u32 state = READ_ONCE(vcpu->mp_state);

	if (state == KVM_MP_STATE_INIT_RECEIVED || state == KVM_MP_STATE_UNINITIALIZED)
		return MKVM_HOLD_SIPI;
	if (debugger_holds(vcpu))
		return MKVM_HOLD_DEBUGGER;
	if (mkvm_hw->get_shadow(vcpu))
		return MKVM_HOLD_SHADOW;
	if (vcpu->ev.delivering.type != MKVM_EV_NONE || vcpu->ev.raised.type != MKVM_EV_NONE)
		return MKVM_HOLD_EVENT;
	return MKVM_HOLD_NOTHING;
}

/* Returns what holds back an interrupt that its controller offers. */
static enum mkvm_hold hold_interrupt(struct mkvm_vcpu *vcpu)
{
	enum mkvm_hold hold = hold_delivery(vcpu);

	if (hold || (vcpu->rflags & X86_EFLAGS_IF))
		return hold;
	return vcpu->smm.active ? MKVM_HOLD_SMM : MKVM_HOLD_IF;
}

/* Returns what holds back an NMI. SMM begins with NMIs masked. */
static enum mkvm_hold hold_nmi(struct mkvm_vcpu *vcpu)
{
	if (mkvm_hw->nmi_masked(vcpu))
		return vcpu->smm.active ? MKVM_HOLD_SMM : MKVM_HOLD_NMI_MASK;
	return hold_delivery(vcpu);
}

/* Finds the interrupt that comes next: w->vector and w->extint. Returns what holds it back. */
static enum mkvm_hold next_interrupt(struct mkvm_vcpu *vcpu, struct mkvm_waits *w)
{
	w->extint = mkvm_has_extint(vcpu);
	if (w->extint) {
		w->vector = vcpu->user_irqchip.pic ? vcpu->user_irqchip.vector : MKVM_WAITS_EXTINT;
		return hold_interrupt(vcpu);
	}
	w->vector = vcpu->lapic ? mkvm_lapic_highest_irr(vcpu->lapic) : MKVM_WAITS_NONE;
	if (w->vector < 0)
		return MKVM_HOLD_NOTHING;
	if (mkvm_lapic_pending(vcpu->lapic) >= 0)
		return hold_interrupt(vcpu);
	return (mkvm_lapic_get_tpr(vcpu->lapic) & 0xf0) >= (w->vector & 0xf0) ? MKVM_HOLD_TPR :
										 MKVM_HOLD_PPR;
}

/*
 * mkvm_interrupt_waits - find the next interrupt and what holds it back
 * @vector: set to its vector, to MKVM_WAITS_EXTINT for the PIC's, whose vector is known only after
 *	    the acknowledge, or to MKVM_WAITS_NONE
 *
 * Context: any; from other threads a snapshot. Return: MKVM_HOLD_NOTHING if no interrupt waits or
 * the next entry will inject it.
 */
enum mkvm_hold mkvm_interrupt_waits(struct mkvm_vcpu *vcpu, int *vector)
{
	struct mkvm_waits w;
	enum mkvm_hold hold = next_interrupt(vcpu, &w);

	*vector = w.vector;
	return hold;
}

/* mkvm_nmi_waits - as mkvm_interrupt_waits, for an NMI. */
enum mkvm_hold mkvm_nmi_waits(struct mkvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI) ? hold_nmi(vcpu) : MKVM_HOLD_NOTHING;
}

/*
 * mkvm_trace_waits - trace what waits, and why, before an entry or a sleep
 * @irq: a window is opened for an interrupt
 * @nmi: a window is opened for an NMI
 *
 * Context: own thread; only mkvm_trace calls it.
 */
void mkvm_trace_waits(struct mkvm_vcpu *vcpu, bool irq, bool nmi)
{
	unsigned long pending = READ_ONCE(vcpu->pending);
	struct mkvm_waits w = { .window_irq = irq, .window_nmi = nmi };

	w.irq = next_interrupt(vcpu, &w);
	w.nmi = mkvm_nmi_waits(vcpu);
	if (pending & BIT(MKVM_PEND_SMI))
		w.smi = vcpu->smm.active ? MKVM_HOLD_SMM : hold_delivery(vcpu);
	if ((pending & BIT(MKVM_PEND_INIT)) && vcpu->smm.active)
		w.init = MKVM_HOLD_SMM;
	mkvm_trace_blocked(vcpu, &w);
}

/* Whether an event would end this vCPU's HLT. Own thread. */
bool mkvm_wakes_halted(struct mkvm_vcpu *vcpu)
{
	if (vcpu->ev.delivering.type || vcpu->ev.raised.type)
		return true;
	if ((READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI)) && !mkvm_hw->nmi_masked(vcpu))
		return true;
	return (vcpu->rflags & X86_EFLAGS_IF) && has_interrupt(vcpu);
}

/* Whether the next entry would inject the vector of a KVM_INTERRUPT made now. Own thread. */
bool mkvm_ready_for_user_interrupt(struct mkvm_vcpu *vcpu)
{
	return vcpu->user_irqchip.vector < 0 && accepts_extint(vcpu) && !hold_interrupt(vcpu);
}

/*
 * Whether userspace waits for the time when it may call KVM_INTERRUPT, and may do so now. Own
 * thread.
 */
bool mkvm_user_window_open(struct mkvm_vcpu *vcpu)
{
	return vcpu->user_irqchip.pic && READ_ONCE(vcpu->run->request_interrupt_window) &&
	       mkvm_ready_for_user_interrupt(vcpu);
}

/*
 * Returns the interrupt that the vCPU has acknowledged and not yet taken, -1: none. Without LAPIC a
 * vector of KVM_INTERRUPT counts as one. Own thread.
 */
int mkvm_interrupt_get(struct mkvm_vcpu *vcpu)
{
	mkvm_assert_owner(vcpu);
	if (vcpu->ev.delivering.type == MKVM_EV_INTR)
		return vcpu->ev.delivering.vector;
	return vcpu->lapic ? -1 : vcpu->user_irqchip.vector;
}

/* ---- the choice ---- */

/* Moves the next event that may be delivered to vcpu->ev.delivering, which is empty. */
static void choose_event(struct mkvm_vcpu *vcpu)
{
	int vector;

	if (vcpu->ev.raised.type) {
		deliver_exception(vcpu);
		return;
	}
	if ((READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI)) && !hold_nmi(vcpu)) {
		mkvm_pending_take_nmi(vcpu, "taken");
		mkvm_hw->set_nmi_masked(vcpu, true);
		vcpu->ev.delivering =
			(struct mkvm_event){ .type = MKVM_EV_NMI, .vector = X86_TRAP_NMI };
		vcpu->stats[MKVM_STAT_NMI_INJECTIONS]++;
		return;
	}
	if (!hold_interrupt(vcpu)) {
		vector = take_interrupt(vcpu);
		if (vector < 0)
			return;
		vcpu->ev.delivering = (struct mkvm_event){ .type = MKVM_EV_INTR, .vector = vector };
		vcpu->stats[MKVM_STAT_IRQ_INJECTIONS]++;
	}
}

/*
 * mkvm_events_inject - before an entry, give the CPU the next event and open windows for the others
 *
 * It may run several times before the guest is entered. vcpu->ev.delivering keeps the event
 * until the exit shows whether it was delivered. Context: own thread, preemption on.
 */
void mkvm_events_inject(struct mkvm_vcpu *vcpu)
{
	bool irq, nmi, again = vcpu->ev.delivering.type != MKVM_EV_NONE;
	unsigned long pending;

	mkvm_assert_owner(vcpu);
	mkvm_pending_take(vcpu, MKVM_PEND_EVENT);
	smp_mb__after_atomic(); /* before IRR is read: a later interrupt sets the bit again */
	mkvm_pending_merge_nmis(vcpu);
	if (!again)
		choose_event(vcpu);
	mkvm_trace(inject, vcpu, again);
	mkvm_hw->inject(vcpu, &vcpu->ev.delivering);

	pending = READ_ONCE(vcpu->pending);
	vcpu->ev.waiting = pending & (BIT(MKVM_PEND_NMI) |
				      (mkvm_hw->nmi_masked(vcpu) ? 0 : BIT(MKVM_PEND_NMI2)));
	if (vcpu->smm.active)
		vcpu->ev.waiting |= BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SMI);
	/*
	 * An SMI is taken between instructions: after the event's delivery, before its handler
	 * begins.
	 */
	vcpu->ev.exit_soon = !vcpu->smm.active && (pending & BIT(MKVM_PEND_SMI)) &&
			     vcpu->ev.delivering.type != MKVM_EV_NONE;
	if (vcpu->ev.exit_soon)
		vcpu->ev.waiting |= BIT(MKVM_PEND_SMI);
	/*
	 * A single step into a handler also ends before its first instruction; with TF set the
	 * delivery would push TF onto the guest's stack.
	 */
	nmi = (pending & BIT(MKVM_PEND_NMI)) && !debugger_holds(vcpu);
	vcpu->ev.exit_soon |= vcpu->ev.delivering.type != MKVM_EV_NONE &&
			   (nmi || vcpu->ev.raised.type != MKVM_EV_NONE ||
			    (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP));
	irq = has_interrupt(vcpu) ||
	      (vcpu->user_irqchip.pic && READ_ONCE(vcpu->run->request_interrupt_window) &&
	       accepts_extint(vcpu));
	irq = irq && !debugger_holds(vcpu);
	mkvm_trace(waits, vcpu, irq, nmi);
	mkvm_hw->open_window(vcpu, irq, nmi);
}

/* ---- an interrupt from userspace that is in delivery ---- */

/*
 * mkvm_restore_in_delivery - userspace restores an interrupt, or INT n, that is being delivered
 * @type: MKVM_EV_INTR or MKVM_EV_SOFT
 *
 * It displaces another event in delivery, because a CPU that has acknowledged an interrupt cannot
 * defer it. The other event follows it directly. Context: vcpu->mutex held.
 */
void mkvm_restore_in_delivery(struct mkvm_vcpu *vcpu, enum mkvm_event_type type, u8 vector)
{
	bool second = READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI);

	mkvm_assert_owner(vcpu);
	if (vcpu->ev.delivering.type == MKVM_EV_NMI) {
		mkvm_pending_restore(vcpu, second ? MKVM_PEND_NMI2 : MKVM_PEND_NMI, true);
		mkvm_hw->set_nmi_masked(vcpu, false);
	} else if (vcpu->ev.delivering.type == MKVM_EV_EXCEPTION &&
		   vcpu->ev.raised.type == MKVM_EV_NONE) {
		vcpu->ev.raised = vcpu->ev.delivering;
		vcpu->ev.has_payload = false;
	}
	vcpu->ev.delivering = (struct mkvm_event) { .type = type, .vector = vector };
}

/*
 * mkvm_interrupt_set - restore the interrupt that mkvm_interrupt_get has returned
 *
 * Without LAPIC the interrupt waits for IF, since it may not have been in delivery. Context:
 * vcpu->mutex held.
 */
void mkvm_interrupt_set(struct mkvm_vcpu *vcpu, u8 vector)
{
	mkvm_assert_owner(vcpu);
	if (vcpu->lapic) {
		mkvm_restore_in_delivery(vcpu, MKVM_EV_INTR, vector);
		return;
	}
	if (vcpu->ev.delivering.type == MKVM_EV_INTR)
		vcpu->ev.delivering.type = MKVM_EV_NONE;
	vcpu->user_irqchip.vector = vector;
}
