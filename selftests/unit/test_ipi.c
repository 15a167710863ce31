// SPDX-License-Identifier: GPL-2.0
/*
 * test_ipi.c - which local APICs a message goes to: physical and logical
 * destinations in both modes and mixed, shorthands, lowest priority, and the
 * number of targets that is returned.
 */
#include "shim/lapic_fixture.h"
#include "ktap.h"

#define FIXED 0
#define LOWEST 1

static struct mkvm *vm;

static struct mkvm_lapic *lapic(int i)
{
	return fixture_vcpus[i].lapic;
}

/* @nr enabled vCPUs; bit i of @x2apic: the i-th is in x2APIC mode */
static void setup_ids(int nr, u32 first_id, u32 step, u64 x2apic)
{
	vm = fixture_start(nr, first_id, step);
	for (int i = 0; i < nr; i++) {
		if (i < 64 && x2apic >> i & 1)
			enter_x2apic(lapic(i));
		sw_enable(lapic(i));
	}
}

static void setup(int nr, u64 x2apic)
{
	setup_ids(nr, 0, 1, x2apic);
}

/* The vCPUs (bit i: the i-th) that have @vector requested; and forgets it. */
static u64 got(u8 vector)
{
	u64 mask = 0;

	for (int i = 0; i < vm->nr_vcpus && i < 64; i++)
		if (vector_test(lapic(i), APIC_IRR, vector)) {
			mask |= BIT_ULL(i);
			mkvm_lapic_ack(lapic(i), vector);
			lapic_eoi(lapic(i));
		}
	return mask;
}

static int deliver(struct mkvm_lapic *sender, u32 dest, bool logical, u8 delivery)
{
	struct mkvm_irq irq = { .dest = dest,
				.vector = 0x41,
				.delivery = delivery,
				.logical = logical,
				.assert = true };

	return mkvm_irq_deliver(vm, sender, &irq);
}

TEST(a_physical_id_reaches_that_cpu_alone)
{
	for (int x2apic = 0; x2apic < 2; x2apic++) {
		setup(8, x2apic ? 0xff : 0);
		for (u32 dest = 0; dest < 8; dest++) {
			EXPECT_EQ(1, deliver(lapic(3), dest, false, FIXED));
			EXPECT_EQ(BIT(dest), got(0x41));
			EXPECT_EQ(1, deliver(NULL, dest, false, LOWEST));
			EXPECT_EQ(BIT(dest), got(0x41));
		}
		for (u32 dest = 8; dest < 255; dest++)
			EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(lapic(3), dest, false, FIXED));
		EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(lapic(3), 0x100, false, FIXED));
		EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(lapic(3), 0xfffffffe, false, FIXED));
		EXPECT_EQ(0, got(0x41));
	}
}

TEST(a_physical_id_that_is_pending_already_counts_0)
{
	setup(2, 0);
	EXPECT_EQ(1, deliver(NULL, 1, false, FIXED));
	EXPECT_EQ(MKVM_IRQ_COALESCED, deliver(NULL, 1, false, FIXED));
}

TEST(no_cpu_beyond_the_last_is_looked_at_by_speculation_either)
{
	setup(8, 0);
	shim_nr_clamps = 0;
	deliver(NULL, 5, false, FIXED);
	EXPECT_TRUE(shim_clamped(5, 8));
}

TEST(ids_need_not_be_indexes)
{
	setup_ids(8, 3, 17, 0);
	for (u32 dest = 0; dest < 255; dest++) {
		bool there = dest >= 3 && dest < 3 + 8 * 17 && (dest - 3) % 17 == 0;

		EXPECT_EQ(there ? 1 : MKVM_IRQ_IGNORED, deliver(NULL, dest, false, FIXED));
		EXPECT_EQ(there ? BIT((dest - 3) / 17) : 0, got(0x41));
	}
	/* the largest id there is, far beyond the number of vCPUs */
	setup_ids(1, 254, 1, 0);
	EXPECT_EQ(1, deliver(NULL, 254, false, FIXED));
}

TEST(a_moved_xapic_id_is_found_by_its_new_value)
{
	setup(4, 0);
	reg_write(lapic(1), APIC_ID, 0x09000000);
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 1, false, FIXED));
	EXPECT_EQ(1, deliver(NULL, 9, false, FIXED));
	EXPECT_EQ(BIT(1), got(0x41));
}

TEST(physical_broadcast_depends_on_sender_and_mode)
{
	static const struct { u64 x2apic; int sender; u32 dest; u64 who;
	} t[] = {
		/* -1: an IOAPIC or MSI, whose 0xff means everybody */
		{ 0x0, 0, 0xff, 0xf },
		{ 0x0, -1, 0xff, 0xf },
		{ 0xf, -1, 0xff, 0xf },
		{ 0x6, -1, 0xff, 0xf },
		/* an IPI with 0xff is one id in x2APIC mode */
		{ 0xf, 0, 0xff, 0x0 },
		{ 0xf, 0, 0xffffffff, 0xf },
		{ 0x6, 0, 0xff, 0x9 },
		{ 0x6, 1, 0xffffffff, 0x6 },
	};

	for (int i = 0; i < ARRAY_SIZE(t); i++) {
		setup(4, t[i].x2apic);
		EXPECT_EQ(t[i].who ? __builtin_popcountll(t[i].who) : MKVM_IRQ_IGNORED,
			  deliver(t[i].sender < 0 ? NULL : lapic(t[i].sender), t[i].dest, false,
				  FIXED));
		EXPECT_EQ(t[i].who, got(0x41));
	}
}

TEST(without_the_quirk_destination_255_is_an_id_of_x2apics)
{
	setup(4, 0x6);
	lapic(0)->vcpu->vm->irqchip.no_broadcast_quirk = true;
	EXPECT_EQ(2, deliver(NULL, 0xff, false, FIXED));
	EXPECT_EQ(0x9, got(0x41));
	setup(4, 0xf);
	lapic(0)->vcpu->vm->irqchip.no_broadcast_quirk = true;
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 0xff, false, FIXED));
	EXPECT_EQ(4, deliver(NULL, 0xff, true, FIXED));		/* logical: cluster 0 */
	setup(4, 0xf);
	lapic(0)->vcpu->vm->irqchip.no_broadcast_quirk = true;
	EXPECT_EQ(4, deliver(NULL, 0xffffffff, false, FIXED));
}

TEST(an_id_over_255_is_never_its_low_8_bits)
{
	for (u64 x2apic = 0; x2apic < 4; x2apic++) {
		setup_ids(2, 44, 256, x2apic);
		EXPECT_EQ(1, deliver(NULL, 44, false, FIXED));
		EXPECT_EQ(1, deliver(NULL, 300, false, FIXED));
		EXPECT_EQ(0x3, got(0x41));
		setup_ids(1, 300, 1, x2apic & 1);
		EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 44, false, FIXED));
	}
}

TEST(modes_mix)
{
	setup(4, 0xa);
	for (u32 dest = 0; dest < 4; dest++)
		for (int sender = 0; sender < 4; sender++) {
			EXPECT_EQ(1, deliver(lapic(sender), dest, false, FIXED));
			EXPECT_EQ(BIT(dest), got(0x41));
		}
}

TEST(flat_logical_destinations_match_any_common_bit)
{
	setup(1, 0);
	for (u32 ldr = 0; ldr < 256; ldr++) {
		reg_write(lapic(0), APIC_LDR, ldr << 24);
		for (u32 dest = 0; dest < 256; dest++) {
			bool match = dest == 0xff || (ldr & dest);

			EXPECT_EQ(match ? 1 : MKVM_IRQ_IGNORED, deliver(NULL, dest, true, FIXED));
			EXPECT_EQ(match, got(0x41));
		}
	}
}

TEST(cluster_logical_destinations_match_in_their_cluster)
{
	setup(1, 0);
	reg_write(lapic(0), APIC_DFR, 0);
	for (u32 ldr = 0; ldr < 256; ldr++) {
		reg_write(lapic(0), APIC_LDR, ldr << 24);
		for (u32 dest = 0; dest < 256; dest++) {
			bool match = dest == 0xff || (ldr >> 4 == dest >> 4 && (ldr & dest & 0xf));

			EXPECT_EQ(match ? 1 : MKVM_IRQ_IGNORED, deliver(NULL, dest, true, FIXED));
			EXPECT_EQ(match, got(0x41));
		}
	}
}

TEST(an_undefined_destination_format_matches_nothing_logical)
{
	for (u32 model = 1; model < 15; model++) {
		setup(1, 0);
		reg_write(lapic(0), APIC_DFR, model << 28);
		reg_write(lapic(0), APIC_LDR, 0xff000000);
		EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 0x11, true, FIXED));
		EXPECT_EQ(1, deliver(NULL, 0, false, FIXED));
	}
}

TEST(x2apic_logical_destinations_match_cluster_and_bit)
{
	vm = fixture_start(255, 0, 1);
	for (int i = 0; i < 255; i++) {
		enter_x2apic(lapic(i));
		sw_enable(lapic(i));
	}
	for (u32 cluster = 0; cluster < 17; cluster++)
		for (u32 bit = 0; bit < 16; bit++) {
			u32 id = cluster * 16 + bit, dest = cluster << 16 | 1 << bit;

			EXPECT_EQ(id < 255 ? 1 : MKVM_IRQ_IGNORED,
				  deliver(lapic(0), dest, true, FIXED));
			if (id < 255) {
				EXPECT_TRUE(vector_test(lapic(id), APIC_IRR, 0x41));
				mkvm_lapic_ack(lapic(id), 0x41);
				lapic_eoi(lapic(id));
			}
		}
	EXPECT_EQ(16, deliver(lapic(0), 0x0001ffff, true, FIXED));
	EXPECT_EQ(15, deliver(lapic(0), 0x000fffff, true, FIXED));
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(lapic(0), 0x00020000, true, FIXED));
	EXPECT_EQ(255 - 31, deliver(lapic(0), 0xffffffff, true, FIXED));
}

TEST(the_icr_sends_with_every_mode_and_shorthand)
{
	for (int x2apic = 0; x2apic < 2; x2apic++)
		for (u32 shorthand = 0; shorthand < 4; shorthand++)
			for (u32 mode = 0; mode < 8; mode++) {
				static const u64 who[4] = { 0x4, 0x2, 0xf, 0xd };
				u32 icr = shorthand << 18 | APIC_INT_ASSERT | mode << 8 | 0x41;
				u64 fixed = 0, smi = 0, nmi = 0, init = 0, sipi = 0;

				setup(4, x2apic ? 0xf : 0);
				if (x2apic) {
					EXPECT_EQ(0, mkvm_lapic_msr_write(lapic(1), 0x830,
									  2ull << 32 | icr));
				} else {
					reg_write(lapic(1), APIC_ICR2, 2 << 24);
					EXPECT_EQ(0, got(0x41)); /* the upper half sends nothing */
					reg_write(lapic(1), APIC_ICR, icr);
				}
				fixed = got(0x41);
				for (int i = 0; i < 4; i++) {
					smi |= (u64)fixture_vcpus[i].smis << i;
					nmi |= (u64)fixture_vcpus[i].nmis << i;
					init |= (u64)fixture_vcpus[i].inits << i;
					sipi |= (u64)fixture_vcpus[i].sipis << i;
				}
				if (mode == LOWEST) {
					EXPECT_EQ(1, __builtin_popcountll(fixed));
					EXPECT_EQ(0, fixed & ~who[shorthand]);
				} else {
					EXPECT_EQ(mode == 0 ? who[shorthand] : 0, fixed);
				}
				EXPECT_EQ(mode == 2 ? who[shorthand] : 0, smi);
				EXPECT_EQ(mode == 4 ? who[shorthand] : 0, nmi);
				EXPECT_EQ(mode == 5 ? who[shorthand] : 0, init);
				EXPECT_EQ(mode == 6 ? who[shorthand] : 0, sipi);
				if (mode == 6)
					EXPECT_EQ(0x41,
						  fixture_vcpus[__builtin_ctzll(sipi)].sipi_vector);
			}
}

TEST(the_self_ipi_register_sends_to_itself)
{
	setup(2, 0x3);
	EXPECT_EQ(0, mkvm_lapic_msr_write(lapic(1), 0x83f, 0x41));
	EXPECT_EQ(0x2, got(0x41));
	EXPECT_FALSE(vector_test(lapic(1), APIC_TMR, 0x41));
}

TEST(a_software_disabled_sender_still_sends)
{
	vm = fixture_start(2, 0, 1);
	sw_enable(lapic(0));
	reg_write(lapic(1), APIC_ICR, 0x4041);
	EXPECT_EQ(0x1, got(0x41));
}

TEST(shorthands_of_a_sender_that_is_none_reach_nobody_or_everybody)
{
	struct mkvm_irq irq = { .vector = 0x41, .assert = true };
	static const int result[4] = { 1, MKVM_IRQ_IGNORED, 4, 4 };

	for (irq.shorthand = 0; irq.shorthand < 4; irq.shorthand++) {
		setup(4, 0);
		EXPECT_EQ(result[irq.shorthand], mkvm_irq_deliver(vm, NULL, &irq));
	}
}

TEST(disabled_and_absent_apics_are_left_out)
{
	setup(4, 0);
	mkvm_lapic_set_base(lapic(1), 0xfee00000, false);
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 1, false, FIXED));
	EXPECT_EQ(3, deliver(NULL, 0xff, false, FIXED));
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 1, false, 5));
	EXPECT_EQ(0, fixture_vcpus[1].inits);
	/* software-disabled: addressed, but takes no vector */
	reg_write(lapic(2), APIC_SPIV, 0xff);
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 2, false, FIXED));
	EXPECT_EQ(1, deliver(NULL, 2, false, 4));
	/* a vCPU without a LAPIC */
	mkvm_lapic_destroy(&fixture_vcpus[3]);
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 3, false, FIXED));
	EXPECT_EQ(MKVM_IRQ_COALESCED,
		  deliver(NULL, 0xff, true, LOWEST)); /* vCPU 0 has it since the broadcast */
	/* nobody at all */
	fixture_stop();
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 0, false, FIXED));
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 0xff, true, LOWEST));
}

TEST(counts_are_of_those_that_took_it)
{
	setup(4, 0);
	EXPECT_EQ(1, deliver(NULL, 2, false, FIXED));
	EXPECT_EQ(3, deliver(NULL, 0xff, false, FIXED));
	EXPECT_EQ(MKVM_IRQ_COALESCED, deliver(NULL, 0xff, false, FIXED));
}

TEST(lowest_priority_goes_to_the_least_busy_that_is_addressed)
{
	setup(4, 0);
	for (int i = 0; i < 4; i++) {
		reg_write(lapic(i), APIC_LDR, 1u << (24 + i));
		reg_write(lapic(i), APIC_TASKPRI, 0x70 - 0x10 * i);
	}
	EXPECT_EQ(1, deliver(NULL, 0xf, true, LOWEST));
	EXPECT_EQ(BIT(3), got(0x41));
	EXPECT_EQ(1, deliver(NULL, 0x7, true, LOWEST));
	EXPECT_EQ(BIT(2), got(0x41));
	/* what is requested or in service counts as well */
	send_fixed(lapic(3), 0x81, false);
	EXPECT_EQ(1, deliver(NULL, 0xf, true, LOWEST));
	EXPECT_EQ(BIT(2), got(0x41));
	mkvm_lapic_ack(lapic(2), 0x91);
	EXPECT_EQ(1, deliver(NULL, 0xf, true, LOWEST));
	EXPECT_EQ(BIT(1), got(0x41));
	/* a software-disabled one is no candidate however idle */
	reg_write(lapic(0), APIC_TASKPRI, 0);
	reg_write(lapic(0), APIC_SPIV, 0xff);
	EXPECT_EQ(1, deliver(NULL, 0xf, true, LOWEST));
	EXPECT_EQ(BIT(1), got(0x41));
	for (int i = 0; i < 4; i++)
		reg_write(lapic(i), APIC_SPIV, 0xff);
	EXPECT_EQ(MKVM_IRQ_IGNORED, deliver(NULL, 0xf, true, LOWEST));
}

TEST(lowest_priority_takes_turns_among_equals)
{
	for (int x2apic = 0; x2apic < 2; x2apic++) {
		int count[8] = { 0 };

		setup(8, x2apic ? 0xff : 0);
		for (int i = 0; i < 8; i++)
			if (!x2apic)
				reg_write(lapic(i), APIC_LDR, 1u << (24 + i));
		/* stamps near their wrap, to show that it does not matter */
		for (int i = 0; i < 8; i++)
			lapic(i)->lowest_stamp = 0xfffffff0 + i;
		for (int n = 0; n < 800; n++) {
			u64 who;

			EXPECT_EQ(1, deliver(NULL, 0xfe, true, LOWEST));
			who = got(0x41);
			ASSERT_EQ(1, __builtin_popcountll(who));
			count[__builtin_ctzll(who)]++;
			if (n == 699) {
				for (int i = 1; i < 8; i++)
					EXPECT_EQ(100, count[i]);
				break;
			}
		}
		EXPECT_EQ(0, count[0]);
	}
}

TEST(lowest_priority_owes_nothing_to_who_was_busy)
{
	for (int busy = 0; busy < 4; busy++) {
		int count[4] = { 0 };

		setup(4, 0xf);
		mkvm_lapic_set_tpr(lapic(busy), 0x80);
		for (int n = 0; n < 304; n++) {
			u64 who;

			if (n == 300)
				mkvm_lapic_set_tpr(lapic(busy), 0);
			EXPECT_EQ(1, deliver(NULL, 0xf, true, LOWEST));
			who = got(0x41);
			ASSERT_EQ(1, __builtin_popcountll(who));
			count[__builtin_ctzll(who)]++;
		}
		for (int i = 0; i < 4; i++)
			EXPECT_EQ(i == busy ? 1 : 101, count[i]);
	}
}

TEST(a_physical_broadcast_with_lowest_priority_reaches_everybody)
{
	setup(4, 0);
	EXPECT_EQ(4, deliver(NULL, 0xff, false, LOWEST));
	EXPECT_EQ(0xf, got(0x41));
}

TEST(a_hypercall_reaches_id_255_of_x2apics_and_is_no_broadcast_of_xapics)
{
	setup_ids(3, 253, 1, 7);
	EXPECT_EQ(3, mkvm_lapic_send_ipis(lapic(0), 7, 0, 64, 253, 0x41));
	EXPECT_EQ(7, got(0x41));
	EXPECT_EQ(1, mkvm_lapic_send_ipis(lapic(0), 1, 0, 64, 255, 0x41));
	EXPECT_EQ(4, got(0x41));
	setup(4, 0);
	EXPECT_EQ(0, mkvm_lapic_send_ipis(lapic(0), 1, 0, 64, 255, 0x41));
	EXPECT_EQ(0, got(0x41));
}

/* The direct way to a single target finds who the rule of matching says. */
TEST(random_messages_reach_exactly_those_that_match)
{
	for (int n = 0; n < 20000; n++) {
		u64 r = ktap_random(), expected = 0;
		struct mkvm_irq irq = {
			.vector = 0x41, .assert = true, .logical = r & 1, .shorthand = r >> 1 & 3
		};
		struct mkvm_lapic *sender;
		int result;

		if (n % 100 == 0) {
			setup_ids(6, r >> 8 & 7, 1 + (r >> 11 & 3), r >> 16);
			for (int i = 0; i < 6; i++) {
				reg_write(lapic(i), APIC_LDR, ktap_random());
				reg_write(lapic(i), APIC_DFR, r >> (32 + i) & 1 ? ~0 : 0);
				if (ktap_random() % 8 == 0)
					mkvm_lapic_set_base(lapic(i), 0xfee00000, true);
			}
		}
		irq.shorthand = r >> 1 & 4 ? 0 : irq.shorthand;
		sender = r >> 40 & 1 ? lapic((r >> 41) % 6) : NULL;
		irq.dest = r >> 50 & 1 ? r >> 51 & 31 :
			   r >> 50 & 2 ? r >> 52 & 0xff :
					 ktap_random();
		for (int i = 0; i < 6; i++)
			expected |= (u64)mkvm_lapic_matches(lapic(i), sender, &irq) << i;
		result = mkvm_irq_deliver(vm, sender, &irq);
		ASSERT_EQ(expected ? __builtin_popcountll(expected) : MKVM_IRQ_IGNORED, result);
		ASSERT_EQ(expected, got(0x41));
	}
}
