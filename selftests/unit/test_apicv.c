// SPDX-License-Identifier: GPL-2.0
/*
 * test_apicv.c - a local APIC that a CPU with virtual-interrupt delivery works on: what it
 * is lent and what comes back, against a plain model and with senders at work. The CPU is
 * played by cpu_deliver and cpu_eoi, which do what the manual says.
 */
#include "shim/lapic_fixture.h"
#include "ktap.h"

#include <pthread.h>	/* after shim/, whose time.h it would take for the system's */

#include "../../kmod/irqchip/apicv.c"

static struct mkvm_vcpu *vcpu;
static struct mkvm_lapic *apic;
static u32 page[1024], awaited_eois[8];
static int rvi, svi;		/* the CPU's guest interrupt status */

static void setup(void)
{
	fixture_start(2, 0, 1);
	vcpu = &fixture_vcpus[1];
	apic = vcpu->lapic;
	enter_x2apic(apic);
	sw_enable(apic);
	memset(page, 0, sizeof(page));
}

static void lend(void)
{
	u16 status = mkvm_lapic_lend(apic, page, awaited_eois);

	rvi = status & 0xff;
	svi = status >> 8;
}

static u32 *page_word(u32 reg, int vector)
{
	return &page[(reg + (vector >> 5) * 0x10) / 4];
}

static int page_highest(u32 reg)
{
	int v = 255;

	while (v > 0 && !(*page_word(reg, v) & BIT(v & 31)))
		v--;
	return v;
}

static int page_ppr(void)
{
	u32 tpr = page[APIC_TASKPRI / 4];

	return tpr >> 4 >= svi >> 4 ? tpr : svi & 0xf0;
}

/* The vector that was delivered, or -1. */
static int cpu_deliver(void)
{
	int vector = rvi;

	if (rvi >> 4 <= page_ppr() >> 4)
		return -1;
	*page_word(APIC_ISR, vector) |= BIT(vector & 31);
	*page_word(APIC_IRR, vector) &= ~BIT(vector & 31);
	svi = vector;
	rvi = page_highest(APIC_IRR);
	return vector;
}

/* The vector that was ended if that makes an exit, or -1. */
static int cpu_eoi(void)
{
	int vector = svi;

	*page_word(APIC_ISR, vector) &= ~BIT(vector & 31);
	svi = page_highest(APIC_ISR);
	return vector && awaited_eois[vector >> 5] & BIT(vector & 31) ? vector : -1;
}

static bool page_is_empty(void)
{
	for (int v = 0; v < 256; v += 32)
		if (*page_word(APIC_IRR, v) | *page_word(APIC_ISR, v))
			return false;
	return true;
}

TEST(a_request_is_lent_and_comes_back_undelivered)
{
	setup();
	mkvm_lapic_set_tpr(apic, 0x53);
	send_fixed(apic, 0x41, false);
	send_fixed(apic, 0x99, false);
	lend();
	EXPECT_EQ(0x99, rvi);
	EXPECT_EQ(0, svi);
	EXPECT_EQ(0x53, page[APIC_TASKPRI / 4]);
	EXPECT_EQ(BIT(1), *page_word(APIC_IRR, 0x41));
	EXPECT_EQ(BIT(0x19), *page_word(APIC_IRR, 0x99));
	EXPECT_EQ(0x99, mkvm_lapic_highest_irr(apic));
	EXPECT_TRUE(mkvm_lapic_unfinished(apic, 0x41));
	mkvm_lapic_take_back(apic, page, -1);
	EXPECT_TRUE(page_is_empty());
	EXPECT_TRUE(vector_test(apic, APIC_IRR, 0x41));
	EXPECT_TRUE(vector_test(apic, APIC_IRR, 0x99));
	EXPECT_EQ(0x99, mkvm_lapic_pending(apic));
	EXPECT_EQ(-1, mkvm_lapic_highest_isr(apic));
}

TEST(with_nothing_requested_only_tpr_travels)
{
	setup();
	mkvm_lapic_set_tpr(apic, 0x20);
	lend();
	EXPECT_EQ(0, rvi);
	EXPECT_EQ(0, svi);
	EXPECT_TRUE(page_is_empty());
	page[APIC_TASKPRI / 4] = 0x87;
	mkvm_lapic_take_back(apic, page, -1);
	EXPECT_EQ(0x87, mkvm_lapic_get_tpr(apic));
}

TEST(a_request_of_a_vector_that_the_cpu_has_delivered_is_a_second_one)
{
	setup();
	send_fixed(apic, 0x41, false);
	lend();
	EXPECT_EQ(0x41, cpu_deliver());
	EXPECT_EQ(1, send_fixed(apic, 0x41, false));
	mkvm_lapic_take_back(apic, page, -1);
	EXPECT_EQ(0x41, mkvm_lapic_highest_isr(apic));
	EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
	lend();
	EXPECT_EQ(-1, cpu_deliver());
	EXPECT_EQ(-1, cpu_eoi());
	EXPECT_EQ(0x41, cpu_deliver());
}

TEST(two_requests_of_a_vector_before_its_delivery_are_one)
{
	setup();
	send_fixed(apic, 0x41, false);
	lend();
	send_fixed(apic, 0x41, false);
	mkvm_lapic_take_back(apic, page, -1);
	lend();
	EXPECT_EQ(0x41, cpu_deliver());
	EXPECT_EQ(-1, cpu_eoi());
	EXPECT_EQ(-1, cpu_deliver());
	mkvm_lapic_take_back(apic, page, -1);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	EXPECT_FALSE(mkvm_lapic_unfinished(apic, 0x41));
}

TEST(levels_and_what_the_ioapic_waits_for_exit_at_their_eoi)
{
	setup();
	fixture_ioapic.wants[0x42] = true;
	send_fixed(apic, 0x41, true);
	send_fixed(apic, 0x42, false);
	send_fixed(apic, 0x43, false);
	lend();
	EXPECT_EQ(BIT(1) | BIT(2), awaited_eois[2]);
	EXPECT_EQ(0x43, cpu_deliver());
	mkvm_lapic_take_back(apic, page, -1);
	lend();
	EXPECT_EQ(BIT(1) | BIT(2), awaited_eois[2]);
	EXPECT_EQ(-1, cpu_eoi());
	EXPECT_EQ(0x42, cpu_deliver());
	EXPECT_EQ(0x42, cpu_eoi());
}

TEST(an_eoi_that_exits_is_done_by_the_lapic)
{
	for (int split = 0; split < 2; split++) {
		setup();
		if (split)
			fixture_vm.irqchip.ioapic = NULL;
		fixture_vm.wants_eoi[0x41] = fixture_ioapic.wants[0x41] = true;
		send_fixed(apic, 0x31, false);
		mkvm_lapic_ack(apic, 0x31);
		send_fixed(apic, 0x41, true);
		lend();
		EXPECT_EQ(0x41, cpu_deliver());
		EXPECT_EQ(0x41, cpu_eoi());
		EXPECT_TRUE(mkvm_lapic_unfinished(apic, 0x41));
		mkvm_lapic_take_back(apic, page, 0x41);
		EXPECT_EQ(0x41, mkvm_lapic_highest_isr(apic));
		EXPECT_EQ(0, mkvm_lapic_msr_write(apic, 0x80b, 0));
		EXPECT_EQ(0x31, mkvm_lapic_highest_isr(apic));
		EXPECT_EQ(!split, fixture_ioapic.eois);
		EXPECT_EQ(split, vcpu->eois_reported);
	}
}

static int model_highest(const bool *bits)
{
	int v = 255;

	while (v >= 0 && !bits[v])
		v--;
	return v;
}

static bool irr[256], isr[256], again[256];	/* of the model; requested while lent */

/* All is taken back, and is what the model has. */
static void check_outside(void)
{
	mkvm_lapic_take_back(apic, page, -1);
	ASSERT_TRUE(page_is_empty());
	for (int v = 0; v < 256; v++) {
		irr[v] |= again[v];
		again[v] = false;
		ASSERT_EQ(irr[v], vector_test(apic, APIC_IRR, v));
		ASSERT_EQ(isr[v], vector_test(apic, APIC_ISR, v));
	}
	ASSERT_EQ(model_highest(isr), mkvm_lapic_highest_isr(apic));
	ASSERT_EQ(model_highest(irr), mkvm_lapic_highest_irr(apic));
}

TEST(random_operations_inside_and_outside_agree_with_a_plain_model)
{
	bool inside = false;
	u32 tpr = 0;

	setup();
	for (int n = 0; n < 300000; n++) {
		u64 r = ktap_random();
		u8 vector = 16 + (r >> 8) % 240;
		int in_service = model_highest(isr), wanted = model_highest(irr), got;
		u32 ppr = in_service >= 0 && in_service >> 4 > tpr >> 4 ? in_service & 0xf0 : tpr;
		bool open = wanted >= 0 && wanted >> 4 > ppr >> 4;

		switch (r % 5) {
		case 0:
			send_fixed(apic, vector, false);
			(inside ? again : irr)[vector] = true;
			break;
		case 1:
			got = inside ? cpu_deliver() : mkvm_lapic_pending(apic);
			ASSERT_EQ(open ? wanted : -1, got);
			if (!inside && open)
				mkvm_lapic_ack(apic, wanted);
			if (open) {
				irr[wanted] = false;
				isr[wanted] = true;
			}
			break;
		case 2:
			if (inside)
				cpu_eoi();
			else
				mkvm_lapic_msr_write(apic, 0x80b, 0);
			if (in_service >= 0)
				isr[in_service] = false;
			break;
		case 3:
			tpr = r >> 40 & 0x7f;
			if (inside)
				page[APIC_TASKPRI / 4] = tpr;
			else
				mkvm_lapic_set_tpr(apic, tpr);
			break;
		case 4:
			if (inside)
				check_outside();
			else
				lend();
			inside = !inside;
		}
	}
}

/*
 * Two senders set vectors of their own and wait until each is delivered; nobody else may see
 * it end.
 */
#define ROUNDS 300

static struct { int delivered[256], lost; } shared;

static void *sender_thread(void *arg)
{
	int vector = (long)arg;

	for (int n = 1; n <= ROUNDS; n++) {
		send_fixed(apic, vector, false);
		while (__atomic_load_n(&shared.delivered[vector], __ATOMIC_SEQ_CST) < n) {
			if (!mkvm_lapic_unfinished(apic, vector) &&
			    __atomic_load_n(&shared.delivered[vector], __ATOMIC_SEQ_CST) < n)
				__atomic_fetch_add(&shared.lost, 1, __ATOMIC_SEQ_CST);
			sched_yield();
		}
	}
	return NULL;
}

TEST(no_request_is_lost_or_called_finished_while_it_travels)
{
	pthread_t threads[2];
	int vector, done = 0;

	setup();
	memset(&shared, 0, sizeof(shared));
	for (long i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, sender_thread, (void *)(0x41 + i)));
	while (done < 2 * ROUNDS) {
		lend();
		/* each second time it is left undelivered, so that it travels back as well */
		vector = ktap_random() & 1 ? cpu_deliver() : -1;
		mkvm_lapic_take_back(apic, page, -1);
		if (vector < 0) {
			sched_yield();
			continue;
		}
		__atomic_fetch_add(&shared.delivered[vector], 1, __ATOMIC_SEQ_CST);
		mkvm_lapic_msr_write(apic, 0x80b, 0);
		done++;
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(0, shared.lost);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	EXPECT_EQ(-1, mkvm_lapic_highest_isr(apic));
}
