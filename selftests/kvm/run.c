// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_RUN: how it ends, port I/O, MMIO, HLT, shutdown, exceptions, the modes
 * a guest may run in, several vCPUs at once.
 *
 * Read next: regs.c, events.c.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

#define TEST_PORT 0x3f8

static u8 *io_data(struct kvm_run *run)
{
	return (u8 *)run + run->io.data_offset;
}

/* --- How KVM_RUN ends --- */

static void count_stages(u64 arg)
{
	(void)arg;
	for (u32 i = 1;; i++)
		stage(i);
}

TEST(immediate_exit_returns_before_the_guest_runs)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, count_stages, 0);
	struct kvm_regs before, after;

	NEED_CAP(KVM_CAP_IMMEDIATE_EXIT);
	vcpu_get_regs(vcpu, &before);
	vcpu->run->immediate_exit = 1;
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	vcpu_get_regs(vcpu, &after);
	EXPECT_EQ(before.rip, after.rip);
	vcpu->run->immediate_exit = 0;
	vcpu_run_to_stage(vcpu, 1);
}

TEST(immediate_exit_completes_the_port_access_first)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, count_stages, 0);
	struct kvm_regs before, after;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &before);
	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &after);
	EXPECT_EQ(before.rip, after.rip);
	vcpu_run_to_stage(vcpu, 2);
}

/* A struct kvm_signal_mask with its set, as the kernel counts signals. */
struct signal_mask {
	u32 len;
	u64 set;
} __attribute__((packed));

static volatile u32 spinning;

static void spin(u64 arg)
{
	(void)arg;
	for (;;)
		spinning++;
}

static void *kick_when_spinning(void *arg)
{
	pthread_t *runner = arg;

	WAIT_FOR(spinning > 1000);
	pthread_kill(*runner, SIGUSR1);
	return NULL;
}

TEST(a_signal_ends_kvm_run)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, spin, 0);
	pthread_t self = pthread_self(), kicker;

	ASSERT_EQ(0, pthread_create(&kicker, NULL, kick_when_spinning, &self));
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	EXPECT_EQ(KVM_EXIT_INTR, vcpu->run->exit_reason);
	pthread_join(kicker, NULL);
}

TEST(the_signal_mask_holds_during_kvm_run_only)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, spin, 0);
	struct signal_mask mask = { .len = 8 };
	sigset_t usr1, now;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask));
	/* Pending and blocked outside; the empty mask lets it end KVM_RUN. */
	raise(SIGUSR1);
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	EXPECT_TRUE(sigismember(&now, SIGUSR1));
	sigpending(&now);
	EXPECT_TRUE(sigismember(&now, SIGUSR1));
}

TEST(the_signal_mask_can_block_what_is_open_outside)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, count_stages, 0);
	struct signal_mask mask = { .len = 8, .set = 1ull << (SIGUSR1 - 1) };
	sigset_t usr1, pending;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask));
	raise(SIGUSR1);
	vcpu_run_to_stage(vcpu, 1);
	sigpending(&pending);
	EXPECT_TRUE(sigismember(&pending, SIGUSR1));
	/* No mask any more: the thread's own holds, which blocks it too. */
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, NULL));
	vcpu_run_to_stage(vcpu, 2);
}

TEST(a_signal_mask_of_a_wrong_length_is_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_signal_mask mask = { .len = 7 };

	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask));
	mask.len = 16;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask));
}

TEST(kvm_run_takes_no_argument)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, count_stages, 0);

	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_RUN, 1));
	vcpu_run_to_stage(vcpu, 1);
}

/* --- Port I/O --- */

static void port_writer(u64 arg)
{
	(void)arg;
	outb(TEST_PORT, 0x5a);
	outw(TEST_PORT + 2, 0x1234);
	outl(0xffff - 3, 0x89abcdef);
}

TEST(out_of_1_2_and_4_bytes_exits_with_the_value)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, port_writer, 0);
	static const struct {
		u16 port;
		u8 size;
		u32 value;
	} want[] = {
		{ TEST_PORT, 1, 0x5a },
		{ TEST_PORT + 2, 2, 0x1234 },
		{ 0xffff - 3, 4, 0x89abcdef },
	};

	for (int i = 0; i < 3; i++) {
		struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
		u32 value = 0;

		EXPECT_EQ(KVM_EXIT_IO_OUT, run->io.direction);
		EXPECT_EQ(want[i].port, run->io.port);
		EXPECT_EQ(want[i].size, run->io.size);
		EXPECT_EQ(1, run->io.count);
		memcpy(&value, io_data(run), want[i].size);
		EXPECT_EQ(want[i].value, value);
	}
	vcpu_run_to_done(vcpu);
}

static volatile u64 port_rax[3];

/* The upper bits that IN leaves alone, or (32-bit) clears. */
static void port_reader(u64 arg)
{
	u64 rax;

	(void)arg;
	rax = 0x1111222233334444;
	asm volatile("inb %%dx, %%al" : "+a"(rax) : "d"(TEST_PORT));
	port_rax[0] = rax;
	rax = 0x1111222233334444;
	asm volatile("inw %%dx, %%ax" : "+a"(rax) : "d"(TEST_PORT));
	port_rax[1] = rax;
	rax = 0x1111222233334444;
	asm volatile("inl %%dx, %%eax" : "+a"(rax) : "d"(TEST_PORT));
	port_rax[2] = rax;
}

TEST(in_of_1_2_and_4_bytes_fills_just_its_register)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, port_reader, 0);
	const u32 value = 0xa1b2c3d4;

	for (int size = 1; size <= 4; size *= 2) {
		struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);

		EXPECT_EQ(KVM_EXIT_IO_IN, run->io.direction);
		EXPECT_EQ(size, run->io.size);
		EXPECT_EQ(1, run->io.count);
		memcpy(io_data(run), &value, size);
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x11112222333344d4, port_rax[0]);
	EXPECT_EQ(0x111122223333c3d4, port_rax[1]);
	EXPECT_EQ(0xa1b2c3d4, port_rax[2]);
}

static void in_then_stage(u64 arg)
{
	(void)arg;
	stage(inb(TEST_PORT));
	stage(inb(TEST_PORT));
}

TEST(a_port_access_is_completed_once)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, in_then_stage, 0);

	*io_data(vcpu_run_to_exit(vcpu, KVM_EXIT_IO)) = 0x11;
	vcpu_finish_exit(vcpu);
	/* Already read: neither another value nor a second step over it. */
	*io_data(vcpu->run) = 0x22;
	vcpu_finish_exit(vcpu);
	vcpu_run_to_stage(vcpu, 0x11);
	*io_data(vcpu_run_to_exit(vcpu, KVM_EXIT_IO)) = 0x33;
	vcpu_run_to_stage(vcpu, 0x33);
	vcpu_run_to_done(vcpu);
}

TEST(regs_set_after_a_port_exit_stay_when_no_access_is_open)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, count_stages, 0);
	struct kvm_regs regs;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &regs);
	regs.rip = (u64)in_then_stage;
	vcpu_set_regs(vcpu, &regs);
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(TEST_PORT, vcpu->run->io.port);
}

static u8 string_data[4096 * 3] __attribute__((aligned(4096)));

struct string_op {
	u64 addr, count;
	bool down;
	volatile u64 addr_after, count_after;
};

static void outs_guest(u64 arg)
{
	struct string_op *op = (struct string_op *)arg;
	u64 rsi = op->addr, rcx = op->count;

	if (op->down)
		asm volatile("std");
	asm volatile("rep outsw" : "+S"(rsi), "+c"(rcx) : "d"(TEST_PORT) : "memory");
	asm volatile("cld");
	op->addr_after = rsi;
	op->count_after = rcx;
}

static void ins_guest(u64 arg)
{
	struct string_op *op = (struct string_op *)arg;
	u64 rdi = op->addr, rcx = op->count;

	if (op->down)
		asm volatile("std");
	asm volatile("rep insl" : "+D"(rdi), "+c"(rcx) : "d"(TEST_PORT) : "memory");
	asm volatile("cld");
	op->addr_after = rdi;
	op->count_after = rcx;
}

/* Collects what exits say; the device may split the run where it likes. */
static u32 collect_outs(struct vcpu *vcpu, u16 *to, u32 room)
{
	u32 n = 0;

	while (vcpu_step(vcpu) == EVENT_EXIT) {
		struct kvm_run *run = vcpu->run;

		ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
		ASSERT_EQ(KVM_EXIT_IO_OUT, run->io.direction);
		ASSERT_EQ(2, run->io.size);
		ASSERT_LE(n + run->io.count, room);
		memcpy(to + n, io_data(run), run->io.count * 2);
		n += run->io.count;
	}
	return n;
}

TEST(rep_outs_upwards_gives_every_element_in_order)
{
	static struct string_op op;
	static u16 seen[2048];
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, outs_guest, (u64)&op);

	for (u32 i = 0; i < sizeof(string_data) / 2; i++)
		((u16 *)string_data)[i] = i * 7;
	/* Across two page borders. */
	op.addr = (u64)string_data + 4000;
	op.count = 2048;
	ASSERT_EQ(2048, collect_outs(vcpu, seen, 2048));
	for (u32 i = 0; i < 2048; i++)
		ASSERT_EQ((u16)((2000 + i) * 7), seen[i]);
	EXPECT_EQ(op.addr + 4096, op.addr_after);
	EXPECT_EQ(0, op.count_after);
}

TEST(rep_outs_downwards_gives_every_element_in_order)
{
	static struct string_op op = { .down = true };
	static u16 seen[300];
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, outs_guest, (u64)&op);

	for (u32 i = 0; i < sizeof(string_data) / 2; i++)
		((u16 *)string_data)[i] = i * 7;
	op.addr = (u64)string_data + 4200;
	op.count = 300;
	ASSERT_EQ(300, collect_outs(vcpu, seen, 300));
	for (u32 i = 0; i < 300; i++)
		ASSERT_EQ((u16)((2100 - i) * 7), seen[i]);
	EXPECT_EQ(op.addr - 600, op.addr_after);
	EXPECT_EQ(0, op.count_after);
}

static u32 feed_ins(struct vcpu *vcpu)
{
	u32 n = 0;

	while (vcpu_step(vcpu) == EVENT_EXIT) {
		struct kvm_run *run = vcpu->run;

		ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
		ASSERT_EQ(KVM_EXIT_IO_IN, run->io.direction);
		ASSERT_EQ(4, run->io.size);
		for (u32 i = 0; i < run->io.count; i++) {
			u32 value = 0x1000000 + n++;

			memcpy(io_data(run) + i * 4, &value, 4);
		}
	}
	return n;
}

TEST(rep_ins_fills_memory_in_both_directions)
{
	static struct string_op op;
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, ins_guest, (u64)&op);
	u32 *data = (u32 *)string_data;

	op.addr = (u64)&data[1000];
	op.count = 1200;
	ASSERT_EQ(1200, feed_ins(vcpu));
	for (u32 i = 0; i < 1200; i++)
		ASSERT_EQ(0x1000000 + i, data[1000 + i]);
	EXPECT_EQ(0, data[999]);
	EXPECT_EQ(0, data[2200]);
	EXPECT_EQ((u64)&data[2200], op.addr_after);

	memset(string_data, 0, sizeof(string_data));
	op.down = true;
	op.count = 50;
	vcpu_set_guest(vcpu, ins_guest, (u64)&op);
	ASSERT_EQ(50, feed_ins(vcpu));
	for (u32 i = 0; i < 50; i++)
		ASSERT_EQ(0x1000000 + i, data[1000 - i]);
	EXPECT_EQ(0, data[950]);
	EXPECT_EQ((u64)&data[950], op.addr_after);
	EXPECT_EQ(0, op.count_after);
}

static void ins_to_0(u64 arg)
{
	u64 count = 3, to = 0;

	(void)arg;
	asm volatile("rep insb" : "+c"(count), "+D"(to) : "d"(0x10) : "memory");
	GUEST_EQ(0, count);
	GUEST_EQ(3, to);
}

TEST(rep_ins_reaches_address_0)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, ins_to_0, 0);
	struct kvm_run *run = vcpu->run;

	for (u32 n = 0; n < 3; n += run->io.count) {
		vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
		ASSERT_LT(0, run->io.count);
		memset(io_data(run), 0x77, run->io.count);
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0, memcmp(vm->low, "\x77\x77\x77", 4));
}

TEST(rep_with_count_0_touches_no_port)
{
	static struct string_op op;
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, outs_guest, (u64)&op);

	op.addr = (u64)string_data;
	op.count_after = 99;
	vcpu_run_to_done(vcpu);
	EXPECT_EQ((u64)string_data, op.addr_after);
	EXPECT_EQ(0, op.count_after);
}

static volatile u64 fault_vector, fault_cr2;

static void outs_from_unmapped(u64 arg)
{
	u64 rsi = GUEST_UNMAPPED;

	(void)arg;
	fault_vector = GUEST_TRY("outsb", "+S"(rsi) : "d"(TEST_PORT));
	fault_cr2 = guest_caught.cr2;
}

TEST(outs_from_an_unmapped_page_is_a_page_fault_in_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, outs_from_unmapped, 0);

	vcpu_run_to_done(vcpu);
	EXPECT_EQ(VEC_PF, fault_vector);
	EXPECT_EQ(GUEST_UNMAPPED, fault_cr2);
}

/* --- MMIO --- */

static void mmio_writer(u64 arg)
{
	(void)arg;
	asm volatile("movb $0x11, (%0)\n\t"
		     "movw $0x2222, 2(%0)\n\t"
		     "movl $0x33333333, 4(%0)\n\t"
		     "movq %1, 8(%0)\n\t"
		     :: "r"(MMIO_GPA), "r"(0x4444444455555555) : "memory");
}

TEST(mmio_writes_of_1_2_4_and_8_bytes_exit_with_the_value)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_writer, 0);
	static const struct {
		u32 offset, size;
		u64 value;
	} want[] = {
		{ 0, 1, 0x11 }, { 2, 2, 0x2222 }, { 4, 4, 0x33333333 },
		{ 8, 8, 0x4444444455555555 },
	};

	for (int i = 0; i < 4; i++) {
		struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
		u64 value = 0;

		EXPECT_EQ(1, run->mmio.is_write);
		EXPECT_EQ(MMIO_GPA + want[i].offset, run->mmio.phys_addr);
		EXPECT_EQ(want[i].size, run->mmio.len);
		memcpy(&value, run->mmio.data, want[i].size);
		EXPECT_EQ(want[i].value, value);
	}
	vcpu_run_to_done(vcpu);
}

static volatile u64 mmio_seen[8];

static void mmio_reader(u64 arg)
{
	u64 a, b, c, d, e, f;

	(void)arg;
	a = b = c = d = e = f = 0x1111222233334444;
	asm volatile("movb (%6), %b0\n\t"
		     "movw (%6), %w1\n\t"
		     "movl (%6), %k2\n\t"
		     "movq (%6), %3\n\t"
		     "movzbl (%6), %k4\n\t"
		     "movsbq (%6), %5\n\t"
		     : "+&r"(a), "+&r"(b), "+&r"(c), "+&r"(d), "+&r"(e), "+&r"(f)
		     : "r"(MMIO_GPA));
	mmio_seen[0] = a;
	mmio_seen[1] = b;
	mmio_seen[2] = c;
	mmio_seen[3] = d;
	mmio_seen[4] = e;
	mmio_seen[5] = f;
}

TEST(mmio_reads_fill_just_their_register)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_reader, 0);
	static const u32 sizes[] = { 1, 2, 4, 8, 1, 1 };
	const u64 value = 0x8877665544332290;

	for (int i = 0; i < 6; i++) {
		struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

		EXPECT_EQ(0, run->mmio.is_write);
		EXPECT_EQ(MMIO_GPA, run->mmio.phys_addr);
		EXPECT_EQ(sizes[i], run->mmio.len);
		memcpy(run->mmio.data, &value, 8);
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x1111222233334490, mmio_seen[0]);
	EXPECT_EQ(0x1111222233332290, mmio_seen[1]);
	EXPECT_EQ(0x44332290, mmio_seen[2]);
	EXPECT_EQ(value, mmio_seen[3]);
	EXPECT_EQ(0x90, mmio_seen[4]);
	EXPECT_EQ((u64)-0x70, mmio_seen[5]);
}

static void mmio_crossing(u64 arg)
{
	u64 value;

	(void)arg;
	asm volatile("movq (%1), %0" : "=r"(value) : "r"(MMIO_GPA + 4096 - 4));
	mmio_seen[0] = value;
	asm volatile("movl %0, (%1)" :: "r"(0xddccbbaa),
		     "r"(MMIO_GPA + 4096 - 1) : "memory");
}

/* Serves one access, in as many exits as it takes, from or to bytes[]. */
static void serve_split(struct vcpu *vcpu, u64 gpa, u8 *bytes, u32 size,
			bool write)
{
	u32 done = 0;

	while (done < size) {
		struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

		ASSERT_EQ(write, run->mmio.is_write);
		ASSERT_EQ(gpa + done, run->mmio.phys_addr);
		ASSERT_LE(done + run->mmio.len, size);
		/* No exit spans two pages. */
		ASSERT_EQ((gpa + done) / 4096,
			  (gpa + done + run->mmio.len - 1) / 4096);
		if (write)
			memcpy(bytes + done, run->mmio.data, run->mmio.len);
		else
			memcpy(run->mmio.data, bytes + done, run->mmio.len);
		done += run->mmio.len;
	}
}

TEST(mmio_across_a_page_border_is_split_and_joined)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_crossing, 0);
	u8 bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	serve_split(vcpu, MMIO_GPA + 4096 - 4, bytes, 8, false);
	serve_split(vcpu, MMIO_GPA + 4096 - 1, bytes, 4, true);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x0807060504030201, mmio_seen[0]);
	EXPECT_EQ(0xaa, bytes[0]);
	EXPECT_EQ(0xbb, bytes[1]);
	EXPECT_EQ(0xcc, bytes[2]);
	EXPECT_EQ(0xdd, bytes[3]);
}

/* The carry goes from one half to the other. */
static void add_across(u64 addr)
{
	u64 old = 1;

	asm volatile("lock; xaddl %k0, (%1)" : "+r"(old) : "r"(addr) : "memory", "cc");
	mmio_seen[0] = old;
}

/* Four bytes at addr, of which half is memory and half is not. */
static void check_add_across(u64 addr, u16 device_read, u16 device_written, u16 memory_before,
			     u16 memory_after)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, add_across, addr);
	bool device_first = addr < TEST_GPA;
	u8 *memory = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	u8 *half = memory + (device_first ? 0 : PAGE_SIZE - 2);
	u64 gpa = device_first ? addr : TEST_GPA + PAGE_SIZE;
	u16 written = 0;

	memcpy(half, &memory_before, 2);
	serve_split(vcpu, gpa, (u8 *)&device_read, 2, false);
	serve_split(vcpu, gpa, (u8 *)&written, 2, true);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(device_written, written);
	EXPECT_EQ(memory_after, *(u16 *)half);
	EXPECT_EQ(device_first ? device_read | (u32)memory_before << 16 :
				 memory_before | (u32)device_read << 16,
		  mmio_seen[0]);
}

TEST(an_access_across_the_border_of_memory_changes_each_half_once)
{
	check_add_across(TEST_GPA + PAGE_SIZE - 2, 0x41, 0x42, 0xffff, 0);
	check_add_across(TEST_GPA - 2, 0xffff, 0, 0x41, 0x42);
}

static void mmio_rmw(u64 arg)
{
	u64 flags;

	(void)arg;
	asm volatile("orl $0x80, (%0)" :: "r"(MMIO_GPA) : "memory", "cc");
	asm volatile("testl $0x40, (%1)\n\tpushfq\n\tpopq %0"
		     : "=r"(flags) : "r"(MMIO_GPA) : "cc");
	mmio_seen[0] = flags;
	asm volatile("addl $1, (%1)\n\tpushfq\n\tpopq %0"
		     : "=r"(flags) : "r"(MMIO_GPA) : "memory", "cc");
	mmio_seen[1] = flags;
}

static u32 mmio_cell_read(struct vcpu *vcpu, u32 value)
{
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

	ASSERT_EQ(0, run->mmio.is_write);
	memcpy(run->mmio.data, &value, 4);
	return run->mmio.len;
}

static u32 mmio_cell_written(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	u32 value;

	ASSERT_EQ(1, run->mmio.is_write);
	ASSERT_EQ(4, run->mmio.len);
	memcpy(&value, run->mmio.data, 4);
	return value;
}

TEST(mmio_read_modify_write_keeps_value_and_flags)
{
	const u64 zf = 1 << 6, cf = 1 << 0;
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_rmw, 0);

	mmio_cell_read(vcpu, 0x12);
	EXPECT_EQ(0x92, mmio_cell_written(vcpu));
	mmio_cell_read(vcpu, 0x3f);
	mmio_cell_read(vcpu, 0xffffffff);
	EXPECT_EQ(0, mmio_cell_written(vcpu));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(zf, mmio_seen[0] & (zf | cf));
	EXPECT_EQ(zf | cf, mmio_seen[1] & (zf | cf));
}

static void mmio_shifts(u64 arg)
{
	u64 flags;

	(void)arg;
	asm volatile("stc; rcll %%cl, (%1); pushfq; popq %0"
		     : "=r"(flags) : "r"(MMIO_GPA), "c"(4) : "memory", "cc");
	mmio_seen[0] = flags;
	asm volatile("shrdl $8, %0, (%1)" :: "r"(0xab), "r"(MMIO_GPA) : "memory", "cc");
}

TEST(mmio_is_shifted_and_rotated)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_shifts, 0);

	mmio_cell_read(vcpu, 0x12345678);
	EXPECT_EQ(0x23456788, mmio_cell_written(vcpu));	/* the carry, and the upper bits but one */
	mmio_cell_read(vcpu, 0x12345678);
	EXPECT_EQ(0xab123456, mmio_cell_written(vcpu));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(1, mmio_seen[0] & 1);
}

static u32 copy_to[8], copy_from[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

static void mmio_string(u64 arg)
{
	u64 rsi = (u64)copy_from, rdi = MMIO_GPA, rcx = 4;

	(void)arg;
	asm volatile("rep movsl" : "+S"(rsi), "+D"(rdi), "+c"(rcx) :: "memory");
	rsi = MMIO_GPA;
	rdi = (u64)copy_to;
	rcx = 4;
	asm volatile("rep movsl" : "+S"(rsi), "+D"(rdi), "+c"(rcx) :: "memory");
	rdi = MMIO_GPA;
	rcx = 3;
	asm volatile("rep stosl" : "+D"(rdi), "+c"(rcx) : "a"(0x77) : "memory");
	mmio_seen[0] = rdi;
	mmio_seen[1] = rcx;
}

TEST(mmio_by_string_instructions_moves_every_element)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_string, 0);
	u32 words[4] = { 0 };

	serve_split(vcpu, MMIO_GPA, (u8 *)words, 16, true);
	EXPECT_EQ(0, memcmp(words, copy_from, 16));
	words[0] = 0xabcd;
	serve_split(vcpu, MMIO_GPA, (u8 *)words, 16, false);
	for (int i = 0; i < 3; i++)
		EXPECT_EQ(0x77, mmio_cell_written(vcpu));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0, memcmp(words, copy_to, 16));
	EXPECT_EQ(MMIO_GPA + 12, mmio_seen[0]);
	EXPECT_EQ(0, mmio_seen[1]);
}

static void mmio_vector(u64 arg)
{
	u32 *const cross = (u32 *)(MMIO_GPA + 4096 - 8);

	(void)arg;
	asm volatile("movdqu %0, %%xmm3\n\tmovaps %%xmm3, (%1)\n\tmovups %%xmm3, (%2)"
		     :: "m"(*(u32 (*)[4])copy_from), "r"(MMIO_GPA), "r"(cross) : "memory");
	asm volatile("movdqa (%1), %%xmm9\n\tmovdqu %%xmm9, (%0)\n\tmovss (%1), %%xmm9\n\tmovdqu %%xmm9, 16(%0)"
		     :: "r"(copy_to), "r"(MMIO_GPA) : "memory");
	mmio_seen[0] = GUEST_TRY("movaps %%xmm3, (%0)", : "r"(cross) : "memory");
}

/* As memory is copied to a frame buffer that is a device. */
TEST(mmio_by_vector_registers_moves_16_bytes)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_vector, 0);
	u32 words[4] = { 0 };

	serve_split(vcpu, MMIO_GPA, (u8 *)words, 16, true);
	EXPECT_EQ(0, memcmp(words, copy_from, 16));
	memset(words, 0, 16);
	serve_split(vcpu, MMIO_GPA + 4096 - 8, (u8 *)words, 16, true);
	EXPECT_EQ(0, memcmp(words, copy_from, 16));
	words[0] = 0xabcd;
	serve_split(vcpu, MMIO_GPA, (u8 *)words, 16, false);
	mmio_cell_read(vcpu, 0x1234);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0, memcmp(words, copy_to, 16));
	EXPECT_EQ(0x1234, copy_to[4]);
	EXPECT_EQ(0, copy_to[5] | copy_to[6] | copy_to[7]);
	EXPECT_EQ(VEC_GP, mmio_seen[0]);
}

static void mmio_push(u64 arg)
{
	u64 value;

	(void)arg;
	asm volatile("pushq (%1)\n\tpopq %0" : "=r"(value) : "r"(MMIO_GPA) : "memory");
	mmio_seen[0] = value;
}

/* So a known 32-bit system reads its TPR. */
TEST(mmio_is_pushed_on_the_stack)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mmio_push, 0);
	const u64 value = 0x8877665544332290;
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

	EXPECT_EQ(0, run->mmio.is_write);
	EXPECT_EQ(8, run->mmio.len);
	memcpy(run->mmio.data, &value, 8);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(value, mmio_seen[0]);
}

/* x87 state saved to MMIO: no VMM's emulator is asked to do that. */
static void undecodable_mmio(u64 arg)
{
	(void)arg;
	asm volatile("paddb (%0), %%mm0" :: "r"(MMIO_GPA) : "memory");
}

TEST(an_mmio_instruction_that_cannot_be_emulated_is_an_internal_error)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, undecodable_mmio, 0);
	struct kvm_run *run;
	struct kvm_regs regs;

	run = vcpu_run_to_exit(vcpu, KVM_EXIT_INTERNAL_ERROR);
	EXPECT_EQ(KVM_INTERNAL_ERROR_EMULATION, run->internal.suberror);
	vcpu_get_regs(vcpu, &regs);
	if (run->internal.ndata >= 1 &&
	    run->emulation_failure.flags &
	    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
		u8 size = run->emulation_failure.insn_size;

		EXPECT_LE(2, size);
		EXPECT_LE(size, 15);
		EXPECT_EQ(0, memcmp(run->emulation_failure.insn_bytes,
				    (void *)regs.rip, 2));
	} else {
		/* mkvm always gives the bytes; KVM where a decoder filled them. */
		EXPECT_TRUE(is_linux_kvm());
	}
}

static volatile u64 user_rip, user_rax;

/* From #UD or #GP in user mode: what it had, and out of the guest. */
static void leave_user(struct guest_frame *frame)
{
	user_rip = frame->rip;
	user_rax = frame->rax;
	frame->rip = (u64)guest_return;
	frame->cs = SEL_CODE64;
	frame->ss = SEL_DATA;
	frame->rsp = (u64)guest_stacks[2];
}

/* The guest's last act: runs code with arg in RDI, in user mode, until it faults. */
static void enter_user(const void *code, u64 arg)
{
	guest_handlers[VEC_UD] = leave_user;
	guest_handlers[VEC_GP] = leave_user;
	*(u64 *)(guest_tss[0] + 4) = (u64)guest_stacks[3];
	asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq %3\n\t"
		     "iretq"
		     :: "r"((u64)SEL_USER_DATA), "r"((u64)guest_stacks[5]),
		     "r"((u64)SEL_USER_CODE), "r"(code), "D"(arg) : "memory");
}

static void user_fails_guest(u64 arg)
{
	static const u8 paddb[] = { 0x0f, 0xfc, 0x07 };	/* (%rdi), %mm0 */

	(void)arg;
	enter_user(paddb, MMIO_GPA);
}

TEST(what_cannot_be_emulated_in_user_mode_is_ud_or_told_on_request)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, user_fails_guest, 0);
	struct kvm_regs regs;

	NEED_CAP(KVM_CAP_EXIT_ON_EMULATION_FAILURE);
	vcpu_run_to_done(vcpu);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2));
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1));
	vcpu_set_guest(vcpu, user_fails_guest, 0);
	EXPECT_EQ(KVM_INTERNAL_ERROR_EMULATION,
		  vcpu_run_to_exit(vcpu, KVM_EXIT_INTERNAL_ERROR)->internal.suberror);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0xfc0f, *(u16 *)regs.rip);
}

/* --- Hypercalls --- */

/* In RAM that Linux KVM can patch: it makes a VMMCALL of it. */
static u64 vmcall_at(u8 *p, u64 nr)
{
	static const u8 code[] = { 0x0f, 0x01, 0xc1, 0xc3 };

	for (u32 i = 0; i < sizeof(code); i++)
		p[i] = code[i];
	asm volatile("call *%1" : "+a"(nr) : "r"(p) : "memory");
	return nr;
}

static void hypercalls(u64 arg)
{
	u8 *code = (u8 *)CODE_GPA;
	u64 nr = 1000;

	(void)arg;
	asm volatile("vmmcall" : "+a"(nr));
	GUEST_EQ(-1000, nr);			/* KVM_ENOSYS */
	GUEST_EQ(-1000, vmcall_at(code, 1000));
	GUEST_EQ(VEC_UD, GUEST_TRY("ud2", "+m"(user_rax)));
	/* no VMCALL: LOCK before a MOV of a number that ends like one */
	GUEST_EQ(VEC_UD, GUEST_TRY(".byte 0xf0; movl $0xc1010f00, %0", "+m"(user_rax)));
	code[3] = 0xf4;				/* HLT is #GP */
	enter_user(code, 0);
}

TEST(vmcall_is_a_hypercall_as_vmmcall_is_and_user_mode_has_none)
{
	vcpu_run_to_done(vcpu_add(vm_create(0), hypercalls, 0));
	EXPECT_EQ(-1, user_rax);		/* KVM_EPERM */
}

#define MSR_PLATFORM_INFO 0xce
#define MSR_MISC_FEATURES 0x140
#define CPUID_CAN_FAULT (1ull << 31)

static void user_cpuid(u64 faults)
{
	static const u8 cpuid_hlt[] = { 0x0f, 0xa2, 0xf4 };

	for (u32 i = 0; i < sizeof(cpuid_hlt); i++)
		((volatile u8 *)CODE_GPA)[i] = cpuid_hlt[i];
	wrmsr(MSR_MISC_FEATURES, faults);
	asm volatile("cpuid" :: "a"(0), "c"(0) : "rbx", "rdx");
	enter_user((void *)CODE_GPA, 0);
}

TEST(cpuid_faults_in_user_mode_where_the_guest_wants_it)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), user_cpuid, 0);

	vcpu_run_to_done(vcpu);
	EXPECT_EQ(CODE_GPA + 2, user_rip);	/* the HLT */
	vcpu_set_guest(vcpu, user_cpuid, 1);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(CODE_GPA, user_rip);
	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_PLATFORM_INFO, 0));		/* they fault now */
	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_MISC_FEATURES, 2));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_MISC_FEATURES, 0));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_PLATFORM_INFO, 0));
	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_MISC_FEATURES, 1));
}

static void read_platform_info(u64 arg)
{
	u32 low, high;

	(void)arg;
	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MSR_PLATFORM_INFO));
	stage(low >> 31);
	GUEST_EQ(VEC_GP, GUEST_TRY("wrmsr", : "a"(low), "d"(high), "c"(MSR_PLATFORM_INFO)));
	GUEST_EQ(VEC_GP, GUEST_TRY("rdmsr", "=a"(low), "=d"(high) : "c"(MSR_PLATFORM_INFO)));
}

TEST(platform_info_can_be_hidden_from_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, read_platform_info, 0);

	NEED_CAP(KVM_CAP_MSR_PLATFORM_INFO);
	EXPECT_EQ(CPUID_CAN_FAULT, vcpu_get_msr(vcpu, MSR_PLATFORM_INFO));
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_MSR_PLATFORM_INFO, 0));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(CPUID_CAN_FAULT, vcpu_get_msr(vcpu, MSR_PLATFORM_INFO));
}

/* --- HLT and shutdown without an interrupt controller --- */

static void halt_then_stage(u64 arg)
{
	(void)arg;
	asm volatile("hlt");
	stage(7);
}

TEST(hlt_without_irqchip_exits)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, halt_then_stage, 0);

	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
	/* The instruction is done: the next KVM_RUN goes on behind it. */
	vcpu_run_to_stage(vcpu, 7);
}

static void triple_fault(u64 arg)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) none = { 0, 0 };

	(void)arg;
	asm volatile("lidt %0; ud2" :: "m"(none));
}

TEST(a_triple_fault_is_a_shutdown_exit)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, triple_fault, 0);

	vcpu_run_to_exit(vcpu, KVM_EXIT_SHUTDOWN);
}

/* --- Exceptions inside of the guest --- */

static struct {
	u64 vector, error, cr2;
} faults[8];

static void note_fault(int i, u64 vector)
{
	faults[i].vector = vector;
	faults[i].error = guest_caught.error;
	faults[i].cr2 = guest_caught.cr2;
}

static void exceptions_guest(u64 arg)
{
	u64 scratch;
	u32 one = 1;

	(void)arg;
	note_fault(0, GUEST_TRY("ud2"));
	note_fault(1, GUEST_TRY("mov (%1), %0",
				"=r"(scratch) : "r"(1ull << 63)));
	note_fault(2, GUEST_TRY("mov (%1), %0",
				"=r"(scratch) : "r"(GUEST_UNMAPPED + 8)));
	note_fault(3, GUEST_TRY("movb $1, (%1)",
				"=r"(scratch) : "r"(GUEST_UNMAPPED + 16)));
	note_fault(4, GUEST_TRY("div %1", "+a"(one) : "r"(0), "d"(0) : "cc"));
	note_fault(5, GUEST_TRY("int3"));
	note_fault(6, GUEST_TRY("mov %w1, %%ds", "=r"(scratch) : "r"(0x50)));
}

TEST(exceptions_reach_the_guest_with_error_code_and_cr2)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, exceptions_guest, 0);

	vcpu_run_to_done(vcpu);
	EXPECT_EQ(VEC_UD, faults[0].vector);
	EXPECT_EQ(VEC_GP, faults[1].vector);
	EXPECT_EQ(0, faults[1].error);
	EXPECT_EQ(VEC_PF, faults[2].vector);
	EXPECT_EQ(0, faults[2].error);
	EXPECT_EQ(GUEST_UNMAPPED + 8, faults[2].cr2);
	EXPECT_EQ(VEC_PF, faults[3].vector);
	EXPECT_EQ(2, faults[3].error);
	EXPECT_EQ(GUEST_UNMAPPED + 16, faults[3].cr2);
	EXPECT_EQ(VEC_DE, faults[4].vector);
	EXPECT_EQ(VEC_BP, faults[5].vector);
	EXPECT_EQ(VEC_GP, faults[6].vector);
	EXPECT_EQ(0x50, faults[6].error);
}

/* --- Modes --- */

CODE_BLOB(real_code, 16,
	  "movw $0x1234, %ax\n"
	  "movw $0x2000, %bx\n"
	  "movw %bx, %ds\n"
	  "movw %ax, 0x10\n"		/* linear 0x20010 */
	  "pushw %ax\n"
	  "popw %cx\n"
	  "movw $0x3f8, %dx\n"
	  "movw %cx, %ax\n"
	  "outw %ax, %dx\n"
	  "int $0x40\n"
	  "outb %al, %dx\n"
	  "hlt\n");

CODE_BLOB(real_int40, 16,
	  "movb $0x99, %al\n"
	  "iretw\n");

TEST(real_mode_runs_with_segments_stack_and_interrupts)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	const u16 vector40[2] = { 0xa000, 0 };
	struct kvm_run *run;

	vm_load(vm, CODE_GPA, real_code, real_code_end);
	vm_load(vm, 0xa000, real_int40, real_int40_end);
	vm_load(vm, 0x40 * 4, vector40, vector40 + 2);
	vcpu_set_real(vcpu, CODE_GPA);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(2, run->io.size);
	EXPECT_EQ(0x34, io_data(run)[0]);
	EXPECT_EQ(0x12, io_data(run)[1]);
	EXPECT_EQ(0x34, vm->low[0x20010]);
	EXPECT_EQ(0x12, vm->low[0x20011]);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(0x99, io_data(run)[0]);
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
}

/* DS keeps the 4 GiB limit it got in protected mode. */
CODE_BLOB(big_real_code, 16,
	  "movl $0x300000, %ebx\n"
	  "movl $0xdeadbeef, %eax\n"
	  "movl %eax, (%ebx)\n"
	  "movl $0xd0000000, %ebx\n"
	  "movl %eax, (%ebx)\n"	/* MMIO_GPA */
	  "movw (%ebx), %cx\n"
	  "hlt\n");

TEST(big_real_mode_reaches_memory_and_mmio_over_1_mib)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_sregs sregs;
	struct kvm_run *run;
	struct kvm_regs regs;

	vm_load(vm, CODE_GPA, big_real_code, big_real_code_end);
	vcpu_set_real(vcpu, CODE_GPA);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.ds.limit = 0xffffffff;
	sregs.ds.g = 1;
	vcpu_set_sregs(vcpu, &sregs);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(0xef, vm->low[0x300000]);
	EXPECT_EQ(0xde, vm->low[0x300003]);
	EXPECT_EQ(MMIO_GPA, run->mmio.phys_addr);
	EXPECT_EQ(4, run->mmio.len);
	EXPECT_EQ(0xef, run->mmio.data[0]);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(0, run->mmio.is_write);
	EXPECT_EQ(2, run->mmio.len);
	run->mmio.data[0] = 0x21;
	run->mmio.data[1] = 0x43;
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0x4321, regs.rcx & 0xffff);
}

CODE_BLOB(high_real_code, 16,
	  "movl %cr4, %eax\n"
	  "movl %eax, %cr4\n"		/* emulated */
	  "movl $0xd0000000, %ebx\n"
	  "movl %eax, (%ebx)\n"	/* MMIO_GPA */
	  "cpuid\n"
	  "hlt\n");

/* As an SMI's handler that turns to protected mode: EIP is no 16-bit register. */
TEST(code_of_16_bits_runs_beyond_64_kib)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vm_load(vm, 0x12300, high_real_code, high_real_code_end);
	vcpu_set_real(vcpu, 0);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.ds.limit = sregs.cs.limit = 0xffffffff;
	sregs.ds.g = sregs.cs.g = 1;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_get_regs(vcpu, &regs);
	regs.rip = 0x12300;
	vcpu_set_regs(vcpu, &regs);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0x12300 + (high_real_code_end - high_real_code), regs.rip);
}

CODE_BLOB(flat32_code, 32,
	  "movl $0x12345678, %eax\n"
	  "pushl %eax\n"
	  "popl %ecx\n"
	  "movl %ecx, 0x300000\n"
	  "movl %ecx, 0xd0000000\n"
	  "movl $0x3f8, %edx\n"
	  "outl %eax, %dx\n"
	  "hlt\n");

TEST(flat_32_bit_protected_mode_runs)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_run *run;
	u32 value;

	vm_load(vm, CODE_GPA, flat32_code, flat32_code_end);
	vcpu_set_flat32(vcpu, CODE_GPA);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(MMIO_GPA, run->mmio.phys_addr);
	EXPECT_EQ(4, run->mmio.len);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	memcpy(&value, io_data(run), 4);
	EXPECT_EQ(0x12345678, value);
	memcpy(&value, vm->low + 0x300000, 4);
	EXPECT_EQ(0x12345678, value);
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
}

/* A far jump to a task-state segment; the new task begins 16 bytes on. */
CODE_BLOB(task_switch_code, 32,
	  "ljmp $0x30, $0\n"
	  ".balign 16\n"
	  "hlt\n");

#define TASKS_GPA 0x310000

/* Intel leaves the work to the hypervisor: taskswitch.c has more of it. */
TEST(a_task_switch_by_a_jump_is_made)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	const u64 gdt[] = {
		0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0,
		0x00008b0000000067 | TASKS_GPA % 0x1000000ull << 16,
		0x0000890000000067 | (TASKS_GPA + 0x100) % 0x1000000ull << 16,
	};
	u32 *tss = (void *)(vm->low + TASKS_GPA + 0x100);
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vm_load(vm, CODE_GPA, task_switch_code, task_switch_code_end);
	memcpy(vm->low + TASKS_GPA + 0x200, gdt, sizeof(gdt));
	tss[8] = CODE_GPA + 16;		/* EIP, EFLAGS, EAX */
	tss[9] = RFLAGS_FIXED;
	tss[10] = 0x1234;
	tss[19] = 0x08;			/* CS */
	tss[18] = tss[20] = tss[21] = 0x10;
	vcpu_set_flat32(vcpu, CODE_GPA);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.gdt.base = TASKS_GPA + 0x200;
	sregs.gdt.limit = sizeof(gdt) - 1;
	sregs.tr = (struct kvm_segment){
		.base = TASKS_GPA, .limit = 0x67, .selector = 0x28, .type = 11, .present = 1
	};
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(CODE_GPA + 17, regs.rip);
	EXPECT_EQ(0x1234, regs.rax);
}

/*
 * Reads a device with MOV, which the exit gives the address of, and fills one with MOVS,
 * which needs two walks.
 */
CODE_BLOB(paged32_code, 32,
	  "movl 0xd0000010, %eax\n"
	  "movl %eax, 0x300000\n"
	  "movl $0x300000, %esi\n"
	  "movl $0xd0000020, %edi\n"
	  "movsl\n"
	  "hlt\n");

#define TABLES 0x310000

static void paged32_runs(u32 cr4)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	const u32 value = 0x12345678;
	struct kvm_sregs sregs;
	struct kvm_run *run;

	vm_load(vm, CODE_GPA, paged32_code, paged32_code_end);
	vcpu_set_flat32(vcpu, CODE_GPA);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr3 = TABLES;
	sregs.cr4 |= cr4;
	sregs.cr0 |= CR0_PG;
	if (cr4 & CR4_PAE) {			/* 2 MiB pages */
		u64 *table = (u64 *)(vm->low + TABLES);

		table[0] = (TABLES + 0x1000) | 1;
		table[3] = (TABLES + 0x2000) | 1;
		table[512] = 0x83;
		table[513] = 0x200083;
		table[1024 + 128] = MMIO_GPA | 0x83;
	} else if (cr4 & CR4_PSE) {		/* 4 MiB pages */
		u32 *table = (u32 *)(vm->low + TABLES);

		table[0] = 0x83;
		table[832] = MMIO_GPA | 0x83;
	} else {
		u32 *table = (u32 *)(vm->low + TABLES);

		table[0] = (TABLES + 0x1000) | 3;
		table[832] = (TABLES + 0x2000) | 3;
		for (u32 i = 0; i < 1024; i++)
			table[1024 + i] = i << 12 | 3;
		table[2048] = MMIO_GPA | 3;
	}
	vcpu_set_sregs(vcpu, &sregs);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(MMIO_GPA + 0x10, run->mmio.phys_addr);
	EXPECT_EQ(0, run->mmio.is_write);
	memcpy(run->mmio.data, &value, 4);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(MMIO_GPA + 0x20, run->mmio.phys_addr);
	EXPECT_EQ(1, run->mmio.is_write);
	EXPECT_EQ(0, memcmp(run->mmio.data, &value, 4));
	vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
}

TEST(mmio_through_32_bit_page_tables_works)
{
	paged32_runs(0);
}

TEST(mmio_through_4_mib_pages_works)
{
	paged32_runs(CR4_PSE);
}

TEST(mmio_through_pae_page_tables_works)
{
	paged32_runs(CR4_PAE);
}

/* --- State over many exits, and several vCPUs --- */

static void keep_state(u64 arg)
{
	u64 a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;

	(void)arg;
	for (u32 i = 1; i <= 2000; i++) {
		asm volatile("outl %%eax, %%dx"
			     : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f)
			     : "a"(i), "d"(PORT_STAGE));
		a += i;
		b ^= a;
		c += b;
		d ^= c;
		e += d;
		f ^= e;
	}
	mmio_seen[0] = a ^ b ^ c ^ d ^ e ^ f;
}

TEST(register_state_is_kept_over_many_exits)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, keep_state, 0);
	u64 a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;

	for (u32 i = 1; i <= 2000; i++) {
		vcpu_run_to_stage(vcpu, i);
		a += i;
		b ^= a;
		c += b;
		d ^= c;
		e += d;
		f ^= e;
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(a ^ b ^ c ^ d ^ e ^ f, mmio_seen[0]);
}

/* The guest's and the host's XMM registers do not mix. */
static void xmm_guest(u64 arg)
{
	u64 low;

	asm volatile("movq %0, %%xmm0; movq %0, %%xmm7" :: "r"(arg));
	for (u32 i = 0; i < 200; i++) {
		stage(i);
		asm volatile("movq %%xmm0, %0" : "=r"(low));
		GUEST_EQ(arg, low);
		asm volatile("movq %%xmm7, %0" : "=r"(low));
		GUEST_EQ(arg, low);
	}
}

TEST(fpu_state_of_host_and_of_two_guests_stay_apart)
{
	struct vm *vm = vm_create(0);
	struct vcpu *a = vcpu_add(vm, xmm_guest, 0xaaaabbbbccccdddd);
	struct vcpu *b = vcpu_add(vm, xmm_guest, 0x1111222233334444);
	u64 host = 0x5555666677778888, seen;

	for (u32 i = 0; i < 200; i++) {
		asm volatile("movq %0, %%xmm7" :: "r"(host + i));
		ioctl(a->fd, KVM_RUN, 0);
		asm volatile("movq %%xmm7, %0" : "=r"(seen));
		ASSERT_EQ(host + i, seen);
		vcpu_run_to_stage(b, i);
	}
	vcpu_run_to_done(b);
}

#define COUNT_ROUNDS 300

static volatile u64 counters[GUEST_CPUS];

static void count_own(u64 arg)
{
	for (int i = 0; i < COUNT_ROUNDS; i++) {
		counters[arg]++;
		if (i % 50 == 0)
			stage(i);
	}
}

static void run_together(int n)
{
	struct vm *vm = vm_create(0);

	for (int i = 0; i < n; i++)
		vcpu_add(vm, count_own, i);
	for (int i = 0; i < n; i++)
		vcpu_start(vm->vcpus[i]);
	for (int i = 0; i < n; i++)
		vcpu_wait_done(vm->vcpus[i]);
	for (int i = 0; i < n; i++)
		EXPECT_EQ(COUNT_ROUNDS, counters[i]);
	EXPECT_EQ(0, counters[n]);
}

TEST(one_vcpu_counts)
{
	run_together(1);
}

TEST(two_vcpus_count_each_for_itself)
{
	run_together(2);
}

TEST(four_vcpus_count_each_for_itself)
{
	run_together(4);
}

TEST(eight_vcpus_count_each_for_itself)
{
	run_together(8);
}

static volatile u64 shared_counter;

static void count_shared(u64 arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++)
		__atomic_add_fetch(&shared_counter, 1, __ATOMIC_SEQ_CST);
}

TEST(atomic_operations_of_four_vcpus_add_up)
{
	struct vm *vm = vm_create(0);

	for (int i = 0; i < 4; i++)
		vcpu_start(vcpu_add(vm, count_shared, 0));
	for (int i = 0; i < 4; i++)
		vcpu_wait_done(vm->vcpus[i]);
	EXPECT_EQ(80000, shared_counter);
}
