// SPDX-License-Identifier: GPL-2.0
/*
 * CPUs go away and come back under running guests.
 *
 * A CPU that comes back has a TLB of which nobody knows what it holds, and hands
 * out address space ids from the start: two VMs must not find each other's memory
 * behind the same guest address.
 *
 * State: what each guest has done.
 * Read next: vm.h; cpu_up in kmod/main.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "vm.h"

#define GUESTS 2
#define PAGES 8

static volatile u64 rounds[GUESTS];
static struct vcpu *vcpus[GUESTS];

/* Its own number stays in each page, whoever else runs on the same CPU. */
static void keep_pages(u64 number)
{
	volatile u64 *page = (volatile u64 *)TEST_GPA;
	u32 out[4];

	for (int i = 0; i < PAGES; i++)
		page[i * PAGE_SIZE / sizeof(*page)] = number + 1;
	for (;; rounds[number]++) {
		for (int i = 0; i < PAGES; i++)
			GUEST_EQ(number + 1, page[i * PAGE_SIZE / sizeof(*page)]);
		cpuid(0, 0, out);
	}
}

static void start_guests(void)
{
	for (int i = 0; i < GUESTS; i++) {
		struct vm *vm = vm_create(VM_IRQCHIP);

		vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);
		/* The stacks belong to the ids. */
		vcpus[i] = vcpu_create(vm, i);
		vcpu_set_guest(vcpus[i], keep_pages, i);
		vcpu_start(vcpus[i]);
	}
}

static void expect_progress(const char *where)
{
	for (int i = 0; i < GUESTS; i++) {
		u64 before = rounds[i];

		ktap_about("guest %d %s", i, where);
		WAIT_FOR(rounds[i] > before + 50);
	}
}

static void pin_guests(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	for (int i = 0; i < GUESTS; i++)
		ASSERT_EQ(0, pthread_setaffinity_np(vcpus[i]->thread, sizeof(set), &set));
}

static void set_online(int cpu, bool online)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ASSERT_OK(fd);
	ASSERT_EQ(1, write(fd, online ? "1" : "0", 1));
	close(fd);
}

/* Two CPUs of this test beside CPU 0, which often cannot be taken off line. */
static void find_cpus(int cpus[2])
{
	cpu_set_t allowed;
	char path[64];
	int n = 0;

	for (int cpu = 1; cpu < CPU_SETSIZE && n < 2; cpu++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
		if (access(path, W_OK))
			continue;
		set_online(cpu, true);	/* a test that failed may have left it off */
		ASSERT_OK(sched_getaffinity(0, sizeof(allowed), &allowed));
		if (CPU_ISSET(cpu, &allowed))
			cpus[n++] = cpu;
	}
	if (n < 2)
		SKIP("needs root and two CPUs besides CPU 0 that can be taken off line");
}

TEST_LIMIT(two_vms_run_on_while_their_cpus_go_off_and_on, 240)
{
	int cpus[2];

	find_cpus(cpus);
	start_guests();
	for (int round = 0; round < 6; round++) {
		int off = cpus[round % 2], stays = cpus[!(round % 2)];

		pin_guests(off);
		expect_progress("before its CPU goes");
		set_online(off, false);
		/* The guests' only CPU went: the kernel lets them run elsewhere. */
		pin_guests(stays);
		expect_progress("while its CPU is off");
		set_online(off, true);
		pin_guests(off);
		expect_progress("after its CPU came back");
	}
}

TEST_LIMIT(a_vcpu_made_while_a_cpu_is_off_runs_on_it_later, 120)
{
	int cpus[2];

	find_cpus(cpus);
	set_online(cpus[0], false);
	start_guests();
	expect_progress("with a CPU off");
	set_online(cpus[0], true);
	pin_guests(cpus[0]);
	expect_progress("on the CPU that came back");
}
