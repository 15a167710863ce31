// SPDX-License-Identifier: GPL-2.0
/*
 * VM and vCPU file descriptors: what may be created when, how many, who may
 * use them, and in which order they may go.
 *
 * Read next: memslots.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

static void two_stages(u64 arg)
{
	(void)arg;
	stage(1);
	stage(2);
}

TEST(irqchip_is_created_once)
{
	int vm = vm_create_bare();

	EXPECT_OK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	EXPECT_ERRNO(EEXIST, ioctl(vm, KVM_CREATE_IRQCHIP, 0));
}

TEST(irqchip_after_a_vcpu_is_refused)
{
	int vm = vm_create_bare();

	ASSERT_OK(ioctl(vm, KVM_CREATE_VCPU, 0L));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_IRQCHIP, 0));
}

TEST(ioctls_of_the_irqchip_without_one_are_enxio)
{
	int vm = vm_create_bare();
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_irq_level level = { .irq = 4, .level = 1 };
	struct kvm_pit_state2 pit = { 0 };

	EXPECT_ERRNO(ENXIO, ioctl(vm, KVM_GET_IRQCHIP, &chip));
	EXPECT_ERRNO(ENXIO, ioctl(vm, KVM_SET_IRQCHIP, &chip));
	EXPECT_ERRNO(ENXIO, ioctl(vm, KVM_IRQ_LINE, &level));
	EXPECT_ERRNO(ENXIO, ioctl(vm, KVM_GET_PIT2, &pit));
	EXPECT_ERRNO(ENXIO, ioctl(vm, KVM_SET_PIT2, &pit));
}

TEST(lapic_ioctls_without_irqchip_are_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	static struct kvm_lapic_state lapic;

	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
}

TEST(pit_is_created_once)
{
	int vm = vm_create_bare();
	struct kvm_pit_config config = { 0 };

	ASSERT_OK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	EXPECT_OK(ioctl(vm, KVM_CREATE_PIT2, &config));
	EXPECT_ERRNO(EEXIST, ioctl(vm, KVM_CREATE_PIT2, &config));
}

TEST(pit_without_irqchip_is_refused)
{
	int vm = vm_create_bare();
	struct kvm_pit_config config = { 0 };

	if (!ioctl(vm, KVM_CREATE_PIT2, &config)) {
		if (is_linux_kvm())
			SKIP("Linux KVM before 6.4 creates it");
		FAIL("KVM_CREATE_PIT2 succeeded without an irqchip");
	}
}

TEST(pit_config_with_unknown_bits_is_refused)
{
	int vm = vm_create_bare();
	struct kvm_pit_config config = { .flags = 0x80 };

	if (is_linux_kvm())
		SKIP("Linux KVM ignores unknown flags of KVM_CREATE_PIT2");
	ASSERT_OK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_PIT2, &config));
	config.flags = 0;
	config.pad[7] = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_PIT2, &config));
	config.pad[7] = 0;
	EXPECT_OK(ioctl(vm, KVM_CREATE_PIT2, &config));
}

TEST(vcpu_id_one_past_the_last_is_refused)
{
	int vm = vm_create_bare();
	int max_id = capability(KVM_CAP_MAX_VCPU_ID);

	/* Not offered means: as many as there may be vCPUs. */
	if (max_id <= 0)
		max_id = capability(KVM_CAP_MAX_VCPUS);
	ASSERT_LT(0, max_id);
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_VCPU, (long)max_id));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_VCPU, -1L));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_VCPU, 1L << 32 | (u32)max_id));
	EXPECT_OK(ioctl(vm, KVM_CREATE_VCPU, (long)max_id - 1));
}

TEST(vcpu_id_is_given_once)
{
	int vm = vm_create_bare(), vcpu;

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 3L);
	ASSERT_OK(vcpu);
	EXPECT_ERRNO(EEXIST, ioctl(vm, KVM_CREATE_VCPU, 3L));
	/* A closed fd does not give the id back. */
	EXPECT_OK(close(vcpu));
	EXPECT_ERRNO(EEXIST, ioctl(vm, KVM_CREATE_VCPU, 3L));
}

TEST(the_name_of_a_vcpus_fd_is_the_one_that_strace_looks_for)
{
	char path[32], name[64] = "";
	int vcpu = ioctl(vm_create_bare(), KVM_CREATE_VCPU, 37L);

	ASSERT_OK(vcpu);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", vcpu);
	ASSERT_LT(0, readlink(path, name, sizeof(name) - 1));
	EXPECT_EQ(0, strcmp(name, "anon_inode:kvm-vcpu:37"));
}

TEST(a_limit_on_vcpu_ids_is_set_once_and_holds)
{
	int vm = vm_create_bare(), max = capability(KVM_CAP_MAX_VCPU_ID);

	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, max + 1));
	ASSERT_OK(vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 2));
	EXPECT_OK(vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 2));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 3));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_VCPU, 2L));
	EXPECT_OK(ioctl(vm, KVM_CREATE_VCPU, 1L));
	vm = vm_create_bare();
	ASSERT_OK(ioctl(vm, KVM_CREATE_VCPU, 0L));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 2));
}

TEST(the_boot_cpu_is_not_beyond_the_limit_on_ids)
{
	int vm = vm_create_bare();

	if (is_linux_kvm())
		SKIP("Linux KVM before 6.12 does not compare the two");
	ASSERT_OK(ioctl(vm, KVM_SET_BOOT_CPU_ID, 4L));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 3));
	EXPECT_OK(vm_enable_cap(vm, KVM_CAP_MAX_VCPU_ID, 8));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_SET_BOOT_CPU_ID, 8L));
	EXPECT_OK(ioctl(vm, KVM_SET_BOOT_CPU_ID, 7L));
}

TEST(the_number_of_mmu_pages_is_what_was_set)
{
	int vm = vm_create_bare();

	NEED_CAP(KVM_CAP_MMU_SHADOW_CACHE_CONTROL);
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_SET_NR_MMU_PAGES, 63ul));
	EXPECT_OK(ioctl(vm, KVM_SET_NR_MMU_PAGES, 64ul));
	EXPECT_EQ(64, ioctl(vm, KVM_GET_NR_MMU_PAGES));
	EXPECT_OK(ioctl(vm, KVM_SET_NR_MMU_PAGES, 1000ul));
	EXPECT_EQ(1000, ioctl(vm, KVM_GET_NR_MMU_PAGES));
}

TEST(vcpu_counts_are_in_order)
{
	int soft = capability(KVM_CAP_NR_VCPUS);
	int max = capability(KVM_CAP_MAX_VCPUS);

	EXPECT_LE(1, soft);
	EXPECT_LE(soft, max);
	EXPECT_LE(8, max);
}

TEST(as_many_vcpus_as_promised_and_no_more)
{
	struct rlimit files = { 5000, 5000 };
	int vm = vm_create_bare(), max = capability(KVM_CAP_MAX_VCPUS);

	ASSERT_OK(setrlimit(RLIMIT_NOFILE, &files));
	for (long id = 0; id < max; id++)
		ASSERT_OK(ioctl(vm, KVM_CREATE_VCPU, id));
	EXPECT_ERRNO(EINVAL, ioctl(vm, KVM_CREATE_VCPU, (long)max));
}

struct creator {
	int vm;
	pthread_t thread;
	int created;
};

static void *create_ids(void *arg)
{
	struct creator *creator = arg;

	for (long id = 0; id < 16; id++)
		if (ioctl(creator->vm, KVM_CREATE_VCPU, id) >= 0)
			creator->created++;
		else if (errno != EEXIST)
			FAIL("KVM_CREATE_VCPU: %s", strerror(errno));
	return NULL;
}

TEST(an_id_wanted_by_four_threads_is_given_to_one)
{
	struct creator creators[4] = { 0 };
	int vm = vm_create_bare(), created = 0;

	ASSERT_OK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	for (int i = 0; i < 4; i++) {
		creators[i].vm = vm;
		ASSERT_EQ(0, pthread_create(&creators[i].thread, NULL,
					    create_ids, &creators[i]));
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(creators[i].thread, NULL);
		created += creators[i].created;
	}
	EXPECT_EQ(16, created);
}

TEST(a_vcpu_runs_on_after_its_vm_fd_was_closed)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, two_stages, 0);

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(close(vm->fd));
	ASSERT_OK(close(device_fd()));
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_done(vcpu);
}

TEST(file_descriptors_close_in_any_order)
{
	for (int order = 0; order < 6; order++) {
		static const int orders[6][3] = {
			{ 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
			{ 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 },
		};
		struct vm *vm = vm_create(VM_IRQCHIP);
		int fds[3] = {
			vm->fd, vcpu_create(vm, 0)->fd, vcpu_create(vm, 1)->fd,
		};

		for (int i = 0; i < 3; i++)
			EXPECT_OK(close(fds[orders[order][i]]));
	}
}

/* Runs act() in a child process; its exit status, or 256 + signal. */
static int in_child(int (*act)(void *arg), void *arg)
{
	int status;
	pid_t pid = fork();

	ASSERT_OK(pid);
	if (!pid) {
		signal(SIGBUS, SIG_DFL);
		_exit(act(arg));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	return WIFSIGNALED(status) ? 256 + WTERMSIG(status)
				   : WEXITSTATUS(status);
}

static int use_foreign_fds(void *arg)
{
	struct vcpu *vcpu = arg;
	struct kvm_regs regs;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) != -1 || errno != EIO)
		return 1;
	if (ioctl(vcpu->fd, KVM_RUN, 0) != -1 || errno != EIO)
		return 2;
	if (ioctl(vcpu->vm->fd, KVM_CREATE_VCPU, 1L) != -1 || errno != EIO)
		return 3;
	return 0;
}

TEST(another_process_may_not_use_the_fds)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, two_stages, 0);

	EXPECT_EQ(0, in_child(use_foreign_fds, vcpu));
	vcpu_run_to_stage(vcpu, 1);
}

static int touch(void *arg)
{
	return *(volatile u8 *)arg;
}

TEST(the_vcpu_mapping_ends_at_its_size)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	int size = ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
	u8 *map = mmap(NULL, size + PAGE_SIZE, PROT_READ | PROT_WRITE,
		       MAP_SHARED, vcpu->fd, 0);

	/* Refused as a whole is as good as no memory behind the end. */
	if (map == MAP_FAILED)
		return;
	EXPECT_EQ(0, in_child(touch, map));
	EXPECT_EQ(256 + SIGBUS, in_child(touch, map + size));
}

TEST(the_vcpu_mapping_is_shared_and_starts_zeroed)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_run *second = mmap(NULL, sizeof(*second),
				      PROT_READ | PROT_WRITE, MAP_SHARED,
				      vcpu->fd, 0);

	ASSERT_TRUE(second != MAP_FAILED);
	EXPECT_EQ(0, second->exit_reason);
	vcpu->run->request_interrupt_window = 1;
	EXPECT_EQ(1, second->request_interrupt_window);
}

static volatile bool leave;
static volatile u32 entered;

static void spin_then_stages(u64 arg)
{
	(void)arg;
	entered = 1;
	GUEST_WAIT(leave);
	stage(1);
	stage(2);
}

static void *run_once_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	return (void *)(long)ioctl(vcpu->fd, KVM_RUN, 0);
}

TEST(two_threads_run_one_vcpu_in_turn)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, spin_then_stages, 0);
	pthread_t first, second;
	void *result;

	ASSERT_EQ(0, pthread_create(&first, NULL, run_once_thread, vcpu));
	WAIT_FOR(entered);
	ASSERT_EQ(0, pthread_create(&second, NULL, run_once_thread, vcpu));
	leave = true;
	pthread_join(first, &result);
	EXPECT_EQ(0, (long)result);
	pthread_join(second, &result);
	EXPECT_EQ(0, (long)result);
	/* Each KVM_RUN gave one exit: both stages are behind us. */
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(PORT_DONE, vcpu->run->io.port);
}

static volatile bool scribble_on;

/* These end KVM_RUN before it begins; without them the rest is reached. */
static bool is_refused_early(size_t offset)
{
	return offset == offsetof(struct kvm_run, request_interrupt_window) ||
	       offset / 8 == offsetof(struct kvm_run, cr8) / 8 ||
	       offset / 8 == offsetof(struct kvm_run, kvm_valid_regs) / 8 ||
	       offset / 8 == offsetof(struct kvm_run, kvm_dirty_regs) / 8;
}

static void *scribble(void *arg)
{
	struct kvm_run *run = arg;
	u32 x = 12345;

	while (scribble_on) {
		for (size_t at = 0; at < sizeof(*run); at += 4) {
			x = x * 1103515245 + 12345;
			if (!is_refused_early(at))
				((volatile u32 *)run)[at / 4] = x;
		}
	}
	return NULL;
}

static void io_forever(u64 arg)
{
	u32 value;

	(void)arg;
	for (;;) {
		value = mmio_read32(MMIO_GPA);
		mmio_write32(MMIO_GPA + 4, value);
		outl(0x300, inl(0x304));
	}
}

TEST(a_scribbled_kvm_run_page_harms_nobody)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, io_forever, 0);
	struct vcpu *other = vcpu_add(vm, two_stages, 0);
	pthread_t thread;
	int runs = 0;

	scribble_on = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, scribble, vcpu->run));
	for (int i = 0; i < 2000; i++)
		runs += !ioctl(vcpu->fd, KVM_RUN, 0);
	scribble_on = false;
	pthread_join(thread, NULL);
	EXPECT_LT(0, runs);
	vcpu_run_to_stage(other, 1);
}
