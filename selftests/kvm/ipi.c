// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts between vCPUs: destinations and shorthands, lowest priority,
 * NMIs, halted targets.
 *
 * vCPU 0 sends, all count what they take. That nobody else got one is
 * certain once a later interrupt of a lower class (the fence) was taken by all.
 *
 * State: got[cpu][vector], and the APIC mode of the running test.
 * Read next: initsipi.c, lapic.c.
 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vm.h"

#define NR_CPUS 4
#define FENCE 0x21

enum apic_mode { FLAT, CLUSTER, X2APIC, LDR_ZERO };

static enum apic_mode mode;
static bool halt_targets;
static volatile u32 got[NR_CPUS][256];
static volatile bool ready[NR_CPUS], finish;
static void (*sender)(void);

/* The vCPU whose stack this is. */
static u32 cpu_of(const void *on_stack)
{
	return ((u64)on_stack - (u64)guest_stacks) / sizeof(guest_stacks[0]);
}

static void eoi(void)
{
	if (mode == X2APIC)
		x2apic_write(APIC_EOI, 0);
	else
		apic_eoi();
}

static void count_here(struct guest_frame *frame)
{
	got[cpu_of(frame)][frame->vector]++;
	if (frame->vector != VEC_NMI)
		eoi();
}

static void send(u32 dest, u32 command)
{
	if (mode == X2APIC)
		x2apic_icr(dest, command);
	else
		apic_icr(dest, command);
}

static void setup_apic(u64 cpu)
{
	switch (mode) {
	case X2APIC:
		x2apic_enable();
		return;
	case FLAT:
		apic_write(APIC_LDR, 1 << (24 + cpu));
		break;
	case CLUSTER:
		/* CPUs 0 and 1 are members of cluster 1, 2 and 3 of cluster 2. */
		apic_write(APIC_DFR, 0x0fffffff);
		apic_write(APIC_LDR, (cpu / 2 + 1) << 28 | 1 << (24 + cpu % 2));
		break;
	case LDR_ZERO:
		break;
	}
	apic_enable();
}

static void all_take_fence(void)
{
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		send(cpu, FENCE);
	sti();
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		GUEST_WAIT(got[cpu][FENCE]);
	cli();
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		got[cpu][FENCE] = 0;
}

/* Just the CPUs in mask got this vector, once. */
static void expect_got(u32 vector, u32 mask)
{
	all_take_fence();
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++) {
		GUEST_EQ(mask >> cpu & 1, got[cpu][vector]);
		got[cpu][vector] = 0;
	}
}

static void member(u64 cpu)
{
	setup_apic(cpu);
	ready[cpu] = true;
	if (cpu == 0) {
		for (u32 i = 0; i < NR_CPUS; i++)
			GUEST_WAIT(ready[i]);
		sender();
		finish = true;
		for (u32 i = 1; i < NR_CPUS; i++)
			send(i, FENCE);
		return;
	}
	while (!finish) {
		if (halt_targets) {
			sti_hlt_cli();
		} else {
			sti();
			cpu_relax();
		}
	}
}

static void run_members(enum apic_mode apic_mode, void (*guest)(void))
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	mode = apic_mode;
	sender = guest;
	for (u32 vector = 0x20; vector < 0xff; vector++)
		guest_handlers[vector] = count_here;
	guest_handlers[VEC_NMI] = count_here;
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_add(vm, member, i);
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_start(vm->vcpus[i]);
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

/* --- Destinations --- */

static void physical(void)
{
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++) {
		send(cpu, 0x40 + cpu);
		expect_got(0x40 + cpu, 1 << cpu);
	}
	/* Nobody has this id. */
	send(0x33, 0x50);
	expect_got(0x50, 0);
}

TEST(xapic_physical_destination_reaches_one)
{
	run_members(FLAT, physical);
}

TEST(x2apic_physical_destination_reaches_one)
{
	run_members(X2APIC, physical);
}

static void physical_broadcast(void)
{
	send(mode == X2APIC ? 0xffffffff : 0xff, 0x41);
	expect_got(0x41, 0xf);
}

TEST(xapic_broadcast_reaches_all)
{
	run_members(FLAT, physical_broadcast);
}

TEST(x2apic_broadcast_reaches_all)
{
	run_members(X2APIC, physical_broadcast);
}

static void x2apic_low_byte_is_not_all(void)
{
	/* In x2APIC mode 255 is an id like others. */
	send(0xff, 0x42);
	expect_got(0x42, 0);
}

TEST(x2apic_destination_255_is_no_broadcast)
{
	run_members(X2APIC, x2apic_low_byte_is_not_all);
}

static void logical_flat(void)
{
	static const u8 masks[] = { 0x1, 0x2, 0x6, 0x9, 0xf, 0xff };

	for (u32 i = 0; i < sizeof(masks); i++) {
		send(masks[i], ICR_LOGICAL | (0x60 + i));
		expect_got(0x60 + i, masks[i] & 0xf);
	}
	send(0x10, ICR_LOGICAL | 0x70);
	expect_got(0x70, 0);
}

TEST(logical_flat_destination_is_a_set_of_cpus)
{
	run_members(FLAT, logical_flat);
}

static void logical_cluster(void)
{
	static const struct {
		u8 dest, mask;
	} cases[] = {
		{ 0x11, 0x1 }, { 0x12, 0x2 }, { 0x13, 0x3 }, { 0x21, 0x4 },
		{ 0x22, 0x8 }, { 0x2f, 0xc }, { 0x31, 0x0 }, { 0x14, 0x0 },
		{ 0xff, 0xf },
	};

	for (u32 i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		send(cases[i].dest, ICR_LOGICAL | (0x60 + i));
		expect_got(0x60 + i, cases[i].mask);
	}
}

TEST(logical_cluster_destination_is_a_set_in_one_cluster)
{
	run_members(CLUSTER, logical_cluster);
}

static void x2apic_cluster(void)
{
	send(0x5, ICR_LOGICAL | 0x60);
	expect_got(0x60, 0x5);
	send(0xffff, ICR_LOGICAL | 0x61);
	expect_got(0x61, 0xf);
	/* Cluster 1 has nobody. */
	send(1 << 16 | 0xf, ICR_LOGICAL | 0x62);
	expect_got(0x62, 0);
	send(0xffffffff, ICR_LOGICAL | 0x63);
	expect_got(0x63, 0xf);
}

TEST(x2apic_logical_destination_is_a_set_in_one_cluster)
{
	run_members(X2APIC, x2apic_cluster);
}

static void no_logical_id(void)
{
	send(0x0f, ICR_LOGICAL | 0x60);
	expect_got(0x60, 0);
}

TEST(an_apic_without_logical_id_takes_no_logical_interrupt)
{
	run_members(LDR_ZERO, no_logical_id);
}

static void new_logical_id(void)
{
	/* The sender's own id may change at any time. */
	apic_write(APIC_LDR, 0x80000000);
	send(0x80, ICR_LOGICAL | 0x61);
	expect_got(0x61, 1);
	send(0x01, ICR_LOGICAL | 0x62);
	expect_got(0x62, 0);
}

TEST(a_changed_logical_id_counts_at_once)
{
	run_members(FLAT, new_logical_id);
}

/* KVM_HC_SEND_IPI: bits of low are ids from min on, those of high from min + 64 on. */
static u64 send_many(u64 low, u64 high, u64 min, u64 icr)
{
	u64 ret = 10;

	asm volatile("vmmcall" : "+a"(ret) : "b"(low), "c"(high), "d"(min), "S"(icr) : "memory");
	return ret;
}

static void many(void)
{
	GUEST_EQ(3, send_many(0xd, 0, 0, 0x40));
	expect_got(0x40, 0xd);
	GUEST_EQ(2, send_many(5, 0xffff, 1, 0x41));
	expect_got(0x41, 0xa);
	GUEST_EQ(0, send_many(0xffffffff, 0, 0xffffffff, 0));
	GUEST_EQ(0, send_many(1, 0, 0xff, 0x42));	/* no broadcast */
	GUEST_EQ(0, send_many(1, 0, 1ull << 32, 0x42));
	GUEST_EQ(-22, send_many(1, 0, 0, 0x42 | ICR_ALL));
	expect_got(0x42, 0);
}

TEST(xapic_one_hypercall_reaches_a_set)
{
	run_members(FLAT, many);
}

TEST(x2apic_one_hypercall_reaches_a_set)
{
	run_members(X2APIC, many);
}

/* --- Shorthands --- */

static void shorthands(void)
{
	send(2, ICR_SELF | 0x40);
	expect_got(0x40, 0x1);
	send(2, ICR_ALL | 0x41);
	expect_got(0x41, 0xf);
	send(0, ICR_OTHERS | 0x42);
	expect_got(0x42, 0xe);
}

TEST(xapic_shorthands_self_all_others)
{
	run_members(FLAT, shorthands);
}

TEST(x2apic_shorthands_self_all_others)
{
	run_members(X2APIC, shorthands);
}

/* --- Lowest priority --- */

static void lowest_priority(void)
{
	for (u32 round = 0; round < 12; round++) {
		u32 total = 0;

		send(0xe, ICR_LOGICAL | ICR_LOWEST | (0x50 + round));
		all_take_fence();
		for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
			total += got[cpu][0x50 + round];
		GUEST_EQ(1, total);
		GUEST_EQ(0, got[0][0x50 + round]);
	}
}

TEST(xapic_lowest_priority_reaches_exactly_one_of_the_set)
{
	run_members(FLAT, lowest_priority);
}

TEST(x2apic_lowest_priority_reaches_exactly_one_of_the_set)
{
	run_members(X2APIC, lowest_priority);
}

/* --- NMI --- */

static void nmis(void)
{
	send(2, ICR_NMI);
	GUEST_WAIT(got[2][VEC_NMI]);
	expect_got(VEC_NMI, 0x4);
	send(0, ICR_OTHERS | ICR_NMI);
	for (u32 cpu = 1; cpu < NR_CPUS; cpu++)
		GUEST_WAIT(got[cpu][VEC_NMI]);
	expect_got(VEC_NMI, 0xe);
}

TEST(xapic_nmi_reaches_its_targets_once)
{
	run_members(FLAT, nmis);
}

TEST(x2apic_nmi_reaches_its_targets_once)
{
	run_members(X2APIC, nmis);
}

TEST(nmi_reaches_halted_targets_once)
{
	halt_targets = true;
	run_members(FLAT, nmis);
}

/* --- Halted targets --- */

static void to_halted(void)
{
	for (u32 round = 0; round < 50; round++) {
		send(0, ICR_OTHERS | 0x44);
		for (u32 cpu = 1; cpu < NR_CPUS; cpu++)
			GUEST_WAIT(got[cpu][0x44] == round + 1);
	}
}

TEST(halted_targets_wake_every_time)
{
	halt_targets = true;
	run_members(FLAT, to_halted);
}

TEST(x2apic_halted_targets_wake_every_time)
{
	halt_targets = true;
	run_members(X2APIC, to_halted);
}

#define PING_ROUNDS 1000
#define PING_VECTOR 0x55

static volatile u32 pings[2];

static void on_ping(struct guest_frame *frame)
{
	pings[cpu_of(frame)]++;
	apic_eoi();
}

static void ping_pong(u64 cpu)
{
	apic_enable();
	ready[cpu] = true;
	GUEST_WAIT(ready[!cpu]);
	for (u32 round = 1; round <= PING_ROUNDS; round++) {
		if (cpu == 0)
			apic_icr(1, PING_VECTOR);
		while (pings[cpu] != round)
			sti_hlt_cli();
		if (cpu == 1)
			apic_icr(0, PING_VECTOR);
	}
}

TEST_LIMIT(ping_pong_of_two_halting_vcpus_loses_none, 100)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	guest_handlers[PING_VECTOR] = on_ping;
	for (int i = 0; i < 2; i++)
		vcpu_add(vm, ping_pong, i);
	for (int i = 0; i < 2; i++)
		vcpu_start(vm->vcpus[i]);
	for (int i = 0; i < 2; i++)
		WAIT_FOR(pings[i] > PING_ROUNDS / 2);
	for (int i = 0; i < 2; i++)
		vcpu_wait_done(vm->vcpus[i]);
	EXPECT_EQ(PING_ROUNDS, pings[0]);
	EXPECT_EQ(PING_ROUNDS, pings[1]);
}

#define STORM_ROUNDS 150

static volatile u32 storm_acks[NR_CPUS][NR_CPUS];

/* Each source has a vector of its own, so that none may merge. */
static void on_storm(struct guest_frame *frame)
{
	storm_acks[frame->vector - 0x60][cpu_of(frame)]++;
	apic_eoi();
}

static void storm(u64 cpu)
{
	apic_enable();
	ready[cpu] = true;
	for (u32 i = 0; i < NR_CPUS; i++)
		GUEST_WAIT(ready[i]);
	for (u32 round = 1; round <= STORM_ROUNDS; round++) {
		apic_icr(0, ICR_OTHERS | (0x60 + cpu));
		sti();
		for (u32 i = 0; i < NR_CPUS; i++)
			if (i != cpu)
				GUEST_WAIT(storm_acks[cpu][i] == round);
		cli();
	}
	/* Others may still wait for this one. */
	sti();
	for (u32 from = 0; from < NR_CPUS; from++)
		if (from != cpu)
			GUEST_WAIT(storm_acks[from][cpu] == STORM_ROUNDS);
	cli();
}

TEST(four_vcpus_that_all_send_to_all_lose_none)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	for (u32 i = 0; i < NR_CPUS; i++)
		guest_handlers[0x60 + i] = on_storm;
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_add(vm, storm, i);
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_start(vm->vcpus[i]);
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

/* --- KVM_SIGNAL_MSI --- */

static void receive(u64 cpu)
{
	setup_apic(cpu);
	ready[cpu] = true;
	while (!finish)
		sti_hlt_cli();
}

TEST(signalled_msis_reach_their_targets_only)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	mode = FLAT;
	guest_handlers[0x71] = guest_handlers[0x72] = count_here;
	guest_handlers[0x73] = guest_handlers[0x74] = count_here;
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_start(vcpu_add(vm, receive, i));
	for (int i = 0; i < NR_CPUS; i++)
		WAIT_FOR(ready[i]);
	for (u32 round = 1; round <= 30; round++) {
		EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(2), 0x71));
		WAIT_FOR(got[2][0x71] == round);
		EXPECT_LT(0, vm_msi(vm, MSI_ADDR(0xb) | MSI_LOGICAL, 0x72));
		WAIT_FOR(got[0][0x72] == round && got[1][0x72] == round &&
			 got[3][0x72] == round);
		/* With the redirection hint one of the set takes it. */
		EXPECT_LT(0, vm_msi(vm, MSI_ADDR(0xb) | MSI_LOGICAL | MSI_REDIRECT,
				    0x74));
		WAIT_FOR(got[0][0x74] + got[1][0x74] + got[3][0x74] == round);
	}
	EXPECT_EQ(0, got[0][0x71] + got[1][0x71] + got[3][0x71]);
	EXPECT_EQ(0, got[2][0x72] + got[2][0x74]);
	EXPECT_EQ(30, got[0][0x74] + got[1][0x74] + got[3][0x74]);
	/* Nobody there: not delivered. */
	EXPECT_LE(vm_msi(vm, MSI_ADDR(0x77), 0x73), 0);
	finish = true;
	for (u32 i = 0; i < NR_CPUS; i++)
		vm_msi(vm, MSI_ADDR(i), 0x73);
	for (int i = 0; i < NR_CPUS; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

/* The module's parameter; returns what it was. */
static bool take_msi_offsets(bool yes)
{
	int fd = open("/sys/module/mkvm/parameters/msi_offsets", O_RDWR | O_CLOEXEC);
	char old;

	if (fd < 0 && is_linux_kvm())
		return true;
	ASSERT_EQ(1, pread(fd, &old, 1, 0));
	ASSERT_EQ(1, write(fd, yes ? "Y" : "N", 1));
	close(fd);
	return old == 'Y';
}

/*
 * QEMU hands on what a device has written as an offset into the window of its APIC: 0x2000
 * for 0xfee02000.
 */
TEST(an_msi_by_its_offset_in_the_window_reaches_its_target)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	bool was;

	mode = FLAT;
	guest_handlers[0x71] = guest_handlers[0x73] = count_here;
	for (int i = 0; i < 2; i++)
		vcpu_start(vcpu_add(vm, receive, i));
	for (int i = 0; i < 2; i++)
		WAIT_FOR(ready[i]);
	was = take_msi_offsets(true);
	for (u32 cpu = 0; cpu < 2; cpu++) {
		EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(cpu) & 0xfffff, 0x4071));
		WAIT_FOR(got[cpu][0x71] == 1);
	}
	take_msi_offsets(was);
	finish = true;
	for (u32 i = 0; i < 2; i++)
		vm_msi(vm, MSI_ADDR(i), 0x73);
	for (int i = 0; i < 2; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

TEST(msis_that_are_not_for_the_local_apics_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_msi msi = { .address_lo = 0x12345000, .data = 0x41 };
	bool was;

	vcpu_create(vm, 0);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at the address");
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	was = take_msi_offsets(false);
	EXPECT_ERRNO(EINVAL, vm_msi(vm, 0, 0x4062));
	EXPECT_ERRNO(EINVAL, vm_msi(vm, 0x1000, 0x4062));
	take_msi_offsets(true);
	EXPECT_ERRNO(EINVAL, vm_msi(vm, 0x100000, 0x4062));
	take_msi_offsets(was);
	msi.address_lo = 0x100000;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	msi.address_lo = 0xfef00000;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	msi.address_lo = 0xfedff000;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
}

TEST(msi_flags_that_are_not_offered_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_msi msi = { .address_lo = MSI_ADDR(0), .data = 0x41 };

	vcpu_create(vm, 0);
	msi.flags = 0x80;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
	if (is_linux_kvm())
		return;		/* which ignores the flag of other architectures */
	msi.flags = KVM_MSI_VALID_DEVID;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
}
