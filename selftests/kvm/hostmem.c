// SPDX-License-Identifier: GPL-2.0
/*
 * What the host's kernel does with a thread's memory on the way to userspace: it throttles a
 * thread whose cgroup is above memory.high, and NUMA balancing looks for the pages that the
 * thread uses. Both are done while a vCPU stays in KVM_RUN.
 *
 * The vCPU is in a child process, so that the test's own thread neither does the work nor needs
 * memory of that cgroup.
 *
 * Read next: host.c, young.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

#define SHARED_GPA (TEST_GPA + 16 * MIB)
#define CHARGED_AT_ONCE 64u	/* pages: the kernel's MEMCG_CHARGE_BATCH */

/* In a page that both processes and the guest share. */
static struct shared {
	volatile u32 stage, go, returned;
} *shared;

static struct shared *const guest_shared = (struct shared *)SHARED_GPA;

/* --- The child --- */

static void *sleep_for_good(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/*
 * A vCPU with 2 MiB of fresh small pages, run once. A second thread, which only sleeps, keeps NUMA
 * balancing from leaving out the pages of the node that the thread runs on.
 */
static void run_once(void (*guest)(u64 arg))
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, guest, 0);
	u8 *memory = host_memory(2 * MIB);
	pthread_t other;
	int r;

	ASSERT_EQ(0, pthread_create(&other, NULL, sleep_for_good, NULL));
	ASSERT_OK(madvise(memory, 2 * MIB, MADV_NOHUGEPAGE));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB, memory));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST + 1, 0, SHARED_GPA, PAGE_SIZE, shared));
	r = ioctl(vcpu->fd, KVM_RUN, 0);
	shared->returned = 1;
	ASSERT_EQ(0, r);
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
}

static void share_memory(void)
{
	shared = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(shared != MAP_FAILED);
}

static void stay_on_one_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	ASSERT_OK(sched_setaffinity(0, sizeof(one), &one));
}

/* The child joins the cgroup of this directory, if there is one. */
static pid_t start_child(void (*guest)(u64 arg), const char *cgroup)
{
	pid_t child = fork();

	ASSERT_LE(0, child);
	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	stay_on_one_cpu();
	if (cgroup) {
		char path[128];
		FILE *file;

		snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
		file = fopen(path, "w");
		ASSERT_TRUE(file && fputs("0", file) >= 0 && !fclose(file));
	}
	run_once(guest);
	_exit(0);
}

/* The guest's return from its function is its first exit to userspace. */
static void end_without_an_exit_before(pid_t child)
{
	int status = -1;

	EXPECT_EQ(0, shared->returned);
	shared->go = 2;
	WAIT_FOR(waitpid(child, &status, WNOHANG) == child);
	EXPECT_EQ(0, status);
}

/* --- memory.high --- */

static char cgroup_root[32], cgroup_dir[64];

/* A file of the cgroup: the number in it, behind the word if there is one. */
static u64 read_cgroup(const char *name, const char *word)
{
	char path[128], found[64];
	u64 value = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", cgroup_dir, name);
	file = fopen(path, "r");
	if (!file)
		FAIL("%s: %s", path, strerror(errno));
	while (word && fscanf(file, "%63s", found) == 1 && strcmp(word, found))
		;
	if (fscanf(file, "%lu", &value) != 1)
		FAIL("%s has no number", path);
	fclose(file);
	return value;
}

static bool write_cgroup(const char *dir, const char *name, const char *text)
{
	char path[128];
	FILE *file;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "w");
	ok = file && fputs(text, file) >= 0;
	return file && !fclose(file) && ok;
}

/* A new cgroup with limits on memory. The mount ends with this process. */
static void make_cgroup(void)
{
	strcpy(cgroup_root, "/tmp/hostmem.XXXXXX");
	ASSERT_TRUE(mkdtemp(cgroup_root));
	snprintf(cgroup_dir, sizeof(cgroup_dir), "%s/mkvm-hostmem", cgroup_root);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("cgroup2", cgroup_root, "cgroup2", 0, NULL)) {
		int err = errno;

		rmdir(cgroup_root);
		SKIP("there are no cgroups to be had (CONFIG_CGROUPS, and root's rights): %s",
		     strerror(err));
	}
	if (!write_cgroup(cgroup_root, "cgroup.subtree_control", "+memory")) {
		umount(cgroup_root);
		rmdir(cgroup_root);
		SKIP("the kernel has no cgroups with limits on memory (CONFIG_MEMCG)");
	}
	if (mkdir(cgroup_dir, 0700))
		ASSERT_EQ(EEXIST, errno);
}

static void remove_cgroup(void)
{
	ASSERT_OK(rmdir(cgroup_dir));
	ASSERT_OK(umount(cgroup_root));
	ASSERT_OK(rmdir(cgroup_root));
}

/* The first page brings what page tables the others need. */
static void touch_fresh_pages(u64 arg)
{
	(void)arg;
	*(volatile u8 *)TEST_GPA = 1;
	guest_shared->stage = 1;
	GUEST_WAIT(guest_shared->go >= 1);
	for (u64 i = 1; i <= CHARGED_AT_ONCE; i++)
		*(volatile u8 *)(TEST_GPA + i * PAGE_SIZE) = 1;
	guest_shared->stage = 2;
	GUEST_WAIT(guest_shared->go >= 2);
}

/*
 * The cgroup has just what it may have when the guest touches as many pages as the kernel charges
 * at once: one charge, after which the thread has to free memory, or to wait, on its way to
 * userspace. (After a second one the kernel would not wait for that way.)
 */
TEST(a_thread_above_memory_high_is_held_up_inside_kvm_run)
{
	char limit[32];
	pid_t child;
	u64 before;

	make_cgroup();
	share_memory();
	child = start_child(touch_fresh_pages, cgroup_dir);
	WAIT_FOR(shared->stage == 1 || shared->returned);
	snprintf(limit, sizeof(limit), "%lu", read_cgroup("memory.current", NULL));
	ASSERT_TRUE(write_cgroup(cgroup_dir, "memory.high", limit));
	before = read_cgroup("memory.events", "high");
	shared->go = 1;
	WAIT_FOR(shared->stage == 2 || shared->returned);
	EXPECT_LT(before, read_cgroup("memory.events", "high"));
	ASSERT_TRUE(write_cgroup(cgroup_dir, "memory.high", "max"));
	end_without_an_exit_before(child);
	remove_cgroup();
}

/* --- NUMA balancing --- */

#define BALANCING "/proc/sys/kernel/numa_balancing"
#define NR_PAGES 32u

static bool set_balancing(int mode, int *old)
{
	FILE *file = fopen(BALANCING, "r+");
	bool ok = file && fscanf(file, "%d", old) == 1;

	if (ok) {
		rewind(file);
		ok = fprintf(file, "%d", mode) > 0;
	}
	return file && !fclose(file) && ok;
}

static u64 vmstat(const char *name)
{
	FILE *file = fopen("/proc/vmstat", "r");
	char found[64];
	u64 value;

	ASSERT_TRUE(file);
	while (fscanf(file, "%63s %lu", found, &value) == 2)
		if (!strcmp(found, name)) {
			fclose(file);
			return value;
		}
	FAIL("/proc/vmstat has no %s", name);
}

/* Makes the pages by writes, and then only reads, these and others. */
static void read_pages(u64 arg)
{
	(void)arg;
	for (u64 i = 0; i < NR_PAGES; i++)
		*(volatile u8 *)(TEST_GPA + i * PAGE_SIZE) = 1;
	guest_shared->stage = 1;
	while (guest_shared->go < 2) {
		for (u64 i = 0; i < NR_PAGES; i++)
			(void)*(volatile u8 *)(TEST_GPA + i * PAGE_SIZE);
		cpu_relax();
	}
}

/*
 * The work takes away access to the pages, some of them at a time. The guest's next access finds
 * that out, and is a hinting fault as if the thread itself had made it.
 */
TEST(numa_balancing_looks_for_the_pages_that_a_guest_uses_inside_kvm_run)
{
	u64 updates, faults;
	pid_t child;
	int old;

	if (!set_balancing(1, &old))
		SKIP("the kernel has no NUMA balancing (CONFIG_NUMA_BALANCING, and root's rights)");
	share_memory();
	child = start_child(read_pages, NULL);
	WAIT_FOR(shared->stage == 1 || shared->returned);
	updates = vmstat("numa_pte_updates");
	faults = vmstat("numa_hint_faults");
	WAIT_FOR(shared->returned || vmstat("numa_pte_updates") >= updates + NR_PAGES);
	WAIT_FOR(shared->returned || vmstat("numa_hint_faults") >= faults + NR_PAGES);
	end_without_an_exit_before(child);
	EXPECT_TRUE(set_balancing(old, &old));
}
