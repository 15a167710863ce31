// SPDX-License-Identifier: GPL-2.0
/*
 * inject.c - which event the guest gets next, and the merging of faults.
 *
 * State: vcpu->event (was being delivered when the guest was left, or has just
 * been chosen: goes in first), vcpu->exception (raised by an exit, not yet being
 * delivered), the pending word. All that forbids an event now ends in one place,
 * the windows at the end of mkvm_events_inject.
 *
 * Priority (AMD APM vol. 2, "Priorities"): the event in delivery, exceptions of
 * the instruction before, NMI, external interrupts. An exception that waits for the
 * event in delivery comes before its handler's first instruction.
 *
 * Read next: svm/event.c for the encoding.
 */
#include <linux/kernel.h>
#include <linux/string.h>
#include <uapi/asm/debugreg.h>

#include "hw_ops.h"
#include "trace.h"

/* Classes for double faults: AMD APM vol. 2, "#DF - Double-Fault Exception". */
static bool is_contributory(u8 vector)
{
	return vector == X86_TRAP_DE || (vector >= X86_TRAP_TS && vector <= X86_TRAP_GP);
}

/*
 * A second exception while the first is being delivered:
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

#define DR6_ACTIVE_HIGH	(DR_TRAP_BITS | BIT(13) | DR_STEP | DR_SWITCH)
#define DR6_ACTIVE_LOW	(BIT(11) | BIT(16))		/* a payload has them the other way round */

/* What userspace gave with vcpu->exception takes effect when that is delivered. */
static void deliver_payload(struct mkvm_vcpu *vcpu)
{
	u64 payload = vcpu->payload, dr6;

	if (!vcpu->has_payload)
		return;
	vcpu->has_payload = false;
	if (vcpu->exception.vector == X86_TRAP_PF) {
		mkvm_hw->set_cr(vcpu, 2, payload);
	} else if (vcpu->exception.vector == X86_TRAP_DB) {
		dr6 = mkvm_hw->get_dr(vcpu, 6) & ~(u64)DR_TRAP_BITS;
		dr6 |= (payload & DR6_ACTIVE_HIGH) | DR6_ACTIVE_LOW;
		mkvm_hw->set_dr(vcpu, 6, dr6 & ~(payload & DR6_ACTIVE_LOW));
	}
}

/*
 * mkvm_queue_exception - the guest shall take an exception at the next entry
 *
 * Merges with one that was being delivered. Context: own thread.
 */
void mkvm_queue_exception(struct mkvm_vcpu *vcpu, u8 vector, bool has_error, u32 error)
{
	const struct mkvm_event *first = vcpu->event.type == MKVM_EV_EXCEPTION ? &vcpu->event :
					 vcpu->exception.type ? &vcpu->exception : NULL;
	int merged = first ? merge_faults(first->vector, vector) : vector;

	if (merged < 0) {
		vcpu->triple_fault = true;
		return;
	}
	if (merged != vector) {
		has_error = true;
		error = 0;
	}
	if (first == &vcpu->event)
		vcpu->event.type = MKVM_EV_NONE;
	else if (first)
		deliver_payload(vcpu);
	vcpu->has_payload = false;
	vcpu->exception = (struct mkvm_event) {
		.type = MKVM_EV_EXCEPTION, .vector = merged, .has_error = has_error, .error = error,
	};
}

/* Traps and aborts leave RFLAGS.RF in the handler's frame as it is. AMD APM vol. 2, "Exception Types". */
static bool is_fault(u8 vector)
{
	return vector != X86_TRAP_DB && vector != X86_TRAP_BP && vector != X86_TRAP_OF && vector != X86_TRAP_DF &&
	       vector != X86_TRAP_MC;
}

/* vcpu->exception is on its way in now: vcpu->event, which is empty. */
static void deliver_exception(struct mkvm_vcpu *vcpu)
{
	deliver_payload(vcpu);
	if (vcpu->exception.vector == X86_TRAP_DB)	/* its handler may use the debug registers */
		mkvm_hw->set_dr(vcpu, 7, mkvm_hw->get_dr(vcpu, 7) & ~(u64)MKVM_DR7_GD);
	if (is_fault(vcpu->exception.vector))
		vcpu->rflags |= X86_EFLAGS_RF;
	vcpu->event = vcpu->exception;
	vcpu->exception.type = MKVM_EV_NONE;
}

/*
 * mkvm_queue_machine_check - the guest shall take #MC at the next entry
 *
 * It has nothing to do with the event in delivery or with an exception of the instruction
 * before, so it merges with neither: they come, and #MC before their handler's first
 * instruction. Where both are there already it takes the place of the exception. Own thread.
 */
void mkvm_queue_machine_check(struct mkvm_vcpu *vcpu)
{
	if (vcpu->exception.type != MKVM_EV_NONE && vcpu->event.type == MKVM_EV_NONE)
		deliver_exception(vcpu);
	vcpu->has_payload = false;
	vcpu->exception = (struct mkvm_event) { .type = MKVM_EV_EXCEPTION, .vector = X86_TRAP_MC };
}

void mkvm_queue_page_fault(struct mkvm_vcpu *vcpu, u64 cr2, u32 error)
{
	mkvm_hw->set_cr(vcpu, 2, cr2);
	mkvm_queue_exception(vcpu, X86_TRAP_PF, true, error);
}

/* ---- INIT and SIPI ---- */

/*
 * Takes INIT and SIPI out of the pending word, both in one step: a SIPI that stands
 * beside an INIT came after it. The only place where they become state. In SMM an INIT
 * stays where it is until RSM, and a SIPI is lost (AMD APM vol. 2, "SMM Execution
 * Environment").
 * Intel SDM vol. 3, "MP Initialization Protocol".
 */
void mkvm_accept_init_sipi(struct mkvm_vcpu *vcpu)
{
	const unsigned long init = MKVM_PEND_BOTH(MKVM_PEND_INIT);
	const unsigned long sipi = MKVM_PEND_BOTH(MKVM_PEND_SIPI);
	unsigned long bits = atomic_long_fetch_andnot(vcpu->in_smm ? sipi : init | sipi,
						      (atomic_long_t *)&vcpu->pending);
	struct kvm_segment cs = { .limit = 0xffff, .type = 0xb, .present = 1, .s = 1 };
	u32 state;

	if (vcpu->in_smm) {
		if (bits & BIT(MKVM_PEND_SIPI))
			mkvm_trace(consume, vcpu, MKVM_PEND_SIPI, bits, "in-SMM");
		return;
	}
	if (bits & BIT(MKVM_PEND_INIT)) {
		mkvm_trace(consume, vcpu, MKVM_PEND_INIT, bits, "taken");
		mkvm_vcpu_reset(vcpu, true);
		state = vcpu->id == vcpu->vm->bsp_id ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_INIT_RECEIVED;
		trace_mp_state(vcpu, mkvm_mp_state_name(state), "INIT");
		WRITE_ONCE(vcpu->mp_state, state);
	}
	if (!(bits & BIT(MKVM_PEND_SIPI)))
		return;
	mkvm_trace(consume, vcpu, MKVM_PEND_SIPI, bits & ~init,
		   vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED ? "taken" : "not-waiting");
	if (vcpu->mp_state != KVM_MP_STATE_INIT_RECEIVED)
		return;
	cs.selector = READ_ONCE(vcpu->sipi_vector) << 8;
	cs.base = cs.selector << 4;
	mkvm_hw->set_segment(vcpu, MKVM_CS, &cs);
	vcpu->rip = 0;
	trace_mp_state(vcpu, "RUNNABLE", "SIPI");
	WRITE_ONCE(vcpu->mp_state, KVM_MP_STATE_RUNNABLE);
}

/* ---- interrupts ---- */

static bool accepts_extint(struct mkvm_vcpu *vcpu)
{
	return !vcpu->lapic || mkvm_lapic_accepts_pic(vcpu->lapic);
}

/* Does the PIC, or userspace in its place, have an interrupt that gets through? Any context: a snapshot. */
bool mkvm_has_extint(struct mkvm_vcpu *vcpu)
{
	return accepts_extint(vcpu) &&
	       (vcpu->user_pic ? vcpu->user_vector >= 0 : mkvm_pic_output(vcpu->vm->pic));
}

/* Is there an interrupt that waits, whether or not it can be taken now? */
static bool has_interrupt(struct mkvm_vcpu *vcpu)
{
	return (vcpu->lapic && mkvm_lapic_pending(vcpu->lapic) >= 0) || mkvm_has_extint(vcpu);
}

/* Takes the interrupt from its source, which now holds it in service. ExtINT comes first, as in hardware. */
static int take_interrupt(struct mkvm_vcpu *vcpu)
{
	int vector;

	if (mkvm_has_extint(vcpu)) {
		if (!vcpu->user_pic) {
			vector = mkvm_pic_ack(vcpu->vm->pic);
		} else {
			vector = vcpu->user_vector;
			vcpu->user_vector = -1;
		}
		mkvm_trace(took_extint, vcpu);
		return vector;
	}
	vector = vcpu->lapic ? mkvm_lapic_pending(vcpu->lapic) : -1;
	if (vector >= 0)
		mkvm_lapic_ack(vcpu->lapic, vector);
	return vector;
}

/* Userspace steps through the guest and wants no handlers between. */
static bool irqs_blocked(struct mkvm_vcpu *vcpu)
{
	return vcpu->debug.control & KVM_GUESTDBG_BLOCKIRQ;
}

/* IF and the shadow let an interrupt in, and nothing else is being delivered. Own thread. */
static bool interrupt_allowed(struct mkvm_vcpu *vcpu)
{
	return (vcpu->rflags & X86_EFLAGS_IF) && !mkvm_hw->get_shadow(vcpu) && !irqs_blocked(vcpu) &&
	       vcpu->event.type == MKVM_EV_NONE && vcpu->exception.type == MKVM_EV_NONE;
}

static bool nmi_allowed(struct mkvm_vcpu *vcpu)
{
	return !mkvm_hw->nmi_masked(vcpu) && !mkvm_hw->get_shadow(vcpu) && !irqs_blocked(vcpu);
}

/* Would this vCPU leave HLT? Own thread. */
bool mkvm_wakes_halted(struct mkvm_vcpu *vcpu)
{
	if (vcpu->event.type || vcpu->exception.type)
		return true;
	if ((READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI)) && !mkvm_hw->nmi_masked(vcpu))
		return true;
	return (vcpu->rflags & X86_EFLAGS_IF) && has_interrupt(vcpu);
}

/* There is room for a KVM_INTERRUPT whose vector would go into the guest at the next entry. Own thread. */
bool mkvm_ready_for_user_interrupt(struct mkvm_vcpu *vcpu)
{
	return vcpu->user_vector < 0 && accepts_extint(vcpu) && interrupt_allowed(vcpu);
}

/* Has userspace asked to be told when it may call KVM_INTERRUPT, and may it now? Own thread. */
bool mkvm_user_window_open(struct mkvm_vcpu *vcpu)
{
	return vcpu->user_pic && READ_ONCE(vcpu->run->request_interrupt_window) &&
	       mkvm_ready_for_user_interrupt(vcpu);
}

/*
 * The interrupt that a CPU has acknowledged and not yet taken, -1: none. Without LAPIC a
 * vector from KVM_INTERRUPT is one.
 */
int mkvm_interrupt_get(struct mkvm_vcpu *vcpu)
{
	if (vcpu->event.type == MKVM_EV_INTR)
		return vcpu->event.vector;
	return vcpu->lapic ? -1 : vcpu->user_vector;
}

/* ---- the choice ---- */

/* Takes the first NMI out of the pending word; the second moves up. */
static void take_nmi(struct mkvm_vcpu *vcpu, const char *how)
{
	unsigned long old = READ_ONCE(vcpu->pending), new;

	do {
		new = old & ~(MKVM_PEND_BOTH(MKVM_PEND_NMI) | MKVM_PEND_BOTH(MKVM_PEND_NMI2));
		new |= (old & MKVM_PEND_BOTH(MKVM_PEND_NMI2)) >> (MKVM_PEND_NMI2 - MKVM_PEND_NMI);
	} while (!try_cmpxchg(&vcpu->pending, &old, new));
	mkvm_trace(consume, vcpu, MKVM_PEND_NMI, old, how);
}

/* While the guest handles an NMI just one more can wait (AMD APM vol. 2, "NMI - Non-Maskable-Interrupt"). */
static void merge_nmis(struct mkvm_vcpu *vcpu)
{
	unsigned long old = READ_ONCE(vcpu->pending);

	if (likely(!(old & BIT(MKVM_PEND_NMI2))) || !mkvm_hw->nmi_masked(vcpu))
		return;
	mkvm_trace(consume, vcpu, MKVM_PEND_NMI2, old, "merged");
	atomic_long_andnot(MKVM_PEND_BOTH(MKVM_PEND_NMI2), (atomic_long_t *)&vcpu->pending);
}

/* Moves the next event that may be delivered to vcpu->event, which is empty. */
static void choose_event(struct mkvm_vcpu *vcpu)
{
	int vector;

	if (vcpu->exception.type) {
		deliver_exception(vcpu);
		return;
	}
	if ((READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI)) && nmi_allowed(vcpu)) {
		take_nmi(vcpu, "taken");
		mkvm_hw->set_nmi_masked(vcpu, true);
		vcpu->event = (struct mkvm_event) { .type = MKVM_EV_NMI, .vector = X86_TRAP_NMI };
		vcpu->stats[MKVM_STAT_NMI_INJECTIONS]++;
		return;
	}
	if (interrupt_allowed(vcpu) && has_interrupt(vcpu)) {
		vector = take_interrupt(vcpu);
		if (vector < 0)
			return;
		vcpu->event = (struct mkvm_event) { .type = MKVM_EV_INTR, .vector = vector };
		vcpu->stats[MKVM_STAT_IRQ_INJECTIONS]++;
	}
}

/*
 * mkvm_events_inject - before an entry: hand the next event to the CPU, open windows for the rest
 *
 * May run several times before the guest is entered; what is in vcpu->event stays there
 * until the exit says whether it was delivered. Context: own thread, preemption on.
 */
void mkvm_events_inject(struct mkvm_vcpu *vcpu)
{
	bool irq, nmi, again = vcpu->event.type != MKVM_EV_NONE;
	unsigned long pending;

	clear_bit(MKVM_PEND_EVENT, &vcpu->pending);
	smp_mb__after_atomic();		/* before IRR is read: a later interrupt sets the bit again */
	merge_nmis(vcpu);
	if (!again)
		choose_event(vcpu);
	mkvm_trace(inject, vcpu, again);
	mkvm_hw->inject(vcpu, &vcpu->event);

	pending = READ_ONCE(vcpu->pending);
	vcpu->waiting = pending & (BIT(MKVM_PEND_NMI) | (mkvm_hw->nmi_masked(vcpu) ? 0 : BIT(MKVM_PEND_NMI2)));
	if (vcpu->in_smm)
		vcpu->waiting |= BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SMI);
	/* An SMI comes between instructions: when the event has gone in, before its handler's first. */
	vcpu->exit_soon = !vcpu->in_smm && (pending & BIT(MKVM_PEND_SMI)) && vcpu->event.type != MKVM_EV_NONE;
	if (vcpu->exit_soon)
		vcpu->waiting |= BIT(MKVM_PEND_SMI);
	/*
	 * A step into a handler ends before its first instruction, too; TF would go onto the guest's
	 * stack.
	 */
	nmi = (pending & BIT(MKVM_PEND_NMI)) && !irqs_blocked(vcpu);
	vcpu->exit_soon |= vcpu->event.type != MKVM_EV_NONE &&
			   (nmi || vcpu->exception.type != MKVM_EV_NONE ||
			    (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP));
	irq = has_interrupt(vcpu) ||
	      (vcpu->user_pic && READ_ONCE(vcpu->run->request_interrupt_window) && accepts_extint(vcpu));
	irq = irq && !irqs_blocked(vcpu);
	mkvm_trace(blocked, vcpu, irq, nmi);
	mkvm_hw->open_window(vcpu, irq, nmi);
}

/* ---- KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS ---- */

/* The bits of the pending word that userspace's copy tells of. */
static unsigned long events_told(const struct kvm_vcpu_events *ev)
{
	return (ev->nmi.pending ? BIT(MKVM_PEND_NMI) : 0) | (ev->nmi.pending > 1 ? BIT(MKVM_PEND_NMI2) : 0) |
	       (ev->smi.pending ? BIT(MKVM_PEND_SMI) : 0) |
	       (ev->smi.latched_init ? BIT(MKVM_PEND_INIT) : 0);
}

/* Userspace has this copy: what it tells of loses its "unseen" mark, so that a later SET may remove it. */
void mkvm_events_seen(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev)
{
	unsigned long seen = events_told(ev);

	trace_events_get(vcpu, seen, 0, 0);
	atomic_long_andnot(seen << MKVM_PEND_UNSEEN, (atomic_long_t *)&vcpu->pending);
}

/* mkvm_events_get - KVM_GET_VCPU_EVENTS; mkvm_events_seen follows. Context: vcpu->mutex held. */
void mkvm_events_get(struct mkvm_vcpu *vcpu, struct kvm_vcpu_events *ev)
{
	unsigned long bits;
	/* One can be told. Of two the raised one is #MC; the other, a fault, comes again. */
	bool raised = vcpu->exception.type != MKVM_EV_NONE || vcpu->event.type != MKVM_EV_EXCEPTION;
	const struct mkvm_event *x = raised ? &vcpu->exception : &vcpu->event;

	merge_nmis(vcpu);
	bits = READ_ONCE(vcpu->pending);
	memset(ev, 0, sizeof(*ev));
	ev->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
	if (x->type != MKVM_EV_NONE) {
		ev->exception.pending = x == &vcpu->exception && vcpu->vm->payload_events;
		ev->exception.injected = !ev->exception.pending;
		ev->exception.nr = x->vector;
		ev->exception.has_error_code = x->has_error;
		ev->exception.error_code = x->error;
	}
	if (vcpu->vm->payload_events) {
		ev->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
		ev->exception_has_payload = ev->exception.pending && vcpu->has_payload;
		ev->exception_payload = ev->exception_has_payload ? vcpu->payload : 0;
	}
	if (vcpu->vm->triple_fault_events) {
		ev->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		ev->triple_fault.pending = vcpu->triple_fault;
	}
	ev->interrupt.soft = vcpu->event.type == MKVM_EV_SOFT;
	ev->interrupt.injected = ev->interrupt.soft || mkvm_interrupt_get(vcpu) >= 0;
	if (ev->interrupt.injected)
		ev->interrupt.nr = ev->interrupt.soft ? vcpu->event.vector : mkvm_interrupt_get(vcpu);
	ev->interrupt.shadow = mkvm_hw->get_shadow(vcpu);
	ev->nmi.injected = vcpu->event.type == MKVM_EV_NMI;
	ev->nmi.pending = !!(bits & BIT(MKVM_PEND_NMI)) + !!(bits & BIT(MKVM_PEND_NMI2));	/* as later kernels */
	ev->nmi.masked = mkvm_hw->nmi_masked(vcpu);
	ev->smi.smm = vcpu->in_smm;
	ev->smi.pending = !!(bits & BIT(MKVM_PEND_SMI));
	ev->smi.smm_inside_nmi = vcpu->smm_inside_nmi;
	ev->smi.latched_init = !!(bits & BIT(MKVM_PEND_INIT));
}

/* Sets an asynchronous event, or clears it unless it came after the last KVM_GET_VCPU_EVENTS. */
static void set_pending(struct mkvm_vcpu *vcpu, enum mkvm_pending bit, bool set)
{
	unsigned long old = READ_ONCE(vcpu->pending), new;

	do {
		if (set) {
			new = old | BIT(bit);
		} else if (old & BIT(bit + MKVM_PEND_UNSEEN)) {
			vcpu->ids.refused |= BIT(bit);
			return;
		} else {
			new = old & ~BIT(bit);
		}
	} while (!try_cmpxchg(&vcpu->pending, &old, new));
	if (~old & new & BIT(bit)) {
		mkvm_trace(raise_post, vcpu, bit, "set_events");
		mkvm_trace(pend, vcpu, bit, old, new, "set-events");
	} else if (old & ~new & BIT(bit)) {
		mkvm_trace(consume, vcpu, bit, old, "set-events");
	}
}

/* An NMI that is not removed moves up where the one before it is. */
static void set_nmis_pending(struct mkvm_vcpu *vcpu, unsigned int nr)
{
	unsigned long seen = BIT(MKVM_PEND_NMI);

	set_pending(vcpu, MKVM_PEND_NMI2, false);
	while (!nr && (READ_ONCE(vcpu->pending) & MKVM_PEND_BOTH(MKVM_PEND_NMI)) == seen)
		take_nmi(vcpu, "set-events");
	set_pending(vcpu, MKVM_PEND_NMI, nr);
	if (nr > 1)
		set_pending(vcpu, MKVM_PEND_NMI2, true);
}

/*
 * An interrupt takes the place of what is being delivered: a CPU that has acknowledged an
 * interrupt cannot let it wait. The other comes right behind it.
 */
static void make_event_wait(struct mkvm_vcpu *vcpu)
{
	bool second = READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_NMI);

	if (vcpu->event.type == MKVM_EV_NMI) {
		set_pending(vcpu, second ? MKVM_PEND_NMI2 : MKVM_PEND_NMI, true);
		mkvm_hw->set_nmi_masked(vcpu, false);
	} else if (vcpu->event.type == MKVM_EV_EXCEPTION && vcpu->exception.type == MKVM_EV_NONE) {
		vcpu->exception = vcpu->event;
		vcpu->has_payload = false;
	}
}

/*
 * The way back of mkvm_interrupt_get. Without LAPIC it waits for IF, since it may not have
 * been on its way in.
 */
void mkvm_interrupt_set(struct mkvm_vcpu *vcpu, u8 vector)
{
	if (vcpu->lapic) {
		make_event_wait(vcpu);
		vcpu->event = (struct mkvm_event) { .type = MKVM_EV_INTR, .vector = vector };
		return;
	}
	if (vcpu->event.type == MKVM_EV_INTR)
		vcpu->event.type = MKVM_EV_NONE;
	vcpu->user_vector = vector;
}

/* Without its flag exception.pending was padding once: it is not looked at. */
static bool exception_pending(const struct kvm_vcpu_events *ev)
{
	return (ev->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && ev->exception.pending;
}

static void set_interrupt(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev)
{
	if (!ev->interrupt.soft) {
		mkvm_interrupt_set(vcpu, ev->interrupt.nr);
		return;
	}
	make_event_wait(vcpu);
	vcpu->event = (struct mkvm_event) { .type = MKVM_EV_SOFT, .vector = ev->interrupt.nr };
}

/* mkvm_events_valid - would mkvm_events_set take this copy? Context: vcpu->mutex held. */
bool mkvm_events_valid(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev)
{
	const u32 known = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			  KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM |
			  (vcpu->vm->payload_events ? KVM_VCPUEVENT_VALID_PAYLOAD : 0) |
			  (vcpu->vm->triple_fault_events ? KVM_VCPUEVENT_VALID_TRIPLE_FAULT : 0);

	if ((ev->flags & ~known) || memchr_inv(ev->reserved, 0, sizeof(ev->reserved)))
		return false;
	if ((ev->exception.injected || exception_pending(ev)) &&
	    (ev->exception.nr > 31 || ev->exception.nr == X86_TRAP_NMI))
		return false;
	if ((ev->flags & KVM_VCPUEVENT_VALID_SHADOW) &&
	    (ev->interrupt.shadow & ~(KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI)))
		return false;
	if ((ev->flags & KVM_VCPUEVENT_VALID_SMM) && ev->smi.smm && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return false;		/* in SMM INIT stays latched */
	return true;
}

/*
 * mkvm_events_set - KVM_SET_VCPU_EVENTS
 *
 * An INIT, NMI or SMI that arrived after the last KVM_GET_VCPU_EVENTS stays, whatever this
 * copy says of it: its author did not know of it. Of several events in delivery none is
 * lost: the interrupt goes in first, the NMI and the exception right behind it.
 *
 * Context: vcpu->mutex held.
 * Return: -EINVAL for unknown flags and impossible values; nothing has changed then.
 */
int mkvm_events_set(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev)
{
	const struct mkvm_event exception = {
		.type = MKVM_EV_EXCEPTION, .vector = ev->exception.nr,
		.has_error = ev->exception.has_error_code, .error = ev->exception.error_code,
	};

	if (!mkvm_events_valid(vcpu, ev)) {
		trace_events_set(vcpu, events_told(ev), 0, -EINVAL);
		return -EINVAL;
	}
	if (ev->nmi.injected || (ev->interrupt.injected && !ev->interrupt.soft))
		mkvm_trace(restore_event, vcpu, ev->nmi.injected ? X86_TRAP_NMI : ev->interrupt.nr,
			   "set_events");
	vcpu->ids.refused = 0;
	vcpu->exception.type = MKVM_EV_NONE;
	vcpu->event.type = MKVM_EV_NONE;
	if (!vcpu->lapic)
		vcpu->user_vector = -1;
	if (ev->nmi.injected)
		vcpu->event = (struct mkvm_event) { .type = MKVM_EV_NMI, .vector = X86_TRAP_NMI };
	if (exception_pending(ev) || (ev->exception.injected && ev->nmi.injected))
		vcpu->exception = exception;
	else if (ev->exception.injected)
		vcpu->event = exception;
	vcpu->has_payload = exception_pending(ev) && ev->exception_has_payload;
	vcpu->payload = ev->exception_payload;
	if (ev->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		vcpu->triple_fault = ev->triple_fault.pending;
	if (ev->flags & KVM_VCPUEVENT_VALID_SHADOW)
		mkvm_hw->set_shadow(vcpu, ev->interrupt.shadow);
	if (ev->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		set_nmis_pending(vcpu, ev->nmi.pending);
	mkvm_hw->set_nmi_masked(vcpu, ev->nmi.masked);
	if (ev->interrupt.injected)	/* as the last: an NMI that it takes the place of waits */
		set_interrupt(vcpu, ev);
	if (ev->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		WRITE_ONCE(vcpu->sipi_vector, ev->sipi_vector);
	if (ev->flags & KVM_VCPUEVENT_VALID_SMM) {
		if (vcpu->in_smm != !!ev->smi.smm)
			mkvm_smm_set(vcpu, ev->smi.smm);
		vcpu->smm_inside_nmi = ev->smi.smm && ev->smi.smm_inside_nmi;
		set_pending(vcpu, MKVM_PEND_SMI, ev->smi.pending);
		if (vcpu->lapic)
			set_pending(vcpu, MKVM_PEND_INIT, ev->smi.latched_init);
	}
	trace_events_set(vcpu, events_told(ev), vcpu->ids.refused, 0);
	set_bit(MKVM_PEND_EVENT, &vcpu->pending);
	return 0;
}
