// SPDX-License-Identifier: GPL-2.0
/*
 * FPU and vector registers of guests and of the programs that run them, which share the CPU's:
 * each keeps its own over exits, signals and preemption.
 *
 * A program's registers are compared around the system call itself, because the C library may
 * change them on the way.
 *
 * Read next: regs.c (what userspace gets and sets), ../../kmod/cpu/fpu.h.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "vm.h"

#define PORT 0x10
#define SWITCHES 20
#define SPINS 3000

struct registers {
	u64 xmm[16][2];
	u32 mxcsr;
	u16 fcw, pad;
};

static void fill(struct registers *r, u64 seed)
{
	for (u32 i = 0; i < 16; i++) {
		r->xmm[i][0] = seed * 0x9e3779b97f4a7c15ull + i;
		r->xmm[i][1] = ~r->xmm[i][0];
	}
	r->mxcsr = 0x1f80 | (seed & 3) << 13;		/* rounding; all exceptions are masked */
	r->fcw = 0x37f & ~0xc00;
	r->fcw |= (seed & 3) << 10;
	r->pad = 0;
}

#define EACH_XMM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "movdqu 16*" #n "(%[from]), %%xmm" #n "\n\t"
#define STORE(n) "movdqu %%xmm" #n ", 16*" #n "(%[to])\n\t"
#define LOAD_ALL EACH_XMM(LOAD) "ldmxcsr 256(%[from])\n\tfldcw 260(%[from])\n\t"
#define STORE_ALL EACH_XMM(STORE) "stmxcsr 256(%[to])\n\tfnstcw 260(%[to])\n\t"

/* The program is compiled without these registers. ioctl(fd, KVM_RUN) with these values in the registers; what they are after it goes to *to. */
static long run_between(int fd, const struct registers *from, struct registers *to)
{
	long r;

	asm volatile(LOAD_ALL "syscall\n\t" STORE_ALL
		     : "=a"(r)
		     : "0"(SYS_ioctl), "D"((long)fd), "S"((long)KVM_RUN), "d"(0l), [from]"r"(from), [to]"r"(to)
		     : "rcx", "r11", "memory");
	return r;
}

/* ---- the guest ---- */

static volatile bool go;
static volatile u32 rounds[2];

/* Registers keep their values over exits of each kind: to userspace, to the module, by the host. */
static void keep_registers(u64 seed)
{
	struct registers mine, seen;
	u32 i;

	fill(&mine, seed);
	memset(&seen, 0, sizeof(seen));
	asm volatile(LOAD_ALL : : [from]"r"(&mine) : "memory");
	do {
		for (i = 0; i < SPINS; i++)
			asm volatile("");
		outb(PORT, 0);
		asm volatile(STORE_ALL : : [to]"r"(&seen) : "memory");
		for (i = 0; i < 16; i++) {
			GUEST_EQ(mine.xmm[i][0], seen.xmm[i][0]);
			GUEST_EQ(mine.xmm[i][1], seen.xmm[i][1]);
		}
		GUEST_EQ(mine.mxcsr, seen.mxcsr);
		GUEST_EQ(mine.fcw, seen.fcw);
		rounds[seed & 1]++;
	} while (!go);
}

/* ---- the tests ---- */

TEST(a_program_has_its_registers_again_after_its_guest_has_used_them)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), keep_registers, 2);
	struct registers mine, seen;

	fill(&mine, 1);
	for (u32 i = 0; i < 10; i++) {
		EXPECT_EQ(0, run_between(vcpu->fd, &mine, &seen));
		EXPECT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
		ASSERT_EQ(PORT, vcpu->run->io.port);
		EXPECT_EQ(0, memcmp(&mine, &seen, sizeof(mine)));
	}
}

static volatile u32 signals;

static void use_registers(int sig)
{
	(void)sig;
	asm volatile("pcmpeqd %xmm0, %xmm0; movdqa %xmm0, %xmm7; movdqa %xmm0, %xmm15; fninit");
	__atomic_add_fetch(&signals, 1, __ATOMIC_RELAXED);
}

static long preempted(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

struct runner {
	struct vcpu *vcpu;
	u64 seed;
	pthread_t thread;
	u32 wrong, odd;		/* returns with other registers; results nobody expects */
	bool done;
};

static void *run_often(void *arg)
{
	struct runner *runner = arg;
	struct registers mine, seen;
	long r;

	fill(&mine, runner->seed);
	while (preempted() < SWITCHES || !__atomic_load_n(&signals, __ATOMIC_RELAXED)) {
		r = run_between(runner->vcpu->fd, &mine, &seen);
		runner->wrong += memcmp(&mine, &seen, sizeof(mine)) != 0;
		if (r == -EINTR)
			continue;
		if (r || runner->vcpu->run->exit_reason != KVM_EXIT_IO || runner->vcpu->run->io.port != PORT) {
			runner->odd++;
			break;
		}
	}
	__atomic_store_n(&runner->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static bool all_done(struct runner *runners)
{
	return __atomic_load_n(&runners[0].done, __ATOMIC_ACQUIRE) &&
	       __atomic_load_n(&runners[1].done, __ATOMIC_ACQUIRE);
}

TEST(guests_and_programs_that_share_a_cpu_keep_their_registers)
{
	struct sigaction action = { .sa_handler = use_registers };
	struct runner runners[2] = { 0 };
	struct vm *vm = vm_create(0);
	cpu_set_t allowed, one;
	long sent = 0;
	int cpu = 0;

	ASSERT_OK(sigaction(SIGUSR1, &action, NULL));
	ASSERT_OK(sched_getaffinity(0, sizeof(allowed), &allowed));
	while (!CPU_ISSET(cpu, &allowed))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	ASSERT_OK(sched_setaffinity(0, sizeof(one), &one));	/* the threads inherit it */
	for (u32 i = 0; i < 2; i++) {
		runners[i].seed = 4 + i;
		runners[i].vcpu = vcpu_add(vm, keep_registers, 6 + i);
		ASSERT_EQ(0, pthread_create(&runners[i].thread, NULL, run_often, &runners[i]));
	}
	while (!all_done(runners)) {
		if (sent == preempted())
			continue;
		sent = preempted();
		pthread_kill(runners[0].thread, SIGUSR1);
		pthread_kill(runners[1].thread, SIGUSR1);
	}
	for (u32 i = 0; i < 2; i++) {
		ASSERT_EQ(0, pthread_join(runners[i].thread, NULL));
		ktap_about("runner %u", i);
		EXPECT_EQ(0, runners[i].wrong);
		EXPECT_EQ(0, runners[i].odd);
		EXPECT_LT(0, rounds[i]);
	}
	EXPECT_LT(0, signals);
}

static void use_then_look(u64 unused)
{
	struct registers mine, seen;

	(void)unused;
	fill(&mine, 9);
	memset(&seen, 0xff, sizeof(seen));
	asm volatile(LOAD_ALL : : [from]"r"(&mine) : "memory");
	stage(1);
	asm volatile(STORE_ALL : : [to]"r"(&seen) : "memory");
	for (u32 i = 0; i < 16; i++) {
		GUEST_EQ(0, seen.xmm[i][0]);
		GUEST_EQ(0, seen.xmm[i][1]);
	}
	GUEST_EQ(0x37f, seen.fcw);
	stage(2);
}

TEST(components_that_set_xsave_leaves_out_are_as_after_power_up)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), use_then_look, 0);
	union {
		struct kvm_xsave xsave;
		u64 words[512];
	} x;

	NEED_CAP(KVM_CAP_XSAVE);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &x));
	EXPECT_EQ(3, x.words[64] & 3);
	x.words[64] = 0;		/* the header: which components are there */
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &x));
	vcpu_run_to_stage(vcpu, 2);
}
