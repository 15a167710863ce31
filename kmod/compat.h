/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat.h - kernel versions: one name for what 6.1, 6.12 and 7.3 spell differently. Only this
 * file and Kbuild distinguish them. Assembly files include it as well.
 */
#ifndef MKVM_COMPAT_H
#define MKVM_COMPAT_H

#include <linux/version.h>
#include <asm/nospec-branch.h>

/*
 * The oldest kernel that works, and the newest series that was built and run. Kbuild reads both: it
 * refuses an older kernel and warns of a newer one.
 */
#define MKVM_OLDEST_KERNEL	KERNEL_VERSION(6, 1, 0)
#define MKVM_NEWEST_TESTED	KERNEL_VERSION(7, 3, 0)

#ifdef __ASSEMBLY__

/* Drops the return predictions that the guest has trained. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#define MKVM_UNTRAIN_RET	UNTRAIN_RET_VM
#else
#define MKVM_UNTRAIN_RET	UNTRAIN_RET
#endif

/* The feature bit by which the kernel's own KVM fills the return predictions after #VMEXIT. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#define MKVM_SVM_RSB_FEATURE	X86_FEATURE_RSB_VMEXIT
#else
#define MKVM_SVM_RSB_FEATURE	X86_FEATURE_RETPOLINE
#endif

/*
 * Clear CPU buffers before an entry. Up to 6.18, kernels that have both macros use
 * CLEAR_CPU_BUFFERS's feature bit for Intel's vulnerabilities; the other bit may stand for AMD's
 * only. Later kernels have one bit for both vendors, and another for CPUs where only a guest with
 * access to MMIO can read the buffers; mkvm does not ask which guest has that.
 */
#ifndef VM_CLEAR_CPU_BUFFERS
#define MKVM_SVM_CLEAR_CPU_BUFFERS							\
	ALTERNATIVE_2 "", __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO,	\
		      __CLEAR_CPU_BUFFERS, X86_FEATURE_CLEAR_CPU_BUF_VM
#define MKVM_VMX_CLEAR_CPU_BUFFERS	MKVM_SVM_CLEAR_CPU_BUFFERS
#else
#define MKVM_SVM_CLEAR_CPU_BUFFERS	VM_CLEAR_CPU_BUFFERS
#ifdef CLEAR_CPU_BUFFERS
#define MKVM_VMX_CLEAR_CPU_BUFFERS	CLEAR_CPU_BUFFERS
#else
#define MKVM_VMX_CLEAR_CPU_BUFFERS	VM_CLEAR_CPU_BUFFERS
#endif
#endif

#else /* C */

#include <linux/eventfd.h>
#include <linux/hrtimer.h>
#include <linux/kvm.h>
#include <linux/mmu_notifier.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/syscore_ops.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/processor.h>
#include <asm/tlbflush.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#include <asm/cpuid/api.h>	/* which asm/processor.h included once */
#endif

/* Renamed in 6.16. */
#ifdef rdmsrq
#undef rdmsrl
#undef rdmsrl_safe
#undef wrmsrl
#undef wrmsrl_safe
#define rdmsrl(msr, val)	rdmsrq(msr, val)
#define rdmsrl_safe(msr, p)	rdmsrq_safe(msr, p)
#define wrmsrl(msr, val)	wrmsrq(msr, val)
#define wrmsrl_safe(msr, val)	wrmsrq_safe(msr, val)
#endif

/*
 * The VMCB's field that enables nested paging, renamed in 7.0. The structure is complete where
 * asm/svm.h is included (svm/svm.h).
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define MKVM_VMCB_MISC_CTL	misc_ctl
#define MKVM_VMCB_NP_ENABLE	SVM_MISC_ENABLE_NP
#else
#define MKVM_VMCB_MISC_CTL	nested_ctl
#define MKVM_VMCB_NP_ENABLE	SVM_NESTED_CTL_NP_ENABLE
#endif

/* What callbacks return that ask for accessed bits: int, and bool in newer kernels. */
typedef typeof(((struct mmu_notifier_ops *)NULL)->test_young(NULL, NULL, 0)) mkvm_young_t;

/* Prepares a timer; it does not run yet. */
static inline void mkvm_hrtimer_setup(struct hrtimer *timer,
				      enum hrtimer_restart (*function)(struct hrtimer *),
				      clockid_t clock, enum hrtimer_mode mode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	hrtimer_setup(timer, function, clock, mode);
#else
	hrtimer_init(timer, clock, mode);
	timer->function = function;
#endif
}

/* Whether the module was built for a series newer than the newest that was tested. */
static inline bool mkvm_kernel_is_untested(void)
{
	return LINUX_VERSION_CODE >= MKVM_NEWEST_TESTED + KERNEL_VERSION(0, 1, 0);
}

/*
 * The kernel has these since 6.8. The struct begins with struct kvm_userspace_memory_region; the
 * rest is for guest_memfd, which needs a flag.
 */
#ifndef KVM_SET_USER_MEMORY_REGION2
#define KVM_CAP_USER_MEMORY2 231
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, __u64[20])
#endif

/* Since 6.10 the field's name warns that it must be read only once. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#define mkvm_immediate_exit(run) READ_ONCE((run)->immediate_exit__unsafe)
#else
#define mkvm_immediate_exit(run) READ_ONCE((run)->immediate_exit)
#endif

/* Adds one to the eventfd. Context: any but a wake-up from another eventfd. */
static inline void mkvm_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/*
 * Writes CR4 without the kernel's knowledge: it must have its old value again before interrupts
 * are on, because the kernel writes CR4 from a copy of its own. The kernel's function is not
 * exported from 6.19 on. Context: interrupts off.
 */
static inline void mkvm_write_cr4(unsigned long cr4)
{
	asm volatile("mov %0, %%cr4" : : "r" (cr4) : "memory");
}

/*
 * Sets CR4.VMXE to stay set, and keeps Intel Processor Trace off, which VMX operation would stop;
 * or ends both. A standalone module cannot: see vmx/window.h. Context: preemption off.
 */
static inline void mkvm_hold_vmxe(bool on)
{
#ifndef MKVM_STANDALONE
	if (on) {
		intel_pt_handle_vmx(1);
		cr4_set_bits(X86_CR4_VMXE);
	} else {
		cr4_clear_bits(X86_CR4_VMXE);
		intel_pt_handle_vmx(0);
	}
#endif
}

/* Whether the host takes events by FRED, and thus has no IDT vectors that could be called. */
static inline bool mkvm_host_has_fred(void)
{
#ifdef X86_FEATURE_FRED
	return cpu_feature_enabled(X86_FEATURE_FRED);
#else
	return false;
#endif
}

/*
 * Handles a machine check as if it had interrupted the program that runs the guest: then the
 * kernel may kill that program but need not panic.
 */
static inline void mkvm_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = { .cs = 3, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}

/* Reports a quiescent state to RCU: a guest holds no RCU references. Context: interrupts off. */
static inline void mkvm_rcu_note_guest(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	rcu_virt_note_context_switch();
#else
	rcu_virt_note_context_switch(smp_processor_id());
#endif
}

/*
 * For get_user_pages: an access to a page that NUMA balancing has taken access from is a hinting
 * fault, as if the thread had made it. Before 6.6 each was, unless its flags said otherwise.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define MKVM_FOLL_NUMA FOLL_HONOR_NUMA_FAULT
#else
#define MKVM_FOLL_NUMA 0
#endif

/*
 * mkvm_user_work - do the work that the kernel defers to a thread's return to userspace
 *
 * A thread that stays in KVM_RUN must do it here: signals, the scheduler, and what
 * TIF_NOTIFY_RESUME announces (CPU limits and timers on CPU clocks, other task work, memory.high,
 * NUMA balancing).
 *
 * From 6.18 on the kernel's function needs no struct kvm_vcpu. A kernel built without KVM lacks
 * the function: there the system call ends, and the kernel itself restarts it when the work is
 * done, or makes it fail with EINTR if a signal has arrived meanwhile.
 *
 * Context: may sleep, no locks held. Return: 0; -EINTR if a signal is pending; -ERESTARTNOHAND if
 * KVM_RUN must end here and be restarted.
 */
#if defined(CONFIG_VIRT_XFER_TO_GUEST_WORK)
#include <linux/entry-virt.h>
static inline int mkvm_user_work(void)
{
	return xfer_to_guest_mode_handle_work();
}
#elif defined(CONFIG_KVM_XFER_TO_GUEST_WORK)
#include <linux/entry-kvm.h>
int mkvm_user_work(void);	/* cpu/user_work.c */
#else
#include <linux/tick.h>
#define XFER_TO_GUEST_MODE_WORK \
	(_TIF_NEED_RESCHED | _TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL | _TIF_NOTIFY_RESUME)

static inline void xfer_to_guest_mode_prepare(void)
{
	tick_nohz_user_enter_prepare();
}

static inline int mkvm_user_work(void)
{
	if (signal_pending(current))
		return -EINTR;
	if (need_resched())
		schedule();
	if (!test_thread_flag(TIF_NOTIFY_RESUME))
		return 0;
	set_thread_flag(TIF_NOTIFY_SIGNAL);	/* without a signal it restarts the call */
	return -ERESTARTNOHAND;
}
#endif

/*
 * Whether there is such work. Any context; with interrupts off the answer holds until they are on.
 */
static inline bool mkvm_user_work_pending(void)
{
	return read_thread_flags() & XFER_TO_GUEST_MODE_WORK;
}

/*
 * Requests a branch prediction barrier before this CPU next runs userspace, if the host's
 * mitigations ask for one between a guest and the program that runs it. Context: preemption off.
 */
static inline void mkvm_guard_userspace(void)
{
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
}

/*
 * Callbacks for suspend on the last CPU. Newer kernels pass them a pointer. That change was also
 * backported to stable series, so Kbuild examines the header instead of the version.
 */
#ifdef MKVM_SYSCORE_HAS_DATA
#define MKVM_SYSCORE_ARGS void *unused
struct mkvm_syscore {
	struct syscore_ops ops;
	struct syscore core;
};

static inline void mkvm_syscore_register(struct mkvm_syscore *s)
{
	s->core.ops = &s->ops;
	register_syscore(&s->core);
}

static inline void mkvm_syscore_unregister(struct mkvm_syscore *s)
{
	unregister_syscore(&s->core);
}
#else
#define MKVM_SYSCORE_ARGS void
struct mkvm_syscore {
	struct syscore_ops ops;
};

static inline void mkvm_syscore_register(struct mkvm_syscore *s)
{
	register_syscore_ops(&s->ops);
}

static inline void mkvm_syscore_unregister(struct mkvm_syscore *s)
{
	unregister_syscore_ops(&s->ops);
}
#endif

#endif
#endif
