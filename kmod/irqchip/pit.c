// SPDX-License-Identifier: GPL-2.0
/*
 * pit.c - the 8254 interval timer of a PC, and port 0x61.
 *
 * State: struct mkvm_pit under pit->lock. A channel does not run: its value is computed from
 * the time when its count was loaded. Channel 0 raises GSI 0 from an hrtimer; the n-th tick is
 * due when n times the count have passed, so that rounding errors do not add up. Channel 1
 * drives nothing, channel 2 the speaker.
 *
 * Reinjection: a tick that the controllers coalesce was missed by the guest. It is counted, and
 * raised again when the guest has taken the previous one.
 *
 * Not modelled: the one clock between a write and its effect, and that a new count in modes 1,
 * 2, 3 and 5 waits for the end of the period (it starts at once, as in Linux KVM, or shortens
 * the pulse).
 *
 * Manual: Intel 8254 data sheet. Read next: routing.c.
 */
#include <linux/bitops.h>
#include <linux/errno.h>
#include <linux/irq_work.h>
#include <linux/math64.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "mkvm.h"
#include "internal.h"
#include "compat.h"

#define PIT_HZ			1193182
#define PIT_MIN_PERIOD_NS (200 * NSEC_PER_USEC) /* between two timer callbacks, as in Linux KVM */
#define PIT_MAX_PENDING		65536		/* missed ticks that reinjection remembers */
#define PIT_REFRESH_CLOCKS	18			/* between two toggles of port 0x61 bit 4 */
#define PIT_UNPROGRAMMED 0xff /* mode before the first control word, as Linux KVM shows it */
#define PIT_STOPPED (1ll << 62) /* count_load_time while it waits for a count or a trigger */
#define PIT_FLAGS		(KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON)

/*
 * The bytes to access in rw_mode and count_latched, and the next byte in read_state and
 * write_state.
 */
enum { PIT_LOW = 1, PIT_HIGH, PIT_BOTH, PIT_BOTH_HIGH };

struct mkvm_pit {
	raw_spinlock_t lock;		/* protects all fields but (c) */
	struct mkvm *vm;		/* (c) */
	bool speaker;			/* (c) port 0x61 is in the kernel */
	bool reinject;			/* missed ticks are raised again */
	bool armed;			/* the timer is to fire */
	struct kvm_pit_channel_state ch[3];
	u32 flags;			/* PIT_FLAGS */
	s64 gate_low_since;		/* ns; valid while the gate of channel 2 is low */
	u64 ticks_done;			/* ticks of channel 0 since its count was loaded */
	u32 pending;			/* ticks to raise again; also read without the lock */
	struct hrtimer timer;
	struct irq_work ack_work;
};

/*
 * In modes 1 and 5 a rise of the gate starts the count; in the others it runs while the gate is
 * high.
 */
static bool channel_is_triggered(const struct kvm_pit_channel_state *c)
{
	return c->mode == 1 || c->mode == 5;
}

static bool channel_is_periodic(const struct kvm_pit_channel_state *c)
{
	return c->mode == 2 || c->mode == 3;
}

static u32 channel_modulus(const struct kvm_pit_channel_state *c)
{
	return c->bcd ? 10000 : 0x10000;
}

/* Returns the clocks that the channel has counted since its count was loaded. */
static u64 channel_clocks(const struct mkvm_pit *pit, const struct kvm_pit_channel_state *c)
{
	s64 now = c->gate || channel_is_triggered(c) ? ktime_get_ns() : pit->gate_low_since;

	return now <= c->count_load_time ?
		       0 :
		       mul_u64_u32_div(now - c->count_load_time, PIT_HZ, NSEC_PER_SEC);
}

static bool channel_out(const struct mkvm_pit *pit, const struct kvm_pit_channel_state *c)
{
	u64 clocks = channel_clocks(pit, c);

	if (c->count_load_time == PIT_STOPPED)
		return c->mode != 0;
	switch (c->mode) {
	case 0:		/* low until the end */
	case 1:
		return clocks >= c->count;
	case 2:		/* low in the last clock of a period */
		return !c->gate || clocks % c->count != c->count - 1;
	case 3:		/* high in the first half, which is the longer one */
		return !c->gate || clocks % c->count < (c->count + 1) / 2;
	default:	/* a strobe of one clock at the end */
		return clocks != c->count;
	}
}

/* Returns the counting element as a read of two bytes gives it. */
static u16 channel_value(const struct mkvm_pit *pit, const struct kvm_pit_channel_state *c)
{
	u64 clocks = channel_clocks(pit, c);
	u32 modulus = channel_modulus(c), n = c->count, v, pos;

	if (c->count_load_time == PIT_STOPPED) {
		v = n;
	} else if (c->mode == 2) {
		v = n - clocks % n;
	} else if (c->mode == 3) {	/* counts by two, twice in a period */
		pos = clocks % n;
		v = (n & ~1u) - 2 * (pos % ((n + 1) / 2));
	} else {			/* goes on below zero */
		v = n + modulus - clocks % modulus;
	}
	v %= modulus;
	return c->bcd ? v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10 : v;
}

/* Raises GSI 0 after @new more ticks have become due. Lock held. */
static void pit_raise(struct mkvm_pit *pit, u64 new)
{
	u32 before = pit->pending;
	int ret;

	/* Stored before the attempt: an acknowledge that follows it must see it. */
	if (pit->reinject)
		WRITE_ONCE(pit->pending, min_t(u64, before + new, PIT_MAX_PENDING));
	ret = mkvm_set_irq(pit->vm, MKVM_SOURCE_PIT, 0, 1);
	mkvm_set_irq(pit->vm, MKVM_SOURCE_PIT, 0, 0);
	/* A masked tick is lost, as on a real machine. */
	if (ret < 0)
		WRITE_ONCE(pit->pending, before);
	else if (ret > 0 && pit->pending)
		WRITE_ONCE(pit->pending, pit->pending - 1);
}

/* Returns the time in ns at which the next tick of channel 0 is due. */
static s64 pit_next_tick(const struct mkvm_pit *pit)
{
	const struct kvm_pit_channel_state *c = &pit->ch[0];

	return c->count_load_time +
	       mul_u64_u32_div((pit->ticks_done + 1) * c->count, NSEC_PER_SEC, PIT_HZ) + 1;
}

/* Context: hard interrupt. However late it is, one callback handles all ticks that are due. */
static enum hrtimer_restart pit_timer_fired(struct hrtimer *timer)
{
	struct mkvm_pit *pit = container_of(timer, struct mkvm_pit, timer);
	const struct kvm_pit_channel_state *c = &pit->ch[0];
	enum hrtimer_restart restart = HRTIMER_NORESTART;
	s64 now = ktime_get_ns(), next;
	unsigned long flags;
	u64 due, new = 1;

	raw_spin_lock_irqsave(&pit->lock, flags);
	/* The timer was stopped or restarted while this callback waited: the tick is not due. */
	if (!pit->armed || hrtimer_is_queued(timer))
		goto out;
	if (channel_is_periodic(c)) {
		due = div_u64(channel_clocks(pit, c), c->count);
		next = now + PIT_MIN_PERIOD_NS;
		/* At a rate above the timer's limit each callback is one tick. */
		if ((u64)c->count * NSEC_PER_SEC >= (u64)PIT_MIN_PERIOD_NS * PIT_HZ)
			new = due - pit->ticks_done;
		pit->ticks_done = due;
		hrtimer_set_expires(timer, ns_to_ktime(max(next, pit_next_tick(pit))));
		restart = HRTIMER_RESTART;
	} else {
		pit->armed = false;
	}
	pit_raise(pit, new);
out:
	raw_spin_unlock_irqrestore(&pit->lock, flags);
	return restart;
}

/* The guest can take another tick. Context: hard interrupt. */
static void pit_raise_pending(struct irq_work *work)
{
	struct mkvm_pit *pit = container_of(work, struct mkvm_pit, ack_work);
	unsigned long flags;

	raw_spin_lock_irqsave(&pit->lock, flags);
	if (pit->pending)
		pit_raise(pit, 0);
	raw_spin_unlock_irqrestore(&pit->lock, flags);
}

/* mkvm_pit_acked - the guest has taken or ended a tick. Any context; it only queues work. */
void mkvm_pit_acked(struct mkvm_pit *pit)
{
	if (READ_ONCE(pit->pending))
		irq_work_queue(&pit->ack_work);
}

/*
 * Starts or stops the timer after a change of channel 0. Its gate is always high, so modes 1 and 5
 * never fire. With HPET legacy routing the HPET drives GSI 0. Lock held.
 */
static void pit_restart_timer(struct mkvm_pit *pit)
{
	const struct kvm_pit_channel_state *c = &pit->ch[0];

	pit->armed = c->count_load_time != PIT_STOPPED && !channel_is_triggered(c) &&
		     !(pit->flags & KVM_PIT_FLAGS_HPET_LEGACY);
	pit->ticks_done = channel_is_periodic(c) ? div_u64(channel_clocks(pit, c), c->count) : 0;
	WRITE_ONCE(pit->pending, 0);
	/* A callback that has already begun waits for the lock and then reads armed. */
	if (pit->armed)
		hrtimer_start(&pit->timer, ns_to_ktime(pit_next_tick(pit)), HRTIMER_MODE_ABS_HARD);
	else
		hrtimer_try_to_cancel(&pit->timer);
}

/* A count was written completely: starts it, unless a trigger does. Lock held. */
static void pit_load_count(struct mkvm_pit *pit, struct kvm_pit_channel_state *c, u16 val)
{
	c->count = val;
	if (c->bcd)
		c->count = (val >> 12) * 1000 + (val >> 8 & 15) * 100 + (val >> 4 & 15) * 10 +
			   (val & 15);
	c->count = c->count ?: channel_modulus(c);
	if (c->mode != PIT_UNPROGRAMMED && !channel_is_triggered(c)) {
		c->count_load_time = ktime_get_ns();
		if (!c->gate)
			pit->gate_low_since = c->count_load_time;
	}
	if (c == &pit->ch[0])
		pit_restart_timer(pit);
}

static void pit_set_gate(struct mkvm_pit *pit, bool gate)
{
	struct kvm_pit_channel_state *c = &pit->ch[2];
	s64 now = ktime_get_ns();
	bool rises = gate && !c->gate, falls = !gate && c->gate;

	c->gate = gate;
	if (falls)
		pit->gate_low_since = now;
	if (!rises || c->mode == PIT_UNPROGRAMMED)
		return;
	if (channel_is_triggered(c))
		c->count_load_time = now;
	else if (c->count_load_time != PIT_STOPPED)
		c->count_load_time = channel_is_periodic(c) ?
					     now :
					     c->count_load_time + now - pit->gate_low_since;
}

/*
 * A value that is already latched stays. Status bit 6, null count, says that no count has reached
 * the counting element.
 */
static void channel_latch(const struct mkvm_pit *pit, struct kvm_pit_channel_state *c, bool count,
			  bool status)
{
	if (count && !c->count_latched) {
		c->latched_count = channel_value(pit, c);
		c->count_latched = c->rw_mode;
	}
	if (status && !c->status_latched) {
		c->status = channel_out(pit, c) << 7 | (c->count_load_time == PIT_STOPPED) << 6 |
			    c->rw_mode << 4 | (c->mode & 7) << 1 | c->bcd;
		c->status_latched = 1;
	}
}

/* Port 0x43. A control word stops the channel until a count is written. */
static void pit_write_control(struct mkvm_pit *pit, u8 val)
{
	struct kvm_pit_channel_state *c;
	unsigned int mode = (val >> 1) & 7, i;

	if (val >> 6 == 3) {		/* read-back */
		for (i = 0; i < 3; i++)
			if (val & BIT(i + 1))
				channel_latch(pit, &pit->ch[i], !(val & 0x20), !(val & 0x10));
		return;
	}
	c = &pit->ch[array_index_nospec(val >> 6, ARRAY_SIZE(pit->ch))];
	if (!(val & 0x30)) {
		channel_latch(pit, c, true, false);
		return;
	}
	c->rw_mode = (val >> 4) & 3;
	c->read_state = c->write_state = c->rw_mode;
	c->count_latched = c->status_latched = 0;
	c->mode = mode > 5 ? mode - 4 : mode;
	c->bcd = val & 1;
	c->count_load_time = PIT_STOPPED;
	if (c == &pit->ch[0])
		pit_restart_timer(pit);
}

static void pit_write_count(struct mkvm_pit *pit, struct kvm_pit_channel_state *c, u8 val)
{
	if (c->write_state == PIT_BOTH) {
		c->write_latch = val;
		c->write_state = PIT_BOTH_HIGH;
	} else if (c->write_state == PIT_BOTH_HIGH) {
		c->write_state = PIT_BOTH;
		pit_load_count(pit, c, val << 8 | c->write_latch);
	} else {
		pit_load_count(pit, c, c->write_state == PIT_HIGH ? val << 8 : val);
	}
}

static u8 pit_read_count(struct mkvm_pit *pit, struct kvm_pit_channel_state *c)
{
	u16 val = c->count_latched ? c->latched_count : channel_value(pit, c);
	u8 *state = c->count_latched ? &c->count_latched : &c->read_state;
	bool high = *state == PIT_HIGH || *state == PIT_BOTH_HIGH;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		c->count_latched = *state == PIT_BOTH ? PIT_HIGH : 0;
	else if (*state >= PIT_BOTH)
		*state = high ? PIT_BOTH : PIT_BOTH_HIGH;
	return high ? val >> 8 : val;
}

/* Port 0x61: bits 0 gate, 1 speaker, 4 memory refresh, 5 output of channel 2. */
static u8 pit_read_speaker(struct mkvm_pit *pit)
{
	u64 clocks = mul_u64_u32_div(ktime_get_ns(), PIT_HZ, NSEC_PER_SEC);

	return pit->ch[2].gate | !!(pit->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) << 1 |
	       (div_u64(clocks, PIT_REFRESH_CLOCKS) & 1) << 4 | channel_out(pit, &pit->ch[2]) << 5;
}

/* Returns the channel of a port other than 0x43 and 0x61. */
static struct kvm_pit_channel_state *port_channel(struct mkvm_pit *pit, u16 port)
{
	return &pit->ch[array_index_nospec(port & 3, ARRAY_SIZE(pit->ch))];
}

/*
 * mkvm_pit_port_read - the guest reads one byte from port 0x40 to 0x43 or 0x61
 *
 * Port 0x43 reads as 0. Context: any, without pit->lock.
 */
u8 mkvm_pit_port_read(struct mkvm_pit *pit, u16 port)
{
	unsigned long flags;
	u8 val = 0;

	raw_spin_lock_irqsave(&pit->lock, flags);
	if (port == 0x61)
		val = pit_read_speaker(pit);
	else if (port != 0x43)
		val = pit_read_count(pit, port_channel(pit, port));
	raw_spin_unlock_irqrestore(&pit->lock, flags);
	return val;
}

/*
 * mkvm_pit_port_write - the guest writes one byte to these ports. Any context, without pit->lock.
 */
void mkvm_pit_port_write(struct mkvm_pit *pit, u16 port, u8 val)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&pit->lock, flags);
	if (port == 0x61) {
		pit_set_gate(pit, val & 1);
		pit->flags &= ~KVM_PIT_FLAGS_SPEAKER_DATA_ON;
		pit->flags |= val & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
	} else if (port == 0x43) {
		pit_write_control(pit, val);
	} else {
		pit_write_count(pit, port_channel(pit, port), val);
	}
	raw_spin_unlock_irqrestore(&pit->lock, flags);
}

/*
 * mkvm_pit_owns_speaker - whether port 0x61 is in the kernel (KVM_PIT_SPEAKER_DUMMY). Any context.
 */
bool mkvm_pit_owns_speaker(struct mkvm_pit *pit)
{
	return pit->speaker;
}

/* mkvm_pit_set_reinject - KVM_REINJECT_CONTROL; turning it off drops missed ticks. Any context. */
void mkvm_pit_set_reinject(struct mkvm_pit *pit, bool reinject)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&pit->lock, flags);
	pit->reinject = reinject;
	if (!reinject)
		WRITE_ONCE(pit->pending, 0);
	raw_spin_unlock_irqrestore(&pit->lock, flags);
}

/*
 * mkvm_pit_get - KVM_GET_PIT2
 *
 * count_load_time is in ns of the host's monotonic clock, without the time during which a low gate
 * stopped the count, and PIT_STOPPED for a channel that does not count. Context: any.
 */
void mkvm_pit_get(struct mkvm_pit *pit, struct kvm_pit_state2 *state)
{
	struct kvm_pit_channel_state *c = &state->channels[2];
	unsigned long flags;

	memset(state, 0, sizeof(*state));
	raw_spin_lock_irqsave(&pit->lock, flags);
	memcpy(state->channels, pit->ch, sizeof(pit->ch));
	state->flags = pit->flags;
	if (!c->gate && !channel_is_triggered(c) && c->count_load_time != PIT_STOPPED)
		c->count_load_time += ktime_get_ns() - pit->gate_low_since;
	raw_spin_unlock_irqrestore(&pit->lock, flags);
}

static bool channel_state_valid(const struct kvm_pit_channel_state *c, bool has_gate)
{
	return c->count <= 0x10000 && c->count_latched <= PIT_BOTH && c->status_latched <= 1 &&
	       c->rw_mode <= 3 && c->read_state <= PIT_BOTH_HIGH &&
	       c->write_state <= PIT_BOTH_HIGH && c->bcd <= 1 &&
	       (c->mode <= 5 || c->mode == PIT_UNPROGRAMMED) &&
	       (c->gate == 1 || (has_gate && c->gate == 0));
}

/*
 * mkvm_pit_set - KVM_SET_PIT2
 *
 * A count goes on from count_load_time, or starts now if that lies in the future (another host's
 * clock). Unless channel 0 is unchanged, its timer is restarted, and a one-shot that has expired
 * fires, so that it is not lost. Context: any. Return: -EINVAL for a value that a channel cannot
 * hold, unknown flags or nonzero reserved fields; nothing has changed then.
 */
int mkvm_pit_set(struct mkvm_pit *pit, const struct kvm_pit_state2 *state)
{
	struct kvm_pit_channel_state old, *c;
	s64 now = ktime_get_ns();
	unsigned long flags;
	unsigned int i;
	bool changed;

	if ((state->flags & ~PIT_FLAGS) || memchr_inv(state->reserved, 0, sizeof(state->reserved)))
		return -EINVAL;
	for (i = 0; i < 3; i++)
		if (!channel_state_valid(&state->channels[i], i == 2))
			return -EINVAL;

	raw_spin_lock_irqsave(&pit->lock, flags);
	old = pit->ch[0];
	changed = (pit->flags ^ state->flags) & KVM_PIT_FLAGS_HPET_LEGACY;
	pit->flags = state->flags;
	pit->gate_low_since = now;
	memcpy(pit->ch, state->channels, sizeof(pit->ch));
	for (c = pit->ch; c < pit->ch + 3; c++) {
		c->count = c->count ?: channel_modulus(c);
		/* Half is enough, since clients shift the time by the difference of two clocks. */
		if (c->mode == PIT_UNPROGRAMMED || c->count_load_time >= PIT_STOPPED / 2)
			c->count_load_time = PIT_STOPPED;
		else if (c->count_load_time > now || c->count_load_time <= -PIT_STOPPED)
			c->count_load_time = now;
	}
	c = &pit->ch[0];
	if (changed || c->mode != old.mode || c->count != old.count ||
	    c->count_load_time != old.count_load_time)
		pit_restart_timer(pit);
	raw_spin_unlock_irqrestore(&pit->lock, flags);
	return 0;
}

/*
 * mkvm_pit_create - create vm->irqchip.pit
 *
 * Context: vm->lock held, may sleep. Return: 0; -EINVAL for unknown flags or nonzero pad; -ENOMEM.
 */
int mkvm_pit_create(struct mkvm *vm, const struct kvm_pit_config *config)
{
	struct mkvm_pit *pit;
	unsigned int i;

	if ((config->flags & ~KVM_PIT_SPEAKER_DUMMY) ||
	    memchr_inv(config->pad, 0, sizeof(config->pad)))
		return -EINVAL;
	pit = kzalloc(sizeof(*pit), GFP_KERNEL_ACCOUNT);
	if (!pit)
		return -ENOMEM;

	raw_spin_lock_init(&pit->lock);
	pit->vm = vm;
	pit->speaker = config->flags & KVM_PIT_SPEAKER_DUMMY;
	pit->reinject = true;
	for (i = 0; i < 3; i++)
		pit->ch[i] = (struct kvm_pit_channel_state){ .mode = PIT_UNPROGRAMMED,
							     .count = 0x10000,
							     .gate = i != 2,
							     .count_load_time = PIT_STOPPED };
	mkvm_hrtimer_setup(&pit->timer, pit_timer_fired, CLOCK_MONOTONIC, HRTIMER_MODE_ABS_HARD);
	init_irq_work(&pit->ack_work, pit_raise_pending);
	smp_store_release(&vm->irqchip.pit, pit);
	return 0;
}

/* mkvm_pit_destroy - frees the PIT, which nobody may reach any more. May sleep. */
void mkvm_pit_destroy(struct mkvm *vm)
{
	if (!vm->irqchip.pit)
		return;
	hrtimer_cancel(&vm->irqchip.pit->timer);
	irq_work_sync(&vm->irqchip.pit->ack_work);
	kfree(vm->irqchip.pit);
	vm->irqchip.pit = NULL;
}
