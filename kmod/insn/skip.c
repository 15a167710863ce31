// SPDX-License-Identifier: GPL-2.0
/*
 * skip.c - the end of an instruction that was executed outside the guest: RIP, shadow, RF and
 * traps; and the failure of one that cannot be emulated.
 *
 * State: vcpu->next_rip, where the CPU says that the next instruction is, or 0 if it does not
 * say.
 *
 * Read next: decode.c, run_insn.c.
 */
#include <linux/kernel.h>
#include <linux/srcu.h>
#include <uapi/asm/debugreg.h>

#include "decode.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"

/* The length of the instruction at RIP, 0 where that fails; *emu has it decoded. Own thread. */
unsigned int mkvm_decode_at_rip(struct mkvm_vcpu *vcpu, struct mkvm_emu **emu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	unsigned int len;

	*emu = mkvm_emu_begin(vcpu);
	(*emu)->insn_len = 0;
	(*emu)->patient = true;		/* the instruction was done already */
	len = mkvm_insn_length(*emu);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return len;
}

/* Is the instruction at RIP one that the emulator runs? Not IRET, of which it knows one form. Own thread. */
bool mkvm_insn_is_emulated(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;

	return mkvm_decode_at_rip(vcpu, &emu) && emu->d.op != OP_LENGTH && emu->d.op != OP_IRET;
}

/*
 * mkvm_insn_at_rip - which of the instructions that some CPU does not know, or not apart, is at RIP?
 * @vector: of INT n; may be NULL
 *
 * VMCALL and VMMCALL: whichever is the other maker's. RSM: Intel's knows it in its own SMM only.
 * After any prefix but LOCK. Own thread.
 */
enum mkvm_insn mkvm_insn_at_rip(struct mkvm_vcpu *vcpu, u8 *vector)
{
	static const struct {
		u8 len, bytes[3];
		enum mkvm_insn insn;
	} known[] = {
		{ 3, { 0x0f, 0x01, 0xc1 }, MKVM_INSN_HYPERCALL },
		{ 3, { 0x0f, 0x01, 0xd9 }, MKVM_INSN_HYPERCALL },
		{ 2, { 0x0f, 0xaa }, MKVM_INSN_RSM },
		{ 1, { 0xcc }, MKVM_INSN_INT3 },
		{ 1, { 0xce }, MKVM_INSN_INTO },
		{ 1, { 0xf1 }, MKVM_INSN_INT1 },
	};
	struct mkvm_emu *emu;
	unsigned int len = mkvm_decode_at_rip(vcpu, &emu), i;
	const u8 *end = emu->insn + len;

	if (!len || emu->d.op != OP_LENGTH || emu->prefix[LOCK] || ((emu->d.flags & MODRM) && emu->mod != 3))
		return MKVM_INSN_OTHER;
	/* Of those that are only measured it alone has an immediate. */
	if (emu->d.src == IMM8) {
		if (vector)
			*vector = end[-1];
		return MKVM_INSN_INT_N;
	}
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (len >= known[i].len && !memcmp(end - known[i].len, known[i].bytes, known[i].len))
			return known[i].insn;
	return MKVM_INSN_OTHER;
}

static unsigned int bytes_in(u32 opcode)
{
	return DIV_ROUND_UP(fls(opcode), 8);
}

/* Are these, the first in the lowest bits, the last bytes of an instruction? */
static bool ends_with(const u8 *insn, unsigned int len, u32 opcode)
{
	unsigned int n = bytes_in(opcode);

	return len >= n && !memcmp(insn + len - n, &opcode, n);
}

/*
 * RIP past an intercepted instruction when the CPU does not say how long it is.
 * Return: 1, or as handle_exit when that failed.
 */
int mkvm_skip_by_decoding(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;
	unsigned int len;

	mkvm_test_point(MKVM_POINT_SKIP);
	len = mkvm_decode_at_rip(vcpu, &emu);
	if (vcpu->intercepted && !ends_with(emu->insn, len, vcpu->intercepted))
		len = bytes_in(vcpu->intercepted);	/* other code stands there by now */
	if (!len)
		return mkvm_emulation_failed(vcpu, emu);
	vcpu->rip += len;
	if (!(emu->mode.efer & EFER_LMA) || !emu->mode.cs_l)
		vcpu->rip = (u32)vcpu->rip;
	return 1;
}

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
