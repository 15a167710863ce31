// SPDX-License-Identifier: GPL-2.0
/*
 * State from userspace that no CPU can be in: every byte of every structure that
 * KVM_SET_* takes gets values that a register may refuse, then the guest runs.
 * What is refused has changed nothing; what is taken may end the guest, and
 * nobody else: the good state runs again afterwards.
 *
 * The guest owns one page of code and three of tables, which are put back each
 * time, and has no handlers: what goes wrong in it is soon a shutdown.
 *
 * Read next: regs.c.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm.h"

#define PORT 0x10
#define ROOT 0x1000ull		/* page tables, which map the lowest 2 MiB */
#define ENTRY 0x8000
#define MXCSR_WORD 6		/* of struct kvm_xsave; the mask is behind it */
#define XSAVE_BV 128

/* The same bytes in every mode: OUT PORT, AL, over and over. */
static const u8 code[] = { 0xe6, PORT, 0xeb, 0xfc };

/* ---- a guest and its state ---- */

struct state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	struct kvm_fpu fpu;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_xsave xsave;		/* the last: its end is open */
};

/* In an order that restores soundly. */
static const struct kind {
	const char *name;
	unsigned long get, set;
	size_t offset, size;
	bool lapic;			/* needs the kernel's */
} kinds[] = {
#define KIND(what, field, needs) \
	{ #what, KVM_GET_##what, KVM_SET_##what, offsetof(struct state, field),	\
	  sizeof(((struct state *)0)->field), needs }
	KIND(REGS, regs, false),
	KIND(SREGS, sregs, false),
	KIND(XCRS, xcrs, false),
	KIND(XSAVE, xsave, false),
	KIND(FPU, fpu, false),
	KIND(DEBUGREGS, debugregs, false),
	KIND(LAPIC, lapic, true),
	KIND(MP_STATE, mp_state, true),
	KIND(VCPU_EVENTS, events, false),
};

#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static struct state good, before, after, bad;

static void load_memory(struct vm *vm)
{
	u64 *table = (u64 *)(vm->low + ROOT);

	memset(vm->low, 0, 0x10000);
	table[0] = (ROOT + 0x1000) | 7;
	table[512] = (ROOT + 0x2000) | 7;
	table[1024] = 0x87;
	vm_load(vm, ENTRY, code, code + sizeof(code));
}

static void set_long_mode(struct vcpu *vcpu)
{
	struct kvm_regs regs = { .rip = ENTRY, .rsp = 0x9000, .rflags = RFLAGS_FIXED };
	struct kvm_sregs sregs;

	vcpu_set_flat32(vcpu, ENTRY);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr3 = ROOT;
	sregs.cr4 |= CR4_PAE | CR4_OSFXSR;
	sregs.cr0 |= CR0_PE | CR0_PG;
	sregs.efer |= EFER_LME | EFER_LMA;
	sregs.cs.l = 1;
	sregs.cs.db = 0;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_set_regs(vcpu, &regs);
}

static struct vcpu *make_guest(unsigned int flags)
{
	struct vm *vm = vm_create(flags);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	ASSERT_OK(vm_set_slot(vm, SLOT_IMAGE, 0, LOW_RAM_SIZE, 0, NULL));
	load_memory(vm);
	set_long_mode(vcpu);
	return vcpu;
}

static bool has(const struct vcpu *vcpu, const struct kind *k)
{
	return (vcpu->vm->irqchip || !k->lapic) &&
	       (strcmp(k->name, "XCRS") || capability(KVM_CAP_XCRS) > 0);
}

static void get_state(struct vcpu *vcpu, struct state *s)
{
	memset(s, 0, sizeof(*s));
	for (const struct kind *k = kinds; k < kinds + NR_KINDS; k++)
		if (has(vcpu, k))
			ASSERT_OK(ioctl(vcpu->fd, k->get, (u8 *)s + k->offset));
}

static void expect_same_state(const struct vcpu *vcpu)
{
	for (const struct kind *k = kinds; k < kinds + NR_KINDS; k++)
		if (has(vcpu, k) &&
		    memcmp((u8 *)&before + k->offset, (u8 *)&after + k->offset, k->size))
			FAIL("what was refused has changed what KVM_GET_%s shows", k->name);
}

/* ---- running for a moment ---- */

static pthread_t runner;
static volatile bool ticking;

static void on_tick(int sig)
{
	(void)sig;
}

/* A guest in a state of this kind may run for ever: a signal ends it. */
static void *tick(void *arg)
{
	(void)arg;
	while (ticking) {
		usleep(3000);
		pthread_kill(runner, SIGUSR1);
	}
	return NULL;
}

static void start_ticks(void)
{
	struct sigaction action = { .sa_handler = on_tick };
	pthread_t ticker;

	runner = pthread_self();
	ticking = true;
	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	ASSERT_EQ(0, pthread_create(&ticker, NULL, tick, NULL));
}

/* However it ends, as long as it ends: with a reason, or an errno that KVM_RUN may have. */
static void run_a_moment(struct vcpu *vcpu)
{
	for (int i = 0; i < 3; i++) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno != EINTR && errno != EINVAL && errno != EFAULT && errno != EAGAIN)
				FAIL("KVM_RUN: %s", strerror(errno));
			return;
		}
		if (vcpu->run->exit_reason == KVM_EXIT_FAIL_ENTRY ||
		    vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN)
			break;
	}
	/* What the last exit left is done, or over. */
	vcpu->run->immediate_exit = 1;
	(void)!ioctl(vcpu->fd, KVM_RUN, 0);
	vcpu->run->immediate_exit = 0;
}

/* The guest that is in order runs: it comes to its OUT. */
static void expect_to_run(struct vcpu *vcpu)
{
	ASSERT_EQ(KVM_EXIT_IO, vcpu_run(vcpu));
	ASSERT_EQ(PORT, vcpu->run->io.port);
}

static void put_state_back(struct vcpu *vcpu)
{
	vcpu->run->kvm_dirty_regs = 0;
	vcpu->run->kvm_valid_regs = 0;
	vcpu->run->cr8 = good.sregs.cr8;
	load_memory(vcpu->vm);
	for (const struct kind *k = kinds; k < kinds + NR_KINDS; k++)
		if (has(vcpu, k))
			ASSERT_OK(ioctl(vcpu->fd, k->set, (u8 *)&good + k->offset));
	expect_to_run(vcpu);
	vcpu_finish_exit(vcpu);
}

static u32 taken, refused;

/* One structure, whose state is in bad, is set. */
static void try_one(struct vcpu *vcpu, const struct kind *k)
{
	get_state(vcpu, &before);
	if (ioctl(vcpu->fd, k->set, (u8 *)&bad + k->offset) < 0) {
		ASSERT_EQ(EINVAL, errno);
		get_state(vcpu, &after);
		expect_same_state(vcpu);
		refused++;
		return;
	}
	taken++;
	run_a_moment(vcpu);
	put_state_back(vcpu);
}

static struct vcpu *start_sweep(unsigned int flags)
{
	struct vcpu *vcpu = make_guest(flags);

	start_ticks();
	expect_to_run(vcpu);
	vcpu_finish_exit(vcpu);
	get_state(vcpu, &good);
	taken = refused = 0;
	return vcpu;
}

static void end_sweep(void)
{
	ktap_about("%s", "");
	ktap_note("taken %u, refused %u", taken, refused);
	ticking = false;
}

static const struct kind *kind_named(const char *name)
{
	const struct kind *k = kinds;

	while (strcmp(k->name, name))
		k++;
	return k;
}

/*
 * Each word of a structure in turn, the others as they were; of the part behind the XSAVE
 * header one value.
 */
static void sweep_words(struct vcpu *vcpu, const struct kind *k)
{
	static const u64 words[] = {
		~0ull,	    1ull << 63, 1ull << 47, 0xffff7fffffffffff,
		1ull << 32, 0xffffffff, 0x80000000, 0,
	};

	for (size_t at = 0; at + 8 <= k->size; at += k->set == KVM_SET_LAPIC ? 16 : 8) {
		for (size_t i = 0; i < (at < 0x240 ? sizeof(words) / 8 : 1); i++) {
			ktap_about("%s, word at 0x%zx: 0x%llx", k->name, at,
				   (unsigned long long)words[i]);
			bad = good;
			memcpy((u8 *)&bad + k->offset + at, &words[i], 8);
			try_one(vcpu, k);
		}
	}
}

/* Likewise each byte of a smaller one. */
static void sweep(struct vcpu *vcpu, const char *name)
{
	static const u8 bytes[] = { 0xff, 0x80, 0x20, 0x08, 0x01 };
	const struct kind *k = kind_named(name);

	sweep_words(vcpu, k);
	for (size_t at = 0; at < k->size && k->size <= 320; at++) {
		for (size_t i = 0; i < sizeof(bytes); i++) {
			ktap_about("%s, byte at 0x%zx ^ 0x%x", k->name, at, bytes[i]);
			bad = good;
			((u8 *)&bad)[k->offset + at] ^= bytes[i];
			try_one(vcpu, k);
		}
	}
}

/* ---- single ones, which must be refused ---- */

TEST(mxcsr_bits_that_the_cpu_lacks_are_refused_whatever_mask_userspace_has_brought)
{
	struct vcpu *vcpu = make_guest(0);
	static struct kvm_xsave xsave;
	struct kvm_fpu fpu;
	u32 mask;

	NEED_CAP(KVM_CAP_XSAVE);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at KVM_SET_FPU's MXCSR and drops it");
	expect_to_run(vcpu);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &xsave));
	mask = xsave.region[MXCSR_WORD + 1] ?: 0xffbf;
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &fpu));
	xsave.region[XSAVE_BV] |= 3;
	xsave.region[MXCSR_WORD] = 0x1f80;
	for (int bit = 0; bit < 32; bit++) {
		ktap_about("bit %d", bit);
		/* Whose mask this is nobody says: another CPU's, or nobody's. */
		xsave.region[MXCSR_WORD + 1] = bit & 1 ? 0xffffffff : 1u << bit;
		ASSERT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &xsave));
		fpu.mxcsr = 0x1f80 ^ 1u << bit;
		if (mask >> bit & 1)
			EXPECT_OK(ioctl(vcpu->fd, KVM_SET_FPU, &fpu));
		else
			EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_FPU, &fpu));
		vcpu_finish_exit(vcpu);
		expect_to_run(vcpu);
		ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &fpu));
		EXPECT_EQ(0, fpu.mxcsr & ~mask);
	}
}

static void expect_sregs_refused(struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	get_state(vcpu, &before);
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, sregs));
	get_state(vcpu, &after);
	expect_same_state(vcpu);
}

TEST(sregs_that_would_fail_an_entry_are_refused)
{
	struct vcpu *vcpu = make_guest(VM_IRQCHIP);
	struct kvm_sregs sregs, long_mode;

	if (is_linux_kvm())
		SKIP("Linux KVM takes them, and the entry fails");
	vcpu_get_sregs(vcpu, &long_mode);
	sregs = long_mode;
	sregs.cs.db = 1;		/* L and D at the same time */
	expect_sregs_refused(vcpu, &sregs);
	sregs = long_mode;
	sregs.efer = 0;
	sregs.cs.l = 0;
	sregs.cs.db = 1;
	sregs.cr4 |= 1 << 17;		/* PCIDE outside of long mode */
	expect_sregs_refused(vcpu, &sregs);
	sregs.cr4 = long_mode.cr4;
	for (int bit = 52; bit < 64; bit++) {
		sregs.cr3 = ROOT | 1ull << bit;
		expect_sregs_refused(vcpu, &sregs);
	}
	sregs.cr0 &= ~CR0_PG;
	expect_sregs_refused(vcpu, &sregs);
	expect_to_run(vcpu);
}

/* CR4 bits with the leaf and register of CPUID that offer them. */
static const struct {
	u32 leaf, reg, cpuid_bit, cr4_bit;
} cr4_features[] = {
	{ 1, 2, 26, 18 }, { 1, 2, 17, 17 }, { 7, 1, 0, 16 }, { 7, 1, 7, 20 },
	{ 7, 1, 20, 21 }, { 7, 2, 2, 11 }, { 7, 2, 3, 22 },
};

TEST(cr4_bits_that_only_userspace_claims_are_refused)
{
	struct vcpu *vcpu = make_guest(0);
	struct cpuid_list list;
	struct kvm_sregs sregs;
	u32 lacks = 0;

	if (is_linux_kvm())
		SKIP("not held against it");
	default_cpuid(&list, 0);
	vcpu_get_sregs(vcpu, &sregs);
	for (u32 i = 0; i < sizeof(cr4_features) / sizeof(cr4_features[0]); i++) {
		for (u32 n = 0; n < list.nent; n++) {
			u32 *reg = &list.entries[n].eax + cr4_features[i].reg,
			    bit = 1u << cr4_features[i].cpuid_bit;

			if (list.entries[n].function != cr4_features[i].leaf || (*reg & bit))
				continue;
			lacks |= 1u << cr4_features[i].cr4_bit;
			*reg |= bit;
		}
	}
	if (!lacks)
		SKIP("the CPU has all of them");
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	for (u32 bit = 0; bit < 32; bit++) {
		struct kvm_sregs more = sregs;

		if (!(lacks >> bit & 1))
			continue;
		ktap_about("CR4 bit %u", bit);
		more.cr4 |= 1ull << bit;
		expect_sregs_refused(vcpu, &more);
	}
	expect_to_run(vcpu);
}

TEST(an_extended_control_register_that_is_not_there_is_refused)
{
	struct vcpu *vcpu = make_guest(0);
	struct kvm_xcrs xcrs, more;

	NEED_CAP(KVM_CAP_XCRS);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at what is not XCR0");
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs));
	if (!xcrs.nr_xcrs)
		SKIP("the CPU has no XSAVE");
	more = xcrs;
	more.xcrs[0].xcr = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &more));
	more = xcrs;
	more.nr_xcrs = 2;
	more.xcrs[1] = (struct kvm_xcr){ .xcr = 1, .value = 1 };
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &more));
	more.nr_xcrs = 0;
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_XCRS, &more));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XCRS, &more));
	EXPECT_EQ(0, memcmp(&xcrs, &more, sizeof(xcrs)));
}

/* KVM_RUN takes registers, system registers and events at once, or nothing of them. */
TEST(registers_in_kvm_run_are_taken_together_or_not_at_all)
{
	struct vcpu *vcpu = make_guest(VM_IRQCHIP);
	struct kvm_sync_regs *sync = &vcpu->run->s.regs;

	NEED_CAP(KVM_CAP_SYNC_REGS);
	if (is_linux_kvm())
		SKIP("Linux KVM has taken what stands before the one that it refuses");
	get_state(vcpu, &good);
	for (int i = 0; i < 2; i++) {
		sync->regs = good.regs;
		sync->regs.rax = 0x1234;
		sync->regs.rip = 0x5678;
		sync->sregs = good.sregs;
		sync->sregs.cr2 = 0x9abc;
		sync->events = good.events;
		sync->events.nmi.masked = 1;
		if (i)
			sync->sregs.efer = EFER_LMA;
		else
			sync->events.flags |= 1u << 31;
		vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_VALID_FIELDS;
		get_state(vcpu, &before);
		EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_RUN, 0));
		EXPECT_EQ(KVM_SYNC_X86_VALID_FIELDS, vcpu->run->kvm_dirty_regs);
		get_state(vcpu, &after);
		expect_same_state(vcpu);
	}
	sync->regs = good.regs;
	sync->sregs = good.sregs;
	sync->events = good.events;
	expect_to_run(vcpu);
	EXPECT_EQ(0, vcpu->run->kvm_dirty_regs);
}

/*
 * No call can see it alone: EFER comes by KVM_SET_MSRS, and what it contradicts by
 * KVM_SET_SREGS.
 */
TEST(a_contradiction_fails_the_entry_as_long_as_it_lasts)
{
	struct vcpu *vcpu = make_guest(VM_IRQCHIP);
	struct kvm_sregs sregs;

	get_state(vcpu, &good);
	for (int round = 0; round < 3; round++) {
		sregs = good.sregs;
		sregs.cr4 &= ~CR4_PAE;
		sregs.efer = 0;
		sregs.cs.l = 0;
		sregs.cs.db = 1;
		vcpu_set_sregs(vcpu, &sregs);
		ASSERT_EQ(1, vcpu_set_msr(vcpu, MSR_EFER, EFER_LME));
		for (int i = 0; i < 3; i++) {
			ASSERT_EQ(KVM_EXIT_FAIL_ENTRY, vcpu_run(vcpu));
			EXPECT_NE(0, vcpu->run->fail_entry.hardware_entry_failure_reason);
		}
		put_state_back(vcpu);
	}
}

/* ---- sweeps ---- */

TEST_LIMIT(general_registers_of_any_value, 120)
{
	sweep(start_sweep(VM_IRQCHIP), "REGS");
	end_sweep();
}

TEST_LIMIT(system_registers_of_any_value, 300)
{
	sweep(start_sweep(VM_IRQCHIP), "SREGS");
	end_sweep();
}

TEST_LIMIT(system_registers_of_any_value_without_interrupt_controllers, 300)
{
	struct vcpu *vcpu = start_sweep(0);

	/* In protected mode without paging, to begin with. */
	good.sregs.cr0 &= ~CR0_PG;
	good.sregs.efer = 0;
	good.sregs.cs.l = 0;
	good.sregs.cs.db = 1;
	put_state_back(vcpu);
	sweep_words(vcpu, kind_named("SREGS"));
	end_sweep();
}

/* Every component that XCR0 has is marked as set, or its bytes would not be looked at. */
TEST_LIMIT(xsave_areas_of_any_bytes, 300)
{
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_XSAVE);
	vcpu = start_sweep(0);
	good.xsave.region[XSAVE_BV] |= 3;
	good.xsave.region[MXCSR_WORD] = 0x1f80;
	put_state_back(vcpu);
	sweep(vcpu, "XSAVE");
	end_sweep();
}

TEST_LIMIT(fpu_registers_of_any_value, 120)
{
	sweep(start_sweep(0), "FPU");
	end_sweep();
}

TEST_LIMIT(extended_control_registers_of_any_value, 120)
{
	NEED_CAP(KVM_CAP_XCRS);
	sweep(start_sweep(0), "XCRS");
	end_sweep();
}

TEST_LIMIT(debug_registers_of_any_value, 120)
{
	sweep(start_sweep(0), "DEBUGREGS");
	end_sweep();
}

TEST_LIMIT(local_apics_of_any_registers, 300)
{
	sweep(start_sweep(VM_IRQCHIP), "LAPIC");
	end_sweep();
}

TEST_LIMIT(events_of_any_bytes, 120)
{
	sweep(start_sweep(VM_IRQCHIP), "VCPU_EVENTS");
	end_sweep();
}

TEST(mp_states_of_any_number)
{
	struct vcpu *vcpu = start_sweep(VM_IRQCHIP);

	for (u32 i = 0; i < 300; i++) {
		bad = good;
		bad.mp_state.mp_state = i < 256 ? i : 1u << (i & 31);
		ktap_about("mp_state 0x%x", bad.mp_state.mp_state);
		try_one(vcpu, kind_named("MP_STATE"));
	}
	end_sweep();
}

/* KVM_RUN with registers in kvm_run: the same three structures by another way. */
TEST_LIMIT(registers_in_kvm_run_of_any_value, 300)
{
	static const u64 words[] = { ~0ull, 1ull << 63, 1ull << 47, 1ull << 32, 0 };
	struct kvm_sync_regs *sync;
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_SYNC_REGS);
	vcpu = start_sweep(VM_IRQCHIP);
	sync = &vcpu->run->s.regs;
	for (size_t at = 0; at + 8 <= sizeof(*sync); at += 8) {
		for (size_t i = 0; i < sizeof(words) / 8; i++) {
			ktap_about("word at 0x%zx: 0x%llx", at, (unsigned long long)words[i]);
			sync->regs = good.regs;
			sync->sregs = good.sregs;
			sync->events = good.events;
			memcpy((u8 *)sync + at, &words[i], 8);
			vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_VALID_FIELDS;
			vcpu->run->kvm_valid_regs = i & 1 ? KVM_SYNC_X86_VALID_FIELDS : 0;
			run_a_moment(vcpu);
			put_state_back(vcpu);
		}
	}
	end_sweep();
}

/* ---- MSRs ---- */

static bool goes_on_by_itself(u32 msr)
{
	return msr == MSR_TSC || msr == MSR_TSC_DEADLINE || msr == 0x3b;	/* TSC_ADJUST */
}

static void try_msr(struct vcpu *vcpu, u32 msr)
{
	static const u64 values[] = {
		~0ull,	    1ull << 63, 1ull << 47, 0xffff7fffffffffff,
		1ull << 32, 0xffffffff, 0x80000000, 0xff,
		1,	    0,
	};
	struct msr_list list = { .nmsrs = 1, .entries[0].index = msr };
	u64 was;

	if (ioctl(vcpu->fd, KVM_GET_MSRS, &list) != 1)
		return;
	was = list.entries[0].data;
	for (size_t i = 0; i < sizeof(values) / 8; i++) {
		ktap_about("MSR 0x%x = 0x%llx", msr, (unsigned long long)values[i]);
		if (vcpu_set_msr(vcpu, msr, values[i]) != 1) {
			refused++;
			if (!goes_on_by_itself(msr))
				ASSERT_EQ(was, vcpu_get_msr(vcpu, msr));
			continue;
		}
		taken++;
		run_a_moment(vcpu);
		ASSERT_EQ(1, vcpu_set_msr(vcpu, msr, was));
		put_state_back(vcpu);
	}
}

/* Those that are listed, and those that are the CPU's own or the local APIC's. */
TEST_LIMIT(msrs_of_any_value, 300)
{
	static const u32 others[] = {
		MSR_APICBASE, MSR_EFER, 0xc0000100, 0xc0000101, 0x1d9, 0x179,
		0x48, 0x49, 0x140, 0x17a, 0x79, 0xc0010010,
	};
	struct vcpu *vcpu = start_sweep(VM_IRQCHIP);
	struct {
		u32 nmsrs, index[256];
	} list = { .nmsrs = 256 };

	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &list));
	for (u32 i = 0; i < list.nmsrs; i++)
		try_msr(vcpu, list.index[i]);
	for (u32 i = 0; i < sizeof(others) / 4; i++)
		try_msr(vcpu, others[i]);
	for (u32 i = 0; i < 0x40; i++)
		try_msr(vcpu, MSR_X2APIC + i);
	for (u32 bank = 0; bank < 4 * 33; bank++)
		try_msr(vcpu, 0x400 + bank);
	end_sweep();
}

/* ---- what a VM is given ---- */

static struct kvm_irqchip chip_good;
static struct kvm_pit_state2 pit_good;

/* KVM_SET of size bytes of *state, one of whose words or bytes is what no chip has. */
static void sweep_vm(struct vcpu *vcpu, unsigned long get, unsigned long set, const void *state,
		     size_t from, size_t size)
{
	static const u8 bytes[] = { 0xff, 0x80, 0x10, 0x04, 0x01 };
	static u8 bad_bytes[1024], seen[1024], again[1024];
	int fd = vcpu->vm->fd;

	for (size_t at = from; at < size; at++) {
		for (size_t i = 0; i < sizeof(bytes); i++) {
			ktap_about("byte at 0x%zx ^ 0x%x", at, bytes[i]);
			memcpy(bad_bytes, state, size);
			bad_bytes[at] ^= bytes[i];
			memcpy(seen, state, from);
			memcpy(again, state, from);
			ASSERT_OK(ioctl(fd, get, seen));
			if (ioctl(fd, set, bad_bytes) < 0) {
				ASSERT_EQ(EINVAL, errno);
				ASSERT_OK(ioctl(fd, get, again));
				ASSERT_EQ(0, memcmp(seen, again, size));
				refused++;
				continue;
			}
			taken++;
			run_a_moment(vcpu);
			ASSERT_OK(ioctl(fd, set, state));
			put_state_back(vcpu);
		}
	}
}

TEST_LIMIT(interrupt_controllers_of_any_state, 300)
{
	static const size_t sizes[] = {
		sizeof(struct kvm_pic_state),
		sizeof(struct kvm_pic_state),
		sizeof(struct kvm_ioapic_state),
	};
	struct vcpu *vcpu = start_sweep(VM_IRQCHIP);

	for (u32 chip = 0; chip < 3; chip++) {
		chip_good = (struct kvm_irqchip){ .chip_id = chip };
		ASSERT_OK(ioctl(vcpu->vm->fd, KVM_GET_IRQCHIP, &chip_good));
		sweep_vm(vcpu, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, &chip_good,
			 offsetof(struct kvm_irqchip, chip),
			 offsetof(struct kvm_irqchip, chip) + sizes[chip]);
	}
	end_sweep();
}

TEST_LIMIT(timers_of_any_state, 300)
{
	struct vcpu *vcpu = start_sweep(VM_IRQCHIP | VM_PIT);

	ASSERT_OK(ioctl(vcpu->vm->fd, KVM_GET_PIT2, &pit_good));
	sweep_vm(vcpu, KVM_GET_PIT2, KVM_SET_PIT2, &pit_good, 0, sizeof(pit_good));
	end_sweep();
}

/* ---- what is set and not got ---- */

TEST_LIMIT(breakpoints_of_any_value, 120)
{
	static const u64 words[] = {
		~0ull, 1ull << 63, 1ull << 47, 0xffff7fffffffffff, 1ull << 32, 0xffffffff, 0x2000,
	};
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	vcpu = start_sweep(0);
	for (u32 reg = 0; reg < 8; reg++) {
		for (size_t i = 0; i < sizeof(words) / 8; i++) {
			struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE |
								    KVM_GUESTDBG_USE_HW_BP };

			ktap_about("DR%u = 0x%llx", reg, (unsigned long long)words[i]);
			debug.arch.debugreg[7] = 0x4ff;
			debug.arch.debugreg[reg] = words[i];
			if (ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug) < 0) {
				ASSERT_EQ(EINVAL, errno);
				continue;
			}
			run_a_moment(vcpu);
			memset(&debug, 0, sizeof(debug));
			ASSERT_OK(ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug));
			put_state_back(vcpu);
		}
	}
	end_sweep();
}

TEST(machine_checks_and_vectors_of_any_number)
{
	struct vcpu *vcpu = start_sweep(0);

	for (u32 i = 0; i < 300; i++) {
		struct kvm_x86_mce mce = { .status = 1ull << 63, .bank = i };
		struct kvm_interrupt irq = { .irq = i < 280 ? i : 1u << (i & 31) };

		ktap_about("number %u", i);
		if (i < 256 && ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce) < 0)
			ASSERT_EQ(EINVAL, errno);
		if (ioctl(vcpu->fd, KVM_INTERRUPT, &irq) < 0)
			ASSERT_EQ(EINVAL, errno);
		else
			ASSERT_LT(irq.irq, 256);
		run_a_moment(vcpu);
		put_state_back(vcpu);
	}
	end_sweep();
}
