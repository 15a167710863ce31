/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - functions that only the files of cpu/ call. The front door is cpu.h.
 *
 * All of them are for the vCPU's own thread, or the holder of vcpu->mutex, unless a line says
 * otherwise.
 *
 * Read next: run.c.
 */
#ifndef MKVM_CPU_INTERNAL_H
#define MKVM_CPU_INTERNAL_H

#include "hw_ops.h"

/* ---- pending.c ---- */

unsigned long mkvm_pending_take_init_sipi(struct mkvm_vcpu *vcpu);	/* return: the bits taken */
void mkvm_pending_take_smi(struct mkvm_vcpu *vcpu);
void mkvm_pending_take_nmi(struct mkvm_vcpu *vcpu, const char *how);
void mkvm_pending_merge_nmis(struct mkvm_vcpu *vcpu);	/* two that wait become one */
void mkvm_pending_drop_nmis(struct mkvm_vcpu *vcpu);
void mkvm_pending_seen(struct mkvm_vcpu *vcpu, unsigned long bits);	/* by userspace */
void mkvm_pending_restore(struct mkvm_vcpu *vcpu, enum mkvm_pending bit, bool set);
void mkvm_pending_restore_nmis(struct mkvm_vcpu *vcpu, unsigned int nr);

/* Clears a bit that userspace does not see. Return: whether it was set. */
static inline bool mkvm_pending_take(struct mkvm_vcpu *vcpu, enum mkvm_pending bit)
{
	return test_and_clear_bit(bit, &vcpu->pending);
}

/* ---- mp_state.c ---- */

int mkvm_halt(struct mkvm_vcpu *vcpu);		/* HLT; return as handle_exit */
void mkvm_wake(struct mkvm_vcpu *vcpu, const char *why);	/* HALTED becomes RUNNABLE */
bool mkvm_vcpu_runnable(struct mkvm_vcpu *vcpu);
int mkvm_vcpu_block(struct mkvm_vcpu *vcpu);	/* sleeps; return: 0, or -EINTR for a signal */

/* ---- exit.c ---- */

/* KVM_EXIT_SHUTDOWN or a triple fault event */
int mkvm_report_shutdown(struct mkvm_vcpu *vcpu);

/* ---- inject.c, events.c ---- */

void mkvm_queue_machine_check(struct mkvm_vcpu *vcpu);
void mkvm_payload_settle(struct mkvm_vcpu *vcpu);
void mkvm_events_inject(struct mkvm_vcpu *vcpu);	/* before each entry with work */
void mkvm_trace_waits(struct mkvm_vcpu *vcpu, bool irq, bool nmi);
bool mkvm_wakes_halted(struct mkvm_vcpu *vcpu);
bool mkvm_ready_for_user_interrupt(struct mkvm_vcpu *vcpu);
bool mkvm_user_window_open(struct mkvm_vcpu *vcpu);
int mkvm_interrupt_get(struct mkvm_vcpu *vcpu);		/* the vector in delivery, or -1 */
void mkvm_interrupt_set(struct mkvm_vcpu *vcpu, u8 vector);
void mkvm_restore_in_delivery(struct mkvm_vcpu *vcpu, enum mkvm_event_type type, u8 vector);
bool mkvm_events_valid(struct mkvm_vcpu *vcpu, const struct kvm_vcpu_events *ev);

static inline void mkvm_queue_gp(struct mkvm_vcpu *vcpu)
{
	mkvm_queue_exception(vcpu, X86_TRAP_GP, true, 0);
}

/*
 * ---- smm.c: SMI and RSM ----
 *
 * The state-save area describes the I/O instruction that an SMI follows as port << 16 | size << 4 |
 * MKVM_SMM_IO_*.
 */
#define MKVM_SMM_IO_IN		BIT(0)
#define MKVM_SMM_IO_VALID	BIT(1)
void mkvm_smm_set(struct mkvm_vcpu *vcpu, bool smm);	/* also switches the address space */
int mkvm_accept_smi(struct mkvm_vcpu *vcpu, u32 io);

/* ---- regs.c ---- */

/* The segment registers, and their fields in struct kvm_sregs and in the state-save areas. */
#define MKVM_SEGMENTS(X) \
	X(CS, cs) X(DS, ds) X(ES, es) X(FS, fs) X(GS, gs) X(SS, ss) X(TR, tr) X(LDTR, ldt)

int mkvm_xcr_write(struct mkvm_vcpu *vcpu, u32 index, u64 val);	/* 1: the value raises #GP */
u64 mkvm_get_apic_base(struct mkvm_vcpu *vcpu);
int mkvm_set_apic_base(struct mkvm_vcpu *vcpu, u64 base, bool host);
bool mkvm_efer_valid(struct mkvm_vcpu *vcpu, u64 efer);

/*
 * ---- msr.c, msr_filter.c, mce.c ----
 *
 * A get or set returns 0, or 1 for an MSR that does not exist or a value that it does not accept.
 * @host: for userspace, which may write more than the guest.
 */
int mkvm_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host);
int mkvm_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host);
bool mkvm_msr_hidden(struct mkvm_vcpu *vcpu, u32 index);	/* by the guest's CPUID */
void mkvm_msr_reset(struct mkvm_vcpu *vcpu);
u32 mkvm_msr_refusal(struct mkvm_vcpu *vcpu, u32 index, bool filtered);	/* KVM_MSR_EXIT_REASON_* */
void mkvm_mce_reset(struct mkvm_vcpu *vcpu);
int mkvm_mce_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host);
int mkvm_mce_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host);

/* ---- tsc.c: values are in cycles of the guest's TSC ---- */

u64 mkvm_tsc_get(struct mkvm_vcpu *vcpu);
void mkvm_tsc_set(struct mkvm_vcpu *vcpu, u64 val, bool host);
void mkvm_tsc_set_adjust(struct mkvm_vcpu *vcpu, u64 val, bool host);

/* ---- cpuid.c ---- */

const struct kvm_cpuid_entry2 *mkvm_cpuid(struct mkvm_vcpu *vcpu, u32 leaf, u32 index);
bool mkvm_has_mwait(struct mkvm_vcpu *vcpu);

/* ---- regs.c, cpuid.c: for fpu_own.c; any context ---- */

bool mkvm_mxcsr_valid(u32 mxcsr);
u32 mkvm_xsave_component(unsigned int i, u32 *offset);

#endif
