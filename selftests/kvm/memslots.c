// SPDX-License-Identifier: GPL-2.0
/*
 * Memory slots: what KVM_SET_USER_MEMORY_REGION takes and refuses, slots that
 * come and go under running vCPUs, and guest memory that follows the host's.
 *
 * Read next: run.c for MMIO itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

#define KVM_MEM_UNKNOWN_FLAG (1u << 30)

#ifndef KVM_SET_USER_MEMORY_REGION2		/* headers before 6.8 */
#define KVM_CAP_USER_MEMORY2 231
#define KVM_MEM_GUEST_MEMFD (1u << 2)
struct kvm_userspace_memory_region2 {
	__u32 slot, flags;
	__u64 guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
	__u32 guest_memfd, pad1;
	__u64 pad2[14];
};
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#endif

/* --- The ioctl --- */

TEST(unaligned_slots_are_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA + 1, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA + 512, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 4097, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 512, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 4096, host + 1));
	EXPECT_OK(vm_set_slot(vm, 5, 0, TEST_GPA, 4096, host));
}

TEST(overlapping_slots_are_eexist_and_adjacent_ones_fit)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	ASSERT_OK(vm_set_slot(vm, 5, 0, TEST_GPA, 3 * 4096, host));
	EXPECT_ERRNO(EEXIST, vm_set_slot(vm, 6, 0, TEST_GPA, 4096, host));
	EXPECT_ERRNO(EEXIST, vm_set_slot(vm, 6, 0, TEST_GPA + 8192, 8192, host));
	EXPECT_ERRNO(EEXIST, vm_set_slot(vm, 6, 0, TEST_GPA - 4096, 8192, host));
	EXPECT_ERRNO(EEXIST, vm_set_slot(vm, 6, 0, TEST_GPA - 4096, 5 * 4096, host));
	EXPECT_OK(vm_set_slot(vm, 6, 0, TEST_GPA - 4096, 4096, host));
	EXPECT_OK(vm_set_slot(vm, 7, 0, TEST_GPA + 3 * 4096, 4096, host));
	/* Moving is checked against the others, not against itself. */
	EXPECT_ERRNO(EEXIST, vm_set_slot(vm, 7, 0, TEST_GPA + 8192, 4096, host));
	EXPECT_OK(vm_set_slot(vm, 7, 0, TEST_GPA + 4 * 4096, 4096, host));
}

TEST(the_last_slot_number_works_and_one_past_is_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);
	u32 n = capability(KVM_CAP_NR_MEMSLOTS);

	ASSERT_LT(32, n);
	EXPECT_OK(vm_set_slot(vm, n - 1, 0, TEST_GPA, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, n, 0, TEST_GPA + 4096, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 0xffff, 0, TEST_GPA + 4096, 4096, host));
}

TEST(an_address_space_that_is_not_there_is_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);
	u32 spaces = capability(KVM_CAP_MULTI_ADDRESS_SPACE);

	if (!spaces)
		spaces = 1;
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, spaces << 16 | 5, 0, TEST_GPA,
					 4096, host));
}

TEST(ranges_past_the_address_space_are_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, -4096ull, 8192, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, -4096ull, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, 1ull << 52, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, -4096ull, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 1ull << 62, host));
	/* Kernel addresses and ranges that wrap. */
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 4096,
					 (void *)0xffff888000000000));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 8192,
					 (void *)-4096ull));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 4096,
					 (void *)0x8000000000000000));
}

TEST(unknown_slot_flags_are_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, KVM_MEM_UNKNOWN_FLAG, TEST_GPA,
					 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 1 << 31, TEST_GPA, 4096, host));
}

TEST(the_larger_form_of_a_region_means_the_same)
{
	struct vm *vm = vm_create(0);
	struct kvm_userspace_memory_region2 region = {
		.slot = 5, .guest_phys_addr = TEST_GPA, .memory_size = 8192, .guest_memfd = -1,
		.userspace_addr = (u64)host_memory(2 * MIB),
	};

	NEED_CAP(KVM_CAP_USER_MEMORY2);
	region.flags = KVM_MEM_UNKNOWN_FLAG;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region));
	region.flags = KVM_MEM_GUEST_MEMFD;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, NULL));
	region.flags = 0;
	EXPECT_OK(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region));
	EXPECT_ERRNO(EEXIST,
		     vm_set_slot(vm, 6, 0, TEST_GPA + 4096, 4096, (void *)region.userspace_addr));
	region.memory_size = 0;
	EXPECT_OK(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, &region));
	EXPECT_OK(vm_set_slot(vm, 6, 0, TEST_GPA + 4096, 4096, (void *)region.userspace_addr));
}

TEST(dirty_logging_is_taken_just_when_offered)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	/* There is no capability for the log itself; the ioctl tells. */
	struct kvm_dirty_log log = { .slot = 77, .dirty_bitmap = host };
	bool offered = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) == 0 ||
		       errno != ENOTTY;

	if (offered)
		EXPECT_OK(vm_set_slot(vm, 5, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA,
				      4096, host));
	else
		EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, KVM_MEM_LOG_DIRTY_PAGES,
						 TEST_GPA, 4096, host));
}

TEST(a_slot_cannot_be_resized_or_given_other_memory)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	ASSERT_OK(vm_set_slot(vm, 5, 0, TEST_GPA, 8192, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 4096, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, TEST_GPA, 8192, host + 4096));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, KVM_MEM_READONLY, TEST_GPA,
					 8192, host));
	/* The same again changes nothing and is no error. */
	EXPECT_OK(vm_set_slot(vm, 5, 0, TEST_GPA, 8192, host));
}

TEST(deleting_a_slot_that_is_not_there_is_refused)
{
	struct vm *vm = vm_create(0);
	u8 *host = host_memory(2 * MIB);

	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, 0, 0, NULL));
	ASSERT_OK(vm_set_slot(vm, 5, 0, TEST_GPA, 4096, host));
	EXPECT_OK(vm_set_slot(vm, 5, 0, 0, 0, NULL));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, 5, 0, 0, 0, NULL));
	EXPECT_OK(vm_set_slot(vm, 6, 0, TEST_GPA, 8192, host));
}

/* --- What a guest sees --- */

/* Reads the 8 bytes at arg and tells their low half, for ever. */
static void tell_reads(u64 arg)
{
	for (;;)
		stage(*(volatile u32 *)arg);
}

/* Writes 1, 2, 3... to arg, telling each. */
static void write_and_tell(u64 arg)
{
	for (u32 i = 1;; i++) {
		*(volatile u32 *)arg = i;
		stage(i);
	}
}

static void expect_mmio_read(struct vcpu *vcpu, u64 gpa, u32 answer)
{
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

	EXPECT_EQ(gpa, run->mmio.phys_addr);
	EXPECT_EQ(0, run->mmio.is_write);
	EXPECT_EQ(4, run->mmio.len);
	memcpy(run->mmio.data, &answer, 4);
	vcpu_run_to_stage(vcpu, answer);
}

TEST(a_deleted_slot_turns_into_mmio_and_back)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tell_reads, TEST_GPA);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	*host = 0x1111;
	vcpu_run_to_stage(vcpu, 0x1111);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, host));
	expect_mmio_read(vcpu, TEST_GPA, 0x2222);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, host));
	vcpu_run_to_stage(vcpu, 0x1111);
}

TEST(a_moved_slot_is_found_at_its_new_address_only)
{
	struct vm *vm = vm_create(0);
	struct vcpu *old = vcpu_add(vm, tell_reads, TEST_GPA + 8);
	struct vcpu *new = vcpu_add(vm, tell_reads, TEST_GPA + 4 * MIB + 8);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	host[2] = 0x1234;
	vcpu_run_to_stage(old, 0x1234);
	expect_mmio_read(new, TEST_GPA + 4 * MIB + 8, 1);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA + 4 * MIB, 2 * MIB,
			      host));
	vcpu_run_to_stage(new, 0x1234);
	expect_mmio_read(old, TEST_GPA + 8, 2);
}

static void readonly_guest(u64 arg)
{
	u32 (*code)(void) = (void *)(arg + 0x100);

	stage(*(volatile u32 *)arg);
	stage(code());
	*(volatile u32 *)arg = 0x5555;
	stage(*(volatile u32 *)arg);
}

TEST(a_readonly_slot_is_read_and_run_directly_and_written_by_mmio)
{
	/* mov $0x4242, %eax; ret */
	static const u8 code[] = { 0xb8, 0x42, 0x42, 0, 0, 0xc3 };
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, readonly_guest, TEST_GPA);
	struct kvm_run *run;
	u32 *host, value;

	NEED_CAP(KVM_CAP_READONLY_MEM);
	host = vm_add_memory(vm, SLOT_TEST, KVM_MEM_READONLY, TEST_GPA, 2 * MIB);
	*host = 0x3333;
	memcpy((u8 *)host + 0x100, code, sizeof(code));
	vcpu_run_to_stage(vcpu, 0x3333);
	vcpu_run_to_stage(vcpu, 0x4242);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(1, run->mmio.is_write);
	EXPECT_EQ(TEST_GPA, run->mmio.phys_addr);
	EXPECT_EQ(4, run->mmio.len);
	memcpy(&value, run->mmio.data, 4);
	EXPECT_EQ(0x5555, value);
	vcpu_run_to_stage(vcpu, 0x3333);
	EXPECT_EQ(0x3333, *host);
}

static void readonly_or(u64 arg)
{
	asm volatile("orl $0x80, (%0)" :: "r"(arg) : "memory", "cc");
}

TEST(a_read_modify_write_of_a_readonly_slot_reads_the_slot)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, readonly_or, TEST_GPA);
	struct kvm_run *run;
	u32 *host, value;

	NEED_CAP(KVM_CAP_READONLY_MEM);
	host = vm_add_memory(vm, SLOT_TEST, KVM_MEM_READONLY, TEST_GPA, 2 * MIB);
	*host = 0x3333;
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(1, run->mmio.is_write);
	memcpy(&value, run->mmio.data, 4);
	EXPECT_EQ(0x33b3, value);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x3333, *host);
}

static void sum_pages(u64 arg)
{
	u32 sum = 0;

	for (u64 i = 0; i < arg; i++)
		sum += *(volatile u32 *)(TEST_GPA + i * 8192);
	stage(sum);
}

TEST(two_hundred_slots_are_all_found)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, sum_pages, 200);
	u8 *host = host_memory(2 * MIB);
	u32 sum = 0;

	for (u32 i = 0; i < 200; i++) {
		*(u32 *)(host + i * 4096) = i * i;
		sum += i * i;
		ASSERT_OK(vm_set_slot(vm, SLOT_TEST + i, 0,
				      TEST_GPA + i * 8192, 4096,
				      host + i * 4096));
	}
	vcpu_run_to_stage(vcpu, sum);
}

static u64 high_pd[512] __attribute__((aligned(4096)));

static void map_high(u64 arg)
{
	guest_pdpt[4] = (u64)high_pd | 7;
	high_pd[0] = 4ull << 30 | 0x87;
	write_and_tell(arg);
}

TEST(memory_over_4_gib_works)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, map_high, (4ull << 30) + 16);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, 4ull << 30, 2 * MIB);

	for (u32 i = 1; i < 4; i++) {
		vcpu_run_to_stage(vcpu, i);
		EXPECT_EQ(i, host[4]);
	}
}

/* --- Slots under running vCPUs --- */

#define GONE 0x60606060u

static void answer_gone(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	const u32 gone = GONE;

	ASSERT_EQ(KVM_EXIT_MMIO, run->exit_reason);
	if (!run->mmio.is_write)
		memcpy(run->mmio.data, &gone, 4);
}

static volatile bool stop_guest;
static volatile u64 guest_reads[4];

/* Every value read is the memory's or the host's answer to MMIO. */
static void read_under_change(u64 arg)
{
	while (!stop_guest) {
		u32 value = *(volatile u32 *)(TEST_GPA + arg * 4096);

		if (value != GONE)
			GUEST_EQ(0x100 + arg, value);
		guest_reads[arg]++;
	}
}

/* Two vCPUs read while change() makes and unmakes the slot n times. */
static void change_under_guests(void (*change)(struct vm *vm, u32 *host))
{
	struct vm *vm = vm_create(0);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	host[0] = 0x100;
	host[1024] = 0x101;
	for (int i = 0; i < 2; i++) {
		struct vcpu *vcpu = vcpu_add(vm, read_under_change, i);

		vcpu->on_exit = answer_gone;
		vcpu_start(vcpu);
	}
	for (int round = 0; round < 40; round++) {
		u64 before[2] = { guest_reads[0], guest_reads[1] };

		change(vm, host);
		/* Both guests are past whatever the change interrupted. */
		WAIT_FOR(guest_reads[0] > before[0] && guest_reads[1] > before[1]);
	}
	stop_guest = true;
	for (int i = 0; i < 2; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

static void delete_and_create(struct vm *vm, u32 *host)
{
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, host));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, host));
}

TEST(slots_are_deleted_and_created_under_running_vcpus)
{
	change_under_guests(delete_and_create);
}

static void move_away_and_back(struct vm *vm, u32 *host)
{
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA + 16 * MIB, 2 * MIB,
			      host));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, host));
}

TEST(slots_are_moved_under_running_vcpus)
{
	change_under_guests(move_away_and_back);
}

/* --- Memory follows the host --- */

TEST(host_and_guest_see_each_others_writes)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, write_and_tell, TEST_GPA + 12288);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	for (u32 i = 1; i < 20; i++) {
		vcpu_run_to_stage(vcpu, i);
		ASSERT_EQ(i, host[3072]);
	}
}

TEST(discarded_memory_reads_as_zero)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tell_reads, TEST_GPA + 4096);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	for (u32 i = 1; i < 10; i++) {
		host[1024] = i;
		vcpu_run_to_stage(vcpu, i);
		ASSERT_OK(madvise(host, 8192, MADV_DONTNEED));
		vcpu_run_to_stage(vcpu, 0);
	}
}

TEST(a_page_mapped_over_is_seen_by_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tell_reads, TEST_GPA + 4096);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	host[1024] = 1;
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_TRUE(mmap(host + 1024, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
		    MAP_FAILED);
	vcpu_run_to_stage(vcpu, 0);
	host[1024] = 2;
	vcpu_run_to_stage(vcpu, 2);
}

static volatile u32 published;
static volatile u64 checks;

/* What was published before the read is the least that may be read. */
static void never_older(u64 arg)
{
	while (!stop_guest) {
		u32 least = published;
		u32 value;

		barrier();
		value = *(volatile u32 *)arg;
		if (value < least)
			GUEST_EQ(least, value);
		checks++;
	}
}

TEST(a_replaced_page_is_never_seen_again_by_a_running_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, never_older, TEST_GPA + 4096);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	vcpu_start(vcpu);
	for (u32 i = 1; i <= 200; i++) {
		u64 before = checks;
		u32 *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		ASSERT_TRUE(page != MAP_FAILED);
		*page = i;
		ASSERT_TRUE(mremap(page, 4096, 4096,
				   MREMAP_MAYMOVE | MREMAP_FIXED,
				   host + 1024) == host + 1024);
		published = i;
		if (i % 20 == 0)
			WAIT_FOR(checks > before + 1);
	}
	stop_guest = true;
	vcpu_wait_done(vcpu);
}

/* KVM_RUN must fail with EFAULT and leave the guest where it was. */
static void expect_efault(struct vcpu *vcpu)
{
	struct kvm_regs before, after;

	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &before);
	for (int i = 0; i < 2; i++) {
		int ret;

		/* Guest instructions up to the access still run. */
		do {
			ret = ioctl(vcpu->fd, KVM_RUN, 0);
		} while (ret && errno == EINTR);
		EXPECT_EQ(-1, ret);
		EXPECT_EQ(EFAULT, errno);
	}
	vcpu_get_regs(vcpu, &after);
	EXPECT_EQ(before.rsp, after.rsp);
}

TEST(memory_unmapped_under_the_guest_is_efault_until_it_is_back)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tell_reads, TEST_GPA);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	*host = 7;
	vcpu_run_to_stage(vcpu, 7);
	ASSERT_OK(munmap(host, 4096));
	expect_efault(vcpu);
	ASSERT_TRUE(mmap(host, 4096, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
		    MAP_FAILED);
	*host = 8;
	vcpu_run_to_stage(vcpu, 8);
}

TEST(memory_protected_from_writes_is_read_and_efault_when_written)
{
	struct vm *vm = vm_create(0);
	struct vcpu *reader = vcpu_add(vm, tell_reads, TEST_GPA);
	struct vcpu *writer = vcpu_add(vm, write_and_tell, TEST_GPA);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	vcpu_run_to_stage(writer, 1);
	vcpu_run_to_stage(reader, 1);
	ASSERT_OK(mprotect(host, 2 * MIB, PROT_READ));
	vcpu_run_to_stage(reader, 1);
	expect_efault(writer);
	EXPECT_EQ(1, *host);
	ASSERT_OK(mprotect(host, 2 * MIB, PROT_READ | PROT_WRITE));
	vcpu_run_to_stage(writer, 2);
	vcpu_run_to_stage(reader, 2);
}

TEST(memory_protected_from_all_access_is_efault)
{
	struct vm *vm = vm_create(0);
	struct vcpu *reader = vcpu_add(vm, tell_reads, TEST_GPA);
	u32 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);

	*host = 9;
	vcpu_run_to_stage(reader, 9);
	ASSERT_OK(mprotect(host, 2 * MIB, PROT_NONE));
	expect_efault(reader);
	ASSERT_OK(mprotect(host, 2 * MIB, PROT_READ));
	vcpu_run_to_stage(reader, 9);
}

TEST(a_writable_slot_on_readonly_host_memory_can_be_read)
{
	struct vm *vm = vm_create(0);
	struct vcpu *reader = vcpu_add(vm, tell_reads, TEST_GPA);
	u32 *host = host_memory(2 * MIB);

	*host = 0x77;
	ASSERT_OK(mprotect(host, 2 * MIB, PROT_READ));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, host));
	vcpu_run_to_stage(reader, 0x77);
}

TEST(a_file_mapped_twice_shows_the_guests_writes_and_its_holes)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct vm *vm = vm_create(0);
	struct vcpu *writer = vcpu_add(vm, write_and_tell, TEST_GPA + 4096);
	struct vcpu *reader = vcpu_add(vm, tell_reads, TEST_GPA + 4096);
	u32 *host, *other;

	ASSERT_OK(fd);
	ASSERT_OK(ftruncate(fd, 2 * MIB));
	host = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	other = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_TRUE(host != MAP_FAILED && other != MAP_FAILED);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, host));
	vcpu_run_to_stage(writer, 1);
	EXPECT_EQ(1, other[1024]);
	vcpu_run_to_stage(reader, 1);
	ASSERT_OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    4096, 4096));
	vcpu_run_to_stage(reader, 0);
	other[1024] = 55;
	vcpu_run_to_stage(reader, 55);
	/* Cut off: there is no page at all any more. */
	ASSERT_OK(ftruncate(fd, 4096));
	expect_efault(reader);
}

static volatile u64 written_count;

static void write_on_and_on(u64 arg)
{
	while (!stop_guest)
		written_count = ++*(volatile u64 *)arg;
}

TEST(a_fork_of_the_host_leaves_the_guest_on_the_parents_pages)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, write_on_and_on, TEST_GPA);
	volatile u64 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);
	int status, pipe_fds[2];
	char byte;
	pid_t pid;

	ASSERT_OK(pipe(pipe_fds));
	vcpu_start(vcpu);
	WAIT_FOR(*host > 100);
	pid = fork();
	ASSERT_OK(pid);
	if (!pid) {
		u64 first = *host, second;

		/* Until the parent saw the guest go on. */
		close(pipe_fds[1]);
		read(pipe_fds[0], &byte, 1);
		second = *host;
		_exit(first == second ? 0 : 1);
	}
	for (int i = 0; i < 3; i++) {
		u64 before = *host;

		WAIT_FOR(*host > before);
	}
	close(pipe_fds[1]);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	stop_guest = true;
	vcpu_wait_done(vcpu);
	EXPECT_EQ(written_count, *host);
}

/* --- Huge pages --- */

#define HUGE_SIZE (8 * MIB)

static void write_every_page(u64 arg)
{
	for (u64 at = 0; at < HUGE_SIZE; at += 4096)
		*(volatile u64 *)(arg + at) = at + 1;
	stage(1);
	for (u64 at = 0; at < HUGE_SIZE; at += 4096)
		stage(*(volatile u64 *)(arg + at) == at + 1);
}

TEST(a_huge_page_loses_just_the_small_page_that_was_discarded)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, write_every_page, TEST_GPA);
	u8 *host = host_memory(HUGE_SIZE);
	const u64 hole = 2 * MIB + 5 * 4096;

	if (madvise(host, HUGE_SIZE, MADV_HUGEPAGE))
		SKIP("no transparent huge pages in this kernel");
	memset(host, 0xff, HUGE_SIZE);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, HUGE_SIZE, host));
	vcpu_run_to_stage(vcpu, 1);
	for (u64 at = 0; at < HUGE_SIZE; at += 4096)
		ASSERT_EQ(at + 1, *(u64 *)(host + at));
	ASSERT_OK(madvise(host + hole, 4096, MADV_DONTNEED));
	for (u64 at = 0; at < HUGE_SIZE; at += 4096)
		vcpu_run_to_stage(vcpu, at != hole);
}

TEST(a_huge_page_at_an_odd_guest_address_is_mapped_right)
{
	struct vm *vm = vm_create(0);
	/* Offsets in host and guest differ modulo 2 MiB. */
	const u64 gpa = TEST_GPA + 3 * 4096;
	struct vcpu *vcpu = vcpu_add(vm, write_every_page, gpa);
	u8 *host = host_memory(HUGE_SIZE);

	if (madvise(host, HUGE_SIZE, MADV_HUGEPAGE))
		SKIP("no transparent huge pages in this kernel");
	memset(host, 0xff, HUGE_SIZE);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, gpa, HUGE_SIZE, host));
	vcpu_run_to_stage(vcpu, 1);
	for (u64 at = 0; at < HUGE_SIZE; at += 4096)
		ASSERT_EQ(at + 1, *(u64 *)(host + at));
}

TEST(a_slot_smaller_than_the_huge_page_ends_at_its_end)
{
	struct vm *vm = vm_create(0);
	struct vcpu *inside = vcpu_add(vm, tell_reads, TEST_GPA + MIB - 4);
	struct vcpu *outside = vcpu_add(vm, tell_reads, TEST_GPA + MIB);
	u8 *host = host_memory(2 * MIB);

	if (madvise(host, 2 * MIB, MADV_HUGEPAGE))
		SKIP("no transparent huge pages in this kernel");
	memset(host, 0x11, 2 * MIB);
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, MIB, host));
	vcpu_run_to_stage(inside, 0x11111111);
	expect_mmio_read(outside, TEST_GPA + MIB, 3);
}
