/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lapic.h - the state of one local APIC, shared by lapic.c, lapic_timer.c, ipi.c
 * and apicv.c. All other files use only irqchip.h.
 *
 * Tags say who may access a field. (o): the owner, which is the vCPU's thread or the holder of
 * vcpu->mutex, writes it, and others read it with READ_ONCE. (a): any thread accesses it with
 * atomic operations. (c): it is constant after creation. (t): the owner writes it while the timer
 * is stopped, and the timer's callback reads it.
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
	 * (o), but IRR and TMR are (a). The register page: each register has the first 4 of its 16
	 * bytes, and the first KiB is the image of KVM_GET_LAPIC. It comes first in the struct and
	 * has kmalloc's alignment of powers of two, so that it can be the virtual-APIC page of a
	 * CPU that reads one.
	 */
	u32 regs[MKVM_LAPIC_SIZE / sizeof(u32)];

	unsigned long irr_words;	/* (a) bit w is clear only if IRR word w is empty */
	unsigned long isr_words;	/* (o) bit w is set if ISR word w is not empty */
	int highest_isr;		/* (o) highest vector in service, -1: none */
	u32 lent[8];			/* (o) requests that the CPU has in the guest: apicv.c */
	unsigned long lent_words;	/* (o) bit w is clear if word w of lent is empty */
	unsigned long given_words;	/* (o) words of IRR and ISR that the CPU's page has */
	seqcount_t moves;		/* (o) counts moves between IRR and lent: apicv.c */
	bool x2apic;			/* (o) derived from base */
	bool hw_enabled;		/* (o) derived from base */
	bool sw_enabled;		/* (o) bit 8 of SPIV */
	u64 base;			/* (o) MSR_IA32_APICBASE */
	u64 mmio_page;			/* (o) guest-physical address of the MMIO page, ~0: none */
	struct mkvm_vcpu *vcpu;		/* (c) */
	atomic_t errors;		/* (a) errors since the last write of ESR */
	u32 lowest_stamp;		/* (a) rises when lowest priority chooses it; may race */

	struct hrtimer timer;		/* (o) */
	u32 timer_mode;			/* (t) LVTT bits 18:17; 0 <-> 1 also while it runs */
	u32 timer_shift;		/* (t) one count takes 1 << timer_shift ns */
	u64 timer_period;		/* (t) ns from TMICT to 0 */
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

/* ipi.c: the ICR was written; own */
int mkvm_lapic_send_ipi(struct mkvm_lapic *apic, u32 icr, u32 dest, const char *origin);

/* lapic.c: records an error bit of ESR; any context */
void mkvm_lapic_error(struct mkvm_lapic *apic, u32 bit);

/* lapic_timer.c: TMICT, LVTT or TDCR was written; own */
void mkvm_lapic_timer_start(struct mkvm_lapic *apic, u32 count);
void mkvm_lapic_timer_set_mode(struct mkvm_lapic *apic);
void mkvm_lapic_timer_set_divide(struct mkvm_lapic *apic);

#endif
