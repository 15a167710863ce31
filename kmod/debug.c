// SPDX-License-Identifier: GPL-2.0
/*
 * debug.c - KVM_SET_GUEST_DEBUG: userspace debugs the guest, which does not notice.
 *
 * State: vcpu->debug, under vcpu->mutex. While hardware breakpoints are userspace's,
 * the guest's own debug registers are kept but have no effect. A single step sets TF
 * behind the guest's back (svm/event.c); an instruction that is emulated or skipped
 * counts as a step, too. Every trap and breakpoint then is an exit to userspace,
 * which hands those that are not its own back with KVM_GUESTDBG_INJECT_*.
 *
 * Manual: AMD APM vol. 2, "Software-Debug Resources". Read next: svm/exit.c.
 */
#include <linux/errno.h>
#include <linux/string.h>

#include "hw_ops.h"
#include <asm/debugreg.h>

/*
 * mkvm_set_guest_debug - KVM_SET_GUEST_DEBUG
 *
 * Context: vcpu->mutex held, vCPU loaded. Return: -EINVAL for unknown flags or an impossible DR7,
 * -EBUSY for an exception to inject while another one waits; nothing has changed then.
 */
int mkvm_set_guest_debug(struct mkvm_vcpu *vcpu, const struct kvm_guest_debug *dbg)
{
	u32 control = dbg->control;

	if ((control & ~MKVM_GUESTDBG_FLAGS) || dbg->pad)
		return -EINVAL;
	if ((control & KVM_GUESTDBG_USE_HW_BP) && dbg->arch.debugreg[7] >> 32)
		return -EINVAL;
	if (control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (vcpu->exception.type || vcpu->event.type)
			return -EBUSY;
		if (control & KVM_GUESTDBG_INJECT_BP)
			vcpu->rip++;	/* a trap: it is taken behind the INT3 that RIP is at */
		mkvm_queue_exception(vcpu, control & KVM_GUESTDBG_INJECT_DB ? X86_TRAP_DB : X86_TRAP_BP, false, 0);
	}
	if (!(control & KVM_GUESTDBG_ENABLE))
		control = 0;
	vcpu->debug.control = control;
	memcpy(vcpu->debug.dr, dbg->arch.debugreg, sizeof(vcpu->debug.dr));
	vcpu->debug.dr7 = dbg->arch.debugreg[7] | 0x400;
	vcpu->debug.stepped = false;
	mkvm_hw->guest_debug_changed(vcpu);
	set_bit(MKVM_PEND_EVENT, &vcpu->pending);	/* what KVM_GUESTDBG_BLOCKIRQ has held back */
	return 0;
}

/* mkvm_debug_takes - is this exception userspace's? */
bool mkvm_debug_takes(struct mkvm_vcpu *vcpu, u8 vector)
{
	u32 flags = vector == X86_TRAP_DB ? KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP :
		    vector == X86_TRAP_BP ? KVM_GUESTDBG_USE_SW_BP : 0;

	return vcpu->debug.control & flags;
}

/* mkvm_exit_debug - to userspace with KVM_EXIT_DEBUG; dr6 says what kind of #DB. Return: as handle_exit. */
int mkvm_exit_debug(struct mkvm_vcpu *vcpu, u8 vector, u64 dr6)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_segment cs;

	mkvm_hw->get_segment(vcpu, MKVM_CS, &cs);
	vcpu->debug.stepped = false;
	run->exit_reason = KVM_EXIT_DEBUG;
	run->debug.arch = (struct kvm_debug_exit_arch) {
		.exception = vector, .pc = cs.base + vcpu->rip, .dr6 = dr6, .dr7 = vcpu->debug.dr7,
	};
	return 0;
}

/* mkvm_exit_mov_dr - a debug register is accessed while they are userspace's, which can watch that by DR7.GD */
int mkvm_exit_mov_dr(struct mkvm_vcpu *vcpu)
{
	if (vcpu->debug.dr7 & MKVM_DR7_GD)
		return mkvm_exit_debug(vcpu, X86_TRAP_DB, DR6_RESERVED | BIT(13));
	return mkvm_exit_emulate(vcpu);
}
