// SPDX-License-Identifier: GPL-2.0
/*
 * Counters: what KVM_GET_STATS_FD's descriptors hold, how long they live, and
 * that they count; HLT that does not exit (KVM_CAP_X86_DISABLE_EXITS), since its
 * counter tells.
 *
 * Read next: vm.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

#define VECTOR 0x40
#define ROUNDS 7

struct stats {
	int fd;
	struct kvm_stats_header head;
	size_t stride;
	u8 *descs;
};

static void read_at(const struct stats *stats, void *buf, size_t size, u64 offset)
{
	ASSERT_EQ(size, pread(stats->fd, buf, size, offset));
}

static struct stats stats_open(int fd)
{
	struct stats stats = { .fd = ioctl(fd, KVM_GET_STATS_FD, NULL) };

	ASSERT_OK(stats.fd);
	read_at(&stats, &stats.head, sizeof(stats.head), 0);
	stats.stride = sizeof(struct kvm_stats_desc) + stats.head.name_size;
	stats.descs = calloc(stats.head.num_desc, stats.stride);
	read_at(&stats, stats.descs, stats.head.num_desc * stats.stride, stats.head.desc_offset);
	return stats;
}

static const struct kvm_stats_desc *desc(const struct stats *stats, u32 n)
{
	return (void *)(stats->descs + n * stats->stride);
}

static u64 counter(const struct stats *stats, const char *name)
{
	u64 value;

	for (u32 i = 0; i < stats->head.num_desc; i++) {
		if (strcmp(desc(stats, i)->name, name))
			continue;
		read_at(stats, &value, sizeof(value),
			stats->head.data_offset + desc(stats, i)->offset);
		return value;
	}
	SKIP("the device has no counter of this name: %s", name);
}

static void check_layout(int fd, const char *id)
{
	struct stats stats = stats_open(fd);
	char name[256] = "";
	u8 *whole;
	u64 end = 0;

	ASSERT_LE(stats.head.name_size, sizeof(name));
	ASSERT_LT(0, stats.head.num_desc);
	EXPECT_EQ(0, stats.head.flags);
	read_at(&stats, name, stats.head.name_size, stats.head.id_offset);
	EXPECT_EQ(0, strncmp(name, id, strlen(id)));
	for (u32 i = 0; i < stats.head.num_desc; i++) {
		const struct kvm_stats_desc *d = desc(&stats, i);

		ktap_about("counter %u, %.*s", i, (int)stats.head.name_size, d->name);
		EXPECT_LT(strnlen(d->name, stats.head.name_size), stats.head.name_size);
		EXPECT_LT(0, strlen(d->name));
		EXPECT_LE(d->flags & KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_MAX);
		EXPECT_LE(d->flags & KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_MAX);
		EXPECT_LE(d->flags & KVM_STATS_BASE_MASK, KVM_STATS_BASE_MAX);
		EXPECT_LT(0, d->size);
		EXPECT_EQ(0, d->offset % 8);
		if (end < stats.head.data_offset + d->offset + d->size * 8)
			end = stats.head.data_offset + d->offset + d->size * 8;
	}
	/* One read gives all of it, from the header on; nothing lies behind the last value. */
	whole = calloc(1, end + 8);
	EXPECT_EQ(end, read(stats.fd, whole, end + 8));
	EXPECT_EQ(0, read(stats.fd, whole, 8));
	EXPECT_EQ(0, memcmp(whole + stats.head.desc_offset, stats.descs,
			    stats.head.num_desc * stats.stride));
	EXPECT_EQ(-1, write(stats.fd, "", 1));
}

TEST(what_the_descriptors_hold_is_sound)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 3);

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	check_layout(vm->fd, "kvm-");
	check_layout(vcpu->fd, "kvm-");
}

static void port_guest(u64 arg)
{
	for (u64 i = 0; i < arg; i++)
		inb(0x20);
}

TEST(port_accesses_are_counted)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, port_guest, ROUNDS);
	struct stats stats;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	stats = stats_open(vcpu->fd);
	EXPECT_EQ(0, counter(&stats, "io_exits"));
	vcpu_run_to_done(vcpu);
	EXPECT_LE(ROUNDS, counter(&stats, "io_exits"));
	EXPECT_LE(ROUNDS, counter(&stats, "exits"));
}

static void halting_guest(u64 arg)
{
	apic_enable();
	irq_count_range(VECTOR, VECTOR);
	for (u64 i = 1; i <= arg; i++) {
		stage(i);
		/* An interrupt of the host ends a HLT that is not intercepted. */
		while (irqs[VECTOR] < i)
			sti_hlt_cli();
	}
}

/* Halts ROUNDS times, each ended by one interrupt that came before, or after, HLT. */
static void run_halting(struct vm *vm, struct vcpu *vcpu)
{
	vcpu_start(vcpu);
	for (u32 i = 1; i <= ROUNDS; i++) {
		vcpu_wait_stage(vcpu, i);
		EXPECT_OK(vm_msi(vm, MSI_ADDR(0), VECTOR));
	}
	vcpu_wait_done(vcpu);
}

TEST(halts_and_interrupts_are_counted)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halting_guest, ROUNDS);
	struct stats stats;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	stats = stats_open(vcpu->fd);
	run_halting(vm, vcpu);
	EXPECT_EQ(ROUNDS, counter(&stats, "halt_exits"));
	EXPECT_LE(ROUNDS,
		  counter(&stats, "irq_injections")); /* Linux KVM counts a repeated one again */
	EXPECT_LE(counter(&stats, "halt_wakeup"), ROUNDS);
}

TEST(a_halt_that_is_left_to_the_cpu_does_not_exit)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu;
	struct stats stats;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	NEED_CAP(KVM_CAP_X86_DISABLE_EXITS);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT));
	vcpu = vcpu_add(vm, halting_guest, ROUNDS);
	stats = stats_open(vcpu->fd);
	run_halting(vm, vcpu);
	EXPECT_EQ(0, counter(&stats, "halt_exits"));
	EXPECT_LE(ROUNDS,
		  counter(&stats, "irq_injections")); /* Linux KVM counts a repeated one again */
}

static void self_interrupting_guest(u64 arg)
{
	x2apic_enable();
	irq_count_range(VECTOR, VECTOR);
	for (u64 i = 1; i <= arg; i++) {
		x2apic_write(APIC_SELF_IPI, VECTOR);
		sti_nop_cli();
		GUEST_EQ(i, irqs[VECTOR]);
	}
}

/* Intel SDM vol. 3, "APIC Virtualization and Virtual Interrupts". */
TEST(a_cpu_that_can_delivers_and_ends_interrupts_without_exits)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, self_interrupting_guest, ROUNDS);
	char apicv = 0;
	int fd = open("/sys/module/mkvm/parameters/apicv", O_RDONLY);
	struct stats stats;

	if (!cpu_is_bochs() || fd < 0)
		SKIP("only the Intel lab's CPU is known to deliver interrupts itself, with mkvm");
	ASSERT_EQ(1, read(fd, &apicv, 1));
	stats = stats_open(vcpu->fd);
	vcpu_run_to_done(vcpu);
	if (apicv == 'Y') {
		EXPECT_EQ(0, counter(&stats, "irq_window_exits"));
		EXPECT_LE(counter(&stats, "msr_exits"),
			  ROUNDS + 5); /* SELF_IPI, and x2apic_enable */
	} else {
		EXPECT_LE(ROUNDS, counter(&stats, "irq_window_exits"));
		EXPECT_LE(2 * ROUNDS, counter(&stats, "msr_exits"));
	}
}

TEST(exits_are_disabled_before_there_are_vcpus_and_only_known_ones)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	int known = capability(KVM_CAP_X86_DISABLE_EXITS);

	NEED_CAP(KVM_CAP_X86_DISABLE_EXITS);
	EXPECT_TRUE(known & KVM_X86_DISABLE_EXITS_HLT);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_X86_DISABLE_EXITS, 1 << 20));
	EXPECT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_DISABLE_EXITS, known));
	if (is_linux_kvm())
		SKIP("Linux KVM refuses it after the first vCPU from 6.2 on");
	vcpu_create(vm, 0);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_X86_DISABLE_EXITS, known));
}

static volatile u8 *touched;

static void touching_guest(u64 arg)
{
	for (u64 i = 0; i < arg; i++)
		touched[i * PAGE_SIZE] = 1;
	stage(1);
}

TEST(mapped_pages_are_counted_and_unmapped_ones_no_more)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, touching_guest, 64);
	struct stats stats;
	u64 before;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	stats = stats_open(vm->fd);
	EXPECT_EQ(0, counter(&stats, "pages_4k"));
	EXPECT_EQ(0, counter(&stats, "pages_2m"));
	/* A slot whose offset to host memory keeps the pages small. */
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, MIB,
			      (u8 *)host_memory(2 * MIB) + PAGE_SIZE));
	touched = (u8 *)TEST_GPA;
	vcpu_run_to_stage(vcpu, 1);
	before = counter(&stats, "pages_4k");
	EXPECT_LE(64, before);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, NULL));
	if (is_linux_kvm())
		SKIP("Linux KVM forgets all pages, and counts when it has freed them");
	EXPECT_EQ(64, before - counter(&stats, "pages_4k"));
}

#define WIDE (2560 * MIB)
#define NR_TABLES (WIDE / (2 * MIB))

static void touch_each_table(u64 arg)
{
	for (u32 round = 1; round <= 2; round++) {
		for (u64 at = arg; at < TEST_GPA + WIDE; at += 2 * MIB)
			*(volatile u8 *)at = round;
		stage(round);
	}
	for (u64 at = arg; at < TEST_GPA + WIDE; at += 2 * MIB)
		GUEST_EQ(0, *(volatile u8 *)at);
}

/*
 * Tables of 1 GiB and 2 MiB go in one piece where the range covers them, and by entry at its
 * ends.
 */
TEST(a_wide_range_loses_just_its_own_pages)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, touch_each_table, TEST_GPA + PAGE_SIZE);
	struct stats stats;
	u64 before, from = 3 * MIB, to = 2200 * MIB + PAGE_SIZE;
	u8 *host;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	if (is_linux_kvm())
		SKIP("Linux KVM forgets all pages, and counts when it has freed them");
	stats = stats_open(vm->fd);
	host = mmap(NULL, WIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	ASSERT_TRUE(host != MAP_FAILED);
	ASSERT_OK(madvise(host, WIDE, MADV_NOHUGEPAGE));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, WIDE, host));
	vcpu_run_to_stage(vcpu, 1);
	before = counter(&stats, "pages_4k");
	EXPECT_LE(NR_TABLES, before);
	/* Of every second MiB the second page is there: that of 2200 MiB is just left. */
	ASSERT_OK(madvise(host + from, to - from, MADV_DONTNEED));
	EXPECT_EQ(before - 1098, counter(&stats, "pages_4k"));
	for (u64 at = PAGE_SIZE; at < WIDE; at += 2 * MIB)
		EXPECT_EQ(at < from || at >= to, host[at]);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(before, counter(&stats, "pages_4k"));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, NULL));
	EXPECT_EQ(before - NR_TABLES, counter(&stats, "pages_4k"));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, WIDE, host));
	ASSERT_OK(madvise(host, WIDE, MADV_DONTNEED));
	vcpu_run_to_done(vcpu);
}

#define NR_ALIASES 200
#define ALIAS_GPA(n) (TEST_GPA + (n) * 2 * MIB)

static void aliasing_guest(u64 arg)
{
	for (u64 n = 0; n < NR_ALIASES; n++)
		*(volatile u8 *)(ALIAS_GPA(n) + arg) = 1;
	stage(1);
	for (u64 n = 0; n < NR_ALIASES; n++)
		GUEST_EQ(0, *(volatile u8 *)(ALIAS_GPA(n) + arg));
}

TEST(memory_of_many_slots_is_taken_away_with_one_flush)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, aliasing_guest, PAGE_SIZE);
	u8 *host = host_memory(2 * MIB);
	struct stats stats;
	u64 before;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	stats = stats_open(vm->fd);
	for (u32 n = 0; n < NR_ALIASES; n++)
		ASSERT_OK(vm_set_slot(vm, SLOT_TEST + n, 0, ALIAS_GPA(n), 2 * PAGE_SIZE, host));
	vcpu_run_to_stage(vcpu, 1);
	before = counter(&stats, "remote_tlb_flush");
	ASSERT_OK(madvise(host, 2 * PAGE_SIZE, MADV_DONTNEED));
	EXPECT_EQ(before + 1, counter(&stats, "remote_tlb_flush"));
	vcpu_run_to_done(vcpu);
}

TEST(counters_outlive_the_descriptors_of_vm_and_vcpu)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, port_guest, ROUNDS);
	struct stats of_vm, of_vcpu;
	int status;

	NEED_CAP(KVM_CAP_BINARY_STATS_FD);
	if (is_linux_kvm())
		SKIP("Linux KVM before 6.5 reads what is freed");
	of_vm = stats_open(vm->fd);
	of_vcpu = stats_open(vcpu->fd);
	vcpu_run_to_done(vcpu);
	close(vcpu->fd);
	close(vm->fd);
	EXPECT_LE(ROUNDS, counter(&of_vcpu, "io_exits"));
	counter(&of_vm, "pages_4k");
	/* Another process may read, too. */
	if (!fork())
		_exit(counter(&of_vcpu, "io_exits") >= ROUNDS ? 0 : 1);
	ASSERT_LT(0, wait(&status));
	EXPECT_EQ(0, status);
}
