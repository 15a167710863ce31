// SPDX-License-Identifier: GPL-2.0
/*
 * svm.c - implements AMD SVM: detection, enabling, a vCPU's VMCB and the state in it, guest entry.
 *
 * State: svm_cpus (per CPU: ASIDs, save areas), the permission maps that all vCPUs share,
 * struct svm_vcpu. Only the vCPU's thread writes the VMCB, while it is not in the guest.
 *
 * AMD APM vol. 2, "Secure Virtual Machine". Read next: exit.c, event.c, enter.S.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/msr.h>

#include "svm.h"
#include "mce.h"
#include "explain/testpoint.h"
#include "explain/trace.h"
#include "compat.h"

#define IOPM_ORDER	2	/* 12 KiB, rounded up */
#define MSRPM_SIZE	(2 * PAGE_SIZE)
#define MSRPM_ORDER	2	/* two maps: one allows direct_msrs, one intercepts every access */

DEFINE_PER_CPU(struct svm_cpu, svm_cpus);
static struct page *iopm, *msrpm;
static u32 max_asid;
static bool has_nrips, has_flush_by_asid;

/* ---- the module ---- */

static const char *svm_missing(void)
{
	u64 vm_cr;

	if (!boot_cpu_has(X86_FEATURE_SVM))
		return "this CPU does not have SVM (AMD-V), or the hypervisor that it runs under does not expose it";
	if (!(cpuid_edx(0x8000000a) & BIT(X86_FEATURE_NPT & 31)))
		return "this CPU's SVM does not have nested paging (NPT)";
	if (!rdmsrl_safe(MSR_VM_CR, &vm_cr) && (vm_cr & SVM_VM_CR_SVM_DIS_MASK))
		return "SVM is disabled by the firmware (MSR VM_CR.SVMDIS): enable it in the firmware's setup";
	return NULL;
}

/* MSRs that VMLOAD and VMSAVE switch: the guest accesses them directly. All others exit. */
static const u32 direct_msrs[] = {
	MSR_FS_BASE,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SYSCALL_MASK,
	MSR_IA32_SYSENTER_CS,
	MSR_IA32_SYSENTER_ESP,
	MSR_IA32_SYSENTER_EIP,
};

static void allow_msrs(u8 *map)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(direct_msrs); i++) {
		u32 bit = (direct_msrs[i] & 0x1fff) * 2 +
			  (direct_msrs[i] >= 0xc0000000 ? 0x800 * 8 : 0);

		map[bit / 8] &= ~(3 << (bit % 8));
	}
}

static void svm_teardown(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = &per_cpu(svm_cpus, cpu);

		free_page((unsigned long)c->hsave);
		free_page((unsigned long)c->host_save);
	}
	if (iopm)
		__free_pages(iopm, IOPM_ORDER);
	if (msrpm)
		__free_pages(msrpm, MSRPM_ORDER);
}

static int svm_setup(void)
{
	int cpu;

	BUILD_BUG_ON(sizeof(struct vmcb_control_area) != 0x400);
	BUILD_BUG_ON(offsetof(struct vmcb, save.rip) != 0x578);
	BUILD_BUG_ON(offsetof(struct vmcb, save.g_pat) != 0x668);
	BUILD_BUG_ON(SVM_TLB_KEEP != TLB_CONTROL_DO_NOTHING ||
		     SVM_TLB_FLUSH_ALL != TLB_CONTROL_FLUSH_ALL_ASID ||
		     SVM_TLB_FLUSH_ASID != TLB_CONTROL_FLUSH_ASID);

	max_asid = cpuid_ebx(0x8000000a) - 1;
	has_nrips = boot_cpu_has(X86_FEATURE_NRIPS);
	has_flush_by_asid = boot_cpu_has(X86_FEATURE_FLUSHBYASID);
	iopm = alloc_pages(GFP_KERNEL, IOPM_ORDER);
	msrpm = alloc_pages(GFP_KERNEL, MSRPM_ORDER);
	if (!iopm || !msrpm)
		goto nomem;
	memset(page_address(iopm), 0xff, PAGE_SIZE << IOPM_ORDER);
	memset(page_address(msrpm), 0xff, PAGE_SIZE << MSRPM_ORDER);
	allow_msrs(page_address(msrpm));
	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = &per_cpu(svm_cpus, cpu);

		c->hsave = (void *)get_zeroed_page(GFP_KERNEL);
		c->host_save = (void *)get_zeroed_page(GFP_KERNEL);
		if (!c->hsave || !c->host_save)
			goto nomem;
		c->host_save_pa = __pa(c->host_save);
	}
	return 0;
nomem:
	svm_teardown();
	return -ENOMEM;
}

/* Nested page tables have as many levels as the host's own: APM vol. 2, "Nested Paging". */
static bool svm_tdp_five_levels(void)
{
	return pgtable_l5_enabled();
}

static int svm_cpu_enable(void)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpus);
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	if (efer & EFER_SVME)
		return -EBUSY;
	wrmsrl(MSR_EFER, efer | EFER_SVME);
	wrmsrl(MSR_VM_HSAVE_PA, __pa(c->hsave));
	if (boot_cpu_has(X86_FEATURE_RDTSCP))
		rdmsrl(MSR_TSC_AUX, c->tsc_aux);
	svm_mce_cpu_enable();
	svm_asids_start(&c->asids, max_asid);
	c->last = NULL;
	return 0;
}

static void svm_cpu_disable(void)
{
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	if (!(efer & EFER_SVME))
		return;
	wrmsrl(MSR_VM_HSAVE_PA, 0);
	asm volatile("stgi");
	wrmsrl(MSR_EFER, efer & ~EFER_SVME);
}

/* ---- a vCPU's life ---- */

static struct mkvm_vcpu *svm_vcpu_create(void)
{
	struct svm_vcpu *svm = kzalloc(sizeof(*svm), GFP_KERNEL_ACCOUNT);

	if (!svm)
		return ERR_PTR(-ENOMEM);
	svm->vmcb = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!svm->vmcb) {
		kfree(svm);
		return ERR_PTR(-ENOMEM);
	}
	svm->vmcb_pa = __pa(svm->vmcb);
	return &svm->vcpu;
}

static void forget_last(void *last)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpus);

	if (c->last == last)
		c->last = NULL;
}

static void svm_vcpu_destroy(struct mkvm_vcpu *vcpu)
{
	struct svm_vcpu *svm = to_svm(vcpu);

	/* A later vCPU at the same address must not be mistaken for this one. */
	on_each_cpu(forget_last, svm, 1);
	free_page((unsigned long)svm->vmcb);
	kfree(svm);
}

/* Enabled breakpoints need the guest's DR0-3, whether or not it accesses the registers again. */
static void arm_breakpoints(struct svm_vcpu *svm)
{
	if (unlikely(svm->vmcb->save.dr7 & 0xff) && !svm->debugged)
		svm_dr_live(svm);
}

/* INVPCID exits if CPUID hides it, and while soft_tlb.c holds translations that it must drop. */
static void intercept_invpcid(struct svm_vcpu *svm)
{
	bool wanted = svm->vcpu.soft_tlb.root ||
		      !(svm->vcpu.guest_cpuid.shown & MKVM_SHOWN_INVPCID);

	if (boot_cpu_has(X86_FEATURE_INVPCID))
		svm_intercept(svm, INTERCEPT_INVPCID, wanted);
}

/* hw_ops cpuid_changed: makes instructions that CPUID hides raise #UD. */
static void svm_cpuid_changed(struct mkvm_vcpu *vcpu)
{
	struct svm_vcpu *svm = to_svm(vcpu);

	svm_intercept(svm, INTERCEPT_RDTSCP,
		      boot_cpu_has(X86_FEATURE_RDTSCP) &&
			      !(vcpu->guest_cpuid.shown & MKVM_SHOWN_RDTSCP));
	intercept_invpcid(svm);
}

static void set_intercepts(struct svm_vcpu *svm)
{
	static const u8 always[] = {
		INTERCEPT_CR4_WRITE, INTERCEPT_INTR,	INTERCEPT_NMI,	       INTERCEPT_SMI,
		INTERCEPT_INIT,	     INTERCEPT_RDPMC,	INTERCEPT_CPUID,       INTERCEPT_INVD,
		INTERCEPT_HLT,	     INTERCEPT_INVLPGA, INTERCEPT_IOIO_PROT,   INTERCEPT_MSR_PROT,
		INTERCEPT_SHUTDOWN,  INTERCEPT_VMRUN,	INTERCEPT_VMMCALL,     INTERCEPT_VMLOAD,
		INTERCEPT_VMSAVE,    INTERCEPT_STGI,	INTERCEPT_CLGI,	       INTERCEPT_SKINIT,
		INTERCEPT_WBINVD,    INTERCEPT_MONITOR, INTERCEPT_MWAIT,       INTERCEPT_XSETBV,
		INTERCEPT_RDPRU,     INTERCEPT_RSM,	INTERCEPT_TASK_SWITCH,
	};
	int i;

	memset(svm->vmcb->control.intercepts, 0, sizeof(svm->vmcb->control.intercepts));
	for (i = 0; i < ARRAY_SIZE(always); i++)
		svm_intercept(svm, always[i], true);
	if (svm->vcpu.vm->disabled_exits & KVM_X86_DISABLE_EXITS_HLT)
		svm_intercept(svm, INTERCEPT_HLT, false);
	if (svm->vcpu.vm->disabled_exits & KVM_X86_DISABLE_EXITS_MWAIT) {
		svm_intercept(svm, INTERCEPT_MONITOR, false);
		svm_intercept(svm, INTERCEPT_MWAIT, false);
	}
	svm->vmcb->control.intercepts[INTERCEPT_EXCEPTION] = svm_exceptions(svm);
	svm_dr_intercepts(svm, true);
	svm_cpuid_changed(&svm->vcpu);
}

/*
 * The guest runs with the host's CR4.MCE: if the bit were clear, a machine check would shut the CPU
 * down before the host could report it (APM vol. 2, "Machine-Check Exception"). Reads of CR4 exit
 * while the guest's own bit differs; writes always exit. QEMU's TCG checks the intercept of CR0
 * whichever register is read.
 */
static void set_cr4(struct svm_vcpu *svm, u64 val)
{
	u64 host_mce = __read_cr4() & X86_CR4_MCE;

	svm->cr4 = val;
	svm->vmcb->save.cr4 = val | host_mce;
	svm_intercept(svm, INTERCEPT_CR4_READ, host_mce & ~val);
	svm_intercept(svm, INTERCEPT_CR0_READ, (host_mce & ~val) && svm_on_tcg());
}

static void reset_segment(struct vmcb_seg *seg, u16 selector, u64 base, u16 attrib)
{
	seg->selector = selector;
	seg->base = base;
	seg->limit = 0xffff;
	seg->attrib = attrib;
}

static void reset_save_area(struct svm_vcpu *svm, bool init)
{
	struct vmcb_save_area *s = &svm->vmcb->save, old = *s;
	/* INIT preserves the cache bits: APM vol. 2, "Processor Initialization State". */
	u64 cache = init ? s->cr0 & (X86_CR0_CD | X86_CR0_NW) : X86_CR0_CD | X86_CR0_NW;

	memset(s, 0, sizeof(*s));
	reset_segment(&s->es, 0, 0, 0x93);
	reset_segment(&s->ss, 0, 0, 0x93);
	reset_segment(&s->ds, 0, 0, 0x93);
	reset_segment(&s->fs, 0, 0, 0x93);
	reset_segment(&s->gs, 0, 0, 0x93);
	reset_segment(&s->cs, 0xf000, 0xffff0000, 0x9b);
	reset_segment(&s->gdtr, 0, 0, 0);
	reset_segment(&s->idtr, 0, 0, 0);
	reset_segment(&s->ldtr, 0, 0, 0x82);
	reset_segment(&s->tr, 0, 0, 0x8b);
	s->efer = EFER_SVME;
	s->cr0 = X86_CR0_ET | cache;
	s->dr6 = DR6_RESERVED;
	s->dr7 = MKVM_DR7_FIXED;
	s->g_pat = svm->vcpu.msr.pat;
	if (!init)
		return;
	/* INIT preserves model-specific registers as well. */
	s->star = old.star;
	s->lstar = old.lstar;
	s->cstar = old.cstar;
	s->sfmask = old.sfmask;
	s->kernel_gs_base = old.kernel_gs_base;
	s->sysenter_cs = old.sysenter_cs;
	s->sysenter_esp = old.sysenter_esp;
	s->sysenter_eip = old.sysenter_eip;
}

static void svm_vcpu_reset(struct mkvm_vcpu *vcpu, bool init)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	struct vmcb_control_area *c = &svm->vmcb->control;

	reset_save_area(svm, init);
	memset(c, 0, sizeof(*c));
	vcpu->soft_tlb.root = 0;
	set_intercepts(svm);
	set_cr4(svm, 0);
	c->iopm_base_pa = __pa(page_address(iopm));
	c->msrpm_base_pa = __pa(page_address(msrpm));
	c->tsc_offset = vcpu->tsc.offset;
	c->int_ctl = V_INTR_MASKING_MASK;
	c->MKVM_VMCB_MISC_CTL = MKVM_VMCB_NP_ENABLE;
	c->nested_cr3 = vcpu->vm->tdp[vcpu->smm.active].root_pa;
	svm->asid.gen = 0;
	svm->nmi_masked = false;
	svm->in_iret = false;
	svm->step_wanted = false;
	svm->step_once = false;
	svm->stepping = false;
	svm->debugged = false;
	vcpu->dr_live = false;
	svm_guest_debug_changed(vcpu);
}

static void svm_vmsave(u64 pa)
{
	asm volatile("1: vmsave %%rax\n2:\n" _ASM_EXTABLE(1b, 2b)
		     :
		     : "a"(pa)
		     : "memory"); /* faults if SVM is off */
}

static void svm_vcpu_load(struct mkvm_vcpu *vcpu, int cpu)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpus);
	struct svm_vcpu *svm = to_svm(vcpu);

	svm_vmsave(c->host_save_pa);
	memset(&c->host_save->save.ldtr, 0,
	       sizeof(c->host_save->save.ldtr)); /* see mkvm_restore_ldt */
	if (vcpu->msr.tsc_aux != c->tsc_aux && boot_cpu_has(X86_FEATURE_RDTSCP))
		wrmsrl(MSR_TSC_AUX, vcpu->msr.tsc_aux);
	if (c->last != svm) {
		c->last = svm;
		indirect_branch_prediction_barrier();
	}
	arm_breakpoints(svm);
}

static void svm_vcpu_put(struct mkvm_vcpu *vcpu)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpus);

	if (vcpu->msr.tsc_aux != c->tsc_aux && boot_cpu_has(X86_FEATURE_RDTSCP))
		wrmsrl(MSR_TSC_AUX, c->tsc_aux);
	if (vcpu->dr_live) {
		vcpu->dr_live = false;
		svm_dr_intercepts(to_svm(vcpu), true);
	}
	mkvm_guard_userspace();
}

/* ---- guest entry ---- */

static void svm_flush_tlb(struct mkvm_vcpu *vcpu)
{
	if (unlikely(vcpu->soft_tlb.root))
		mkvm_soft_flush(vcpu);
	to_svm(vcpu)->asid.flush = true;
}

/*
 * hw_ops set_soft_tlb: while the mode is on, whatever changes the guest's paging or drops
 * translations causes an exit. Writes of CR4 and EFER, and task switches, always do.
 */
static void svm_set_soft_tlb(struct mkvm_vcpu *vcpu, u64 root_pa)
{
	struct svm_vcpu *svm = to_svm(vcpu);
	struct vmcb_control_area *c = &svm->vmcb->control;
	bool on = root_pa;

	vcpu->soft_tlb.root = root_pa;
	c->nested_cr3 = on ? root_pa : vcpu->vm->tdp[vcpu->smm.active].root_pa;
	svm_intercept(svm, INTERCEPT_SELECTIVE_CR0, on);
	svm_intercept(svm, INTERCEPT_CR3_WRITE, on);
	svm_intercept(svm, INTERCEPT_INVLPG, on);
	intercept_invpcid(svm);
	c->intercepts[INTERCEPT_EXCEPTION] = svm_exceptions(svm);
	svm->asid.flush = true;
}

/* The guest's paging changes: the CPU may be able to walk its tables again. */
static void end_soft_tlb(struct mkvm_vcpu *vcpu)
{
	if (unlikely(vcpu->soft_tlb.root))
		svm_set_soft_tlb(vcpu, 0);
}

/* hw_ops use_root: changes the second-level root; step: execute only one instruction. */
static bool svm_use_root(struct mkvm_vcpu *vcpu, u64 root_pa, bool step)
{
	struct svm_vcpu *svm = to_svm(vcpu);

	if (!root_pa)
		root_pa = vcpu->soft_tlb.root ?: vcpu->vm->tdp[vcpu->smm.active].root_pa;
	svm->vmcb->control.nested_cr3 = root_pa;
	svm->step_once = step;
	svm->asid.flush = true;
	return true;
}

static void svm_set_tdp_root(struct mkvm_vcpu *vcpu, u64 root_pa)
{
	end_soft_tlb(vcpu);
	to_svm(vcpu)->vmcb->control.nested_cr3 = root_pa;
	svm_flush_tlb(vcpu);
}

/* hw_ops last_exit. */
static const char *svm_last_exit(struct mkvm_vcpu *vcpu)
{
	static const struct {
		u64 code;		/* only its lower half: an error is -1 of 32 or 64 bits */
		const char *name;
	} names[] = { SVM_EXIT_REASONS };
	static u8 found[256];	/* index in names, by low byte; races are harmless */
	u32 code = READ_ONCE(to_svm(vcpu)->vmcb->control.exit_code);
	unsigned int i = READ_ONCE(found[code & 0xff]);

	static_assert(ARRAY_SIZE(names) <= 256);
	if ((u32)names[i].code == code)
		return names[i].name;
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if ((u32)names[i].code == code) {
			WRITE_ONCE(found[code & 0xff], i);
			return names[i].name;
		}
	}
	return "unknown";
}

/* hw_ops exit_info. */
static void svm_exit_info(struct mkvm_vcpu *vcpu, u64 *reason, u64 *info)
{
	*reason = to_svm(vcpu)->vmcb->control.exit_code;
	*info = to_svm(vcpu)->vmcb->control.exit_info_1;
}

static void trace_svm_exit(struct svm_vcpu *svm)
{
	const struct vmcb_control_area *c = &svm->vmcb->control;

	svm->vcpu.ids.went_in = true;
	trace_exit(&svm->vcpu, svm_last_exit(&svm->vcpu), c->exit_code, c->exit_info_1,
		   c->exit_info_2, c->exit_int_info & SVM_EXITINTINFO_VALID ? c->exit_int_info : 0);
}

/*
 * Bochs does not see a virtual interrupt before IF changes in the guest. Returns true for a window
 * that is open, or that only a shadow still closes.
 */
static bool bochs_sees_no_window(const struct svm_vcpu *svm)
{
	const struct vmcb_control_area *c = &svm->vmcb->control;

	return (c->int_ctl & V_IRQ_MASK) && (svm->vcpu.rflags & X86_EFLAGS_IF) &&
	       !(c->event_inj & SVM_EVTINJ_VALID);
}

/* Copies the vCPU's registers to the VMCB. window: see bochs_sees_no_window. */
static void before_entry(struct svm_vcpu *svm, struct svm_cpu *c, bool window)
{
	struct mkvm_vcpu *vcpu = &svm->vcpu;
	struct vmcb *vmcb = svm->vmcb;

	vmcb->control.tlb_ctl = svm_asid_enter(&svm->asid, &c->asids, vcpu->cpu, has_flush_by_asid);
	/* The CPU refuses ASID 0, the host's. */
	vmcb->control.asid = mkvm_test_refuse(vmcb->control.tlb_ctl) ? 0 : svm->asid.asid;
	vmcb->save.rax = vcpu->regs[MKVM_RAX];
	vmcb->save.rsp = vcpu->regs[MKVM_RSP];
	vmcb->save.rip = vcpu->rip;
	vmcb->save.rflags = vcpu->rflags;
	if (unlikely(svm->step_wanted || svm->step_once || window ||
		     (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP)) && !vcpu->ev.exit_soon)
		svm_begin_step(svm);
	if (unlikely(svm_bochs))	/* its VMRUN does not load CR2 */
		native_write_cr2(vmcb->save.cr2);
}

/* hw_ops enter. */
static void svm_enter(struct mkvm_vcpu *vcpu)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpus);
	struct svm_vcpu *svm = to_svm(vcpu);
	struct vmcb *vmcb = svm->vmcb;
	u8 cr8 = mkvm_get_cr8(vcpu), new_cr8;
	bool window = unlikely(svm_bochs) && bochs_sees_no_window(svm);
	bool moved;
	u16 ldt;

	if (unlikely(window) && !svm_get_shadow(vcpu)) {
		vmcb->control.exit_code = SVM_EXIT_VINTR;
		return;
	}
	before_entry(svm, c, window);
	vmcb->control.int_ctl = (vmcb->control.int_ctl & ~V_TPR_MASK) | cr8;

	store_ldt(ldt);
	if (unlikely(svm_vmrun(svm->vmcb_pa, vcpu->regs, c->host_save_pa))) {
		/* SVM is off: the machine reboots, or this CPU goes offline. */
		svm_asid_refused(&svm->asid, &c->asids);
		vmcb->control.exit_code = SVM_EXIT_INTR;
		return;
	}
	if (unlikely((u32)vmcb->control.exit_code == (u32)SVM_EXIT_ERR))
		svm_asid_refused(&svm->asid, &c->asids);

	mkvm_restore_ldt(ldt);
	/* A machine check is the host's, and must be handled on the CPU that raised it. */
	if (unlikely(vmcb->control.exit_code == SVM_EXIT_EXCP_BASE + X86_TRAP_MC))
		svm_machine_check(svm);
	vcpu->regs[MKVM_RAX] = vmcb->save.rax;
	vcpu->regs[MKVM_RSP] = vmcb->save.rsp;
	moved = vcpu->rip != vmcb->save.rip;
	vcpu->rip = vmcb->save.rip;
	vcpu->rflags = vmcb->save.rflags;
	vcpu->insn.next_rip = has_nrips ? vmcb->control.next_rip : 0;
	vmcb->control.event_inj = 0;
	new_cr8 = vmcb->control.int_ctl & V_TPR_MASK;
	if (unlikely(new_cr8 != cr8))
		mkvm_set_cr8(vcpu, new_cr8);
	vcpu->ev.vectoring = 0;
	if (unlikely(vmcb->control.exit_int_info & SVM_EXITINTINFO_VALID))
		svm_event_after_exit(svm, moved);
	else
		vcpu->ev.delivering.type = MKVM_EV_NONE;
	if (mkvm_tracing())
		trace_svm_exit(svm);
	svm->step_trap = false;
	if (unlikely(svm->stepping))
		svm_end_step(svm, vmcb->control.exit_code);
	if (unlikely(svm->in_iret) && vcpu->rip != svm->iret_rip) {
		svm->in_iret = false;
		svm->nmi_masked = false;
	}
}

/* ---- state in the VMCB ---- */

static struct vmcb_seg *segment(struct vmcb_save_area *s, int seg)
{
	switch (seg) {
	case MKVM_ES: return &s->es;
	case MKVM_CS: return &s->cs;
	case MKVM_SS: return &s->ss;
	case MKVM_DS: return &s->ds;
	case MKVM_FS: return &s->fs;
	case MKVM_GS: return &s->gs;
	case MKVM_TR: return &s->tr;
	default: return &s->ldtr;
	}
}

static void svm_get_mode(struct mkvm_vcpu *vcpu, struct mkvm_mode *mode)
{
	const struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;

	mode->cr0 = s->cr0;
	mode->cr3 = s->cr3;
	mode->cr4 = to_svm(vcpu)->cr4;
	mode->efer = s->efer & ~EFER_SVME;
	mode->cpl = s->cpl;
	mode->cs_l = s->cs.attrib & SVM_SELECTOR_L_MASK;
	mode->cs_db = s->cs.attrib & SVM_SELECTOR_DB_MASK;
}

static void svm_get_segment(struct mkvm_vcpu *vcpu, int seg, struct kvm_segment *var)
{
	const struct vmcb_seg *s = segment(&to_svm(vcpu)->vmcb->save, seg);

	*var = (struct kvm_segment) {
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attrib & SVM_SELECTOR_TYPE_MASK,
		.s = !!(s->attrib & SVM_SELECTOR_S_MASK),
		.dpl = (s->attrib >> SVM_SELECTOR_DPL_SHIFT) & 3,
		.present = !!(s->attrib & SVM_SELECTOR_P_MASK),
		.avl = !!(s->attrib & SVM_SELECTOR_AVL_MASK),
		.l = !!(s->attrib & SVM_SELECTOR_L_MASK),
		.db = !!(s->attrib & SVM_SELECTOR_DB_MASK),
		.g = !!(s->attrib & SVM_SELECTOR_G_MASK),
	};
	var->unusable = !var->present;
	if (seg == MKVM_TR)
		var->type |= 2; /* a loaded TSS is busy, but some CPUs do not store the bit */
	if (seg == MKVM_SS)
		var->dpl = to_svm(vcpu)->vmcb->save.cpl;
}

static void svm_set_segment(struct mkvm_vcpu *vcpu, int seg, const struct kvm_segment *var)
{
	struct vmcb_save_area *save = &to_svm(vcpu)->vmcb->save;
	struct vmcb_seg *s = segment(save, seg);

	s->base = var->base;
	s->limit = var->limit;
	s->selector = var->selector;
	s->attrib = (var->type & SVM_SELECTOR_TYPE_MASK) |
		    (var->s & 1) << SVM_SELECTOR_S_SHIFT |
		    (var->dpl & 3) << SVM_SELECTOR_DPL_SHIFT |
		    ((var->present & 1) && !var->unusable) << SVM_SELECTOR_P_SHIFT |
		    (var->avl & 1) << SVM_SELECTOR_AVL_SHIFT |
		    (var->l & 1) << SVM_SELECTOR_L_SHIFT |
		    (var->db & 1) << SVM_SELECTOR_DB_SHIFT |
		    (var->g & 1) << SVM_SELECTOR_G_SHIFT;
	if (seg == MKVM_SS)
		save->cpl = var->dpl & 3;
}

static void svm_get_dt(struct mkvm_vcpu *vcpu, bool idt, struct kvm_dtable *dt)
{
	struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;
	const struct vmcb_seg *t = idt ? &s->idtr : &s->gdtr;

	*dt = (struct kvm_dtable) { .base = t->base, .limit = t->limit };
}

static void svm_set_dt(struct mkvm_vcpu *vcpu, bool idt, const struct kvm_dtable *dt)
{
	struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;
	struct vmcb_seg *t = idt ? &s->idtr : &s->gdtr;

	t->base = dt->base;
	t->limit = dt->limit;
}

static u64 svm_get_cr(struct mkvm_vcpu *vcpu, int cr)
{
	const struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;

	switch (cr) {
	case 0: return s->cr0;
	case 2: return s->cr2;
	case 3: return s->cr3;
	default: return to_svm(vcpu)->cr4;
	}
}

static void svm_set_cr(struct mkvm_vcpu *vcpu, int cr, u64 val)
{
	struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;

	if (cr != 2)
		end_soft_tlb(vcpu);
	switch (cr) {
	case 0:
		s->cr0 = val | X86_CR0_ET;
		break;
	case 2:
		s->cr2 = val;
		break;
	case 3:
		s->cr3 = val;
		break;
	default:
		set_cr4(to_svm(vcpu), val);
	}
}

static void svm_set_efer(struct mkvm_vcpu *vcpu, u64 efer)
{
	end_soft_tlb(vcpu);
	to_svm(vcpu)->vmcb->save.efer = efer | EFER_SVME;
}

static u64 svm_get_dr(struct mkvm_vcpu *vcpu, int dr)
{
	const struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;

	if (dr == 6)
		return s->dr6;
	return to_svm(vcpu)->debugged ? to_svm(vcpu)->guest_dr7 : s->dr7;
}

static void svm_set_dr(struct mkvm_vcpu *vcpu, int dr, u64 val)
{
	struct vmcb_save_area *s = &to_svm(vcpu)->vmcb->save;

	if (dr == 6)
		s->dr6 = to_svm(vcpu)->guest_dr6 = val;
	else if (to_svm(vcpu)->debugged)
		to_svm(vcpu)->guest_dr7 = val;
	else
		s->dr7 = val;
	arm_breakpoints(to_svm(vcpu));
}

/* hw_ops take_held_traps: none, as the VMCB cannot hold pending debug exceptions. */
static u32 svm_take_held_traps(struct mkvm_vcpu *vcpu)
{
	return 0;
}

/* Returns the VMCB's field for an MSR, or NULL. *address: it must hold a canonical address. */
static u64 *msr_field(struct vmcb_save_area *s, u32 index, bool *address)
{
	*address = false;
	switch (index) {
	case MSR_STAR: return &s->star;
	case MSR_SYSCALL_MASK: return &s->sfmask;
	case MSR_IA32_SYSENTER_CS: return &s->sysenter_cs;
	}
	*address = true;
	switch (index) {
	case MSR_LSTAR: return &s->lstar;
	case MSR_CSTAR: return &s->cstar;
	case MSR_KERNEL_GS_BASE: return &s->kernel_gs_base;
	case MSR_FS_BASE: return &s->fs.base;
	case MSR_GS_BASE: return &s->gs.base;
	case MSR_IA32_SYSENTER_ESP: return &s->sysenter_esp;
	case MSR_IA32_SYSENTER_EIP: return &s->sysenter_eip;
	default: return NULL;
	}
}

static int svm_get_msr(struct mkvm_vcpu *vcpu, u32 index, u64 *val)
{
	bool address;
	u64 *field = msr_field(&to_svm(vcpu)->vmcb->save, index, &address);

	if (!field)
		return 1;
	*val = *field;
	return 0;
}

static int svm_set_msr(struct mkvm_vcpu *vcpu, u32 index, u64 val)
{
	bool address;
	u64 *field;

	if (index == MSR_IA32_CR_PAT) {
		to_svm(vcpu)->vmcb->save.g_pat = val;
		return 0;
	}
	if (index == MSR_TSC_AUX) {
		if (!boot_cpu_has(X86_FEATURE_RDTSCP))
			return 1;
		mkvm_write_loaded(&vcpu->msr.tsc_aux, index, val);
		return 0;
	}
	field = msr_field(&to_svm(vcpu)->vmcb->save, index, &address);
	if (!field || (address && !__is_canonical_address(val, 48)))
		return 1;
	*field = val;
	return 0;
}

static void svm_tsc_offset_changed(struct mkvm_vcpu *vcpu)
{
	to_svm(vcpu)->vmcb->control.tsc_offset = vcpu->tsc.offset;
}

/* hw_ops msr_filter_changed: if the filter denies any of the direct MSRs, all of them exit. */
static void svm_msr_filter_changed(struct mkvm_vcpu *vcpu)
{
	bool direct = mkvm_msrs_allowed(vcpu, direct_msrs, ARRAY_SIZE(direct_msrs));

	to_svm(vcpu)->vmcb->control.msrpm_base_pa =
		__pa(page_address(msrpm)) + (direct ? 0 : MSRPM_SIZE);
}

const struct mkvm_hw_ops mkvm_svm_ops = {
	.name = "AMD SVM",
	.ucode_rev = 0x01000065,	/* as in Linux KVM */
	.tdp = {
		.table = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED,
		.leaf = _PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY,
		.huge = _PAGE_PSE,
		.present = _PAGE_PRESENT,
		.write = _PAGE_RW,
		.accessed = _PAGE_ACCESSED,
	},
	.missing = svm_missing,
	.tdp_five_levels = svm_tdp_five_levels,
	.setup = svm_setup,
	.teardown = svm_teardown,
	.cpu_enable = svm_cpu_enable,
	.cpu_disable = svm_cpu_disable,
	.vcpu_create = svm_vcpu_create,
	.vcpu_destroy = svm_vcpu_destroy,
	.vcpu_reset = svm_vcpu_reset,
	.vcpu_load = svm_vcpu_load,
	.vcpu_put = svm_vcpu_put,
	.enter = svm_enter,
	.handle_exit = svm_handle_exit,
	.last_exit = svm_last_exit,
	.exit_info = svm_exit_info,
	.get_mode = svm_get_mode,
	.get_segment = svm_get_segment,
	.set_segment = svm_set_segment,
	.get_dt = svm_get_dt,
	.set_dt = svm_set_dt,
	.get_cr = svm_get_cr,
	.set_cr = svm_set_cr,
	.set_efer = svm_set_efer,
	.guest_debug_changed = svm_guest_debug_changed,
	.get_dr = svm_get_dr,
	.set_dr = svm_set_dr,
	.take_held_traps = svm_take_held_traps,
	.get_msr = svm_get_msr,
	.set_msr = svm_set_msr,
	.tsc_offset_changed = svm_tsc_offset_changed,
	.cpuid_changed = svm_cpuid_changed,
	.msr_filter_changed = svm_msr_filter_changed,
	.get_shadow = svm_get_shadow,
	.set_shadow = svm_set_shadow,
	.nmi_masked = svm_nmi_masked,
	.set_nmi_masked = svm_set_nmi_masked,
	.inject = svm_inject,
	.open_window = svm_open_window,
	.flush_tlb = svm_flush_tlb,
	.set_tdp_root = svm_set_tdp_root,
	.set_soft_tlb = svm_set_soft_tlb,
	.use_root = svm_use_root,
};
