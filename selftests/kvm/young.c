// SPDX-License-Identifier: GPL-2.0
/*
 * Which of its pages the guest has used lately: the host's kernel asks by the MMU notifier before
 * it takes memory away, for 4 KiB and for 2 MiB mappings, and it believes the answer.
 *
 * Read next: memslots.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vm.h"

#define SWAP "/dev/zram0"
#define NR_PARTS 2
#define SPAN (4 * MIB)		/* of memory, in which both parts are */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)

static volatile u64 sum, use[NR_PARTS];

/* Reads the parts that the host names in use[], once for each stage. */
static void use_parts(u64 size)
{
	for (u32 round = 1;; round++) {
		sum = 0;
		for (u32 i = 0; i < NR_PARTS; i++)
			if (use[i])
				sum += *(volatile u8 *)(TEST_GPA + i * size);
		stage(round);
	}
}

static void vcpu_uses(struct vcpu *vcpu, u32 round, u64 first, u64 second)
{
	use[0] = first;
	use[1] = second;
	vcpu_run_to_stage(vcpu, round);
	EXPECT_EQ(first + 2 * second, sum);
}

/* What the page tables of this process say of a page. */
static u64 pagemap(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	u64 entry = 0;

	ASSERT_OK(fd);
	ASSERT_EQ(sizeof(entry),
		  pread(fd, &entry, sizeof(entry), (u64)page / PAGE_SIZE * sizeof(entry)));
	close(fd);
	return entry;
}

static bool present(const void *page)
{
	return pagemap(page) & PAGEMAP_PRESENT;
}

static void need_swap(void)
{
	struct utsname name;
	int minor;

	ASSERT_OK(uname(&name));
	if (sscanf(name.release, "6.%d", &minor) != 1 || minor >= 8)
		SKIP("MADV_PAGEOUT of this kernel takes pages away without asking whether they are used");
	if (system("modprobe -q zram; echo 1 >/sys/block/zram0/reset; echo 64M >/sys/block/zram0/disksize && mkswap " SWAP
		   " >/dev/null && swapon " SWAP))
		SKIP("there is no zram to swap to");
}

/* --- Reclaim: the host asks and clears in one step (clear_flush_young) --- */

/*
 * MADV_PAGEOUT makes the host's own entries old, and then takes away what nobody else has used.
 * The first part is used between two of its looks, the second is not.
 */
static void page_out(u64 size, int advice)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, use_parts, size);
	u8 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, SPAN);

	need_swap();
	ASSERT_OK(madvise(host, SPAN, advice));
	for (u32 i = 0; i < NR_PARTS; i++)
		memset(host + i * size, i + 1, size);
	vcpu_uses(vcpu, 1, 1, 1);
	ASSERT_OK(madvise(host, 2 * size, MADV_PAGEOUT));
	EXPECT_TRUE(present(host));
	EXPECT_TRUE(present(host + size));
	vcpu_uses(vcpu, 2, 1, 0);
	ASSERT_OK(madvise(host, 2 * size, MADV_PAGEOUT));
	EXPECT_TRUE(present(host));
	EXPECT_EQ(PAGEMAP_SWAPPED, pagemap(host + size) & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
	vcpu_uses(vcpu, 3, 0, 1);
	EXPECT_TRUE(present(host + size));
	ASSERT_OK(madvise(host, 2 * size, MADV_PAGEOUT));
	EXPECT_EQ(PAGEMAP_SWAPPED, pagemap(host) & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
	EXPECT_TRUE(present(host + size));
	vcpu_uses(vcpu, 4, 1, 1);
	EXPECT_EQ(0, system("swapoff " SWAP));
}

TEST(a_page_that_the_guest_uses_stays_and_one_that_it_does_not_use_is_paged_out)
{
	page_out(PAGE_SIZE, MADV_NOHUGEPAGE);
}

TEST(so_it_is_with_huge_pages)
{
	page_out(2 * MIB, MADV_HUGEPAGE);
}

/* --- DAMON: it clears (clear_young), and later it looks (test_young) --- */

#define DAMON "/sys/kernel/mm/damon/admin/kdamonds/"
#define CONTEXT DAMON "0/contexts/0/"
#define SCHEME CONTEXT "schemes/0/"
#define DAMON_STAT "/sys/module/damon_stat/parameters/enabled"
#define SAMPLES 10u		/* for each count of accesses */

static volatile u32 stop;

static void use_the_first(u64 size)
{
	sum = *(volatile u8 *)TEST_GPA + *(volatile u8 *)(TEST_GPA + size);
	stage(1);
	while (!stop) {
		u64 cr3;

		/* Nobody flushes TLBs for DAMON, and a CPU sets the bit when it fills one. */
		asm volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(cr3) :: "memory");
		sum += *(volatile u8 *)TEST_GPA;
	}
}

/* Writes a number, or a word if there is one, to a file. */
static bool put(const char *path, const char *word, u64 number)
{
	FILE *file = fopen(path, "w");
	bool ok = file && (word ? fputs(word, file) : fprintf(file, "%lu", number)) >= 0;

	return file && !fclose(file) && ok;
}

static u64 get(const char *path)
{
	FILE *file = fopen(path, "r");
	u64 number = 0;

	if (!file || fscanf(file, "%lu", &number) != 1)
		FAIL("%s: %s", path, strerror(errno));
	fclose(file);
	return number;
}

static void watch_pages(const u8 *const *pages)
{
	char path[128];

	if (!put(DAMON "nr_kdamonds", NULL, 1))
		SKIP("the kernel has no DAMON (CONFIG_DAMON_SYSFS)");
	/* Newer kernels' own statistics have DAMON for themselves until they are switched off. */
	if (!access(DAMON_STAT, F_OK))
		ASSERT_TRUE(put(DAMON_STAT, "N", 0));
	ASSERT_TRUE(put(DAMON "0/contexts/nr_contexts", NULL, 1));
	ASSERT_TRUE(put(CONTEXT "operations", "fvaddr", 0));
	ASSERT_TRUE(put(CONTEXT "monitoring_attrs/intervals/sample_us", NULL, 20000));
	ASSERT_TRUE(put(CONTEXT "monitoring_attrs/intervals/aggr_us", NULL, SAMPLES * 20000));
	ASSERT_TRUE(put(CONTEXT "monitoring_attrs/nr_regions/min", NULL, 3));
	ASSERT_TRUE(put(CONTEXT "monitoring_attrs/nr_regions/max", NULL, 3)); /* splits none */
	ASSERT_TRUE(put(CONTEXT "targets/nr_targets", NULL, 1));
	ASSERT_TRUE(put(CONTEXT "targets/0/pid_target", NULL, getpid()));
	ASSERT_TRUE(put(CONTEXT "targets/0/regions/nr_regions", NULL, NR_PARTS));
	for (u32 i = 0; i < NR_PARTS; i++) {
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/start", i);
		ASSERT_TRUE(put(path, NULL, (u64)pages[i]));
		snprintf(path, sizeof(path), CONTEXT "targets/0/regions/%u/end", i);
		ASSERT_TRUE(put(path, NULL, (u64)pages[i] + PAGE_SIZE));
	}
	ASSERT_TRUE(put(CONTEXT "schemes/nr_schemes", NULL, 1));
	ASSERT_TRUE(put(SCHEME "action", "stat", 0));
	ASSERT_TRUE(put(SCHEME "access_pattern/sz/max", NULL, 1 << 30));
	ASSERT_TRUE(put(SCHEME "access_pattern/nr_accesses/max", NULL, 1000));
	ASSERT_TRUE(put(SCHEME "access_pattern/age/max", NULL, 1 << 30));
	ASSERT_TRUE(put(DAMON "0/state", "on", 0));
}

/* The accesses that the last whole interval has counted. Returns for how many pages. */
static u32 read_counts(const u8 *const *pages, u64 *counts)
{
	char path[128];
	u32 found = 0;

	ASSERT_TRUE(put(DAMON "0/state", "update_schemes_tried_regions", 0));
	for (u32 i = 0; i < 2 * NR_PARTS; i++) {
		u64 start;

		snprintf(path, sizeof(path), SCHEME "tried_regions/%u/start", i);
		if (access(path, R_OK))
			continue;
		start = get(path);
		snprintf(path, sizeof(path), SCHEME "tried_regions/%u/nr_accesses", i);
		for (u32 k = 0; k < NR_PARTS; k++) {
			if (start != (u64)pages[k])
				continue;
			counts[k] = get(path);
			found++;
		}
	}
	return found;
}

/* DAMON has no counts before its first whole interval, which it is late for on a busy machine. */
static void count_accesses(const u8 *const *pages, u64 *counts)
{
	WAIT_FOR(read_counts(pages, counts) == NR_PARTS);
}

static void count_by_damon(u64 size, int advice)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, use_the_first, size);
	u8 *host = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, SPAN);
	const u8 *pages[NR_PARTS] = { host, host + size };
	u64 counts[NR_PARTS] = { 0 };

	ASSERT_OK(madvise(host, SPAN, advice));
	memset(host, 1, SPAN);
	vcpu_run_to_stage(vcpu, 1);
	vcpu_start(vcpu);
	watch_pages(pages);
	/* The first interval still finds what was used before. */
	for (u32 i = 0; i < 3; i++)
		count_accesses(pages, counts);
	EXPECT_LT(0, counts[0]);
	EXPECT_EQ(0, counts[1]);
	EXPECT_TRUE(put(DAMON "0/state", "off", 0));
	stop = 1;
	vcpu_wait_done(vcpu);
}

TEST(damon_counts_uses_of_the_page_that_the_guest_uses_alone)
{
	count_by_damon(2 * PAGE_SIZE, MADV_NOHUGEPAGE);
}

TEST(damon_counts_uses_of_the_huge_page_that_the_guest_uses_alone)
{
	count_by_damon(2 * MIB, MADV_HUGEPAGE);
}
