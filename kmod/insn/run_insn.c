// SPDX-License-Identifier: GPL-2.0
/*
 * run_insn.c - takes a vCPU from an exit through the emulator and back: one instruction, or the
 * delivery of one event.
 *
 * State: vcpu->insn.emu, which belongs to the emulator; vcpu->complete, set while userspace must
 * answer an access.
 *
 * Read next: emulate.c, access.c.
 */
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <asm/debugreg.h>

#include "emulate.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

/* KVM_RUN after userspace has answered: runs the instruction again, answered from the log. */
static int complete_emulation(struct mkvm_vcpu *vcpu)
{
	struct mkvm_io_log *log = &vcpu->insn.log;
	int r, idx;

	if (vcpu->rip != vcpu->insn.io_rip) {	/* userspace moved RIP, so the access is over */
		mkvm_forget_io(vcpu);
		return 1;
	}
	if (log->open)
		memcpy(&log->data[log->nr - 1], vcpu->run->mmio.data, sizeof(log->data[0]));
	log->open = false;
	log->pos = 0;
	idx = srcu_read_lock(&vcpu->vm->srcu);
	r = mkvm_run_insn(vcpu, vcpu->insn.cause);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/* RETRY: another vCPU has changed the code since the exit; the guest runs the new code instead. */
static enum mkvm_emu_result check_intercepted(struct mkvm_emu *emu)
{
	enum mkvm_emu_result r = mkvm_decode(emu);

	if (r == MKVM_EMU_DONE &&
	    mkvm_emu_is_intercepted(emu, emu->vcpu->insn.intercept.what,
				    emu->vcpu->insn.intercept.number))
		return MKVM_EMU_DONE;
	if (r == MKVM_EMU_FAULT || emu->host_fault)
		return r;
	return MKVM_EMU_RETRY;
}

/* May the next iteration of REP run here, or should the guest try it natively? */
static bool may_repeat(struct mkvm_vcpu *vcpu, unsigned int round)
{
	return round < 128 && !signal_pending(current) && !need_resched() &&
	       !(READ_ONCE(vcpu->pending) & ~vcpu->ev.waiting);
}

/* Returns the debug traps due after an instruction or an iteration of REP, for mkvm_debug_trap. */
static u32 due_traps(const struct mkvm_vcpu *vcpu, bool tf)
{
	return vcpu->insn.emu.traps | (tf ? DR_STEP : 0);
}

/* Makes the next KVM_RUN run the instruction again, with the same bytes and the same log. */
static void suspend_emulation(struct mkvm_vcpu *vcpu)
{
	vcpu->insn.io_rip = vcpu->rip;
	vcpu->complete = complete_emulation;
	vcpu->insn.len = vcpu->insn.emu.insn_len; /* the same bytes, even if the code is patched */
}

static void queue_fault(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu)
{
	if (emu->fault.vector == X86_TRAP_PF)
		mkvm_queue_page_fault(vcpu, emu->fault.cr2, emu->fault.error);
	else
		mkvm_queue_exception(vcpu, emu->fault.vector, emu->fault.has_error,
				     emu->fault.error);
}

/* Applies the emulator's last result to the vCPU. Return: as handle_exit. */
static int end_emulation(struct mkvm_vcpu *vcpu, enum mkvm_emu_result r, u32 traps)
{
	const struct mkvm_emu *emu = &vcpu->insn.emu;

	switch (r) {
	case MKVM_EMU_DONE:
		/* No trap is delivered between a load of SS and the next instruction. */
		if (emu->ss_loaded && !mkvm_debug_takes(vcpu, X86_TRAP_DB))
			traps = 0;
		if (unlikely(emu->fault_after))		/* comes instead of a single step's trap */
			traps = 0;
		mkvm_end_instruction(vcpu, traps);
		if (unlikely(emu->rf_loaded))		/* from the stack or the TSS */
			vcpu->rflags |= emu->rflags & X86_EFLAGS_RF;
		if (unlikely(mkvm_emu_unmasks_nmi(emu)))
			mkvm_hw->set_nmi_masked(vcpu, false);
		if (unlikely(emu->fault_after))
			queue_fault(vcpu, emu);
		if (unlikely(emu->ss_loaded))
			mkvm_hw->set_shadow(vcpu, KVM_X86_SHADOW_INT_MOV_SS);
		if (likely(!vcpu->user_irqchip.tpr_lowered))
			return 1;
		vcpu->user_irqchip.tpr_lowered = false;
		vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
		return 0;
	case MKVM_EMU_AGAIN:
		if (traps)
			mkvm_hw->set_shadow(vcpu, 0);
		mkvm_debug_trap(vcpu, traps);
		return 1;
	case MKVM_EMU_RETRY:
		return 1;
	case MKVM_EMU_FAULT:
		queue_fault(vcpu, emu);
		return 1;
	default:
		return emu->host_fault ? -EFAULT : mkvm_emulation_failed(vcpu, emu);
	}
}

/*
 * Runs the instruction or an iteration of REP, and restarts it while other vCPUs change its operand
 * in between.
 */
static enum mkvm_emu_result emulate_now(struct mkvm_vcpu *vcpu)
{
	enum mkvm_emu_result r;
	unsigned int tries = 0;

	do {
		vcpu->insn.log.pos = 0;
		vcpu->insn.emu.traps = 0;
		r = mkvm_emulate(&vcpu->insn.emu);
	} while (unlikely(r == MKVM_EMU_RETRY) && !signal_pending(current) && ++tries < 100);
	return r;
}

/*
 * mkvm_run_insn - run the instruction at RIP in the emulator
 * @cause: of the exit; with MKVM_BY_READ and MKVM_BY_WRITE vcpu->insn.fault_gpa is the operand's
 * address
 *
 * A REP string instruction runs up to 128 iterations. Return: as handle_exit.
 * Context: the vCPU's own thread, vm->srcu held, may sleep.
 */
int mkvm_run_insn(struct mkvm_vcpu *vcpu, enum mkvm_cause cause)
{
	enum mkvm_emu_result r = MKVM_EMU_DONE;
	unsigned int round = 0;
	struct mkvm_emu *emu;
	bool tf, stepped;

	vcpu->insn.cause = cause;
	emu = mkvm_emu_begin(vcpu);
	mkvm_test_point(MKVM_POINT_EMULATE);
	stepped = (vcpu->rflags & X86_EFLAGS_TF) || (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP);
	if (!emu->patient)	/* a replay must take as many elements as the first run did */
		emu->one_by_one = stepped || emu->watched;
	if (cause == MKVM_BY_INTERCEPT)
		r = check_intercepted(emu);
	do {
		tf = vcpu->rflags & X86_EFLAGS_TF;
		if (r == MKVM_EMU_DONE || r == MKVM_EMU_AGAIN)
			r = emulate_now(vcpu);
		if (r == MKVM_EMU_EXIT) {
			suspend_emulation(vcpu);
			return 0;
		}
		if (unlikely(r == MKVM_EMU_RETRY && (vcpu->insn.log.nr || vcpu->insn.pio.done))) {
			suspend_emulation(vcpu);
			return mkvm_interrupted(vcpu, -EINTR);
		}
		mkvm_forget_io(vcpu);
		vcpu->rip = emu->rip;
		/*
		 * RF: the first iteration has already taken any breakpoint on the instruction.
		 * AMD APM vol. 2, "Resume Flag (RF) Bit".
		 */
		if (r == MKVM_EMU_AGAIN)
			emu->rflags |= X86_EFLAGS_RF;
		vcpu->rflags = emu->rflags;
	} while (r == MKVM_EMU_AGAIN && !stepped && !emu->traps && may_repeat(vcpu, round++));
	return end_emulation(vcpu, r, due_traps(vcpu, tf));
}

/* ---- deliveries that the CPU could not complete ---- */

/*
 * Finds the event whose delivery the last exit interrupted. If the guest raised it itself by INT n,
 * INT1, INT3 or INTO, the CPU reports only its vector, and the instruction at RIP supplies the
 * rest. Returns false if another vCPU has changed that instruction since.
 */
static bool event_cut_off(struct mkvm_vcpu *vcpu, struct mkvm_emu_event *ev)
{
	const struct mkvm_event *e = &vcpu->ev.delivering;
	enum mkvm_insn insn;
	u8 vector = 0;

	*ev = (struct mkvm_emu_event) {
		.vector = (u8)vcpu->ev.vectoring, .rip = vcpu->rip, .rflags = vcpu->rflags,
	};
	if (e->type != MKVM_EV_NONE) {
		ev->soft = e->type == MKVM_EV_SOFT || (e->type == MKVM_EV_EXCEPTION &&
			   (e->vector == X86_TRAP_BP || e->vector == X86_TRAP_OF));
		ev->has_error = e->has_error;
		ev->error = e->error;
		ev->int_n = e->type == MKVM_EV_SOFT;
		if (e->type == MKVM_EV_SOFT)
			ev->rip += mkvm_hw->soft_event_len;
		if (e->type == MKVM_EV_EXCEPTION && mkvm_is_fault(e->vector))
			ev->rflags |= X86_EFLAGS_RF;
		return true;
	}
	insn = mkvm_insn_at_rip(vcpu, &vector);
	if (insn == MKVM_INSN_INT3)
		vector = X86_TRAP_BP;
	else if (insn == MKVM_INSN_INTO)
		vector = X86_TRAP_OF;
	else if (insn == MKVM_INSN_INT1)
		vector = X86_TRAP_DB;
	else if (insn != MKVM_INSN_INT_N)
		return false;
	ev->soft = insn != MKVM_INSN_INT1;
	ev->int_n = insn == MKVM_INSN_INT_N;
	ev->rip += vcpu->insn.emu.insn_len;
	return vector == ev->vector;
}

/* The event has been delivered, or its delivery has raised a fault. */
static void end_delivery(struct mkvm_vcpu *vcpu, enum mkvm_emu_result r)
{
	const struct mkvm_emu *emu = &vcpu->insn.emu;
	bool nmi = vcpu->ev.delivering.type == MKVM_EV_NMI;

	if (r == MKVM_EMU_DONE || vcpu->ev.delivering.type != MKVM_EV_EXCEPTION)
		vcpu->ev.delivering.type = MKVM_EV_NONE;
	if (nmi)
		mkvm_hw->set_nmi_masked(vcpu, true);
	vcpu->ev.exit_soon = false;
	if (r == MKVM_EMU_FAULT) {
		queue_fault(vcpu, emu);
		return;
	}
	vcpu->rip = emu->rip;
	vcpu->rflags = emu->rflags;
	mkvm_hw->set_shadow(vcpu, 0);
	mkvm_debug_trap(vcpu, emu->traps);
	if (emu->fault_after)
		queue_fault(vcpu, emu);
}

/*
 * mkvm_run_delivery - deliver the event whose delivery the last exit interrupted
 *
 * If the instruction that raised the event is no longer there, the guest runs what stands there
 * now. Return: as handle_exit; MKVM_NOT_DELIVERED with nothing changed if the delivery would access
 * a device.
 * Context: the vCPU's own thread, vm->srcu held, may sleep; vcpu->ev.vectoring is set.
 */
int mkvm_run_delivery(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu_event ev;
	enum mkvm_emu_result r;
	struct mkvm_emu *emu;

	if (!event_cut_off(vcpu, &ev))
		return vcpu->insn.emu.host_fault ? -EFAULT : 1;
	emu = mkvm_emu_begin(vcpu);
	emu->implicit = true;
	emu->one_operand = false;
	emu->traps = 0;
	r = mkvm_emu_deliver(emu, &ev);
	if (r == MKVM_EMU_RETRY)
		return 1;
	if (r == MKVM_EMU_UNHANDLED)
		return emu->host_fault ? -EFAULT : MKVM_NOT_DELIVERED;
	end_delivery(vcpu, r);
	return 1;
}
