// SPDX-License-Identifier: GPL-2.0
/*
 * exit.c - the handlers of exits that both vendors have in common, and the exits to userspace
 * that they make.
 *
 * The vendor's table of exits (svm/exit.c, vmx/exit.c) calls a handler after the vCPU's
 * registers were saved. A handler returns 1 to enter the guest again, 0 with
 * kvm_run->exit_reason set, or -errno.
 *
 * State: struct kvm_run, which userspace shares and which is not trusted: each field is read
 * once and checked. If userspace must answer an exit, vcpu->complete finishes it at the start
 * of the next KVM_RUN.
 *
 * Read next: insn/run_insn.c (the entry to the emulator), mem/tdp.c (second-level faults).
 */
#include <linux/rcupdate.h>
#include <linux/srcu.h>
#include <asm/debugreg.h>
#include <uapi/linux/kvm_para.h>

#include "internal.h"
#include "compat.h"
#include "explain/trace.h"

/* ---- exits to userspace ---- */

int mkvm_report_internal_error(struct mkvm_vcpu *vcpu, u32 suberror, const u64 *data, u32 n)
{
	struct kvm_run *run = vcpu->run;

	memset(&run->internal, 0, sizeof(run->internal));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = suberror;
	run->internal.ndata = n;
	memcpy(run->internal.data, data, n * sizeof(*data));
	return 0;
}

int mkvm_report_unknown(struct mkvm_vcpu *vcpu, u64 code)
{
	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	vcpu->run->hw.hardware_exit_reason = code;
	return 0;
}

int mkvm_report_fail_entry(struct mkvm_vcpu *vcpu, u64 reason)
{
	vcpu->run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	vcpu->run->fail_entry.hardware_entry_failure_reason = reason;
	vcpu->run->fail_entry.cpu = raw_smp_processor_id();
	return 0;
}

int mkvm_report_shutdown(struct mkvm_vcpu *vcpu)
{
	vcpu->ev.triple_fault = false;
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

/*
 * The hardware leaves the guest's state undefined after a triple fault. An INIT makes it
 * consistent, so that userspace can read it.
 */
int mkvm_handle_triple_fault(struct mkvm_vcpu *vcpu)
{
	mkvm_vcpu_reset(vcpu, true);
	return mkvm_report_shutdown(vcpu);
}

/* ---- exits with nothing to do, exceptions ---- */

int mkvm_handle_nothing(struct mkvm_vcpu *vcpu)
{
	return 1;
}

/*
 * The host has already served the interrupt when it enabled interrupts. A guest holds no RCU
 * references.
 */
int mkvm_handle_host_interrupt(struct mkvm_vcpu *vcpu)
{
	vcpu->stats[MKVM_STAT_IRQ_EXITS]++;
	local_irq_disable();
	mkvm_rcu_note_guest();
	local_irq_enable();
	return 1;
}

int mkvm_handle_ud(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_exception(vcpu, X86_TRAP_UD, false, 0);
	return 1;
}

int mkvm_handle_gp(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_gp(vcpu);
	return 1;
}

/* ---- instructions ---- */

int mkvm_handle_halt(struct mkvm_vcpu *vcpu)
{
	int r = mkvm_skip_instruction(vcpu);

	vcpu->stats[MKVM_STAT_HALT_EXITS]++;
	if (r <= 0 || vcpu->ev.raised.type)	/* a trap after HLT ends it at once */
		return r;
	return mkvm_halt(vcpu);
}

static noinline bool in_user_mode(struct mkvm_vcpu *vcpu)
{
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	return mode.cpl;
}

int mkvm_handle_cpuid(struct mkvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e;

	vcpu->stats[MKVM_STAT_CPUID_EXITS]++;
	if (unlikely(vcpu->msr.misc_features) && in_user_mode(vcpu))	/* CPUID faulting */
		return mkvm_handle_gp(vcpu);
	e = mkvm_cpuid(vcpu, vcpu->regs[MKVM_RAX], vcpu->regs[MKVM_RCX]);
	vcpu->regs[MKVM_RAX] = e->eax;
	vcpu->regs[MKVM_RCX] = e->ecx;
	vcpu->regs[MKVM_RDX] = e->edx;
	vcpu->regs[MKVM_RBX] = e->ebx;
	return mkvm_skip_instruction(vcpu);
}

int mkvm_handle_xsetbv(struct mkvm_vcpu *vcpu)
{
	u64 val = (u32)vcpu->regs[MKVM_RAX] | vcpu->regs[MKVM_RDX] << 32;
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	if (!(mode.cr4 & X86_CR4_OSXSAVE))
		return mkvm_handle_ud(vcpu);
	if (mode.cpl || mkvm_xcr_write(vcpu, (u32)vcpu->regs[MKVM_RCX], val))
		return mkvm_handle_gp(vcpu);
	return mkvm_skip_instruction(vcpu);
}

/*
 * Handles VMCALL and VMMCALL. RAX has the number, and then the result; RBX, RCX, RDX and RSI have
 * the arguments. See the kernel's documentation, "Linux KVM Hypercall".
 */
int mkvm_handle_hypercall(struct mkvm_vcpu *vcpu)
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
		ret = mkvm_lapic_send_ipis(vcpu->lapic, r[3], r[1], wide ? 64 : 32,
					   wide ? r[2] : (u32)r[2], r[6]);
	vcpu->regs[MKVM_RAX] = wide ? ret : (u32)ret;
	return mkvm_skip_instruction(vcpu);
}

/*
 * Neither waits: MWAIT may end at any time, and nothing reports writes to memory. Intel SDM vol. 2,
 * "MONITOR", "MWAIT"; AMD APM vol. 3.
 */
static int handle_monitor_mwait(struct mkvm_vcpu *vcpu, u32 extensions)
{
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	if (!mkvm_has_mwait(vcpu) || mode.cpl)
		return mkvm_handle_ud(vcpu);
	if ((u32)vcpu->regs[MKVM_RCX] & ~extensions)
		return mkvm_handle_gp(vcpu);
	return mkvm_skip_instruction(vcpu);
}

/*
 * Handles the exit of MONITOR, for which ECX defines no extensions. Own thread. Return: as
 * handle_exit.
 */
int mkvm_handle_monitor(struct mkvm_vcpu *vcpu)
{
	return handle_monitor_mwait(vcpu, 0);
}

/*
 * Handles the exit of MWAIT. ECX bit 0 lets masked interrupts end it. Own thread. Return: as
 * handle_exit.
 */
int mkvm_handle_mwait(struct mkvm_vcpu *vcpu)
{
	return handle_monitor_mwait(vcpu, 1);
}

/*
 * Handles an access to a debug register while userspace debugs the guest. With DR7.GD userspace
 * asks for a #DB on each of these accesses.
 */
int mkvm_handle_mov_dr(struct mkvm_vcpu *vcpu, unsigned int dr, bool write)
{
	if (vcpu->debug.dr7 & MKVM_DR7_GD)
		return mkvm_report_debug(vcpu, X86_TRAP_DB, DR6_RESERVED | MKVM_DR6_BD);
	return mkvm_handle_intercepted(vcpu,
				       write ? MKVM_INTERCEPT_SET_DR : MKVM_INTERCEPT_GET_DR, dr);
}

/* ---- RDMSR and WRMSR ---- */

/*
 * Finishes an access that userspace has answered. If userspace moved RIP meanwhile, it is dropped.
 */
static int finish_msr(struct mkvm_vcpu *vcpu, bool read)
{
	u64 data = READ_ONCE(vcpu->run->msr.data);

	if (vcpu->rip != vcpu->insn.io_rip)
		return 1;
	if (READ_ONCE(vcpu->run->msr.error))
		return mkvm_handle_gp(vcpu);
	if (read) {
		vcpu->regs[MKVM_RAX] = (u32)data;
		vcpu->regs[MKVM_RDX] = data >> 32;
	}
	return mkvm_skip_instruction(vcpu);
}

static int complete_rdmsr(struct mkvm_vcpu *vcpu)
{
	return finish_msr(vcpu, true);
}

static int complete_wrmsr(struct mkvm_vcpu *vcpu)
{
	return finish_msr(vcpu, false);
}

/*
 * The guest's access to a register was refused: userspace answers it, or the guest gets #GP.
 * @write: it was WRMSR, of val
 * @filtered: userspace's filter refused it
 *
 * Context: own thread. Return: as handle_exit.
 */
static int msr_refused(struct mkvm_vcpu *vcpu, u32 index, bool write, u64 val, bool filtered)
{
	u32 reason = mkvm_msr_refusal(vcpu, index, filtered);
	struct kvm_run *run = vcpu->run;

	if (!(READ_ONCE(vcpu->vm->user_msr_reasons) & reason))
		return mkvm_handle_gp(vcpu);
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = reason;
	run->msr.index = index;
	run->msr.data = val;
	if (write)
		run->exit_reason = KVM_EXIT_X86_WRMSR;
	else
		run->exit_reason = KVM_EXIT_X86_RDMSR;
	vcpu->insn.io_rip = vcpu->rip;
	vcpu->complete = write ? complete_wrmsr : complete_rdmsr;
	return 0;
}

int mkvm_handle_rdmsr(struct mkvm_vcpu *vcpu)
{
	u32 index = vcpu->regs[MKVM_RCX];
	u64 val = 0;
	bool allowed;

	vcpu->stats[MKVM_STAT_MSR_EXITS]++;
	allowed = mkvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_READ);
	if (!allowed || mkvm_msr_get(vcpu, index, &val, false))
		return msr_refused(vcpu, index, false, 0, !allowed);
	vcpu->regs[MKVM_RAX] = (u32)val;
	vcpu->regs[MKVM_RDX] = val >> 32;
	return mkvm_skip_instruction(vcpu);
}

int mkvm_handle_wrmsr(struct mkvm_vcpu *vcpu)
{
	u64 val = (u32)vcpu->regs[MKVM_RAX] | vcpu->regs[MKVM_RDX] << 32;
	u32 index = vcpu->regs[MKVM_RCX];
	bool allowed;

	vcpu->stats[MKVM_STAT_MSR_EXITS]++;
	allowed = mkvm_msr_allowed(vcpu, index, KVM_MSR_FILTER_WRITE);
	if (!allowed || mkvm_msr_set(vcpu, index, val, false))
		return msr_refused(vcpu, index, true, val, !allowed);
	return mkvm_skip_instruction(vcpu);
}

/* ---- port I/O of one element; the emulator runs string instructions ---- */

/* Ends an access to a port, which a breakpoint may watch. Return: as mkvm_skip_instruction. */
static int skip_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size)
{
	u32 traps = 0;

	if (unlikely(mkvm_watching(vcpu)))
		traps = mkvm_breakpoints_met(vcpu, MKVM_WATCH_PORT, port, size);
	return mkvm_skip_and_trap(vcpu, traps);
}

static void pio_in_done(struct mkvm_vcpu *vcpu, unsigned int size, u32 val)
{
	if (size == 4)
		vcpu->regs[MKVM_RAX] = val;
	else if (size == 2)
		*(u16 *)&vcpu->regs[MKVM_RAX] = val;
	else
		*(u8 *)&vcpu->regs[MKVM_RAX] = val;
}

/* Finishes KVM_EXIT_IO. If userspace moved RIP meanwhile (a reset), the access is dropped. */
static int complete_pio(struct mkvm_vcpu *vcpu)
{
	u32 val = 0;
	int r;

	if (vcpu->rip != vcpu->insn.io_rip)
		return 1;
	if (vcpu->insn.pio.in) {
		memcpy(&val, (void *)vcpu->run + MKVM_PIO_PAGE_OFFSET * PAGE_SIZE,
		       vcpu->insn.pio.size);
		pio_in_done(vcpu, vcpu->insn.pio.size, val);
	}
	r = skip_pio(vcpu, vcpu->insn.pio.port, vcpu->insn.pio.size);
	/*
	 * The device may have raised the SMI: its handler gets the instruction and may have it
	 * restarted.
	 */
	if (r > 0 && unlikely(READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_SMI)))
		r = mkvm_accept_smi(vcpu, vcpu->insn.pio.port << 16 | vcpu->insn.pio.size << 4 |
						  MKVM_SMM_IO_VALID |
						  (vcpu->insn.pio.in ? MKVM_SMM_IO_IN : 0)) ?: r;
	return r;
}

/*
 * mkvm_handle_pio - IN or OUT with one element of 1, 2 or 4 bytes
 *
 * The CPU has checked IOPL and the TSS's bitmap before the intercept. vcpu->insn.next_rip is known.
 * Context: own thread. Return: as handle_exit.
 */
int mkvm_handle_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in)
{
	struct kvm_run *run = vcpu->run;
	u32 val = in ? 0 : (u32)vcpu->regs[MKVM_RAX];

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
	vcpu->insn.pio.port = port;
	vcpu->insn.pio.size = size;
	vcpu->insn.pio.in = in;
	vcpu->insn.io_rip = vcpu->rip;
	vcpu->complete = complete_pio;
	return 0;
}

/* ---- second-level faults and emulation ---- */

/* As mkvm_tdp_fault; the local APIC's page takes precedence over memory. */
static int map_gpa(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	int r;

	if (vcpu->lapic && mkvm_lapic_mmio_match(vcpu->lapic, gpa))
		return MKVM_FAULT_MMIO;
	r = mkvm_tdp_fault(vcpu, mkvm_gfn_to_slot(vcpu, gpa >> PAGE_SHIFT), gpa, write);
	if (unlikely(vcpu->soft_tlb.root) && r == MKVM_FAULT_MAPPED)
		mkvm_soft_mapped(vcpu);
	return r;
}

/*
 * Delivers in software an event that the CPU could not deliver because it met memory that is not
 * RAM. That works with ROM; a device is an internal error. Its data have Linux KVM's order: the
 * event, the exit and its qualification in the CPU's own formats, the guest-physical address, the
 * host's CPU.
 */
static int finish_delivery(struct mkvm_vcpu *vcpu, u64 gpa)
{
	u64 data[5] = { [0] = vcpu->ev.vectoring, [3] = gpa, [4] = vcpu->cpu };
	int r = mkvm_run_delivery(vcpu);

	if (r != MKVM_NOT_DELIVERED)
		return r;
	mkvm_hw->exit_info(vcpu, &data[1], &data[2]);
	return mkvm_report_internal_error(vcpu, KVM_INTERNAL_ERROR_DELIVERY_EV, data,
					ARRAY_SIZE(data));
}

static int tdp_fault_locked(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch)
{
	int r;

	trace_page_fault(vcpu, gpa, 0, write, 0, fetch ? "fetch" : "data");
	r = map_gpa(vcpu, gpa, write);
	if (r < MKVM_FAULT_MMIO)
		return r ?: 1;
	if (unlikely(vcpu->ev.vectoring))
		return finish_delivery(vcpu, gpa);
	if (unlikely(r == MKVM_FAULT_ROM) && mkvm_overlay_fault(vcpu, gpa))
		return 1;
	/*
	 * If the CPU reports its length, a doorbell's instruction is not decoded, unless it is
	 * watched.
	 */
	if (write && vcpu->insn.next_rip && !mkvm_watching(vcpu) && mkvm_fast_mmio(vcpu, gpa)) {
		mkvm_trace_event(mmio, vcpu, gpa, 0, true, 0, "kernel");
		return mkvm_skip_instruction(vcpu);
	}
	vcpu->insn.fault_gpa = gpa;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	if (fetch)
		return mkvm_run_insn(vcpu, MKVM_BY_WALK);
	return mkvm_run_insn(vcpu, write ? MKVM_BY_WRITE : MKVM_BY_READ);
}

/*
 * mkvm_handle_tdp_fault - a guest-physical address has no mapping that allows the guest's access
 * @fetch: an instruction fetch
 *
 * Context: interrupts on, may sleep. Return: as handle_exit.
 */
int mkvm_handle_tdp_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	int r = 0;

	vcpu->stats[MKVM_STAT_PF_TAKEN]++;
	if (unlikely(vcpu->soft_tlb.root))
		r = mkvm_soft_fault_gpa(vcpu, &gpa, write);
	if (likely(!r))
		r = tdp_fault_locked(vcpu, gpa, write, fetch);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/*
 * mkvm_handle_walk_fault - as mkvm_handle_tdp_fault, for the CPU's walk of the guest's page tables
 *
 * Tables that are not in RAM, where the CPU cannot walk them, are walked by mem/soft_tlb.c.
 * Context: interrupts on, may sleep. Return: as handle_exit.
 */
int mkvm_handle_walk_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	int idx, r;

	trace_page_fault(vcpu, gpa, 0, write, 0, "walk");
	if (unlikely(vcpu->soft_tlb.root)) {	/* a task switch has changed CR3 */
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
	return mkvm_soft_begin(vcpu);
}

/*
 * mkvm_handle_intercepted - emulate an intercepted instruction: string I/O, accesses to control
 * and debug registers
 * @what: the only instruction that the emulator may run, since the CPU has checked this one
 * @number: see enum mkvm_intercept
 *
 * Context and return: as mkvm_handle_tdp_fault.
 */
int mkvm_handle_intercepted(struct mkvm_vcpu *vcpu, enum mkvm_intercept what, unsigned int number)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu), r;

	vcpu->insn.intercept.what = what;
	vcpu->insn.intercept.number = number;
	vcpu->insn.len = 0;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	r = mkvm_run_insn(vcpu, MKVM_BY_INTERCEPT);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/*
 * mkvm_handle_task_switch - emulate an intercepted task switch, by an instruction or an event
 *
 * The emulator does not depend on what the CPU reports about it. Context and return: as
 * mkvm_handle_tdp_fault.
 */
int mkvm_handle_task_switch(struct mkvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu), r;

	vcpu->insn.len = 0;
	vcpu->insn.by_cpu = 0;
	vcpu->insn.fault_la = ~0ULL;
	vcpu->insn.intercept.what = MKVM_INTERCEPT_TASK;
	vcpu->stats[MKVM_STAT_INSN_EMULATION]++;
	if (!vcpu->ev.vectoring)
		r = mkvm_run_insn(vcpu, MKVM_BY_INTERCEPT);
	else
		r = mkvm_run_delivery(vcpu);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (r == MKVM_NOT_DELIVERED)
		return mkvm_report_internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION, NULL, 0);
	return r;
}
