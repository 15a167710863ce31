// SPDX-License-Identifier: GPL-2.0
/*
 * run.c - KVM_RUN: what a vCPU's thread does between two returns to userspace.
 *
 * Each round has these steps, in this order: INIT and SIPI (mp_state.c), SMI (smm.c); sleep if
 * the vCPU is not running; inject the next event, or open a window for it; announce
 * MKVM_IN_GUEST; look at the pending word again; flush if the TLB generation has changed;
 * enter; handle the exit; do the kernel's work for a return to userspace (signals, the
 * scheduler, CPU limits and other task work).
 *
 * State: struct kvm_run, which userspace shares and which is not trusted: each field is read
 * once and checked.
 *
 * Read next: inject.c (the next event), exit.c (the handlers).
 */
#include <linux/hw_breakpoint.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <asm/debugreg.h>
#include <asm/fpu/xcr.h>
#include <asm/pkru.h>
#include <trace/events/ipi.h>

#include "internal.h"
#include "compat.h"
#include "cpu/fpu.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

/* The bits of the pending word that ask for work before an entry. */
#define PEND_WORK                                                                               \
	(BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SIPI) | BIT(MKVM_PEND_NMI) | BIT(MKVM_PEND_NMI2) | \
	 BIT(MKVM_PEND_SMI) | BIT(MKVM_PEND_EVENT) | BIT(MKVM_PEND_MSRS))

/* The bits that the loop handles before all else. */
#define PEND_FIRST \
	(BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SIPI) | BIT(MKVM_PEND_REPORT) | BIT(MKVM_PEND_MSRS))

/* ---- entering ---- */

static void write_dr(const u64 *dr)
{
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
}

static void read_dr(u64 *dr)
{
	get_debugreg(dr[0], 0);
	get_debugreg(dr[1], 1);
	get_debugreg(dr[2], 2);
	get_debugreg(dr[3], 3);
}

static void load_guest_dr(const u64 *dr)
{
	if (unlikely(hw_breakpoint_active()))
		set_debugreg(0, 7);	/* the guest's addresses are not the host's breakpoints */
	write_dr(dr);
}

/*
 * An exit clears DR7, and the guest may have used DR0-3. The kernel has a function that loads its
 * breakpoints again, but exports it from Linux 6.19 on to modules named kvm, kvm-amd and kvm-intel
 * only.
 */
static void restore_host_dr(const u64 *dr)
{
	write_dr(dr);
	set_debugreg(DR6_RESERVED, 6);
	set_debugreg(__this_cpu_read(cpu_dr7), 7);
}

/*
 * Loads the guest's state, runs the guest until its exit, and restores the host's. Interrupts are
 * off.
 */
static void enter_guest_irqoff(struct mkvm_vcpu *vcpu)
{
	long tlb_gen = atomic_long_read(&vcpu->vm->tlb_gen);
	u64 host_xcr0 = mkvm_host_xcr0, host_dr[4];
	u32 host_pkru = 0;

	if (vcpu->tlb_seen != tlb_gen) {
		vcpu->tlb_seen = tlb_gen;
		vcpu->stats[MKVM_STAT_TLB_FLUSH]++;
		mkvm_hw->flush_tlb(vcpu);
		if (unlikely(vcpu->overlay.root))
			mkvm_overlay_end(vcpu);
	}
	mkvm_trace_event(enter, vcpu, "", 0, 0, 0,
			 vcpu->ev.delivering.type ? vcpu->ev.delivering.vector | BIT(31) : 0);
	mkvm_fpu_load(vcpu);
	if (vcpu->fpu.xcr0 != host_xcr0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, vcpu->fpu.xcr0);
	if (unlikely(vcpu->fpu.has_pkru)) {
		host_pkru = read_pkru();
		write_pkru(vcpu->fpu.pkru);
	}
	if (unlikely(hw_breakpoint_active()))
		read_dr(host_dr);
	if (unlikely(vcpu->dr_live))
		load_guest_dr(vcpu->dr);
	else if (unlikely(vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP))
		load_guest_dr(vcpu->debug.dr);
	if (unlikely(vcpu->ev.exit_soon))
		smp_send_reschedule(smp_processor_id());
	current->flags |= PF_VCPU;	/* from here on a tick counts as guest time */

	mkvm_hw->enter(vcpu);

	vcpu->stats[MKVM_STAT_EXITS]++;
	WRITE_ONCE(vcpu->where, MKVM_OUTSIDE);
	if (unlikely(vcpu->dr_live))
		read_dr(vcpu->dr);
	if (unlikely(hw_breakpoint_active()))
		restore_host_dr(host_dr);
	if (unlikely(vcpu->fpu.has_pkru)) {
		vcpu->fpu.pkru = read_pkru();
		write_pkru(host_pkru);
	}
	if (vcpu->fpu.xcr0 != host_xcr0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, host_xcr0);
	mkvm_fpu_save(vcpu);
}

/*
 * Stores TPR, the class of ISR and the highest IRR at vapic_addr, where the guest's code reads
 * them. If the page does not exist any more, this does nothing.
 */
static void tpr_page_store(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	u32 __user *p = mkvm_gpa_to_user(vcpu, vcpu->tpr_page.gpa, true);
	u32 isr = max(mkvm_lapic_highest_isr(vcpu->lapic), 0),
	    irr = max(mkvm_lapic_highest_irr(vcpu->lapic), 0);

	vcpu->tpr_page.tpr = mkvm_lapic_get_tpr(vcpu->lapic);
	if (p && !put_user(vcpu->tpr_page.tpr | (isr & 0xf0) << 8 | irr << 24, p))
		mkvm_mark_dirty(vcpu, vcpu->tpr_page.gpa);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/* Copies a TPR that the guest's code changed there to the LAPIC. */
static void tpr_page_load(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	u8 __user *p = mkvm_gpa_to_user(vcpu, vcpu->tpr_page.gpa, false);
	u8 tpr;

	if (p && !get_user(tpr, p) && tpr != vcpu->tpr_page.tpr)
		mkvm_lapic_set_tpr(vcpu->lapic, tpr);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/* Enters the guest once and handles its exit. Return: as handle_exit. */
static int enter_guest(struct mkvm_vcpu *vcpu)
{
	if ((READ_ONCE(vcpu->pending) & PEND_WORK) || vcpu->ev.delivering.type ||
	    vcpu->ev.raised.type)
		mkvm_events_inject(vcpu);
	if (unlikely(vcpu->tpr_page.gpa))
		tpr_page_store(vcpu);

	preempt_disable();
	mkvm_fpu_claim();
	local_irq_disable();
	/*
	 * Announced before the last look at pending; pairs with mkvm_vcpu_kick and mem/tdp.c's
	 * flush_tlbs.
	 */
	smp_store_mb(vcpu->where, MKVM_IN_GUEST);
	xfer_to_guest_mode_prepare();
	if (unlikely((READ_ONCE(vcpu->pending) & PEND_WORK & ~vcpu->ev.waiting) ||
		     mkvm_user_work_pending())) {
		WRITE_ONCE(vcpu->where, MKVM_OUTSIDE);
		local_irq_enable();
		mkvm_fpu_release();
		preempt_enable();
		return 1;
	}
	enter_guest_irqoff(vcpu);
	local_irq_enable();		/* the host's interrupts are served here */
	current->flags &= ~PF_VCPU;
	mkvm_fpu_release();
	preempt_enable();
	if (unlikely(vcpu->ev.exit_soon) && vcpu->ev.delivering.type == MKVM_EV_NONE) {
		vcpu->ev.exit_soon = false;
		if (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP)
			vcpu->debug.traps = DR_STEP;
	}
	if (unlikely(vcpu->overlay.root))
		mkvm_overlay_end(vcpu);
	if (unlikely(vcpu->tpr_page.gpa))
		tpr_page_load(vcpu);
	return mkvm_hw->handle_exit(vcpu);
}

/* The vCPU is not RUNNABLE: sleeps until it is, or until an INIT or SIPI must change its state. */
static int wait_to_run(struct mkvm_vcpu *vcpu)
{
	int r;

	if (!mkvm_vcpu_runnable(vcpu)) {
		r = mkvm_vcpu_block(vcpu);
		if (r)
			return mkvm_interrupted(vcpu, r);
	}
	if (vcpu->mp_state == KVM_MP_STATE_HALTED && mkvm_wakes_halted(vcpu))
		mkvm_wake(vcpu, "wake");
	return 1;
}

/* Reports one EOI or access to TPR to userspace. Returns whether it has prepared such an exit. */
static bool report_to_userspace(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (vcpu->user_irqchip.eoi_vector >= 0) {
		run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		run->eoi.vector = vcpu->user_irqchip.eoi_vector;
		vcpu->user_irqchip.eoi_vector = -1;
		return true;
	}
	mkvm_pending_take(vcpu, MKVM_PEND_REPORT);
	if (!vcpu->user_irqchip.tpr_access)
		return false;
	memset(&run->tpr_access, 0, sizeof(run->tpr_access));
	run->exit_reason = KVM_EXIT_TPR_ACCESS;
	run->tpr_access.rip = vcpu->user_irqchip.tpr_rip;
	run->tpr_access.is_write = vcpu->user_irqchip.tpr_access == 2;
	vcpu->user_irqchip.tpr_access = 0;
	return true;
}

static int vcpu_loop(struct mkvm_vcpu *vcpu)
{
	int r;

	for (;;) {
		if (READ_ONCE(vcpu->pending) & PEND_FIRST) {
			if (report_to_userspace(vcpu))
				return 0;
			mkvm_accept_init_sipi(vcpu);
			if (mkvm_pending_take(vcpu, MKVM_PEND_MSRS))
				mkvm_hw->msr_filter_changed(vcpu);
		}
		if (unlikely(READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_SMI))) {
			r = mkvm_accept_smi(vcpu, 0);
			if (r)
				return r;
		}
		if (unlikely(vcpu->ev.triple_fault))
			return mkvm_report_shutdown(vcpu);
		if (unlikely(vcpu->debug.traps))
			return mkvm_report_debug(vcpu, X86_TRAP_DB,
						 DR6_RESERVED | vcpu->debug.traps);
		if (likely(vcpu->mp_state == KVM_MP_STATE_RUNNABLE))
			r = enter_guest(vcpu);
		else
			r = wait_to_run(vcpu);
		if (r <= 0)
			return r;
		/*
		 * A shutdown ends KVM_RUN before a signal does, because no ioctl would show it
		 * then.
		 */
		if (unlikely(vcpu->ev.triple_fault))
			continue;
		if (mkvm_user_window_open(vcpu)) {
			vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			return 0;
		}
		if (unlikely(mkvm_user_work_pending())) {
			r = mkvm_user_work();
			if (r)
				return mkvm_interrupted(vcpu, r);
		}
	}
}

/* Fills the fields of struct kvm_run that userspace reads after any exit. */
static void fill_run(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->flags = vcpu->smm.active ? KVM_RUN_X86_SMM : 0;
	run->if_flag = !!(vcpu->rflags & X86_EFLAGS_IF);
	run->cr8 = mkvm_get_cr8(vcpu);
	run->apic_base = mkvm_get_apic_base(vcpu);
	run->ready_for_interrupt_injection = !vcpu->user_irqchip.pic ||
					     mkvm_ready_for_user_interrupt(vcpu);
}

static int run_prepared(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int (*complete)(struct mkvm_vcpu *vcpu) = vcpu->complete;
	int r = 1;

	if (!vcpu->lapic && mkvm_set_cr8(vcpu, READ_ONCE(run->cr8)))
		return -EINVAL;
	if (vcpu->user_irqchip.pic) /* userspace may have changed its request for a window */
		mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	if (complete) {
		vcpu->complete = NULL;
		r = complete(vcpu);
	}
	if (r <= 0)
		return r;
	/*
	 * As in Linux KVM the last exit's reason stays: clients read it after they completed the
	 * exit.
	 */
	if (mkvm_immediate_exit(run))
		return -EINTR;
	run->exit_reason = KVM_EXIT_UNKNOWN;
	return vcpu_loop(vcpu);
}

/* ---- registers that travel in struct kvm_run: KVM_CAP_SYNC_REGS ---- */

/*
 * At the start of KVM_RUN, copies the registers that userspace marks as dirty to the vCPU.
 *
 * Return: -EINVAL for unknown bits or values that the KVM_SET ioctls refuse; nothing has changed
 * then.
 */
static int sync_regs_in(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 dirty = READ_ONCE(run->kvm_dirty_regs);
	struct kvm_sync_regs s;

	if ((dirty | READ_ONCE(run->kvm_valid_regs)) & ~(u64)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (likely(!dirty))
		return 0;
	memcpy(&s, &run->s.regs, sizeof(s));
	if ((dirty & KVM_SYNC_X86_EVENTS) && !mkvm_events_valid(vcpu, &s.events))
		return -EINVAL;
	if ((dirty & KVM_SYNC_X86_SREGS) && mkvm_sregs_set(vcpu, &s.sregs))
		return -EINVAL;
	if (dirty & KVM_SYNC_X86_REGS)
		mkvm_regs_set(vcpu, &s.regs);
	if (dirty & KVM_SYNC_X86_EVENTS)
		mkvm_events_set(vcpu, &s.events);
	run->kvm_dirty_regs = 0;
	return 0;
}

/* At the end of KVM_RUN, copies out the registers that userspace marks as wanted. */
static void sync_regs_out(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 valid = READ_ONCE(run->kvm_valid_regs);
	struct kvm_sync_regs s;

	if (likely(!valid))
		return;
	if (valid & KVM_SYNC_X86_REGS) {
		mkvm_regs_get(vcpu, &s.regs);
		run->s.regs.regs = s.regs;
	}
	if (valid & KVM_SYNC_X86_SREGS) {
		mkvm_sregs_get(vcpu, &s.sregs);
		run->s.regs.sregs = s.sregs;
	}
	if (valid & KVM_SYNC_X86_EVENTS) {
		mkvm_events_get(vcpu, &s.events);
		run->s.regs.events = s.events;
		mkvm_events_seen(vcpu, &s.events);
	}
}

/* ---- KVM_RUN ---- */

/*
 * mkvm_vcpu_run - KVM_RUN
 *
 * Context: vcpu->mutex held, vCPU loaded, may sleep.
 * Return: 0 with kvm_run->exit_reason set; -EINTR (signal or immediate_exit), -EINVAL
 * (a bad field in kvm_run), -EFAULT (a slot's memory is not mapped), -ENOMEM.
 */
int mkvm_vcpu_run(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	sigset_t saved;
	int r;

	if (unlikely(READ_ONCE(run->kvm_valid_regs) || READ_ONCE(run->kvm_dirty_regs))) {
		r = sync_regs_in(vcpu);
		if (r)
			return r;
	}
	WRITE_ONCE(vcpu->task, current);
	if (vcpu->signals.active)
		sigprocmask(SIG_SETMASK, &vcpu->signals.set, &saved);
	mkvm_fpu_begin_run(vcpu);
	r = run_prepared(vcpu);
	mkvm_fpu_end_run(vcpu);
	fill_run(vcpu);
	mkvm_trace_event(user_exit, vcpu, "", READ_ONCE(run->exit_reason), r, 0, 0);
	if (unlikely(READ_ONCE(run->kvm_valid_regs)))
		sync_regs_out(vcpu);
	if (vcpu->signals.active)
		sigprocmask(SIG_SETMASK, &saved, NULL);
	WRITE_ONCE(vcpu->task, NULL);
	return r;
}
