// SPDX-License-Identifier: GPL-2.0
/*
 * Races inside KVM_RUN, made certain: the module holds the vCPU's thread at a
 * point (kmod/testpoint.h) while the test does what must not be lost there.
 * Needs a module built with MKVM_TEST_POINTS=y.
 *
 * Read next: initsipi.c, events.c.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vm.h"

enum { POINT_HLT, POINT_BLOCK, NR_POINTS };	/* as in kmod/testpoint.h */

#define VECTOR 0x60

static int open_parameter(const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/module/mkvm/parameters/%s", name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		SKIP("the module was built without MKVM_TEST_POINTS=y");
	return fd;
}

/* Holds who comes to this point from now on; NR_POINTS: nobody. */
static void hold(int point)
{
	int fd = open_parameter("test_hold", O_WRONLY);
	char text[8];
	int len = snprintf(text, sizeof(text), "%d,%d", point == POINT_HLT, point == POINT_BLOCK);

	ASSERT_EQ(len, write(fd, text, len));
	close(fd);
}

static int held(int point)
{
	int fd = open_parameter("test_held", O_RDONLY), count[NR_POINTS];
	char text[32] = "";

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	ASSERT_EQ(NR_POINTS, sscanf(text, "%d,%d", &count[0], &count[1]));
	return count[point];
}

/* Starts the vCPU with its guest and returns when it is held at the point. */
static void start_and_hold(struct vcpu *vcpu, int point)
{
	struct ktap_wait wait = { 0 };
	int before = held(point);

	hold(point);
	vcpu_start(vcpu);
	while (held(point) == before)
		if (!ktap_wait(&wait))
			FAIL("the vCPU never came to point %d", point);
}

static void enable(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
}

static void halt_once(u64 arg)
{
	enable(arg);
	sti_hlt_cli();
	GUEST_EQ(1, irqs[VECTOR]);
}

static void an_interrupt_at(int point)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halt_once, 0);

	start_and_hold(vcpu, point);
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), VECTOR));
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
}

TEST(an_interrupt_between_the_last_look_and_sleep_wakes)
{
	an_interrupt_at(POINT_BLOCK);
}

TEST(an_interrupt_between_hlt_and_its_mp_state_wakes)
{
	an_interrupt_at(POINT_HLT);
}

static void halt_for_good(u64 arg)
{
	enable(arg);
	for (;;)
		asm volatile("cli; hlt");
}

CODE_BLOB(sipi_code, 16,
	"movw $0x5100, %dx; movl $7, %eax; outl %eax, %dx; hlt");

static void an_init_at(int point)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *ap;

	vcpu_create(vm, 0);
	ap = vcpu_add(vm, halt_for_good, 0);
	vm_load(vm, AP_TRAMPOLINE, sipi_code, sipi_code_end);
	start_and_hold(ap, point);
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(1), ICR_INIT));
	hold(NR_POINTS);
	vcpu_stop(ap);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(1), ICR_STARTUP | AP_VECTOR));
	vcpu_run_to_stage(ap, 7);
}

TEST(an_init_between_hlt_and_its_mp_state_is_not_lost)
{
	an_init_at(POINT_HLT);
}

TEST(an_init_between_the_last_look_and_sleep_is_not_lost)
{
	an_init_at(POINT_BLOCK);
}

TEST(a_signal_between_the_last_look_and_sleep_ends_kvm_run)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halt_for_good, 0);

	start_and_hold(vcpu, POINT_BLOCK);
	vcpu->stop = true;
	pthread_kill(vcpu->thread, SIGUSR1);
	hold(NR_POINTS);
	pthread_join(vcpu->thread, NULL);
}
