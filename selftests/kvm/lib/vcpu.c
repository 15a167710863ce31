// SPDX-License-Identifier: GPL-2.0
/*
 * vCPUs: creation, the state a guest starts in, running, register access.
 *
 * State: struct vcpu; fields that a vCPU's thread and the test both use
 * (stage, done, stop) are accessed atomically.
 * Read next: vm.h.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib.h"
#include "vm.h"

#define KICK_SIGNAL SIGUSR1

#define CPUID_1_ECX_X2APIC (1u << 21)
#define CPUID_1_ECX_DEADLINE (1u << 24)

static void on_kick(int sig)
{
	(void)sig;
}

void install_kick_handler(void)
{
	struct sigaction action = { .sa_handler = on_kick };

	sigaction(KICK_SIGNAL, &action, NULL);
}

void default_cpuid(struct cpuid_list *list, u32 id)
{
	memset(list, 0, sizeof(*list));
	list->nent = sizeof(list->entries) / sizeof(list->entries[0]);
	ASSERT_OK(ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, list));
	for (u32 i = 0; i < list->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &list->entries[i];

		if (entry->function == 1) {
			entry->ebx = (entry->ebx & 0xffffff) | id << 24;
			entry->ecx |= CPUID_1_ECX_X2APIC;
			if (capability(KVM_CAP_TSC_DEADLINE_TIMER) > 0)
				entry->ecx |= CPUID_1_ECX_DEADLINE;
		}
		if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = id;
	}
}

struct vcpu *vcpu_create(struct vm *vm, u32 id)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int size = ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
	struct cpuid_list list;

	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (long)id);
	ASSERT_OK(vcpu->fd);
	ASSERT_OK(size);
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		FAIL("mmap of the vCPU: %s", strerror(errno));
	default_cpuid(&list, id);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	ASSERT_LT(vm->nr_vcpus, GUEST_CPUS);
	vm->vcpus[vm->nr_vcpus++] = vcpu;
	return vcpu;
}

struct kvm_segment flat_segment(u16 selector, u8 type, bool code64)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = !code64,
		.l = code64,
		.s = 1,
		.g = 1,
	};
}

static void set_data_segments(struct kvm_sregs *sregs)
{
	sregs->ds = flat_segment(SEL_DATA, 3, false);
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
}

static void make_runnable(struct vcpu *vcpu)
{
	if (vcpu->vm->irqchip &&
	    vcpu_mp_state(vcpu) != KVM_MP_STATE_RUNNABLE)
		vcpu_set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
}

void vcpu_set_guest(struct vcpu *vcpu, void (*entry)(u64 arg), u64 arg)
{
	u64 index = vcpu->id % GUEST_CPUS;
	u64 *stack_top = (u64 *)guest_stacks[index + 1];
	struct kvm_regs regs = {
		.rip = (u64)entry,
		.rdi = arg,
		.rsp = (u64)(stack_top - 1),
		.rflags = RFLAGS_FIXED,
	};
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs.cr3 = (u64)guest_pml4;
	sregs.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	sregs.efer = EFER_LME | EFER_LMA;
	sregs.gdt.base = (u64)guest_gdt;
	sregs.gdt.limit = sizeof(guest_gdt) - 1;
	sregs.idt.base = (u64)guest_idt;
	sregs.idt.limit = sizeof(guest_idt) - 1;
	sregs.cs = flat_segment(SEL_CODE64, 11, true);
	set_data_segments(&sregs);
	sregs.tr = (struct kvm_segment){
		.base = (u64)guest_tss[index],
		.limit = sizeof(guest_tss[0]) - 1,
		.selector = SEL_TSS,
		.type = 11,
		.present = 1,
	};
	vcpu_set_sregs(vcpu, &sregs);
	stack_top[-1] = (u64)guest_return;
	vcpu_set_regs(vcpu, &regs);
	make_runnable(vcpu);
	__atomic_store_n(&vcpu->done, false, __ATOMIC_RELEASE);
}

struct vcpu *vcpu_add(struct vm *vm, void (*entry)(u64 arg), u64 arg)
{
	struct vcpu *vcpu = vcpu_create(vm, vm->nr_vcpus);

	vcpu_set_guest(vcpu, entry, arg);
	return vcpu;
}

void vcpu_set_flat32(struct vcpu *vcpu, u32 eip)
{
	struct kvm_regs regs = {
		.rip = eip,
		.rsp = (u64)guest_stacks[vcpu->id % GUEST_CPUS + 1],
		.rflags = RFLAGS_FIXED,
	};
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr0 = CR0_PE | CR0_ET | CR0_NE;
	sregs.gdt.base = (u64)guest_gdt;
	sregs.gdt.limit = sizeof(guest_gdt) - 1;
	sregs.cs = flat_segment(SEL_CODE32, 11, false);
	set_data_segments(&sregs);
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_set_regs(vcpu, &regs);
	make_runnable(vcpu);
}

void vcpu_set_real(struct vcpu *vcpu, u16 ip)
{
	struct kvm_regs regs = {
		.rip = ip,
		.rsp = 0x7000,
		.rflags = RFLAGS_FIXED,
	};
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cs.selector = 0;
	sregs.cs.base = 0;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_set_regs(vcpu, &regs);
	make_runnable(vcpu);
}

/* KVM_RUN until it gives an exit; false when vcpu_stop() ended it. */
static bool run_once(struct vcpu *vcpu)
{
	for (;;) {
		if (!ioctl(vcpu->fd, KVM_RUN, 0))
			return true;
		if (errno != EINTR && errno != EAGAIN)
			FAIL("KVM_RUN of vCPU %u: %s", vcpu->id,
			     strerror(errno));
		if (__atomic_load_n(&vcpu->stop, __ATOMIC_ACQUIRE))
			return false;
	}
}

u32 vcpu_run(struct vcpu *vcpu)
{
	run_once(vcpu);
	return vcpu->run->exit_reason;
}

static u32 io_value(const struct kvm_run *run)
{
	return *(const u32 *)((const u8 *)run + run->io.data_offset);
}

static void report_guest_failure(struct vcpu *vcpu)
{
	struct guest_failure *failure =
		(struct guest_failure *)(u64)io_value(vcpu->run);

	ktap_note("guest on vCPU %u: %s:%u: %s: 0x%llx, 0x%llx", vcpu->id,
		  failure->file, failure->line, failure->text,
		  (unsigned long long)failure->want,
		  (unsigned long long)failure->seen);
	FAIL("a check in the guest failed, last stage 0x%x", vcpu->stage);
}

/* What the exit in kvm_run means to the library. */
static enum vcpu_event classify(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->exit_reason != KVM_EXIT_IO || run->io.size != 4 ||
	    run->io.count != 1 || run->io.direction != KVM_EXIT_IO_OUT)
		return EVENT_EXIT;
	switch (run->io.port) {
	case PORT_STAGE:
		__atomic_store_n(&vcpu->stage, io_value(run), __ATOMIC_RELEASE);
		return EVENT_STAGE;
	case PORT_DONE:
		__atomic_store_n(&vcpu->done, true, __ATOMIC_RELEASE);
		return EVENT_DONE;
	case PORT_FAIL:
		report_guest_failure(vcpu);
	}
	return EVENT_EXIT;
}

enum vcpu_event vcpu_step(struct vcpu *vcpu)
{
	run_once(vcpu);
	return classify(vcpu);
}

void vcpu_run_to_stage(struct vcpu *vcpu, u32 number)
{
	enum vcpu_event event = vcpu_step(vcpu);

	if (event != EVENT_STAGE)
		FAIL("stage 0x%x expected, exit %u seen%s", number,
		     vcpu->run->exit_reason,
		     event == EVENT_DONE ? " (the guest is done)" : "");
	ASSERT_EQ(number, vcpu->stage);
}

void vcpu_run_to_done(struct vcpu *vcpu)
{
	enum vcpu_event event;

	while ((event = vcpu_step(vcpu)) == EVENT_STAGE)
		;
	if (event != EVENT_DONE)
		FAIL("the guest should have ended, exit %u seen",
		     vcpu->run->exit_reason);
}

struct kvm_run *vcpu_run_to_exit(struct vcpu *vcpu, u32 reason)
{
	enum vcpu_event event;

	while ((event = vcpu_step(vcpu)) == EVENT_STAGE)
		;
	if (event == EVENT_DONE)
		FAIL("exit %u expected, the guest is done", reason);
	ASSERT_EQ(reason, vcpu->run->exit_reason);
	return vcpu->run;
}

void vcpu_finish_exit(struct vcpu *vcpu)
{
	vcpu->run->immediate_exit = 1;
	ASSERT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	vcpu->run->immediate_exit = 0;
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *vcpu = arg;

	while (run_once(vcpu)) {
		switch (classify(vcpu)) {
		case EVENT_STAGE:
			break;
		case EVENT_DONE:
			return NULL;
		case EVENT_EXIT:
			if (vcpu->on_exit) {
				vcpu->on_exit(vcpu);
				break;
			}
			FAIL("exit %u of vCPU %u was not expected",
			     vcpu->run->exit_reason, vcpu->id);
		}
	}
	return NULL;
}

void vcpu_start(struct vcpu *vcpu)
{
	int err = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);

	if (err)
		FAIL("pthread_create: %s", strerror(err));
	vcpu->threaded = true;
}

void vcpu_wait_stage(struct vcpu *vcpu, u32 number)
{
	struct ktap_wait wait = { 0 };

	while (__atomic_load_n(&vcpu->stage, __ATOMIC_ACQUIRE) != number)
		if (!ktap_wait(&wait))
			FAIL("vCPU %u never reached stage 0x%x, last 0x%x",
			     vcpu->id, number, vcpu->stage);
}

void vcpu_wait_done(struct vcpu *vcpu)
{
	struct ktap_wait wait = { 0 };

	while (!__atomic_load_n(&vcpu->done, __ATOMIC_ACQUIRE))
		if (!ktap_wait(&wait))
			FAIL("the guest of vCPU %u never ended, last stage 0x%x",
			     vcpu->id, vcpu->stage);
	pthread_join(vcpu->thread, NULL);
	vcpu->threaded = false;
}

void vcpu_stop(struct vcpu *vcpu)
{
	__atomic_store_n(&vcpu->stop, true, __ATOMIC_RELEASE);
	vcpu->run->immediate_exit = 1;
	pthread_kill(vcpu->thread, KICK_SIGNAL);
	pthread_join(vcpu->thread, NULL);
	vcpu->run->immediate_exit = 0;
	vcpu->stop = false;
	vcpu->threaded = false;
}

/*
 * After a failure: kicks the vCPU out of KVM_RUN and shows where it is. The
 * ioctl waits for the vCPU; when that never ends, the time limit does it.
 */
void vcpu_dump(struct vcpu *vcpu)
{
	struct kvm_mp_state mp = { 0 };
	struct kvm_regs regs;

	if (vcpu->threaded && !pthread_equal(vcpu->thread, pthread_self())) {
		vcpu->stop = true;
		vcpu->run->immediate_exit = 1;
		pthread_kill(vcpu->thread, KICK_SIGNAL);
	}
	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs))
		return;
	ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
	ktap_note("vCPU %u: rip 0x%llx rflags 0x%llx mp_state %u exit %u stage 0x%x",
		  vcpu->id, regs.rip, regs.rflags, mp.mp_state,
		  vcpu->run->exit_reason, vcpu->stage);
}

void vcpu_get_regs(struct vcpu *vcpu, struct kvm_regs *regs)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_REGS, regs));
}

void vcpu_set_regs(struct vcpu *vcpu, const struct kvm_regs *regs)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_REGS, regs));
}

void vcpu_sti(struct vcpu *vcpu)
{
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	regs.rflags |= RFLAGS_IF;
	vcpu_set_regs(vcpu, &regs);
}

void expect_same_segment(const char *name, const struct kvm_segment *a, const struct kvm_segment *b)
{
	ktap_about("segment %s", name);
	EXPECT_EQ(a->base, b->base);
	EXPECT_EQ(a->limit, b->limit);
	EXPECT_EQ(a->selector, b->selector);
	EXPECT_EQ(a->type, b->type);
	EXPECT_EQ(a->present, b->present);
	EXPECT_EQ(a->dpl, b->dpl);
	EXPECT_EQ(a->db, b->db);
	EXPECT_EQ(a->s, b->s);
	EXPECT_EQ(a->l, b->l);
	EXPECT_EQ(a->g, b->g);
	EXPECT_EQ(a->avl, b->avl);
}

void vcpu_get_sregs(struct vcpu *vcpu, struct kvm_sregs *sregs)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_SREGS, sregs));
}

void vcpu_set_sregs(struct vcpu *vcpu, const struct kvm_sregs *sregs)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SREGS, sregs));
}

u32 vcpu_mp_state(struct vcpu *vcpu)
{
	struct kvm_mp_state mp;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp));
	return mp.mp_state;
}

void vcpu_set_mp_state(struct vcpu *vcpu, u32 state)
{
	struct kvm_mp_state mp = { .mp_state = state };

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp));
}

void vcpu_get_events(struct vcpu *vcpu, struct kvm_vcpu_events *events)
{
	memset(events, 0, sizeof(*events));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, events));
}

u64 vcpu_get_msr(struct vcpu *vcpu, u32 index)
{
	struct msr_list list = { .nmsrs = 1, .entries[0].index = index };

	ASSERT_EQ(1, ioctl(vcpu->fd, KVM_GET_MSRS, &list));
	return list.entries[0].data;
}

int vcpu_set_msr(struct vcpu *vcpu, u32 index, u64 value)
{
	struct msr_list list = {
		.nmsrs = 1,
		.entries[0] = { .index = index, .data = value },
	};

	return ioctl(vcpu->fd, KVM_SET_MSRS, &list);
}

u32 vcpu_lapic(struct vcpu *vcpu, u32 reg)
{
	struct kvm_lapic_state lapic;
	u32 value;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	memcpy(&value, lapic.regs + reg, sizeof(value));
	return value;
}

bool vcpu_lapic_bit(struct vcpu *vcpu, u32 reg, u32 vector)
{
	return vcpu_lapic(vcpu, reg + (vector >> 5) * 16) >> (vector & 31) & 1;
}
