// SPDX-License-Identifier: GPL-2.0
/*
 * event.c - encodes events for the VMCS, decodes them after an exit, finds what blocks them,
 * and opens windows.
 *
 * State: the entry's event, the interruptibility state (vmx->shadow) and the exception bitmap.
 * cpu/inject.c decides which event comes next; this file only encodes it.
 *
 * Intel SDM vol. 3, "Event Injection", "Information for VM Exits That Occur During Event
 * Delivery", "Guest Non-Register State". Read next: vmx.c.
 */
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include "vmx.h"

#define SHADOW	(GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)
#define PENDING_STEP BIT(14)	/* of the pending debug exceptions */

u8 vmx_get_shadow(struct mkvm_vcpu *vcpu)
{
	u32 shadow = to_vmx(vcpu)->shadow;

	return (shadow & GUEST_INTR_STATE_STI ? KVM_X86_SHADOW_INT_STI : 0) |
	       (shadow & GUEST_INTR_STATE_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
}

/* A CPU that does not tell the two apart says both; here there can be one, and MOV SS blocks more. */
void vmx_set_shadow(struct mkvm_vcpu *vcpu, u8 shadow)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx->shadow &= ~SHADOW;
	if (shadow & KVM_X86_SHADOW_INT_MOV_SS)
		vmx->shadow |= GUEST_INTR_STATE_MOV_SS;
	else if (shadow & KVM_X86_SHADOW_INT_STI)
		vmx->shadow |= GUEST_INTR_STATE_STI;
}

/* An NMI that is to go in masks others, but in the VMCS the bit must be clear until it has gone in. */
bool vmx_nmi_masked(struct mkvm_vcpu *vcpu)
{
	return (to_vmx(vcpu)->shadow & GUEST_INTR_STATE_NMI) || vcpu->event.type == MKVM_EV_NMI;
}

void vmx_set_nmi_masked(struct mkvm_vcpu *vcpu, bool masked)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx->shadow = (vmx->shadow & ~GUEST_INTR_STATE_NMI) | (masked ? GUEST_INTR_STATE_NMI : 0);
}

/* An IRET that faulted has taken the mask away all the same: it runs again. info: of the exit. */
void vmx_keep_nmi_mask(struct vmx_vcpu *vmx, u64 info)
{
	if ((info & INTR_INFO_UNBLOCK_NMI) && vmx->vcpu.event.type == MKVM_EV_NONE)
		vmx->shadow |= GUEST_INTR_STATE_NMI;
}

/*
 * Before an entry: a combination that the guest itself could not be in would fail it. Only
 * IF gives STI its shadow, and under a shadow a pending single step must be told.
 */
void vmx_settle_shadow(struct vmx_vcpu *vmx)
{
	u64 pending;

	if (!(vmx->vcpu.rflags & X86_EFLAGS_IF))
		vmx->shadow &= ~GUEST_INTR_STATE_STI;
	if (!(vmx->shadow & SHADOW))
		return;
	pending = vmx_read(GUEST_PENDING_DBG_EXCEPTIONS) & ~PENDING_STEP;
	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, pending | (vmx->vcpu.rflags & X86_EFLAGS_TF ? PENDING_STEP : 0));
}

/* PAE paging: the entry takes the four upper entries from the VMCS. Userspace or RSM has set CR3. */
static void load_pdptes(struct vmx_vcpu *vmx)
{
	struct mkvm_vcpu *vcpu = &vmx->vcpu;
	struct mkvm_mode mode;
	u64 __user *p;
	u64 entry;
	int i, idx;

	vmx->pdptes_stale = false;
	mkvm_hw->get_mode(vcpu, &mode);
	if (!(mode.cr0 & X86_CR0_PG) || !(mode.cr4 & X86_CR4_PAE) || (mode.efer & EFER_LMA))
		return;
	idx = srcu_read_lock(&vcpu->vm->srcu);
	p = mkvm_gpa_to_user(vcpu, mode.cr3 & 0xffffffe0, false);
	for (i = 0; i < 4; i++) {
		entry = 0;		/* not present where no memory is */
		if (p && get_user(entry, p + i))
			entry = 0;
		vmx_write(GUEST_PDPTR0 + 2 * i, entry);
	}
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/*
 * Puts an event, or none, into the guest at the next entry. #BP and #OF are faults here: RIP is
 * already behind the instruction. INT n's is still at it, and two bytes long.
 */
void vmx_inject(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev)
{
	static const u32 type[] = {
		[MKVM_EV_INTR] = INTR_TYPE_EXT_INTR | INTR_INFO_VALID_MASK,
		[MKVM_EV_NMI] = INTR_TYPE_NMI_INTR | INTR_INFO_VALID_MASK,
		[MKVM_EV_EXCEPTION] = INTR_TYPE_HARD_EXCEPTION | INTR_INFO_VALID_MASK,
		[MKVM_EV_SOFT] = INTR_TYPE_SOFT_INTR | INTR_INFO_VALID_MASK,
	};
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	u32 info = ev->vector | type[ev->type];

	if (unlikely(vmx->pdptes_stale))
		load_pdptes(vmx);
	if (ev->type == MKVM_EV_NMI)
		vmx->shadow &= ~(GUEST_INTR_STATE_NMI | SHADOW);
	if (ev->type == MKVM_EV_INTR)
		vmx->shadow &= ~SHADOW;
	if (ev->type == MKVM_EV_SOFT)
		vmx_write(VM_ENTRY_INSTRUCTION_LEN, 2);
	/* Whether there is an error code is the vector's to say, and real mode has none. */
	if (ev->type == MKVM_EV_EXCEPTION && mkvm_has_error_code(ev->vector) && (vmx_read(GUEST_CR0) & X86_CR0_PE)) {
		info |= INTR_INFO_DELIVER_CODE_MASK;
		vmx_write(VM_ENTRY_EXCEPTION_ERROR_CODE, ev->has_error ? (u16)ev->error : 0);
	}
	vmx_write(VM_ENTRY_INTR_INFO_FIELD, ev->type == MKVM_EV_NONE ? 0 : info);
}

/*
 * Bochs tells of an older event when the delivery of an interrupt exits that it took itself.
 * IF is set before the delivery, and the handler mostly has it clear.
 */
static bool cpu_took_interrupt(struct vmx_vcpu *vmx)
{
	return vmx->apicv && (vmx->vcpu.rflags & X86_EFLAGS_IF) &&
	       mkvm_lapic_highest_isr(vmx->vcpu.lapic) > 0 &&
	       mkvm_lapic_highest_isr(vmx->vcpu.lapic) != vmx->intr_status >> 8;
}

/*
 * After an exit: was an event being delivered? It becomes vcpu->event and goes in again.
 * INT n, INT1, INT3 and INTO of the guest are not put in again: RIP is still at the instruction,
 * which runs once more. An INT n that we have put in goes in again: its RIP is userspace's to say.
 */
void vmx_event_after_exit(struct vmx_vcpu *vmx)
{
	struct mkvm_event *ev = &vmx->vcpu.event;
	u32 info = vmx_read(IDT_VECTORING_INFO_FIELD);
	bool soft = ev->type == MKVM_EV_SOFT && ev->vector == (info & VECTORING_INFO_VECTOR_MASK);

	ev->type = MKVM_EV_NONE;
	vmx->vcpu.vectoring = 0;
	if (likely(!(info & VECTORING_INFO_VALID_MASK)))
		return;
	vmx->vcpu.vectoring = info;
	if (unlikely(vmx_stay) && cpu_took_interrupt(vmx)) {
		*ev = (struct mkvm_event) { .type = MKVM_EV_INTR, .vector = mkvm_lapic_highest_isr(vmx->vcpu.lapic) };
		vmx->vcpu.vectoring = INTR_TYPE_EXT_INTR | VECTORING_INFO_VALID_MASK | ev->vector;
		return;
	}
	ev->vector = info & VECTORING_INFO_VECTOR_MASK;
	ev->has_error = info & VECTORING_INFO_DELIVER_CODE_MASK;
	ev->error = ev->has_error ? vmx_read(IDT_VECTORING_ERROR_CODE) : 0;
	switch (info & VECTORING_INFO_TYPE_MASK) {
	case INTR_TYPE_EXT_INTR:
		ev->type = MKVM_EV_INTR;
		break;
	case INTR_TYPE_NMI_INTR:
		ev->type = MKVM_EV_NMI;
		break;
	case INTR_TYPE_HARD_EXCEPTION:
		ev->type = MKVM_EV_EXCEPTION;
		break;
	case INTR_TYPE_SOFT_INTR:
		if (soft)
			ev->type = MKVM_EV_SOFT;
		break;
	}
}

/*
 * Exceptions that leave the guest: endless #AC and #DB deliveries would hold the CPU; #UD
 * may be for a VMMCALL, or for RSM, which is an instruction of the CPU's own SMM only.
 */
void vmx_update_exceptions(struct vmx_vcpu *vmx)
{
	u32 bitmap = BIT(X86_TRAP_DB) | BIT(X86_TRAP_UD) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC);

	if (vmx->stepping)
		bitmap = ~0u & ~BIT(X86_TRAP_NMI);
	if (vmx->vcpu.debug.control & KVM_GUESTDBG_USE_SW_BP)
		bitmap |= BIT(X86_TRAP_BP);
	vmx_write(EXCEPTION_BITMAP, bitmap);
}

/*
 * One instruction, then #DB, for userspace that steps. The entry follows at once, so that nobody
 * else sees this TF; all exceptions exit, so that it gets onto no stack. A shadow would have the
 * trap come before the instruction.
 */
void vmx_begin_step(struct vmx_vcpu *vmx)
{
	vmx->stepping = true;
	vmx->step_had_tf = vmx->vcpu.rflags & X86_EFLAGS_TF;
	vmx->vcpu.rflags |= X86_EFLAGS_TF;
	vmx->shadow &= ~SHADOW;
	vmx_update_exceptions(vmx);
}

/* Bochs has TF's trap pending even where the instruction has not run; a CPU under a shadow alone. */
void vmx_forget_step(void)
{
	u64 pending = vmx_read(GUEST_PENDING_DBG_EXCEPTIONS);

	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, pending & ~(u64)PENDING_STEP);
}

/* Any exit ends the step. */
void vmx_end_step(struct vmx_vcpu *vmx)
{
	vmx->stepping = false;
	vmx_forget_step();
	if (!vmx->step_had_tf)
		vmx->vcpu.rflags &= ~X86_EFLAGS_TF;
	vmx_update_exceptions(vmx);
}

/* hw_ops guest_debug_changed: the VMCS's DR7 changes hands; the guest's own accesses exit meanwhile. */
void vmx_guest_debug_changed(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool debugged = vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP;

	vmx_update_exceptions(vmx);
	if (debugged && !vmx->debugged) {
		vmx->guest_dr7 = vmx_read(GUEST_DR7);
		vmx->debugged = true;	/* first: from now on vcpu_load leaves dr_live alone */
		barrier();
		vcpu->dr_live = false;
	}
	if (debugged)
		vmx_write(GUEST_DR7, vcpu->debug.dr7);
	else if (vmx->debugged)
		vmx_write(GUEST_DR7, vmx->guest_dr7);
	vmx->debugged = debugged;
}

/*
 * vmx_open_window - leave the guest once an interrupt (NMI) could go in
 *
 * The NMI window does not heed an STI's shadow, which ends like an interrupt's window begins.
 * CR8 writes exit while an interrupt waits, whatever holds it back: lowering TPR may let it in.
 * With apicv the CPU sees to the LAPIC's interrupts itself; it does not while a window is open
 * for others. Whether it is used is decided here: who changes what vmx_may_apicv asks has
 * events looked at.
 */
void vmx_open_window(struct mkvm_vcpu *vcpu, bool irq, bool nmi)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool sti = (vmx->shadow & GUEST_INTR_STATE_STI) && (vcpu->rflags & X86_EFLAGS_IF);

	vmx_set_apicv(vmx, vmx_may_apicv(vcpu));
	if (vmx->apicv)
		irq = irq && (mkvm_has_extint(vcpu) ||
			      (vcpu->user_pic && READ_ONCE(vcpu->run->request_interrupt_window)));
	vmx_set_cpu_ctl(vmx, CPU_BASED_INTR_WINDOW_EXITING, irq || (nmi && sti));
	vmx_set_cpu_ctl(vmx, CPU_BASED_NMI_WINDOW_EXITING, nmi && !sti);
	vmx_set_cpu_ctl(vmx, CPU_BASED_CR8_LOAD_EXITING,
			!vmx->apicv && (irq || !vcpu->lapic || mkvm_lapic_highest_irr(vcpu->lapic) >= 0));
}
