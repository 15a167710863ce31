// SPDX-License-Identifier: GPL-2.0
/*
 * run.c - KVM_RUN: what a vCPU's thread does between two returns to userspace.
 *
 * Each round, in this order: INIT and SIPI (inject.c), SMI (smm.c); sleep if the vCPU is not
 * running; put the next event into the guest, or open a window for it; announce
 * MKVM_IN_GUEST; look at the pending word once more; obey the TLB generation;
 * enter; handle the exit; do what the kernel leaves for a thread's way to userspace (signals,
 * the scheduler, CPU limits and other task work).
 *
 * State: struct kvm_run, shared with userspace and not trusted: what is read
 * from it is read once and checked. The rest of an exit that userspace must
 * answer is vcpu->complete, run at the start of the next KVM_RUN.
 *
 * Read next: inject.c, mmio.c.
 */
#include <linux/hw_breakpoint.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <asm/debugreg.h>
#include <asm/fpu/xcr.h>
#include <asm/pkru.h>
#include <uapi/linux/kvm_para.h>
#include <trace/events/ipi.h>

#include "hw_ops.h"
#include "compat.h"
#include "testpoint.h"
#include "trace.h"

/* The bits of the pending word that ask for work before an entry. */
#define PEND_WORK (BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SIPI) | BIT(MKVM_PEND_NMI) | BIT(MKVM_PEND_NMI2) | \
		   BIT(MKVM_PEND_SMI) | BIT(MKVM_PEND_EVENT) | BIT(MKVM_PEND_MSRS))

#define PEND_FIRST (BIT(MKVM_PEND_INIT) | BIT(MKVM_PEND_SIPI) | BIT(MKVM_PEND_TELL) | BIT(MKVM_PEND_MSRS))

/* ---- exits that are alike for all vendors ---- */

int mkvm_exit_internal_error(struct mkvm_vcpu *vcpu, u32 suberror, const u64 *data, u32 n)
{
	struct kvm_run *run = vcpu->run;

	memset(&run->internal, 0, sizeof(run->internal));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = suberror;
	run->internal.ndata = n;
	memcpy(run->internal.data, data, n * sizeof(*data));
	return 0;
}

/*
 * The instruction cannot be emulated. A program at CPL 3 gets #UD, so that it cannot end
 * its machine, unless userspace wants to hear of it; then and otherwise it gets the bytes.
 */
int mkvm_emulation_failed(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu)
{
	struct kvm_run *run = vcpu->run;
	unsigned int n = min_t(unsigned int, emu->insn_len, MKVM_MAX_INSN);

	if (emu->mode.cpl == 3 && !READ_ONCE(vcpu->vm->exit_on_emulation_failure))
		return mkvm_exit_ud(vcpu);
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

int mkvm_exit_unknown(struct mkvm_vcpu *vcpu, u64 code)
{
	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	vcpu->run->hw.hardware_exit_reason = code;
	return 0;
}

int mkvm_exit_fail_entry(struct mkvm_vcpu *vcpu, u64 reason)
{
	vcpu->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	vcpu->run->fail_entry.hardware_entry_failure_reason = reason;
	vcpu->run->fail_entry.cpu = raw_smp_processor_id();
	return 0;
}

int mkvm_exit_nothing(struct mkvm_vcpu *vcpu)
{
	return 1;
}

/* It was served when interrupts came on. The guest is a quiescent state for RCU. */
int mkvm_exit_host_interrupt(struct mkvm_vcpu *vcpu)
{
	vcpu->stats[MKVM_STAT_IRQ_EXITS]++;
	local_irq_disable();
	mkvm_rcu_note_guest();
	local_irq_enable();
	return 1;
}

int mkvm_exit_ud(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_exception(vcpu, X86_TRAP_UD, false, 0);
	return 1;
}

int mkvm_exit_gp(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_gp(vcpu);
	return 1;
}

static int exit_shutdown(struct mkvm_vcpu *vcpu)
{
	vcpu->triple_fault = false;
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

/* The hardware leaves the guest's state undefined: an INIT makes it sound again, for who looks at it. */
int mkvm_exit_triple_fault(struct mkvm_vcpu *vcpu)
{
	mkvm_vcpu_reset(vcpu, true);
	return exit_shutdown(vcpu);
}

/* traps: breakpoints that the instruction has met, as in DR6. Return: as mkvm_skip_instruction. */
static int skip(struct mkvm_vcpu *vcpu, u32 traps)
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
	return skip(vcpu, 0);
}

/* An instruction has ended outside of the guest, RIP is behind it. traps: for mkvm_debug_trap. */
void mkvm_end_instruction(struct mkvm_vcpu *vcpu, u32 traps)
{
	mkvm_hw->set_shadow(vcpu, 0);
	vcpu->rflags &= ~X86_EFLAGS_RF;
	mkvm_debug_trap(vcpu, traps);
}

/* The vCPU is in HLT, with RIP behind it. Return: as handle_exit. */
int mkvm_halt(struct mkvm_vcpu *vcpu)
{
	if (!vcpu->lapic) {
		vcpu->run->exit_reason = KVM_EXIT_HLT;
		return 0;
	}
	mkvm_test_point(MKVM_POINT_HLT);
	trace_mp_state(vcpu, "HALTED", "HLT");
	WRITE_ONCE(vcpu->mp_state, KVM_MP_STATE_HALTED);
	return 1;
}

int mkvm_exit_halt(struct mkvm_vcpu *vcpu)
{
	int r = mkvm_skip_instruction(vcpu);

	vcpu->stats[MKVM_STAT_HALT_EXITS]++;
	if (r <= 0 || vcpu->exception.type)	/* a trap behind HLT ends it at once */
		return r;
	return mkvm_halt(vcpu);
}

static noinline bool in_user_mode(struct mkvm_vcpu *vcpu)
{
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	return mode.cpl;
}

int mkvm_exit_cpuid(struct mkvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e;

	vcpu->stats[MKVM_STAT_CPUID_EXITS]++;
	if (unlikely(vcpu->misc_features) && in_user_mode(vcpu))	/* CPUID faulting */
		return mkvm_exit_gp(vcpu);
	e = mkvm_cpuid(vcpu, vcpu->regs[0], vcpu->regs[1]);
	vcpu->regs[0] = e->eax;
	vcpu->regs[1] = e->ecx;
	vcpu->regs[2] = e->edx;
	vcpu->regs[3] = e->ebx;
	return mkvm_skip_instruction(vcpu);
}

int mkvm_exit_rdmsr(struct mkvm_vcpu *vcpu)
{
	u32 index = vcpu->regs[1];
	u64 val = 0;
	bool allowed;

	vcpu->stats[MKVM_STAT_MSR_EXITS]++;
	allowed = mkvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_READ);
	if (!allowed || mkvm_msr_get(vcpu, index, &val, false))
		return mkvm_msr_refused(vcpu, index, false, 0, !allowed);
	vcpu->regs[0] = (u32)val;
	vcpu->regs[2] = val >> 32;
	return mkvm_skip_instruction(vcpu);
}

int mkvm_exit_wrmsr(struct mkvm_vcpu *vcpu)
{
	u64 val = (u32)vcpu->regs[0] | vcpu->regs[2] << 32;
	u32 index = vcpu->regs[1];
	bool allowed;

	vcpu->stats[MKVM_STAT_MSR_EXITS]++;
	allowed = mkvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_WRITE);
	if (!allowed || mkvm_msr_set(vcpu, index, val, false))
		return mkvm_msr_refused(vcpu, index, true, val, !allowed);
	return mkvm_skip_instruction(vcpu);
}

int mkvm_exit_xsetbv(struct mkvm_vcpu *vcpu)
{
	u64 val = (u32)vcpu->regs[0] | vcpu->regs[2] << 32;
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	if (!(mode.cr4 & X86_CR4_OSXSAVE))
		return mkvm_exit_ud(vcpu);
	if (mode.cpl || mkvm_xcr_write(vcpu, (u32)vcpu->regs[1], val))
		return mkvm_exit_gp(vcpu);
	return mkvm_skip_instruction(vcpu);
}

/*
 * VMCALL, VMMCALL: the number is in RAX, and then the result; arguments are in RBX, RCX, RDX and RSI. The
 * kernel's documentation, "Linux KVM Hypercall".
 */
int mkvm_exit_hypercall(struct mkvm_vcpu *vcpu)
{
	const u64 *r = vcpu->regs;
	long ret = -KVM_ENOSYS;
	struct mkvm_mode mode;
	bool wide;

	mkvm_hw->get_mode(vcpu, &mode);
	wide = mode.cs_l && (mode.efer & EFER_LMA);
	if (mode.cpl)
		ret = -KVM_EPERM;
	else if ((wide ? r[0] : (u32)r[0]) == KVM_HC_SEND_IPI && vcpu->lapic)
		ret = mkvm_lapic_send_ipis(vcpu->lapic, r[3], r[1], wide ? 64 : 32, wide ? r[2] : (u32)r[2], r[6]);
	vcpu->regs[0] = wide ? ret : (u32)ret;
	return mkvm_skip_instruction(vcpu);
}

/* ---- port I/O: one element; strings go through the emulator ---- */

/* The end of an access to ports, which breakpoints may watch. Return: as mkvm_skip_instruction. */
static int skip_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size)
{
	u32 traps = 0;

	if (unlikely(mkvm_watching(vcpu)))
		traps = mkvm_breakpoints_met(vcpu, MKVM_WATCH_PORT, port, size);
	return skip(vcpu, traps);
}

static void pio_in_done(struct mkvm_vcpu *vcpu, unsigned int size, u32 val)
{
	if (size == 4)
		vcpu->regs[0] = val;
	else if (size == 2)
		*(u16 *)&vcpu->regs[0] = val;
	else
		*(u8 *)&vcpu->regs[0] = val;
}

/* KVM_RUN again after KVM_EXIT_IO. If userspace moved RIP meanwhile (a reset), the access is over. */
static int complete_pio(struct mkvm_vcpu *vcpu)
{
	u32 val = 0;
	int r;

	if (vcpu->rip != vcpu->io_rip)
		return 1;
	if (vcpu->pio.in) {
		memcpy(&val, (void *)vcpu->run + MKVM_PIO_PAGE_OFFSET * PAGE_SIZE, vcpu->pio.size);
		pio_in_done(vcpu, vcpu->pio.size, val);
	}
	r = skip_pio(vcpu, vcpu->pio.port, vcpu->pio.size);
	/* The device may have raised it: the handler learns of the instruction and may have it run again. */
	if (r > 0 && unlikely(READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_SMI)))
		mkvm_accept_smi(vcpu, vcpu->pio.port << 16 | vcpu->pio.size << 4 | MKVM_SMM_IO_VALID |
				(vcpu->pio.in ? MKVM_SMM_IO_IN : 0));
	return r;
}

/*
 * mkvm_exit_pio - IN or OUT with one element of 1, 2 or 4 bytes
 *
 * The CPU has checked IOPL and the TSS's bitmap before it intercepts. vcpu->next_rip is known.
 */
int mkvm_exit_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in)
{
	struct kvm_run *run = vcpu->run;
	u32 val = in ? 0 : (u32)vcpu->regs[0];

	if (mkvm_kernel_pio(vcpu, port, size, in, &val)) {
		mkvm_trace_event(pio, vcpu, port, size, !in, val, "kernel");
		if (in)
			pio_in_done(vcpu, size, val);
		return skip_pio(vcpu, port, size);
	}
	mkvm_trace_event(pio, vcpu, port, size, !in, val, "user");
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = size;
	run->io.port = port;
	run->io.count = 1;
	run->io.data_offset = MKVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	memcpy((void *)run + MKVM_PIO_PAGE_OFFSET * PAGE_SIZE, &val, sizeof(val));
	vcpu->pio.port = port;
	vcpu->pio.size = size;
	vcpu->pio.in = in;
	vcpu->io_rip = vcpu->rip;
	vcpu->complete = complete_pio;
	return 0;
}

/* ---- second-level faults and emulation ---- */

/* As mkvm_tdp_fault; the local APIC is over any memory. */
static int map_gpa(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	int r;

	if (vcpu->lapic && mkvm_lapic_mmio_match(vcpu->lapic, gpa))
		return MKVM_FAULT_MMIO;
	r = mkvm_tdp_fault(vcpu, gpa, write);
	if (unlikely(vcpu->soft_root) && r == MKVM_FAULT_MAPPED)
		mkvm_soft_mapped(vcpu);
	return r;
}

/*
 * The CPU could not deliver an event, since it met memory that is not RAM. With ROM it is done in
 * software; a device is not asked. The data are in Linux KVM's order: what was being delivered, the
 * exit and its qualification in the CPU's own formats, the guest-physical address, the host's CPU.
 */
static int finish_delivery(struct mkvm_vcpu *vcpu, u64 gpa)
{
	u64 data[5] = { [0] = vcpu->vectoring, [3] = gpa, [4] = vcpu->cpu };
	int r = mkvm_emulate_delivery(vcpu);

	if (r != MKVM_NOT_DELIVERED)
		return r;
	mkvm_hw->exit_info(vcpu, &data[1], &data[2]);
	return mkvm_exit_internal_error(vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV, data, ARRAY_SIZE(data));
}

static int tdp_fault_locked(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch)
{
	int r;

	trace_page_fault(vcpu, gpa, 0, write, 0, fetch ? "fetch" : "data");
	r = map_gpa(vcpu, gpa, write);
	if (r < MKVM_FAULT_MMIO)
		return r ?: 1;
	if (unlikely(vcpu->vectoring))
		return finish_delivery(vcpu, gpa);
	if (unlikely(r == MKVM_FAULT_ROM) && mkvm_overlay_fault(vcpu, gpa))
		return 1;
	/* Where the CPU tells its length, a doorbell's instruction needs no look, unless it is watched. */
	if (write && vcpu->next_rip && !mkvm_watching(vcpu) && mkvm_fast_mmio(vcpu, gpa)) {
		mkvm_trace_event(mmio, vcpu, gpa, 0, true, 0, "kernel");
		return mkvm_skip_instruction(vcpu);
	}
	vcpu->fault_gpa = gpa;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	return mkvm_emulate_exit(vcpu, fetch ? MKVM_BY_WALK : write ? MKVM_BY_WRITE : MKVM_BY_READ);
}

/*
 * mkvm_exit_tdp_fault - the guest touched a guest-physical address without (such) a mapping
 *
 * Context: interrupts on, may sleep. Return: as handle_exit.
 */
int mkvm_exit_tdp_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	int r = 0;

	vcpu->stats[MKVM_STAT_PF_TAKEN]++;
	if (unlikely(vcpu->soft_root))
		r = mkvm_soft_fault_gpa(vcpu, &gpa, write);
	if (likely(!r))
		r = tdp_fault_locked(vcpu, gpa, write, fetch);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/*
 * mkvm_exit_walk_fault - the CPU's walk of the guest's page tables met an address without (such) a mapping
 *
 * Tables that the CPU cannot walk where they are, since they are not RAM, are walked in software: by
 * soft_tlb.c or, where the vendor's part does not use that, by the emulator for each instruction.
 * Context: interrupts on, may sleep. Return: as handle_exit.
 */
int mkvm_exit_walk_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	int idx, r;

	trace_page_fault(vcpu, gpa, 0, write, 0, "walk");
	if (unlikely(vcpu->soft_root)) {	/* a task switch has changed CR3 */
		mkvm_hw->set_soft_tlb(vcpu, 0);
		return 1;
	}
	idx = srcu_read_lock(&vcpu->vm->srcu);
	r = map_gpa(vcpu, gpa, write);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (r < MKVM_FAULT_MMIO) {
		vcpu->stats[MKVM_STAT_PF_TAKEN]++;
		return r ?: 1;
	}
	if (write && mkvm_hw->walks_read && mkvm_hw->walks_read(vcpu))
		return 1;
	return mkvm_hw->set_soft_tlb ? mkvm_soft_begin(vcpu) : mkvm_exit_tdp_fault(vcpu, gpa, write, true);
}

/*
 * mkvm_exit_emulate - other intercepts that need the emulator: string I/O, control and debug registers
 *
 * What the CPU has intercepted it has checked, too: nothing else is run. Context and return: as
 * mkvm_exit_tdp_fault.
 */
int mkvm_exit_emulate(struct mkvm_vcpu *vcpu, enum mkvm_intercept what, unsigned int number)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu), r;

	vcpu->intercept.what = what;
	vcpu->intercept.number = number;
	vcpu->insn_len = 0;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	r = mkvm_emulate_exit(vcpu, MKVM_BY_INTERCEPT);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/*
 * mkvm_exit_task_switch - a task switch that the CPU leaves to us: an instruction's, or an event's
 *
 * The emulator finds out by itself what the CPU has found. Context and return: as mkvm_exit_tdp_fault.
 */
int mkvm_exit_task_switch(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu), r;

	vcpu->insn_len = 0;
	vcpu->insn_by_cpu = 0;
	vcpu->fault_la = ~0ULL;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	if (!vcpu->vectoring)
		r = mkvm_emulate_exit(vcpu, MKVM_BY_WALK);
	else
		r = mkvm_emulate_delivery(vcpu);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (r == MKVM_NOT_DELIVERED)
		return mkvm_exit_internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION, NULL, 0);
	return r;
}

/* ---- entering ---- */

static void load_dr(const u64 *dr)
{
	if (unlikely(hw_breakpoint_active()))
		set_debugreg(0, 7);	/* the guest's addresses are not the host's breakpoints */
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
}

static void save_guest_dr(struct mkvm_vcpu *vcpu)
{
	get_debugreg(vcpu->dr[0], 0);
	get_debugreg(vcpu->dr[1], 1);
	get_debugreg(vcpu->dr[2], 2);
	get_debugreg(vcpu->dr[3], 3);
}

/* Interrupts are off; in and out again. */
static void enter_guest_irqoff(struct mkvm_vcpu *vcpu)
{
	long tlb_gen = atomic_long_read(&vcpu->vm->tlb_gen);
	u64 host_xcr0 = mkvm_host_xcr0;
	u32 host_pkru = 0;

	if (vcpu->tlb_seen != tlb_gen) {
		vcpu->tlb_seen = tlb_gen;
		vcpu->stats[MKVM_STAT_TLB_FLUSH]++;
		mkvm_hw->flush_tlb(vcpu);
		if (unlikely(vcpu->overlay_root))
			mkvm_overlay_end(vcpu);
	}
	mkvm_trace_event(enter, vcpu, "", 0, 0, 0, vcpu->event.type ? vcpu->event.vector | BIT(31) : 0);
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
	if (vcpu->xcr0 != host_xcr0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, vcpu->xcr0);
	if (unlikely(vcpu->has_pkru)) {
		host_pkru = read_pkru();
		write_pkru(vcpu->pkru);
	}
	if (unlikely(vcpu->dr_live))
		load_dr(vcpu->dr);
	else if (unlikely(vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP))
		load_dr(vcpu->debug.dr);
	if (unlikely(vcpu->exit_soon))
		smp_send_reschedule(smp_processor_id());
	current->flags |= PF_VCPU;	/* a tick that comes now counts as guest time */

	mkvm_hw->enter(vcpu);

	vcpu->stats[MKVM_STAT_EXITS]++;
	WRITE_ONCE(vcpu->where, MKVM_OUTSIDE);
	if (unlikely(vcpu->dr_live))
		save_guest_dr(vcpu);
	if (unlikely(hw_breakpoint_active()))
		hw_breakpoint_restore();
	if (unlikely(vcpu->has_pkru)) {
		vcpu->pkru = read_pkru();
		write_pkru(host_pkru);
	}
	if (vcpu->xcr0 != host_xcr0)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, host_xcr0);
}

/* The guest's code finds TPR and what is above it at vapic_addr. A page that is gone: nothing happens. */
static void vapic_show(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	u32 __user *p = mkvm_gpa_to_user(vcpu, vcpu->vapic_addr, true);
	u32 isr = max(mkvm_lapic_highest_isr(vcpu->lapic), 0), irr = max(mkvm_lapic_highest_irr(vcpu->lapic), 0);

	vcpu->vapic_tpr = mkvm_lapic_get_tpr(vcpu->lapic);
	if (p && !put_user(vcpu->vapic_tpr | (isr & 0xf0) << 8 | irr << 24, p))
		mkvm_mark_dirty(vcpu, vcpu->vapic_addr);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/* A TPR that it changed there is the LAPIC's. */
static void vapic_look(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	u8 __user *p = mkvm_gpa_to_user(vcpu, vcpu->vapic_addr, false);
	u8 tpr;

	if (p && !get_user(tpr, p) && tpr != vcpu->vapic_tpr)
		mkvm_lapic_set_tpr(vcpu->lapic, tpr);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
}

/* One round through the guest. Return: as handle_exit. */
static int enter_guest(struct mkvm_vcpu *vcpu)
{
	if ((READ_ONCE(vcpu->pending) & PEND_WORK) || vcpu->event.type || vcpu->exception.type)
		mkvm_events_inject(vcpu);
	if (unlikely(vcpu->vapic_addr))
		vapic_show(vcpu);

	preempt_disable();
	local_irq_disable();
	/* Announced before the last look: pairs with mkvm_vcpu_kick and flush_tlbs in tdp.c. */
	smp_store_mb(vcpu->where, MKVM_IN_GUEST);
	xfer_to_guest_mode_prepare();
	if (unlikely((READ_ONCE(vcpu->pending) & PEND_WORK & ~vcpu->waiting) || mkvm_user_work_pending())) {
		WRITE_ONCE(vcpu->where, MKVM_OUTSIDE);
		local_irq_enable();
		preempt_enable();
		return 1;
	}
	enter_guest_irqoff(vcpu);
	local_irq_enable();		/* the host's interrupts are served here */
	current->flags &= ~PF_VCPU;
	preempt_enable();
	if (unlikely(vcpu->exit_soon) && vcpu->event.type == MKVM_EV_NONE) {
		vcpu->exit_soon = false;
		if (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP)
			vcpu->debug.traps = DR_STEP;
	}
	if (unlikely(vcpu->overlay_root))
		mkvm_overlay_end(vcpu);
	if (unlikely(vcpu->vapic_addr))
		vapic_look(vcpu);
	return mkvm_hw->handle_exit(vcpu);
}

/* The thread has to leave KVM_RUN, for userspace or for the kernel. Return: why, -errno. */
static int interrupted(struct mkvm_vcpu *vcpu, int why)
{
	vcpu->stats[MKVM_STAT_SIGNAL_EXITS]++;
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return why;
}

/* Not running: sleep until it does, or until INIT or SIPI changes what it is. */
static int wait_to_run(struct mkvm_vcpu *vcpu)
{
	int r;

	if (!mkvm_vcpu_runnable(vcpu)) {
		r = mkvm_vcpu_block(vcpu);
		if (r)
			return interrupted(vcpu, r);
	}
	if (vcpu->mp_state == KVM_MP_STATE_HALTED && mkvm_wakes_halted(vcpu)) {
		trace_mp_state(vcpu, "RUNNABLE", "wake");
		WRITE_ONCE(vcpu->mp_state, KVM_MP_STATE_RUNNABLE);
	}
	return 1;
}

/* An EOI or an access to TPR that userspace wants to know of; true: the exit is made. One at a time. */
static bool tell_userspace(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (vcpu->eoi_vector >= 0) {
		run->exit_reason = KVM_EXIT_IOAPIC_EOI;
		run->eoi.vector = vcpu->eoi_vector;
		vcpu->eoi_vector = -1;
		return true;
	}
	clear_bit(MKVM_PEND_TELL, &vcpu->pending);
	if (!vcpu->tpr_access)
		return false;
	memset(&run->tpr_access, 0, sizeof(run->tpr_access));
	run->exit_reason = KVM_EXIT_TPR_ACCESS;
	run->tpr_access.rip = vcpu->tpr_rip;
	run->tpr_access.is_write = vcpu->tpr_access == 2;
	vcpu->tpr_access = 0;
	return true;
}

static int vcpu_loop(struct mkvm_vcpu *vcpu)
{
	int r;

	for (;;) {
		if (READ_ONCE(vcpu->pending) & PEND_FIRST) {
			if (tell_userspace(vcpu))
				return 0;
			mkvm_accept_init_sipi(vcpu);
			if (test_and_clear_bit(MKVM_PEND_MSRS, &vcpu->pending))
				mkvm_hw->msr_filter_changed(vcpu);
		}
		if (unlikely(READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_SMI)))
			mkvm_accept_smi(vcpu, 0);
		if (unlikely(vcpu->triple_fault))
			return exit_shutdown(vcpu);
		if (unlikely(vcpu->debug.traps))
			return mkvm_exit_debug(vcpu, X86_TRAP_DB, DR6_RESERVED | vcpu->debug.traps);
		if (likely(vcpu->mp_state == KVM_MP_STATE_RUNNABLE))
			r = enter_guest(vcpu);
		else
			r = wait_to_run(vcpu);
		if (r <= 0)
			return r;
		/* It ends KVM_RUN before a signal does: no ioctl would show it to who reads the state then. */
		if (unlikely(vcpu->triple_fault))
			continue;
		if (mkvm_user_window_open(vcpu)) {
			vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			return 0;
		}
		if (unlikely(mkvm_user_work_pending())) {
			r = mkvm_user_work();
			if (r)
				return interrupted(vcpu, r);
		}
	}
}

/* What userspace reads in struct kvm_run after any exit. */
static void fill_run(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->flags = vcpu->in_smm ? KVM_RUN_X86_SMM : 0;
	run->if_flag = !!(vcpu->rflags & X86_EFLAGS_IF);
	run->cr8 = mkvm_get_cr8(vcpu);
	run->apic_base = mkvm_get_apic_base(vcpu);
	run->ready_for_interrupt_injection = !vcpu->user_pic || mkvm_ready_for_user_interrupt(vcpu);
}

static int run_prepared(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int (*complete)(struct mkvm_vcpu *vcpu) = vcpu->complete;
	int r = 1;

	if (!vcpu->lapic && mkvm_set_cr8(vcpu, READ_ONCE(run->cr8)))
		return -EINVAL;
	if (vcpu->user_pic)		/* userspace may have asked for a window, or not any more */
		set_bit(MKVM_PEND_EVENT, &vcpu->pending);
	if (complete) {
		vcpu->complete = NULL;
		r = complete(vcpu);
	}
	if (r <= 0)
		return r;
	/* The last exit's reason stays, as in Linux KVM: clients look at it after they had it completed. */
	if (mkvm_immediate_exit(run))
		return -EINTR;
	run->exit_reason = KVM_EXIT_UNKNOWN;
	return vcpu_loop(vcpu);
}

/*
 * mkvm_vcpu_run - KVM_RUN
 *
 * Context: vcpu->mutex held, vCPU loaded, may sleep.
 * Return: 0 with kvm_run->exit_reason set; -EINTR (signal or immediate_exit), -EINVAL
 * (a bad field in kvm_run), -EFAULT (memory of a slot is not there), -ENOMEM.
 */
int mkvm_vcpu_run(struct mkvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	sigset_t saved;
	int r;

	if (unlikely(READ_ONCE(run->kvm_valid_regs) || READ_ONCE(run->kvm_dirty_regs))) {
		r = mkvm_sync_regs_in(vcpu);
		if (r)
			return r;
	}
	WRITE_ONCE(vcpu->task, current);
	if (vcpu->sigset_active)
		sigprocmask(SIG_SETMASK, &vcpu->sigset, &saved);
	fpu_swap_kvm_fpstate(&vcpu->fpu, true);
	r = run_prepared(vcpu);
	fpu_swap_kvm_fpstate(&vcpu->fpu, false);
	fill_run(vcpu);
	mkvm_trace_event(user_exit, vcpu, "", READ_ONCE(run->exit_reason), r, 0, 0);
	if (unlikely(READ_ONCE(run->kvm_valid_regs)))
		mkvm_sync_regs_out(vcpu);
	if (vcpu->sigset_active)
		sigprocmask(SIG_SETMASK, &saved, NULL);
	WRITE_ONCE(vcpu->task, NULL);
	return r;
}
