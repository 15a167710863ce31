// SPDX-License-Identifier: GPL-2.0
/*
 * test_pit.c - the 8254 as a guest and as KVM_GET_PIT2 see it, over the shim's
 * clock. GSI 0 leads to one pin here that holds one tick: taking it is the
 * guest's acknowledge.
 */
#include "ktap.h"
#include "../../kmod/irqchip/pit.c"

static struct mkvm vm;
static struct mkvm_pit *pit;
static bool tick_pending, line_high, pin_masked;
static unsigned int ticks_taken, ticks_raised;
static bool guest_takes, takes_in_between;		/* takes each tick at once */

/* Clocks to ns, rounded up: by then so many clocks have passed. */
static s64 clocks(u64 n)
{
	return (n * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static void take_tick(void)
{
	if (!tick_pending)
		return;
	tick_pending = false;
	ticks_taken++;
	mkvm_pit_acked(pit);
}

int mkvm_set_irq(struct mkvm *v, enum mkvm_irq_source source, u32 gsi, int level)
{
	int ret = 1;

	shim_check(v == &vm && source == MKVM_SOURCE_PIT && gsi == 0, "wrong GSI or source");
	shim_check(shim_irqs_off, "tick raised with interrupts on");
	if (level) {
		shim_check(!line_high, "line raised twice: an edge is lost");
		ret = pin_masked ? MKVM_IRQ_IGNORED : !tick_pending;
		if (!pin_masked) {
			tick_pending = true;
			ticks_raised++;
		}
		if (takes_in_between)
			take_tick();
	}
	line_high = level;
	return ret;
}

static void start_flags(u32 flags)
{
	struct kvm_pit_config config = { .flags = flags };

	memset(&vm, 0, sizeof(vm));
	shim_check(mkvm_pit_create(&vm, &config) == 0, "mkvm_pit_create");
	pit = vm.irqchip.pit;
	tick_pending = line_high = pin_masked = false;
	ticks_taken = ticks_raised = 0;
	guest_takes = true;
	shim_hrtimer_calls = 0;
}

static void start(void)
{
	start_flags(KVM_PIT_SPEAKER_DUMMY);
}

static void stop(void)
{
	mkvm_pit_destroy(&vm);
}

/* Let time pass in steps, while the guest takes ticks and works off the backlog. */
static void run(s64 ns)
{
	s64 step;

	while (ns > 0) {
		step = min_t(s64, ns, 50000);
		shim_clock_advance(step);
		ns -= step;
		while (guest_takes && tick_pending) {
			take_tick();
			shim_run_irq_work();
		}
	}
}

static void control(u8 val)
{
	mkvm_pit_port_write(pit, 0x43, val);
}

static void program(int ch, int mode, u16 count)
{
	control(ch << 6 | 0x30 | mode << 1);
	mkvm_pit_port_write(pit, 0x40 + ch, count);
	mkvm_pit_port_write(pit, 0x40 + ch, count >> 8);
}

static u16 read_both(int ch)
{
	u8 low = mkvm_pit_port_read(pit, 0x40 + ch);

	return low | mkvm_pit_port_read(pit, 0x40 + ch) << 8;
}

static u16 latch_read(int ch)
{
	control(ch << 6);
	return read_both(ch);
}

static u8 status(int ch)
{
	control(0xe0 | 2 << ch);
	return mkvm_pit_port_read(pit, 0x40 + ch);
}

TEST(nothing_ticks_before_it_is_programmed)
{
	start();
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	mkvm_pit_port_write(pit, 0x40, 1);	/* a count without a control word */
	mkvm_pit_port_write(pit, 0x40, 1);
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	stop();
}

TEST(periodic_modes_tick_once_a_period_without_drift)
{
	int mode;

	for (mode = 2; mode <= 3; mode++) {
		start();
		program(0, mode, 1193);
		shim_clock_advance(clocks(1193) - 2);
		EXPECT_EQ(0, ticks_raised);
		shim_clock_advance(4);
		EXPECT_EQ(1, ticks_raised);
		stop();

		start();
		program(0, mode, 1193);
		run(clocks(1193 * 5000) + 10);
		EXPECT_EQ(5000, ticks_taken);
		stop();
	}
}

TEST(mode_numbers_6_and_7_are_2_and_3)
{
	int mode;

	for (mode = 6; mode <= 7; mode++) {
		start();
		program(0, mode, 2000);
		EXPECT_EQ(0x80 | 0x30 | (mode - 4) << 1, status(0));
		run(clocks(20000) + 10);
		EXPECT_EQ(10, ticks_taken);
		stop();
	}
}

TEST(one_shot_modes_tick_once)
{
	int mode;

	for (mode = 0; mode <= 4; mode += 4) {
		start();
		program(0, mode, 10000);
		shim_clock_advance(clocks(10000) - 2);
		EXPECT_EQ(0, ticks_raised);
		run(NSEC_PER_SEC);
		EXPECT_EQ(1, ticks_raised);
		program(0, mode, 1);
		run(NSEC_PER_SEC);
		EXPECT_EQ(2, ticks_raised);
		stop();
	}
}

TEST(gate_triggered_modes_never_tick_on_channel_0)
{
	start();
	program(0, 1, 1000);
	run(NSEC_PER_SEC);
	program(0, 5, 1000);
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	stop();
}

TEST(count_of_zero_is_the_largest)
{
	int mode;

	for (mode = 0; mode < 6; mode++) {
		start();
		program(0, mode, 0);
		EXPECT_EQ(0, latch_read(0));
		shim_clock_advance(clocks(65536) - 2);
		EXPECT_EQ(0, ticks_raised);
		shim_clock_advance(4);
		EXPECT_EQ(mode != 1 && mode != 5, ticks_raised);
		stop();

		start();
		control(0x31 | mode << 1);	/* BCD */
		mkvm_pit_port_write(pit, 0x40, 0);
		mkvm_pit_port_write(pit, 0x40, 0);
		shim_clock_advance(clocks(10000) - 2);
		EXPECT_EQ(0, ticks_raised);
		shim_clock_advance(4);
		EXPECT_EQ(mode != 1 && mode != 5, ticks_raised);
		stop();
	}
}

TEST(every_count_in_every_mode_reads_back_without_trouble)
{
	static const u16 counts[] = { 0, 1, 2, 3, 4, 0x99, 0x100, 0x9999, 0xaaaa, 0xffff };
	int ch, mode, bcd;
	unsigned int i, j;

	for (ch = 0; ch < 3; ch++) {
		for (mode = 0; mode < 8; mode++) {
			for (bcd = 0; bcd < 2; bcd++) {
				start();
				for (i = 0; i < ARRAY_SIZE(counts); i++) {
					mkvm_pit_port_write(pit, 0x61, i & 1);
					control(ch << 6 | 0x30 | mode << 1 | bcd);
					mkvm_pit_port_write(pit, 0x40 + ch, counts[i]);
					mkvm_pit_port_write(pit, 0x40 + ch, counts[i] >> 8);
					for (j = 0; j < 5; j++) {
						u16 v = latch_read(ch);

						if (bcd)
							EXPECT_TRUE((v & 15) < 10 &&
								    (v >> 4 & 15) < 10 &&
								    (v >> 8 & 15) < 10 &&
								    v >> 12 < 10);
						EXPECT_EQ(0x30 | (mode > 5 ? mode - 4 : mode) << 1 |
								  bcd,
							  status(ch) & 0x3f);
						mkvm_pit_port_read(pit, 0x61);
						run(300000 * j * j);
					}
				}
				stop();
			}
		}
	}
}

TEST(count_goes_down_as_each_mode_says)
{
	start();
	program(0, 2, 1000);
	EXPECT_EQ(1000, latch_read(0));
	shim_clock_advance(clocks(999));
	EXPECT_EQ(1, latch_read(0));
	shim_clock_advance(clocks(1000) - clocks(999));
	EXPECT_EQ(1000, latch_read(0));
	stop();

	start();
	program(0, 3, 1000);
	shim_clock_advance(clocks(499));
	EXPECT_EQ(2, latch_read(0));
	shim_clock_advance(clocks(500) - clocks(499));
	EXPECT_EQ(1000, latch_read(0));
	shim_clock_advance(clocks(501) - clocks(500));
	EXPECT_EQ(998, latch_read(0));
	stop();

	start();
	program(0, 0, 1000);
	shim_clock_advance(clocks(1000));
	EXPECT_EQ(0, latch_read(0));
	shim_clock_advance(clocks(1001) - clocks(1000));
	EXPECT_EQ(0xffff, latch_read(0));	/* goes on */
	stop();

	start();
	control(0x31);				/* the same in BCD */
	mkvm_pit_port_write(pit, 0x40, 0x00);
	mkvm_pit_port_write(pit, 0x40, 0x10);
	shim_clock_advance(clocks(1));
	EXPECT_EQ(0x0999, latch_read(0));
	shim_clock_advance(clocks(1001) - clocks(1));
	EXPECT_EQ(0x9999, latch_read(0));
	stop();
}

TEST(odd_square_wave_is_high_one_clock_longer)
{
	unsigned int i, high = 0;
	s64 t = shim_now;

	start();
	program(2, 3, 7);
	mkvm_pit_port_write(pit, 0x61, 1);
	t = shim_now;
	for (i = 0; i < 14; i++) {
		shim_now = t + clocks(i);
		high += mkvm_pit_port_read(pit, 0x61) >> 5 & 1;
		EXPECT_EQ(i % 7 < 4, mkvm_pit_port_read(pit, 0x61) >> 5 & 1);
	}
	EXPECT_EQ(8, high);
	stop();
}

TEST(output_of_each_mode_follows_the_data_sheet)
{
	/* at clock 0, one before the count, at the count, one after; gate high or just risen */
	static const char *const out[6] = { "0011", "0011", "1011", "1011", "1101", "1101" };
	static const int at[4] = { 0, 99, 100, 101 };
	int mode, i;

	for (mode = 0; mode < 6; mode++) {
		for (i = 0; i < 4; i++) {
			start();
			mkvm_pit_port_write(pit, 0x61, mode == 1 || mode == 5 ? 0 : 1);
			program(2, mode, 100);
			if (mode == 1 || mode == 5)
				EXPECT_EQ(1, mkvm_pit_port_read(pit, 0x61) >> 5 & 1);	/* waits */
			mkvm_pit_port_write(pit, 0x61, 1);
			shim_clock_advance(clocks(at[i]));
			EXPECT_EQ(out[mode][i] == '1', mkvm_pit_port_read(pit, 0x61) >> 5 & 1);
			stop();
		}
	}
}

TEST(gate_of_channel_2_holds_reloads_or_triggers)
{
	start();
	mkvm_pit_port_write(pit, 0x61, 1);
	program(2, 0, 1000);
	shim_clock_advance(clocks(100));
	mkvm_pit_port_write(pit, 0x61, 0);
	shim_clock_advance(NSEC_PER_SEC);
	EXPECT_EQ(900, latch_read(2));
	mkvm_pit_port_write(pit, 0x61, 1);
	shim_clock_advance(clocks(100));
	EXPECT_GE(800, latch_read(2));
	EXPECT_LE(799, latch_read(2));

	program(2, 2, 1000);
	shim_clock_advance(clocks(100));
	mkvm_pit_port_write(pit, 0x61, 0);
	EXPECT_EQ(0x20, mkvm_pit_port_read(pit, 0x61) & 0x21);
	shim_clock_advance(NSEC_PER_SEC);
	EXPECT_EQ(900, latch_read(2));
	mkvm_pit_port_write(pit, 0x61, 1);
	EXPECT_EQ(1000, latch_read(2));

	program(2, 1, 1000);
	EXPECT_EQ(0xc0, status(2) & 0xc0);		/* null count until the trigger */
	mkvm_pit_port_write(pit, 0x61, 0);
	mkvm_pit_port_write(pit, 0x61, 1);
	EXPECT_EQ(0, status(2) & 0xc0);
	shim_clock_advance(clocks(500));
	mkvm_pit_port_write(pit, 0x61, 0);		/* does not hold it */
	shim_clock_advance(clocks(400));
	mkvm_pit_port_write(pit, 0x61, 1);		/* triggers again */
	shim_clock_advance(clocks(999));
	EXPECT_EQ(0, status(2) & 0x80);
	shim_clock_advance(clocks(2));
	EXPECT_EQ(0x80, status(2) & 0x80);
	EXPECT_EQ(0, ticks_raised);
	stop();
}

TEST(byte_access_modes_read_and_write_what_they_say)
{
	start();
	control(0x14);				/* low byte, mode 2 */
	mkvm_pit_port_write(pit, 0x40, 0x80);
	EXPECT_EQ(0x80, mkvm_pit_port_read(pit, 0x40));
	EXPECT_EQ(0x80, mkvm_pit_port_read(pit, 0x40));
	control(0x24);				/* high byte */
	mkvm_pit_port_write(pit, 0x40, 0x12);
	EXPECT_EQ(0x12, mkvm_pit_port_read(pit, 0x40));
	control(0x34);
	mkvm_pit_port_write(pit, 0x40, 0x34);
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);		/* half a count starts nothing */
	mkvm_pit_port_write(pit, 0x40, 0x12);
	EXPECT_EQ(0x1234, read_both(0));
	stop();
}

TEST(there_is_no_fourth_channel_for_speculation_either)
{
	start();
	shim_nr_clamps = 0;
	control(2 << 6 | 0x34);
	EXPECT_TRUE(shim_clamped(2, 3));
	mkvm_pit_port_write(pit, 0x41, 1);
	EXPECT_TRUE(shim_clamped(1, 3));
	mkvm_pit_port_read(pit, 0x42);
	EXPECT_TRUE(shim_clamped(2, 3));
	stop();
}

TEST(latched_count_stays_until_it_is_read)
{
	start();
	program(0, 2, 50000);
	control(0x00);
	shim_clock_advance(clocks(1000));
	control(0x00);				/* ignored: one is latched */
	EXPECT_EQ(50000 & 0xff, mkvm_pit_port_read(pit, 0x40));
	shim_clock_advance(clocks(1000));
	EXPECT_EQ(50000 >> 8, mkvm_pit_port_read(pit, 0x40));
	EXPECT_GT(48100, read_both(0));
	control(0x00);
	program(0, 2, 40000);			/* a control word drops it */
	EXPECT_EQ(40000, read_both(0));
	stop();
}

TEST(read_back_gives_status_first_then_count_of_the_named_channels)
{
	start();
	program(0, 2, 1000);
	program(1, 3, 2000);
	control(0x96);				/* channel 2: low byte, mode 3, no count yet */
	control(0xc0 | 0x0e);			/* status and count of all */
	EXPECT_EQ(0xb4, mkvm_pit_port_read(pit, 0x40));
	EXPECT_EQ(1000, read_both(0));
	EXPECT_EQ(0xb6, mkvm_pit_port_read(pit, 0x41));
	EXPECT_EQ(2000, read_both(1));
	EXPECT_EQ(0xd6, mkvm_pit_port_read(pit, 0x42));	/* null count */
	control(0xe0 | 0x04);			/* status of channel 1 alone */
	shim_clock_advance(clocks(1500));
	EXPECT_EQ(500, read_both(0));		/* nothing latched here */
	EXPECT_EQ(0xb6, mkvm_pit_port_read(pit, 0x41));	/* as it was */
	control(0xe0 | 0x04);
	EXPECT_EQ(0x36, mkvm_pit_port_read(pit, 0x41));	/* the output has fallen */
	control(0xd0 | 0x02);			/* count of channel 0 alone */
	EXPECT_EQ(500, read_both(0));
	EXPECT_EQ(0, mkvm_pit_port_read(pit, 0x43));
	stop();
}

TEST(port_61_shows_gate_speaker_refresh_and_output)
{
	int toggles = 0, i;
	u8 was, is;

	start();
	EXPECT_TRUE(mkvm_pit_owns_speaker(pit));
	mkvm_pit_port_write(pit, 0x61, 0xff);
	EXPECT_EQ(3, mkvm_pit_port_read(pit, 0x61) & 0xcf);
	mkvm_pit_port_write(pit, 0x61, 2);
	EXPECT_EQ(2, mkvm_pit_port_read(pit, 0x61) & 0xcf);
	was = mkvm_pit_port_read(pit, 0x61) & 0x10;
	for (i = 0; i < 1000; i++) {
		shim_clock_advance(1000);
		is = mkvm_pit_port_read(pit, 0x61) & 0x10;
		toggles += is != was;
		was = is;
	}
	EXPECT_LE(65, toggles);			/* every 15 us */
	EXPECT_GE(67, toggles);
	stop();
	start_flags(0);
	EXPECT_FALSE(mkvm_pit_owns_speaker(pit));
	stop();
}

TEST(reinjection_delivers_every_missed_tick_once)
{
	start();
	program(0, 2, 1193);
	guest_takes = false;
	run(clocks(1193 * 100) + 10);
	EXPECT_EQ(0, ticks_taken);
	guest_takes = true;
	run(50000);
	EXPECT_EQ(100, ticks_taken);
	run(clocks(1193 * 50));
	EXPECT_EQ(150, ticks_taken);
	stop();
}

TEST(reinjection_off_discards_missed_ticks)
{
	start();
	mkvm_pit_set_reinject(pit, false);
	program(0, 2, 1193);
	guest_takes = false;
	run(clocks(1193 * 100) + 10);
	guest_takes = true;
	run(50000);
	EXPECT_EQ(1, ticks_taken);
	mkvm_pit_set_reinject(pit, true);
	guest_takes = false;
	run(clocks(1193 * 10));
	mkvm_pit_set_reinject(pit, false);	/* forgets them */
	guest_takes = true;
	run(50000);
	EXPECT_EQ(2, ticks_taken);
	stop();
}

TEST(tick_count_is_exact_whenever_the_guest_takes_them)
{
	unsigned int i;
	s64 t0;

	start();
	program(0, 3, 1193);
	t0 = shim_now;
	guest_takes = false;
	for (i = 0; i < 20000; i++) {
		unsigned long long r = ktap_random();

		shim_clock_advance(r % 2000000);
		if (r >> 32 & 1)
			take_tick();
		if (r >> 33 & 1)
			shim_run_irq_work();
		ASSERT_GE((shim_now - t0) / clocks(1193) + 1, ticks_taken + tick_pending);
	}
	while (tick_pending) {
		take_tick();
		shim_run_irq_work();
	}
	EXPECT_EQ(mul_u64_u32_div(shim_now - t0, PIT_HZ, NSEC_PER_SEC) / 1193, ticks_taken);
	stop();
}

TEST(a_tick_that_is_taken_while_the_next_one_is_raised_loses_nothing)
{
	start();
	program(0, 2, 1193);
	guest_takes = false;
	run(1100000);
	EXPECT_TRUE(tick_pending);
	takes_in_between = true; /* the first one, when the controllers have said "coalesced" */
	run(1000000);
	takes_in_between = false;
	EXPECT_EQ(1, ticks_taken);
	shim_run_irq_work();
	EXPECT_TRUE(tick_pending);
	EXPECT_EQ(0, pit->pending);
	stop();
}

TEST(acknowledge_between_the_tick_and_its_record_loses_nothing)
{
	/* The pin is full, a tick comes due: what the guest takes right then must bring it. */
	start();
	program(0, 0, 1000);
	guest_takes = false;
	run(NSEC_PER_MSEC);
	EXPECT_TRUE(tick_pending);
	take_tick();
	tick_pending = true;			/* somebody else's edge sits in the pin */
	control(0x30);
	mkvm_pit_port_write(pit, 0x40, 0xe8);
	mkvm_pit_port_write(pit, 0x40, 0x03);
	shim_clock_advance(NSEC_PER_MSEC);	/* coalesced */
	EXPECT_EQ(1, pit->pending);
	take_tick();
	shim_run_irq_work();
	EXPECT_TRUE(tick_pending);
	EXPECT_EQ(0, pit->pending);
	stop();
}

TEST(ticks_of_a_masked_pin_are_lost_and_a_backlog_stays)
{
	start();
	program(0, 2, 1193);
	guest_takes = false;
	run(clocks(1193 * 10) + 10);
	EXPECT_EQ(9, pit->pending);
	take_tick();
	pin_masked = true;
	shim_run_irq_work();
	run(clocks(1193 * 20));
	EXPECT_EQ(9, pit->pending);
	pin_masked = false;
	guest_takes = true;
	run(clocks(1193 * 2));
	EXPECT_EQ(1 + 9 + 2, ticks_taken);
	stop();
}

TEST(backlog_is_bounded_and_reprogramming_drops_it)
{
	start();
	program(0, 2, 1193);
	guest_takes = false;
	shim_clock_jump(100 * NSEC_PER_SEC);
	EXPECT_EQ(PIT_MAX_PENDING - 1, pit->pending);
	shim_clock_advance(NSEC_PER_SEC);
	EXPECT_EQ(PIT_MAX_PENDING, pit->pending);
	program(0, 2, 50000);
	EXPECT_EQ(0, pit->pending);
	stop();
}

TEST(long_pause_costs_one_callback_and_counts_all_ticks)
{
	start();
	program(0, 2, 1193);
	guest_takes = false;
	shim_clock_jump(clocks(1193 * 5000) + 5);
	EXPECT_EQ(1, shim_hrtimer_calls);
	guest_takes = true;
	run(50000);
	EXPECT_EQ(5000, ticks_taken);
	stop();
}

TEST(shortest_period_is_200_microseconds)
{
	int count;

	for (count = 1; count < 238; count += 59) {
		start();
		program(0, 2, count);
		run(NSEC_PER_SEC);
		EXPECT_GE(5001, shim_hrtimer_calls);
		EXPECT_GE(5001, ticks_taken);
		EXPECT_LE(4000, ticks_taken);
		stop();
	}
	start();
	program(0, 2, 240);			/* just slower: exact */
	run(clocks(240 * 4000) + 300000);
	EXPECT_LE(4000, ticks_taken);
	EXPECT_GE(4002, ticks_taken);
	stop();
}

TEST(control_word_stops_the_ticks_until_a_count_is_written)
{
	start();
	program(0, 2, 1193);
	run(10 * NSEC_PER_MSEC);
	control(0x34);
	ticks_raised = 0;
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	EXPECT_EQ(0x40, status(0) & 0x40);
	control(0x00);				/* a latch command is none */
	mkvm_pit_port_write(pit, 0x40, 0);
	mkvm_pit_port_write(pit, 0x40, 0x10);
	run(clocks(4096) + 50000);
	EXPECT_EQ(1, ticks_raised);
	stop();
}

TEST(stale_callback_gives_no_tick)
{
	start();
	program(0, 2, 1193);
	/* the callback is on its way when the guest stops, or starts, the timer */
	shim_hrtimer_dequeue(&pit->timer);
	pit->timer.running = true;
	control(0x34);
	shim_irqs_off++;
	EXPECT_EQ(HRTIMER_NORESTART, pit->timer.function(&pit->timer));
	EXPECT_EQ(0, ticks_raised);
	shim_irqs_off--;
	mkvm_pit_port_write(pit, 0x40, 0);
	mkvm_pit_port_write(pit, 0x40, 0x10);
	EXPECT_EQ(HRTIMER_NORESTART, pit->timer.function(&pit->timer));
	EXPECT_EQ(0, ticks_raised);
	pit->timer.running = false;
	run(clocks(4096) + 50000);
	EXPECT_EQ(1, ticks_raised);
	stop();
}

TEST(hpet_legacy_flag_silences_channel_0)
{
	struct kvm_pit_state2 s;

	start();
	program(0, 2, 1193);
	mkvm_pit_get(pit, &s);
	s.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	mkvm_pit_get(pit, &s);
	EXPECT_EQ(KVM_PIT_FLAGS_HPET_LEGACY, s.flags);
	program(0, 2, 1193);
	run(NSEC_PER_SEC);
	EXPECT_EQ(0, ticks_raised);
	s.flags = 0;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(NSEC_PER_SEC);
	EXPECT_LE(999, ticks_raised);
	EXPECT_GE(1001, ticks_raised);
	stop();
}

TEST(state_round_trips_at_every_step_and_ticks_go_on)
{
	struct kvm_pit_state2 before, after;
	unsigned int step, expect = 0;

	start();
	for (step = 0; step < 14; step++) {
		switch (step) {
		case 1: program(0, 2, 1193); break;
		case 2: control(0x00); break;
		case 3: mkvm_pit_port_read(pit, 0x40); break;
		case 4: control(0xc8); break;
		case 5: program(2, 0, 5000); break;
		case 6: mkvm_pit_port_write(pit, 0x61, 3); break;
		case 7: mkvm_pit_port_write(pit, 0x61, 2); break;
		case 8: program(2, 1, 5000); break;
		case 9: mkvm_pit_port_write(pit, 0x61, 1); break;
		case 10: control(0x71); break;
		case 11: mkvm_pit_port_write(pit, 0x41, 0x12); break;
		case 12: program(2, 3, 999); break;
		case 13: control(0xe2); break;
		}
		mkvm_pit_get(pit, &before);
		EXPECT_EQ(0, mkvm_pit_set(pit, &before));
		mkvm_pit_get(pit, &after);
		EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
		run(clocks(1193 * 3));
		expect += step ? 3 : 0;
		EXPECT_GE(expect, ticks_taken);
		EXPECT_LE(expect, ticks_taken + 1);
	}
	stop();
}

TEST(restored_channels_go_on_from_their_load_time)
{
	struct kvm_pit_state2 s;

	start();
	program(0, 2, 10000);
	program(2, 0, 5000);
	mkvm_pit_port_write(pit, 0x61, 1);
	shim_clock_advance(clocks(1000));
	mkvm_pit_port_write(pit, 0x61, 0);
	shim_clock_advance(clocks(3000));
	mkvm_pit_get(pit, &s);
	stop();

	start();
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	EXPECT_EQ(6000, latch_read(0));
	EXPECT_GE(4001, latch_read(2));
	EXPECT_LE(3999, latch_read(2));
	shim_clock_advance(clocks(6000) + 10);
	EXPECT_EQ(1, ticks_raised);
	stop();
}

TEST(restored_one_shot_is_never_lost)
{
	struct kvm_pit_state2 s;

	start();
	program(0, 0, 1000);
	mkvm_pit_get(pit, &s);
	stop();
	/* the other host's clock is ahead, behind, or far behind */
	start();
	s.channels[0].count_load_time = shim_now + NSEC_PER_SEC;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	EXPECT_EQ(1000, latch_read(0));
	run(clocks(1000) + 10);
	EXPECT_EQ(1, ticks_raised);
	s.channels[0].count_load_time = 0;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(10);
	EXPECT_EQ(2, ticks_raised);
	s.channels[0].count_load_time = -12345678901234ll;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(10);
	EXPECT_EQ(3, ticks_raised);
	/* but what has fired and is set as it was does not fire again */
	mkvm_pit_get(pit, &s);
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(NSEC_PER_SEC);
	EXPECT_EQ(3, ticks_raised);
	stop();
}

TEST(set_with_another_count_or_mode_starts_anew)
{
	struct kvm_pit_state2 s;

	start();
	program(0, 2, 50000);
	mkvm_pit_get(pit, &s);
	s.channels[0].count = 1193;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(clocks(1193) * 10 + 10);
	EXPECT_EQ(10, ticks_raised);
	mkvm_pit_get(pit, &s);
	s.channels[0].mode = 1;
	EXPECT_EQ(0, mkvm_pit_set(pit, &s));
	run(clocks(1193) * 10);
	EXPECT_EQ(10, ticks_raised);
	stop();
}

TEST(any_load_time_is_safe)
{
	static const s64 times[] = { S64_MIN,	  S64_MIN + 1, -PIT_STOPPED,	    -1,
				     0,		  1,	       PIT_STOPPED / 2 - 1, PIT_STOPPED / 2,
				     PIT_STOPPED, S64_MAX };
	struct kvm_pit_state2 s;
	unsigned int i, mode;

	for (mode = 0; mode < 6; mode++) {
		for (i = 0; i < ARRAY_SIZE(times); i++) {
			start();
			mkvm_pit_get(pit, &s);
			s.channels[0] = (struct kvm_pit_channel_state){
				.count = 0, .mode = mode, .rw_mode = 3, .gate = 1,
				.read_state = 3, .write_state = 3, .count_load_time = times[i],
			};
			s.channels[2] = s.channels[0];
			s.channels[2].gate = 0;
			EXPECT_EQ(0, mkvm_pit_set(pit, &s));
			latch_read(0);
			latch_read(2);
			status(0);
			run(NSEC_PER_MSEC * 60);
			mkvm_pit_port_write(pit, 0x61, 1);
			mkvm_pit_get(pit, &s);
			EXPECT_GE(3, shim_hrtimer_calls);
			stop();
		}
	}
}

TEST(set_refuses_what_a_channel_cannot_hold)
{
	struct kvm_pit_state2 good, bad, after;
	int i, ch;

	start();
	program(0, 2, 1193);
	mkvm_pit_get(pit, &good);
	for (ch = 0; ch < 3; ch++) {
		for (i = 0; i < 9; i++) {
			struct kvm_pit_channel_state *c = &bad.channels[ch];

			bad = good;
			bad.channels[0].count = 77;
			switch (i) {
			case 0: c->count = 0x10001; break;
			case 1: c->count_latched = 4; break;
			case 2: c->status_latched = 2; break;
			case 3: c->rw_mode = 4; break;
			case 4: c->read_state = 5; break;
			case 5: c->write_state = 5; break;
			case 6: c->bcd = 2; break;
			case 7: c->mode = 6; break;
			case 8: c->gate = ch == 2 ? 2 : 0; break;
			}
			EXPECT_EQ(-EINVAL, mkvm_pit_set(pit, &bad));
		}
	}
	bad = good;
	bad.flags = 4;
	EXPECT_EQ(-EINVAL, mkvm_pit_set(pit, &bad));
	bad = good;
	bad.reserved[8] = 1;
	EXPECT_EQ(-EINVAL, mkvm_pit_set(pit, &bad));
	mkvm_pit_get(pit, &after);
	EXPECT_EQ(0, memcmp(&good, &after, sizeof(good)));
	good.channels[0].count = 0x10000;
	good.channels[1].count = 0;
	good.flags = PIT_FLAGS;
	EXPECT_EQ(0, mkvm_pit_set(pit, &good));
	mkvm_pit_get(pit, &after);
	EXPECT_EQ(0x10000, after.channels[1].count);
	EXPECT_EQ(PIT_FLAGS, after.flags);
	stop();
}

TEST(create_refuses_unknown_flags_padding_and_no_memory)
{
	struct kvm_pit_config config = { .flags = 2 };

	memset(&vm, 0, sizeof(vm));
	EXPECT_EQ(-EINVAL, mkvm_pit_create(&vm, &config));
	config.flags = 1;
	config.pad[14] = 1;
	EXPECT_EQ(-EINVAL, mkvm_pit_create(&vm, &config));
	config.pad[14] = 0;
	shim_alloc_fail_in = 1;
	EXPECT_EQ(-ENOMEM, mkvm_pit_create(&vm, &config));
	EXPECT_TRUE(!vm.irqchip.pit);
	mkvm_pit_destroy(&vm);
}

TEST(random_port_accesses_and_states_are_safe_and_callbacks_bounded)
{
	struct kvm_pit_state2 s;
	u64 calls;
	int i;

	start();
	for (i = 0; i < 200000; i++) {
		unsigned long long r = ktap_random();

		switch (r & 15) {
		case 0: mkvm_pit_get(pit, &s); break;
		case 1:
			mkvm_pit_get(pit, &s);
			s.channels[r >> 8 & 1].mode = r >> 16 & 7;
			mkvm_pit_set(pit, &s);
			break;
		case 2: mkvm_pit_port_write(pit, 0x61, r >> 8); break;
		case 3: mkvm_pit_port_read(pit, 0x61); break;
		case 4: case 5: control(r >> 8); break;
		case 6:
		case 7:
		case 8:
			mkvm_pit_port_write(pit, 0x40 + (r >> 8 & 1) * 2, r >> 16);
			break;
		case 9: mkvm_pit_port_read(pit, 0x40 + (r >> 8 & 3)); break;
		case 10: take_tick(); shim_run_irq_work(); break;
		case 11: mkvm_pit_set_reinject(pit, r >> 8 & 1); break;
		default:
			calls = shim_hrtimer_calls;
			shim_clock_advance(r >> 8 & 0x1fffff);
			ASSERT_GE((r >> 8 & 0x1fffff) / PIT_MIN_PERIOD_NS + 2,
				  shim_hrtimer_calls - calls);
		}
		ASSERT_GE(PIT_MAX_PENDING, pit->pending);
	}
	stop();
}
