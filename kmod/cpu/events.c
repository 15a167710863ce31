// SPDX-License-Identifier: GPL-2.0
/*
 * events.c - KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS.
 *
 * Userspace reads all events at once and writes all of them back, while other threads post new
 * ones. It cannot remove an event that it has not read: pending.c keeps an "unseen" mark for
 * each bit.
 *
 * State: none of its own. Read next: inject.c (vcpu->ev.delivering, vcpu->ev.raised), pending.c.
 */
#include <linux/kernel.h>
#include <linux/string.h>

#include "internal.h"
#include "explain/trace.h"

/* Returns the bits of the pending word that are set in userspace's copy. */
static unsigned long events_seen(const struct kvm_vcpu_events *ev)
{
	return (ev->nmi.pending ? BIT(MKVM_PEND_NMI) : 0) |
	       (ev->nmi.pending > 1 ? BIT(MKVM_PEND_NMI2) : 0) |
	       (ev->smi.pending ? BIT(MKVM_PEND_SMI) : 0) |
	       (ev->smi.latched_init ? BIT(MKVM_PEND_INIT) : 0);
}

/*
 * mkvm_events_seen - userspace has received this copy
 *
 * The events in it lose their "unseen" marks, so that a later KVM_SET_VCPU_EVENTS may remove them.
 * Context: vcpu->mutex held.
 */
void mkvm_events_seen(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev)
{
	unsigned long seen = events_seen(ev);

	trace_events_get(vcpu, seen, 0, 0);
	mkvm_pending_seen(vcpu, seen);
}

/* mkvm_events_get - KVM_GET_VCPU_EVENTS; mkvm_events_seen follows. Context: vcpu->mutex held. */
void mkvm_events_get(struct mkvm_vcpu *vcpu, struct kvm_vcpu_events *ev)
{
	unsigned long bits;
	/*
	 * The copy has room for one. Of two the raised one is #MC; the other, a fault, occurs
	 * again.
	 */
	bool raised = vcpu->ev.raised.type != MKVM_EV_NONE ||
		      vcpu->ev.delivering.type != MKVM_EV_EXCEPTION;
	const struct mkvm_event *x = raised ? &vcpu->ev.raised : &vcpu->ev.delivering;

	mkvm_payload_settle(vcpu);
	mkvm_pending_merge_nmis(vcpu);
	bits = READ_ONCE(vcpu->pending);
	memset(ev, 0, sizeof(*ev));
	ev->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
		    KVM_VCPUEVENT_VALID_SMM;
	if (x->type != MKVM_EV_NONE) {
		ev->exception.pending = x == &vcpu->ev.raised && vcpu->vm->payload_events;
		ev->exception.injected = !ev->exception.pending;
		ev->exception.nr = x->vector;
		ev->exception.has_error_code = x->has_error;
		ev->exception.error_code = x->error;
	}
	if (vcpu->vm->payload_events) {
		ev->flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
		ev->exception_has_payload = ev->exception.pending && vcpu->ev.has_payload;
		ev->exception_payload = ev->exception_has_payload ? vcpu->ev.payload : 0;
	}
	if (vcpu->vm->triple_fault_events) {
		ev->flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		ev->triple_fault.pending = vcpu->ev.triple_fault;
	}
	ev->interrupt.soft = vcpu->ev.delivering.type == MKVM_EV_SOFT;
	ev->interrupt.injected = ev->interrupt.soft || mkvm_interrupt_get(vcpu) >= 0;
	if (ev->interrupt.injected)
		ev->interrupt.nr = ev->interrupt.soft ? vcpu->ev.delivering.vector :
							mkvm_interrupt_get(vcpu);
	ev->interrupt.shadow = mkvm_hw->get_shadow(vcpu);
	ev->nmi.injected = vcpu->ev.delivering.type == MKVM_EV_NMI;
	ev->nmi.pending = !!(bits & BIT(MKVM_PEND_NMI)) +
			  !!(bits & BIT(MKVM_PEND_NMI2)); /* as later kernels */
	ev->nmi.masked = mkvm_hw->nmi_masked(vcpu);
	ev->smi.smm = vcpu->smm.active;
	ev->smi.pending = !!(bits & BIT(MKVM_PEND_SMI));
	ev->smi.smm_inside_nmi = vcpu->smm.inside_nmi;
	ev->smi.latched_init = !!(bits & BIT(MKVM_PEND_INIT));
}

/* Without its flag exception.pending is ignored: it used to be padding. */
static bool exception_pending(const struct kvm_vcpu_events *ev)
{
	return (ev->flags & KVM_VCPUEVENT_VALID_PAYLOAD) && ev->exception.pending;
}

/* mkvm_events_valid - whether mkvm_events_set would accept this copy. Context: vcpu->mutex held. */
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
	if ((ev->flags & KVM_VCPUEVENT_VALID_SMM) && ev->smi.smm &&
	    vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED)
		return false;		/* an INIT stays latched in SMM */
	return true;
}

/*
 * mkvm_events_set - KVM_SET_VCPU_EVENTS
 *
 * An INIT, NMI or SMI that arrived after the last KVM_GET_VCPU_EVENTS stays pending even if this
 * copy does not have it, because its author did not know of it. None of several events in delivery
 * is lost: the interrupt is injected first, then the NMI and the exception.
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
		trace_events_set(vcpu, events_seen(ev), 0, -EINVAL);
		return -EINVAL;
	}
	if (ev->nmi.injected || (ev->interrupt.injected && !ev->interrupt.soft))
		mkvm_trace(restore_event, vcpu, ev->nmi.injected ? X86_TRAP_NMI : ev->interrupt.nr,
			   "set_events");
	vcpu->ids.refused = 0;
	vcpu->ev.raised.type = MKVM_EV_NONE;
	vcpu->ev.delivering.type = MKVM_EV_NONE;
	if (!vcpu->lapic)
		vcpu->user_irqchip.vector = -1;
	if (ev->nmi.injected)
		vcpu->ev.delivering =
			(struct mkvm_event){ .type = MKVM_EV_NMI, .vector = X86_TRAP_NMI };
	if (exception_pending(ev) || (ev->exception.injected && ev->nmi.injected))
		vcpu->ev.raised = exception;
	else if (ev->exception.injected)
		vcpu->ev.delivering = exception;
	vcpu->ev.has_payload = exception_pending(ev) && ev->exception_has_payload;
	vcpu->ev.payload = ev->exception_payload;
	if (ev->flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT)
		vcpu->ev.triple_fault = ev->triple_fault.pending;
	if (ev->flags & KVM_VCPUEVENT_VALID_SHADOW)
		mkvm_hw->set_shadow(vcpu, ev->interrupt.shadow);
	if (ev->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		mkvm_pending_restore_nmis(vcpu, ev->nmi.pending);
	mkvm_hw->set_nmi_masked(vcpu, ev->nmi.masked);
	/* This comes last: an NMI that it displaces becomes pending. */
	if (ev->interrupt.injected && ev->interrupt.soft)
		mkvm_restore_in_delivery(vcpu, MKVM_EV_SOFT, ev->interrupt.nr);
	else if (ev->interrupt.injected)
		mkvm_interrupt_set(vcpu, ev->interrupt.nr);
	if (ev->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR)
		WRITE_ONCE(vcpu->sipi_vector, ev->sipi_vector);
	if (ev->flags & KVM_VCPUEVENT_VALID_SMM) {
		if (vcpu->smm.active != !!ev->smi.smm)
			mkvm_smm_set(vcpu, ev->smi.smm);
		vcpu->smm.inside_nmi = ev->smi.smm && ev->smi.smm_inside_nmi;
		mkvm_pending_restore(vcpu, MKVM_PEND_SMI, ev->smi.pending);
		if (vcpu->lapic)
			mkvm_pending_restore(vcpu, MKVM_PEND_INIT, ev->smi.latched_init);
	}
	trace_events_set(vcpu, events_seen(ev), vcpu->ids.refused, 0);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 0;
}
