/* SPDX-License-Identifier: GPL-2.0 */
/*
 * time.h - userspace stand-ins for ktime and hrtimer over a fake clock.
 *
 * Time stands still until shim_clock_advance() moves it; that runs the timers
 * that expire on the way, in their order, each at its own expiry, as hard
 * interrupts. shim_clock_jump() moves the clock first and runs the timers late,
 * as after a suspended host. shim_hrtimer_calls counts the callbacks, to show
 * that their number is bounded.
 */
#ifndef SHIM_TIME_H
#define SHIM_TIME_H

#include "sync.h"

typedef s64 ktime_t;

#define NSEC_PER_USEC	1000L
#define NSEC_PER_MSEC	1000000L
#define NSEC_PER_SEC	1000000000L
#define USEC_PER_SEC	1000000L
#define MSEC_PER_SEC	1000L
#define KTIME_MAX	S64_MAX

static __maybe_unused s64 shim_now = 1000000000;	/* ns */
static __maybe_unused u64 shim_hrtimer_calls;

static inline s64 shim_ktime_sat(__int128 t) { return t > KTIME_MAX ? KTIME_MAX : (s64)t; }
static inline ktime_t ktime_get(void) { return shim_now; }
static inline u64 ktime_get_ns(void) { return shim_now; }
static inline u64 ktime_get_boottime_ns(void) { return shim_now; }
#define ktime_get_boottime()	ktime_get()
#define ktime_get_raw()		ktime_get()
#define ns_to_ktime(ns)		((ktime_t)(ns))
#define ktime_to_ns(t)		((s64)(t))
#define ktime_to_us(t)		((s64)(t) / 1000)
#define ktime_add(a, b)		((ktime_t)((a) + (b)))
#define ktime_sub(a, b)		((ktime_t)((a) - (b)))
#define ktime_add_ns(a, ns)	((ktime_t)((a) + (s64)(ns)))
#define ktime_sub_ns(a, ns)	((ktime_t)((a) - (s64)(ns)))
#define ktime_add_safe(a, b)	shim_ktime_sat((__int128)(a) + (b))
#define ktime_add_us(a, us)	ktime_add_ns(a, (us) * 1000)
#define ktime_set(s, ns)	((ktime_t)((s) * NSEC_PER_SEC + (ns)))
#define ktime_after(a, b)	((a) > (b))
#define ktime_before(a, b)	((a) < (b))
#define ktime_compare(a, b)	(((a) > (b)) - ((a) < (b)))
#define ktime_divns(t, ns)	((s64)(t) / (s64)(ns))

enum hrtimer_restart { HRTIMER_NORESTART, HRTIMER_RESTART };
enum hrtimer_mode {
	HRTIMER_MODE_ABS = 0, HRTIMER_MODE_REL = 1, HRTIMER_MODE_PINNED = 2, HRTIMER_MODE_HARD = 8,
	HRTIMER_MODE_ABS_PINNED = 2, HRTIMER_MODE_REL_PINNED = 3, HRTIMER_MODE_ABS_HARD = 8,
	HRTIMER_MODE_REL_HARD = 9, HRTIMER_MODE_ABS_PINNED_HARD = 10, HRTIMER_MODE_REL_PINNED_HARD = 11,
};
#ifndef CLOCK_MONOTONIC
#define CLOCK_MONOTONIC 1
#endif

struct hrtimer {
	ktime_t expires;
	enum hrtimer_restart (*function)(struct hrtimer *timer);
	struct hrtimer *next;
	bool queued, running;
};

static __maybe_unused struct hrtimer *shim_hrtimers;

static inline void hrtimer_init(struct hrtimer *t, int clock, enum hrtimer_mode mode)
{
	(void)clock;
	(void)mode;
	*t = (struct hrtimer){ 0 };
}

static inline void hrtimer_setup(struct hrtimer *t, enum hrtimer_restart (*fn)(struct hrtimer *), int clock,
				 enum hrtimer_mode mode)
{
	hrtimer_init(t, clock, mode);
	t->function = fn;
}

static inline void shim_hrtimer_dequeue(struct hrtimer *t)
{
	struct hrtimer **p = &shim_hrtimers;

	while (*p && *p != t)
		p = &(*p)->next;
	if (*p)
		*p = t->next;
	t->queued = false;
}

static inline void shim_hrtimer_enqueue(struct hrtimer *t)
{
	struct hrtimer **p = &shim_hrtimers;

	shim_hrtimer_dequeue(t);
	while (*p && (*p)->expires <= t->expires)
		p = &(*p)->next;
	t->next = *p;
	*p = t;
	t->queued = true;
}

static inline void hrtimer_start(struct hrtimer *t, ktime_t when, enum hrtimer_mode mode)
{
	shim_check(t->function, "hrtimer started without a function");
	t->expires = mode & HRTIMER_MODE_REL ? ktime_add_safe(shim_now, when) : when;
	shim_hrtimer_enqueue(t);
}

static inline int hrtimer_try_to_cancel(struct hrtimer *t)
{
	bool queued = t->queued;

	if (t->running)
		return -1;
	shim_hrtimer_dequeue(t);
	return queued;
}

/* Waits for a callback on another CPU, which may want the locks that are held here. */
static inline int hrtimer_cancel(struct hrtimer *t)
{
	shim_check(!t->running, "hrtimer_cancel from the timer's own callback");
	shim_check(!shim_locks_held, "hrtimer_cancel under a spinlock");
	return hrtimer_try_to_cancel(t);
}

static inline u64 hrtimer_forward(struct hrtimer *t, ktime_t now, ktime_t interval)
{
	u64 n;

	shim_check(!t->queued, "hrtimer_forward on a queued timer");
	shim_check(interval > 0, "hrtimer_forward without an interval");
	if (now < t->expires)
		return 0;
	n = (now - t->expires) / interval + 1;
	t->expires = shim_ktime_sat((__int128)t->expires + (__int128)n * interval);
	return n;
}

#define hrtimer_forward_now(t, i)	hrtimer_forward(t, shim_now, i)
#define hrtimer_start_range_ns(t, w, d, m) hrtimer_start(t, w, m)
#define hrtimer_start_expires(t, m)	hrtimer_start(t, (t)->expires, HRTIMER_MODE_ABS)
#define hrtimer_restart(t)		hrtimer_start_expires(t, 0)
#define hrtimer_get_expires(t)		((t)->expires)
#define hrtimer_get_expires_ns(t)	((t)->expires)
#define hrtimer_set_expires(t, w)	((void)((t)->expires = (w)))
#define hrtimer_add_expires_ns(t, ns)	((void)((t)->expires += (s64)(ns)))
#define hrtimer_get_remaining(t)	((t)->expires - shim_now)
#define hrtimer_active(t)		((t)->queued || (t)->running)
#define hrtimer_is_queued(t)		((t)->queued)
#define hrtimer_callback_running(t)	((t)->running)
#define hrtimer_cb_get_time(t)		((void)(t), shim_now)

static inline void shim_hrtimer_run_expired(s64 until, bool late)
{
	while (shim_hrtimers && shim_hrtimers->expires <= until) {
		struct hrtimer *t = shim_hrtimers;

		shim_hrtimer_dequeue(t);
		if (!late && t->expires > shim_now)
			shim_now = t->expires;
		shim_check(!shim_locks_held, "time passed under a spinlock");
		shim_hrtimer_calls++;
		shim_in_hardirq++;
		t->running = true;
		if (t->function(t) == HRTIMER_RESTART)
			shim_hrtimer_enqueue(t);
		t->running = false;
		shim_in_hardirq--;
	}
}

static __maybe_unused void shim_clock_advance(s64 ns)
{
	s64 until = shim_ktime_sat((__int128)shim_now + ns);

	shim_hrtimer_run_expired(until, false);
	shim_now = until;
}

static __maybe_unused void shim_clock_jump(s64 ns)
{
	shim_now = shim_ktime_sat((__int128)shim_now + ns);
	shim_hrtimer_run_expired(shim_now, true);
}

/* the TSC runs with the same clock */
static __maybe_unused unsigned int tsc_khz = 2000000;

static inline u64 rdtsc(void) { return (u64)((unsigned __int128)(u64)shim_now * tsc_khz / 1000000); }
#define rdtsc_ordered()		rdtsc()

static inline void ndelay(unsigned long ns) { shim_now += ns; }
static inline void udelay(unsigned long us) { shim_now += us * 1000; }

#endif
