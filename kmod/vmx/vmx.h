/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vmx.h - definitions shared by the files of vmx/: a vCPU with its VMCS, the state of a CPU, and
 * access to the current VMCS.
 *
 * A VMCS can be read and written only while it is current: on the CPU on which vmx_vcpu_load has
 * loaded it, while VMX is enabled there. On kernels that do not let mkvm keep VMX enabled the
 * accesses below go to a copy (window.h).
 *
 * Manual: Intel SDM vol. 3, "Introduction to Virtual Machine Extensions" and the chapters after
 * it. Read next: vmx.c.
 */
#ifndef MKVM_VMX_H
#define MKVM_VMX_H

#include <asm/asm.h>
#include <asm/vmx.h>

#include "hw_ops.h"
#include "window.h"

#define VMX_NR_SYSCALL_MSRS	4

struct vmx_vcpu {
	struct mkvm_vcpu vcpu;
	void *vmcs, *apic_page; /* the VMCS; the virtual-APIC page (only TPR without apicv) */
	bool apicv;			/* the CPU delivers and ends the LAPIC's interrupts */
	u16 intr_status;		/* copies of the VMCS's guest interrupt status */
	u32 awaited_eois[8];		/* and of its EOI-exit bitmap */
	bool msrs_exit;			/* direct_msrs exit as well */
	int vmcs_cpu;			/* the CPU on which the VMCS is active; -1: none */
	struct list_head loaded;	/* in that CPU's list; accessed there, interrupts off */
	bool launched;
	bool flush;			/* the TLB may hold stale entries of this guest */
	bool pdptes_stale;		/* the VMCS's PDPTEs for PAE paging are out of date */
	int vpid;			/* 0: none */
	struct vmx_copy *copy;		/* of the VMCS's fields, see window.h; else NULL */

	/* of the last exit */
	u32 exit_reason;		/* READ_ONCE by anybody */
	u32 intr_info;			/* of EXCEPTION_NMI */
	u32 entry_error;		/* VM-instruction error if the entry failed, else 0 */
	int refused;			/* why VMX operation could not be entered, -errno; or 0 */

	u32 cpu_ctl;			/* wanted primary controls, with MOV-DR exiting */
	u32 cpu_ctl_written;		/* those in the VMCS: see refresh_cpu_ctl */
	u32 shadow;			/* interruptibility state */
	bool stepping, step_had_tf;	/* TF is set for a step; the guest had set it itself */
	u64 cr0_mask, cr4_mask;		/* bits of CR0 and CR4 whose changes exit */
	u64 cr2, dr6;			/* the guest's; the VMCS has no field for them */
	bool debugged;			/* the VMCS has userspace's breakpoints, */
	u64 guest_dr7;			/* and the guest's DR7 is here */
	u64 syscall_msrs[VMX_NR_SYSCALL_MSRS];	/* STAR to SFMASK; in the CPU while loaded */
	u64 kernel_gs_base;		/* valid while not loaded */

	/* the host's values that an exit or the guest's registers destroy; valid while loaded */
	u16 host_ldt;				/* valid during one entry only */
	u16 host_ds, host_es, host_fs, host_gs;
	u64 host_fs_base, host_kernel_gs_base, host_debugctl, host_pebs;
	u64 host_cr3, host_cr4;		/* those in the VMCS */
};

struct vmx_cpu {
	bool on;			/* VMX may be used */
	bool inside;			/* in a window, see window.h; interrupts off */
	struct vmx_copy *copy;		/* the loaded vCPU's, see window.h */
	void *vmxon;			/* region */
	struct list_head vcpus;		/* those whose VMCS is active here; interrupts off */
	struct vmx_vcpu *current_vcpu;	/* the one whose VMCS is current */
	u64 tsc_aux, syscall_msrs[VMX_NR_SYSCALL_MSRS];	/* the host's */
};

DECLARE_PER_CPU(struct vmx_cpu, vmx_cpus);

/* The capabilities in use, negotiated by caps.c. */
struct vmx_caps {
	u32 pin, cpu, cpu2, exit, entry;	/* initial controls of a VMCS */
	u32 apicv;				/* secondary controls for APICv: all or none */
	u32 ept;
	u32 revision;				/* of VMCSs and VMXON regions */
	u64 cr0_fixed;				/* CR0 bits that must be 1 */
};

extern struct vmx_caps vmx_caps;

static inline struct vmx_vcpu *to_vmx(struct mkvm_vcpu *vcpu)
{
	return container_of(vcpu, struct vmx_vcpu, vcpu);
}

bool vmx_moved_on(void);

/*
 * Instructions on a VMCS or on VMX operation, by physical address. They have no effect if VMX is
 * off. Context: preemption off.
 */
static inline void vmclear(u64 pa)
{
	asm volatile("1: vmclear %0\n2:\n" _ASM_EXTABLE(1b, 2b) : : "m"(pa) : "cc", "memory");
}

static inline void vmptrld(u64 pa)
{
	asm volatile("1: vmptrld %0\n2:\n" _ASM_EXTABLE(1b, 2b) : : "m"(pa) : "cc", "memory");
}

/* Return: whether the CPU is in VMX operation now. */
static inline bool vmxon(u64 pa)
{
	bool failed = true;

	asm volatile("1: vmxon %1\n\tsetbe %0\n2:\n" _ASM_EXTABLE(1b, 2b)
		     : "+q"(failed) : "m"(pa) : "cc", "memory");
	return !failed;
}

static inline void vmxoff(void)
{
	asm volatile("1: vmxoff\n2:\n" _ASM_EXTABLE(1b, 2b) : : : "cc", "memory");
}

/* Access fields of the current VMCS. If VMX is off, reads return 0 and writes are dropped. */
static inline u64 vmx_read(unsigned long field)
{
	u64 val = 0;
	u32 done = 0;

	if (IS_ENABLED(MKVM_STANDALONE))
		return vmx_copy_read(field);
	do {
		asm volatile("1: vmread %2, %0\n\tmovl $1, %1\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r"(val), "+r"(done) : "r"(field) : "cc");
	} while (unlikely(!done) && vmx_moved_on());
	return val;
}

static inline void vmx_write(unsigned long field, u64 val)
{
	u32 done = 0;

	if (IS_ENABLED(MKVM_STANDALONE)) {
		vmx_copy_write(field, val);
		return;
	}
	do {
		asm volatile("1: vmwrite %1, %2\n\tmovl $1, %0\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r"(done) : "r"(val), "r"(field) : "cc", "memory");
	} while (unlikely(!done) && vmx_moved_on());
}

static inline void vmx_set_cpu_ctl(struct vmx_vcpu *vmx, u32 bits, bool on)
{
	vmx->cpu_ctl = on ? vmx->cpu_ctl | bits : vmx->cpu_ctl & ~bits;
}

/* CR0 bits that the guest reads as it set them, while the CPU's own may differ. */
#define VMX_CR0_MASK	(X86_CR0_NE | X86_CR0_CD | X86_CR0_NW)

/* enter.S */
enum { VMX_ENTERED, VMX_FAILED, VMX_OFF };
int vmx_vmenter(u64 *regs, bool launched);
extern const char vmx_vmexit[];		/* where the CPU continues after an exit */

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
