// SPDX-License-Identifier: GPL-2.0
/*
 * test_asid.c - ASIDs and flushes against CPUs that keep all translations until they are told
 * to flush, and that do not say whether a refused VMRUN has flushed.
 */
#include "shim/base.h"
#include "ktap.h"

#include "../../kmod/svm/asid.c"

#define CPUS 3
#define VCPUS 7
#define MAX_ASID 4

/* What a CPU's TLB holds under an ASID: whose translations, and from when. */
struct held {
	int vcpu;		/* -1: none */
	u32 version;
};

static struct held tlb[CPUS][MAX_ASID + 1];
static struct svm_asids cpus[CPUS];
static struct svm_asid vcpus[VCPUS];
static u32 version[VCPUS];	/* of a vCPU's page tables */

enum vmrun { ENTERS, REFUSED_FLUSHED, REFUSED_NOT_FLUSHED };

static void empty(int cpu)
{
	for (int i = 0; i <= MAX_ASID; i++)
		tlb[cpu][i].vcpu = -1;
}

static void setup(void)
{
	memset(cpus, 0, sizeof(cpus));
	memset(vcpus, 0, sizeof(vcpus));
	for (int i = 0; i < CPUS; i++) {
		empty(i);
		svm_asids_start(&cpus[i], MAX_ASID);
	}
}

/* The vCPU's page tables change. */
static void change(int vcpu)
{
	version[vcpu]++;
	vcpus[vcpu].flush = true;
}

/* One VMRUN. False: the guest runs with another's translations, or with old ones. */
static bool run(int vcpu, int cpu, enum vmrun how, bool flush_by_asid)
{
	enum svm_tlb_ctl ctl = svm_asid_enter(&vcpus[vcpu], &cpus[cpu], cpu, flush_by_asid);
	u32 asid = vcpus[vcpu].asid;
	struct held *held = &tlb[cpu][asid];

	if (!EXPECT_TRUE(asid >= 1 && asid <= MAX_ASID))
		return false;
	if (how != REFUSED_NOT_FLUSHED && ctl == SVM_TLB_FLUSH_ALL)
		empty(cpu);
	if (how != REFUSED_NOT_FLUSHED && ctl == SVM_TLB_FLUSH_ASID)
		held->vcpu = -1;
	if (how != ENTERS) {
		svm_asid_refused(&vcpus[vcpu], &cpus[cpu]);
		return true;
	}
	if (held->vcpu >= 0 && (held->vcpu != vcpu || held->version != version[vcpu]))
		return false;
	*held = (struct held) { vcpu, version[vcpu] };
	return true;
}

TEST(a_flush_that_a_refused_vmrun_may_have_lost_is_made_by_the_next)
{
	for (int by_asid = 0; by_asid < 2; by_asid++) {
		setup();
		EXPECT_TRUE(run(0, 0, ENTERS, by_asid));
		change(0);
		EXPECT_TRUE(run(0, 0, REFUSED_NOT_FLUSHED, by_asid));
		EXPECT_TRUE(run(0, 0, ENTERS, by_asid));
	}
}

TEST(a_new_generation_that_begins_with_a_refused_vmrun_begins_again)
{
	setup();
	for (int i = 0; i < MAX_ASID; i++)
		EXPECT_TRUE(run(i, 0, ENTERS, true));
	EXPECT_TRUE(run(MAX_ASID, 0, REFUSED_NOT_FLUSHED, true));
	for (int i = VCPUS - 1; i >= 0; i--)
		EXPECT_TRUE(run(i, 0, ENTERS, true));
}

TEST(an_asid_is_kept_while_nothing_happens)
{
	u32 asid;

	setup();
	EXPECT_TRUE(run(0, 0, ENTERS, true));
	asid = vcpus[0].asid;
	change(0);
	EXPECT_EQ(SVM_TLB_FLUSH_ASID, svm_asid_enter(&vcpus[0], &cpus[0], 0, true));
	EXPECT_EQ(SVM_TLB_KEEP, svm_asid_enter(&vcpus[0], &cpus[0], 0, true));
	EXPECT_EQ(asid, vcpus[0].asid);
	change(0);
	EXPECT_EQ(SVM_TLB_KEEP, svm_asid_enter(&vcpus[0], &cpus[0], 0, false));
	EXPECT_NE(asid, vcpus[0].asid);
}

TEST(no_guest_runs_with_stale_translations_whatever_happens)
{
	for (int by_asid = 0; by_asid < 2; by_asid++) {
		setup();
		for (int i = 0; i < 200000; i++) {
			int vcpu = ktap_random() % VCPUS, cpu = ktap_random() % CPUS;

			switch (ktap_random() % 8) {
			case 0:
				change(vcpu);
				break;
			case 1:
				if (ktap_random() % 16 ==
				    0) /* off and on: its TLB holds what it held */
					svm_asids_start(&cpus[cpu], MAX_ASID);
				break;
			case 2:
				run(vcpu, cpu, 1 + ktap_random() % 2, by_asid);
				break;
			default:
				ASSERT_TRUE(run(vcpu, cpu, ENTERS, by_asid));
			}
		}
	}
}
