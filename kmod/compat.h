/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat.h - kernel versions: one name for what 6.1 and 6.12 spell differently. Only this file
 * distinguishes them. Assembly files include it as well.
 */
#ifndef MKVM_COMPAT_H
#define MKVM_COMPAT_H

#include <linux/version.h>
#include <asm/nospec-branch.h>

#ifdef __ASSEMBLY__

/* Drops the return predictions that the guest has trained. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
#define MKVM_UNTRAIN_RET	UNTRAIN_RET_VM
#else
#define MKVM_UNTRAIN_RET	UNTRAIN_RET
#endif

/*
 * Clears CPU buffers before a VMX entry. Kernels that have both macros use this one's feature bit
 * for Intel's vulnerabilities; the other bit may stand for AMD's only.
 */
#ifdef CLEAR_CPU_BUFFERS
#define MKVM_VMX_CLEAR_CPU_BUFFERS	CLEAR_CPU_BUFFERS
#else
#define MKVM_VMX_CLEAR_CPU_BUFFERS	VM_CLEAR_CPU_BUFFERS
#endif

#else /* C */

#include <linux/eventfd.h>
#include <linux/kvm.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/syscore_ops.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>

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
