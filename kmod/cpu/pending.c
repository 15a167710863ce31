// SPDX-License-Identifier: GPL-2.0
/*
 * pending.c - the pending word of a vCPU: INIT, SIPI, NMI, SMI and requests to look again.
 *
 * Any thread posts a bit and kicks; the vCPU's own thread consumes it. Only this file changes
 * the word, so an event that is lost or counted twice is a bug of this file.
 *
 * State: vcpu->pending, with an "unseen" mark for each bit that was posted since userspace's
 * last KVM_GET_VCPU_EVENTS; vcpu->where, which says how to reach the vCPU. The vCPU looks at
 * the word after it has announced where it goes (into the guest, to sleep), so a bit is either
 * seen or followed by an IPI or a wake-up.
 *
 * Read next: mp_state.c (INIT and SIPI), inject.c (NMI and interrupts), smm.c (SMI).
 */
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <trace/events/ipi.h>

#include "internal.h"
#include "compat.h"
#include "explain/trace.h"

/* ---- posting: any context ---- */

/*
 * mkvm_vcpu_kick - make a vCPU look at its pending word soon
 *
 * It wakes up if it sleeps, and exits if it is in the guest. The caller has already written the bit
 * or state that the vCPU is to see. Context: any.
 */
void mkvm_vcpu_kick(struct mkvm_vcpu *vcpu)
{
	int cpu, me, woken;

	if (READ_ONCE(vcpu->task) == current && in_task())
		return;
	woken = rcuwait_wake_up(&vcpu->wait);	/* a full barrier: first the bit, then where */
	if (READ_ONCE(vcpu->where) != MKVM_IN_GUEST) {
		trace_kick(vcpu, woken ? "wake" : "none", "");
		return;
	}
	me = get_cpu();
	cpu = READ_ONCE(vcpu->cpu);
	if (cpu != me && cpu >= 0 &&
	    cmpxchg(&vcpu->where, MKVM_IN_GUEST, MKVM_EXITING) == MKVM_IN_GUEST) {
		trace_kick(vcpu, "ipi", "");
		smp_send_reschedule(cpu);
	}
	put_cpu();
}

/* Sets a bit of the pending word together with its "unseen" mark, and kicks. Any context. */
void mkvm_vcpu_post(struct mkvm_vcpu *vcpu, enum mkvm_pending bit)
{
	unsigned long bits = MKVM_PEND_MARKED(bit);
	unsigned long old = atomic_long_fetch_or(bits, (atomic_long_t *)&vcpu->pending);

	mkvm_trace(pend, vcpu, bit, old, old | bits, "posted");
	mkvm_vcpu_kick(vcpu);
}

void mkvm_vcpu_kick_event(struct mkvm_vcpu *vcpu)
{
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	smp_mb__after_atomic();
	mkvm_vcpu_kick(vcpu);
}

void mkvm_vcpu_post_nmi(struct mkvm_vcpu *vcpu)
{
	unsigned long old = READ_ONCE(vcpu->pending), new;
	enum mkvm_pending bit;

	do {
		bit = old & BIT(MKVM_PEND_NMI) ? MKVM_PEND_NMI2 : MKVM_PEND_NMI;
		new = old | MKVM_PEND_MARKED(bit);
	} while (!try_cmpxchg(&vcpu->pending, &old, new));
	mkvm_trace(pend, vcpu, bit, old, new, "posted");
	mkvm_vcpu_kick(vcpu);
}

void mkvm_vcpu_post_smi(struct mkvm_vcpu *vcpu)
{
	mkvm_vcpu_post(vcpu, MKVM_PEND_SMI);
}

/*
 * Posts INIT and drops an earlier SIPI in one step, so that a SIPI beside an INIT is always the
 * later one. Any context.
 */
void mkvm_vcpu_post_init(struct mkvm_vcpu *vcpu)
{
	unsigned long old = READ_ONCE(vcpu->pending), new;

	do {
		new = (old & ~MKVM_PEND_MARKED(MKVM_PEND_SIPI)) | MKVM_PEND_MARKED(MKVM_PEND_INIT);
	} while (!try_cmpxchg(&vcpu->pending, &old, new));
	mkvm_trace(pend, vcpu, MKVM_PEND_INIT, old, new, "posted");
	mkvm_vcpu_kick(vcpu);
}

void mkvm_vcpu_post_sipi(struct mkvm_vcpu *vcpu, u8 vector)
{
	WRITE_ONCE(vcpu->sipi_vector, vector);
	smp_wmb();	/* the vector before the bit */
	mkvm_vcpu_post(vcpu, MKVM_PEND_SIPI);
}

/* ---- reports to userspace that wait for the end of an exit: own thread ---- */

/* An IOAPIC in userspace waits for this EOI. Own thread. */
void mkvm_vcpu_report_eoi(struct mkvm_vcpu *vcpu, u8 vector)
{
	vcpu->user_irqchip.eoi_vector = vector;
	mkvm_pending_set(vcpu, MKVM_PEND_REPORT);
}

/* The guest's instruction at RIP accesses the TPR register. Own thread. */
void mkvm_vcpu_report_tpr(struct mkvm_vcpu *vcpu, bool write)
{
	if (!vcpu->user_irqchip.report_tpr)
		return;
	vcpu->user_irqchip.tpr_access = write ? 2 : 1;
	vcpu->user_irqchip.tpr_rip = vcpu->rip;
	mkvm_pending_set(vcpu, MKVM_PEND_REPORT);
}

/* ---- consuming: own thread ---- */

/*
 * mkvm_pending_take_init_sipi - take INIT and SIPI out of the pending word in one step
 *
 * A SIPI beside an INIT was posted after it. In SMM an INIT stays until RSM, and a SIPI is lost
 * (AMD APM vol. 2, "SMM Execution Environment"). Return: the bits that were taken.
 */
unsigned long mkvm_pending_take_init_sipi(struct mkvm_vcpu *vcpu)
{
	const unsigned long init = MKVM_PEND_MARKED(MKVM_PEND_INIT);
	const unsigned long sipi = MKVM_PEND_MARKED(MKVM_PEND_SIPI);
	unsigned long taken = vcpu->smm.active ? sipi : init | sipi;

	return atomic_long_fetch_andnot(taken, (atomic_long_t *)&vcpu->pending) & taken;
}

/* The guest takes its SMI. */
void mkvm_pending_take_smi(struct mkvm_vcpu *vcpu)
{
	mkvm_trace(consume, vcpu, MKVM_PEND_SMI, READ_ONCE(vcpu->pending), "taken");
	atomic_long_andnot(MKVM_PEND_MARKED(MKVM_PEND_SMI), (atomic_long_t *)&vcpu->pending);
}

/* Drops the pending NMIs at a reset or an INIT. */
void mkvm_pending_drop_nmis(struct mkvm_vcpu *vcpu)
{
	atomic_long_andnot(MKVM_PEND_MARKED(MKVM_PEND_NMI) | MKVM_PEND_MARKED(MKVM_PEND_NMI2),
			   (atomic_long_t *)&vcpu->pending);
}

/* Userspace has read these bits: a later KVM_SET_VCPU_EVENTS may remove them. */
void mkvm_pending_seen(struct mkvm_vcpu *vcpu, unsigned long bits)
{
	atomic_long_andnot(bits << MKVM_PEND_UNSEEN, (atomic_long_t *)&vcpu->pending);
}

/* Takes the first NMI out of the pending word; the second one becomes the first. */
void mkvm_pending_take_nmi(struct mkvm_vcpu *vcpu, const char *how)
{
	unsigned long old = READ_ONCE(vcpu->pending), new;

	do {
		new = old & ~(MKVM_PEND_MARKED(MKVM_PEND_NMI) | MKVM_PEND_MARKED(MKVM_PEND_NMI2));
		new |= (old & MKVM_PEND_MARKED(MKVM_PEND_NMI2)) >> (MKVM_PEND_NMI2 - MKVM_PEND_NMI);
	} while (!try_cmpxchg(&vcpu->pending, &old, new));
	mkvm_trace(consume, vcpu, MKVM_PEND_NMI, old, how);
}

/*
 * Drops the second NMI while NMIs are masked: while the guest handles an NMI, only one more can be
 * pending (AMD APM vol. 2, "NMI - Non-Maskable-Interrupt").
 */
void mkvm_pending_merge_nmis(struct mkvm_vcpu *vcpu)
{
	unsigned long old = READ_ONCE(vcpu->pending);

	if (likely(!(old & BIT(MKVM_PEND_NMI2))) || !mkvm_hw->nmi_masked(vcpu))
		return;
	mkvm_trace(consume, vcpu, MKVM_PEND_NMI2, old, "merged");
	atomic_long_andnot(MKVM_PEND_MARKED(MKVM_PEND_NMI2), (atomic_long_t *)&vcpu->pending);
}

/*
 * Sets a bit for userspace, or clears it unless it was posted after the last KVM_GET_VCPU_EVENTS.
 */
void mkvm_pending_restore(struct mkvm_vcpu *vcpu, enum mkvm_pending bit, bool set)
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

/*
 * Restores the number of pending NMIs. If only the first one is removed, the second becomes the
 * first.
 */
void mkvm_pending_restore_nmis(struct mkvm_vcpu *vcpu, unsigned int nr)
{
	unsigned long seen = BIT(MKVM_PEND_NMI);

	mkvm_pending_restore(vcpu, MKVM_PEND_NMI2, false);
	while (!nr && (READ_ONCE(vcpu->pending) & MKVM_PEND_MARKED(MKVM_PEND_NMI)) == seen)
		mkvm_pending_take_nmi(vcpu, "set-events");
	mkvm_pending_restore(vcpu, MKVM_PEND_NMI, nr);
	if (nr > 1)
		mkvm_pending_restore(vcpu, MKVM_PEND_NMI2, true);
}
