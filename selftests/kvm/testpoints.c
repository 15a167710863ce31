// SPDX-License-Identifier: GPL-2.0
/*
 * Races made certain: the module holds a thread at a point (kmod/explain/testpoint.h), a vCPU's
 * inside KVM_RUN or one that takes memory away, while the test does what must not be lost or wait
 * there. Needs a module built with MKVM_TEST_POINTS=y.
 *
 * Read next: initsipi.c, events.c, memslots.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vm.h"

enum { /* as in kmod/explain/testpoint.h */
       POINT_HLT,
       POINT_BLOCK,
       POINT_EMULATE,
       POINT_REPLACE,
       POINT_WALK,
       POINT_SKIP,
       POINT_LOADED_MSR,
       POINT_ZAP,
       POINT_FREE,
       NR_POINTS
};

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

/* Holds who comes to one of these points, of which bits are set, from now on. */
static void hold_points(unsigned int points)
{
	int fd = open_parameter("test_hold", O_WRONLY), len = 0;
	char text[2 * NR_POINTS + 1];

	for (int i = 0; i < NR_POINTS; i++)
		len += sprintf(text + len, "%s%u", i ? "," : "", points >> i & 1);
	ASSERT_EQ(len, write(fd, text, len));
	close(fd);
}

/* Just this one; NR_POINTS: nobody. */
static void hold(int point)
{
	hold_points(point == NR_POINTS ? 0 : 1u << point);
}

static int held(int point)
{
	int fd = open_parameter("test_held", O_RDONLY);
	char text[16 * NR_POINTS] = "", *at = text;

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	while (point--) {
		at = strchr(at, ',');
		ASSERT_TRUE(at++ != NULL);
	}
	return atoi(at);
}

static void wait_held(int point, int before)
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
	wait_held(point, before);
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
	union {
		struct kvm_stats_desc desc;	/* a name behind it */
		char room[sizeof(struct kvm_stats_desc) + 128];
	} d;
	u64 value;

	ASSERT_OK(fd);
	ASSERT_EQ(sizeof(head), pread(fd, &head, sizeof(head), 0));
	for (u32 i = 0; i < head.num_desc; i++) {
		size_t size = sizeof(d.desc) + head.name_size;

		ASSERT_LE(size, sizeof(d));
		ASSERT_EQ(size, pread(fd, &d, size, head.desc_offset + i * size));
		if (strcmp(d.desc.name, "remote_tlb_flush"))
			continue;
		ASSERT_EQ(sizeof(value),
			  pread(fd, &value, sizeof(value), head.data_offset + d.desc.offset));
		close(fd);
		return value;
	}
	FAIL("there is no counter remote_tlb_flush");
}

/* Two slots of the same memory are there and mapped, a third is not mapped; the taker is held. */
static struct vcpu *take_and_hold(struct taker *t, int point)
{
	struct vcpu *vcpu;
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
	wait_held(point, before);
	return vcpu;
}

/* A thread is held for ten seconds (testpoint.c): what took less has not waited for it. */
static void expect_held(const struct taker *t)
{
	EXPECT_TRUE(!t->back);
	EXPECT_LT(ktap_now_ns() - t->since, 10000000000);
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

/* --- Code that changes between the intercept and the fetch --- */

#define TEST_PORT 0x1230u

static volatile u64 fault_vector, fault_rip;
static u8 tss[104 + TEST_PORT / 8 + 3] __attribute__((aligned(4096)));
static u8 buffer[64];
extern u8 user_outs[], mov_cr4[];

/* From the exception that ends user mode. */
static void leave_user(struct guest_frame *frame)
{
	fault_vector = frame->vector;
	fault_rip = frame->rip;
	frame->rip = (u64)guest_return;
	frame->cs = SEL_CODE64;
	frame->ss = SEL_DATA;
	frame->rsp = (u64)guest_stacks[2];
}

/* User mode, with IOPL 0: OUTSB to the one port that the TSS allows, then HLT, which it may not. */
static void outs_guest(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_GP] = guest_handlers[VEC_UD] = leave_user;
	asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq $user_outs\n\t"
		     "iretq\n"
		     "user_outs: outsb\n\t"
		     "nop; nop; nop\n\t"
		     "hlt"
		     :: "r"((u64)SEL_USER_DATA), "r"((u64)guest_stacks[5]), "r"((u64)SEL_USER_CODE),
		     "d"(TEST_PORT), "S"(buffer), "D"(buffer) : "memory");
}

static volatile u32 io_exits, io_size, io_direction;

static void note_io(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->exit_reason != KVM_EXIT_IO)
		FAIL("exit %u", run->exit_reason);
	io_exits++;
	io_size = run->io.size;
	io_direction = run->io.direction;
}

/* The guest's code is this program's. */
static void patch(u8 *code, const u8 *bytes, size_t len)
{
	u64 first = (u64)code & ~(PAGE_SIZE - 1), end = (u64)code + len;

	ASSERT_OK(mprotect((void *)first, end - first, PROT_READ | PROT_WRITE | PROT_EXEC));
	memcpy(code, bytes, len);
}

/* Its OUTSB has been intercepted, and becomes these bytes before they are fetched. */
static void outs_becomes(const u8 *bytes, size_t len)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), outs_guest, 0);
	struct kvm_sregs sregs;

	*(u64 *)(tss + 4) = (u64)guest_stacks[3];
	*(u16 *)(tss + 102) = 104;
	memset(tss + 104, 0xff, sizeof(tss) - 104);
	tss[104 + TEST_PORT / 8] &= ~(1 << TEST_PORT % 8);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.tr.base = (u64)tss;
	sregs.tr.limit = sizeof(tss) - 1;
	if (cpu_is_tcg())
		sregs.tr.type =
			/* its check of a bitmap fails in a TSS that is busy, as loaded ones are */
			9;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu->on_exit = note_io;
	start_and_hold(vcpu, POINT_EMULATE);
	patch(user_outs, bytes, len);
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
	EXPECT_EQ(VEC_GP, fault_vector);
}

TEST(an_outs_that_grows_after_its_intercept_reaches_no_other_port)
{
	outs_becomes((const u8 []) { 0x6f }, 1);		/* outsl */
	EXPECT_EQ(0, io_exits);
	EXPECT_EQ((u64)user_outs, fault_rip);
}

TEST(an_outs_that_becomes_an_ins_that_grows_reaches_no_port)
{
	outs_becomes((const u8 []) { 0x66, 0x6d }, 2);		/* insw */
	EXPECT_EQ(0, io_exits);
	EXPECT_EQ((u64)user_outs, fault_rip);
}

TEST(an_outs_that_becomes_another_instruction_is_that)
{
	outs_becomes((const u8 []) { 0x6c }, 1);		/* insb */
	EXPECT_EQ(1, io_exits);
	EXPECT_EQ(1, io_size);
	EXPECT_EQ(KVM_EXIT_IO_IN, io_direction);
	EXPECT_EQ((u64)user_outs + 4, fault_rip);
}

TEST(an_outs_that_becomes_what_nobody_emulates_is_that)
{
	outs_becomes((const u8 []) { 0x90 }, 1);
	EXPECT_EQ(0, io_exits);
	EXPECT_EQ((u64)user_outs + 4, fault_rip);
}

TEST(an_outs_that_stays_is_made_once)
{
	outs_becomes((const u8 []) { 0x6e }, 1);
	EXPECT_EQ(1, io_exits);
	EXPECT_EQ(1, io_size);
	EXPECT_EQ(KVM_EXIT_IO_OUT, io_direction);
	EXPECT_EQ((u64)user_outs + 4, fault_rip);
}

static void mov_cr4_guest(u64 arg)
{
	u64 value;

	(void)arg;
	asm volatile("movq %%cr4, %0\n"
		     "mov_cr4: movq %0, %%cr4" : "=&a"(value) :: "memory");
}

TEST(a_mov_to_cr4_that_becomes_another_instruction_is_that)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), mov_cr4_guest, 0);

	if (cpu_is_intel())
		SKIP("the CPU runs a MOV to CR4 itself, or tells all that there is to know of it");
	start_and_hold(vcpu, POINT_EMULATE);
	patch(mov_cr4, (const u8 []) { 0x0f, 0x1f, 0xc0 }, 3);	/* nop */
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
}

/* CPUID, and behind it what also makes sense as the end of a longer instruction. */
static void cpuid_guest(u64 arg)
{
	u64 a = 0, b, c = 0, d;

	(void)arg;
	asm volatile("cpuid_here: cpuid\n\t"
		     "movl $5, %%ebx"			/* bb 05 00 00 00 */
		     : "+a"(a), "=b"(b), "+c"(c), "=d"(d) :: "memory");
	GUEST_EQ(5, b);
}

static void cpuid_becomes(u8 first, u8 second)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), cpuid_guest, 0);
	extern u8 cpuid_here[];

	if (cpu_is_intel())
		SKIP("the CPU tells the length of what it has intercepted");
	start_and_hold(vcpu, POINT_SKIP);
	patch(cpuid_here, (const u8 []) { first, second }, 2);
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
}

TEST(what_was_intercepted_is_skipped_though_it_becomes_longer)
{
	cpuid_becomes(0x80, 0x00);		/* addb $0xbb, (%rax) */
}

TEST(what_was_intercepted_is_skipped_though_it_becomes_what_nobody_emulates)
{
	cpuid_becomes(0x0f, 0x0b);		/* ud2 */
}

/* A device's page and one of memory: what is read must be from where the instruction says. */
static void load_either(u64 arg)
{
	u64 a = 0;

	(void)arg;
	*(volatile u8 *)(TEST_GPA + 8) = 0x33;
	asm volatile("load_here: movb (%%rdx), %%al"
		     : "+a"(a)
		     : "d"(MMIO_GPA + 8), "b"(TEST_GPA + 8)
		     : "memory");
	GUEST_EQ(0x33, a);
}

static void no_exit(struct vcpu *vcpu)
{
	FAIL("exit %u", vcpu->run->exit_reason);
}

TEST(a_load_that_becomes_one_from_elsewhere_reads_there)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, load_either, 0);
	extern u8 load_here[];

	vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	vcpu->on_exit = no_exit;
	start_and_hold(vcpu, POINT_EMULATE);
	patch(load_here, (const u8 []) { 0x8a, 0x03 }, 2);	/* movb (%rbx), %al */
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
}

/* --- An operand in RAM that changes while the emulator computes what becomes of it --- */

static u64 registers[2];		/* RAX and RBX afterwards */
extern u8 locked_here[], accessed_here[];

/* A load from a device, which becomes an instruction with its operand at (%rdi), in RAM. */
static void load_that_becomes_locked(u64 arg)
{
	(void)arg;
	asm volatile("locked_here: movb (%%rsi), %%dl; nop; nop; nop"
		     : "=a"(registers[0]), "=b"(registers[1])
		     : "0"(5ull), "1"(7ull), "c"(0ull), "d"(0ull), "S"(MMIO_GPA), "D"(TEST_GPA)
		     : "memory", "cc");
}

/* The operand was 5, and is 6 by the time that it is written. */
static void lock_and_change(const u8 *code, u64 low, u64 rax)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, load_that_becomes_locked, 0);
	u64 *memory = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	int emulated = held(POINT_EMULATE), replaced = held(POINT_REPLACE);

	memory[0] = 5;
	vcpu->on_exit = no_exit;
	hold_points(1 << POINT_EMULATE | 1 << POINT_REPLACE);
	vcpu_start(vcpu);
	wait_held(POINT_EMULATE, emulated);
	patch(locked_here, code, 5);
	hold(POINT_REPLACE);
	wait_held(POINT_REPLACE, replaced);
	__atomic_fetch_add(memory, 1, __ATOMIC_SEQ_CST);
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
	EXPECT_EQ(low, memory[0]);
	EXPECT_EQ(0, memory[1]);
	EXPECT_EQ(rax, registers[0]);
}

TEST(a_locked_add_and_another_processors_are_both_done)
{
	lock_and_change((const u8 []) { 0xf0, 0x00, 0x1f, 0x90, 0x90 }, 6 + 7, 5);
}

TEST(a_locked_bit_and_another_processors_change_are_both_done)
{
	lock_and_change((const u8 []) { 0xf0, 0x0f, 0xba, 0x2f, 0x03 }, 6 | 8, 5);
}

TEST(an_exchange_gets_what_another_processor_has_stored)
{
	lock_and_change((const u8 []) { 0x87, 0x1f, 0x90, 0x90, 0x90 }, 7, 5);
	EXPECT_EQ(6, registers[1]);
}

TEST(a_word_is_added_to_what_another_processor_has_stored)
{
	lock_and_change((const u8 []) { 0x66, 0xf0, 0x0f, 0xc1, 0x1f }, 6 + 7, 5);
	EXPECT_EQ(6, registers[1]);
}

TEST(a_compare_and_exchange_fails_where_another_processor_was_quicker)
{
	lock_and_change((const u8 []) { 0xf0, 0x48, 0x0f, 0xb1, 0x1f }, 6, 6);
}

TEST(a_pair_is_not_exchanged_where_another_processor_was_quicker)
{
	lock_and_change((const u8 []) { 0xf0, 0x48, 0x0f, 0xc7, 0x0f }, 6, 6);
}

/* Its GDT is in RAM of its own; the load from a device becomes one of a data segment. */
static void load_that_becomes_mov_to_segment(u64 arg)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) gdtr = { .limit = 0x7f, .base = TEST_GPA };

	(void)arg;
	asm volatile("lgdt %0; movw %w2, (%%rdi)\n"
		     "accessed_here: movb (%%rsi), %%dl" /* 8a 16 */
		     ::"m"(gdtr),
		     "d"(0), "a"(10 * 8), "S"(MMIO_GPA), "D"(TEST_GPA + 512)
		     : "memory");
}

/* What changes in between is the descriptor's DPL, which becomes 3. */
TEST(an_accessed_bit_is_set_without_loss_of_another_processors_change)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, load_that_becomes_mov_to_segment, 0);
	u64 *gdt = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	int emulated = held(POINT_EMULATE), replaced = held(POINT_REPLACE);

	memcpy(gdt, guest_gdt, sizeof(guest_gdt));
	gdt[10] = 0x00cf92000000ffff;
	vcpu->on_exit = no_exit;
	hold_points(1 << POINT_EMULATE | 1 << POINT_REPLACE);
	vcpu_start(vcpu);
	wait_held(POINT_EMULATE, emulated);
	patch(accessed_here, (const u8 []) { 0x8e, 0x07 }, 2);	/* mov (%rdi), %es */
	hold(POINT_REPLACE);
	wait_held(POINT_REPLACE, replaced);
	__atomic_fetch_or(&gdt[10], 3ull << 45, __ATOMIC_SEQ_CST);
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
	EXPECT_EQ(0x00cff3000000ffff, gdt[10]);
}

/* --- Page-table entries that change under the emulator's walk --- */

#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_AVL 0x200ull

static volatile u32 mmio_exits;

static void note_mmio(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->exit_reason != KVM_EXIT_MMIO)
		FAIL("exit %u", run->exit_reason);
	mmio_exits++;
	if (!run->mmio.is_write)
		run->mmio.data[0] = 0x5a;
	else if (run->mmio.data[0] != 0x77)
		FAIL("0x%x was written", run->mmio.data[0]);
}

static u64 *test_pde(void)
{
	return &guest_pd[0][TEST_GPA / (2 * MIB)];
}

static void clear_bits(u64 bits)
{
	*test_pde() &= ~bits;
	asm volatile("invlpg (%0)" :: "r"(TEST_GPA) : "memory");
}

static void store_guest(u64 arg)
{
	u64 rsi = TEST_GPA, rdi = MMIO_GPA;

	(void)arg;
	*(volatile u8 *)TEST_GPA = 0x77;
	asm volatile("movsb" : "+S"(rsi), "+D"(rdi) :: "memory");
	GUEST_EQ(TEST_GPA + 1, rsi);
}

static void load_guest(u64 arg)
{
	u64 rsi = MMIO_GPA, rdi = TEST_GPA;

	(void)arg;
	clear_bits(PTE_D);
	asm volatile("movsb" : "+S"(rsi), "+D"(rdi) :: "memory");
	GUEST_EQ(0x5a, *(volatile u8 *)TEST_GPA);
}

static struct vcpu *walking_vcpu(void (*entry)(u64 arg))
{
	struct vm *vm = vm_create(0);

	vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	return vcpu_add(vm, entry, 0);
}

/* It is held with the entry read: that changes, and a signal comes. */
static void lose_the_race(struct vcpu *vcpu)
{
	__atomic_fetch_or(test_pde(), PTE_AVL, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, SIGUSR1);
	hold(NR_POINTS);
	vcpu_wait_done(vcpu);
	EXPECT_EQ(1, mmio_exits);
}

TEST(a_walk_that_a_signal_ends_begins_again)
{
	struct vcpu *vcpu = walking_vcpu(store_guest);
	int walks = held(POINT_WALK), emulated = held(POINT_EMULATE);

	vcpu->on_exit = note_mmio;
	hold_points(1 << POINT_EMULATE | 1 << POINT_WALK);
	vcpu_start(vcpu);
	wait_held(POINT_EMULATE, emulated);
	__atomic_fetch_and(test_pde(), ~PTE_A, __ATOMIC_SEQ_CST);	/* the CPU has set it */
	hold(POINT_WALK);
	wait_held(POINT_WALK, walks);
	lose_the_race(vcpu);
	EXPECT_EQ(PTE_A | PTE_AVL, *test_pde() & (PTE_A | PTE_AVL));
}

TEST(a_walk_behind_a_device_that_was_read_goes_on_and_reads_it_once)
{
	struct vcpu *vcpu = walking_vcpu(load_guest);

	vcpu->on_exit = note_mmio;
	start_and_hold(vcpu, POINT_WALK);
	lose_the_race(vcpu);
	EXPECT_EQ(PTE_D | PTE_AVL, *test_pde() & (PTE_D | PTE_AVL));
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
	wait_held(POINT_LOADED_MSR, before);
	ASSERT_EQ(0, pthread_create(&looker, NULL, look_at_aux, &aux));
	pthread_join(looker, NULL);	/* at the latest when the point lets the other thread go */
	hold(NR_POINTS);
	pthread_join(setter, NULL);
	EXPECT_EQ(aux.host, aux.seen);
}

/* --- A flush that is ordered with an entry that the CPU refuses --- */

enum { FLUSHES_NOTHING, FLUSHES_ALL, NR_FLUSHES = 4 };	/* AMD's TLB_CONTROL */

static void refuse_entries(bool refuse)
{
	int fd = open_parameter("test_refuse", O_WRONLY);

	ASSERT_EQ(1, write(fd, refuse ? "1" : "0", 1));
	close(fd);
}

/* How many entries have flushed all. */
static int entries_that_flush_all(void)
{
	int fd = open_parameter("test_flushes", O_RDONLY), count[NR_FLUSHES] = { 0 };
	char text[16 * NR_FLUSHES] = "";

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	ASSERT_EQ(NR_FLUSHES, sscanf(text, "%d,%d,%d,%d", &count[0], &count[1], &count[2],
				     &count[3]));
	return count[FLUSHES_ALL];
}

static void read_again_and_again(u64 arg)
{
	(void)arg;
	for (u32 round = 1;; round++) {
		sum = *(volatile u8 *)TEST_GPA;
		stage(round);
	}
}

/* The host replaces the page. */
static void replace(u8 *page, u8 value)
{
	ASSERT_TRUE(mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
	*page = value;
}

/*
 * Refuses as many entries; each but the first must flush all where it is not known what a refused
 * one does. QEMU's TCG then leaves the host's registers in the VMCB, so they are written again.
 */
static void refuse(struct vcpu *vcpu, u32 times)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &regs);
	vcpu_get_sregs(vcpu, &sregs);
	refuse_entries(true);
	for (u32 i = 0; i < times; i++) {
		int before = entries_that_flush_all();

		ASSERT_EQ(KVM_EXIT_FAIL_ENTRY, vcpu_run(vcpu));
		if (i && !cpu_is_intel())
			EXPECT_EQ(before + 1, entries_that_flush_all());
	}
	refuse_entries(false);
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_set_regs(vcpu, &regs);
}

/*
 * The page of the first stage is gone, and with the flush that this has ordered the entry is
 * refused. An Intel CPU has flushed by then. Of an AMD CPU it is not known: the next entry must
 * flush all, and if that one is refused the next again.
 */
TEST(a_flush_ordered_with_an_entry_that_is_refused_is_not_lost)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, read_again_and_again, 0);
	u8 *page = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);

	refuse_entries(false);
	stay_on_cpu(sched_getcpu());
	*page = 1;
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(1, sum);
	for (u32 round = 2; round < 6; round++) {
		int before;

		ktap_about("round %u", round);
		replace(page, round);
		refuse(vcpu, round);
		before = entries_that_flush_all();
		vcpu_run_to_stage(vcpu, round);
		EXPECT_EQ(round, sum);
		if (!cpu_is_intel())
			EXPECT_EQ(before + 1, entries_that_flush_all());
	}
}

/* --- How long mmu_lock is held to take memory away --- */

#define BIG_GPA (1024 * MIB)
#define AT_MOST (2 * 4 * 512)	/* entries: of two tables of each level */

/* MKVM_SLOT_MIB: the figure of Documentation/performance.rst is of 1024. */
static u64 slot_size(void)
{
	const char *mib = getenv("MKVM_SLOT_MIB");

	return (mib ? strtoull(mib, NULL, 10) : 64) * MIB;
}

static void read_all_pages(u64 size)
{
	for (u64 i = 0; i < size; i += PAGE_SIZE)
		(void)*(volatile u8 *)(BIG_GPA + i);
	stage(1);
	for (u64 i = 0; i < size; i += PAGE_SIZE)
		(void)*(volatile u8 *)(BIG_GPA + i);
	stage(2);
}

static void forget_holds(void)
{
	int fd = open_parameter("test_longest", O_WRONLY);

	ASSERT_EQ(3, write(fd, "0,0", 3));
	close(fd);
}

static void expect_short_holds(const char *what)
{
	int fd = open_parameter("test_longest", O_RDONLY);
	unsigned long ns, entries;
	char text[64] = "";

	ASSERT_LT(0, read(fd, text, sizeof(text) - 1));
	close(fd);
	ASSERT_EQ(2, sscanf(text, "%lu,%lu", &ns, &entries));
	ktap_note("%s of %llu MiB: at most %lu entries and %lu us in one hold of mmu_lock", what,
		  slot_size() / MIB, entries, ns / 1000);
	EXPECT_LT(0, entries);
	EXPECT_LE(entries, AT_MOST);
}

/* The slot begins in the middle of a table: neither its first nor its last is removed whole. */
TEST_LIMIT(mmu_lock_is_not_held_in_proportion_to_the_memory_that_goes, 1200)
{
	u64 size = slot_size(), gpa = BIG_GPA + MIB;
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, read_all_pages, size + MIB);
	u8 *memory = host_memory(size);

	ASSERT_OK(madvise(memory, size, MADV_NOHUGEPAGE));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, gpa, size, memory));
	vm_add_memory(vm, SLOT_TEST + 1, 0, BIG_GPA, MIB);
	vcpu_run_to_stage(vcpu, 1);
	forget_holds();
	ASSERT_OK(madvise(memory, size, MADV_DONTNEED));
	expect_short_holds("discarding");
	vcpu_run_to_stage(vcpu, 2);
	forget_holds();
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, gpa, 0, NULL));
	expect_short_holds("deleting a slot");
}
