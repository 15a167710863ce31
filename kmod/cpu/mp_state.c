// SPDX-License-Identifier: GPL-2.0
/*
 * mp_state.c - the states RUNNABLE, HALTED, UNINITIALIZED and INIT_RECEIVED; reset; sleeping.
 *
 * This file makes all changes of mp_state. The legal ones are:
 *
 *   from \ by       INIT            SIPI        HLT      wake-up    KVM_SET_MP_STATE
 *   RUNNABLE        INIT_RECEIVED   -           HALTED   -          any
 *   HALTED          INIT_RECEIVED   -           -        RUNNABLE   any
 *   UNINITIALIZED   INIT_RECEIVED   -           -        -          any
 *   INIT_RECEIVED   INIT_RECEIVED   RUNNABLE    -        -          any
 *
 * INIT makes the boot processor RUNNABLE instead, and RSM may return to HALTED. Without an
 * in-kernel LAPIC "any" is RUNNABLE only. SIPI_RECEIVED set by userspace is INIT_RECEIVED with
 * a SIPI.
 *
 * State: vcpu->mp_state, which only the vCPU's own thread writes.
 *
 * Read next: pending.c, run.c.
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"
#include "compat.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

static void change(struct mkvm_vcpu *vcpu, u32 state, const char *why)
{
	trace_mp_state(vcpu, mkvm_mp_state_name(state), why);
	WRITE_ONCE(vcpu->mp_state, state);
}

/* ---- reset ---- */

#define NO_CPUID_SIGNATURE 0x600	/* RDX where CPUID gives no family: that of the P6 */

/*
 * mkvm_vcpu_reset - set the power-up state, or the state after INIT
 *
 * AMD APM vol. 2, "Processor Initialization State"; Intel SDM vol. 3, "Processor State After
 * Reset" and "Local APIC State After It Receives an INIT-Deassert IPI". Where the two differ,
 * or say nothing, the note says what is done.
 *
 *   state                                power-up          INIT      note
 *   RAX ... R15 but RDX                  0                 0
 *   RDX                                  family, stepping  same      CPUID 1 EAX
 *   RIP, RFLAGS                          fff0, 2           same
 *   CS                                   f000, ffff0000    same
 *   other segments, GDTR, IDTR           0, limit ffff     same
 *   CR0                                  60000010          ET        CD and NW stay at INIT
 *   CR2, CR3, CR4, CR8, EFER             0                 0
 *   DR0-3, DR6, DR7                      0, ffff0ff0, 400  same
 *   XCR0                                 1                 kept
 *   x87, MMX, SSE, AVX, MXCSR            as FNINIT's       kept      manuals: FCW is 40h at
 * power-up;
 *                                                                    clients are used to Linux
 * KVM's 37fh
 *   PKRU                                 0                 kept
 *   TSC, TSC_ADJUST, TSC_AUX             0                 kept      TSC: vm->tsc.offset
 *   PAT                                  7040600070406     kept
 *   MTRRs                                off               kept
 *   machine-check registers, HWCR        0                 kept
 *   SYSENTER_*, STAR ..., KERNEL_GS_BASE 0                 kept
 *   all other MSRs                       defaults          kept
 *   APIC_BASE, its mode, the APIC's id   xAPIC, vCPU's id  kept
 *   all else of the LAPIC                reset             reset     LINT0 of the boot CPU: lapic.c
 *   TSC_DEADLINE                         0                 0         the LAPIC's timer stops
 *   SMBASE                               30000             kept
 *   in SMM                               no                -         INIT waits for RSM
 *   pending SMI                          none              kept      latched until it can be taken
 *   pending NMIs                         none              dropped   as Linux KVM
 *   NMIs blocked, interrupt shadow       no                no
 * exception raised, event in delivery  none              dropped   so is an unreported triple fault
 *   vector of KVM_INTERRUPT              none              dropped
 *   access that userspace is to answer   none              dropped
 *   SIPI                                 none              dropped   one that came before the INIT
 * EOI, TPR access to be reported       none              kept      userspace's devices wait for it
 *   TLB                                  flushed           flushed   AMD: not modified, which no
 * guest sees
 *   KVM_SET_GUEST_DEBUG, CPUID, filters  none              kept      userspace's
 *   mp_state                             by the irqchip    see above
 *
 * SIPI sets CS, RIP and mp_state. KVM_SET_MP_STATE sets mp_state, and SIPI_RECEIVED posts a SIPI.
 * Neither changes or drops anything else. No ioctl resets a vCPU: userspace sets each state anew,
 * and removes a pending SMI or NMI by KVM_SET_VCPU_EVENTS. selftests/kvm/reset.c tests each row. A
 * shutdown leaves the state that INIT leaves.
 *
 * Context: own thread, or the vCPU is not yet published.
 */
void mkvm_vcpu_reset(struct mkvm_vcpu *vcpu, bool init)
{
	memset(vcpu->regs, 0, sizeof(vcpu->regs));
	memset(vcpu->dr, 0, sizeof(vcpu->dr));
	vcpu->ev.delivering.type = MKVM_EV_NONE;
	vcpu->ev.raised.type = MKVM_EV_NONE;
	vcpu->ev.has_payload = false;
	vcpu->ev.triple_fault = false;
	vcpu->complete = NULL;
	mkvm_forget_io(vcpu);
	vcpu->debug.traps = 0;
	vcpu->user_irqchip.vector = -1;
	vcpu->rip = 0xfff0;
	vcpu->rflags = X86_EFLAGS_FIXED;
	vcpu->regs[MKVM_RDX] = mkvm_cpuid(vcpu, 1, 0)->eax ?: NO_CPUID_SIGNATURE;
	vcpu->user_irqchip.cr8 = 0;
	mkvm_trace(reset, vcpu);
	mkvm_pending_drop_nmis(vcpu);
	vcpu->smm.active = false;
	vcpu->smm.inside_nmi = false;
	vcpu->slot_cache.generation = 0;
	if (!init) {
		vcpu->mp_state = vcpu->lapic && vcpu->id != vcpu->vm->bsp_id ?
					 KVM_MP_STATE_UNINITIALIZED :
					 KVM_MP_STATE_RUNNABLE;
		vcpu->smm.base = 0x30000;
		vcpu->fpu.xcr0 = XFEATURE_MASK_FP;
		vcpu->fpu.pkru = 0;
		mkvm_msr_reset(vcpu);
	}
	mkvm_hw->vcpu_reset(vcpu, init);
	mkvm_update_pkru(vcpu);
	if (vcpu->lapic)
		mkvm_lapic_reset(vcpu->lapic, init);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	mkvm_pending_set(vcpu, MKVM_PEND_MSRS);
}

/* ---- INIT and SIPI ---- */

/*
 * mkvm_accept_init_sipi - apply a pending INIT and SIPI to the vCPU's state
 *
 * Only this function does that. Intel SDM vol. 3, "MP Initialization Protocol".
 * Context: own thread.
 */
void mkvm_accept_init_sipi(struct mkvm_vcpu *vcpu)
{
	struct kvm_segment cs = { .limit = 0xffff, .type = 0xb, .present = 1, .s = 1 };
	unsigned long bits = mkvm_pending_take_init_sipi(vcpu);
	bool init = bits & BIT(MKVM_PEND_INIT), waiting;
	const char *how;

	if (init) {
		mkvm_trace(consume, vcpu, MKVM_PEND_INIT, bits, "taken");
		mkvm_vcpu_reset(vcpu, true);
		change(vcpu,
		       vcpu->id == vcpu->vm->bsp_id ? KVM_MP_STATE_RUNNABLE :
						      KVM_MP_STATE_INIT_RECEIVED,
		       "INIT");
	}
	if (!(bits & BIT(MKVM_PEND_SIPI)))
		return;
	waiting = !vcpu->smm.active && vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED;
	how = waiting ? "taken" : "not-waiting";
	mkvm_trace(consume, vcpu, MKVM_PEND_SIPI, bits & ~MKVM_PEND_MARKED(MKVM_PEND_INIT),
		   vcpu->smm.active ? "in-SMM" : how);
	if (!waiting)
		return;
	cs.selector = READ_ONCE(vcpu->sipi_vector) << 8;
	cs.base = cs.selector << 4;
	mkvm_hw->set_segment(vcpu, MKVM_CS, &cs);
	vcpu->rip = 0;
	change(vcpu, KVM_MP_STATE_RUNNABLE, "SIPI");
}

/* ---- KVM_SET_MP_STATE ---- */

/*
 * KVM_SET_MP_STATE. Context: vcpu->mutex held. Return: -EINVAL for states that this vCPU cannot
 * have.
 */
int mkvm_vcpu_set_mp_state(struct mkvm_vcpu *vcpu, u32 state)
{
	if (!vcpu->lapic && state != KVM_MP_STATE_RUNNABLE)
		return -EINVAL;
	if ((state == KVM_MP_STATE_INIT_RECEIVED || state == KVM_MP_STATE_SIPI_RECEIVED) &&
	    vcpu->smm.active)
		return -EINVAL;		/* an INIT stays latched in SMM */
	switch (state) {
	case KVM_MP_STATE_SIPI_RECEIVED:
		change(vcpu, KVM_MP_STATE_INIT_RECEIVED, "ioctl");
		mkvm_trace(raise_post, vcpu, MKVM_PEND_SIPI, "set_mp_state");
		mkvm_pending_set(vcpu, MKVM_PEND_SIPI);
		mkvm_trace(pend, vcpu, MKVM_PEND_SIPI, 0, BIT(MKVM_PEND_SIPI), "set-mp-state");
		break;
	case KVM_MP_STATE_RUNNABLE:
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_HALTED:
		change(vcpu, state, "ioctl");
		break;
	default:
		return -EINVAL;
	}
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 0;
}

/* ---- HLT and sleeping ---- */

/* The guest has executed HLT; RIP is after it. Own thread. Return: as handle_exit. */
int mkvm_halt(struct mkvm_vcpu *vcpu)
{
	if (!vcpu->lapic) {
		vcpu->run->exit_reason = KVM_EXIT_HLT;
		return 0;
	}
	mkvm_test_point(MKVM_POINT_HLT);
	change(vcpu, KVM_MP_STATE_HALTED, "HLT");
	return 1;
}

/*
 * Whether the vCPU can run, or INIT, SIPI, SMI or an interrupt window is to be handled. Own thread.
 */
bool mkvm_vcpu_runnable(struct mkvm_vcpu *vcpu)
{
	unsigned long pending = READ_ONCE(vcpu->pending);

	switch (vcpu->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		return true;
	case KVM_MP_STATE_HALTED:
		return (!vcpu->smm.active &&
			(pending & (BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SMI)))) ||
		       mkvm_wakes_halted(vcpu) || mkvm_user_window_open(vcpu);
	case KVM_MP_STATE_INIT_RECEIVED:
		return pending & (BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SIPI));
	default:
		return !vcpu->smm.active && (pending & BIT(MKVM_PEND_INIT));
	}
}

/*
 * mkvm_vcpu_block - sleep until the vCPU is runnable, or its thread has work to do
 *
 * Context: own thread, may sleep. Return: 0 if it is runnable or mkvm_user_work_pending; -EINTR if
 * a signal is pending.
 */
int mkvm_vcpu_block(struct mkvm_vcpu *vcpu)
{
	const char *why = "event";
	bool slept = false;
	int r = 0;

	mkvm_trace(waits, vcpu, false, false);
	trace_sleep(vcpu, "", "");
	prepare_to_rcuwait(&vcpu->wait);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (mkvm_vcpu_runnable(vcpu)) {
			vcpu->stats[MKVM_STAT_HALT_WAKEUP] += slept;
			break;
		}
		mkvm_test_point(MKVM_POINT_BLOCK);
		if (signal_pending(current)) {
			why = "signal";
			r = -EINTR;
			break;
		}
		if (mkvm_user_work_pending()) {
			why = "work";
			break;
		}
		schedule();
		slept = true;
	}
	finish_rcuwait(&vcpu->wait);
	trace_wake(vcpu, "", why);
	return r;
}

/* Makes the vCPU RUNNABLE if it is not. @why: for traces. Context: own thread. */
void mkvm_wake(struct mkvm_vcpu *vcpu, const char *why)
{
	if (vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
		change(vcpu, KVM_MP_STATE_RUNNABLE, why);
}
