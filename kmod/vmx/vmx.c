// SPDX-License-Identifier: GPL-2.0
/*
 * vmx.c - implements Intel VMX: enabling, a vCPU's VMCS and the state in it, guest entry.
 *
 * State: vmx_cpus (per CPU: the VMXON region, the list of active VMCSs), the MSR bitmaps that
 * all vCPUs share, struct vmx_vcpu. A VMCS follows its vCPU's thread from CPU to CPU. A new CPU's
 * TLB may hold stale entries of the guest, so the first entry there flushes it.
 *
 * Intel SDM vol. 3, "Virtual Machine Control Structures", "VM Entries", "VM Exits". Read next:
 * caps.c, exit.c, event.c, enter.S.
 */
#include <linux/cpu.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <asm/apicdef.h>
#include <asm/cpu_entry_area.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/tlbflush.h>

#include "vmx.h"
#include "explain/trace.h"
#include "compat.h"

#define VPIDS		0x10000

/* Workaround: Bochs 2.7 withholds interrupts from a CPU that has entered a guest with IF clear. */
uint vmx_stay;
module_param(vmx_stay, uint, 0444);
MODULE_PARM_DESC(vmx_stay, "leave the guest after this many ticks of the VMX preemption timer, for emulators that lose interrupts (default 0: never)");

DEFINE_PER_CPU(struct vmx_cpu, vmx_cpus);
static u8 *msr_bitmaps;		/* four: direct_msrs; none; both again with apicv_msrs */
static DEFINE_IDA(vpids);
static bool has_pebs;

/*
 * MSRs that the guest accesses directly: those that the VMCS holds, and KERNEL_GS_BASE, which
 * SWAPGS can change without an exit anyway. All others exit.
 */
static const u32 direct_msrs[] = {
	MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE,
	MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_EIP,
};

#define X2APIC(reg) (APIC_BASE_MSR + ((reg) >> 4))

/* Ranges of MSRs whose reads the CPU answers from the virtual-APIC page, without side effects. */
static const u16 apicv_msrs[][2] = {
	{ X2APIC(APIC_TASKPRI), X2APIC(APIC_TASKPRI) },
	{ X2APIC(APIC_PROCPRI), X2APIC(APIC_PROCPRI) },
	{ X2APIC(APIC_ISR), X2APIC(APIC_ISR) + 7 },
	{ X2APIC(APIC_IRR), X2APIC(APIC_IRR) + 7 },
};

/* These hold the guest's values while the vCPU is loaded; the host's kernel does not use them. */
static const u32 syscall_msrs[VMX_NR_SYSCALL_MSRS] = { MSR_STAR, MSR_LSTAR, MSR_CSTAR,
						       MSR_SYSCALL_MASK };

/* ---- instructions on a VMCS or the TLB; they have no effect if VMX is off ---- */

static void vmcs_clear(void *vmcs)
{
	if (!IS_ENABLED(MKVM_STANDALONE))	/* window.c does it */
		vmclear(__pa(vmcs));
}

static void vmcs_load(void *vmcs)
{
	if (!IS_ENABLED(MKVM_STANDALONE))
		vmptrld(__pa(vmcs));
}

/* Flushes the translations of one EPT pointer, or all if eptp is 0. */
static void flush_ept(u64 eptp)
{
	struct {
		u64 eptp, zero;
	} what = { eptp, 0 };
	u64 type = eptp && (vmx_caps.ept & VMX_EPT_EXTENT_CONTEXT_BIT) ? VMX_EPT_EXTENT_CONTEXT :
									 VMX_EPT_EXTENT_GLOBAL;

	asm volatile("1: invept %0, %1\n2:\n" _ASM_EXTABLE(1b, 2b)
		     :
		     : "m"(what), "r"(type)
		     : "cc", "memory");
}

/*
 * vmx_moved_on - wait until the thread is on a CPU with VMX enabled, after an access found it off
 *
 * A CPU that goes offline moves its threads to others when they next schedule, and the VMCS with
 * them. Return: true if the access can be repeated; false if VMX is off on this CPU as well, or if
 * the caller must not sleep (guest entry checks first, and vCPU load is repeated on the new CPU).
 */
bool vmx_moved_on(void)
{
	bool on;

	if (!preemptible())
		return false;
	schedule();
	preempt_disable();
	on = this_cpu_ptr(&vmx_cpus)->on;
	preempt_enable();
	return on;
}

/* ---- the module ---- */

static void allow_msrs(u8 *map)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(direct_msrs); i++) {
		u32 bit =
			(direct_msrs[i] & 0x1fff) + (direct_msrs[i] >= 0xc0000000 ? 0x400 * 8 : 0);

		map[bit / 8] &= ~BIT(bit % 8);
		map[0x800 + bit / 8] &= ~BIT(bit % 8);
	}
}

static void allow_apicv_msrs(u8 *map)
{
	int i, msr;

	for (i = 0; i < ARRAY_SIZE(apicv_msrs); i++)
		for (msr = apicv_msrs[i][0]; msr <= apicv_msrs[i][1]; msr++)
			map[msr / 8] &= ~BIT(msr % 8);
	map[0x800 + X2APIC(APIC_TASKPRI) / 8] &= ~BIT(X2APIC(APIC_TASKPRI) % 8);
	map[0x800 + X2APIC(APIC_EOI) / 8] &= ~BIT(X2APIC(APIC_EOI) % 8);
}

static void vmx_teardown(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		free_page((unsigned long)per_cpu(vmx_cpus, cpu).vmxon);
	free_pages((unsigned long)msr_bitmaps, 2);
	ida_destroy(&vpids);
}

static void *alloc_vmcs(gfp_t gfp)
{
	u32 *vmcs = (u32 *)get_zeroed_page(gfp);

	if (vmcs)
		*vmcs = vmx_caps.revision;
	return vmcs;
}

static int vmx_setup(void)
{
	int cpu;
	u64 val;

	has_pebs = boot_cpu_has(X86_FEATURE_PEBS) && !rdmsrl_safe(MSR_IA32_PEBS_ENABLE, &val);
	/* A guest could hang the host by resizing a page that it executes (CVE-2018-12207). */
	if (boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT) && !cpu_mitigations_off())
		mkvm_vmx_ops.tdp.huge = 0;
	msr_bitmaps = (u8 *)__get_free_pages(GFP_KERNEL, 2);
	if (!msr_bitmaps)
		return -ENOMEM;
	memset(msr_bitmaps, 0xff, 4 * PAGE_SIZE);
	allow_msrs(msr_bitmaps);
	allow_msrs(msr_bitmaps + 2 * PAGE_SIZE);
	allow_apicv_msrs(msr_bitmaps + 2 * PAGE_SIZE);
	allow_apicv_msrs(msr_bitmaps + 3 * PAGE_SIZE);
	for_each_possible_cpu(cpu) {
		struct vmx_cpu *c = &per_cpu(vmx_cpus, cpu);

		INIT_LIST_HEAD(&c->vcpus);
		c->vmxon = alloc_vmcs(GFP_KERNEL);
		if (!c->vmxon) {
			vmx_teardown();
			return -ENOMEM;
		}
	}
	return 0;
}

/* EPT has four levels, whatever the host's own tables have. */
static bool vmx_tdp_five_levels(void)
{
	return false;
}

/* Enters VMX operation on this CPU, to stay in it. Return: 0 or -EIO. */
static int hold_vmx(struct vmx_cpu *c)
{
	mkvm_hold_vmxe(true);
	if (!vmxon(__pa(c->vmxon))) {
		mkvm_hold_vmxe(false);
		pr_err("mkvm: CPU %u: VMXON failed\n", smp_processor_id());
		return -EIO;
	}
	flush_ept(0);
	return 0;
}

static void release_vmx(void)
{
	vmxoff();
	mkvm_hold_vmxe(false);
}

/* Tries whether this CPU can enter VMX operation. Return: as vmx_window_open. */
static int try_vmx(void)
{
	unsigned long flags;
	int r;

	local_irq_save(flags);
	r = vmx_window_open(NULL);
	if (!r) {
		flush_ept(0);
		vmx_window_close(NULL);
	}
	local_irq_restore(flags);
	return r;
}

static int vmx_cpu_enable(void)
{
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);
	int i, r;

	if (__read_cr4() & X86_CR4_VMXE)
		return -EBUSY;
	for (i = 0; i < VMX_NR_SYSCALL_MSRS; i++)
		rdmsrl(syscall_msrs[i], c->syscall_msrs[i]);
	if (boot_cpu_has(X86_FEATURE_RDTSCP))
		rdmsrl(MSR_TSC_AUX, c->tsc_aux);
	r = IS_ENABLED(MKVM_STANDALONE) ? try_vmx() : hold_vmx(c);
	if (r)
		return r;
	c->current_vcpu = NULL;
	c->on = true;
	return 0;
}

/* Writes the VMCS back to memory and makes it inactive. Context: its CPU, interrupts off. */
static void deactivate(void *arg)
{
	struct vmx_vcpu *vmx = arg;
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);

	if (vmx->vmcs_cpu != smp_processor_id())
		return;
	vmcs_clear(vmx->vmcs);
	list_del(&vmx->loaded);
	if (c->current_vcpu == vmx)
		c->current_vcpu = NULL;
	WRITE_ONCE(vmx->vmcs_cpu, -1);
}

static void vmx_cpu_disable(void)
{
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);
	struct vmx_vcpu *vmx, *next;
	unsigned long flags;

	local_irq_save(flags);
	if (c->on) {
		list_for_each_entry_safe(vmx, next, &c->vcpus, loaded)
			deactivate(vmx);
		c->on = false;
		if (!IS_ENABLED(MKVM_STANDALONE))
			release_vmx();
	}
	local_irq_restore(flags);
}

/* ---- state in the VMCS ---- */

/* Returns the offset of a segment's fields; the VMCS has LDTR before TR. */
static unsigned int field_offset(int seg)
{
	if (seg == MKVM_TR)
		return 14;
	return seg == MKVM_LDTR ? 12 : 2 * seg;
}

static void vmx_get_mode(struct mkvm_vcpu *vcpu, struct mkvm_mode *mode)
{
	u32 cs = vmx_read(GUEST_CS_AR_BYTES);

	mode->cr0 = mkvm_hw->get_cr(vcpu, 0);
	mode->cr3 = vmx_read(GUEST_CR3);
	mode->cr4 = mkvm_hw->get_cr(vcpu, 4);
	mode->efer = vmx_read(GUEST_IA32_EFER);
	mode->cpl = VMX_AR_DPL(vmx_read(GUEST_SS_AR_BYTES));
	mode->cs_l = cs & VMX_AR_L_MASK;
	mode->cs_db = cs & VMX_AR_DB_MASK;
}

static void vmx_get_segment(struct mkvm_vcpu *vcpu, int seg, struct kvm_segment *var)
{
	unsigned int offset = field_offset(seg);
	u32 ar = vmx_read(GUEST_ES_AR_BYTES + offset);

	*var = (struct kvm_segment) {
		.base = vmx_read(GUEST_ES_BASE + offset),
		.limit = vmx_read(GUEST_ES_LIMIT + offset),
		.selector = vmx_read(GUEST_ES_SELECTOR + offset),
		.type = ar & VMX_AR_TYPE_MASK,
		.s = !!(ar & VMX_AR_S_MASK),
		.dpl = VMX_AR_DPL(ar),
		.present = !(ar & VMX_AR_UNUSABLE_MASK),
		.avl = ar >> 12 & 1,
		.l = !!(ar & VMX_AR_L_MASK),
		.db = !!(ar & VMX_AR_DB_MASK),
		.g = !!(ar & VMX_AR_G_MASK),
		.unusable = !!(ar & VMX_AR_UNUSABLE_MASK),
	};
}

/*
 * An entry requires more than userspace need set: a usable segment has its accessed bit set, TR
 * holds a busy TSS (with limit 0 if userspace gives none), and the granularity fits the limit.
 */
static void vmx_set_segment(struct mkvm_vcpu *vcpu, int seg, const struct kvm_segment *var)
{
	unsigned int offset = field_offset(seg);
	bool unusable = var->unusable || !var->present, page = (var->limit & 0xfff) == 0xfff;
	u32 type = var->type & VMX_AR_TYPE_MASK, limit = var->limit;
	bool g = limit >> 20 ? true : page && (var->g & 1);

	if (seg < MKVM_TR)
		type |= VMX_AR_TYPE_ACCESSES_MASK;
	if (seg == MKVM_TR) {
		type = unusable ? VMX_AR_TYPE_BUSY_32_TSS : type | 2;
		limit = unusable ? 0 : limit;
		g = unusable ? false : g;
		unusable = false;
	}
	if (g && !page)
		limit |= 0xfff;
	vmx_write(GUEST_ES_BASE + offset, var->base);
	vmx_write(GUEST_ES_LIMIT + offset, limit);
	vmx_write(GUEST_ES_SELECTOR + offset, var->selector);
	vmx_write(GUEST_ES_AR_BYTES + offset,
		  type | (var->s & 1) << 4 | (var->dpl & 3) << VMX_AR_DPL_SHIFT |
			  (unusable ? 0 : VMX_AR_P_MASK) | (var->avl & 1) << 12 |
			  (var->l & 1) << 13 | (var->db & 1) << 14 | (g ? VMX_AR_G_MASK : 0) |
			  (unusable ? VMX_AR_UNUSABLE_MASK : 0));
}

static void vmx_get_dt(struct mkvm_vcpu *vcpu, bool idt, struct kvm_dtable *dt)
{
	*dt = (struct kvm_dtable) {
		.base = vmx_read(idt ? GUEST_IDTR_BASE : GUEST_GDTR_BASE),
		.limit = vmx_read(idt ? GUEST_IDTR_LIMIT : GUEST_GDTR_LIMIT),
	};
}

static void vmx_set_dt(struct mkvm_vcpu *vcpu, bool idt, const struct kvm_dtable *dt)
{
	vmx_write(idt ? GUEST_IDTR_BASE : GUEST_GDTR_BASE, dt->base);
	vmx_write(idt ? GUEST_IDTR_LIMIT : GUEST_GDTR_LIMIT, dt->limit);
}

/* CR0 and CR4 combine the CPU's bits with those of the read shadow, which the guest has set. */
static u64 vmx_get_cr(struct mkvm_vcpu *vcpu, int cr)
{
	u64 mask = cr == 0 ? to_vmx(vcpu)->cr0_mask : to_vmx(vcpu)->cr4_mask;

	switch (cr) {
	case 0:
		return (vmx_read(GUEST_CR0) & ~mask) | (vmx_read(CR0_READ_SHADOW) & mask);
	case 2:
		return to_vmx(vcpu)->cr2;
	case 3:
		return vmx_read(GUEST_CR3);
	default:
		return (vmx_read(GUEST_CR4) & ~mask) | (vmx_read(CR4_READ_SHADOW) & mask);
	}
}

/* Has vmx_inject read the PDPTEs of PAE paging again before the next entry. */
static void forget_pdptes(struct mkvm_vcpu *vcpu)
{
	to_vmx(vcpu)->pdptes_stale = true;
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
}

static void set_ept_root(struct vmx_vcpu *vmx, u64 root_pa)
{
	bool ad = vmx_caps.ept & VMX_EPT_AD_BIT;

	vmx_write(EPT_POINTER,
		  root_pa | VMX_EPTP_MT_WB | VMX_EPTP_PWL_4 | (ad ? VMX_EPTP_AD_ENABLE_BIT : 0));
	vmx->flush = true;
}

/*
 * hw_ops set_soft_tlb: while the mode is on, whatever changes the guest's paging or drops
 * translations exits: loads of CR3, changes of CR0.PG and CR0.WP and of any bit of CR4
 * (refresh_cr4_mask), INVLPG and INVPCID. Writes of EFER and task switches always do.
 */
static void vmx_set_soft_tlb(struct mkvm_vcpu *vcpu, u64 root_pa)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool on = root_pa;

	vcpu->soft_tlb.root = root_pa;
	vmx_write(CR0_READ_SHADOW, mkvm_hw->get_cr(vcpu, 0));
	vmx->cr0_mask = VMX_CR0_MASK | (on ? X86_CR0_PG | X86_CR0_WP : 0);
	vmx_write(CR0_GUEST_HOST_MASK, vmx->cr0_mask);
	vmx_set_cpu_ctl(vmx, CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_INVLPG_EXITING, on);
	vmx_update_exceptions(vmx);
	forget_pdptes(vcpu);
	set_ept_root(vmx, root_pa ?: vcpu->vm->tdp[vcpu->smm.active].root_pa);
}

/* The guest's paging changes: the CPU may be able to walk its tables again. */
static void end_soft_tlb(struct mkvm_vcpu *vcpu)
{
	if (unlikely(vcpu->soft_tlb.root))
		vmx_set_soft_tlb(vcpu, 0);
}

static void vmx_set_cr(struct mkvm_vcpu *vcpu, int cr, u64 val)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	if (cr != 2) {
		end_soft_tlb(vcpu);
		forget_pdptes(vcpu);
	}
	switch (cr) {
	case 0:
		vmx_write(GUEST_CR0, (val & ~(u64)VMX_CR0_MASK) | X86_CR0_ET | vmx_caps.cr0_fixed);
		vmx_write(CR0_READ_SHADOW, val);
		break;
	case 2:
		vmx->cr2 = val;
		break;
	case 3:
		vmx_write(GUEST_CR3, val);
		break;
	default:
		vmx_write(GUEST_CR4, val | X86_CR4_VMXE | (__read_cr4() & X86_CR4_MCE));
		vmx_write(CR4_READ_SHADOW, val);
	}
}

static void vmx_set_efer(struct mkvm_vcpu *vcpu, u64 efer)
{
	end_soft_tlb(vcpu);
	forget_pdptes(vcpu);
	vmx_write(GUEST_IA32_EFER, efer & (EFER_SCE | EFER_LME | EFER_LMA | EFER_NX));
	vmx_write(VM_ENTRY_CONTROLS, vmx_caps.entry | (efer & EFER_LMA ? VM_ENTRY_IA32E_MODE : 0));
}

static u64 vmx_get_dr(struct mkvm_vcpu *vcpu, int dr)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	if (dr == 6)
		return vmx->dr6;
	return vmx->debugged ? vmx->guest_dr7 : vmx_read(GUEST_DR7);
}

/* Drops a pending trap: either the new DR6 reports it, or it belongs to the old state. */
static void vmx_set_dr(struct mkvm_vcpu *vcpu, int dr, u64 val)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	if (dr == 6) {
		vmx->dr6 = val;
	} else if (vmx->debugged) {
		vmx->guest_dr7 = val;
	} else {
		vmx_write(GUEST_DR7, val);
		if (val & 0xff)		/* as in vmx_vcpu_load */
			vcpu->dr_live = true;
	}
}

/*
 * hw_ops take_held_traps: bit 12 of the pending debug exceptions says that a trap belongs to an
 * enabled breakpoint (Intel SDM vol. 3, "Guest Non-Register State").
 */
static u32 vmx_take_held_traps(struct mkvm_vcpu *vcpu)
{
	u64 pending = vmx_read(GUEST_PENDING_DBG_EXCEPTIONS);

	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	return pending & BIT(12) ? pending & DR_TRAP_BITS : 0;
}

/* Returns the VMCS's field for an MSR, or 0. */
static unsigned long msr_field(u32 index)
{
	switch (index) {
	case MSR_FS_BASE: return GUEST_FS_BASE;
	case MSR_GS_BASE: return GUEST_GS_BASE;
	case MSR_IA32_SYSENTER_CS: return GUEST_SYSENTER_CS;
	case MSR_IA32_SYSENTER_ESP: return GUEST_SYSENTER_ESP;
	case MSR_IA32_SYSENTER_EIP: return GUEST_SYSENTER_EIP;
	default: return 0;
	}
}

/* Returns the guest's copy of an MSR in syscall_msrs, or NULL. */
static u64 *syscall_msr(struct vmx_vcpu *vmx, u32 index)
{
	int i;

	for (i = 0; i < VMX_NR_SYSCALL_MSRS; i++)
		if (syscall_msrs[i] == index)
			return &vmx->syscall_msrs[i];
	return NULL;
}

static int vmx_get_msr(struct mkvm_vcpu *vcpu, u32 index, u64 *val)
{
	unsigned long field = msr_field(index);
	u64 *syscall = syscall_msr(to_vmx(vcpu), index);

	if (index == MSR_KERNEL_GS_BASE)
		rdmsrl(MSR_KERNEL_GS_BASE, *val);	/* the vCPU is loaded: see vmx_vcpu_load */
	else if (syscall)
		*val = *syscall;
	else if (field)
		*val = vmx_read(field);
	else
		return 1;
	return 0;
}

static int vmx_set_msr(struct mkvm_vcpu *vcpu, u32 index, u64 val)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	unsigned long field = msr_field(index);
	u64 *syscall = syscall_msr(vmx, index);

	if (index == MSR_IA32_CR_PAT) {
		vmx_write(GUEST_IA32_PAT, val);
		return 0;
	}
	if (index == MSR_TSC_AUX) {
		if (!boot_cpu_has(X86_FEATURE_RDTSCP))
			return 1;
		mkvm_write_loaded(&vcpu->msr.tsc_aux, index, val);
		return 0;
	}
	if (!syscall && !field && index != MSR_KERNEL_GS_BASE)
		return 1;
	if (index != MSR_STAR && index != MSR_SYSCALL_MASK && index != MSR_IA32_SYSENTER_CS &&
	    !__is_canonical_address(val, 48))
		return 1;
	if (index == MSR_SYSCALL_MASK && val >> 32)
		return 1;
	if (syscall)
		mkvm_write_loaded(syscall, index, val);
	else if (field)
		vmx_write(field, index == MSR_IA32_SYSENTER_CS ? (u32)val : val);
	else
		wrmsrl(MSR_KERNEL_GS_BASE, val);
	return 0;
}

static void vmx_tsc_offset_changed(struct mkvm_vcpu *vcpu)
{
	vmx_write(TSC_OFFSET, vcpu->tsc.offset);
}

static void write_msr_bitmap(struct vmx_vcpu *vmx)
{
	vmx_write(MSR_BITMAP, __pa(msr_bitmaps) + (vmx->msrs_exit + 2 * vmx->apicv) * PAGE_SIZE);
}

/*
 * hw_ops msr_filter_changed: if the filter denies any of the direct MSRs, all of them exit. Filters
 * do not apply to the x2APIC's MSRs.
 */
static void vmx_msr_filter_changed(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	vmx->msrs_exit = !mkvm_msrs_allowed(vcpu, direct_msrs, ARRAY_SIZE(direct_msrs));
	write_msr_bitmap(vmx);
}

/* ---- the LAPIC in the CPU ---- */

/*
 * vmx_may_apicv - may the CPU deliver and end the LAPIC's interrupts at present?
 *
 * Only in x2APIC mode: virtualized xAPIC registers would need the same page of memory in all vCPUs.
 * Not while interrupts are traced, accesses to TPR are reported, or the guest is being debugged.
 */
bool vmx_may_apicv(struct mkvm_vcpu *vcpu)
{
	return vmx_caps.apicv && vcpu->lapic && mkvm_lapic_in_x2apic_mode(vcpu->lapic) &&
	       !mkvm_tracing() && !vcpu->user_irqchip.report_tpr && !vcpu->debug.control;
}

static u32 secondary_controls(struct vmx_vcpu *vmx)
{
	u32 ctl = vmx->vpid ? vmx_caps.cpu2 : vmx_caps.cpu2 & ~SECONDARY_EXEC_ENABLE_VPID;

	/* Instructions that CPUID hides raise #UD; one control covers both RDTSCP and RDPID. */
	if (!(vmx->vcpu.guest_cpuid.shown & MKVM_SHOWN_TSC_AUX))
		ctl &= ~SECONDARY_EXEC_ENABLE_RDTSCP;
	if (!(vmx->vcpu.guest_cpuid.shown & MKVM_SHOWN_INVPCID))
		ctl &= ~SECONDARY_EXEC_ENABLE_INVPCID;
	if (vmx->vcpu.guest_cpuid.shown & MKVM_SHOWN_RDRAND)
		ctl &= ~SECONDARY_EXEC_RDRAND_EXITING;
	if (vmx->vcpu.guest_cpuid.shown & MKVM_SHOWN_RDSEED)
		ctl &= ~SECONDARY_EXEC_RDSEED_EXITING;
	return vmx->apicv ? ctl | vmx_caps.apicv : ctl;
}

static void vmx_cpuid_changed(struct mkvm_vcpu *vcpu)
{
	vmx_write(SECONDARY_VM_EXEC_CONTROL, secondary_controls(to_vmx(vcpu)));
}

static void write_awaited_eois(struct vmx_vcpu *vmx)
{
	int i;

	for (i = 0; i < 4; i++)
		vmx_write(EOI_EXIT_BITMAP0 + 2 * i,
			  vmx->awaited_eois[2 * i] | (u64)vmx->awaited_eois[2 * i + 1] << 32);
}

void vmx_set_apicv(struct vmx_vcpu *vmx, bool on)
{
	if (likely(on == vmx->apicv))
		return;
	vmx->apicv = on;
	vmx_write(SECONDARY_VM_EXEC_CONTROL, secondary_controls(vmx));
	write_msr_bitmap(vmx);
	if (!on)
		return;
	vmx->intr_status = 0;
	vmx_write(GUEST_INTR_STATUS, 0);
	memset(vmx->awaited_eois, 0, sizeof(vmx->awaited_eois));
	write_awaited_eois(vmx);
}

static void lend_lapic(struct vmx_vcpu *vmx)
{
	u32 awaited[8];
	u16 status = mkvm_lapic_lend(vmx->vcpu.lapic, vmx->apic_page, awaited);

	if (likely(!(status | vmx->intr_status)))
		return;
	vmx->intr_status = status;
	vmx_write(GUEST_INTR_STATUS, status);
	if (status && memcmp(awaited, vmx->awaited_eois, sizeof(awaited))) {
		memcpy(vmx->awaited_eois, awaited, sizeof(awaited));
		write_awaited_eois(vmx);
	}
}

/* ---- a vCPU's life ---- */

static struct mkvm_vcpu *vmx_vcpu_create(void)
{
	struct vmx_vcpu *vmx = kzalloc(sizeof(*vmx), GFP_KERNEL_ACCOUNT);

	if (!vmx)
		return ERR_PTR(-ENOMEM);
	vmx->vmcs = alloc_vmcs(GFP_KERNEL_ACCOUNT);
	vmx->apic_page = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!vmx->vmcs || !vmx->apic_page ||
	    (IS_ENABLED(MKVM_STANDALONE) && !vmx_copy_create(vmx))) {
		free_page((unsigned long)vmx->vmcs);
		free_page((unsigned long)vmx->apic_page);
		kfree(vmx);
		return ERR_PTR(-ENOMEM);
	}
	vmx->vmcs_cpu = -1;
	if (vmx_caps.cpu2 & SECONDARY_EXEC_ENABLE_VPID)
		vmx->vpid = max(ida_alloc_range(&vpids, 1, VPIDS - 1, GFP_KERNEL), 0);
	return &vmx->vcpu;
}

static void deactivate_anywhere(struct vmx_vcpu *vmx)
{
	int cpu = READ_ONCE(vmx->vmcs_cpu);

	if (cpu >= 0)
		smp_call_function_single(cpu, deactivate, vmx, 1);
}

static void vmx_vcpu_destroy(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	deactivate_anywhere(vmx);
	if (vmx->vpid)
		ida_free(&vpids, vmx->vpid);
	if (IS_ENABLED(MKVM_STANDALONE))
		vmx_copy_destroy(vmx);
	free_page((unsigned long)vmx->vmcs);
	free_page((unsigned long)vmx->apic_page);
	kfree(vmx);
}

static void write_controls(struct vmx_vcpu *vmx)
{
	static const u16 zero[] = {
		VM_EXIT_MSR_STORE_COUNT,
		VM_EXIT_MSR_LOAD_COUNT,
		VM_ENTRY_MSR_LOAD_COUNT,
		CR3_TARGET_COUNT,
		TPR_THRESHOLD,
		PAGE_FAULT_ERROR_CODE_MASK,
		PAGE_FAULT_ERROR_CODE_MATCH,
	};
	u32 disabled = vmx->vcpu.vm->disabled_exits;
	int i;

	for (i = 0; i < ARRAY_SIZE(zero); i++)
		vmx_write(zero[i], 0);
	vmx->cpu_ctl = vmx_caps.cpu;
	if (disabled & KVM_X86_DISABLE_EXITS_HLT)
		vmx->cpu_ctl &= ~CPU_BASED_HLT_EXITING;
	if (disabled & KVM_X86_DISABLE_EXITS_MWAIT)
		vmx->cpu_ctl &= ~(CPU_BASED_MWAIT_EXITING | CPU_BASED_MONITOR_EXITING);
	vmx_write(PIN_BASED_VM_EXEC_CONTROL,
		  vmx_caps.pin & ~(vmx_stay ? 0 : PIN_BASED_VMX_PREEMPTION_TIMER));
	vmx->cpu_ctl_written = vmx->cpu_ctl;
	vmx_write(CPU_BASED_VM_EXEC_CONTROL, vmx->cpu_ctl);
	vmx->apicv = false;
	vmx_write(SECONDARY_VM_EXEC_CONTROL, secondary_controls(vmx));
	vmx_write(VM_EXIT_CONTROLS, vmx_caps.exit);
	vmx_write(VM_ENTRY_CONTROLS, vmx_caps.entry);
	vmx_write(VM_ENTRY_INTR_INFO_FIELD, 0);
	if (vmx->vpid)
		vmx_write(VIRTUAL_PROCESSOR_ID, vmx->vpid);
	write_msr_bitmap(vmx);
	vmx_write(VIRTUAL_APIC_PAGE_ADDR, __pa(vmx->apic_page));
	vmx->vcpu.soft_tlb.root = 0;
	vmx->cr0_mask = VMX_CR0_MASK;
	vmx_write(CR0_GUEST_HOST_MASK, vmx->cr0_mask);
	vmx->cr4_mask = ~0ULL;
	vmx_write(CR4_GUEST_HOST_MASK, vmx->cr4_mask);
	vmx_write(TSC_OFFSET, vmx->vcpu.tsc.offset);
}

/* Writes the host's state that is the same on all CPUs and never changes. */
static void write_host_state(void)
{
	u64 val;

	vmx_write(HOST_CR0, read_cr0());
	vmx_write(HOST_CS_SELECTOR, __KERNEL_CS);
	vmx_write(HOST_SS_SELECTOR, __KERNEL_DS);
	vmx_write(HOST_DS_SELECTOR, 0);		/* vmx_vcpu_put restores the host's own */
	vmx_write(HOST_ES_SELECTOR, 0);
	vmx_write(HOST_FS_SELECTOR, 0);
	vmx_write(HOST_GS_SELECTOR, 0);
	vmx_write(HOST_TR_SELECTOR, GDT_ENTRY_TSS * 8);
	vmx_write(HOST_RIP, (unsigned long)vmx_vmexit);
	rdmsrl(MSR_IA32_SYSENTER_CS, val);
	vmx_write(HOST_IA32_SYSENTER_CS, val);
	rdmsrl(MSR_IA32_SYSENTER_EIP, val);
	vmx_write(HOST_IA32_SYSENTER_EIP, val);
	rdmsrl(MSR_IA32_CR_PAT, val);
	vmx_write(HOST_IA32_PAT, val);
	rdmsrl(MSR_EFER, val);
	vmx_write(HOST_IA32_EFER, val);
}

/* hw_ops set_tdp_root. */
static void vmx_set_tdp_root(struct mkvm_vcpu *vcpu, u64 root_pa)
{
	end_soft_tlb(vcpu);
	set_ept_root(to_vmx(vcpu), root_pa);
	vmx_update_exceptions(to_vmx(vcpu));
}

/* hw_ops use_root. VMX single-steps only for userspace, so step is refused. */
static bool vmx_use_root(struct mkvm_vcpu *vcpu, u64 root_pa, bool step)
{
	if (step)
		return false;
	if (!root_pa)
		root_pa = vcpu->soft_tlb.root ?: vcpu->vm->tdp[vcpu->smm.active].root_pa;
	set_ept_root(to_vmx(vcpu), root_pa);
	return true;
}

static void reset_segments(struct mkvm_vcpu *vcpu)
{
	static const struct kvm_segment data = { .limit = 0xffff, .type = 3, .s = 1, .present = 1 };
	static const struct kvm_segment code = {
		.selector = 0xf000,
		.base = 0xffff0000,
		.limit = 0xffff,
		.type = 11,
		.s = 1,
		.present = 1,
	};
	static const struct kvm_segment ldt = { .limit = 0xffff, .type = 2, .present = 1 };
	static const struct kvm_segment tss = { .limit = 0xffff, .type = 11, .present = 1 };
	int seg;

	for (seg = MKVM_ES; seg <= MKVM_GS; seg++)
		vmx_set_segment(vcpu, seg, seg == MKVM_CS ? &code : &data);
	vmx_set_segment(vcpu, MKVM_LDTR, &ldt);
	vmx_set_segment(vcpu, MKVM_TR, &tss);
	vmx_write(GUEST_GDTR_BASE, 0);
	vmx_write(GUEST_GDTR_LIMIT, 0xffff);
	vmx_write(GUEST_IDTR_BASE, 0);
	vmx_write(GUEST_IDTR_LIMIT, 0xffff);
}

/*
 * Intel SDM vol. 3, "Processor State After Reset". INIT preserves model-specific registers and the
 * cache bits of CR0.
 */
static void reset_guest_state(struct vmx_vcpu *vmx, bool init)
{
	u64 cr0 = init ? vmx_read(CR0_READ_SHADOW) : X86_CR0_CD | X86_CR0_NW;

	reset_segments(&vmx->vcpu);
	vmx_set_efer(&vmx->vcpu, 0);
	vmx_set_cr(&vmx->vcpu, 0, cr0 & (X86_CR0_CD | X86_CR0_NW));
	vmx_set_cr(&vmx->vcpu, 3, 0);
	vmx_set_cr(&vmx->vcpu, 4, 0);
	vmx->cr2 = 0;
	vmx->dr6 = DR6_RESERVED;
	vmx_write(GUEST_DR7, MKVM_DR7_FIXED);
	vmx_write(GUEST_IA32_DEBUGCTL, 0);
	vmx_write(GUEST_IA32_PAT, vmx->vcpu.msr.pat);
	vmx_write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	vmx_write(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	vmx_write(VMCS_LINK_POINTER, ~0ULL);
	vmx->shadow = 0;
	vmx->stepping = false;
	if (init)
		return;
	vmx_write(GUEST_SYSENTER_CS, 0);
	vmx_write(GUEST_SYSENTER_ESP, 0);
	vmx_write(GUEST_SYSENTER_EIP, 0);
}

static void vmx_vcpu_reset(struct mkvm_vcpu *vcpu, bool init)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	bool load = vcpu->cpu < 0;	/* at creation the vCPU is not loaded */

	if (load)
		mkvm_vcpu_load(vcpu);
	write_controls(vmx);
	write_host_state();
	reset_guest_state(vmx, init);
	vmx_set_tdp_root(vcpu, vcpu->vm->tdp[vcpu->smm.active].root_pa);
	vmx->debugged = false;
	vcpu->dr_live = false;
	vmx_guest_debug_changed(vcpu);
	if (load)
		mkvm_vcpu_put(vcpu);
}

/* ---- loading a vCPU on a CPU ---- */

/* Makes the VMCS active and current on this CPU. Context: preemption off. */
static void activate(struct vmx_vcpu *vmx, struct vmx_cpu *c, int cpu)
{
	unsigned long flags;
	struct desc_ptr idt;
	u64 val;

	deactivate_anywhere(vmx);
	vmcs_clear(vmx->vmcs);		/* required once for a new VMCS */
	local_irq_save(flags);
	if (c->on) {
		list_add(&vmx->loaded, &c->vcpus);
		vmx->vmcs_cpu = cpu;
		c->current_vcpu = vmx;
		vmcs_load(vmx->vmcs);
	}
	local_irq_restore(flags);
	vmx->launched = false;
	vmx->flush = true;
	vmx_write(HOST_TR_BASE, (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss);
	vmx_write(HOST_GDTR_BASE, (unsigned long)get_current_gdt_ro());
	store_idt(&idt);
	vmx_write(HOST_IDTR_BASE, idt.address);
	rdmsrl(MSR_GS_BASE, val);
	vmx_write(HOST_GS_BASE, val);
	rdmsrl(MSR_IA32_SYSENTER_ESP, val);
	vmx_write(HOST_IA32_SYSENTER_ESP, val);
	indirect_branch_prediction_barrier();
}

static void load_msrs(struct mkvm_vcpu *vcpu, const struct vmx_cpu *c, bool guest)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	int i;

	for (i = 0; i < VMX_NR_SYSCALL_MSRS; i++)
		if (vmx->syscall_msrs[i] != c->syscall_msrs[i])
			wrmsrl(syscall_msrs[i], guest ? vmx->syscall_msrs[i] : c->syscall_msrs[i]);
	if (vcpu->msr.tsc_aux != c->tsc_aux && boot_cpu_has(X86_FEATURE_RDTSCP))
		wrmsrl(MSR_TSC_AUX, guest ? vcpu->msr.tsc_aux : c->tsc_aux);
}

static void vmx_vcpu_load(struct mkvm_vcpu *vcpu, int cpu)
{
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	c->copy = vmx->copy;
	if (vmx->vmcs_cpu != cpu) {
		activate(vmx, c, cpu);
	} else if (c->current_vcpu != vmx) {
		vmcs_load(vmx->vmcs);
		c->current_vcpu = vmx;
		indirect_branch_prediction_barrier();
	}
	/* An exit sets the selectors to null. */
	savesegment(ds, vmx->host_ds);
	savesegment(es, vmx->host_es);
	savesegment(fs, vmx->host_fs);
	savesegment(gs, vmx->host_gs);
	rdmsrl(MSR_FS_BASE, vmx->host_fs_base);
	vmx_write(HOST_FS_BASE, vmx->host_fs_base);
	vmx->host_cr3 = 0;
	vmx->host_cr4 = 0;
	rdmsrl(MSR_KERNEL_GS_BASE, vmx->host_kernel_gs_base);
	wrmsrl(MSR_KERNEL_GS_BASE, vmx->kernel_gs_base);
	load_msrs(vcpu, c, true);
	/* The VMCS holds the guest's DR7; if that enables breakpoints, DR0-3 must be loaded. */
	if (!vmx->debugged && (vmx_read(GUEST_DR7) & 0xff))
		vcpu->dr_live = true;
}

static void vmx_vcpu_put(struct mkvm_vcpu *vcpu)
{
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	load_msrs(vcpu, c, false);
	rdmsrl(MSR_KERNEL_GS_BASE, vmx->kernel_gs_base);
	if (unlikely(vmx->host_ds | vmx->host_es)) {
		loadsegment(ds, vmx->host_ds);
		loadsegment(es, vmx->host_es);
	}
	if (unlikely(vmx->host_fs)) {
		loadsegment(fs, vmx->host_fs);
		wrmsrl(MSR_FS_BASE, vmx->host_fs_base);
	}
	if (unlikely(vmx->host_gs))
		load_gs_index(vmx->host_gs);
	wrmsrl(MSR_KERNEL_GS_BASE, vmx->host_kernel_gs_base);
	/* An exit sets too high a limit for the GDT and too low a limit for the TSS. */
	invalidate_tss_limit();
	load_fixmap_gdt(smp_processor_id());
	vcpu->dr_live = false;
	mkvm_guard_userspace();
}

/* ---- guest entry ---- */

static void vmx_flush_tlb(struct mkvm_vcpu *vcpu)
{
	if (unlikely(vcpu->soft_tlb.root))
		mkvm_soft_flush(vcpu);
	to_vmx(vcpu)->flush = true;
}

static void trace_vmx_exit(struct vmx_vcpu *vmx)
{
	u32 vectoring = vmx_read(IDT_VECTORING_INFO_FIELD);

	vmx->vcpu.ids.went_in = true;
	trace_exit(&vmx->vcpu, vmx_last_exit(&vmx->vcpu), vmx->exit_reason,
		   vmx_read(EXIT_QUALIFICATION), vmx_read(GUEST_PHYSICAL_ADDRESS),
		   vectoring & VECTORING_INFO_VALID_MASK ? vectoring : 0);
}

/* Writes the host's state that may have changed since the last entry. */
static void refresh_host_state(struct vmx_vcpu *vmx)
{
	u64 cr3 = __read_cr3(), cr4 = __read_cr4();

	if (unlikely(cr3 != vmx->host_cr3)) {
		vmx->host_cr3 = cr3;
		vmx_write(HOST_CR3, cr3);
	}
	if (unlikely(cr4 != vmx->host_cr4)) {
		vmx->host_cr4 = cr4;
		vmx_write(HOST_CR4, cr4);
	}
}

/*
 * Changes of these CR4 bits exit: bits that CPUID does not offer, to be refused; VMXE and MCE,
 * which stay set in the CPU; PKE, which mkvm tracks; all while soft_tlb.c does the walks.
 * Userspace may change CPUID between entries.
 */
static void refresh_cr4_mask(struct vmx_vcpu *vmx)
{
	u64 mask = vmx->vcpu.guest_cpuid.cr4_reserved | X86_CR4_VMXE | X86_CR4_MCE | X86_CR4_PKE;

	if (unlikely(vmx->vcpu.soft_tlb.root))
		mask = ~0ULL;
	if (likely(mask == vmx->cr4_mask))
		return;
	vmx_write(CR4_READ_SHADOW, vmx_get_cr(&vmx->vcpu, 4));
	vmx->cr4_mask = mask;
	vmx_write(CR4_GUEST_HOST_MASK, mask);
}

/* Called with interrupts off: until then a put may take DR0-3 from the guest. */
static void refresh_cpu_ctl(struct vmx_vcpu *vmx)
{
	u32 ctl = vmx->vcpu.dr_live ? vmx->cpu_ctl & ~CPU_BASED_MOV_DR_EXITING : vmx->cpu_ctl;

	if (likely(ctl == vmx->cpu_ctl_written))
		return;
	vmx->cpu_ctl_written = ctl;
	vmx_write(CPU_BASED_VM_EXEC_CONTROL, ctl);
}

/* While soft_tlb.c does the walks, PAE paging starts at its PDPTEs, which any exit may change. */
static void write_soft_pdptes(struct mkvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < 4; i++)
		vmx_write(GUEST_PDPTR0 + 2 * i, mkvm_soft_pdpte(vcpu, i));
}

static void before_entry(struct vmx_vcpu *vmx)
{
	struct mkvm_vcpu *vcpu = &vmx->vcpu;

	refresh_host_state(vmx);
	refresh_cr4_mask(vmx);
	refresh_cpu_ctl(vmx);
	if (unlikely(vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP) && !vcpu->ev.exit_soon)
		vmx_begin_step(vmx);
	if (unlikely(vmx->shadow))
		vmx_settle_shadow(vmx);
	vmx_write(GUEST_RSP, vcpu->regs[MKVM_RSP]);
	vmx_write(GUEST_RIP, vcpu->rip);
	vmx_write(GUEST_RFLAGS, (vcpu->rflags & 0x3f7fd7) | X86_EFLAGS_FIXED);
	vmx_write(GUEST_INTERRUPTIBILITY_INFO, vmx->shadow);
	if (unlikely(vmx_stay))
		vmx_write(VMX_PREEMPTION_TIMER_VALUE, vcpu->ev.exit_soon ? 0 : vmx_stay);
	if (vmx->apicv)
		lend_lapic(vmx);
	if (unlikely(vcpu->soft_tlb.root))
		write_soft_pdptes(vcpu);
	if (mkvm_test_refuse(vmx->flush))
		vmx_write(GUEST_RFLAGS, 0);	/* X86_EFLAGS_FIXED must be set */
	/*
	 * INVEPT has had its effect when it ends, so an entry that the CPU refuses afterwards, for
	 * whatever reason, loses nothing (SDM vol. 3, "INVEPT"). With VMX off it has none, but
	 * hold_vmx flushes all when VMX is on again.
	 */
	if (unlikely(vmx->flush)) {
		flush_ept(vmx_read(EPT_POINTER));
		vmx->flush = false;
	}
	if (native_read_cr2() != vmx->cr2)
		native_write_cr2(vmx->cr2);
	store_ldt(vmx->host_ldt);
	vmx->host_debugctl = get_debugctlmsr();
	/* PEBS of the host's perf would write its records to addresses of the guest. */
	if (has_pebs) {
		rdmsrl(MSR_IA32_PEBS_ENABLE, vmx->host_pebs);
		if (unlikely(vmx->host_pebs))
			wrmsrl(MSR_IA32_PEBS_ENABLE, 0);
	}
	if (unlikely(vcpu->dr_live))
		set_debugreg(vmx->dr6, 6);
	/* A guest can read the L1 cache through its page tables (CVE-2018-3646). */
	if (boot_cpu_has_bug(X86_BUG_L1TF) && cpu_feature_enabled(X86_FEATURE_FLUSH_L1D) &&
	    !cpu_mitigations_off())
		wrmsrl(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
}

/* Restores the host's state that before_entry or an exit has changed; the entry may have failed. */
static void restore_host(struct vmx_vcpu *vmx)
{
	mkvm_restore_ldt(vmx->host_ldt);
	if (unlikely(vmx->vcpu.dr_live)) {
		get_debugreg(vmx->dr6, 6);
		set_debugreg(DR6_RESERVED, 6);
	}
	if (unlikely(vmx->host_debugctl))
		update_debugctlmsr(vmx->host_debugctl);
	if (unlikely(vmx->host_pebs))
		wrmsrl(MSR_IA32_PEBS_ENABLE, vmx->host_pebs);
}

/* NMIs and machine checks are the host's. Handles them on the CPU where they caused the exit. */
static void serve_host_exception(struct vmx_vcpu *vmx)
{
	u32 info = vmx_read(VM_EXIT_INTR_INFO);

	vmx->intr_info = info;
	if ((info & INTR_INFO_INTR_TYPE_MASK) == INTR_TYPE_NMI_INTR)
		asm volatile("int $2");
	else if ((info & INTR_INFO_VECTOR_MASK) == X86_TRAP_MC)
		mkvm_machine_check();
}

/* Returns RIP after the exiting instruction; 0 for exits that do not report its length. */
static u64 next_rip(struct vmx_vcpu *vmx)
{
	u64 next;

	if (vmx->exit_reason == EXIT_REASON_EXTERNAL_INTERRUPT ||
	    vmx->exit_reason == EXIT_REASON_EPT_VIOLATION)
		return 0;
	next = vmx->vcpu.rip + vmx_read(VM_EXIT_INSTRUCTION_LEN);
	if (unlikely(next >> 32) && !(vmx_read(GUEST_CS_AR_BYTES) & VMX_AR_L_MASK))
		return (u32)next;
	return next;
}

static void after_exit(struct vmx_vcpu *vmx)
{
	struct mkvm_vcpu *vcpu = &vmx->vcpu;
	u32 shadow;

	vmx->launched = true;
	vmx->cr2 = native_read_cr2();
	if (vmx->exit_reason == EXIT_REASON_EXCEPTION_NMI)
		serve_host_exception(vmx);
	vcpu->regs[MKVM_RSP] = vmx_read(GUEST_RSP);
	vcpu->rip = vmx_read(GUEST_RIP);
	vcpu->rflags = vmx_read(GUEST_RFLAGS);
	vcpu->insn.next_rip = next_rip(vmx);
	shadow = vmx_read(GUEST_INTERRUPTIBILITY_INFO);
	/* Only an injected NMI masks others. Bochs keeps the mask of a guest that ran before. */
	if (!(vmx->shadow & GUEST_INTR_STATE_NMI) && vcpu->ev.delivering.type != MKVM_EV_NMI)
		shadow &= ~GUEST_INTR_STATE_NMI;
	vmx->shadow = shadow;
	if (unlikely(vmx->stepping))
		vmx_end_step(vmx);
	vmx_event_after_exit(vmx);
	/* Without HLT exiting the guest may be halted; any exit wakes it up, past the HLT. */
	if (!(vmx->cpu_ctl & CPU_BASED_HLT_EXITING))
		vmx_write(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
}

static void take_lapic_back(struct vmx_vcpu *vmx, bool entered)
{
	bool eoi = entered && vmx_read(VM_EXIT_REASON) == EXIT_REASON_EOI_INDUCED;

	mkvm_lapic_take_back(vmx->vcpu.lapic, vmx->apic_page,
			     eoi ? (u8)vmx_read(EXIT_QUALIFICATION) : -1);
}

/* Enters the guest once. If its VMCS is active on this CPU, it is also current. */
static void enter_current(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);
	u8 cr8 = mkvm_get_cr8(vcpu), new_cr8, *vtpr = vmx->apic_page + APIC_TASKPRI;
	int r = VMX_OFF;

	*vtpr = cr8 << 4;
	vmx->entry_error = 0;
	if (unlikely(vmx->apicv && !vmx_may_apicv(vcpu))) {
		mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	} else if (likely(vmx->vmcs_cpu == vcpu->cpu)) {
		before_entry(vmx);
		r = vmx_vmenter(vcpu->regs, vmx->launched);
		restore_host(vmx);
		if (vmx->apicv)
			take_lapic_back(vmx, r == VMX_ENTERED);
	}
	if (unlikely(r != VMX_ENTERED)) {
		/*
		 * VMX_OFF: the machine reboots, this CPU goes offline and the thread moves, or
		 * APICv must be turned off first.
		 */
		WRITE_ONCE(vmx->exit_reason, EXIT_REASON_EXTERNAL_INTERRUPT);
		if (r == VMX_FAILED)
			vmx->entry_error = vmx_read(VM_INSTRUCTION_ERROR) ?: ~0u;
		return;
	}
	WRITE_ONCE(vmx->exit_reason, vmx_read(VM_EXIT_REASON));
	if (unlikely(vmx->exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY)) {
		if ((u16)vmx->exit_reason == EXIT_REASON_MCE_DURING_VMENTRY)
			mkvm_machine_check();
		return;
	}
	after_exit(vmx);
	new_cr8 = *vtpr >> 4;
	if (unlikely(new_cr8 != cr8) && !vmx->apicv)
		mkvm_set_cr8(vcpu, new_cr8);
	if (mkvm_tracing())
		trace_vmx_exit(vmx);
}

/* hw_ops enter. */
static void vmx_enter(struct mkvm_vcpu *vcpu)
{
	struct vmx_vcpu *vmx = to_vmx(vcpu);

	if (!IS_ENABLED(MKVM_STANDALONE)) {
		enter_current(vcpu);
		return;
	}
	vmx->refused = 0;
	if (unlikely(vmx->vmcs_cpu != vcpu->cpu)) {
		enter_current(vcpu);	/* finds VMX off */
		return;
	}
	vmx->refused = vmx_window_open(vmx);
	if (unlikely(vmx->refused))
		return;
	enter_current(vcpu);
	vmx_window_close(vmx);
}

struct mkvm_hw_ops mkvm_vmx_ops = {
	.name = "Intel VMX",
	.ucode_rev = 1ull << 32,	/* as in Linux KVM */
	.soft_event_len = 2,		/* see vmx_inject */
	.tdp = {
		.table = VMX_EPT_RWX_MASK,
		.leaf = VMX_EPT_READABLE_MASK | VMX_EPT_EXECUTABLE_MASK |
			VMX_EPTP_MT_WB << VMX_EPT_MT_EPTE_SHIFT |
			VMX_EPT_IPAT_BIT | VMX_EPT_ACCESS_BIT | VMX_EPT_DIRTY_BIT,
		.huge = BIT(7),
		.present = VMX_EPT_RWX_MASK,
		.write = VMX_EPT_WRITABLE_MASK,
		.accessed = VMX_EPT_ACCESS_BIT,
	},
	.missing = vmx_missing,
	.tdp_five_levels = vmx_tdp_five_levels,
	.setup = vmx_setup,
	.teardown = vmx_teardown,
	.cpu_enable = vmx_cpu_enable,
	.cpu_disable = vmx_cpu_disable,
	.vcpu_create = vmx_vcpu_create,
	.vcpu_destroy = vmx_vcpu_destroy,
	.vcpu_reset = vmx_vcpu_reset,
	.vcpu_load = vmx_vcpu_load,
	.vcpu_put = vmx_vcpu_put,
	.enter = vmx_enter,
	.handle_exit = vmx_handle_exit,
	.last_exit = vmx_last_exit,
	.exit_info = vmx_exit_info,
	.get_mode = vmx_get_mode,
	.get_segment = vmx_get_segment,
	.set_segment = vmx_set_segment,
	.get_dt = vmx_get_dt,
	.set_dt = vmx_set_dt,
	.get_cr = vmx_get_cr,
	.set_cr = vmx_set_cr,
	.set_efer = vmx_set_efer,
	.guest_debug_changed = vmx_guest_debug_changed,
	.get_dr = vmx_get_dr,
	.set_dr = vmx_set_dr,
	.take_held_traps = vmx_take_held_traps,
	.get_msr = vmx_get_msr,
	.set_msr = vmx_set_msr,
	.tsc_offset_changed = vmx_tsc_offset_changed,
	.cpuid_changed = vmx_cpuid_changed,
	.msr_filter_changed = vmx_msr_filter_changed,
	.get_shadow = vmx_get_shadow,
	.set_shadow = vmx_set_shadow,
	.nmi_masked = vmx_nmi_masked,
	.set_nmi_masked = vmx_set_nmi_masked,
	.inject = vmx_inject,
	.open_window = vmx_open_window,
	.flush_tlb = vmx_flush_tlb,
	.set_tdp_root = vmx_set_tdp_root,
	.set_soft_tlb = vmx_set_soft_tlb,
	.use_root = vmx_use_root,
};
