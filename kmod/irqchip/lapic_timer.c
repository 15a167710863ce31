// SPDX-License-Identifier: GPL-2.0
/*
 * lapic_timer.c - the local APIC's timer: one-shot, periodic, TSC deadline.
 *
 * State: the timer_* fields, deadline and the hrtimer of struct mkvm_lapic. The bus runs at 1
 * GHz, as KVM's does: one count lasts as many nanoseconds as the divisor says. The owner stops
 * the hrtimer before it changes what the callback reads; only a change between one-shot and
 * periodic is made while it runs, because the callback reads the mode when it fires.
 *
 * Intel SDM vol. 3, "APIC Timer".
 *
 * Read next: lapic.c, which decodes the registers.
 */
#include <linux/hrtimer.h>
#include <linux/kernel.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "mkvm.h"
#include "internal.h"
#include "lapic.h"
#include "compat.h"

/* A guest must not keep the host busy with a period of a few ns. Linux KVM has this bound. */
#define LAPIC_MIN_PERIOD_NS	200000ull

/*
 * Deadlines that are further away fire after this time, over 100 years, so that ktime cannot
 * overflow.
 */
#define LAPIC_MAX_DEADLINE_MS	(1ull << 42)

/* If the clock reaches a deadline before the TSC does, the timer checks again after this. */
#define LAPIC_MIN_RETRY_NS	1000ull

static u64 lapic_timer_period(const struct mkvm_lapic *apic)
{
	if (READ_ONCE(apic->timer_mode) != LAPIC_TIMER_PERIODIC)
		return apic->timer_period;
	return max_t(u64, apic->timer_period, LAPIC_MIN_PERIOD_NS);
}

/* Returns the ns until the guest's TSC reaches the deadline; 0: it has. */
static u64 lapic_deadline_ns(const struct mkvm_lapic *apic)
{
	u64 now = rdtsc() + mkvm_vcpu_tsc_offset(apic->vcpu);
	u64 deadline = READ_ONCE(apic->deadline);
	u64 khz = max_t(u64, tsc_khz, 1);
	u64 ms;

	if (deadline <= now)
		return 0;
	ms = (deadline - now) / khz;
	if (ms > LAPIC_MAX_DEADLINE_MS)
		return LAPIC_MAX_DEADLINE_MS * 1000000;
	/* rounded up: never before the deadline */
	return ms * 1000000 + DIV_ROUND_UP((deadline - now) % khz * 1000000, khz);
}

/* Context: hard interrupt. However late it is, it runs once. */
static enum hrtimer_restart lapic_timer_fire(struct hrtimer *timer)
{
	struct mkvm_lapic *apic = container_of(timer, struct mkvm_lapic, timer);

	if (apic->timer_mode == LAPIC_TIMER_DEADLINE) {
		u64 left = lapic_deadline_ns(apic);

		/* Unlike the TSC the clock is disciplined, so it may be early. */
		if (left) {
			left = max_t(u64, left, LAPIC_MIN_RETRY_NS);
			hrtimer_set_expires(timer, ktime_add_ns(ktime_get(), left));
			return HRTIMER_RESTART;
		}
		WRITE_ONCE(apic->deadline, 0);
	}
	mkvm_lapic_local_deliver(apic, APIC_LVTT);
	if (READ_ONCE(apic->timer_mode) != LAPIC_TIMER_PERIODIC)
		return HRTIMER_NORESTART;
	/* skips the periods that were missed */
	hrtimer_forward_now(timer, ns_to_ktime(lapic_timer_period(apic)));
	return HRTIMER_RESTART;
}

/* Context: the APIC is not yet published. */
void mkvm_lapic_timer_init(struct mkvm_lapic *apic)
{
	mkvm_hrtimer_setup(&apic->timer, lapic_timer_fire, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_HARD);
	apic->timer_mode = LAPIC_TIMER_ONESHOT;
	apic->timer_shift = 1;
}

/* Stops counting; on return no callback runs. Registers and deadline keep their values. Own. */
void mkvm_lapic_timer_stop(struct mkvm_lapic *apic)
{
	hrtimer_cancel(&apic->timer);
}

/*
 * mkvm_lapic_timer_start - count down
 * @count: the first count: TMICT or the rest of it; 0 fires a one-shot at once and is a whole
 *          period
 *         in periodic mode
 *
 * Later periods last for TMICT. Nothing counts if TMICT is 0 or the mode does not use it. Context:
 * own.
 */
void mkvm_lapic_timer_start(struct mkvm_lapic *apic, u32 count)
{
	u32 initial = lapic_get(apic, APIC_TMICT);
	u64 ns;

	mkvm_lapic_timer_stop(apic);
	apic->timer_period = (u64)initial << apic->timer_shift;
	if (!initial || apic->timer_mode > LAPIC_TIMER_PERIODIC)
		return;
	if (count >= initial || (!count && apic->timer_mode == LAPIC_TIMER_PERIODIC))
		ns = lapic_timer_period(apic);
	else
		ns = (u64)count << apic->timer_shift;
	hrtimer_start(&apic->timer, ktime_add_ns(ktime_get(), ns), HRTIMER_MODE_ABS_HARD);
}

/*
 * Returns TMCCT: TMICT less the whole ticks that have passed; 0: the timer does not count. Context:
 * own; any other thread gets a snapshot.
 */
u32 mkvm_lapic_timer_count(struct mkvm_lapic *apic)
{
	s64 left;
	u64 ticks;

	if (READ_ONCE(apic->timer_mode) > LAPIC_TIMER_PERIODIC || !hrtimer_active(&apic->timer))
		return 0;
	left = ktime_to_ns(ktime_sub(hrtimer_get_expires(&apic->timer), ktime_get()));
	if (left <= 0) {
		u64 period = lapic_timer_period(apic);

		/* the callback is late, but a periodic count has begun again */
		if (READ_ONCE(apic->timer_mode) == LAPIC_TIMER_ONESHOT || !period)
			return 0;
		left = period - (u64)-left % period;
	}
	ticks = DIV_ROUND_UP((u64)left, 1ull << apic->timer_shift);
	/* a period that was raised to the minimum starts above TMICT */
	return min_t(u64, ticks, lapic_get(apic, APIC_TMICT));
}

/*
 * mkvm_lapic_timer_set_mode - LVTT was written
 *
 * When the mode changes between one-shot and periodic, the count goes on and the new mode decides
 * what happens at its end. Any other change disarms the timer: Intel SDM vol. 3, "TSC-Deadline
 * Mode". The reserved mode never counts. Context: own.
 */
void mkvm_lapic_timer_set_mode(struct mkvm_lapic *apic)
{
	u32 mode = lapic_get(apic, APIC_LVTT) >> 17 & 3;

	if (mode == apic->timer_mode)
		return;
	if (mode > LAPIC_TIMER_PERIODIC || apic->timer_mode > LAPIC_TIMER_PERIODIC) {
		mkvm_lapic_timer_stop(apic);
		lapic_set(apic, APIC_TMICT, 0);
		WRITE_ONCE(apic->deadline, 0);
	}
	WRITE_ONCE(apic->timer_mode, mode);
}

/* TDCR was written: the remaining count goes on at the new rate. Own. */
void mkvm_lapic_timer_set_divide(struct mkvm_lapic *apic)
{
	u32 tdcr = lapic_get(apic, APIC_TDCR);
	/* the number in bits 3, 1 and 0: 0 divides by 2, 6 by 128, 7 by 1 */
	u32 shift = ((tdcr & 3) + (tdcr >> 1 & 4) + 1) & 7;
	u32 count = mkvm_lapic_timer_count(apic);

	if (shift == apic->timer_shift)
		return;
	if (!hrtimer_active(&apic->timer) || apic->timer_mode > LAPIC_TIMER_PERIODIC) {
		apic->timer_shift = shift;
		return;
	}
	mkvm_lapic_timer_stop(apic);
	apic->timer_shift = shift;
	mkvm_lapic_timer_start(apic, count);
}

/*
 * mkvm_lapic_timer_update - the deadline or the guest's TSC has changed: arm the timer again
 *
 * A deadline that has passed fires at once and then reads as 0. Context: own.
 */
void mkvm_lapic_timer_update(struct mkvm_lapic *apic)
{
	u64 ns;

	if (apic->timer_mode != LAPIC_TIMER_DEADLINE)
		return;
	mkvm_lapic_timer_stop(apic);
	if (!apic->deadline)
		return;
	ns = lapic_deadline_ns(apic);
	if (ns) {
		hrtimer_start(&apic->timer, ktime_add_ns(ktime_get(), ns), HRTIMER_MODE_ABS_HARD);
		return;
	}
	WRITE_ONCE(apic->deadline, 0);
	mkvm_lapic_local_deliver(apic, APIC_LVTT);
}
