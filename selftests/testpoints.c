// SPDX-License-Identifier: GPL-2.0
/*
 * Races made certain: the module holds a thread at a point (kmod/testpoint.h), a vCPU's inside
 * KVM_RUN or one that takes memory away, while the test does what must not be lost or wait there.
 * Needs a module built with MKVM_TEST_POINTS=y.
 *
 * Read next: initsipi.c, events.c, memslots.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

enum { POINT_HLT, POINT_BLOCK, POINT_ZAP, POINT_FREE, NR_POINTS };	/* as in kmod/testpoint.h */

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
	char text[16];
	int len = snprintf(text, sizeof(text), "%d,%d,%d,%d", point == POINT_HLT, point == POINT_BLOCK,
			   point == POINT_ZAP, point == POINT_FREE);

	ASSERT_EQ(len, write(fd, text, len));
	close(fd);
}

static int held(int point)
{
	int fd = open_parameter("test_held", O_RDONLY), count[NR_POINTS];
	char text[32] = "";

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	ASSERT_EQ(NR_POINTS, sscanf(text, "%d,%d,%d,%d", &count[0], &count[1], &count[2], &count[3]));
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

/* --- Memory that is taken away --- */

#define TWIN_GPA (TEST_GPA + 4 * MIB)
#define OTHER_GPA (TEST_GPA + 8 * MIB)
#define NR_PAGES 16

static volatile u64 sum;

static void touch_both_and_the_other(u64 arg)
{
	(void)arg;
	for (u64 i = 0; i < NR_PAGES; i++) {
		*(volatile u8 *)(TEST_GPA + i * PAGE_SIZE) = 1;
		sum += *(volatile u8 *)(TWIN_GPA + i * PAGE_SIZE);
	}
	stage(1);
	*(volatile u8 *)OTHER_GPA = 1;
	stage(2);
	for (u64 i = 0; i < NR_PAGES; i++)
		sum += *(volatile u8 *)(TWIN_GPA + i * PAGE_SIZE);
}

/* A thread that takes memory away, and that it came back. */
struct taker {
	struct vm *vm;
	u8 *host;
	void (*take)(struct taker *t);
	pthread_t thread;
	volatile bool back;
	u64 since;		/* ns; nobody is held before */
};

static void *take_away(void *arg)
{
	struct taker *t = arg;

	t->take(t);
	t->back = true;
	return NULL;
}

static void discard(struct taker *t)
{
	ASSERT_OK(madvise(t->host, NR_PAGES * PAGE_SIZE, MADV_DONTNEED));
}

static void delete_slot(struct taker *t)
{
	ASSERT_OK(vm_set_slot(t->vm, SLOT_TEST, 0, TEST_GPA, 0, NULL));
}

static u64 flushes(struct vm *vm)
{
	struct kvm_stats_header head;
	int fd = ioctl(vm->fd, KVM_GET_STATS_FD, NULL);
	struct {
		struct kvm_stats_desc desc;
		char name[128];
	} d;
	u64 value;

	ASSERT_OK(fd);
	ASSERT_EQ(sizeof(head), pread(fd, &head, sizeof(head), 0));
	for (u32 i = 0; i < head.num_desc; i++) {
		size_t size = sizeof(d.desc) + head.name_size;

		ASSERT_LE(size, sizeof(d));
		ASSERT_EQ(size, pread(fd, &d, size, head.desc_offset + i * size));
		if (strcmp(d.name, "remote_tlb_flush"))
			continue;
		ASSERT_EQ(sizeof(value), pread(fd, &value, sizeof(value), head.data_offset + d.desc.offset));
		close(fd);
		return value;
	}
	FAIL("there is no counter remote_tlb_flush");
}

/* Two slots of the same memory are there and mapped, a third is not mapped; the taker is held. */
static struct vcpu *take_and_hold(struct taker *t, int point)
{
	struct vcpu *vcpu;
	struct ktap_wait wait = { 0 };
	int before;

	t->vm = vm_create(0);
	vcpu = vcpu_add(t->vm, touch_both_and_the_other, 0);
	/* A table of small pages for each slot. */
	t->host = vm_add_memory(t->vm, SLOT_TEST, 0, TEST_GPA, 2 * MIB);
	ASSERT_OK(madvise(t->host, 2 * MIB, MADV_NOHUGEPAGE));
	ASSERT_OK(vm_set_slot(t->vm, SLOT_TEST + 1, 0, TWIN_GPA, 2 * MIB, t->host));
	memset(vm_add_memory(t->vm, SLOT_TEST + 2, 0, OTHER_GPA, PAGE_SIZE), 1, PAGE_SIZE);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(NR_PAGES, sum);
	before = held(point);
	hold(point);
	t->since = ktap_now_ns();
	ASSERT_EQ(0, pthread_create(&t->thread, NULL, take_away, t));
	while (held(point) == before)
		if (!ktap_wait(&wait))
			FAIL("the thread never came to point %d", point);
	return vcpu;
}

/* A thread is held for two seconds: what took less has not waited for it. */
static void expect_held(const struct taker *t)
{
	EXPECT_TRUE(!t->back);
	EXPECT_LT(ktap_now_ns() - t->since, 2000000000);
}

TEST(a_fault_does_not_wait_for_a_range_of_several_slots_and_flushes_for_it)
{
	struct taker t = { .take = discard };
	struct vcpu *vcpu = take_and_hold(&t, POINT_ZAP);
	u64 before = flushes(t.vm);

	vcpu_run_to_stage(vcpu, 2);
	expect_held(&t);
	EXPECT_EQ(before + 1, flushes(t.vm));
	hold(NR_POINTS);
	pthread_join(t.thread, NULL);
	EXPECT_EQ(before + 2, flushes(t.vm));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(NR_PAGES, sum);
}

TEST(a_fault_does_not_wait_while_the_tables_of_a_slot_are_freed)
{
	struct taker t = { .take = delete_slot };
	struct vcpu *vcpu = take_and_hold(&t, POINT_FREE);
	u64 before = flushes(t.vm);

	vcpu_run_to_stage(vcpu, 2);
	expect_held(&t);
	EXPECT_EQ(before, flushes(t.vm));
	hold(NR_POINTS);
	pthread_join(t.thread, NULL);
	EXPECT_EQ(before, flushes(t.vm));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(2 * NR_PAGES, sum);
}

/* --- Inside KVM_RUN --- */

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
