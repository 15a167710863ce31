// SPDX-License-Identifier: GPL-2.0
/*
 * skip.c - the end of an instruction that was executed outside the guest: RIP, shadow, RF and
 * traps; and the failure of one that cannot be emulated.
 *
 * State: vcpu->next_rip, where the CPU says that the next instruction is, or 0 if it does not
 * say.
 *
 * Read next: mmio.c.
 */
#include <linux/kernel.h>
#include <uapi/asm/debugreg.h>

#include "hw_ops.h"

/*
 * The instruction cannot be emulated. A program at CPL 3 gets #UD, so that it cannot end
 * its machine, unless userspace wants to hear of it; then and otherwise it gets the bytes.
 */
int mkvm_emulation_failed(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu)
{
	struct kvm_run *run = vcpu->run;
	unsigned int n = min_t(unsigned int, emu->insn_len, MKVM_MAX_INSN);

	if (emu->mode.cpl == 3 && !READ_ONCE(vcpu->vm->exit_on_emulation_failure)) {
		mkvm_queue_exception(vcpu, X86_TRAP_UD, false, 0);
		return 1;
	}
	memset(&run->emulation_failure, 0, sizeof(run->emulation_failure));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.ndata = 4;
	if (n) {
		run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
		run->emulation_failure.insn_size = n;
		memset(run->emulation_failure.insn_bytes, 0x90, MKVM_MAX_INSN);
		memcpy(run->emulation_failure.insn_bytes, emu->insn, n);
	}
	return 0;
}

/* An instruction has ended outside of the guest, RIP is behind it. traps: for mkvm_debug_trap. */
void mkvm_end_instruction(struct mkvm_vcpu *vcpu, u32 traps)
{
	mkvm_hw->set_shadow(vcpu, 0);
	vcpu->rflags &= ~X86_EFLAGS_RF;
	mkvm_debug_trap(vcpu, traps);
}

/*
 * mkvm_skip_and_trap - as mkvm_skip_instruction, for an instruction that has met breakpoints
 * @traps: which, as in DR6
 */
int mkvm_skip_and_trap(struct mkvm_vcpu *vcpu, u32 traps)
{
	if (vcpu->next_rip) {
		vcpu->rip = vcpu->next_rip;
		vcpu->next_rip = 0;
	} else {
		int r = mkvm_skip_by_decoding(vcpu);

		if (r <= 0)
			return r;
	}
	mkvm_end_instruction(vcpu, traps | (vcpu->rflags & X86_EFLAGS_TF ? DR_STEP : 0));
	return 1;
}

/*
 * mkvm_skip_instruction - RIP goes past the instruction that was intercepted
 *
 * Also what else the end of an instruction does: the interrupt shadow ends, RF is
 * cleared, and TF traps. Return: 1, or 0 with an exit to userspace if the length is not
 * to be found out (AMD APM vol. 2, "Single Stepping").
 */
int mkvm_skip_instruction(struct mkvm_vcpu *vcpu)
{
	return mkvm_skip_and_trap(vcpu, 0);
}
