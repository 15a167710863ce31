/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cpu.h - the front door of the virtual CPU: running it, its events, its registers. mkvm.h
 * includes it. internal.h has what only the files of cpu/ call.
 *
 * The path of one KVM_RUN:
 *
 *   mkvm_vcpu_run (run.c)             called by vcpu.c
 *     -> mkvm_accept_init_sipi (mp_state.c), sleep while not RUNNABLE
 *     -> inject.c                     chooses the event that goes in next
 *     -> mkvm_hw->run                 svm/ or vmx/ runs the guest until its next exit
 *     -> mkvm_hw->handle_exit         the vendor's table calls mkvm_handle_* (exit.c)
 *     -> next round, or out to userspace by mkvm_report_*
 *
 * Other threads change a vCPU through pending.c alone: mkvm_vcpu_post sets a bit, mkvm_vcpu_kick
 * makes the vCPU look at it.
 *
 * "Own thread" means the thread that holds vcpu->mutex, with the vCPU loaded; it may sleep.
 *
 * Read next: run.c, then pending.c.
 */
#ifndef MKVM_CPU_H
#define MKVM_CPU_H

#include <asm/debugreg.h>

/* run.c: KVM_RUN. Own thread. Return: 0, with run->exit_reason, or -errno. */
int mkvm_vcpu_run(struct mkvm_vcpu *vcpu);

/* Reports KVM_EXIT_INTR for a thread that must leave KVM_RUN. Own thread. Return: @why (-errno). */
static inline int mkvm_interrupted(struct mkvm_vcpu *vcpu, int why)
{
	vcpu->stats[MKVM_STAT_SIGNAL_EXITS]++;
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return why;
}

/* ---- pending.c: what other threads ask of a vCPU. Any context. ---- */

void mkvm_vcpu_kick(struct mkvm_vcpu *vcpu);	/* makes it look at its pending word soon */
void mkvm_vcpu_post(struct mkvm_vcpu *vcpu, enum mkvm_pending bit);	/* INIT, NMI, SMI; kicks */

/* Sets a bit that userspace does not see, without a kick: MKVM_PEND_EVENT, _MSRS or _REPORT. */
static inline void mkvm_pending_set(struct mkvm_vcpu *vcpu, enum mkvm_pending bit)
{
	set_bit(bit, &vcpu->pending);
}

/* ---- mp_state.c. Own thread. ---- */

void mkvm_vcpu_reset(struct mkvm_vcpu *vcpu, bool init);	/* power-up, or INIT */
void mkvm_accept_init_sipi(struct mkvm_vcpu *vcpu);		/* takes a pending INIT or SIPI */
int mkvm_vcpu_set_mp_state(struct mkvm_vcpu *vcpu, u32 state);	/* KVM_SET_MP_STATE */

/*
 * ---- exit.c: handlers that the vendors' exit tables name. Own thread, interrupts on. ----
 *
 * Return: 1 to enter the guest again, 0 to exit to userspace, or -errno.
 */
int mkvm_handle_halt(struct mkvm_vcpu *vcpu);		/* HLT */
int mkvm_handle_cpuid(struct mkvm_vcpu *vcpu);
int mkvm_handle_monitor(struct mkvm_vcpu *vcpu);
int mkvm_handle_mwait(struct mkvm_vcpu *vcpu);
int mkvm_handle_hypercall(struct mkvm_vcpu *vcpu);	/* VMMCALL or VMCALL */
int mkvm_handle_mov_dr(struct mkvm_vcpu *vcpu, unsigned int dr, bool write);
int mkvm_handle_rdmsr(struct mkvm_vcpu *vcpu);
int mkvm_handle_wrmsr(struct mkvm_vcpu *vcpu);
int mkvm_handle_xsetbv(struct mkvm_vcpu *vcpu);
int mkvm_handle_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in);
int mkvm_handle_tdp_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write, bool fetch);
/* on a page table */
int mkvm_handle_walk_fault(struct mkvm_vcpu *vcpu, u64 gpa, bool write);
int mkvm_handle_intercepted(struct mkvm_vcpu *vcpu, enum mkvm_intercept what, unsigned int number);
int mkvm_handle_task_switch(struct mkvm_vcpu *vcpu);
int mkvm_handle_triple_fault(struct mkvm_vcpu *vcpu);
int mkvm_handle_rsm(struct mkvm_vcpu *vcpu);		/* smm.c */
/* the exit itself was all there was to do */
int mkvm_handle_nothing(struct mkvm_vcpu *vcpu);
int mkvm_handle_host_interrupt(struct mkvm_vcpu *vcpu);
int mkvm_handle_ud(struct mkvm_vcpu *vcpu);		/* raises #UD */
int mkvm_handle_gp(struct mkvm_vcpu *vcpu);		/* raises #GP(0) */

/* Exits to userspace that the vendors report: fill in vcpu->run and return 0. */
int mkvm_report_fail_entry(struct mkvm_vcpu *vcpu, u64 reason);	/* KVM_EXIT_FAIL_ENTRY */
int mkvm_report_unknown(struct mkvm_vcpu *vcpu, u64 code);	/* KVM_EXIT_UNKNOWN */
int mkvm_report_internal_error(struct mkvm_vcpu *vcpu, u32 suberror, const u64 *data, u32 n);
/* debug.c: KVM_EXIT_DEBUG */
int mkvm_report_debug(struct mkvm_vcpu *vcpu, u8 vector, u64 dr6);

/* ---- inject.c: chooses the next event. Own thread, unless a line says otherwise. ---- */

#define MKVM_DR7_GD BIT(13)
/* The bits of DR6 that tell why #DB was raised. AMD APM vol. 2, "Debug-Status Register (DR6)". */
#define MKVM_DR6_CAUSES (DR_TRAP_BITS | MKVM_DR6_BD | DR_STEP | DR_SWITCH)
void mkvm_queue_exception(struct mkvm_vcpu *vcpu, u8 vector, bool has_error, u32 error);
void mkvm_queue_page_fault(struct mkvm_vcpu *vcpu, u64 cr2, u32 error);
bool mkvm_has_extint(struct mkvm_vcpu *vcpu);	/* does the PIC or KVM_INTERRUPT ask? */
/* Why the next interrupt or NMI does not go in now; MKVM_HOLD_NONE if none waits. Any context. */
enum mkvm_hold mkvm_interrupt_waits(struct mkvm_vcpu *vcpu, int *vector);
enum mkvm_hold mkvm_nmi_waits(struct mkvm_vcpu *vcpu);

/* Only faults set RFLAGS.RF in the handler's frame. AMD APM vol. 2, "Exception Types". */
static inline bool mkvm_is_fault(u8 vector)
{
	return vector != X86_TRAP_DB && vector != X86_TRAP_BP && vector != X86_TRAP_OF &&
	       vector != X86_TRAP_DF && vector != X86_TRAP_MC;
}

/* ---- events.c: KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS. Own thread. ---- */

void mkvm_events_seen(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev); /* after a GET */
void mkvm_events_get(struct mkvm_vcpu *vcpu, struct kvm_vcpu_events *ev);
int mkvm_events_set(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev);

/* ---- debug.c: breakpoints and single steps, the guest's and userspace's. Own thread. ---- */

#define MKVM_GUESTDBG_FLAGS                                                         \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |   \
	 KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
	 KVM_GUESTDBG_BLOCKIRQ)
enum mkvm_watch { MKVM_WATCH_READ, MKVM_WATCH_WRITE, MKVM_WATCH_PORT };
int mkvm_set_guest_debug(struct mkvm_vcpu *vcpu, const struct kvm_guest_debug *dbg);
bool mkvm_debug_takes(struct mkvm_vcpu *vcpu, u8 vector);	/* is #DB or #BP userspace's? */
bool mkvm_watching(struct mkvm_vcpu *vcpu);			/* is any breakpoint enabled? */
u32 mkvm_breakpoints_met(struct mkvm_vcpu *vcpu, enum mkvm_watch how, u64 addr, unsigned int len);
void mkvm_debug_trap(struct mkvm_vcpu *vcpu, u32 traps);	/* raises or reports #DB */

/* ---- regs.c: registers for userspace, and writes of control registers. Own thread. ---- */

extern u64 mkvm_host_xcr0;	/* features of XSAVE that the host has enabled */
#define MKVM_GUEST_XCR0                                                               \
	(mkvm_host_xcr0 & (XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM | \
			   XFEATURE_MASK_AVX512 | XFEATURE_MASK_PKRU))
void mkvm_regs_setup(void);	/* at load */
void mkvm_regs_get(struct mkvm_vcpu *vcpu, struct kvm_regs *regs);
void mkvm_regs_set(struct mkvm_vcpu *vcpu, const struct kvm_regs *regs);
void mkvm_sregs_get(struct mkvm_vcpu *vcpu, struct kvm_sregs *sregs);
int mkvm_sregs_set(struct mkvm_vcpu *vcpu, const struct kvm_sregs *sregs);
void mkvm_fpu_get(struct mkvm_vcpu *vcpu, struct kvm_fpu *fpu);
int mkvm_fpu_set(struct mkvm_vcpu *vcpu, const struct kvm_fpu *fpu);
void mkvm_xcrs_get(struct mkvm_vcpu *vcpu, struct kvm_xcrs *xcrs);
int mkvm_xcrs_set(struct mkvm_vcpu *vcpu, const struct kvm_xcrs *xcrs);
void mkvm_update_pkru(struct mkvm_vcpu *vcpu);	/* after a change of CR4.PKE or of the CPUID */
void mkvm_debugregs_get(struct mkvm_vcpu *vcpu, struct kvm_debugregs *regs);
int mkvm_debugregs_set(struct mkvm_vcpu *vcpu, const struct kvm_debugregs *regs);
u64 mkvm_get_cr8(struct mkvm_vcpu *vcpu);
int mkvm_set_cr8(struct mkvm_vcpu *vcpu, u64 val);		/* return 1: the value raises #GP */
int mkvm_cr_write(struct mkvm_vcpu *vcpu, int cr, u64 val);	/* likewise; the guest's MOV */
bool mkvm_cr4_valid(struct mkvm_vcpu *vcpu, u64 cr4);

/* ---- msr.c, msr_filter.c: model-specific registers. Own thread; ioctls of the VM sleep. ---- */

int mkvm_msr_index_list(struct kvm_msr_list __user *list, bool features);
int mkvm_msrs_ioctl(struct mkvm_vcpu *vcpu, struct kvm_msrs __user *arg, bool set);
struct mkvm_msr_filter;
int mkvm_msr_filter_set(struct mkvm *vm, const struct kvm_msr_filter *user);
void mkvm_msr_filter_free(struct mkvm_msr_filter *filter);
bool mkvm_msr_filter_allows(struct mkvm_vcpu *vcpu, u32 index, u32 access);
bool mkvm_msrs_allowed(struct mkvm_vcpu *vcpu, const u32 *index, u32 n); /* all, both ways */

/*
 * mkvm_msr_allowed - whether userspace's filter allows the guest an access to this register
 * @access: KVM_MSR_FILTER_READ or KVM_MSR_FILTER_WRITE
 *
 * The registers of x2APIC are always allowed. Context: may sleep.
 */
static inline bool mkvm_msr_allowed(struct mkvm_vcpu *vcpu, u32 index, u32 access)
{
	return likely(!rcu_access_pointer(vcpu->vm->msr_filter)) ||
	       mkvm_msr_filter_allows(vcpu, index, access);
}

/* ---- tsc.c: the guest's TSC. Own thread, but for mkvm_tsc_init and mkvm_tsc_set_khz. ---- */

void mkvm_tsc_init(struct mkvm *vm);
void mkvm_tsc_create(struct mkvm_vcpu *vcpu);
void mkvm_tsc_set_offset(struct mkvm_vcpu *vcpu, s64 offset);	/* cycles, KVM_VCPU_TSC_OFFSET */
int mkvm_tsc_set_khz(u32 *where, unsigned long khz);		/* of a VM or of a vCPU */

/* The guest's TSC less the host's, in cycles. Any context. */
static inline u64 mkvm_vcpu_tsc_offset(struct mkvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->tsc.offset);
}

/* ---- mce.c: machine checks. Own thread. ---- */

int mkvm_mce_setup(struct mkvm_vcpu *vcpu, u64 cap);	/* KVM_X86_SETUP_MCE */
/* KVM_X86_SET_MCE */
int mkvm_mce_inject(struct mkvm_vcpu *vcpu, const struct kvm_x86_mce *m);

/* ---- cpuid.c. Own thread for calls with a vCPU; the ioctls may sleep. ---- */

void mkvm_cpuid_setup(void);	/* at load: what the CPU and the module can offer */
int mkvm_cpuid_supported(struct kvm_cpuid2 __user *arg);	/* KVM_GET_SUPPORTED_CPUID */
int mkvm_cpuid_emulated(struct kvm_cpuid2 __user *arg);		/* KVM_GET_EMULATED_CPUID */
int mkvm_cpuid_set(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg);
int mkvm_cpuid_get(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg);
void mkvm_cpuid_update(struct mkvm_vcpu *vcpu);	/* after KVM_SET_CPUID2: what follows from it */
bool mkvm_cpuid_has(struct mkvm_vcpu *vcpu, unsigned int feature);	/* X86_FEATURE_* */

#endif
