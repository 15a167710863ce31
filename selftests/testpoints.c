// SPDX-License-Identifier: GPL-2.0
/*
 * Races inside KVM_RUN, made certain: the module holds the vCPU's thread at a
 * point (kmod/testpoint.h) while the test does what must not be lost there.
 * Needs a module built with MKVM_TEST_POINTS=y.
 *
 * Read next: initsipi.c, events.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vm.h"

enum { POINT_HLT, POINT_BLOCK, POINT_LOADED_MSR, NR_POINTS };	/* as in kmod/testpoint.h */

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
	int fd = open_parameter("test_hold", O_WRONLY), len = 0;
	char text[4 * NR_POINTS];

	for (int i = 0; i < NR_POINTS; i++)
		len += snprintf(text + len, sizeof(text) - len, i ? ",%d" : "%d", i == point);
	ASSERT_EQ(len, write(fd, text, len));
	close(fd);
}

static int held(int point)
{
	int fd = open_parameter("test_held", O_RDONLY);
	char text[16 * NR_POINTS] = "", *next = text;

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	for (int i = 0; i < point; i++) {
		next = strchr(next, ',');
		ASSERT_TRUE(next++);
	}
	return atoi(next);
}

static void wait_until_held(int point, int before)
{
	struct ktap_wait wait = { 0 };

	while (held(point) == before)
		if (!ktap_wait(&wait))
			FAIL("nobody came to point %d", point);
}

/* Starts the vCPU with its guest and returns when it is held at the point. */
static void start_and_hold(struct vcpu *vcpu, int point)
{
	int before = held(point);

	hold(point);
	vcpu_start(vcpu);
	wait_until_held(point, before);
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

/* --- Registers of the guest that the CPU has while the vCPU is loaded --- */

#define MSR_TSC_AUX 0xc0000103
#define GUESTS_AUX 0x1234
#define PREEMPT_MODE "/sys/kernel/debug/sched/preempt"

/* The kernel preempts threads in the kernel, too; or this cannot be told, and the test skips. */
static void preempt_kernel(void)
{
	FILE *file = fopen(PREEMPT_MODE, "w");
	struct utsname name;

	ASSERT_OK(uname(&name));
	if (file)
		ASSERT_LT(0, fputs("full", file));
	else if (!strstr(name.version, " PREEMPT ") && !strstr(name.version, " PREEMPT_RT "))
		SKIP("this kernel does not preempt threads in the kernel, and " PREEMPT_MODE " is not there");
	if (file)
		ASSERT_EQ(0, fclose(file));
}

static u32 read_tsc_aux(void)
{
	u32 aux;

	asm volatile("rdtscp" : "=c"(aux) : : "eax", "edx");
	return aux;
}

static void stay_on_cpu(u32 cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	ASSERT_OK(sched_setaffinity(0, sizeof(one), &one));
}

struct aux {
	struct vcpu *vcpu;
	u32 cpu, host, seen;
};

static void *set_aux(void *arg)
{
	struct aux *aux = arg;

	stay_on_cpu(aux->cpu);
	aux->host = read_tsc_aux();
	ASSERT_EQ(1, vcpu_set_msr(aux->vcpu, MSR_TSC_AUX, aux->host));
	return NULL;
}

static void *look_at_aux(void *arg)
{
	struct aux *aux = arg;

	stay_on_cpu(aux->cpu);
	aux->seen = read_tsc_aux();
	return NULL;
}

/* Found equal to the host's, the guest's value would stay in the CPU if it were noted too early. */
TEST(another_thread_on_the_cpu_never_sees_the_guests_tsc_aux)
{
	struct aux aux = { .vcpu = vcpu_create(vm_create(0), 0), .cpu = sched_getcpu() };
	int before = held(POINT_LOADED_MSR);
	pthread_t setter, looker;

	preempt_kernel();
	ASSERT_EQ(1, vcpu_set_msr(aux.vcpu, MSR_TSC_AUX, GUESTS_AUX));
	hold(POINT_LOADED_MSR);
	ASSERT_EQ(0, pthread_create(&setter, NULL, set_aux, &aux));
	wait_until_held(POINT_LOADED_MSR, before);
	ASSERT_EQ(0, pthread_create(&looker, NULL, look_at_aux, &aux));
	pthread_join(looker, NULL);	/* at the latest when the point lets the other thread go */
	hold(NR_POINTS);
	pthread_join(setter, NULL);
	EXPECT_EQ(aux.host, aux.seen);
}
