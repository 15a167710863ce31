// SPDX-License-Identifier: GPL-2.0
/*
 * A client that is killed at any point leaves nothing behind: the module's
 * reference count and the host's memory come back, the device opens again.
 *
 * Each test forks a client that says through a pipe when it has come to the
 * point, and kills it there.
 *
 * Read next: vm.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

/* The reference count of the module behind the device, -1 where none shows. */
static long module_refcount(void)
{
	const char *path = is_linux_kvm() ? "/sys/module/kvm_amd/refcnt"
					  : "/sys/module/mkvm/refcnt";
	FILE *file = fopen(path, "re");
	long count = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &count) != 1)
		count = -1;
	fclose(file);
	return count;
}

static long free_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	long kib = -1;

	ASSERT_TRUE(file);
	while (kib < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "MemFree: %ld", &kib);
	fclose(file);
	return kib;
}

static int ready_pipe[2];

static void tell_ready(void)
{
	ASSERT_EQ(1, write(ready_pipe[1], "r", 1));
}

/* Forks client(), waits until it is at its point, kills it. */
static void kill_client(void (*client)(void))
{
	char byte;
	pid_t pid;

	ASSERT_OK(pipe(ready_pipe));
	pid = fork();
	ASSERT_OK(pid);
	if (!pid) {
		close(ready_pipe[0]);
		client();
		for (;;)
			pause();
	}
	close(ready_pipe[1]);
	if (read(ready_pipe[0], &byte, 1) != 1)
		FAIL("the client ended before it was ready");
	close(ready_pipe[0]);
	ASSERT_OK(kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, NULL, 0));
}

static void use_device_again(void)
{
	int fd = open(device_path(), O_RDWR | O_CLOEXEC), vm, vcpu;

	ASSERT_OK(fd);
	vm = ioctl(fd, KVM_CREATE_VM, 0L);
	ASSERT_OK(vm);
	ASSERT_OK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0L);
	ASSERT_OK(vcpu);
	close(vm);
	close(vcpu);
	close(fd);
}

static void expect_clean_after(void (*client)(void))
{
	long before = module_refcount();

	if (before < 0)
		SKIP("the module shows no reference count under /sys/module");
	for (int round = 0; round < 3; round++) {
		kill_client(client);
		WAIT_FOR(module_refcount() == before);
	}
	use_device_again();
	WAIT_FOR(module_refcount() == before);
}

/* --- Clients --- */

static volatile u32 spins;

static void spin(u64 arg)
{
	(void)arg;
	for (;;)
		spins++;
}

static void client_running(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP | VM_PIT);

	for (int i = 0; i < 4; i++)
		vcpu_start(vcpu_add(vm, spin, i));
	WAIT_FOR(spins > 1000);
	tell_ready();
}

TEST(a_client_killed_with_running_vcpus)
{
	expect_clean_after(client_running);
}

static volatile u32 halting;

static void halt(u64 arg)
{
	(void)arg;
	__atomic_add_fetch(&halting, 1, __ATOMIC_SEQ_CST);
	for (;;)
		asm volatile("cli; hlt");
}

static void client_blocked(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	for (int i = 0; i < 3; i++)
		vcpu_start(vcpu_add(vm, halt, i));
	/* And one that waits for its SIPI. */
	vcpu_start(vcpu_create(vm, 3));
	WAIT_FOR(halting == 3);
	tell_ready();
}

TEST(a_client_killed_with_halted_vcpus)
{
	expect_clean_after(client_blocked);
}

static volatile u32 ticks;

static void timers(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	pic_init(0x30, ICW4_8086);
	pic_mask(0xffff);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x40 | LVT_PERIODIC);
	apic_write(APIC_TMICT, 100000);
	/* The PIT runs as well, whoever takes its ticks. */
	outb(0x43, 0x34);
	outb(0x40, 0);
	outb(0x40, 8);
	for (;;) {
		sti_hlt_cli();
		ticks = irqs[0x40];
	}
}

static void client_timers(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP | VM_PIT);

	for (int i = 0; i < 2; i++)
		vcpu_start(vcpu_add(vm, timers, i));
	WAIT_FOR(ticks > 10);
	tell_ready();
}

TEST(a_client_killed_with_running_timers)
{
	expect_clean_after(client_timers);
}

static void store_all_over(u64 arg)
{
	for (u64 i = 0;; i += 4096) {
		*(volatile u64 *)(TEST_GPA + i % (4 * MIB)) = i;
		spins++;
	}
	(void)arg;
}

static void answer_mmio(struct vcpu *vcpu)
{
	ASSERT_EQ(KVM_EXIT_MMIO, vcpu->run->exit_reason);
}

static void *change_slots(void *arg)
{
	struct vm *vm = arg;
	void *host = host_memory(4 * MIB);

	for (;;) {
		ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 4 * MIB, host));
		ASSERT_OK(madvise(host, 2 * MIB, MADV_DONTNEED));
		ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, host));
	}
	return NULL;
}

static void client_slots(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	pthread_t thread;

	for (int i = 0; i < 2; i++) {
		struct vcpu *vcpu = vcpu_add(vm, store_all_over, 0);

		vcpu->on_exit = answer_mmio;
		vcpu_start(vcpu);
	}
	pthread_create(&thread, NULL, change_slots, vm);
	WAIT_FOR(spins > 500);
	tell_ready();
}

TEST(a_client_killed_while_slots_change)
{
	expect_clean_after(client_slots);
}

static void client_creates(void)
{
	tell_ready();
	for (;;) {
		int vm = ioctl(device_fd(), KVM_CREATE_VM, 0L);

		ioctl(vm, KVM_CREATE_IRQCHIP, 0);
		for (long i = 0; i < 4; i++)
			close(ioctl(vm, KVM_CREATE_VCPU, i));
		close(vm);
	}
}

TEST(a_client_killed_while_it_creates)
{
	expect_clean_after(client_creates);
}

static void client_with_heir(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	int ends[2];

	vcpu_start(vcpu_add(vm, spin, 0));
	WAIT_FOR(spins > 1000);
	ASSERT_OK(pipe(ends));
	if (!fork()) {
		/* Holds the fds a little longer than the owner of the memory. */
		char byte;

		close(ends[1]);
		if (read(ends[0], &byte, 1))
			_exit(1);
		_exit(0);
	}
	tell_ready();
}

TEST(a_client_killed_while_another_process_has_its_fds)
{
	expect_clean_after(client_with_heir);
}

/* --- Memory --- */

#define TOUCHED (64 * MIB)

static void touch_all(u64 arg)
{
	(void)arg;
	for (u64 at = 0; at < TOUCHED; at += 4096)
		*(volatile u64 *)(TEST_GPA + at) = at;
	stage(1);
}

static void client_memory(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, touch_all, 0);

	vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, TOUCHED);
	vcpu_run_to_stage(vcpu, 1);
	tell_ready();
}

TEST(the_memory_of_killed_clients_comes_back)
{
	long before;

	kill_client(client_memory);
	before = free_kib();
	for (int i = 0; i < 6; i++)
		kill_client(client_memory);
	/* Of 384 MiB that were touched, less than a third may be missing. */
	WAIT_FOR(before - free_kib() < 128 * 1024);
}
