// SPDX-License-Identifier: GPL-2.0
/*
 * skip.c - completes an instruction that was executed outside the guest: advances RIP, ends the
 * interrupt shadow, clears RF, raises traps; and reports an instruction that cannot be emulated.
 *
 * State: vcpu->insn.next_rip, the address of the next instruction if the CPU supplied it, else 0.
 *
 * Manual: AMD APM vol. 2, "State Saved on Exit" (nRIP).
 *
 * Read next: decode.c, run_insn.c.
 */
#include <linux/kernel.h>
#include <linux/srcu.h>
#include <uapi/asm/debugreg.h>

#include "emulate.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"

/* Decodes the instruction at RIP (internal.h). */
unsigned int mkvm_decode_at_rip(struct mkvm_vcpu *vcpu, struct mkvm_emu **emu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	unsigned int len;

	*emu = mkvm_emu_begin(vcpu);
	(*emu)->insn_len = 0;
	(*emu)->patient = true;		/* the instruction may have been executed already */
	len = mkvm_insn_length(*emu);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return len;
}

/*
 * mkvm_insn_is_emulated - does the emulator execute the instruction at RIP?
 *
 * Context: the vCPU's own thread; takes vm->srcu; may sleep.
 */
bool mkvm_insn_is_emulated(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;

	return mkvm_decode_at_rip(vcpu, &emu) && mkvm_emu_is_known(emu);
}

/*
 * mkvm_insn_at_rip - identify an instruction that some CPU does not have, or does not identify in
 * its exit
 * @vector: set to the vector of INT n; may be NULL
 *
 * It knows VMCALL and VMMCALL, each of which is undefined on the other vendor's CPUs; RSM, which
 * Intel's CPUs have only in SMM; INT n, INT1, INT3 and INTO. Any prefix except LOCK may precede.
 * Context: the vCPU's own thread; takes vm->srcu; may sleep.
 */
enum mkvm_insn mkvm_insn_at_rip(struct mkvm_vcpu *vcpu, u8 *vector)
{
	struct mkvm_emu *emu;
	unsigned int len = mkvm_decode_at_rip(vcpu, &emu);

	return len ? mkvm_emu_identify(emu, len, vector) : MKVM_INSN_OTHER;
}

static unsigned int bytes_in(u32 opcode)
{
	return DIV_ROUND_UP(fls(opcode), 8);
}

/* Does the instruction end with these opcode bytes, the first of which is in the lowest bits? */
static bool ends_with(const u8 *insn, unsigned int len, u32 opcode)
{
	unsigned int n = bytes_in(opcode);

	return len >= n && !memcmp(insn + len - n, &opcode, n);
}

/*
 * mkvm_skip_by_decoding - move RIP past an intercepted instruction whose length is not known
 *
 * Return: 1; if the instruction cannot be decoded, as mkvm_emulation_failed.
 * Context: the vCPU's own thread; takes vm->srcu; may sleep.
 */
int mkvm_skip_by_decoding(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;
	unsigned int len;

	mkvm_test_point(MKVM_POINT_SKIP);
	len = mkvm_decode_at_rip(vcpu, &emu);
	if (vcpu->insn.intercepted && !ends_with(emu->insn, len, vcpu->insn.intercepted))
		len = bytes_in(vcpu->insn.intercepted);	/* the code has changed since */
	if (!len)
		return mkvm_emulation_failed(vcpu, emu);
	vcpu->rip += len;
	if (!(emu->mode.efer & EFER_LMA) || !emu->mode.cs_l)
		vcpu->rip = (u32)vcpu->rip;
	return 1;
}

/*
 * mkvm_emulation_failed - report that the instruction cannot be emulated
 *
 * At CPL 3 the guest gets #UD, so that a program cannot stop its machine, unless userspace has
 * enabled KVM_CAP_EXIT_ON_EMULATION_FAILURE. Otherwise KVM_RUN returns KVM_INTERNAL_ERROR_EMULATION
 * with the instruction's bytes. Return: 1 with #UD queued, 0 with the exit filled in.
 * Context: the vCPU's own thread.
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

/*
 * mkvm_end_instruction - complete an instruction that was executed outside the guest
 * @traps: as for mkvm_debug_trap
 *
 * Ends the interrupt shadow, clears RF and raises the traps. RIP is already past the instruction.
 * Context: the vCPU's own thread.
 */
void mkvm_end_instruction(struct mkvm_vcpu *vcpu, u32 traps)
{
	mkvm_hw->set_shadow(vcpu, 0);
	vcpu->rflags &= ~X86_EFLAGS_RF;
	mkvm_debug_trap(vcpu, traps);
}

/*
 * mkvm_skip_and_trap - as mkvm_skip_instruction, for an instruction that has hit breakpoints
 * @traps: the breakpoints hit, as bits of DR6
 */
int mkvm_skip_and_trap(struct mkvm_vcpu *vcpu, u32 traps)
{
	if (vcpu->insn.next_rip) {
		vcpu->rip = vcpu->insn.next_rip;
		vcpu->insn.next_rip = 0;
	} else {
		int r = mkvm_skip_by_decoding(vcpu);

		if (r <= 0)
			return r;
	}
	mkvm_end_instruction(vcpu, traps | (vcpu->rflags & X86_EFLAGS_TF ? DR_STEP : 0));
	return 1;
}

/*
 * mkvm_skip_instruction - move RIP past the instruction that was intercepted
 *
 * It also does what the end of an instruction does: ends the interrupt shadow, clears RF, and traps
 * if TF is set (AMD APM vol. 2, "Single Stepping"). Return: 1, or as mkvm_emulation_failed if the
 * length cannot be found.
 * Context: the vCPU's own thread; may sleep.
 */
int mkvm_skip_instruction(struct mkvm_vcpu *vcpu)
{
	return mkvm_skip_and_trap(vcpu, 0);
}
