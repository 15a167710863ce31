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
#define PENDING_STEP BIT(14)	/* BS in the pending debug exceptions */

u8 vmx_get_shadow(struct mkvm_vcpu *vcpu)
{
	u32 shadow = to_vmx(vcpu)->shadow;

	return (shadow & GUEST_INTR_STATE_STI ? KVM_X86_SHADOW_INT_STI : 0) |
	       (shadow & GUEST_INTR_STATE_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS : 0);
}

/*
 * A state saved on AMD has both shadows, because its CPUs do not distinguish them. The VMCS allows
 * only one; that of MOV SS blocks more.
 */
void vmx_set_shadow(struct mkvm_vcpu *vcpu, u8 shadow)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx->shadow &= ~SHADOW;
	if (shadow & KVM_X86_SHADOW_INT_MOV_SS)
		vmx->shadow |= GUEST_INTR_STATE_MOV_SS;
	else if (shadow & KVM_X86_SHADOW_INT_STI)
		vmx->shadow |= GUEST_INTR_STATE_STI;
}

/* An NMI that awaits injection masks others, although the VMCS's bit must be clear until then. */
bool vmx_nmi_masked(struct mkvm_vcpu *vcpu)
{
	return (to_vmx(vcpu)->shadow & GUEST_INTR_STATE_NMI) ||
	       vcpu->ev.delivering.type == MKVM_EV_NMI;
}

void vmx_set_nmi_masked(struct mkvm_vcpu *vcpu, bool masked)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx->shadow = (vmx->shadow & ~GUEST_INTR_STATE_NMI) | (masked ? GUEST_INTR_STATE_NMI : 0);
}

/*
 * vmx_keep_nmi_mask - mask NMIs again after an exit by an IRET that will be executed again
 * @info: the exit's interruption information or qualification
 *
 * The CPU removes the mask even if the IRET faults.
 */
void vmx_keep_nmi_mask(struct vmx_vcpu *vmx, u64 info)
{
	if ((info & INTR_INFO_UNBLOCK_NMI) && vmx->vcpu.ev.delivering.type == MKVM_EV_NONE)
		vmx->shadow |= GUEST_INTR_STATE_NMI;
}

/*
 * vmx_settle_shadow - make the shadow consistent with RFLAGS, before an entry
 *
 * The entry fails for a combination that no guest can reach: a shadow of STI needs IF, and under a
 * shadow with TF set the VMCS must record a pending single step.
 */
void vmx_settle_shadow(struct vmx_vcpu *vmx)
{
	u64 pending;

	if (!(vmx->vcpu.rflags & X86_EFLAGS_IF))
		vmx->shadow &= ~GUEST_INTR_STATE_STI;
	if (!(vmx->shadow & SHADOW))
		return;
	pending = vmx_read(GUEST_PENDING_DBG_EXCEPTIONS) & ~PENDING_STEP;
	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS,
		  pending | (vmx->vcpu.rflags & X86_EFLAGS_TF ? PENDING_STEP : 0));
}

/*
 * With PAE paging the entry takes the four PDPTEs from the VMCS. Reads them from guest memory after
 * userspace, RSM or the emulator has changed CR3.
 */
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
		entry = 0;		/* not present if there is no memory */
		if (p && get_user(entry, p + i))
			entry = 0;
		vmx_write(GUEST_PDPTR0 + 2 * i, entry);
	}
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/*
 * hw_ops inject: encodes the event, or none, for injection at the next entry. #BP and #OF are
 * injected as hardware exceptions, because RIP is already past the instruction. For INT n RIP is
 * still at the instruction, which is two bytes long.
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
	/* The vector determines whether there is an error code; real mode has none. */
	if (ev->type == MKVM_EV_EXCEPTION && mkvm_has_error_code(ev->vector) &&
	    (vmx_read(GUEST_CR0) & X86_CR0_PE)) {
		info |= INTR_INFO_DELIVER_CODE_MASK;
		vmx_write(VM_ENTRY_EXCEPTION_ERROR_CODE, ev->has_error ? (u16)ev->error : 0);
	}
	vmx_write(VM_ENTRY_INTR_INFO_FIELD, ev->type == MKVM_EV_NONE ? 0 : info);
}

/*
 * Workaround for Bochs: if the delivery of an interrupt that the CPU took itself (APICv) causes an
 * exit, Bochs reports an older event instead. IF is set before the delivery; handlers mostly run
 * with IF clear.
 */
static bool cpu_took_interrupt(struct vmx_vcpu *vmx)
{
	return vmx->apicv && (vmx->vcpu.rflags & X86_EFLAGS_IF) &&
	       mkvm_lapic_highest_isr(vmx->vcpu.lapic) > 0 &&
	       mkvm_lapic_highest_isr(vmx->vcpu.lapic) != vmx->intr_status >> 8;
}

/*
 * vmx_event_after_exit - save the event whose delivery the exit interrupted
 *
 * It becomes vcpu->ev.delivering and is injected again. The guest's own INT n, INT1, INT3 and
 * INTO are not:
 * RIP is still at the instruction, which the guest executes again. An injected INT n is injected
 * again, because it is at no instruction of the guest. Context: right after the exit.
 */
void vmx_event_after_exit(struct vmx_vcpu *vmx)
{
	struct mkvm_event *ev = &vmx->vcpu.ev.delivering;
	u32 info = vmx_read(IDT_VECTORING_INFO_FIELD);
	bool soft = ev->type == MKVM_EV_SOFT && ev->vector == (info & VECTORING_INFO_VECTOR_MASK);

	ev->type = MKVM_EV_NONE;
	vmx->vcpu.ev.vectoring = 0;
	if (likely(!(info & VECTORING_INFO_VALID_MASK)))
		return;
	vmx->vcpu.ev.vectoring = info;
	if (unlikely(vmx_stay) && cpu_took_interrupt(vmx)) {
		*ev = (struct mkvm_event){ .type = MKVM_EV_INTR,
					   .vector = mkvm_lapic_highest_isr(vmx->vcpu.lapic) };
		vmx->vcpu.ev.vectoring = INTR_TYPE_EXT_INTR | VECTORING_INFO_VALID_MASK |
					 ev->vector;
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
 * Writes the bitmap of exceptions that exit. Endless deliveries of #AC or #DB would block the CPU,
 * a machine check is the host's, and #UD may be a VMMCALL, or RSM, which the CPU knows only in its
 * own SMM.
 */
void vmx_update_exceptions(struct vmx_vcpu *vmx)
{
	u32 bitmap = BIT(X86_TRAP_DB) | BIT(X86_TRAP_UD) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC);

	if (vmx->stepping)
		bitmap = ~0u & ~BIT(X86_TRAP_NMI);
	if (vmx->vcpu.debug.control & KVM_GUESTDBG_USE_SW_BP)
		bitmap |= BIT(X86_TRAP_BP);
	if (vmx->vcpu.soft_tlb.root)
		bitmap |= BIT(X86_TRAP_PF);
	vmx_write(EXCEPTION_BITMAP, bitmap);
}

/*
 * vmx_begin_step - make the guest execute one instruction and raise #DB, for userspace that steps
 *
 * All exceptions exit, so this TF reaches no stack of the guest. A shadow is ended, because it
 * would make the trap precede the instruction. Context: right before the entry.
 */
void vmx_begin_step(struct vmx_vcpu *vmx)
{
	vmx->stepping = true;
	vmx->step_had_tf = vmx->vcpu.rflags & X86_EFLAGS_TF;
	vmx->vcpu.rflags |= X86_EFLAGS_TF;
	vmx->shadow &= ~SHADOW;
	vmx_update_exceptions(vmx);
}

/*
 * vmx_forget_step - drop the pending single-step trap of an instruction that has not been executed
 *
 * A CPU has one pending only under a shadow, Bochs always.
 */
void vmx_forget_step(void)
{
	u64 pending = vmx_read(GUEST_PENDING_DBG_EXCEPTIONS);

	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, pending & ~(u64)PENDING_STEP);
}

/* vmx_end_step - end the single step, after any exit */
void vmx_end_step(struct vmx_vcpu *vmx)
{
	vmx->stepping = false;
	vmx_forget_step();
	if (!vmx->step_had_tf)
		vmx->vcpu.rflags &= ~X86_EFLAGS_TF;
	vmx_update_exceptions(vmx);
}

/*
 * hw_ops guest_debug_changed: switches the VMCS's DR7 between the guest's and userspace's. While it
 * is userspace's, the guest's accesses to debug registers exit.
 */
void vmx_guest_debug_changed(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool debugged = vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP;

	vmx_update_exceptions(vmx);
	if (debugged && !vmx->debugged) {
		vmx->guest_dr7 = vmx_read(GUEST_DR7);
		vmx->debugged = true;	/* first: stops vcpu_load from setting dr_live */
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
 * vmx_open_window - hw_ops open_window: exit as soon as an interrupt (NMI) can be injected
 *
 * The NMI window ignores a shadow of STI, so an NMI under such a shadow waits for the interrupt
 * window, which opens when the shadow ends. CR8 writes exit while an interrupt is pending, whatever
 * holds it back, because lowering TPR may permit it. With APICv the CPU delivers the LAPIC's
 * interrupts itself, but not while a window is open for others. This function also decides whether
 * APICv is used; whoever changes a condition in vmx_may_apicv must set MKVM_PEND_EVENT.
 */
void vmx_open_window(struct mkvm_vcpu *vcpu, bool irq, bool nmi)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool sti = (vmx->shadow & GUEST_INTR_STATE_STI) && (vcpu->rflags & X86_EFLAGS_IF);

	vmx_set_apicv(vmx, vmx_may_apicv(vcpu));
	if (vmx->apicv)
		irq = irq &&
		      (mkvm_has_extint(vcpu) ||
		       (vcpu->user_irqchip.pic && READ_ONCE(vcpu->run->request_interrupt_window)));
	vmx_set_cpu_ctl(vmx, CPU_BASED_INTR_WINDOW_EXITING, irq || (nmi && sti));
	vmx_set_cpu_ctl(vmx, CPU_BASED_NMI_WINDOW_EXITING, nmi && !sti);
	vmx_set_cpu_ctl(vmx, CPU_BASED_CR8_LOAD_EXITING,
			!vmx->apicv &&
				(irq || !vcpu->lapic || mkvm_lapic_highest_irr(vcpu->lapic) >= 0));
}
