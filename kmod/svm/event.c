// SPDX-License-Identifier: GPL-2.0
/*
 * event.c - encodes events for the VMCB, decodes them after an exit, and opens windows.
 *
 * State: EVENTINJ, EXITINTINFO, V_IRQ and the NMI mask of struct svm_vcpu. cpu/inject.c decides
 * which event comes next; this file only encodes it.
 *
 * AMD APM vol. 2, "Event Injection", "Virtual Interrupts", "NMI Support". Read next: svm.c.
 */
#include <linux/moduleparam.h>

#include "svm.h"

bool svm_bochs;
module_param(svm_bochs, bool, 0444);
MODULE_PARM_DESC(svm_bochs, "work around faults of the emulator Bochs (default N)");

#define IRET_BIT	INTERCEPT_IRET

u8 svm_get_shadow(struct mkvm_vcpu *vcpu)
{
	/* The VMCB does not record which instruction caused the shadow. */
	return to_svm(vcpu)->vmcb->control.int_state & SVM_INTERRUPT_SHADOW_MASK ?
	       KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS : 0;
}

void svm_set_shadow(struct mkvm_vcpu *vcpu, u8 shadow)
{
	u32 *state = &to_svm(vcpu)->vmcb->control.int_state;

	if (shadow)
		*state |= SVM_INTERRUPT_SHADOW_MASK;
	else
		*state &= ~(u32)SVM_INTERRUPT_SHADOW_MASK;
}

bool svm_nmi_masked(struct mkvm_vcpu *vcpu)
{
	return to_svm(vcpu)->nmi_masked;
}

void svm_set_nmi_masked(struct mkvm_vcpu *vcpu, bool masked)
{
	struct svm_vcpu *svm = to_svm(vcpu);

	svm->nmi_masked = masked;
	svm->in_iret = false;
	svm_intercept(svm, IRET_BIT, masked);
}

/* Is the host emulated by QEMU's TCG, some of whose bugs need workarounds? */
bool svm_on_tcg(void)
{
	static int known = -1;

	if (unlikely(known < 0))
		known = boot_cpu_has(X86_FEATURE_HYPERVISOR) &&
			cpuid_ebx(0x40000000) == 0x54474354; /* "TCGT" */
	return known;
}

/*
 * Workaround: TCG keeps an injected interrupt recorded as a pending exception, and delivers it a
 * second time if it leaves its loop before the next #VMEXIT. It does not do so with an event of
 * type INT n, which it otherwise delivers like an interrupt, except that it checks the gate's DPL.
 * That check always passes at CPL 0.
 */
static bool intr_goes_as_soft(const struct svm_vcpu *svm)
{
	return svm_on_tcg() && svm->vmcb->save.cpl == 0;
}

/* hw_ops inject: encodes the event, or none, for injection at the next entry. */
void svm_inject(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev)
{
	static const u32 type[] = {
		[MKVM_EV_INTR] = SVM_EVTINJ_TYPE_INTR | SVM_EVTINJ_VALID,
		[MKVM_EV_NMI] = SVM_EVTINJ_TYPE_NMI | SVM_EVTINJ_VALID,
		[MKVM_EV_EXCEPTION] = SVM_EVTINJ_TYPE_EXEPT | SVM_EVTINJ_VALID,
		[MKVM_EV_SOFT] = SVM_EVTINJ_TYPE_SOFT | SVM_EVTINJ_VALID,
	};
	struct svm_vcpu *svm = to_svm(vcpu);
	struct vmcb_control_area *c = &svm->vmcb->control;
	u32 how = type[ev->type];

	if (ev->type == MKVM_EV_INTR && unlikely(intr_goes_as_soft(svm)))
		how = type[MKVM_EV_SOFT];
	c->event_inj = ev->vector | how | (ev->has_error ? SVM_EVTINJ_VALID_ERR : 0);
	c->event_inj_err = ev->error;
	/* A CPU that saves the next RIP pushes this value for #BP and #OF. */
	c->next_rip = vcpu->rip;
}

/*
 * svm_event_after_exit - save the event whose delivery the exit interrupted
 * @moved: RIP has changed since the entry
 *
 * It becomes vcpu->ev.delivering and is injected again. INT n, INT3 and INTO are not: RIP is
 * still at the instruction, which the guest executes again. #BP and #OF come from an injection,
 * and not from INT3 or INTO, if the last entry injected them and RIP has not changed. Context:
 * right after the exit.
 */
void svm_event_after_exit(struct svm_vcpu *svm, bool moved)
{
	struct vmcb_control_area *c = &svm->vmcb->control;
	struct mkvm_event *ev = &svm->vcpu.ev.delivering;
	u32 info = c->exit_int_info;
	u8 vector = info & SVM_EXITINTINFO_VEC_MASK;
	bool same = !moved && ev->vector == vector;
	bool ours = same && (ev->type == MKVM_EV_EXCEPTION || ev->type == MKVM_EV_SOFT);

	if (same && ev->type == MKVM_EV_INTR && unlikely(intr_goes_as_soft(svm)))
		info = c->exit_int_info = SVM_EXITINTINFO_VALID | SVM_EXITINTINFO_TYPE_INTR |
					  vector;
	svm->vcpu.ev.vectoring = info;
	ev->type = MKVM_EV_NONE;
	ev->vector = vector;
	ev->has_error = info & SVM_EXITINTINFO_VALID_ERR;
	ev->error = c->exit_int_info_err;
	switch (info & SVM_EXITINTINFO_TYPE_MASK) {
	case SVM_EXITINTINFO_TYPE_INTR:
		ev->type = MKVM_EV_INTR;
		break;
	case SVM_EXITINTINFO_TYPE_NMI:
		ev->type = MKVM_EV_NMI;
		break;
	case SVM_EXITINTINFO_TYPE_EXEPT:
		if (ours || (vector != X86_TRAP_BP && vector != X86_TRAP_OF))
			ev->type = MKVM_EV_EXCEPTION;
		break;
	case SVM_EXITINTINFO_TYPE_SOFT:
		if (ours)
			ev->type = MKVM_EV_SOFT;
		break;
	}
}

/* ---- windows ---- */

void svm_close_irq_window(struct svm_vcpu *svm)
{
	svm->vmcb->control.int_ctl &= ~V_IRQ_INJECTION_BITS_MASK;
	svm_intercept(svm, INTERCEPT_VINTR, false);
}

/*
 * A virtual interrupt that ignores TPR causes an exit as soon as IF and the shadow permit an
 * interrupt. It is never delivered itself, because VINTR is intercepted.
 */
static void open_irq_window(struct svm_vcpu *svm)
{
	svm->vmcb->control.int_vector = 0;
	svm->vmcb->control.int_ctl |= V_IRQ_MASK | V_INTR_PRIO_MASK | V_IGN_TPR_MASK;
	svm_intercept(svm, INTERCEPT_VINTR, true);
}

/* Returns the bitmap of exceptions that are intercepted when the guest is not single-stepped. */
u32 svm_exceptions(const struct svm_vcpu *svm)
{
	/* In real mode with too small an IDT Bochs would not end: an exit lets a signal do it. */
	return SVM_EXCEPTIONS | (unlikely(svm_bochs) ? BIT(X86_TRAP_DF) : 0) |
	       (svm->vcpu.debug.control & KVM_GUESTDBG_USE_SW_BP ? BIT(X86_TRAP_BP) : 0) |
	       (svm->vcpu.soft_tlb.root ? BIT(X86_TRAP_PF) : 0);
}

/*
 * hw_ops guest_debug_changed: switches the VMCB's DR7 between the guest's and userspace's. While it
 * is userspace's, the guest's accesses to debug registers are intercepted.
 */
void svm_guest_debug_changed(struct mkvm_vcpu *vcpu)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	bool debugged = vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP;
	u64 *dr7 = &svm->vmcb->save.dr7;

	svm->vmcb->control.intercepts[INTERCEPT_EXCEPTION] = svm_exceptions(svm);
	/* TCG does not intercept the #BP of INT3, which it treats as INT n. */
	svm_intercept(svm, INTERCEPT_INTn,
		      (vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP) && svm_on_tcg());
	if (debugged && !svm->debugged) {
		svm->guest_dr7 = *dr7;
		svm->debugged = true;	/* first: stops vcpu_load from setting dr_live */
		barrier();
		vcpu->dr_live = false;
		svm_dr_intercepts(svm, true);
	}
	if (debugged)
		*dr7 = vcpu->debug.dr7;
	else if (svm->debugged)
		*dr7 = svm->guest_dr7;
	svm->debugged = debugged;
	svm->guest_dr6 = svm->vmcb->save.dr6;
}

/*
 * svm_begin_step - make the guest execute one instruction and raise #DB
 *
 * For a window that can be noticed in no other way, and for userspace that single-steps. All
 * exceptions are intercepted, so the guest does not see this TF. Context: right before the entry.
 */
void svm_begin_step(struct svm_vcpu *svm)
{
	svm->stepping = true;
	svm->step_had_tf = svm->vcpu.rflags & X86_EFLAGS_TF;
	svm->guest_dr6 = svm->vmcb->save.dr6;
	svm->vmcb->save.rflags |= X86_EFLAGS_TF;
	svm->vmcb->control.intercepts[INTERCEPT_EXCEPTION] = ~0u & ~BIT(X86_TRAP_NMI);
}

/*
 * svm_end_step - end the single step, after any exit
 *
 * After an IRET that completed, RFLAGS.TF is the bit that IRET popped; otherwise it is the bit that
 * was set for the step, and is restored.
 */
void svm_end_step(struct svm_vcpu *svm, u32 exit_code)
{
	bool iret_done = svm->in_iret && exit_code == SVM_EXIT_EXCP_BASE + X86_TRAP_DB;

	svm->step_trap = !svm->step_had_tf && exit_code == SVM_EXIT_EXCP_BASE + X86_TRAP_DB;
	svm->stepping = false;
	svm->vmcb->control.intercepts[INTERCEPT_EXCEPTION] = svm_exceptions(svm);
	if (!svm->step_had_tf && !iret_done)
		svm->vcpu.rflags &= ~X86_EFLAGS_TF;
}

/* The guest is about to execute the IRET of an NMI handler; NMIs stay masked until it completes. */
void svm_iret_intercepted(struct svm_vcpu *svm)
{
	svm_intercept(svm, IRET_BIT, false);
	svm->in_iret = true;
	svm->iret_rip = svm->vcpu.rip;
}

/*
 * svm_open_window - hw_ops open_window: exit as soon as an interrupt (NMI) can be injected
 *
 * CR8 writes are intercepted while an interrupt is pending, whatever holds it back, because
 * lowering TPR may permit it. (This also works around QEMU's TCG, which aborts on a CR8 write in
 * the guest while V_IRQ is set.)
 */
void svm_open_window(struct mkvm_vcpu *vcpu, bool irq, bool nmi)
{
	struct svm_vcpu *svm = to_svm(vcpu);

	if (irq)
		open_irq_window(svm);
	else
		svm_close_irq_window(svm);
	svm_intercept(svm, INTERCEPT_CR8_WRITE,
		      irq || !vcpu->lapic || mkvm_lapic_highest_irr(vcpu->lapic) >= 0);
	/* Masked NMIs wait for the intercepted IRET; a shadow or IRET ends with one instruction. */
	svm->step_wanted = nmi && (svm->in_iret || !svm->nmi_masked);
}

/* ---- debug registers ---- */

void svm_dr_intercepts(struct svm_vcpu *svm, bool on)
{
	svm->vmcb->control.intercepts[INTERCEPT_DR] = on ? ~0u : 0;
}

/*
 * Lets the guest access DR0-3 directly. The order matters: a context switch between the two steps
 * is harmless.
 */
void svm_dr_live(struct svm_vcpu *svm)
{
	svm_dr_intercepts(svm, false);
	barrier();
	svm->vcpu.dr_live = true;
}
