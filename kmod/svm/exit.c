// SPDX-License-Identifier: GPL-2.0
/*
 * exit.c - what each #VMEXIT means: one small handler for each code.
 *
 * State: none of its own; reads the VMCB's exit fields.
 *
 * Handlers return 1 (enter again), 0 (to userspace, kvm_run is filled in) or -errno.
 * APM vol. 2, "SVM Intercept Exit Codes".
 */
#include "svm.h"
#include "../compat.h"
#include <asm/debugreg.h>

static int svm_exit_nothing(struct svm_vcpu *svm)
{
	return 1;
}

/* A host interrupt; it was served when interrupts came on. The guest is a quiescent state for RCU. */
static int svm_exit_intr(struct svm_vcpu *svm)
{
	svm->vcpu.stats[MKVM_STAT_IRQ_EXITS]++;
	local_irq_disable();
	mkvm_rcu_note_guest();
	local_irq_enable();
	return 1;
}

static int svm_exit_vintr(struct svm_vcpu *svm)
{
	svm->vcpu.stats[MKVM_STAT_IRQ_WINDOW_EXITS]++;
	svm_close_irq_window(svm);
	set_bit(MKVM_PEND_EVENT, &svm->vcpu.pending);
	return 1;
}

static int svm_exit_iret(struct svm_vcpu *svm)
{
	svm_iret_intercepted(svm);
	return 1;
}

static int svm_exit_cpuid(struct svm_vcpu *svm)
{
	return mkvm_exit_cpuid(&svm->vcpu);
}

static int svm_exit_hlt(struct svm_vcpu *svm)
{
	return mkvm_exit_halt(&svm->vcpu);
}

static int svm_exit_msr(struct svm_vcpu *svm)
{
	return svm->vmcb->control.exit_info_1 ? mkvm_exit_wrmsr(&svm->vcpu) : mkvm_exit_rdmsr(&svm->vcpu);
}

static int svm_exit_ioio(struct svm_vcpu *svm)
{
	u32 info = svm->vmcb->control.exit_info_1;

	svm->vcpu.stats[MKVM_STAT_IO_EXITS]++;
	if (info & SVM_IOIO_STR_MASK)
		return mkvm_exit_emulate(&svm->vcpu);
	svm->vcpu.next_rip = svm->vmcb->control.exit_info_2;
	return mkvm_exit_pio(&svm->vcpu, info >> 16, (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT,
			     info & SVM_IOIO_TYPE_MASK);
}

static int svm_exit_emulate(struct svm_vcpu *svm)
{
	return mkvm_exit_emulate(&svm->vcpu);
}

/* The first access to a debug register: from now on DR0-3 are the guest's while it runs. */
static int svm_exit_dr(struct svm_vcpu *svm)
{
	if (svm->debugged)
		return mkvm_exit_emulate(&svm->vcpu);
	svm_dr_live(svm);
	return 1;
}

/* Caches are coherent and no device bypasses them: nothing to write back or to drop. */
static int svm_exit_skip(struct svm_vcpu *svm)
{
	return mkvm_skip_instruction(&svm->vcpu);
}

static int svm_exit_ud(struct svm_vcpu *svm)
{
	mkvm_queue_exception(&svm->vcpu, X86_TRAP_UD, false, 0);
	return 1;
}

static int svm_exit_gp(struct svm_vcpu *svm)
{
	mkvm_queue_gp(&svm->vcpu);
	return 1;
}

static int svm_exit_vmmcall(struct svm_vcpu *svm)
{
	return mkvm_exit_hypercall(&svm->vcpu);
}

static int svm_exit_xsetbv(struct svm_vcpu *svm)
{
	return mkvm_exit_xsetbv(&svm->vcpu);
}

static int svm_exit_rsm(struct svm_vcpu *svm)
{
	return mkvm_exit_rsm(&svm->vcpu);
}

static bool has_error_code(u8 vector)
{
	return vector == X86_TRAP_DF || (vector >= X86_TRAP_TS && vector <= X86_TRAP_PF) || vector == X86_TRAP_AC;
}

/* DR6 is sticky: of a trap that was not the guest's these bits are again as it had them. */
static void forget_trap(struct svm_vcpu *svm, u64 bits)
{
	u64 *dr6 = &svm->vmcb->save.dr6;

	*dr6 = (*dr6 & ~bits) | (svm->step_trap || svm->debugged ? svm->guest_dr6 & bits : 0);
}

/* An intercepted exception goes on to the guest, unless it was the trap of our own single step. */
static int svm_exit_exception(struct svm_vcpu *svm)
{
	struct vmcb_control_area *c = &svm->vmcb->control;
	u8 vector = c->exit_code - SVM_EXIT_EXCP_BASE;

	if (vector == X86_TRAP_MC)	/* see svm_enter */
		return 1;
	if (mkvm_debug_takes(&svm->vcpu, vector)) {
		u64 dr6 = svm->vmcb->save.dr6;

		forget_trap(svm, DR_STEP | DR_TRAP_BITS);
		return mkvm_exit_debug(&svm->vcpu, vector, dr6);
	}
	if (vector == X86_TRAP_DB && svm->step_trap) {
		forget_trap(svm, DR_STEP);
		return 1;
	}
	/* Intel's instruction for what is VMMCALL here; clients' firmware and tests use either. */
	if (vector == X86_TRAP_UD && mkvm_insn_at_rip(&svm->vcpu) == MKVM_INSN_HYPERCALL) {
		svm->vcpu.next_rip = 0;
		return mkvm_exit_hypercall(&svm->vcpu);
	}
	/* Traps, but the exit comes before INT3 (CC) or INTO (CE). */
	if (vector == X86_TRAP_BP || vector == X86_TRAP_OF)
		svm->vcpu.rip = svm->vcpu.next_rip ?: svm->vcpu.rip + 1;
	if (vector == X86_TRAP_PF)
		mkvm_queue_page_fault(&svm->vcpu, c->exit_info_2, c->exit_info_1);
	else
		mkvm_queue_exception(&svm->vcpu, vector, has_error_code(vector), c->exit_info_1);
	return 1;
}

/* A triple fault leaves the VMCB undefined: it is made sound again for who looks at it. */
static int svm_exit_shutdown(struct svm_vcpu *svm)
{
	mkvm_vcpu_reset(&svm->vcpu, true);
	return mkvm_exit_shutdown(&svm->vcpu);
}

static int svm_exit_npf(struct svm_vcpu *svm)
{
	struct vmcb_control_area *c = &svm->vmcb->control;
	u64 error = c->exit_info_1;
	bool operand = (error & BIT_ULL(32)) && !(error & BIT(4));

	svm->vcpu.insn_len = 0;
	if (boot_cpu_has(X86_FEATURE_DECODEASSISTS) && operand) {
		svm->vcpu.insn_len = min_t(u8, c->insn_len, MKVM_MAX_INSN);
		memcpy(svm->vcpu.insn, c->insn_bytes, MKVM_MAX_INSN);
	}
	return mkvm_exit_tdp_fault(&svm->vcpu, c->exit_info_2, error & BIT(1), !operand);
}

static int svm_exit_invalid(struct svm_vcpu *svm)
{
	struct kvm_run *run = svm->vcpu.run;
	struct vmcb_save_area *s = &svm->vmcb->save;

	pr_err_ratelimited("mkvm: VMRUN refused the VMCB: efer %llx cr0 %llx cr3 %llx cr4 %llx rflags %llx asid %u event %x\n",
			   s->efer, s->cr0, s->cr3, s->cr4, s->rflags, svm->vmcb->control.asid,
			   svm->vmcb->control.event_inj);
	run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	run->fail_entry.hardware_entry_failure_reason = SVM_EXIT_ERR;
	run->fail_entry.cpu = raw_smp_processor_id();
	return 0;
}

static int (*const handlers[])(struct svm_vcpu *svm) = {
	[SVM_EXIT_READ_CR0 ... SVM_EXIT_WRITE_CR8] = svm_exit_emulate,
	[SVM_EXIT_READ_DR0 ... SVM_EXIT_WRITE_DR7] = svm_exit_dr,
	[SVM_EXIT_EXCP_BASE ... SVM_EXIT_LAST_EXCP] = svm_exit_exception,
	[SVM_EXIT_INTR] = svm_exit_intr,
	[SVM_EXIT_NMI] = svm_exit_nothing,	/* the host's, taken at STGI */
	[SVM_EXIT_SMI] = svm_exit_nothing,
	[SVM_EXIT_INIT] = svm_exit_nothing,
	[SVM_EXIT_VINTR] = svm_exit_vintr,
	[SVM_EXIT_RDPMC] = svm_exit_gp,		/* no performance counters are shown */
	[SVM_EXIT_CPUID] = svm_exit_cpuid,
	[SVM_EXIT_RSM] = svm_exit_rsm,
	[SVM_EXIT_IRET] = svm_exit_iret,
	[SVM_EXIT_INVD] = svm_exit_skip,
	[SVM_EXIT_HLT] = svm_exit_hlt,
	[SVM_EXIT_INVLPGA] = svm_exit_ud,
	[SVM_EXIT_IOIO] = svm_exit_ioio,
	[SVM_EXIT_MSR] = svm_exit_msr,
	[SVM_EXIT_SHUTDOWN] = svm_exit_shutdown,
	[SVM_EXIT_VMRUN] = svm_exit_ud,
	[SVM_EXIT_VMMCALL] = svm_exit_vmmcall,
	[SVM_EXIT_VMLOAD ... SVM_EXIT_SKINIT] = svm_exit_ud,
	[SVM_EXIT_WBINVD] = svm_exit_skip,
	[SVM_EXIT_MONITOR ... SVM_EXIT_MWAIT_COND] = svm_exit_ud,
	[SVM_EXIT_XSETBV] = svm_exit_xsetbv,
	[SVM_EXIT_RDPRU] = svm_exit_ud,
};

/* hw_ops handle_exit. */
int svm_handle_exit(struct mkvm_vcpu *vcpu)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	u32 code = svm->vmcb->control.exit_code;

	if (code == SVM_EXIT_NPF)
		return svm_exit_npf(svm);
	if (code < ARRAY_SIZE(handlers) && handlers[code])
		return handlers[code](svm);
	if (code == (u32)SVM_EXIT_ERR)
		return svm_exit_invalid(svm);
	return mkvm_exit_unknown(vcpu, code);
}
