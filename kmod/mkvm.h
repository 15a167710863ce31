/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mkvm.h - the module's own structures; it includes what each room offers to others.
 *
 * The fields have tags that say who may access them, and when. Locks have none; in a group, the
 * tag of the first line or of the group counts.
 *   (c) constant after creation
 *   (l) under vm->lock
 *   (v) under vcpu->mutex: the thread in a vCPU ioctl, KVM_RUN included
 *   (m) written under vm->mmu_lock
 *   (r) published with RCU or SRCU, written under vm->lock or under the other lock that is named
 *   (s) under vm->slots_lock
 *   (q) under vm->irqchip.lock
 *   (a) atomic: any context
 *
 * Lock order, outermost first:
 *   vcpu->mutex, vm->lock, vm->irqchip.lock, vm->slots_lock, mm's mmap_lock, vm->mmu_lock,
 *   irqchip locks (irqchip/irqchip.h).
 * vm->iodev.ring_lock and vm->tsc.lock are innermost. vm->srcu is entered anywhere above
 * mmu_lock; a holder of slots_lock or vm->lock may wait for its grace period, so nobody holds
 * srcu when taking them. mmu_lock is a spinlock that is taken with interrupts on. Nobody takes
 * vm->lock while holding irqchip locks.
 *
 * Read next: hw_ops.h (what a vendor supplies), cpu/run.c (what a vCPU does).
 */
#ifndef MKVM_H
#define MKVM_H

#include <linux/kernel.h>
#include <linux/cpumask.h>
#include <linux/kvm.h>
#include <linux/lockdep.h>
#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/workqueue.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#include <asm/trapnr.h>

#include "insn/emulate.h"
#include "irqchip/irqchip.h"
#include "uapi/mkvm.h"

#define MKVM_MAX_VCPUS		1024	/* ids are 0..1023; 255 and up need x2APIC messages */
#define MKVM_MAX_SLOTS		509
#define MKVM_MAX_CPUID		256
#define MKVM_NR_AS		2	/* address spaces: a vCPU in SMM sees 1, otherwise 0 */
#define MKVM_RUN_PAGES		2	/* struct kvm_run, then the page for port I/O data */
#define MKVM_PIO_PAGE_OFFSET	1
#define MKVM_MMAP_PAGES		3	/* the run pages and the VM's ring of coalesced writes */
#define MKVM_IOEVENTFD_BUCKETS	64

#define MKVM_MAX_GPA_BITS	52

/* ---- counters: KVM_GET_STATS_FD reports them; explain/stats.c has their names ---- */

enum mkvm_vm_stat {
	MKVM_STAT_PAGES_4K,	/* present leaves of the second-level tables, by level - 1 */
	MKVM_STAT_PAGES_2M,
	MKVM_STAT_REMOTE_TLB_FLUSH,
	MKVM_NR_VM_STATS
};

enum mkvm_vcpu_stat {
	MKVM_STAT_EXITS,
	MKVM_STAT_IRQ_EXITS,		/* the host took an interrupt */
	MKVM_STAT_IRQ_WINDOW_EXITS,
	MKVM_STAT_IO_EXITS,
	MKVM_STAT_MMIO_EXITS,		/* exits to userspace only */
	MKVM_STAT_MSR_EXITS,
	MKVM_STAT_CPUID_EXITS,
	MKVM_STAT_HALT_EXITS,
	MKVM_STAT_HALT_WAKEUP,
	MKVM_STAT_SIGNAL_EXITS,
	MKVM_STAT_PF_TAKEN,		/* second-level faults */
	MKVM_STAT_INSN_EMULATION,
	MKVM_STAT_TLB_FLUSH,
	MKVM_STAT_IRQ_INJECTIONS,
	MKVM_STAT_NMI_INJECTIONS,
	MKVM_NR_VCPU_STATS
};

/* ---- a VM ---- */

struct mkvm_memslot {
	u64 gfn;		/* first guest frame */
	u64 npages;
	unsigned long hva;	/* page aligned, within vm->mm's user range */
	u32 flags;		/* KVM_MEM_READONLY */
	u32 id;
	unsigned long *dirty;	/* a bit per page with KVM_MEM_LOG_DIRTY_PAGES, else NULL */
};

/* The slots of one address space, sorted by gfn and not overlapping. A change replaces them all. */
struct mkvm_memslots {
	u64 generation;		/* unique within the VM, and never 0 */
	u32 nr;
	struct mkvm_memslot slot[];
};

/* A VM's ioeventfds and zones of coalesced writes. insn/iodev.c uses them. */
struct mkvm_iodev {
	struct hlist_head ioeventfds[MKVM_IOEVENTFD_BUCKETS];	/* (r) and (q), hashed by address */
	u32 nr_ioeventfds;				/* (q) */
	struct list_head zones;				/* (r) and (q), of coalesced writes */
	u32 nr_zones;					/* (q) */
	spinlock_t ring_lock;				/* serialises additions to the ring */
	struct kvm_coalesced_mmio_ring *ring;		/* (c) shared with userspace: not trusted */
};

struct mkvm {
	struct mm_struct *mm;				/* (c) pinned by mm_count */
	struct kref refs;				/* (a) each fd of VM, vCPU, stats */
	struct mutex lock;				/* serialises creation, and (l) */
	struct mutex slots_lock;			/* serialises memslot changes, (s) */
	struct srcu_struct srcu;			/* for readers of slots, msr_filter */
	struct mkvm_memslots __rcu *slots[MKVM_NR_AS];	/* (r) and (s) */

	u32 dirty_manual; /* (l) flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */

	spinlock_t mmu_lock;				/* protects the second-level tables */
	struct {
		u64 *root;				/* (c) the page; entries are (m) */
		u64 *top;				/* (c) fifth-level page, or NULL */
		u64 root_pa;				/* (c) where the CPU starts its walk */
	} tdp[MKVM_NR_AS];
	struct mmu_notifier notifier;			/* (c) */
	unsigned long invalidate_seq;			/* (m) counts finished invalidations */
	long invalidate_running;			/* (m) number of those under way */
	unsigned long invalidate_start, invalidate_end;	/* (m) host range that they cover */
	struct cpumask flush_cpus;			/* (m) scratch space of flush_tlbs */
	bool tlbs_stale;				/* (m) a flush must still follow */
	atomic_long_t tlb_gen;				/* (a) rises after entries are removed */

	int nr_vcpus;					/* (l) stored with release after vcpus[] */
	struct mkvm_vcpu *vcpus[MKVM_MAX_VCPUS];	/* (l) grows; readers stay below nr_vcpus */
	u32 bsp_id;					/* (l) constant once a vCPU exists */

	struct mkvm_irqchip irqchip;			/* its fields have their own tags */
	struct mkvm_iodev iodev;			/* its fields have their own tags */
	bool hides_platform_info;			/* (l) KVM_CAP_MSR_PLATFORM_INFO is off */
	bool payload_events, triple_fault_events;	/* (l) userspace enabled these events */
	u64 stats[MKVM_NR_VM_STATS];			/* (m) any thread reads them */
	u32 max_vcpu_ids;				/* (l) ids are below it; 0: not set */
	u32 disabled_exits;				/* (l) constant once a vCPU exists */
	bool exit_on_emulation_failure;			/* (l) read with READ_ONCE */
	u32 user_msr_reasons;				/* (l) KVM_MSR_EXIT_REASON_*; READ_ONCE */
	struct mkvm_msr_filter __rcu *msr_filter;	/* (r) NULL: all accesses are allowed */
	u32 nr_mmu_pages;				/* (l) is only read back */
	DECLARE_BITMAP(logged, 512);			/* (a) requests, by mkvm_not_offered */

	struct {
		spinlock_t lock;			/* an innermost lock */
		s64 offset;				/* under lock: of new vCPUs, cycles */
		s64 last;				/* under lock: of userspace's last write */
		bool written;				/* under lock: last is valid */
		u32 khz;				/* (a) of new vCPUs; READ_ONCE */
	} tsc;						/* cpu/tsc.c */
	s64 clock_offset;				/* (a) ns, clock less host boot time */

	u32 nr;						/* (c) number in traces and debugfs */
	struct mkvm_vm_ids ids;				/* (a) explain/provenance.c */
	struct dentry *debugfs;				/* (c) directory, ERR_PTR or NULL */
};

/* vm.c: mkvm_vm_put frees the VM with the last reference and may sleep. */
void mkvm_vm_get(struct mkvm *vm);
void mkvm_vm_put(struct mkvm *vm);
int mkvm_vm_create_fd(unsigned long type);
long mkvm_check_extension(unsigned long cap);
void mkvm_not_offered(struct mkvm *vm, bool cap, u32 number);

/* Whether the LAPICs and the routing are in the kernel. Any context. */
static inline bool mkvm_irqchip_in_kernel(struct mkvm *vm)
{
	return smp_load_acquire(&vm->irqchip.in_kernel);
}

/* Whether the PIC and the IOAPIC are in the kernel, too: false for a split irqchip. Any context. */
static inline bool mkvm_pic_in_kernel(struct mkvm *vm)
{
	return mkvm_irqchip_in_kernel(vm) && vm->irqchip.pic;
}

/* Visits the vCPUs in the order of their creation; may miss those added meanwhile. Any context. */
#define mkvm_for_each_vcpu(i, vcpu, vm) \
	for ((i) = 0; (i) < smp_load_acquire(&(vm)->nr_vcpus) && ((vcpu) = (vm)->vcpus[i]); (i)++)

/* ---- events ---- */

static_assert(MKVM_NR_PEND <= MKVM_PEND_UNSEEN);

/* A bit of the pending word together with its "unseen" mark (cpu/pending.c). */
#define MKVM_PEND_MARKED(bit) (BIT(bit) | BIT((bit) + MKVM_PEND_UNSEEN))

/* The kinds of events that are delivered to a guest, for both vendors. */
enum mkvm_event_type {
	MKVM_EV_NONE,
	MKVM_EV_INTR,		/* external interrupt */
	MKVM_EV_NMI,
	MKVM_EV_EXCEPTION,	/* fault, trap or abort, including #BP of INT3 and #OF of INTO */
	MKVM_EV_SOFT,		/* INT n */
};

struct mkvm_event {
	u8 type;		/* enum mkvm_event_type */
	u8 vector;
	bool has_error;
	u32 error;		/* the error code, if has_error */
};

/* ---- a vCPU ---- */

#define MKVM_LOG_ENTRIES 64	/* ENTER makes the most accesses, 62 of at most 8 bytes each */

/*
 * The accesses outside of RAM that one emulated instruction has made so far. When the instruction
 * is replayed, they are answered from here.
 */
struct mkvm_io_log {
	u8 nr;			/* accesses recorded */
	u8 pos;			/* accesses answered in this replay */
	bool open;		/* the last access waits for userspace's answer */
	u64 data[MKVM_LOG_ENTRIES];
};

/* The reason why an instruction is emulated. */
enum mkvm_cause {
	MKVM_BY_INTERCEPT,	/* the CPU intercepted this instruction */
	MKVM_BY_WALK,		/* a second-level fault that its operand did not cause */
	MKVM_BY_READ,		/* it reads an operand at fault_gpa */
	MKVM_BY_WRITE,		/* it writes an operand at fault_gpa, and may read it as well */
};

struct mkvm_mtrr {
	u64 deftype, fixed[11], var[8][2];
};

/*
 * Bits of vcpu->guest_cpuid.shown: features of the guest's CPUID on which the existence of a
 * register or an instruction depends.
 */
enum mkvm_shown {
	MKVM_SHOWN_SEP		= BIT(0),
	MKVM_SHOWN_MTRR		= BIT(1),
	MKVM_SHOWN_MCA		= BIT(2),
	MKVM_SHOWN_PAT		= BIT(3),
	MKVM_SHOWN_TSC_ADJUST	= BIT(4),
	MKVM_SHOWN_TSC_DEADLINE	= BIT(5),
	MKVM_SHOWN_X2APIC	= BIT(6),
	MKVM_SHOWN_SYSCALL	= BIT(7),
	MKVM_SHOWN_LM		= BIT(8),
	MKVM_SHOWN_RDTSCP	= BIT(9),
	MKVM_SHOWN_TSC_AUX	= BIT(10),	/* RDTSCP or RDPID */
	MKVM_SHOWN_INVPCID	= BIT(11),
	MKVM_SHOWN_MWAIT	= BIT(12),
	MKVM_SHOWN_OSVW		= BIT(13),
	MKVM_SHOWN_RDRAND	= BIT(14),
	MKVM_SHOWN_RDSEED	= BIT(15),
};

#define MKVM_MCE_BANKS	32
#define MKVM_MCE_CAP	(MCG_CTL_P | MCG_SER_P)	/* bits that KVM_X86_SETUP_MCE may set */

struct mkvm_mce {
	u64 cap, status, ctl;
	u64 hwcr;			/* AMD's HWCR: McStatusWrEn, TscFreqSel */
	u64 bank[MKVM_MCE_BANKS][4];	/* CTL, STATUS, ADDR, MISC */
};

struct mkvm_vcpu {
	/* touched on each entry and exit */
	u64 regs[MKVM_NR_REGS];			/* (v) in encoding order; stale in the guest */
	u64 rip, rflags;		/* (v) stale in the guest */
	unsigned long pending;		/* (a) 1 << enum mkvm_pending */
	int where;			/* (a) enum mkvm_where */
	int cpu;			/* (a) where it is loaded, -1: nowhere */
	long tlb_seen;			/* (v) vm->tlb_gen at the guest's last TLB flush */
	struct {
		unsigned long waiting;	/* (v) pending bits that an open window covers */
		u32 vectoring;		/* (v) interrupted event, CPU's format; 0: none */
		struct mkvm_event delivering;	/* (v) in delivery: the next entry injects it */
		struct mkvm_event raised;	/* (v) raised, not yet in delivery */
		u64 payload;		/* (v) CR2 of #PF, new DR6 bits of #DB */
		bool has_payload;	/* (v) payload is valid */
		bool triple_fault;	/* (v) a shutdown is to be reported */
		bool exit_soon;		/* (v) exit once event is delivered: more waits */
	} ev; /* the event that goes into the guest next, and what follows it: cpu/inject.c */
	bool dr_live;			/* (v) the guest's DR0-3 are loaded at entry */
	struct kvm_run *run;		/* (c) not trusted: each field is read once */
	struct mkvm_lapic *lapic;	/* (c) NULL without in-kernel irqchip */
	struct mkvm *vm;		/* (c) */

	u32 id;				/* (c) APIC id */
	int idx;			/* (c) index in vm->vcpus */
	struct mutex mutex;		/* admits one ioctl at a time */
	struct task_struct *task;	/* (v) thread in KVM_RUN; others use READ_ONCE */
	struct preempt_notifier preempt;	/* (v) */
	struct rcuwait wait;		/* (a) for sleep in HLT and wait-for-SIPI */
	u32 mp_state;			/* (v) KVM_MP_STATE_*; others use READ_ONCE */
	u8 sipi_vector;			/* (a) stored before MKVM_PEND_SIPI is set */
	int (*complete)(struct mkvm_vcpu *vcpu);	/* (v) finishes the last exit, or NULL */

	struct {
		bool pic;		/* (c) ExtINT comes from KVM_INTERRUPT */
		int vector;		/* (v) of KVM_INTERRUPT, not taken yet; -1: none */
		int eoi_vector;		/* (v) for KVM_EXIT_IOAPIC_EOI, -1: none */
		bool report_tpr;	/* (v) KVM_TPR_ACCESS_REPORTING */
		u8 tpr_access;		/* (v) to be reported: 0 none, 1 read, 2 write */
		u64 tpr_rip;		/* (v) the instruction that made this access */
		u64 apic_base;		/* (v) used without in-kernel irqchip */
		u8 cr8;			/* (v) used without in-kernel irqchip */
		bool tpr_lowered;	/* (v) the guest has lowered cr8: to be reported */
	} user_irqchip; /* what userspace asks and is asked where a controller is its own */
	struct {
		u64 gpa;		/* (v) KVM_SET_VAPIC_ADDR, 0: none */
		u8 tpr;			/* (v) TPR as last stored there */
	} tpr_page; /* KVM_SET_VAPIC_ADDR: the page where the guest's code finds TPR */
	struct {
		bool active;		/* (v) in SMM, where memory is address space 1 */
		bool inside_nmi;	/* (v) NMIs were masked when the SMI was taken */
		u32 base;		/* (v) */
	} smm;				/* cpu/smm.c */
	struct {
		struct fpu_guest guest;	/* (v) used by cpu/fpu_kernel.c only */
		union fpregs_state *image;	/* (v) stale while the CPU has the registers */
		u64 xcr0;		/* (v) the guest's XCR0 */
		u64 xcr0_mask;		/* (v) XCR0 bits that CPUID lets the guest set */
		u32 pkru;		/* (v) the guest's PKRU; stale in the guest */
		bool has_pkru;		/* (v) the guest can read PKRU or depends on it */
	} fpu;				/* and XCR0, PKRU: cpu/fpu.h, cpu/regs.c */
	struct {
		s64 offset;		/* (v) guest less host TSC; others use READ_ONCE */
		u64 adjust;		/* (v) IA32_TSC_ADJUST */
		u32 khz;		/* (v) is only read back: the TSC is not scaled */
	} tsc;				/* cpu/tsc.c */
	struct {
		u64 pat;		/* (v) */
		u64 tsc_aux;		/* (v) */
		u64 misc_enable, power_ctl;	/* (v) */
		u64 ucode_rev, smi_count;	/* (v) */
		u64 platform_info, misc_features;	/* (v) only CPUID faulting has an effect */
		struct mkvm_mtrr mtrr;	/* (v) */
	} msr;				/* MSRs that no other group has: cpu/msr.c */
	struct {
		struct kvm_cpuid_entry2 *entries;	/* (v) entries of KVM_SET_CPUID2, or NULL */
		u32 nr;			/* (v) the number of these entries */
		struct kvm_cpuid_entry2 now;	/* (v) the last answer of mkvm_cpuid */
		u8 first[2][32];	/* (v) index + 1 of leaf n and 0x80000000 + n */
		bool x2apic, tsc_deadline;	/* (v) features that the guest's CPUID shows */
		bool amd_rules;		/* (v) the guest's CPUID names AMD or Hygon */
		u32 shown;		/* (v) MKVM_SHOWN_* */
		u64 cr4_reserved;	/* (v) CR4 bits that CPUID does not allow */
		u64 efer_reserved;	/* (v) EFER bits that CPUID does not allow */
		u64 gpa_reserved;	/* (v) physical address bits beyond CPUID's width */
	} guest_cpuid; /* what the guest sees, and what follows from it: cpu/cpuid.c */
	struct {
		bool active;		/* (v) KVM_SET_SIGNAL_MASK */
		sigset_t set;		/* (v) */
	} signals;			/* KVM_SET_SIGNAL_MASK */
	u64 dr[4];			/* (v) DR0-3; stale in the guest if dr_live */
	struct mkvm_mce mce;		/* (v) */
	struct {
		u32 control;		/* KVM_GUESTDBG_* while enabled, else 0 */
		u32 traps;		/* to be reported to userspace, as bits of DR6 */
		u64 dr[4], dr7;		/* userspace's breakpoints */
	} debug;			/* (v) cpu/debug.c */
	struct {
		u64 next_rip;		/* (v) end of the exit's instruction, 0: unknown */
		u8 len, bytes[MKVM_INSN_ROOM];	/* (v) the known bytes of the exit's instruction */
		u8 cause;		/* (v) enum mkvm_cause: why the emulator runs */
		u64 fault_gpa;		/* (v) of the second-level fault being handled */
		u64 fault_la;		/* (v) its linear address, ~0: unknown */
		u8 by_cpu;		/* (v) how many bytes of insn the CPU has fetched */
		u32 intercepted;	/* (v) last bytes of instruction to skip, 0: any */
		struct {
			u16 port;
			u8 size;
			bool in, done;
		} pio;			/* (v) port I/O that userspace answers */
		struct {
			u8 what;	/* enum mkvm_intercept */
			u8 number;
		} intercept;		/* (v) as given to the last mkvm_handle_intercepted */
		u64 io_rip;		/* (v) RIP of complete's instruction */
		struct mkvm_io_log log;	/* (v) */
		struct mkvm_emu emu;	/* (v) the instruction being emulated */
	} insn; /* the instruction of the last exit, and its emulation: insn/ */
	struct {
		/* (v) valid while last_generation is, under srcu */
		const struct mkvm_memslot *slot;
		u64 generation;		/* (v) generation of last_slot's slots, 0: none */
	} slot_cache;			/* the slot that was found last: mem/memslot.c */
	struct {
		void *pages[3];		/* (v) zeroed pages for use under mmu_lock */
		u8 nr;			/* (v) the number of these pages */
	} tdp_cache;			/* zeroed pages for sections under mmu_lock: mem/tdp.c */
	struct {
		struct mkvm_soft_tlb *tlb;	/* (v) mem/soft_tlb.c; NULL: was never needed */
		u64 root;		/* (v) root of soft's tables in use, else 0 */
	} soft_tlb;			/* mem/soft_tlb.c */
	struct {
		struct mkvm_overlay *copy;	/* (v) mem/overlay.c; NULL: was never needed */
		u64 root;		/* (v) root of overlay's tables in use, else 0 */
	} overlay;			/* mem/overlay.c */
	u64 stats[MKVM_NR_VCPU_STATS];	/* (v) any thread reads them */
	struct mkvm_vcpu_ids ids;	/* its fields have their own tags */
};

/*
 * Asserts that this is the vCPU's own thread, which holds its mutex. The checks of lockdep are in
 * the debug kernel only; a vCPU that is not published yet must not be asked.
 */
static inline void mkvm_assert_owner(struct mkvm_vcpu *vcpu)
{
	lockdep_assert_held(&vcpu->mutex);
}

/* vcpu.c: creation, and loading onto a host CPU. May sleep; load and put: vcpu->mutex held. */
int mkvm_vcpu_create_fd(struct mkvm *vm, unsigned long id);
void mkvm_vcpu_destroy(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_load(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_put(struct mkvm_vcpu *vcpu);

/*
 * Checks struct kvm_device_attr and finds its value. May sleep. Return: 0, -EINVAL for flags,
 * -ENXIO for another attribute, -EFAULT.
 */
int mkvm_find_attribute(void __user *argp, u32 group, u64 nr, u64 __user **where);

/* The front doors of the rooms; irqchip/irqchip.h is above. */
#include "cpu/cpu.h"
#include "mem/mem.h"
#include "insn/insn.h"
#include "explain/explain.h"

#endif
