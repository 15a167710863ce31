// SPDX-License-Identifier: GPL-2.0
/*
 * exit.c - handles VM exits: one small handler for each basic exit reason.
 *
 * State: none; it reads the exit fields of the VMCS. Handlers return 1 (enter again), 0 (return to
 * userspace, kvm_run is filled in) or -errno.
 *
 * Intel SDM vol. 3, "VM Exits", "VMX Basic Exit Reasons". Read next: cpu/exit.c.
 */
#include <linux/nospec.h>
#include <linux/ratelimit.h>
#include <asm/apicdef.h>
#include <asm/debugreg.h>

#include "vmx.h"

/* EPT violations: the linear address is valid; the access itself faulted, not its page walk. */
#define HAS_ADDRESS	BIT(7)
#define WALK_DONE	(HAS_ADDRESS | BIT(8))

static int vmx_handle_window(struct mkvm_vcpu *vcpu)
{
	vcpu->stats[MKVM_STAT_IRQ_WINDOW_EXITS]++;
	vmx_set_cpu_ctl(to_vmx(vcpu), CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_NMI_WINDOW_EXITING,
			false);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 1;
}

/* Intel SDM vol. 3, "Exit Qualification for I/O Instructions". */
static int vmx_handle_io(struct mkvm_vcpu *vcpu)
{
	u64 qual = vmx_read(EXIT_QUALIFICATION);

	vcpu->stats[MKVM_STAT_IO_EXITS]++;
	if (qual & BIT(4))		/* string instruction */
		return mkvm_handle_intercepted(vcpu,
					 qual & BIT(3) ? MKVM_INTERCEPT_INS : MKVM_INTERCEPT_OUTS,
					 (qual & 7) + 1);
	return mkvm_handle_pio(vcpu, qual >> 16, (qual & 7) + 1, qual & BIT(3));
}

/*
 * Handles a write of CR8, or a change of bits of CR0 or CR4 that the VMCS reserves to the host. The
 * bits of CR0 and CR4.MCE change only in the read shadow; CR4.PKE changes in the CPU, and
 * PKRU's handling with it. Then the guest executes the instruction again: it no longer exits, and
 * the CPU does the rest, including a change of the paging mode. While soft_tlb.c does the walks,
 * the emulator runs the instruction, as the CPU could not even fetch it without soft_tlb.c.
 */
static int vmx_handle_cr(struct mkvm_vcpu *vcpu)
{
	u64 qual = vmx_read(EXIT_QUALIFICATION);
	u64 val = vcpu->regs[qual >> 8 & 15], shadow;

	if (unlikely(vcpu->soft_tlb.root))
		return mkvm_handle_intercepted(vcpu, MKVM_INTERCEPT_SET_CR, qual & 15);
	switch (qual & 15) {
	case 0:
		if (val >> 32 || ((val & X86_CR0_NW) && !(val & X86_CR0_CD)) ||
		    ((val & X86_CR0_PG) && !(val & X86_CR0_PE)))
			break;
		vmx_write(CR0_READ_SHADOW, val);
		return 1;
	case 4:
		if (!mkvm_cr4_valid(vcpu, val))
			break;
		shadow = vmx_read(CR4_READ_SHADOW) & ~(u64)(X86_CR4_MCE | X86_CR4_PKE);
		vmx_write(CR4_READ_SHADOW, shadow | (val & (X86_CR4_MCE | X86_CR4_PKE)));
		vmx_write(GUEST_CR4,
			  (vmx_read(GUEST_CR4) & ~(u64)X86_CR4_PKE) | (val & X86_CR4_PKE));
		mkvm_update_pkru(vcpu);
		return 1;
	default:
		return mkvm_handle_intercepted(vcpu, MKVM_INTERCEPT_SET_CR, qual & 15);
	}
	return mkvm_handle_gp(vcpu);
}

/* The first access to a debug register; DR0-3 and DR6 hold the guest's values from now on. */
static int vmx_handle_dr(struct mkvm_vcpu *vcpu)
{
	u64 qual = vmx_read(EXIT_QUALIFICATION);

	if (to_vmx(vcpu)->debugged)
		return mkvm_handle_mov_dr(vcpu, qual & 7, !(qual & BIT(4)));
	vcpu->dr_live = true;
	return 1;
}

/* Handles instructions that the CPU lacks: AMD's VMMCALL, and RSM outside the CPU's own SMM. */
static int handle_ud(struct mkvm_vcpu *vcpu)
{
	enum mkvm_insn insn = mkvm_insn_at_rip(vcpu, NULL);

	vcpu->insn.next_rip = 0;		/* the CPU does not report it */
	if (insn == MKVM_INSN_HYPERCALL)
		return mkvm_handle_hypercall(vcpu);
	return insn == MKVM_INSN_RSM ? mkvm_handle_rsm(vcpu) : mkvm_handle_ud(vcpu);
}

static int handle_soft_fault(struct mkvm_vcpu *vcpu, u64 la)
{
	if (unlikely(vcpu->rflags & X86_EFLAGS_TF))
		vmx_forget_step();
	return mkvm_handle_soft_fault(vcpu, la, vmx_read(VM_EXIT_INTR_ERROR_CODE));
}

/*
 * Reflects an intercepted exception to the guest, unless it is userspace's. vmx_enter has handled
 * NMI and #MC.
 */
static int vmx_handle_exception(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	u32 info = vmx->intr_info, type = info & INTR_INFO_INTR_TYPE_MASK;
	u64 qual = vmx_read(EXIT_QUALIFICATION), traps = qual & MKVM_DR6_CAUSES;
	u8 vector = info & INTR_INFO_VECTOR_MASK;
	u32 error;

	if (type == INTR_TYPE_NMI_INTR || vector == X86_TRAP_MC)
		return 1;
	vmx_keep_nmi_mask(vmx, info);
	if (vector == X86_TRAP_UD)
		return handle_ud(vcpu);
	if (vector == X86_TRAP_PF && vcpu->soft_tlb.root)
		return handle_soft_fault(vcpu, qual);
	if (vector == X86_TRAP_DB)	/* Bochs leaves it pending after the exit */
		vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	if (mkvm_debug_takes(vcpu, vector))
		return mkvm_report_debug(vcpu, vector,
				       DR6_RESERVED | (vector == X86_TRAP_DB ? traps : 0));
	/*
	 * The exit came before DR6 changed: Intel SDM vol. 3, "Exit Qualification for Debug
	 * Exceptions".
	 */
	if (vector == X86_TRAP_DB)
		vmx->dr6 = (vmx->dr6 & ~(u64)DR_TRAP_BITS) | traps;
	/* These are traps, but the exit comes before the instruction, INT1, INT3 or INTO. */
	if (type == INTR_TYPE_SOFT_EXCEPTION || type == INTR_TYPE_PRIV_SW_EXCEPTION)
		vcpu->rip = vcpu->insn.next_rip;
	error = vmx_read(VM_EXIT_INTR_ERROR_CODE);
	if (vector == X86_TRAP_PF)
		mkvm_queue_page_fault(vcpu, qual, error);
	else
		mkvm_queue_exception(vcpu, vector, info & INTR_INFO_DELIVER_CODE_MASK, error);
	return 1;
}

static int vmx_handle_ept_violation(struct mkvm_vcpu *vcpu)
{
	u64 qual = vmx_read(EXIT_QUALIFICATION);
	bool operand = (qual & WALK_DONE) == WALK_DONE &&
		       !(qual & EPT_VIOLATION_ACC_INSTR);

	vmx_keep_nmi_mask(to_vmx(vcpu), qual);
	if (unlikely(vcpu->rflags & X86_EFLAGS_TF))
		vmx_forget_step();
	vcpu->insn.len = 0;
	vcpu->insn.by_cpu = 0;
	vcpu->insn.fault_la = operand ? vmx_read(GUEST_LINEAR_ADDRESS) : ~0ULL;
	if ((qual & WALK_DONE) == HAS_ADDRESS)
		return mkvm_handle_walk_fault(vcpu, vmx_read(GUEST_PHYSICAL_ADDRESS),
					    qual & EPT_VIOLATION_ACC_WRITE);
	return mkvm_handle_tdp_fault(vcpu, vmx_read(GUEST_PHYSICAL_ADDRESS),
				   qual & EPT_VIOLATION_ACC_WRITE, !operand);
}

/* INVLPG and INVPCID drop translations; they exit only while soft_tlb.c holds them. */
static int vmx_handle_invlpg(struct mkvm_vcpu *vcpu)
{
	mkvm_hw->flush_tlb(vcpu);
	return mkvm_skip_instruction(vcpu);
}

/*
 * The CPU has ended a vector whose EOI is awaited. take_lapic_back has put it back in service, and
 * the ordinary EOI ends it here.
 */
static int vmx_handle_eoi(struct mkvm_vcpu *vcpu)
{
	mkvm_lapic_msr_write(vcpu->lapic, APIC_BASE_MSR + (APIC_EOI >> 4), 0);
	return 1;
}

#define FIELD(name) { name, #name }

static void dump_vmcs(struct vmx_vcpu *vmx, u32 reason)
{
	static const struct {
		u32 field;
		const char *name;
	} fields[] = {
		FIELD(GUEST_CR0),
		FIELD(GUEST_CR3),
		FIELD(GUEST_CR4),
		FIELD(GUEST_IA32_EFER),
		FIELD(GUEST_RIP),
		FIELD(GUEST_RSP),
		FIELD(GUEST_RFLAGS),
		FIELD(GUEST_DR7),
		FIELD(GUEST_IA32_PAT),
		FIELD(GUEST_INTERRUPTIBILITY_INFO),
		FIELD(GUEST_ACTIVITY_STATE),
		FIELD(GUEST_PENDING_DBG_EXCEPTIONS),
		FIELD(GUEST_GDTR_BASE),
		FIELD(GUEST_IDTR_BASE),
		FIELD(EXIT_QUALIFICATION),
		FIELD(PIN_BASED_VM_EXEC_CONTROL),
		FIELD(CPU_BASED_VM_EXEC_CONTROL),
		FIELD(SECONDARY_VM_EXEC_CONTROL),
		FIELD(VM_ENTRY_CONTROLS),
		FIELD(VM_EXIT_CONTROLS),
		FIELD(VM_ENTRY_INTR_INFO_FIELD),
		FIELD(EPT_POINTER),
		FIELD(HOST_CR3),
		FIELD(HOST_CR4),
	};
	static const char * const segments[] = { "ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR" };
	static DEFINE_RATELIMIT_STATE(limit, 5 * HZ, 1);
	int i;

	if (!__ratelimit(&limit))
		return;
	pr_err("mkvm: a guest could not be entered: reason %#x, error %u\n", reason,
	       vmx->entry_error);
	for (i = 0; i < ARRAY_SIZE(fields); i++)
		pr_err("mkvm:   %-29s %#llx\n", fields[i].name, vmx_read(fields[i].field));
	for (i = 0; i < ARRAY_SIZE(segments); i++)
		pr_err("mkvm:   %-4s selector %#llx base %#llx limit %#llx access rights %#llx\n",
		       segments[i], vmx_read(GUEST_ES_SELECTOR + 2 * i),
		       vmx_read(GUEST_ES_BASE + 2 * i),
		       vmx_read(GUEST_ES_LIMIT + 2 * i), vmx_read(GUEST_ES_AR_BYTES + 2 * i));
}

/* The entry has failed because the guest's state or the injected event is not valid. */
static int report_fail_entry(struct mkvm_vcpu *vcpu, u32 reason)
{
	dump_vmcs(to_vmx(vcpu), reason);
	return mkvm_report_fail_entry(vcpu, reason);
}

static int (*const handlers[])(struct mkvm_vcpu *vcpu) = {
	[EXIT_REASON_EXCEPTION_NMI] = vmx_handle_exception,
	[EXIT_REASON_EXTERNAL_INTERRUPT] = mkvm_handle_host_interrupt,
	[EXIT_REASON_TRIPLE_FAULT] = mkvm_handle_triple_fault,
	[EXIT_REASON_INIT_SIGNAL] = mkvm_handle_nothing,
	[EXIT_REASON_INTERRUPT_WINDOW] = vmx_handle_window,
	[EXIT_REASON_NMI_WINDOW] = vmx_handle_window,
	[EXIT_REASON_TASK_SWITCH] = mkvm_handle_task_switch,
	[EXIT_REASON_CPUID] = mkvm_handle_cpuid,
	[11] = mkvm_handle_ud,				/* GETSEC */
	[EXIT_REASON_HLT] = mkvm_handle_halt,
	/* Caches are coherent and no device bypasses them, so INVD and WBINVD need do nothing. */
	[EXIT_REASON_INVD] = mkvm_skip_instruction,
	[EXIT_REASON_INVLPG] = vmx_handle_invlpg,
	[EXIT_REASON_RDPMC] = mkvm_handle_gp,	/* no performance counters are shown */
	[EXIT_REASON_VMCALL] = mkvm_handle_hypercall,
	[EXIT_REASON_VMCLEAR ... EXIT_REASON_VMON] = mkvm_handle_ud,
	[EXIT_REASON_CR_ACCESS] = vmx_handle_cr,
	[EXIT_REASON_DR_ACCESS] = vmx_handle_dr,
	[EXIT_REASON_IO_INSTRUCTION] = vmx_handle_io,
	[EXIT_REASON_MSR_READ] = mkvm_handle_rdmsr,
	[EXIT_REASON_MSR_WRITE] = mkvm_handle_wrmsr,
	[EXIT_REASON_MWAIT_INSTRUCTION] = mkvm_handle_mwait,
	[EXIT_REASON_MONITOR_INSTRUCTION] = mkvm_handle_monitor,
	[EXIT_REASON_EOI_INDUCED] = vmx_handle_eoi,
	[EXIT_REASON_EPT_VIOLATION] = vmx_handle_ept_violation,
	[EXIT_REASON_INVEPT] = mkvm_handle_ud,
	[EXIT_REASON_PREEMPTION_TIMER] = mkvm_handle_host_interrupt,
	[EXIT_REASON_INVVPID] = mkvm_handle_ud,
	[EXIT_REASON_WBINVD] = mkvm_skip_instruction,
	[EXIT_REASON_XSETBV] = mkvm_handle_xsetbv,
	[EXIT_REASON_INVPCID] = vmx_handle_invlpg,
	[EXIT_REASON_RDRAND] = mkvm_handle_ud,		/* exits where CPUID hides it */
	[EXIT_REASON_RDSEED] = mkvm_handle_ud,
};

/* hw_ops last_exit. */
const char *vmx_last_exit(struct mkvm_vcpu *vcpu)
{
	static const struct {
		u32 code;
		const char *name;
	} names[] = { VMX_EXIT_REASONS };
	u32 code = (u16)READ_ONCE(to_vmx(vcpu)->exit_reason);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].code == code)
			return names[i].name;
	return "unknown";
}

/* hw_ops exit_info. */
void vmx_exit_info(struct mkvm_vcpu *vcpu, u64 *reason, u64 *info)
{
	*reason = to_vmx(vcpu)->exit_reason;
	*info = vmx_read(EXIT_QUALIFICATION);
}

/* hw_ops handle_exit. */
int vmx_handle_exit(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	u32 reason = vmx->exit_reason;

	if (unlikely(vmx->refused))
		return vmx->refused;
	if (unlikely(vmx->entry_error))
		return report_fail_entry(vcpu, vmx->entry_error);
	if (unlikely(reason & VMX_EXIT_REASONS_FAILED_VMENTRY))
		return report_fail_entry(vcpu, reason);
	if (reason < ARRAY_SIZE(handlers)) {
		int (*handler)(struct mkvm_vcpu *vcpu) =
			handlers[array_index_nospec(reason, ARRAY_SIZE(handlers))];

		if (handler)
			return handler(vcpu);
	}
	return mkvm_report_unknown(vcpu, reason);
}
