/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hw_ops.h - the vendor contract: everything that common code needs from SVM or VMX.
 *
 * There is one const struct per vendor, and main.c chooses one of them; common code never tests
 * which. The thread that holds vcpu->mutex calls the operations on a vCPU with the vCPU loaded
 * (between vcpu_load and vcpu_put), unless a line says otherwise.
 *
 * Read next: svm/svm.c, vmx/vmx.c.
 */
#ifndef MKVM_HW_OPS_H
#define MKVM_HW_OPS_H

#include <asm/msr.h>

#include "mkvm.h"
#include "explain/testpoint.h"

/* How second-level page-table entries look. The four levels of 512 entries are common. */
struct mkvm_tdp_format {
	u64 table;		/* bits of an entry that points to a table */
	u64 leaf;		/* bits of any leaf */
	u64 huge;		/* bit of a leaf above the last level; 0: there shall be none */
	u64 present;		/* any of these bits: present */
	u64 write;
	u64 accessed;
};

struct mkvm_hw_ops {
	const char *name;
	struct mkvm_tdp_format tdp;
	u64 ucode_rev;		/* the microcode's, unless userspace sets another */
	u8 soft_event_len;	/* what an MKVM_EV_SOFT pushes is so many bytes behind RIP */

	/* Module: NULL, or the sentence that says what is missing. Called on a CPU that may be any. */
	const char *(*missing)(void);
	bool (*tdp_five_levels)(void);		/* the CPU walks second-level tables from a fifth level */
	int (*setup)(void);			/* may sleep */
	void (*teardown)(void);
	int (*cpu_enable)(void);		/* on each CPU, preemption off; -EBUSY: held by somebody else */
	void (*cpu_disable)(void);		/* on each CPU, interrupts off or on */

	/* A vCPU's life. create allocates the vendor's struct around it (may sleep, not loaded). */
	struct mkvm_vcpu *(*vcpu_create)(void);
	void (*vcpu_destroy)(struct mkvm_vcpu *vcpu);
	void (*vcpu_reset)(struct mkvm_vcpu *vcpu, bool init);	/* not loaded at creation */
	void (*vcpu_load)(struct mkvm_vcpu *vcpu, int cpu);	/* preemption off */
	void (*vcpu_put)(struct mkvm_vcpu *vcpu);		/* preemption off */

	/* Into the guest and back: interrupts off before and after. Fills regs, rip, rflags, event, next_rip. */
	void (*enter)(struct mkvm_vcpu *vcpu);
	/* Interrupts and preemption on; 1: enter again, 0: to userspace, or -errno. */
	int (*handle_exit)(struct mkvm_vcpu *vcpu);
	const char *(*last_exit)(struct mkvm_vcpu *vcpu);	/* its name; any context */
	/* The CPU's own words for the last exit: its reason, and the first that it says beside that. */
	void (*exit_info)(struct mkvm_vcpu *vcpu, u64 *reason, u64 *info);

	/* State that only the vendor's control block holds. cr: 0, 2, 3, 4; dr: 6, 7. */
	void (*get_mode)(struct mkvm_vcpu *vcpu, struct mkvm_mode *mode);
	void (*get_segment)(struct mkvm_vcpu *vcpu, int seg, struct kvm_segment *var);	/* up to MKVM_LDTR */
	void (*set_segment)(struct mkvm_vcpu *vcpu, int seg, const struct kvm_segment *var);
	void (*get_dt)(struct mkvm_vcpu *vcpu, bool idt, struct kvm_dtable *dt);
	void (*set_dt)(struct mkvm_vcpu *vcpu, bool idt, const struct kvm_dtable *dt);
	u64 (*get_cr)(struct mkvm_vcpu *vcpu, int cr);
	void (*set_cr)(struct mkvm_vcpu *vcpu, int cr, u64 val);	/* checked by the caller */
	void (*set_efer)(struct mkvm_vcpu *vcpu, u64 efer);		/* checked by the caller */
	void (*guest_debug_changed)(struct mkvm_vcpu *vcpu);		/* vcpu->debug */
	u64 (*get_dr)(struct mkvm_vcpu *vcpu, int dr);
	void (*set_dr)(struct mkvm_vcpu *vcpu, int dr, u64 val);
	u32 (*take_held_traps)(struct mkvm_vcpu *vcpu);	/* breakpoints, as in DR6, that MOV SS holds back */
	int (*get_msr)(struct mkvm_vcpu *vcpu, u32 index, u64 *val);	/* 1: not one of the vendor's */
	int (*set_msr)(struct mkvm_vcpu *vcpu, u32 index, u64 val);
	void (*tsc_offset_changed)(struct mkvm_vcpu *vcpu);
	void (*cpuid_changed)(struct mkvm_vcpu *vcpu);		/* vcpu->shown */
	void (*msr_filter_changed)(struct mkvm_vcpu *vcpu);	/* mkvm_msr_allowed answers anew; may sleep */

	/* Events. shadow: KVM_X86_SHADOW_INT_*. */
	u8 (*get_shadow)(struct mkvm_vcpu *vcpu);
	void (*set_shadow)(struct mkvm_vcpu *vcpu, u8 shadow);
	bool (*nmi_masked)(struct mkvm_vcpu *vcpu);
	void (*set_nmi_masked)(struct mkvm_vcpu *vcpu, bool masked);
	void (*inject)(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev);	/* or none, at the next entry */
	/* Leave the guest as soon as an interrupt (an NMI) could be taken. */
	void (*open_window)(struct mkvm_vcpu *vcpu, bool irq, bool nmi);

	void (*flush_tlb)(struct mkvm_vcpu *vcpu);	/* before the next entry; interrupts may be off */
	void (*set_tdp_root)(struct mkvm_vcpu *vcpu, u64 root_pa);	/* and flush_tlb */
	/*
	 * soft_tlb.c does the walks: the root of its space, kept in vcpu->soft_root; 0: the CPU does them again.
	 * And flush_tlb, but for what soft_tlb.c knows. NULL: is not done.
	 */
	void (*set_soft_tlb)(struct mkvm_vcpu *vcpu, u64 root_pa);
	/*
	 * Walk second-level tables from there, or, 0, from where the functions above say; and flush_tlb. step:
	 * leave the guest after one instruction, the next. False: cannot; nothing has changed.
	 */
	bool (*use_root)(struct mkvm_vcpu *vcpu, u64 root_pa, bool step);
	/* Have walks that set no bit count as reads from now on. False: they do, or cannot. NULL: they cannot. */
	bool (*walks_read)(struct mkvm_vcpu *vcpu);
};

enum { MKVM_TR = 6, MKVM_LDTR = 7 };

/*
 * mkvm_write_loaded - the guest's value of a register that the CPU has while the vCPU is loaded
 * @copy: the vCPU's, by which vcpu_load and vcpu_put tell whether guest and host differ
 *
 * Both change at once: a thread that is preempted between the two would leave the guest's value
 * to the host, or the host's to the guest. Context: vCPU loaded, preemption on or off.
 */
static inline void mkvm_write_loaded(u64 *copy, u32 index, u64 val)
{
	preempt_disable();
	*copy = val;
	mkvm_test_point(MKVM_POINT_LOADED_MSR);
	wrmsrl(index, val);
	preempt_enable();
}

/*
 * mkvm_restore_ldt - the host's LDTR, which an exit has made null, is again what it was
 * @sel: as SLDT gave it right before the entry, interrupts being off since then
 *
 * Not as it was when the vCPU was loaded: another thread of the program may call modify_ldt at
 * any time, and the IPI that loads the new table here, before the old one is freed, comes
 * between two entries.
 */
static inline void mkvm_restore_ldt(u16 sel)
{
	if (unlikely(sel))
		asm volatile("lldt %0" : : "rm"(sel));
}

extern const struct mkvm_hw_ops *mkvm_hw;	/* set once at load */
extern const struct mkvm_hw_ops mkvm_svm_ops;
extern struct mkvm_hw_ops mkvm_vmx_ops;		/* changed by its setup alone */

#endif
