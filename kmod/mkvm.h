/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mkvm.h - the module's own structures, and what each file offers to others.
 *
 * The fields have tags that say who may access them, and when. Locks have none; in a group, the
 * tag of the first line or of the group counts.
 *   (c) constant after creation
 *   (l) under vm->lock
 *   (v) under vcpu->mutex: the thread in a vCPU ioctl, KVM_RUN included
 *   (m) written under vm->mmu_lock
 *   (r) published with RCU or SRCU, written under vm->lock
 *   (s) under vm->slots_lock
 *   (q) under vm->irqchip.lock
 *   (a) atomic: any context
 *
 * Lock order, outermost first:
 *   vcpu->mutex, vm->lock, vm->irqchip.lock, vm->slots_lock, mm's mmap_lock, vm->mmu_lock,
 *   irqchip locks (irqchip/irqchip.h).
 * vm->iodev.ring_lock and vm->tsc.lock are innermost. vm->srcu is entered anywhere above mmu_lock; a
 * holder of slots_lock or vm->lock may wait for its grace period, so nobody holds srcu when
 * taking them. mmu_lock is a spinlock that is taken with interrupts on. Nobody takes vm->lock
 * while holding irqchip locks.
 *
 * Read next: hw_ops.h (what a vendor supplies), cpu/run.c (what a vCPU does).
 */
#ifndef MKVM_H
#define MKVM_H

#include <linux/kernel.h>
#include <linux/cpumask.h>
#include <linux/kvm.h>
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

#define MKVM_MAX_VCPUS		1024	/* and ids 0..1023; over 254 only x2APIC messages reach them */
#define MKVM_MAX_SLOTS		509
#define MKVM_MAX_CPUID		256
#define MKVM_NR_AS		2	/* address spaces: 1 is what a vCPU in SMM sees */
#define MKVM_RUN_PAGES		2	/* struct kvm_run, then the page for port I/O data */
#define MKVM_PIO_PAGE_OFFSET	1
#define MKVM_MMAP_PAGES		3	/* and the ring of coalesced writes, which is the VM's */
#define MKVM_IOEVENTFD_BUCKETS	64

#define MKVM_MAX_GPA_BITS	52

/* ---- counters: KVM_GET_STATS_FD, named in stats.c ---- */

enum mkvm_vm_stat {
	MKVM_STAT_PAGES_4K,	/* leaves of the second-level tables now, by level - 1 */
	MKVM_STAT_PAGES_2M,
	MKVM_STAT_REMOTE_TLB_FLUSH,
	MKVM_NR_VM_STATS
};

enum mkvm_vcpu_stat {
	MKVM_STAT_EXITS,
	MKVM_STAT_IRQ_EXITS,		/* for an interrupt of the host */
	MKVM_STAT_IRQ_WINDOW_EXITS,
	MKVM_STAT_IO_EXITS,
	MKVM_STAT_MMIO_EXITS,		/* to userspace */
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
	unsigned long *dirty;	/* a bit a page with KVM_MEM_LOG_DIRTY_PAGES, else NULL: dirty_log.c */
};

/* One address space: sorted by gfn, without overlaps. Replaced as a whole. */
struct mkvm_memslots {
	u64 generation;		/* never used twice in a VM; 0: never */
	u32 nr;
	struct mkvm_memslot slot[];
};

/* Doorbells and coalesced writes. */
struct mkvm_iodev {
	struct hlist_head ioeventfds[MKVM_IOEVENTFD_BUCKETS];	/* (r) but under irqchip.lock: by address */
	u32 nr_ioeventfds;				/* (q) */
	struct list_head zones;				/* (r) but under irqchip.lock: of coalesced writes */
	u32 nr_zones;					/* (q) */
	spinlock_t ring_lock;				/* held while a write is added to the ring */
	struct kvm_coalesced_mmio_ring *ring;		/* (c) a page, shared with userspace: untrusted */
};

struct mkvm {
	struct mm_struct *mm;				/* (c) pinned by mm_count */
	struct kref refs;				/* (a) the VM fd, each vCPU fd */
	struct mutex lock;				/* creation of vCPUs and irqchips, routing */
	struct mutex slots_lock;			/* memslot changes */
	struct srcu_struct srcu;			/* readers of slots */
	struct mkvm_memslots __rcu *slots[MKVM_NR_AS];	/* (r) but under slots_lock */

	u32 dirty_manual;				/* (l) flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */

	spinlock_t mmu_lock;				/* second-level tables */
	struct {
		u64 *root;				/* (c) the page; entries are (m) */
		u64 *top;				/* (c) fifth level above root, or NULL */
		u64 root_pa;				/* (c) where the CPU's walk starts */
	} tdp[MKVM_NR_AS];
	struct mmu_notifier notifier;			/* (c) */
	unsigned long invalidate_seq;			/* (m) counts finished invalidations */
	long invalidate_running;			/* (m) invalidations between start and end, */
	unsigned long invalidate_start, invalidate_end;	/* (m) and the host addresses that they cover */
	struct cpumask flush_cpus;			/* (m) scratch of mkvm_flush_tlbs */
	bool tlbs_stale;				/* (m) entries were removed without a flush so far */
	atomic_long_t tlb_gen;				/* (a) bumped when entries went away */

	int nr_vcpus;					/* (l) published with release after vcpus[] */
	struct mkvm_vcpu *vcpus[MKVM_MAX_VCPUS];	/* (l) grows only; read by index < nr_vcpus */
	u32 bsp_id;					/* (l) until the first vCPU exists */

	struct mkvm_irqchip irqchip;			/* irqchip/irqchip.h */
	struct mkvm_iodev iodev;			/* insn/iodev.c */
	bool hides_platform_info;			/* (l) KVM_CAP_MSR_PLATFORM_INFO */
	bool payload_events, triple_fault_events;	/* (l) KVM_CAP_EXCEPTION_PAYLOAD, _X86_TRIPLE_FAULT_EVENT */
	u64 stats[MKVM_NR_VM_STATS];			/* (m) read by anybody */
	u32 max_vcpu_ids;				/* (l) KVM_CAP_MAX_VCPU_ID: ids are below it; 0: not set */
	u32 disabled_exits;				/* (c) once a vCPU exists: KVM_X86_DISABLE_EXITS_* */
	bool exit_on_emulation_failure;			/* (l) KVM_CAP_EXIT_ON_EMULATION_FAILURE; READ_ONCE */
	u32 user_msr_reasons;				/* (l) KVM_MSR_EXIT_REASON_* for userspace; READ_ONCE */
	struct mkvm_msr_filter __rcu *msr_filter;	/* (r) NULL: allows all */
	u32 nr_mmu_pages;				/* (l) KVM_SET_NR_MMU_PAGES: stored, not needed */
	DECLARE_BITMAP(told, 512);			/* (a) mkvm_not_offered has told of these */

	struct {
		spinlock_t lock;			/* all but khz; inside all others */
		s64 offset;				/* that vCPUs start with: guest TSC 0 at creation */
		s64 last;				/* that the last value written by userspace meant, once */
		bool written;				/* there was one */
		u32 khz;				/* KVM_SET_TSC_KHZ for vCPUs to come; READ_ONCE */
	} tsc;						/* tsc.c */
	s64 clock_offset;				/* of KVM_GET_CLOCK to the host's boot time; READ_ONCE */

	u32 nr;						/* (c) the VM's number, in traces */
	struct mkvm_vm_ids ids;				/* provenance.c */
	struct dentry *debugfs;				/* (c) the VM's directory, an error or NULL */
};

/* vm.c */
void mkvm_vm_get(struct mkvm *vm);
void mkvm_vm_put(struct mkvm *vm);
int mkvm_vm_create_fd(unsigned long type);
long mkvm_check_extension(unsigned long cap);
void mkvm_not_offered(struct mkvm *vm, bool cap, u32 number);

static inline bool mkvm_irqchip_in_kernel(struct mkvm *vm)
{
	return smp_load_acquire(&vm->irqchip.in_kernel);
}

static inline bool mkvm_pic_in_kernel(struct mkvm *vm)
{
	return mkvm_irqchip_in_kernel(vm) && vm->irqchip.pic;
}

#define mkvm_for_each_vcpu(i, vcpu, vm) \
	for ((i) = 0; (i) < smp_load_acquire(&(vm)->nr_vcpus) && ((vcpu) = (vm)->vcpus[i]); (i)++)

/* ---- events ---- */

static_assert(MKVM_NR_PEND <= MKVM_PEND_UNSEEN);

/* A bit of the pending word, and that it was not reported. */
#define MKVM_PEND_BOTH(bit) (BIT(bit) | BIT((bit) + MKVM_PEND_UNSEEN))

/* What is being delivered to the guest, whoever the vendor is. */
enum mkvm_event_type {
	MKVM_EV_NONE,
	MKVM_EV_INTR,		/* external interrupt */
	MKVM_EV_NMI,
	MKVM_EV_EXCEPTION,	/* fault, trap or abort; #BP and #OF by INT3 and INTO, too */
	MKVM_EV_SOFT,		/* INT n */
};

struct mkvm_event {
	u8 type;		/* enum mkvm_event_type */
	u8 vector;
	bool has_error;
	u32 error;
};

/* ---- a vCPU ---- */

#define MKVM_LOG_ENTRIES 64	/* ENTER makes 62, of 8 bytes at most */

/* Accesses that one emulated instruction has made so far outside of RAM: its replay answers from here. */
struct mkvm_io_log {
	u8 nr;			/* recorded */
	u8 pos;			/* answered in this replay */
	bool open;		/* userspace is to answer the last one */
	u64 data[MKVM_LOG_ENTRIES];
};

/* Which instruction the CPU has intercepted, for the emulator: the code may have changed since. */
enum mkvm_intercept {
	MKVM_INTERCEPT_INS,	/* number: bytes of an element */
	MKVM_INTERCEPT_OUTS,
	MKVM_INTERCEPT_GET_CR,	/* number: the register's, or MKVM_ANY_CR */
	MKVM_INTERCEPT_SET_CR,	/* number: the register's */
	MKVM_INTERCEPT_GET_DR,
	MKVM_INTERCEPT_SET_DR,
};

#define MKVM_ANY_CR 0xff	/* some emulator says only that it was one of them */

/* Why an instruction is emulated. */
enum mkvm_cause {
	MKVM_BY_INTERCEPT,	/* of this instruction */
	MKVM_BY_WALK,		/* a second-level fault, but not by the instruction's operand */
	MKVM_BY_READ,		/* its operand is at fault_gpa, and is read there */
	MKVM_BY_WRITE,		/* likewise; written, or read and written */
};

struct mkvm_mtrr {
	u64 deftype, fixed[11], var[8][2];
};

/*
 * Features of the guest's CPUID that decide whether it has a register or an instruction:
 * vcpu->shown.
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
};

#define MKVM_MCE_BANKS	32
#define MKVM_MCE_CAP	(MCG_CTL_P | MCG_SER_P)	/* what KVM_X86_SETUP_MCE may ask for */

struct mkvm_mce {
	u64 cap, status, ctl;
	u64 hwcr;			/* AMD's HWCR: McStatusWrEn, TscFreqSel */
	u64 bank[MKVM_MCE_BANKS][4];	/* CTL, STATUS, ADDR, MISC */
};

struct mkvm_vcpu {
	/* touched on each entry and exit */
	u64 regs[16];				/* (v) RAX..R15 in encoding order; valid outside the guest */
	u64 rip, rflags;			/* (v) likewise */
	u64 next_rip;				/* (v) of the exit's instruction, 0: unknown */
	u8 insn_len, insn[MKVM_INSN_ROOM];	/* (v) bytes of the exit's instruction that are known */
	u8 cause;				/* (v) enum mkvm_cause of what the emulator runs or is to finish */
	u64 fault_gpa;				/* (v) of the second-level fault being handled, */
	u64 fault_la;				/* and its linear address, ~0: not known */
	u8 insn_by_cpu;				/* (v) bytes of insn that the CPU has fetched */
	u32 intercepted;			/* (v) last bytes of what is to be skipped, 0: any */
	unsigned long waiting;			/* (v) pending bits that a window will bring back */
	unsigned long pending;			/* (a) 1 << enum mkvm_pending */
	int where;				/* (a) enum mkvm_where */
	int cpu;				/* (a) written by the vCPU's thread; where it runs, -1: not loaded */
	long tlb_seen;				/* (v) vm->tlb_gen that the guest's TLB obeys */
	u32 vectoring;				/* (v) what the last exit cut off, in the CPU's format; 0: nothing */
	struct mkvm_event event;		/* (v) being delivered: goes into the guest at the next entry */
	struct mkvm_event exception;		/* (v) raised, not yet being delivered */
	u64 payload;				/* (v) of exception, if has_payload: CR2 of #PF, new DR6 bits of #DB */
	bool has_payload;			/* (v) */
	bool triple_fault;			/* (v) the machine is to shut down */
	bool exit_soon;				/* (v) leave the guest when event has gone in: more waits */
	bool in_smm;				/* (v) memory is address space 1 */
	bool smm_inside_nmi;			/* (v) NMIs were masked when the SMI came */
	bool dr_live;				/* (v) DR0-3 are in the CPU while in the guest */
	struct kvm_run *run;			/* (c) shared with userspace: untrusted, each field read once */
	struct mkvm_lapic *lapic;		/* (c) NULL without in-kernel irqchip */
	struct mkvm *vm;			/* (c) */

	u32 id;					/* (c) APIC id */
	int idx;				/* (c) in vm->vcpus */
	struct mutex mutex;			/* one ioctl at a time */
	struct task_struct *task;		/* (v) in KVM_RUN */
	struct preempt_notifier preempt;	/* (v) */
	struct rcuwait wait;			/* (v) where HLT and wait-for-SIPI sleep */
	u32 mp_state;				/* (v) KVM_MP_STATE_*; read by others with READ_ONCE */
	u8 sipi_vector;				/* (a) published before MKVM_PEND_SIPI */
	bool user_pic;				/* (c) ExtINT is what KVM_INTERRUPT says */
	int user_vector;			/* (v) that it said, -1: none */
	int eoi_vector;				/* (v) to be told by KVM_EXIT_IOAPIC_EOI, -1: none */
	bool report_tpr;			/* (v) KVM_TPR_ACCESS_REPORTING */
	u8 tpr_access;				/* (v) to be told: 0 none, 1 read, 2 write; */
	u64 tpr_rip;				/* (v) the instruction that made it */
	u64 vapic_addr;				/* (v) KVM_SET_VAPIC_ADDR, 0: none */
	u8 vapic_tpr;				/* (v) that the guest finds there */

	bool sigset_active;			/* (v) KVM_SET_SIGNAL_MASK */
	sigset_t sigset;			/* (v) */

	struct fpu_guest fpu;			/* (v) */
	u64 xcr0;				/* (v) guest's XCR0 */
	u64 guest_xcr0_mask;			/* (v) what CPUID lets the guest enable */
	u32 pkru;				/* (v) guest's PKRU, outside */
	bool has_pkru;				/* (v) the guest can read or use it */
	u64 dr[4];				/* (v) DR0-3 while not live */
	s64 tsc_offset;				/* (v) guest TSC = host TSC + offset */
	u64 tsc_adjust;				/* (v) IA32_TSC_ADJUST */
	u32 tsc_khz;				/* (v) KVM_SET_TSC_KHZ: read back, nothing is scaled */
	u64 pat;				/* (v) */
	u64 tsc_aux;				/* (v) */
	u64 misc_enable, power_ctl;		/* (v) */
	u64 ucode_rev, smi_count;		/* (v) */
	u64 platform_info, misc_features;	/* (v) of them only that CPUID faults in user mode */
	u32 smbase;				/* (v) */
	struct mkvm_mtrr mtrr;			/* (v) */
	struct mkvm_mce mce;			/* (v) */
	u64 apic_base;				/* (v) without in-kernel irqchip */
	u8 cr8;					/* (v) without in-kernel irqchip */
	bool tell_tpr;				/* (v) and the guest has just lowered it */

	struct kvm_cpuid_entry2 *cpuid;		/* (v) what the guest sees */
	u32 nr_cpuid;				/* (v) */
	struct kvm_cpuid_entry2 cpuid_now;	/* (v) what mkvm_cpuid has last given, if bits of it change */
	u8 cpuid_first[2][32];			/* (v) index + 1 of leaf n and 0x80000000 + n */
	bool cpuid_x2apic, cpuid_tsc_deadline;	/* (v) */
	bool amd_rules;				/* (v) CPUID's vendor is AMD, or Hygon */
	u32 shown;				/* (v) MKVM_SHOWN_* */
	u64 cr4_reserved;			/* (v) CR4 bits that CPUID does not allow */
	u64 efer_reserved;			/* (v) likewise */
	u64 gpa_reserved;			/* (v) physical address bits beyond CPUID's width */

	struct {
		u32 control;			/* KVM_GUESTDBG_* while enabled, else 0 */
		u32 traps;			/* to be told, as in DR6 */
		u64 dr[4], dr7;			/* userspace's breakpoints */
	} debug;				/* (v) debug.c */

	u64 stats[MKVM_NR_VCPU_STATS];			/* (v) read by anybody */
	int (*complete)(struct mkvm_vcpu *vcpu);	/* (v) what is left of the last exit to userspace */
	struct {
		u16 port;
		u8 size;
		bool in, done;
	} pio;					/* (v) port I/O that is or was answered through the shared page */
	struct {
		u8 what;			/* enum mkvm_intercept */
		u8 number;
	} intercept;				/* (v) of the last mkvm_exit_emulate */
	u64 io_rip;				/* (v) of the instruction that complete is to finish */
	struct mkvm_io_log log;			/* (v) */
	struct mkvm_emu emu;			/* (v) the instruction being emulated */
	struct mkvm_soft_tlb *soft;		/* (v) soft_tlb.c; NULL: was never needed */
	u64 soft_root;				/* (v) while it is used: of its private address space, else 0 */
	struct mkvm_overlay *overlay;		/* (v) overlay.c; NULL: was never needed */
	u64 overlay_root;			/* (v) where the CPU's second-level walk starts because of it, else 0 */
	void *tdp_pages[3];			/* (v) zeroed pages kept for mmu_lock sections */
	u8 nr_tdp_pages;			/* (v) */
	const struct mkvm_memslot *last_slot;	/* (v) valid while last_generation is current, under srcu */
	u64 last_generation;			/* (v) */
	struct mkvm_vcpu_ids ids;		/* provenance.c */
};

/* vcpu.c */
int mkvm_vcpu_create_fd(struct mkvm *vm, unsigned long id);
void mkvm_vcpu_destroy(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_load(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_put(struct mkvm_vcpu *vcpu);

/* cpu/run.c */
int mkvm_vcpu_run(struct mkvm_vcpu *vcpu);

/* The thread has to leave KVM_RUN, for userspace or for the kernel. Return: why, -errno. */
static inline int mkvm_interrupted(struct mkvm_vcpu *vcpu, int why)
{
	vcpu->stats[MKVM_STAT_SIGNAL_EXITS]++;
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return why;
}

/* cpu/pending.c; posting: any context */
void mkvm_vcpu_kick(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_post(struct mkvm_vcpu *vcpu, enum mkvm_pending bit);
/* the others: the vCPU's own thread, or vcpu->mutex held */
unsigned long mkvm_pending_take_init_sipi(struct mkvm_vcpu *vcpu);
void mkvm_pending_take_smi(struct mkvm_vcpu *vcpu);
void mkvm_pending_take_nmi(struct mkvm_vcpu *vcpu, const char *how);
void mkvm_pending_merge_nmis(struct mkvm_vcpu *vcpu);
void mkvm_pending_drop_nmis(struct mkvm_vcpu *vcpu);
void mkvm_pending_seen(struct mkvm_vcpu *vcpu, unsigned long bits);
void mkvm_pending_restore(struct mkvm_vcpu *vcpu, enum mkvm_pending bit, bool set);
void mkvm_pending_restore_nmis(struct mkvm_vcpu *vcpu, unsigned int nr);

/* Requests that userspace does not read, and that need no kick: EVENT, MSRS, TELL. Any context. */
static inline void mkvm_pending_set(struct mkvm_vcpu *vcpu, enum mkvm_pending bit)
{
	set_bit(bit, &vcpu->pending);
}

static inline bool mkvm_pending_take(struct mkvm_vcpu *vcpu, enum mkvm_pending bit)
{
	return test_and_clear_bit(bit, &vcpu->pending);
}

/* cpu/mp_state.c; own thread */
void mkvm_vcpu_reset(struct mkvm_vcpu *vcpu, bool init);
void mkvm_accept_init_sipi(struct mkvm_vcpu *vcpu);
int mkvm_vcpu_set_mp_state(struct mkvm_vcpu *vcpu, u32 state);
int mkvm_halt(struct mkvm_vcpu *vcpu);
void mkvm_wake(struct mkvm_vcpu *vcpu, const char *why);
bool mkvm_vcpu_runnable(struct mkvm_vcpu *vcpu);
int mkvm_vcpu_block(struct mkvm_vcpu *vcpu);

/* cpu/exit.c: handlers, for the vendor's table; return: 1 enter again, 0 exit to userspace, -errno */
int mkvm_exit_halt(struct mkvm_vcpu *vcpu);
int mkvm_exit_cpuid(struct mkvm_vcpu *vcpu);
int mkvm_exit_monitor(struct mkvm_vcpu *vcpu);
int mkvm_exit_mwait(struct mkvm_vcpu *vcpu);
int mkvm_exit_hypercall(struct mkvm_vcpu *vcpu);
int mkvm_exit_mov_dr(struct mkvm_vcpu *vcpu, unsigned int dr, bool write);
int mkvm_exit_rdmsr(struct mkvm_vcpu *vcpu);
int mkvm_exit_wrmsr(struct mkvm_vcpu *vcpu);
int mkvm_exit_xsetbv(struct mkvm_vcpu *vcpu);
int mkvm_exit_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in);
int mkvm_exit_tdp_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch);
int mkvm_exit_walk_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write);
int mkvm_exit_emulate(struct mkvm_vcpu *vcpu, enum mkvm_intercept what, unsigned int number);
int mkvm_exit_task_switch(struct mkvm_vcpu *vcpu);
int mkvm_exit_triple_fault(struct mkvm_vcpu *vcpu);
int mkvm_exit_shutdown(struct mkvm_vcpu *vcpu);
int mkvm_exit_fail_entry(struct mkvm_vcpu *vcpu, u64 reason);
int mkvm_exit_nothing(struct mkvm_vcpu *vcpu);
int mkvm_exit_host_interrupt(struct mkvm_vcpu *vcpu);
int mkvm_exit_ud(struct mkvm_vcpu *vcpu);
int mkvm_exit_gp(struct mkvm_vcpu *vcpu);
int mkvm_exit_unknown(struct mkvm_vcpu *vcpu, u64 code);
int mkvm_exit_internal_error(struct mkvm_vcpu *vcpu, u32 suberror, const u64 *data, u32 n);

/* cpu/inject.c; own thread */
#define MKVM_DR7_GD BIT(13)
void mkvm_queue_exception(struct mkvm_vcpu *vcpu, u8 vector, bool has_error, u32 error);
void mkvm_queue_page_fault(struct mkvm_vcpu *vcpu, u64 cr2, u32 error);
void mkvm_queue_machine_check(struct mkvm_vcpu *vcpu);
void mkvm_events_inject(struct mkvm_vcpu *vcpu);
bool mkvm_has_extint(struct mkvm_vcpu *vcpu);
enum mkvm_hold mkvm_interrupt_waits(struct mkvm_vcpu *vcpu, int *vector);	/* any context */
enum mkvm_hold mkvm_nmi_waits(struct mkvm_vcpu *vcpu);				/* any context */
void mkvm_trace_waits(struct mkvm_vcpu *vcpu, bool irq, bool nmi);
bool mkvm_wakes_halted(struct mkvm_vcpu *vcpu);
bool mkvm_ready_for_user_interrupt(struct mkvm_vcpu *vcpu);
bool mkvm_user_window_open(struct mkvm_vcpu *vcpu);
int mkvm_interrupt_get(struct mkvm_vcpu *vcpu);
void mkvm_interrupt_set(struct mkvm_vcpu *vcpu, u8 vector);
void mkvm_restore_in_delivery(struct mkvm_vcpu *vcpu, enum mkvm_event_type type, u8 vector);

/* cpu/events.c */
void mkvm_events_seen(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev);
void mkvm_events_get(struct mkvm_vcpu *vcpu, struct kvm_vcpu_events *ev);
bool mkvm_events_valid(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev);
int mkvm_events_set(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev);

/* AMD APM vol. 2, "Error Codes". */
static inline bool mkvm_has_error_code(u8 vector)
{
	return vector == X86_TRAP_DF || (vector >= X86_TRAP_TS && vector <= X86_TRAP_PF) || vector == X86_TRAP_AC;
}

static inline void mkvm_queue_gp(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_exception(vcpu, 13, true, 0);
}

/* cpu/smm.c; the I/O instruction before an SMI, as in the state-save area: port << 16, size << 4, and these */
#define MKVM_SMM_IO_IN		BIT(0)
#define MKVM_SMM_IO_VALID	BIT(1)
void mkvm_smm_set(struct mkvm_vcpu *vcpu, bool smm);
void mkvm_accept_smi(struct mkvm_vcpu *vcpu, u32 io);
int mkvm_exit_rsm(struct mkvm_vcpu *vcpu);

/* cpu/debug.c */
#define MKVM_GUESTDBG_FLAGS (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP | \
			     KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
			     KVM_GUESTDBG_BLOCKIRQ)
int mkvm_set_guest_debug(struct mkvm_vcpu *vcpu, const struct kvm_guest_debug *dbg);
bool mkvm_debug_takes(struct mkvm_vcpu *vcpu, u8 vector);
int mkvm_exit_debug(struct mkvm_vcpu *vcpu, u8 vector, u64 dr6);
enum mkvm_watch { MKVM_WATCH_READ, MKVM_WATCH_WRITE, MKVM_WATCH_PORT };
bool mkvm_watching(struct mkvm_vcpu *vcpu);
u32 mkvm_breakpoints_met(struct mkvm_vcpu *vcpu, enum mkvm_watch how, u64 addr, unsigned int len);
void mkvm_debug_trap(struct mkvm_vcpu *vcpu, u32 traps);

/* explain/state.c */
void mkvm_vcpu_state(struct mkvm_vcpu *vcpu, struct mkvm_vcpu_state *s);
int mkvm_vcpu_state_ioctl(struct mkvm *vm, struct mkvm_vcpu_state __user *arg);

/* explain/debugfs.c */
void mkvm_debugfs_setup(void);
void mkvm_debugfs_teardown(void);
void mkvm_debugfs_add(struct mkvm *vm);
void mkvm_debugfs_remove(struct mkvm *vm);

/* cpu/regs.c */
extern u64 mkvm_host_xcr0;
#define MKVM_GUEST_XCR0		(mkvm_host_xcr0 & (XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM | \
						   XFEATURE_MASK_AVX512 | XFEATURE_MASK_PKRU))
void mkvm_regs_setup(void);
void mkvm_regs_get(struct mkvm_vcpu *vcpu, struct kvm_regs *regs);
void mkvm_regs_set(struct mkvm_vcpu *vcpu, const struct kvm_regs *regs);
void mkvm_sregs_get(struct mkvm_vcpu *vcpu, struct kvm_sregs *sregs);
int mkvm_sregs_set(struct mkvm_vcpu *vcpu, const struct kvm_sregs *sregs);
void mkvm_fpu_get(struct mkvm_vcpu *vcpu, struct kvm_fpu *fpu);
int mkvm_fpu_set(struct mkvm_vcpu *vcpu, const struct kvm_fpu *fpu);
void mkvm_xcrs_get(struct mkvm_vcpu *vcpu, struct kvm_xcrs *xcrs);
int mkvm_xcrs_set(struct mkvm_vcpu *vcpu, const struct kvm_xcrs *xcrs);
int mkvm_xcr_write(struct mkvm_vcpu *vcpu, u32 index, u64 val);
void mkvm_update_pkru(struct mkvm_vcpu *vcpu);
void mkvm_debugregs_get(struct mkvm_vcpu *vcpu, struct kvm_debugregs *regs);
int mkvm_debugregs_set(struct mkvm_vcpu *vcpu, const struct kvm_debugregs *regs);
u64 mkvm_get_cr8(struct mkvm_vcpu *vcpu);
int mkvm_set_cr8(struct mkvm_vcpu *vcpu, u64 val);
u64 mkvm_get_apic_base(struct mkvm_vcpu *vcpu);
int mkvm_set_apic_base(struct mkvm_vcpu *vcpu, u64 base, bool host);
int mkvm_cr_write(struct mkvm_vcpu *vcpu, int cr, u64 val);
bool mkvm_cr4_valid(struct mkvm_vcpu *vcpu, u64 cr4);
bool mkvm_efer_valid(struct mkvm_vcpu *vcpu, u64 efer);

/* cpu/msr.c; get and set: 0 or 1 (no such MSR, or a value that it does not take) */
int mkvm_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host);
int mkvm_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host);
int mkvm_msr_index_list(struct kvm_msr_list __user *list, bool features);
int mkvm_msrs_ioctl(struct mkvm_vcpu *vcpu, struct kvm_msrs __user *arg, bool set);
int mkvm_find_attribute(void __user *argp, u32 group, u64 nr, u64 __user **where);
bool mkvm_msr_hidden(struct mkvm_vcpu *vcpu, u32 index);
void mkvm_msr_reset(struct mkvm_vcpu *vcpu);

/* cpu/tsc.c */
void mkvm_tsc_init(struct mkvm *vm);
void mkvm_tsc_create(struct mkvm_vcpu *vcpu);
u64 mkvm_tsc_get(struct mkvm_vcpu *vcpu);
void mkvm_tsc_set(struct mkvm_vcpu *vcpu, u64 val, bool host);
void mkvm_tsc_set_adjust(struct mkvm_vcpu *vcpu, u64 val, bool host);
void mkvm_tsc_set_offset(struct mkvm_vcpu *vcpu, s64 offset);
int mkvm_tsc_set_khz(u32 *where, unsigned long khz);

/* Guest TSC = host TSC + this. Any context. */
static inline u64 mkvm_vcpu_tsc_offset(struct mkvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->tsc_offset);
}

/* cpu/msr_filter.c */
struct mkvm_msr_filter;
int mkvm_msr_filter_set(struct mkvm *vm, const struct kvm_msr_filter *user);
void mkvm_msr_filter_free(struct mkvm_msr_filter *filter);
bool mkvm_msr_filter_allows(struct mkvm_vcpu *vcpu, u32 index, u32 access);
bool mkvm_msrs_allowed(struct mkvm_vcpu *vcpu, const u32 *index, u32 n);
u32 mkvm_msr_refusal(struct mkvm_vcpu *vcpu, u32 index, bool filtered);

/*
 * mkvm_msr_allowed - does userspace's filter let the guest have this register? x2APIC's always.
 * @access: KVM_MSR_FILTER_READ or KVM_MSR_FILTER_WRITE
 *
 * Context: may sleep.
 */
static inline bool mkvm_msr_allowed(struct mkvm_vcpu *vcpu, u32 index, u32 access)
{
	return likely(!rcu_access_pointer(vcpu->vm->msr_filter)) || mkvm_msr_filter_allows(vcpu, index, access);
}

/* explain/stats.c */
const char *mkvm_stat_name(u32 i, bool vcpu);
int mkvm_stats_fd(struct mkvm *vm, struct mkvm_vcpu *vcpu);

/* cpu/mce.c */
void mkvm_mce_reset(struct mkvm_vcpu *vcpu);
int mkvm_mce_setup(struct mkvm_vcpu *vcpu, u64 cap);
int mkvm_mce_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host);
int mkvm_mce_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host);
int mkvm_mce_inject(struct mkvm_vcpu *vcpu, const struct kvm_x86_mce *m);

/* cpu/cpuid.c */
int mkvm_cpuid_supported(struct kvm_cpuid2 __user *arg);
int mkvm_cpuid_emulated(struct kvm_cpuid2 __user *arg);
int mkvm_cpuid_set(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg);
int mkvm_cpuid_get(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg);
const struct kvm_cpuid_entry2 *mkvm_cpuid(struct mkvm_vcpu *vcpu, u32 leaf, u32 index);
bool mkvm_cpuid_has(struct mkvm_vcpu *vcpu, unsigned int feature);
void mkvm_cpuid_update(struct mkvm_vcpu *vcpu);
void mkvm_cpuid_setup(void);
bool mkvm_has_mwait(struct mkvm_vcpu *vcpu);

/* mem/memslot.c */
int mkvm_memslot_set(struct mkvm *vm, const struct kvm_userspace_memory_region *mem);
const struct mkvm_memslot *mkvm_gfn_to_slot(struct mkvm_vcpu *vcpu, u64 gfn);
void __user *mkvm_gpa_to_user(struct mkvm_vcpu *vcpu, u64 gpa, bool write);
const struct mkvm_memslot *mkvm_slot_by_id(struct mkvm *vm, u32 id);

/* mem/dirty_log.c */
#define MKVM_DIRTY_MANUAL_FLAGS (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
void mkvm_mark_dirty(struct mkvm_vcpu *vcpu, u64 gpa);
int mkvm_dirty_log_get(struct mkvm *vm, const struct kvm_dirty_log *log);
int mkvm_dirty_log_clear(struct mkvm *vm, const struct kvm_clear_dirty_log *log);

/* mem/tdp.c */
int mkvm_tdp_create(struct mkvm *vm);
void mkvm_tdp_destroy(struct mkvm *vm);
int mkvm_tdp_fault(struct mkvm_vcpu *vcpu, const struct mkvm_memslot *slot, u64 gpa, bool write);
void mkvm_tdp_zap_gfns(struct mkvm *vm, unsigned int as, u64 first, u64 end);
bool mkvm_tdp_write_protect(struct mkvm *vm, unsigned int as, u64 gfn, u64 mask);
void mkvm_tdp_flush(struct mkvm *vm);
void mkvm_tdp_free_pages(struct mkvm_vcpu *vcpu);
void mkvm_tdp_clone_path(struct mkvm *vm, u64 *from, u64 **tables, u64 gpa, u64 page_pa);
u64 mkvm_tdp_leaf(struct mkvm_vcpu *vcpu, u64 gfn);

#define MKVM_FAULT_MAPPED	0	/* run the guest again */
#define MKVM_FAULT_MMIO		1	/* no memory there */
#define MKVM_FAULT_ROM		2	/* a write to read-only memory: MMIO, too */

/* insn/skip.c */
int mkvm_skip_instruction(struct mkvm_vcpu *vcpu);
int mkvm_skip_and_trap(struct mkvm_vcpu *vcpu, u32 traps);
void mkvm_end_instruction(struct mkvm_vcpu *vcpu, u32 traps);
int mkvm_emulation_failed(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu);

/* insn/run_insn.c, insn/access.c, insn/walk.c */
int mkvm_emulate_exit(struct mkvm_vcpu *vcpu, enum mkvm_cause cause);
#define MKVM_NOT_DELIVERED 2
int mkvm_emulate_delivery(struct mkvm_vcpu *vcpu);
int mkvm_skip_by_decoding(struct mkvm_vcpu *vcpu);
enum mkvm_insn { MKVM_INSN_OTHER, MKVM_INSN_HYPERCALL, MKVM_INSN_RSM, MKVM_INSN_INT1, MKVM_INSN_INT3, MKVM_INSN_INTO,
		 MKVM_INSN_INT_N };
enum mkvm_insn mkvm_insn_at_rip(struct mkvm_vcpu *vcpu, u8 *vector);
bool mkvm_insn_is_emulated(struct mkvm_vcpu *vcpu);
bool mkvm_translate(struct mkvm_vcpu *vcpu, u64 la, u64 *gpa);
void mkvm_forget_io(struct mkvm_vcpu *vcpu);

/* What a walk of the guest's page tables found. */
struct mkvm_translation {
	u64 gpa;
	u64 all, any, leaf;	/* the entries of all levels, ANDed and ORed, and the last one */
	u32 error;		/* of the #PF */
};

#define MKVM_WALK_UNCHECKED BIT(31)	/* whatever the tables allow */
enum mkvm_emu_result mkvm_walk(struct mkvm_vcpu *vcpu, u64 la, u32 access, struct mkvm_translation *t);

/* mem/soft_tlb.c */
int mkvm_soft_begin(struct mkvm_vcpu *vcpu);
void mkvm_soft_flush(struct mkvm_vcpu *vcpu);
void mkvm_soft_free(struct mkvm_vcpu *vcpu);
int mkvm_exit_soft_fault(struct mkvm_vcpu *vcpu, u64 la, u32 error);
int mkvm_soft_fault_gpa(struct mkvm_vcpu *vcpu, u64 *gpa, bool write);
void mkvm_soft_mapped(struct mkvm_vcpu *vcpu);

u64 *mkvm_soft_space(struct mkvm_vcpu *vcpu, u64 *gpa);

/* mem/overlay.c */
bool mkvm_overlay_fault(struct mkvm_vcpu *vcpu, u64 gpa);
void mkvm_overlay_end(struct mkvm_vcpu *vcpu);
void mkvm_overlay_free(struct mkvm_vcpu *vcpu);

/* insn/iodev.c; true: an in-kernel device answered */
bool mkvm_kernel_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in, void *data);
bool mkvm_kernel_mmio(struct mkvm_vcpu *vcpu, u64 gpa, unsigned int len, bool write, void *data);
bool mkvm_fast_mmio(struct mkvm_vcpu *vcpu, u64 gpa);
int mkvm_ioeventfd_ioctl(struct mkvm *vm, const struct kvm_ioeventfd *arg);
int mkvm_coalesced_ioctl(struct mkvm *vm, const struct kvm_coalesced_mmio_zone *zone, bool add);
int mkvm_iodev_init(struct mkvm *vm);
void mkvm_iodev_destroy(struct mkvm *vm);

#endif
