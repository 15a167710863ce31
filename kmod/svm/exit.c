// SPDX-License-Identifier: GPL-2.0
/*
 * exit.c - handles #VMEXITs: one small handler for each exit code.
 *
 * State: none; it reads the exit fields of the VMCB. Handlers return 1 (enter again), 0 (return to
 * userspace, kvm_run is filled in) or -errno.
 *
 * AMD APM vol. 2, "SVM Intercept Exit Codes". Read next: cpu/exit.c.
 */
#include <linux/nospec.h>

#include "svm.h"
#include <asm/debugreg.h>

static int svm_handle_vintr(struct mkvm_vcpu *vcpu)
{
	vcpu->stats[MKVM_STAT_IRQ_WINDOW_EXITS]++;
	svm_close_irq_window(to_svm(vcpu));
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 1;
}

static int svm_handle_iret(struct mkvm_vcpu *vcpu)
{
	svm_iret_intercepted(to_svm(vcpu));
	return 1;
}

static int svm_handle_msr(struct mkvm_vcpu *vcpu)
{
	return to_svm(vcpu)->vmcb->control.exit_info_1 ? mkvm_handle_wrmsr(vcpu) :
							 mkvm_handle_rdmsr(vcpu);
}

static int svm_handle_ioio(struct mkvm_vcpu *vcpu)
{
	struct vmcb_control_area *c = &to_svm(vcpu)->vmcb->control;
	u32 info = c->exit_info_1, size = (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT;

	vcpu->stats[MKVM_STAT_IO_EXITS]++;
	if (info & SVM_IOIO_STR_MASK)
		return mkvm_handle_intercepted(vcpu, info & SVM_IOIO_TYPE_MASK ?
					       MKVM_INTERCEPT_INS : MKVM_INTERCEPT_OUTS, size);
	vcpu->insn.next_rip = c->exit_info_2;
	return mkvm_handle_pio(vcpu, info >> 16, size, info & SVM_IOIO_TYPE_MASK);
}

/* A read of CR4, or on TCG of any control register, which it reports as CR0: see set_cr4. */
static int svm_handle_cr_read(struct mkvm_vcpu *vcpu)
{
	unsigned int cr = to_svm(vcpu)->vmcb->control.exit_code - SVM_EXIT_READ_CR0;

	return mkvm_handle_intercepted(vcpu, MKVM_INTERCEPT_GET_CR,
				       svm_on_tcg() ? MKVM_ANY_CR : cr);
}

static int svm_handle_cr_write(struct mkvm_vcpu *vcpu)
{
	unsigned int cr = to_svm(vcpu)->vmcb->control.exit_code - SVM_EXIT_WRITE_CR0;

	return mkvm_handle_intercepted(vcpu, MKVM_INTERCEPT_SET_CR, cr);
}

/* Exits only while soft_tlb.c does the walks; CLTS and writes that change only TS or MP do not. */
static int svm_handle_cr0_write(struct mkvm_vcpu *vcpu)
{
	return mkvm_handle_intercepted(vcpu, MKVM_INTERCEPT_SET_CR, 0);
}

/* The first access to a debug register; from now on DR0-3 hold the guest's values while it runs. */
static int svm_handle_dr(struct mkvm_vcpu *vcpu)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	unsigned int n = svm->vmcb->control.exit_code - SVM_EXIT_READ_DR0;

	if (svm->debugged)
		return mkvm_handle_mov_dr(vcpu, n & 15, n >= 16);
	svm_dr_live(svm);
	return 1;
}

/* Restores these bits of the sticky DR6 to the guest's values, after a trap that is not its own. */
static void forget_trap(struct svm_vcpu *svm, u64 bits)
{
	u64 *dr6 = &svm->vmcb->save.dr6;

	*dr6 = (*dr6 & ~bits) | (svm->step_trap || svm->debugged ? svm->guest_dr6 & bits : 0);
}

/* Reflects an intercepted exception to the guest, unless mkvm or userspace is debugging it. */
static int take_exception(struct mkvm_vcpu *vcpu, u8 vector)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	struct vmcb_control_area *c = &svm->vmcb->control;

	if (vector == X86_TRAP_MC)	/* see svm_enter */
		return 1;
	if (vector == X86_TRAP_PF && vcpu->soft_tlb.root)
		return mkvm_handle_soft_fault(vcpu, c->exit_info_2, c->exit_info_1);
	if (mkvm_debug_takes(vcpu, vector)) {
		u64 dr6 = svm->vmcb->save.dr6;

		forget_trap(svm, DR_STEP | DR_TRAP_BITS);
		return mkvm_report_debug(vcpu, vector, dr6);
	}
	if (vector == X86_TRAP_DB && svm->step_trap) {
		forget_trap(svm, DR_STEP);
		return 1;
	}
	if (vector == X86_TRAP_UD) {
		switch (mkvm_insn_at_rip(vcpu, NULL)) {
		case MKVM_INSN_HYPERCALL:	/* VMCALL; firmware and tests use it or VMMCALL */
			vcpu->insn.next_rip = 0;
			return mkvm_handle_hypercall(vcpu);
		case MKVM_INSN_RSM:		/* Bochs checks its own SMM before the intercept */
			return mkvm_handle_rsm(vcpu);
		default:
			break;
		}
	}
	/* These are traps, but the exit comes before the instruction, INT3 (CC) or INTO (CE). */
	if (vector == X86_TRAP_BP || vector == X86_TRAP_OF)
		vcpu->rip = vcpu->insn.next_rip ?: vcpu->rip + 1;
	if (vector == X86_TRAP_PF)
		mkvm_queue_page_fault(vcpu, c->exit_info_2, c->exit_info_1);
	else
		mkvm_queue_exception(vcpu, vector, mkvm_has_error_code(vector), c->exit_info_1);
	return 1;
}

static int svm_handle_exception(struct mkvm_vcpu *vcpu)
{
	return take_exception(vcpu, to_svm(vcpu)->vmcb->control.exit_code - SVM_EXIT_EXCP_BASE);
}

/* INT n is intercepted where the host treats INT3 and INTO as INT n (svm_guest_debug_changed). */
static int svm_handle_swint(struct mkvm_vcpu *vcpu)
{
	u8 vector;

	switch (mkvm_insn_at_rip(vcpu, &vector)) {
	case MKVM_INSN_INT3:
		return take_exception(vcpu, X86_TRAP_BP);
	case MKVM_INSN_INTO:
		return take_exception(vcpu, X86_TRAP_OF);
	case MKVM_INSN_INT_N:
		vcpu->ev.delivering = (struct mkvm_event){ .type = MKVM_EV_SOFT, .vector = vector };
		return mkvm_skip_by_decoding(vcpu);
	default:
		return 1;	/* another vCPU has changed the code: execute it again */
	}
}

#define NPF_WALK	BIT_ULL(33)	/* in the walk of the guest's tables; counts as a write */

/* Drops translations; exits only while soft_tlb.c holds them. */
static int svm_handle_invlpg(struct mkvm_vcpu *vcpu)
{
	mkvm_hw->flush_tlb(vcpu);
	return mkvm_skip_instruction(vcpu);
}

static int svm_handle_invpcid(struct mkvm_vcpu *vcpu)
{
	return vcpu->guest_cpuid.shown & MKVM_SHOWN_INVPCID ? svm_handle_invlpg(vcpu) :
							      mkvm_handle_ud(vcpu);
}

static int svm_handle_npf(struct mkvm_vcpu *vcpu)
{
	struct vmcb_control_area *c = &to_svm(vcpu)->vmcb->control;
	u64 error = c->exit_info_1;
	bool operand = (error & BIT_ULL(32)) && !(error & BIT(4));

	vcpu->insn.len = 0;
	vcpu->insn.by_cpu = 0;
	vcpu->insn.fault_la = ~0ULL;
	if (error & NPF_WALK)
		return mkvm_handle_walk_fault(vcpu, c->exit_info_2, error & BIT(1));
	if (boot_cpu_has(X86_FEATURE_DECODEASSISTS) && operand) {
		vcpu->insn.len = vcpu->insn.by_cpu = min_t(u8, c->insn_len, MKVM_MAX_INSN);
		memcpy(vcpu->insn.bytes, c->insn_bytes, MKVM_MAX_INSN);
	}
	return mkvm_handle_tdp_fault(vcpu, c->exit_info_2, error & BIT(1), !operand);
}

static int svm_handle_invalid(struct mkvm_vcpu *vcpu)
{
	struct vmcb *vmcb = to_svm(vcpu)->vmcb;
	struct vmcb_save_area *s = &vmcb->save;

	pr_err_ratelimited("mkvm: VMRUN refused the VMCB: efer %llx cr0 %llx cr3 %llx cr4 %llx rflags %llx asid %u event %x\n",
			   s->efer, s->cr0, s->cr3, s->cr4, s->rflags, vmcb->control.asid,
			   vmcb->control.event_inj);
	return mkvm_report_fail_entry(vcpu, SVM_EXIT_ERR);
}

static int (*const handlers[])(struct mkvm_vcpu *vcpu) = {
	[SVM_EXIT_READ_CR0 ... SVM_EXIT_READ_CR8] = svm_handle_cr_read,
	[SVM_EXIT_WRITE_CR0 ... SVM_EXIT_WRITE_CR8] = svm_handle_cr_write,
	[SVM_EXIT_READ_DR0 ... SVM_EXIT_WRITE_DR7] = svm_handle_dr,
	[SVM_EXIT_EXCP_BASE ... SVM_EXIT_LAST_EXCP] = svm_handle_exception,
	[SVM_EXIT_INTR] = mkvm_handle_host_interrupt,
	[SVM_EXIT_NMI] = mkvm_handle_nothing,	/* the host takes it at STGI */
	[SVM_EXIT_SMI] = mkvm_handle_nothing,
	[SVM_EXIT_INIT] = mkvm_handle_nothing,
	[SVM_EXIT_VINTR] = svm_handle_vintr,
	[SVM_EXIT_CR0_SEL_WRITE] = svm_handle_cr0_write,
	[SVM_EXIT_RDPMC] = mkvm_handle_gp,	/* no performance counters are shown */
	[SVM_EXIT_CPUID] = mkvm_handle_cpuid,
	[SVM_EXIT_SWINT] = svm_handle_swint,
	[SVM_EXIT_RSM] = mkvm_handle_rsm,
	[SVM_EXIT_IRET] = svm_handle_iret,
	/* Caches are coherent and no device bypasses them, so INVD and WBINVD need do nothing. */
	[SVM_EXIT_INVD] = mkvm_skip_instruction,
	[SVM_EXIT_HLT] = mkvm_handle_halt,
	[SVM_EXIT_INVLPG] = svm_handle_invlpg,
	[SVM_EXIT_INVLPGA] = mkvm_handle_ud,
	[SVM_EXIT_IOIO] = svm_handle_ioio,
	[SVM_EXIT_MSR] = svm_handle_msr,
	[SVM_EXIT_TASK_SWITCH] = mkvm_handle_task_switch,
	[SVM_EXIT_SHUTDOWN] = mkvm_handle_triple_fault,
	[SVM_EXIT_VMRUN] = mkvm_handle_ud,
	[SVM_EXIT_VMMCALL] = mkvm_handle_hypercall,
	[SVM_EXIT_VMLOAD ... SVM_EXIT_SKINIT] = mkvm_handle_ud,
	[SVM_EXIT_RDTSCP] = mkvm_handle_ud,	/* intercepted if CPUID hides it, as is INVPCID */
	[SVM_EXIT_WBINVD] = mkvm_skip_instruction,
	[SVM_EXIT_MONITOR] = mkvm_handle_monitor,
	[SVM_EXIT_MWAIT ... SVM_EXIT_MWAIT_COND] = mkvm_handle_mwait,
	[SVM_EXIT_XSETBV] = mkvm_handle_xsetbv,
	[SVM_EXIT_RDPRU] = mkvm_handle_ud,
	[SVM_EXIT_INVPCID] = svm_handle_invpcid,
};

/*
 * Opcodes of the skipped instructions, the first byte in the lowest bits: on a CPU that does not
 * save the next RIP, mkvm_skip_by_decoding compares them.
 */
static const u32 skipped[] = {
	[SVM_EXIT_CPUID] = 0xa20f,
	[SVM_EXIT_INVD] = 0x080f,
	[SVM_EXIT_HLT] = 0xf4,
	[SVM_EXIT_VMMCALL] = 0xd9010f,
	[SVM_EXIT_WBINVD] = 0x090f,
	[SVM_EXIT_MONITOR] = 0xc8010f,
	[SVM_EXIT_MWAIT ... SVM_EXIT_MWAIT_COND] = 0xc9010f,
	[SVM_EXIT_XSETBV] = 0xd1010f,
};

/* hw_ops handle_exit. */
int svm_handle_exit(struct mkvm_vcpu *vcpu)
{
	struct vmcb_control_area *c = &to_svm(vcpu)->vmcb->control;
	u32 code = c->exit_code;

	vcpu->insn.intercepted = code < ARRAY_SIZE(skipped) ? skipped[code] : 0;
	if (code == SVM_EXIT_MSR)
		vcpu->insn.intercepted = c->exit_info_1 ? 0x300f : 0x320f;
	if (code == SVM_EXIT_NPF)
		return svm_handle_npf(vcpu);
	if (code < ARRAY_SIZE(handlers)) {
		int (*handler)(struct mkvm_vcpu *vcpu) =
			handlers[array_index_nospec(code, ARRAY_SIZE(handlers))];

		if (handler)
			return handler(vcpu);
	}
	if (code == (u32)SVM_EXIT_ERR)
		return svm_handle_invalid(vcpu);
	return mkvm_report_unknown(vcpu, code);
}
