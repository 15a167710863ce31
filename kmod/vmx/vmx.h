/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vmx.h - what the files of vmx/ share: a vCPU with its VMCS, the state of a CPU, and access to
 * the current VMCS.
 *
 * A VMCS can be read and written only where it is current: on the CPU on which vmx_vcpu_load
 * has loaded it, while VMX is enabled there.
 *
 * Manual: Intel SDM vol. 3, "Introduction to Virtual Machine Extensions" and the chapters after
 * it. Read next: vmx.c.
 */
#ifndef MKVM_VMX_H
#define MKVM_VMX_H

#include <asm/asm.h>
#include <asm/vmx.h>

#include "hw_ops.h"

#define VMX_NR_SYSCALL_MSRS	4

struct vmx_vcpu {
	struct mkvm_vcpu vcpu;
	void *vmcs, *vapic;		/* pages; of the virtual-APIC page TPR is used, and with apicv: */
	bool apicv;			/* the CPU delivers and ends the LAPIC's interrupts; as in the VMCS */
	u16 intr_status;		/* guest interrupt status, */
	u32 awaited_eois[8];		/* and the EOI-exit bitmap: as in the VMCS */
	bool msrs_exit;			/* those of direct_msrs do, too */
	int vmcs_cpu;			/* where the VMCS is active, -1: nowhere */
	struct list_head loaded;	/* in that CPU's list; that CPU only, interrupts off */
	bool launched;
	bool walks_read;		/* no accessed bits in EPT, so that walks count as reads */
	bool flush;			/* what the TLB holds of this guest is stale */
	bool pdptes_stale;		/* the VMCS's copy of the guest's, for PAE paging */
	int vpid;			/* 0: none */

	/* of the last exit */
	u32 exit_reason;		/* READ_ONCE by anybody */
	u32 intr_info;			/* of EXCEPTION_NMI */
	u32 entry_error;		/* VM-instruction error when no entry was tried, else 0 */

	u32 cpu_ctl;			/* primary processor-based controls as wanted, with MOV-DR exiting */
	u32 cpu_ctl_written;		/* as they are in the VMCS: see refresh_cpu_ctl */
	u32 shadow;			/* interruptibility state */
	bool stepping, step_had_tf;	/* TF is set behind the guest's back; it was set by the guest itself */
	u64 cr4_mask;			/* CR4 bits whose changes exit */
	u64 cr2, dr6;			/* the guest's; no field of the VMCS has them */
	bool debugged;			/* userspace's breakpoints are in the VMCS: */
	u64 guest_dr7;			/* the guest's DR7 is here */
	u64 syscall_msrs[VMX_NR_SYSCALL_MSRS];	/* STAR and its like; in the CPU while loaded */
	u64 kernel_gs_base;		/* while not loaded */

	/* the host's, which an exit or the guest's registers would destroy; while loaded */
	u16 host_ldt;				/* over one run of the guest */
	u16 host_ds, host_es, host_fs, host_gs;
	u64 host_fs_base, host_kernel_gs_base, host_debugctl, host_pebs;
	u64 host_cr3, host_cr4;		/* as they are in the VMCS */
};

struct vmx_cpu {
	bool on;
	void *vmxon;			/* region */
	struct list_head vcpus;		/* whose VMCS is active here; interrupts off */
	struct vmx_vcpu *current_vcpu;	/* whose VMCS is current */
	u64 tsc_aux, syscall_msrs[VMX_NR_SYSCALL_MSRS];	/* the host's */
};

DECLARE_PER_CPU(struct vmx_cpu, vmx_cpus);

/* What the CPU offers of what is used: caps.c. */
struct vmx_caps {
	u32 pin, cpu, cpu2, exit, entry;	/* controls as a VMCS starts with them */
	u32 apicv;				/* secondary controls, all or none */
	u32 ept;
	u32 revision;				/* of VMCS and VMXON region */
	u64 cr0_fixed;				/* CR0 bits that must be 1 */
};

extern struct vmx_caps vmx_caps;

static inline struct vmx_vcpu *to_vmx(struct mkvm_vcpu *vcpu)
{
	return container_of(vcpu, struct vmx_vcpu, vcpu);
}

bool vmx_moved_on(void);

/* Fields of the current VMCS. Where VMX was switched off a read gives 0 and a write is lost. */
static inline u64 vmx_read(unsigned long field)
{
	u64 val = 0;
	u32 done = 0;

	do {
		asm volatile("1: vmread %2, %0\n\tmovl $1, %1\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r"(val), "+r"(done) : "r"(field) : "cc");
	} while (unlikely(!done) && vmx_moved_on());
	return val;
}

static inline void vmx_write(unsigned long field, u64 val)
{
	u32 done = 0;

	do {
		asm volatile("1: vmwrite %1, %2\n\tmovl $1, %0\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r"(done) : "r"(val), "r"(field) : "cc", "memory");
	} while (unlikely(!done) && vmx_moved_on());
}

static inline void vmx_set_cpu_ctl(struct vmx_vcpu *vmx, u32 bits, bool on)
{
	vmx->cpu_ctl = on ? vmx->cpu_ctl | bits : vmx->cpu_ctl & ~bits;
}

/* CR0 bits that the guest sees as it set them, while the CPU has others. */
#define VMX_CR0_MASK	(X86_CR0_NE | X86_CR0_CD | X86_CR0_NW)

/* enter.S */
enum { VMX_ENTERED, VMX_FAILED, VMX_OFF };
int vmx_vmenter(u64 *regs, bool launched);
extern const char vmx_vmexit[];		/* where the CPU goes on after an exit */

/* caps.c */
const char *vmx_missing(void);

/* event.c */
void vmx_inject(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev);
void vmx_open_window(struct mkvm_vcpu *vcpu, bool irq, bool nmi);
void vmx_event_after_exit(struct vmx_vcpu *vmx);
void vmx_keep_nmi_mask(struct vmx_vcpu *vmx, u64 info);
void vmx_guest_debug_changed(struct mkvm_vcpu *vcpu);
void vmx_update_exceptions(struct vmx_vcpu *vmx);
void vmx_settle_shadow(struct vmx_vcpu *vmx);
void vmx_begin_step(struct vmx_vcpu *vmx);
void vmx_forget_step(void);
void vmx_end_step(struct vmx_vcpu *vmx);
u8 vmx_get_shadow(struct mkvm_vcpu *vcpu);
void vmx_set_shadow(struct mkvm_vcpu *vcpu, u8 shadow);
bool vmx_nmi_masked(struct mkvm_vcpu *vcpu);
void vmx_set_nmi_masked(struct mkvm_vcpu *vcpu, bool masked);

/* vmx.c */
extern uint vmx_stay;
bool vmx_may_apicv(struct mkvm_vcpu *vcpu);
void vmx_set_apicv(struct vmx_vcpu *vmx, bool on);

/* exit.c */
int vmx_handle_exit(struct mkvm_vcpu *vcpu);
const char *vmx_last_exit(struct mkvm_vcpu *vcpu);
void vmx_exit_info(struct mkvm_vcpu *vcpu, u64 *reason, u64 *info);

#endif
