// SPDX-License-Identifier: GPL-2.0
/*
 * debug.c - KVM_SET_GUEST_DEBUG: userspace debugs the guest, and the guest does not notice.
 *
 * State: vcpu->debug, under vcpu->mutex. While userspace has hardware breakpoints, the guest's
 * own debug registers are stored but have no effect. A single step sets TF without the guest's
 * knowledge (svm/event.c); an instruction that is emulated or skipped also counts as a step.
 * Every trap and breakpoint is then an exit to userspace, which returns those that are not its
 * own with KVM_GUESTDBG_INJECT_*.
 *
 * Manual: AMD APM vol. 2, "Software-Debug Resources". Read next: svm/exit.c.
 */
#include <linux/errno.h>
#include <linux/string.h>

#include "internal.h"
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
		if (vcpu->ev.raised.type || vcpu->ev.delivering.type)
			return -EBUSY;
		if (control & KVM_GUESTDBG_INJECT_BP)
			vcpu->rip++;	/* #BP is a trap: it is taken after the INT3 at RIP */
		mkvm_queue_exception(vcpu,
				     control & KVM_GUESTDBG_INJECT_DB ? X86_TRAP_DB : X86_TRAP_BP,
				     false, 0);
	}
	if (!(control & KVM_GUESTDBG_ENABLE))
		control = 0;
	vcpu->debug.control = control;
	memcpy(vcpu->debug.dr, dbg->arch.debugreg, sizeof(vcpu->debug.dr));
	vcpu->debug.dr7 = dbg->arch.debugreg[7] | MKVM_DR7_FIXED;
	vcpu->debug.traps = 0;
	mkvm_hw->guest_debug_changed(vcpu);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);	/* BLOCKIRQ may have held events back */
	return 0;
}

/* mkvm_debug_takes - whether userspace intercepts this exception. Own thread. */
bool mkvm_debug_takes(struct mkvm_vcpu *vcpu, u8 vector)
{
	if (vector == X86_TRAP_DB)
		return vcpu->debug.control & (KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP);
	return vector == X86_TRAP_BP && (vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP);
}

/*
 * mkvm_report_debug - exit to userspace with KVM_EXIT_DEBUG
 * @dr6: the cause of a #DB
 *
 * Context: own thread. Return: as handle_exit.
 */
int mkvm_report_debug(struct mkvm_vcpu *vcpu, u8 vector, u64 dr6)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_segment cs;

	mkvm_hw->get_segment(vcpu, MKVM_CS, &cs);
	vcpu->debug.traps = 0;
	run->exit_reason = KVM_EXIT_DEBUG;
	run->debug.arch = (struct kvm_debug_exit_arch) {
		.exception = vector, .pc = cs.base + vcpu->rip, .dr6 = dr6, .dr7 = vcpu->debug.dr7,
	};
	return 0;
}

/* ---- traps of instructions that the CPU does not run itself ---- */

/* Returns the DR7 and DR0-3 that are in force: userspace's breakpoints replace the guest's own. */
static u64 breakpoints(struct mkvm_vcpu *vcpu, const u64 **dr)
{
	if (vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP) {
		*dr = vcpu->debug.dr;
		return vcpu->debug.dr7;
	}
	*dr = vcpu->dr;
	/* dr_live is set if any of the guest's breakpoints is enabled. */
	return vcpu->dr_live ? mkvm_hw->get_dr(vcpu, 7) : 0;
}

/*
 * mkvm_watching - whether a breakpoint is enabled, so that mkvm_breakpoints_met is needed. Own
 * thread.
 */
bool mkvm_watching(struct mkvm_vcpu *vcpu)
{
	const u64 *dr;

	return unlikely(vcpu->dr_live || vcpu->debug.control) && (breakpoints(vcpu, &dr) & 0xff);
}

/*
 * mkvm_breakpoints_met - find the breakpoints that watch an access to memory or to ports
 * @addr: the linear address or port of the access's first byte
 * @len: the bytes of the access
 *
 * The CPU handles breakpoints in code: it checks them before an instruction can exit. AMD APM vol.
 * 2, "Debug-Control Register (DR7)", "Setting Breakpoints". Own thread. Return: bits of DR6.
 */
u32 mkvm_breakpoints_met(struct mkvm_vcpu *vcpu, enum mkvm_watch how, u64 addr, unsigned int len)
{
	static const u8 sizes[4] = { 1, 2, 8, 4 };	/* by DR7.LEN */
	bool ports = how == MKVM_WATCH_PORT && (mkvm_hw->get_cr(vcpu, 4) & X86_CR4_DE);
	const u64 *dr;
	u64 dr7 = breakpoints(vcpu, &dr);
	u32 met = 0;
	int i;

	for (i = 0; i < 4; i++) {
		unsigned int control = dr7 >> (DR_CONTROL_SHIFT + DR_CONTROL_SIZE * i) & 0xf;
		unsigned int size = sizes[control >> 2];
		u64 start = dr[i] & ~(u64)(size - 1);
		bool wanted;

		switch (control & 3) {
		case DR_RW_WRITE:
			wanted = how == MKVM_WATCH_WRITE;
			break;
		case DR_RW_READ:	/* or written */
			wanted = how != MKVM_WATCH_PORT;
			break;
		case 2:
			wanted = ports;
			break;
		default:
			wanted = false;
		}
		if (wanted && (dr7 >> (DR_ENABLE_SIZE * i) & 3) &&
		    (addr - start < size || start - addr < len))
			met |= BIT(i);
	}
	return met;
}

/*
 * mkvm_debug_trap - an instruction, or an iteration of REP, was completed outside of the guest
 * @traps: bits of DR6: the breakpoints that it met, and DR_STEP if TF was set when it began
 *
 * One #DB reports all of them and those that MOV SS has held back. It leaves the other bits of DR6
 * as they are. AMD APM vol. 2, "Debug-Status Register (DR6)". Own thread.
 */
void mkvm_debug_trap(struct mkvm_vcpu *vcpu, u32 traps)
{
	u64 dr6;

	if (unlikely(vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP))
		traps |= DR_STEP;
	if (likely(!traps))
		return;
	traps |= mkvm_hw->take_held_traps(vcpu);
	if (mkvm_debug_takes(vcpu, X86_TRAP_DB)) {
		vcpu->debug.traps = traps;
		return;
	}
	dr6 = mkvm_hw->get_dr(vcpu, 6) & ~(u64)DR_TRAP_BITS;
	mkvm_hw->set_dr(vcpu, 6, dr6 | traps);
	mkvm_queue_exception(vcpu, X86_TRAP_DB, false, 0);
}
