// SPDX-License-Identifier: GPL-2.0
/*
 * What the host's kernel owes a thread, though it stays in KVM_RUN: CPU limits, timers on CPU
 * clocks and other work of its own that it does on the way to userspace; the news that memory
 * has failed; and an LDT that another thread changes.
 *
 * Read next: run.c.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vm.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define VECTOR 0x60
#define TIMES 10		/* that a timer is to expire */
#define PERIOD_NS 5000000	/* of CPU time */

static volatile u32 inside, go;

/* --- Work on the way to userspace --- */

static void spin(u64 arg)
{
	(void)arg;
	inside = 1;
	GUEST_WAIT(go);
}

static void on_signal(int sig)
{
	(void)sig;
}

static void catch_signal(int sig)
{
	struct sigaction action = { .sa_handler = on_signal };

	ASSERT_OK(sigaction(sig, &action, NULL));
}

/* A timer on a CPU clock, whose signal goes to thread tid of this process. */
static void start_cpu_timer(clockid_t clock, pid_t tid, int sig)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = sig };
	struct itimerspec when = {
		.it_value = { .tv_nsec = PERIOD_NS }, .it_interval = { .tv_nsec = PERIOD_NS },
	};
	timer_t timer;

	event.sigev_notify_thread_id = tid;
	ASSERT_OK(timer_create(clock, &event, &timer));
	ASSERT_OK(timer_settime(timer, 0, &when, NULL));
}

TEST(a_timer_on_the_threads_cpu_clock_ends_kvm_run)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), spin, 0);

	catch_signal(SIGUSR2);
	start_cpu_timer(CLOCK_THREAD_CPUTIME_ID, gettid(), SIGUSR2);
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	EXPECT_EQ(KVM_EXIT_INTR, vcpu->run->exit_reason);
}

TEST(a_profiling_timer_ends_kvm_run)
{
	const struct itimerval soon = { .it_value = { .tv_usec = PERIOD_NS / 1000 } };
	struct vcpu *vcpu = vcpu_add(vm_create(0), spin, 0);

	catch_signal(SIGPROF);
	ASSERT_OK(setitimer(ITIMER_PROF, &soon, NULL));
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	EXPECT_EQ(KVM_EXIT_INTR, vcpu->run->exit_reason);
}

TEST(a_cpu_limit_ends_a_program_whose_guest_makes_no_exit)
{
	const struct rlimit second = { 1, 1 };
	int status = 0;
	pid_t child = fork();

	ASSERT_LE(0, child);
	if (!child) {
		struct vcpu *vcpu = vcpu_add(vm_create(0), spin, 0);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setrlimit(RLIMIT_CPU, &second);
		for (;;)
			ioctl(vcpu->fd, KVM_RUN, 0);
	}
	WAIT_FOR(waitpid(child, &status, WNOHANG) == child);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(SIGKILL, WTERMSIG(status));
}

/* One KVM_RUN in a thread. */
struct runner {
	struct vcpu *vcpu;
	pid_t tid;
	bool returned;
	int result;
};

static void *run_once(void *arg)
{
	struct runner *runner = arg;

	__atomic_store_n(&runner->tid, gettid(), __ATOMIC_RELEASE);
	runner->result = ioctl(runner->vcpu->fd, KVM_RUN, 0);
	__atomic_store_n(&runner->returned, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool returned(struct runner *runner)
{
	return __atomic_load_n(&runner->returned, __ATOMIC_ACQUIRE);
}

static u32 preemptions(pid_t tid)
{
	char path[64], line[128];
	u32 count = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	file = fopen(path, "r");
	ASSERT_TRUE(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "nonvoluntary_ctxt_switches: %u", &count);
	fclose(file);
	return count;
}

static void wait_for_signals(int sig, u32 times)
{
	const struct timespec limit = { .tv_sec = 20 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	for (u32 i = 0; i < times; i++)
		if (sigtimedwait(&set, NULL, &limit) != sig)
			FAIL("the timer on the CPU clock of the thread in KVM_RUN expired %u times", i);
}

/*
 * A timer on the CPU clock of the vCPU's thread expires by work of that thread; the signal goes
 * to this one. So the work is seen, and KVM_RUN has no reason to end.
 */
static void start_with_timer(struct vcpu *vcpu, struct runner *runner, pthread_t *thread)
{
	clockid_t clock;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, NULL));
	runner->vcpu = vcpu;
	ASSERT_EQ(0, pthread_create(thread, NULL, run_once, runner));
	WAIT_FOR(inside);
	ASSERT_EQ(0, pthread_getcpuclockid(*thread, &clock));
	start_cpu_timer(clock, gettid(), SIGUSR2);
}

/* The guest returns from its function, which is the first exit to userspace. */
static void end_without_an_exit_before(struct runner *runner, pthread_t thread)
{
	EXPECT_TRUE(!returned(runner));
	go = 1;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, runner->result);
	EXPECT_EQ(KVM_EXIT_IO, runner->vcpu->run->exit_reason);
}

TEST(work_of_the_thread_is_done_without_an_exit_to_userspace)
{
	struct runner runner = { 0 };
	pthread_t thread;

	start_with_timer(vcpu_add(vm_create(0), spin, 0), &runner, &thread);
	wait_for_signals(SIGUSR2, TIMES);
	end_without_an_exit_before(&runner, thread);
}

static void *compete(void *arg)
{
	(void)arg;
	while (!__atomic_load_n(&go, __ATOMIC_RELAXED))
		;
	return NULL;
}

static void stay_on_cpu(pthread_t thread, u32 nth)
{
	cpu_set_t allowed, one;

	ASSERT_OK(sched_getaffinity(0, sizeof(allowed), &allowed));
	for (u32 cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &allowed) || nth--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		ASSERT_EQ(0, pthread_setaffinity_np(thread, sizeof(one), &one));
		return;
	}
}

/* The C library has registered rseq, for which there is work after each preemption. */
TEST(preemption_alone_makes_no_exit_to_userspace)
{
	struct runner runner = { 0 };
	pthread_t thread, other;
	u32 before;

	ASSERT_LT(0, __rseq_size);
	start_with_timer(vcpu_add(vm_create(0), spin, 0), &runner, &thread);
	ASSERT_EQ(0, pthread_create(&other, NULL, compete, NULL));
	stay_on_cpu(thread, 0);
	stay_on_cpu(other, 0);
	before = preemptions(runner.tid);
	WAIT_FOR(returned(&runner) || preemptions(runner.tid) >= before + TIMES / 2);
	ASSERT_TRUE(!returned(&runner));
	wait_for_signals(SIGUSR2, 1);
	end_without_an_exit_before(&runner, thread);
	pthread_join(other, NULL);
}

static void halt_often(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, VECTOR | LVT_PERIODIC);
	apic_write(APIC_TMICT, 1000000);
	inside = 1;
	while (!go) {
		/* Long enough for a tick of the host, by which the CPU clock is looked at. */
		for (u32 i = 0; i < 200000; i++)
			asm volatile("");
		sti_hlt_cli();
	}
}

TEST(work_of_the_thread_is_done_though_its_guest_halts)
{
	struct runner runner = { 0 };
	pthread_t thread;

	start_with_timer(vcpu_add(vm_create(VM_IRQCHIP), halt_often, 0), &runner, &thread);
	wait_for_signals(SIGUSR2, TIMES);
	end_without_an_exit_before(&runner, thread);
}

/* --- Memory of the host that fails --- */

#define BAD_GPA (TEST_GPA + MIB)
#define RET_INSN 0xc3

enum { BY_READ, BY_WRITE, BY_FETCH, NR_WAYS };

static volatile struct {
	u32 count;
	int code;
	u64 address;
	int lsb;
} bus_error;

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_error.count++;
	bus_error.code = info->si_code;
	bus_error.address = (u64)info->si_addr;
	bus_error.lsb = info->si_addr_lsb;
}

static void touch_twice(u64 way)
{
	volatile u8 *page = (u8 *)BAD_GPA;

	for (u32 i = 1; i <= 2; i++) {
		if (way == BY_READ)
			GUEST_EQ(RET_INSN, page[0]);
		else if (way == BY_WRITE)
			page[8] = i;
		else
			((void (*)(void))BAD_GPA)();
		stage(i);
	}
}

/* What the guest has just used is memory that has failed. */
static struct vcpu *guest_on_failed_memory(u32 way, bool huge, u8 **page)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, touch_twice, way);
	u8 *memory = host_memory(4 * MIB);

	ASSERT_OK(madvise(memory, 4 * MIB, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 4 * MIB, memory));
	*page = memory + (BAD_GPA - TEST_GPA);
	**page = RET_INSN;
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(sigaction(SIGBUS, &action, NULL));
	if (madvise(*page, PAGE_SIZE, MADV_HWPOISON))
		SKIP("the kernel cannot let memory fail (CONFIG_MEMORY_FAILURE, and root's rights): %s", strerror(errno));
	bus_error.count = 0;	/* newer kernels signal the failure here already */
	return vcpu;
}

static void expect_bus_error(struct vcpu *vcpu, u8 *page, u32 count)
{
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	EXPECT_EQ(count, bus_error.count);
	EXPECT_EQ(BUS_MCEERR_AR, bus_error.code);
	EXPECT_EQ((u64)page, bus_error.address);
	EXPECT_EQ(12, bus_error.lsb);
}

/* The guest goes on when there is memory again, with the instruction that found none. */
static void use_memory_that_fails(bool huge)
{
	for (u32 way = 0; way < NR_WAYS; way++) {
		struct vcpu *vcpu;
		u8 *page;

		ktap_about("way %u", way);
		vcpu = guest_on_failed_memory(way, huge, &page);
		expect_bus_error(vcpu, page, 1);
		expect_bus_error(vcpu, page, 2);
		ASSERT_TRUE(mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
		*page = RET_INSN;
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(2, bus_error.count);
	}
}

TEST(memory_of_the_guest_that_fails_is_told_by_sigbus_and_its_address)
{
	use_memory_that_fails(false);
}

TEST(so_is_a_part_of_a_huge_page_that_fails)
{
	use_memory_that_fails(true);
}

/* A guest page table that is the page that fails, and the address that it maps. */
#define TABLE_VA (1024 * MIB)

enum { EMULATED_READ, EMULATED_WRITE, EMULATED_WALK, NR_EMULATED };

/* The CPU finds the device first, so the emulator accesses the memory. */
static void touch_after_a_device(u64 way)
{
	u64 source = MMIO_GPA, to = way == EMULATED_WALK ? TABLE_VA : BAD_GPA;

	guest_pd[1][0] = BAD_GPA | 7;
	asm volatile("invlpg (%0)" :: "r"(TABLE_VA) : "memory");
	for (u32 i = 1; i <= 2; i++) {
		if (way == EMULATED_READ)
			asm volatile("cmpsb" :: "S"(source), "D"(to) : "memory", "cc");
		else
			asm volatile("movsb" :: "S"(source), "D"(to) : "memory");
		stage(i);
	}
}

/* KVM_RUN with the device's answers, until there is something else. Returns its result. */
static int run_with_device(struct vcpu *vcpu, u32 *reads)
{
	int r;

	while (!(r = ioctl(vcpu->fd, KVM_RUN, 0)) && vcpu->run->exit_reason == KVM_EXIT_MMIO) {
		EXPECT_TRUE(!vcpu->run->mmio.is_write);
		vcpu->run->mmio.data[0] = RET_INSN;
		++*reads;
	}
	return r;
}

static void emulate_on_memory_that_fails(u32 way)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, touch_after_a_device, way);
	u8 *page = (u8 *)vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 4 * MIB) + MIB;
	u32 reads = 0;

	ASSERT_OK(madvise(page - MIB, 4 * MIB, MADV_NOHUGEPAGE));
	*(u64 *)page = TEST_GPA | 7;
	ASSERT_OK(run_with_device(vcpu, &reads));
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	EXPECT_EQ(1, reads);
	ASSERT_OK(sigaction(SIGBUS, &action, NULL));
	if (madvise(page, PAGE_SIZE, MADV_HWPOISON))
		SKIP("the kernel cannot let memory fail (CONFIG_MEMORY_FAILURE, and root's rights): %s",
		     strerror(errno));
	bus_error.count = 0;	/* newer kernels signal the failure here already */
	for (u32 count = 1; count <= 2; count++) {
		EXPECT_ERRNO(EINTR, run_with_device(vcpu, &reads));
		EXPECT_EQ(count, bus_error.count);
		EXPECT_EQ(BUS_MCEERR_AR, bus_error.code);
		EXPECT_EQ((u64)page, bus_error.address);
		EXPECT_EQ(12, bus_error.lsb);
	}
	ASSERT_TRUE(mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
	*(u64 *)page = TEST_GPA | 7;
	ASSERT_OK(run_with_device(vcpu, &reads));
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	EXPECT_EQ(2, reads);
	EXPECT_EQ(2, bus_error.count);
}

/* The instruction goes on when there is memory again, and reads the device once. */
TEST(memory_that_fails_under_an_emulated_instruction_is_told_in_the_same_way)
{
	if (is_linux_kvm())
		SKIP("Linux KVM takes such memory for a device, or gives up the instruction");
	for (u32 way = 0; way < NR_EMULATED; way++) {
		ktap_about("way %u", way);
		bus_error.count = 0;
		emulate_on_memory_that_fails(way);
	}
}

TEST(a_thread_that_blocks_sigbus_gets_an_error_for_memory_that_fails)
{
	struct vcpu *vcpu;
	sigset_t set;
	u8 *page;

	if (is_linux_kvm())
		SKIP("Linux KVM tries again for ever");
	vcpu = guest_on_failed_memory(BY_READ, false, &page);
	sigemptyset(&set);
	sigaddset(&set, SIGBUS);
	ASSERT_OK(sigprocmask(SIG_BLOCK, &set, NULL));
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_RUN, 0));
	EXPECT_EQ(0, bus_error.count);
	ASSERT_OK(sigprocmask(SIG_UNBLOCK, &set, NULL));
	EXPECT_EQ(1, bus_error.count);
	EXPECT_EQ(BUS_MCEERR_AR, bus_error.code);
}

/* --- An LDT that another thread changes --- */

#define LDT_ENTRY 5
#define LDT_SELECTOR (LDT_ENTRY * 8 + 7)
#define LDT_ROUNDS 8

static u32 limit_of_round(u32 round)
{
	return 0x700 + round;
}

static void *change_ldt(void *arg)
{
	(void)arg;
	for (u32 round = 1; round <= LDT_ROUNDS; round++) {
		struct user_desc entry = {
			.entry_number = LDT_ENTRY,
			.limit = limit_of_round(round),
			.seg_32bit = 1,
			.useable = 1,
		};

		while (__atomic_load_n(&inside, __ATOMIC_ACQUIRE) != round)
			sched_yield();
		if (syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)))
			perror("# modify_ldt");
		__atomic_store_n(&go, round, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void wait_for_changes(u64 arg)
{
	(void)arg;
	for (u32 round = 1; round <= LDT_ROUNDS; round++) {
		inside = round;
		GUEST_WAIT(go == round);
		stage(round);
	}
}

/* The limit of the segment that a selector names, or -1. */
static u32 segment_limit(u32 selector)
{
	u32 limit;
	u8 valid;

	asm volatile("lsl %2, %0; setz %1" : "=&r"(limit), "=q"(valid) : "r"(selector) : "cc");
	return valid ? limit : -1u;
}

/* The first round finds a thread that has no LDT. The others free the page of the one before. */
TEST(an_ldt_that_another_thread_changes_is_there_when_kvm_run_ends)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), wait_for_changes, 0);
	pthread_t other;

	if (is_linux_kvm())
		SKIP("Linux KVM comes back with the LDT that the thread had when it entered the kernel");
	ASSERT_EQ(0, pthread_create(&other, NULL, change_ldt, NULL));
	stay_on_cpu(pthread_self(), 0);
	stay_on_cpu(other, 1);
	for (u32 round = 1; round <= LDT_ROUNDS; round++) {
		u32 limit;

		ktap_about("round %u", round);
		vcpu_run_to_stage(vcpu, round);
		limit = segment_limit(LDT_SELECTOR);
		EXPECT_EQ(limit_of_round(round), limit);
	}
	pthread_join(other, NULL);
}
