/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lapic.h - the state of one local APIC, shared by lapic.c, lapic_timer.c, ipi.c
 * and vapic.c. All other files use only irqchip.h.
 *
 * Tags: (o) the owner writes, which is the vCPU's thread or the holder of
 * vcpu->mutex; others read with READ_ONCE. (a) any thread, with atomic
 * operations. (t) the timer's owner writes while the timer is stopped; its
 * callback reads.
 *
 * Read next: lapic.c.
 */
#ifndef MKVM_LAPIC_H
#define MKVM_LAPIC_H

#include <linux/atomic.h>
#include <linux/bitops.h>
#include <linux/hrtimer.h>
#include <linux/seqlock.h>
#include <linux/types.h>
#include <asm/apicdef.h>

#include "irqchip.h"

struct mkvm_lapic {
	/*
	 * The register page, each register in the first 4 of its 16 bytes; its
	 * first KiB is the image of KVM_GET_LAPIC. (o), but IRR and TMR are
	 * (a). First in the struct and with kmalloc's alignment of powers of
	 * two, so that a CPU that reads a virtual APIC page can be given it.
	 */
	u32 regs[MKVM_LAPIC_SIZE / sizeof(u32)];

	unsigned long irr_words;	/* (a) bit w clear: IRR word w is empty */
	unsigned long isr_words;	/* (o) bit w: ISR word w is not empty */
	int highest_isr;		/* (o) vector, -1: none in service */
	u32 lent[8];			/* (o) of IRR: what the CPU has while it runs the guest, see vapic.c */
	unsigned long lent_words;	/* (o) bit w clear: word w of it is empty */
	unsigned long given_words;	/* (o) of IRR and ISR: what the CPU's page has */
	seqcount_t moves;		/* (o) requests go between IRR and lent, see vapic.c */
	bool x2apic;			/* (o) from base */
	bool hw_enabled;		/* (o) from base */
	bool sw_enabled;		/* (o) bit 8 of SPIV */
	u64 base;			/* (o) MSR_IA32_APICBASE */
	u64 mmio_page;			/* (o) where MMIO answers, ~0: nowhere */
	struct mkvm_vcpu *vcpu;		/* constant */
	atomic_t errors;		/* (a) errors since the last write of ESR */
	u32 lowest_stamp;		/* (a) how recently chosen by lowest priority; races are harmless */

	struct hrtimer timer;
	u32 timer_mode;			/* (t) LVTT bits 18:17; 0 <-> 1 also while it runs */
	u32 timer_shift;		/* (t) a count takes 1 << timer_shift ns */
	u64 timer_period;		/* (t) ns of a whole TMICT */
	u64 deadline;			/* (t) guest TSC, 0: disarmed; the callback clears it */
};

enum { LAPIC_TIMER_ONESHOT, LAPIC_TIMER_PERIODIC, LAPIC_TIMER_DEADLINE, LAPIC_TIMER_RESERVED };

static inline u32 lapic_get(const struct mkvm_lapic *apic, u32 reg)
{
	return READ_ONCE(apic->regs[reg / sizeof(u32)]);
}

static inline void lapic_set(struct mkvm_lapic *apic, u32 reg, u32 val)
{
	WRITE_ONCE(apic->regs[reg / sizeof(u32)], val);
}

/* ipi.c */
int mkvm_lapic_send_ipi(struct mkvm_lapic *apic, u32 icr, u32 dest, const char *origin);

/* lapic.c: an error bit of ESR happened; any context */
void mkvm_lapic_error(struct mkvm_lapic *apic, u32 bit);

/* lapic_timer.c */
void mkvm_lapic_timer_start(struct mkvm_lapic *apic, u32 count);
void mkvm_lapic_timer_set_mode(struct mkvm_lapic *apic);
void mkvm_lapic_timer_set_divide(struct mkvm_lapic *apic);

#endif
