// SPDX-License-Identifier: GPL-2.0
/*
 * The dirty log: KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG tell which pages
 * of a slot were written, by the guest or by the kernel for it.
 *
 * Read next: memslots.c.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <string.h>

#include "vm.h"

#define PAGES 1024
#define WORDS (PAGES / 64)

static u64 log_words[WORDS];

/* Writes one byte to each page that the host names in pages[]. */
static volatile u32 pages[16], nr_pages;

static void writer_guest(u64 arg)
{
	u8 *base = (u8 *)TEST_GPA;

	(void)arg;
	for (u32 round = 1;; round++) {
		for (u32 i = 0; i < nr_pages; i++)
			*(volatile u8 *)(base + pages[i] * PAGE_SIZE) = round;
		stage(round);
	}
}

static void reader_guest(u64 arg)
{
	u8 *base = (u8 *)TEST_GPA;
	u32 sum = 0;

	(void)arg;
	for (u32 i = 0; i < PAGES; i++)
		sum += *(volatile u8 *)(base + i * PAGE_SIZE);
	stage(1 + sum);
}

static int get_log(struct vm *vm, u32 slot)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = log_words };

	memset(log_words, 0, sizeof(log_words));
	return ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
}

static u32 dirty_pages(void)
{
	u32 n = 0;

	for (u32 i = 0; i < WORDS; i++)
		n += __builtin_popcountll(log_words[i]);
	return n;
}

static bool is_dirty(u32 page)
{
	return log_words[page / 64] >> page % 64 & 1;
}

static void write_pages(struct vcpu *vcpu, u32 round, u32 a, u32 b)
{
	pages[0] = a;
	pages[1] = b;
	nr_pages = 2;
	vcpu_run_to_stage(vcpu, round);
}

/* In small pages: what the host can write is in the log when the guest touches it first. */
static void *logged_memory(struct vm *vm)
{
	void *host =
		vm_add_memory(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, PAGES * PAGE_SIZE);

	ASSERT_OK(madvise(host, PAGES * PAGE_SIZE, MADV_NOHUGEPAGE));
	return host;
}

TEST(the_log_has_the_pages_written_since_the_last_one_and_no_others)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);

	logged_memory(vm);
	write_pages(vcpu, 1, 3, 700);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	EXPECT_TRUE(is_dirty(3) && is_dirty(700));
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(0, dirty_pages());
	/* The same pages once more, and one that was never touched. */
	write_pages(vcpu, 2, 3, 1023);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	EXPECT_TRUE(is_dirty(3) && is_dirty(1023));
}

TEST(reading_makes_no_page_dirty)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, reader_guest, 0);

	logged_memory(vm);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(0, dirty_pages());
}

TEST(what_userspace_wrote_before_the_guest_read_it_is_in_the_log_once)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, reader_guest, 0);
	u8 *host = logged_memory(vm);

	host[5 * PAGE_SIZE] = 0;
	host[900 * PAGE_SIZE] = 0;
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	EXPECT_TRUE(is_dirty(5) && is_dirty(900));
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(0, dirty_pages());
}

TEST(logging_begins_for_memory_that_is_mapped_already)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);
	void *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGES * PAGE_SIZE);

	/* One 2 MiB mapping, where the host has huge pages. */
	write_pages(vcpu, 1, 1, 2);
	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_TEST));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, PAGES * PAGE_SIZE,
			      host));
	write_pages(vcpu, 2, 1, 511);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	EXPECT_TRUE(is_dirty(1) && is_dirty(511));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, PAGES * PAGE_SIZE, host));
	write_pages(vcpu, 3, 4, 5);
	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_TEST));
	EXPECT_EQ(3, ((u8 *)host)[5 * PAGE_SIZE]);
}

/* KVM's API document lets one call move a slot and change its flags. */
TEST(a_slot_that_moves_is_logged_as_its_new_flags_say)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);
	u64 size = PAGES * PAGE_SIZE, away = TEST_GPA + 16 * MIB;
	void *host = vm_add_memory(vm, SLOT_TEST, 0, away, size);

	/* The log begins with the move. */
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, size, host));
	ASSERT_OK(madvise(host, size, MADV_NOHUGEPAGE));
	write_pages(vcpu, 1, 1, 2);
	/* It is kept over a move there and back. */
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, away, size, host));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, size, host));
	write_pages(vcpu, 2, 3, 4);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(4, dirty_pages());
	EXPECT_TRUE(is_dirty(1) && is_dirty(2) && is_dirty(3) && is_dirty(4));
	/* It ends with a move. */
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, away, size, host));
	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_TEST));
}

/* A string read from a port that userspace answers: the kernel writes the guest's memory. */
static void string_io_guest(u64 arg)
{
	u64 count = 1, to = TEST_GPA + 9 * PAGE_SIZE;

	(void)arg;
	asm volatile("rep insb" : "+c"(count), "+D"(to) : "d"(0x10) : "memory");
	stage(1);
}

TEST(what_the_kernel_writes_for_the_guest_is_logged)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, string_io_guest, 0);

	logged_memory(vm);
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(1, dirty_pages());
	EXPECT_TRUE(is_dirty(9));
}

TEST(the_vapic_page_is_logged)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, reader_guest, 0);
	struct kvm_vapic_addr addr = { .vapic_addr = TEST_GPA + 5 * PAGE_SIZE };

	NEED_CAP(KVM_CAP_VAPIC);
	logged_memory(vm);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(1, dirty_pages());
	EXPECT_TRUE(is_dirty(5));
}

TEST(a_log_that_could_not_be_handed_out_is_not_lost)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);
	struct kvm_dirty_log log = { .slot = SLOT_TEST, .dirty_bitmap = (void *)8 };

	if (is_linux_kvm())
		SKIP("Linux KVM has cleared what it could not hand out");
	logged_memory(vm);
	write_pages(vcpu, 1, 3, 700);
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log));
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	EXPECT_TRUE(is_dirty(3) && is_dirty(700));
}

static volatile u32 rounds;

static void busy_guest(u64 arg)
{
	u8 *base = (u8 *)TEST_GPA;

	(void)arg;
	for (rounds = 1;; rounds++)
		for (u32 i = 0; i < 16; i++)
			*(volatile u8 *)(base + i * 60 * PAGE_SIZE) = rounds;
}

TEST(a_page_written_while_the_log_is_read_is_in_one_of_the_logs)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, busy_guest, 0);
	u8 *host = logged_memory(vm);
	u8 copy[16] = {};

	vcpu_start(vcpu);
	while (rounds < 5)
		cpu_relax();
	/* What a migration does: copy what is dirty. In the end the copies must be right. */
	for (u32 round = 0; round < 500; round++) {
		ASSERT_OK(get_log(vm, SLOT_TEST));
		for (u32 i = 0; i < 16; i++)
			if (is_dirty(i * 60))
				copy[i] = *(volatile u8 *)(host + i * 60 * PAGE_SIZE);
	}
	vcpu_stop(vcpu);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	for (u32 i = 0; i < 16; i++) {
		ktap_about("page %u", i * 60);
		if (is_dirty(i * 60))
			copy[i] = host[i * 60 * PAGE_SIZE];
		EXPECT_EQ(host[i * 60 * PAGE_SIZE], copy[i]);
	}
}

TEST(the_log_refuses_what_is_not_there)
{
	struct vm *vm = vm_create(0);
	struct kvm_dirty_log log = { .slot = SLOT_TEST, .dirty_bitmap = (void *)8 };

	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_TEST));
	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_LOW));
	EXPECT_ERRNO(EINVAL, get_log(vm, 0xffff));
	EXPECT_ERRNO(EINVAL, get_log(vm, 7 << 16));
	logged_memory(vm);
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log));
	EXPECT_OK(get_log(vm, SLOT_TEST));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, NULL));
	EXPECT_ERRNO(ENOENT, get_log(vm, SLOT_TEST));
}

/* --- KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 --- */

static int manual_protect(struct vm *vm, u64 flags)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { flags } };

	return ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
}

static int clear_log(struct vm *vm, u64 first, u32 num)
{
	struct kvm_clear_dirty_log log = {
		.slot = SLOT_TEST, .first_page = first, .num_pages = num, .dirty_bitmap = log_words,
	};

	return ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &log);
}

TEST(with_manual_protection_pages_stay_dirty_until_they_are_cleared)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);

	NEED_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	ASSERT_OK(manual_protect(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
	logged_memory(vm);
	write_pages(vcpu, 1, 3, 700);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
	ASSERT_OK(clear_log(vm, 0, 64));
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(1, dirty_pages());
	EXPECT_TRUE(is_dirty(700));
	write_pages(vcpu, 2, 3, 3);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
}

TEST(initially_set_says_that_all_pages_are_dirty)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, writer_guest, 0);

	if (!(capability(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & KVM_DIRTY_LOG_INITIALLY_SET))
		SKIP("the device does not offer KVM_DIRTY_LOG_INITIALLY_SET");
	ASSERT_OK(manual_protect(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
					     KVM_DIRTY_LOG_INITIALLY_SET));
	logged_memory(vm);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(PAGES, dirty_pages());
	ASSERT_OK(clear_log(vm, 0, PAGES));
	write_pages(vcpu, 1, 3, 700);
	ASSERT_OK(get_log(vm, SLOT_TEST));
	EXPECT_EQ(2, dirty_pages());
}

TEST(clear_refuses_ranges_that_do_not_fit)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	EXPECT_ERRNO(EINVAL, manual_protect(vm, 1 << 5));
	ASSERT_OK(manual_protect(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
	EXPECT_ERRNO(ENOENT, clear_log(vm, 0, 64));
	logged_memory(vm);
	EXPECT_OK(clear_log(vm, 0, PAGES));
	EXPECT_ERRNO(EINVAL, clear_log(vm, 1, 64));
	EXPECT_ERRNO(EINVAL, clear_log(vm, 0, 63));
	EXPECT_ERRNO(EINVAL, clear_log(vm, 64, PAGES));
	EXPECT_ERRNO(EINVAL, clear_log(vm, PAGES + 64, 64));
}
