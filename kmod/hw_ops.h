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
#include "compat.h"
#include "explain/testpoint.h"

/* The format of second-level page-table entries. Both vendors have four levels of 512 entries. */
struct mkvm_tdp_format {
	u64 table;		/* bits of an entry that points to a table */
	u64 leaf;		/* bits of any leaf */
	u64 huge;		/* bit of a leaf above the last level; 0: no such leaves are made */
	u64 present;		/* an entry with any of these bits is present */
	u64 write;		/* bit that allows writes */
	u64 accessed;		/* bit that the CPU sets when it uses a leaf */
};

struct mkvm_hw_ops {
	const char *name;
	struct mkvm_tdp_format tdp;
	u64 ucode_rev;		/* initial value of IA32_UCODE_REV */
	u8 soft_event_len;	/* INT n: bytes from RIP to the return address that is pushed */

	/* Module: NULL, or a sentence that names what the host lacks. May be called on any CPU. */
	const char *(*missing)(void);
	bool (*tdp_five_levels)(void);		/* second-level walks have a fifth level */
	int (*setup)(void);			/* may sleep */
	void (*teardown)(void);
	int (*cpu_enable)(void);		/* on each CPU, preemption off; -EBUSY: in use */
	void (*cpu_disable)(void);		/* on each CPU; interrupts may be off */

	/*
	 * A vCPU's life. vcpu_create allocates the vendor's struct, in which struct mkvm_vcpu is
	 * embedded; create and destroy may sleep, with the vCPU not loaded.
	 */
	struct mkvm_vcpu *(*vcpu_create)(void);
	void (*vcpu_destroy)(struct mkvm_vcpu *vcpu);
	void (*vcpu_reset)(struct mkvm_vcpu *vcpu, bool init);	/* not loaded at creation */
	void (*vcpu_load)(struct mkvm_vcpu *vcpu, int cpu);	/* preemption off */
	void (*vcpu_put)(struct mkvm_vcpu *vcpu);		/* preemption off */

	/*
	 * Runs the guest until its next exit. Interrupts are off before and after. Fills regs, rip,
	 * rflags, event and next_rip.
	 */
	void (*enter)(struct mkvm_vcpu *vcpu);
	/*
	 * Handles the last exit. Interrupts and preemption are on; may sleep. Returns 1 to enter
	 * the guest again, 0 to exit to userspace, or -errno.
	 */
	int (*handle_exit)(struct mkvm_vcpu *vcpu);
	const char *(*last_exit)(struct mkvm_vcpu *vcpu);	/* its name; any context */
	/* The last exit in the CPU's encoding: its reason and the first word of its description. */
	void (*exit_info)(struct mkvm_vcpu *vcpu, u64 *reason, u64 *info);

	/*
	 * State that only the vendor's control block holds. cr is 0, 2, 3 or 4, dr is 6 or 7, seg
	 * is a segment register's number up to MKVM_LDTR. Callers of set_cr and set_efer have
	 * checked the value.
	 */
	void (*get_mode)(struct mkvm_vcpu *vcpu, struct mkvm_mode *mode);
	void (*get_segment)(struct mkvm_vcpu *vcpu, int seg, struct kvm_segment *var);
	void (*set_segment)(struct mkvm_vcpu *vcpu, int seg, const struct kvm_segment *var);
	void (*get_dt)(struct mkvm_vcpu *vcpu, bool idt, struct kvm_dtable *dt);
	void (*set_dt)(struct mkvm_vcpu *vcpu, bool idt, const struct kvm_dtable *dt);
	u64 (*get_cr)(struct mkvm_vcpu *vcpu, int cr);
	void (*set_cr)(struct mkvm_vcpu *vcpu, int cr, u64 val);
	void (*set_efer)(struct mkvm_vcpu *vcpu, u64 efer);
	void (*guest_debug_changed)(struct mkvm_vcpu *vcpu);		/* applies vcpu->debug */
	u64 (*get_dr)(struct mkvm_vcpu *vcpu, int dr);
	void (*set_dr)(struct mkvm_vcpu *vcpu, int dr, u64 val);
	/* Returns, as bits of DR6, the breakpoints that MOV SS holds back, and forgets them. */
	u32 (*take_held_traps)(struct mkvm_vcpu *vcpu);
	/* Registers that the CPU itself switches. Return: 0, or 1 for any other MSR. */
	int (*get_msr)(struct mkvm_vcpu *vcpu, u32 index, u64 *val);
	int (*set_msr)(struct mkvm_vcpu *vcpu, u32 index, u64 val);
	void (*tsc_offset_changed)(struct mkvm_vcpu *vcpu);	/* applies vcpu->tsc.offset */
	void (*cpuid_changed)(struct mkvm_vcpu *vcpu); /* applies vcpu->guest_cpuid.shown */
	/* Asks mkvm_msr_allowed again which MSRs need no exit. May sleep. */
	void (*msr_filter_changed)(struct mkvm_vcpu *vcpu);

	/* Events. shadow is a set of KVM_X86_SHADOW_INT_*. */
	u8 (*get_shadow)(struct mkvm_vcpu *vcpu);
	void (*set_shadow)(struct mkvm_vcpu *vcpu, u8 shadow);
	bool (*nmi_masked)(struct mkvm_vcpu *vcpu);
	void (*set_nmi_masked)(struct mkvm_vcpu *vcpu, bool masked);
	/* Has the next entry inject the event, or nothing if its type is MKVM_EV_NONE. */
	void (*inject)(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev);
	/*
	 * Makes the guest exit as soon as an interrupt or an NMI could be taken; false: does not.
	 */
	void (*open_window)(struct mkvm_vcpu *vcpu, bool irq, bool nmi);

	/* Has the next entry flush the guest's TLB entries. Interrupts may be off. */
	void (*flush_tlb)(struct mkvm_vcpu *vcpu);
	/* Sets the root of the VM's second-level tables and does what flush_tlb does. */
	void (*set_tdp_root)(struct mkvm_vcpu *vcpu, u64 root_pa);
	/*
	 * Lets mem/soft_tlb.c walk the guest's page tables. root_pa is the root of its own tables
	 * and is kept in vcpu->soft_tlb.root; 0 lets the CPU walk again. Flushes the CPU's TLB,
	 * too, but not what soft_tlb.c remembers.
	 */
	void (*set_soft_tlb)(struct mkvm_vcpu *vcpu, u64 root_pa);
	/*
	 * Has the CPU walk second-level tables from this root; 0 returns to the root that the two
	 * functions above have set. Does what flush_tlb does, too. With step the guest exits after
	 * its next instruction. Return: false if that is impossible; nothing has changed then.
	 */
	bool (*use_root)(struct mkvm_vcpu *vcpu, u64 root_pa, bool step);
};

enum { MKVM_TR = 6, MKVM_LDTR = 7 };

/*
 * mkvm_write_loaded - write an MSR that holds the guest's value while the vCPU is loaded
 * @copy: the vCPU's copy, by which vcpu_load and vcpu_put see whether guest and host differ
 * @index: the MSR
 *
 * The copy and the MSR change without preemption in between: a thread that is preempted there
 * would leave the guest's value to the host, or the host's value to the guest. Context: vCPU
 * loaded; preemption may be on or off.
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
 * mkvm_restore_ldt - restore the host's LDTR, which an exit has made null
 * @sel: what SLDT stored right before the entry
 *
 * A value from the time when the vCPU was loaded would not do: another thread of the program may
 * call modify_ldt at any time, and the IPI that loads the new table on this CPU, before the old
 * one is freed, may arrive between two entries. Context: interrupts off since the SLDT.
 */
static inline void mkvm_restore_ldt(u16 sel)
{
	if (unlikely(sel))
		asm volatile("lldt %0" : : "rm"(sel));
}

extern const struct mkvm_hw_ops *mkvm_hw;	/* set once at load */
extern const struct mkvm_hw_ops mkvm_svm_ops;
extern struct mkvm_hw_ops mkvm_vmx_ops;		/* only its setup changes it */

#endif
