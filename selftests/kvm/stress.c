// SPDX-License-Identifier: GPL-2.0
/*
 * All ways to interrupt a CPU at once, and an account of each.
 *
 * Four vCPUs run random work and send IPIs, NMIs, SMIs and timer interrupts; the
 * host raises IOAPIC pins, MSIs, NMIs and SMIs meanwhile. Each source has a vector of
 * its own and an account for each target, in which sent == got must hold at the end:
 *
 * - claimed: sent only while the last one was taken, so that none may merge;
 * - told: KVM_IRQ_LINE_STATUS or KVM_SIGNAL_MSI says whether it was taken, merged
 *   with one that waits (coalesced) or masked (ignored);
 * - looked up: a CPU with interrupts off finds the answer in its own IRR.
 *
 * No sender waits: who may not send does something else. $MKVM_STRESS_SECONDS is how
 * long all of this goes on.
 *
 * State: sent, got. Read next: ipi.c, smm.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vm.h"

#define NR_CPUS 4
#define ANYWHERE NR_CPUS		/* the account of a source whose target others choose */
#define DEFAULT_SECONDS "5"

#define SLOT_SMRAM 0x10000u
#define SMBASE(cpu) (0x30000u + 0x10000u * (cpu))
#define SMI_ENTRY 0x8000
#define MSR_SMBASE 0x9e

#define EDGE_GSI 20
#define LEVEL_GSI 21
#define RESAMPLE_GSI 22
#define IRQFD_GSI 40
#define PORT_LOWER 0x510c		/* OUT: the device of LEVEL_GSI lowers its line */

/* Four classes of priority have a vector for each sender or target. */
enum vector {
	NMI = VEC_NMI, SMI = 3,		/* SMI: no vector, but a place in the account */
	FENCE = 0x21, TIMER = 0x31, EDGE = 0x41, LEVEL = 0x51, RESAMPLE = 0x61, IRQFD = 0x62,
	LOWEST = 0x71, MSI = 0x80, TO_ONE = 0x90, TO_SELF = 0xa0, TO_OTHERS = 0xb0, TO_ALL = 0xc0,
};

static volatile u32 sent[256][NR_CPUS + 1], got[256][NR_CPUS + 1];
/* For the SMI handler, which has 16-bit code and no stack of its own. */
volatile u32 stress_smis[NR_CPUS];
static volatile u32 coalesced[256], ignored[256];
static volatile bool finish, stop, in_handler[NR_CPUS][256];
static volatile u32 quiet;
/*
 * Linux KVM 6.1 shuts a vCPU down when SMIs come together with the rest, and tells of
 * what is coalesced as if it were delivered: it gets no SMIs, its answers do not count.
 */
static bool linux_kvm;
/* QEMU's TCG aborts on a CR8 write that Linux KVM does not intercept while V_IRQ is set. */
static bool with_cr8;
/* Entered with nothing in service: see expect_accounts(). */
static volatile u32 entered_twice[256];

/* CS tells the CPU. Limits are 4 GiB in SMM, and the image is memory there as well. */
CODE_BLOB(smi_handler, 16,
	  "movl $0, %eax\n"
	  "movw %cs, %ax\n"
	  "shrw $12, %ax\n"
	  "subw $3, %ax\n"
	  "xorl %ebx, %ebx\n"
	  "movl %ebx, %ds\n"
	  "lock incl stress_smis(, %eax, 4)\n"
	  "rsm\n");

static void add(volatile u32 *counter, u32 n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_SEQ_CST);
}

static volatile u32 *taken(u32 vector, u32 target)
{
	return vector == SMI ? &stress_smis[target] : &got[vector][target];
}

/* True: the last one was taken, and the next one is the caller's to send. */
static bool claim(u32 vector, u32 target)
{
	u32 n = __atomic_load_n(taken(vector, target), __ATOMIC_SEQ_CST);

	return __atomic_compare_exchange_n(&sent[vector][target], &n, n + 1, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* --- The guest --- */

static u32 cpu_of(const void *on_stack)
{
	return ((u64)on_stack - (u64)guest_stacks) / sizeof(guest_stacks[0]);
}

static u32 rnd(u64 *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

static u32 read_apic(u32 reg)
{
	return guest_x2apic ? x2apic_read(reg) : apic_read(reg);
}

static void write_apic(u32 reg, u32 value)
{
	if (guest_x2apic)
		x2apic_write(reg, value);
	else
		apic_write(reg, value);
}

static void send(u32 dest, u32 command)
{
	if (guest_x2apic)
		x2apic_icr(dest, command);
	else
		apic_icr(dest, command);
}

static bool vector_in(u32 reg, u32 vector)
{
	return read_apic(reg + (vector >> 5) * 16) >> (vector & 31) & 1;
}

/* Odd CPUs have a deadline, even ones a count. */
static void arm_timer(u32 cpu)
{
	u32 delay = 100000 + rdtsc() % 400000;

	if (finish)
		return;
	add(&sent[TIMER][cpu], 1);
	if (cpu & 1)
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + delay);
	else
		write_apic(APIC_TMICT, delay);
}

static u32 account_of(u32 vector, u32 cpu)
{
	switch (vector) {
	case EDGE:
	case LEVEL:
	case RESAMPLE:
	case LOWEST:
		return ANYWHERE;
	}
	return cpu;
}

static void on_interrupt(struct guest_frame *frame)
{
	u32 vector = frame->vector, cpu = cpu_of(frame), target = account_of(vector, cpu);

	if (in_handler[cpu][vector] || !vector_in(APIC_ISR, vector)) {
		add(&entered_twice[vector], 1);
		return;
	}
	in_handler[cpu][vector] = true;
	GUEST_TRUE(got[vector][target] != sent[vector][target]);
	if (vector == LEVEL)
		outl(PORT_LOWER, cpu);		/* which counts it, too */
	else
		add(&got[vector][target], 1);
	if (vector == TIMER)
		arm_timer(cpu);
	if (vector & 1)
		sti_nop_cli();			/* higher ones come between */
	in_handler[cpu][vector] = false;
	write_apic(APIC_EOI, 0);
}

static void on_nmi(struct guest_frame *frame)
{
	u32 cpu = cpu_of(frame);

	if (got[NMI][cpu] == sent[NMI][cpu])
		add(&entered_twice[NMI], 1);
	else
		add(&got[NMI][cpu], 1);
}

/* Each target has its own account: all of them or none. Only this CPU sends this vector. */
static void send_to_many(u32 cpu, u32 vector, u32 command)
{
	bool self = command == ICR_ALL;

	for (u32 i = 0; i < NR_CPUS; i++)
		if ((self || i != cpu) && sent[vector][i] != got[vector][i])
			return;
	for (u32 i = 0; i < NR_CPUS; i++)
		if (self || i != cpu)
			add(&sent[vector][i], 1);
	send(0, command | vector);
}

/* Interrupts are off: what is in IRR stays there. */
static void send_to_self(u32 cpu)
{
	if (vector_in(APIC_IRR, TO_SELF + cpu))
		add(&coalesced[TO_SELF + cpu], 1);
	else
		add(&sent[TO_SELF + cpu][cpu], 1);
	send(0, ICR_SELF | (TO_SELF + cpu));
}

/* CPU 0 alone has the IOAPIC: pins move to another CPU, and the edge's is masked for a moment. */
static void move_pin(u64 *seed)
{
	u64 dest = RTE_DEST(rnd(seed) % NR_CPUS);

	switch (rnd(seed) % 3) {
	case 0:
		ioapic_write(IOAPIC_REG_RTE + EDGE_GSI * 2, RTE_MASKED | EDGE);
		rte_write(EDGE_GSI, dest | EDGE);
		break;
	case 1:
		rte_write(LEVEL_GSI, dest | RTE_LEVEL | LEVEL);
		break;
	case 2:
		rte_write(RESAMPLE_GSI, dest | RTE_LEVEL | RESAMPLE);
		break;
	}
}

static void set_priority(u32 class)
{
	if (with_cr8)
		write_cr8(class);
	else
		write_apic(APIC_TPR, class << 4);
}

static void work(u32 cpu, u64 *seed)
{
	u32 other = rnd(seed) % NR_CPUS;

	switch (rnd(seed) % 10) {
	case 0:
		if (claim(TO_ONE + cpu, other))
			send(other, TO_ONE + cpu);
		break;
	case 1:
		send_to_many(cpu, TO_OTHERS + cpu, ICR_OTHERS);
		break;
	case 2:
		send_to_many(cpu, TO_ALL + cpu, ICR_ALL);
		break;
	case 3:
		send_to_self(cpu);
		send_to_self(cpu);
		break;
	case 4:
		if (claim(NMI, other))
			send(other, ICR_NMI);
		break;
	case 5:
		if (!linux_kvm && claim(SMI, other))
			send(other, ICR_SMI);
		break;
	case 6:
		set_priority(rnd(seed) & 15);
		sti_nop_cli();
		set_priority(0);
		break;
	case 7:
		if (cpu == 0)
			move_pin(seed);
		break;
	default:
		sti_hlt_cli();
	}
	sti_nop_cli();
}

static void setup_apic(u32 cpu)
{
	u32 mode = cpu & 1 ? LVT_DEADLINE : 0;

	if (guest_x2apic)
		x2apic_enable();
	else
		apic_enable();
	if (!guest_x2apic)
		apic_write(APIC_LDR, 1 << (24 + cpu));
	write_apic(APIC_LVTT, mode | TIMER);
	write_apic(APIC_TDCR, 0xb);
}

static void member(u64 cpu)
{
	static volatile u32 ready;
	u64 seed = cpu + 1;

	setup_apic(cpu);
	if (cpu == 0) {
		rte_write(EDGE_GSI, EDGE);
		rte_write(LEVEL_GSI, RTE_DEST(1) | RTE_LEVEL | LEVEL);
		rte_write(RESAMPLE_GSI, RTE_DEST(2) | RTE_LEVEL | RESAMPLE);
	}
	add(&ready, 1);
	GUEST_WAIT(ready == NR_CPUS);
	stage(1);
	arm_timer(cpu);
	while (!finish)
		work(cpu, &seed);
	add(&quiet, 1);
	sti();
	GUEST_WAIT(stop);
	cli();
}

/* --- The host --- */

static pthread_mutex_t level_lock = PTHREAD_MUTEX_INITIALIZER;
static int irqfd_fd, resample_fd, resampled_fd;

static int set_line(struct vm *vm, u32 gsi, int level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	ASSERT_OK(ioctl(vm->fd, KVM_IRQ_LINE_STATUS, &irq));
	return irq.status;
}

/* The device of LEVEL_GSI: its line is low before the handler's end is counted. */
static void on_exit_lower(struct vcpu *vcpu)
{
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	ASSERT_EQ(PORT_LOWER, vcpu->run->io.port);
	pthread_mutex_lock(&level_lock);
	set_line(vcpu->vm, LEVEL_GSI, 0);
	add(&got[LEVEL][ANYWHERE], 1);
	pthread_mutex_unlock(&level_lock);
}

/* The account of what the ABI answers: sent was counted before, so that nobody sees got > sent. */
static void told(u32 vector, u32 target, int answer)
{
	ASSERT_LE(answer, 1);
	if (answer == 1)
		return;
	add(&sent[vector][target], -1);
	add(answer ? &ignored[vector] : &coalesced[vector], 1);
}

static void raise_msi(struct vm *vm, u32 vector, u32 target, u32 address, u32 data)
{
	add(&sent[vector][target], 1);
	told(vector, target, vm_msi(vm, address, data));
}

static void raise_edge(struct vm *vm)
{
	add(&sent[EDGE][ANYWHERE], 1);
	told(EDGE, ANYWHERE, set_line(vm, EDGE_GSI, 1));
	set_line(vm, EDGE_GSI, 0);
}

static void raise_level(struct vm *vm)
{
	pthread_mutex_lock(&level_lock);
	if (claim(LEVEL, ANYWHERE))
		set_line(vm, LEVEL_GSI, 1);
	pthread_mutex_unlock(&level_lock);
}

/* A resampling line is free again when the resamplefd says so. True: it is free. */
static bool raise_resample(void)
{
	static bool high;
	eventfd_t count;

	if (high && !eventfd_read(resampled_fd, &count)) {
		ASSERT_EQ(1, count);
		high = false;
	}
	if (!finish && !high && claim(RESAMPLE, ANYWHERE)) {
		signal_fd(resample_fd);
		high = true;
	}
	return !high;
}

static void raise_one(struct vm *vm, u64 *seed)
{
	u32 target = rnd(seed) % NR_CPUS;

	switch (rnd(seed) % 8) {
	case 0:
		raise_edge(vm);
		break;
	case 1:
		raise_level(vm);
		break;
	case 2:
		raise_resample();
		break;
	case 3:
		raise_msi(vm, MSI + target, target, MSI_ADDR(target), MSI + target);
		break;
	case 4:
		raise_msi(vm, LOWEST, ANYWHERE, MSI_ADDR(0xf) | MSI_LOGICAL | MSI_REDIRECT, LOWEST);
		break;
	case 5:
		if (claim(IRQFD, 3))
			signal_fd(irqfd_fd);
		break;
	case 6:
		if (claim(NMI, target))
			ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(target), ICR_NMI));
		break;
	case 7:
		if (!linux_kvm && claim(SMI, target))
			ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(target), ICR_SMI));
		break;
	}
}

/* Does sent == got hold in the end? */
static bool exact(u32 vector)
{
	return !linux_kvm || (vector != EDGE && vector != LOWEST && vector >> 4 != MSI >> 4);
}

/* Everything that was sent has arrived. */
static bool balanced(void)
{
	for (u32 vector = 0; vector < 256; vector++) {
		if (sent[vector][ANYWHERE] != got[vector][ANYWHERE] && exact(vector))
			return false;
		for (u32 target = 0; target < NR_CPUS; target++)
			if (sent[vector][target] != *taken(vector, target) && exact(vector))
				return false;
	}
	return raise_resample();
}

static void show_account(u32 vector)
{
	u32 in = 0, out = 0;

	for (u32 target = 0; target <= NR_CPUS; target++) {
		in += sent[vector][target];
		out += target < NR_CPUS ? *taken(vector, target) : got[vector][target];
	}
	if (in + out + coalesced[vector] + ignored[vector] == 0)
		return;
	ktap_note("vector 0x%02x: sent %u, got %u; coalesced %u, ignored %u", vector, in, out, coalesced[vector],
		  ignored[vector]);
	ktap_about("vector 0x%x", vector);
	if (exact(vector))
		EXPECT_EQ(in, out);
	EXPECT_LE(out, in);
	EXPECT_LT(0, out);
}

static void expect_accounts(void)
{
	u32 twice = 0;

	for (u32 vector = 0; vector < 256; vector++) {
		twice += entered_twice[vector];
		if (entered_twice[vector])
			ktap_note("vector 0x%02x was entered %u times with nothing in service", vector,
				  entered_twice[vector]);
		show_account(vector);
	}
	EXPECT_EQ(0, twice);
}

static void assign_irqfds(struct vm *vm)
{
	struct {
		u32 nr, flags;		/* as struct kvm_irq_routing */
		struct kvm_irq_routing_entry entry[24];
	} table = { .nr = 24 };
	struct kvm_irqfd msi = { .fd = irqfd_fd = new_eventfd(), .gsi = IRQFD_GSI };
	struct kvm_irqfd resample = {
		.fd = resample_fd = new_eventfd(), .gsi = RESAMPLE_GSI,
		.flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = resampled_fd = new_eventfd(),
	};

	for (u32 pin = 0; pin < 23; pin++)
		table.entry[pin] = (struct kvm_irq_routing_entry){
			.gsi = pin, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin },
		};
	table.entry[23] = (struct kvm_irq_routing_entry){
		.gsi = IRQFD_GSI, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = MSI_ADDR(3), .data = IRQFD },
	};
	ASSERT_OK(ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table));
	ASSERT_OK(ioctl(vm->fd, KVM_IRQFD, &msi));
	ASSERT_OK(ioctl(vm->fd, KVM_IRQFD, &resample));
}

/* SMRAM of each CPU; the rest of the memory is as outside SMM. */
static void add_smram(struct vm *vm)
{
	extern char __executable_start[], _end[];
	u64 start = (u64)__executable_start & ~(PAGE_SIZE - 1);
	u64 size = ((u64)_end - start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	u8 *smram = vm_add_memory(vm, SLOT_SMRAM, 0, SMBASE(0), NR_CPUS * 0x10000);

	ASSERT_OK(vm_set_slot(vm, SLOT_SMRAM + 1, 0, start, size, (void *)start));
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		memcpy(smram + cpu * 0x10000 + SMI_ENTRY, smi_handler,
		       smi_handler_end - smi_handler);
}

static struct vm *start_members(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	add_smram(vm);
	assign_irqfds(vm);
	for (u32 vector = FENCE; vector < 0xff; vector++)
		guest_handlers[vector] = on_interrupt;
	guest_handlers[NMI] = on_nmi;
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++) {
		vcpu_add(vm, member, cpu)->on_exit = on_exit_lower;
		ASSERT_EQ(1, vcpu_set_msr(vm->vcpus[cpu], MSR_SMBASE, SMBASE(cpu)));
	}
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		vcpu_start(vm->vcpus[cpu]);
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		vcpu_wait_stage(vm->vcpus[cpu], 1);
	return vm;
}

static void stress(void)
{
	const char *seconds = getenv("MKVM_STRESS_SECONDS");
	u64 seed = 5, until;
	struct vm *vm;

	NEED_CAP(KVM_CAP_X86_SMM);
	linux_kvm = is_linux_kvm();
	with_cr8 = !linux_kvm || !cpu_is_tcg();
	vm = start_members();
	until = ktap_now_ns() + strtoul(seconds ? seconds : DEFAULT_SECONDS, NULL, 10) * 500000000;
	while (ktap_now_ns() < until)
		raise_one(vm, &seed);
	finish = true;
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		raise_msi(vm, MSI + cpu, cpu, MSI_ADDR(cpu), MSI + cpu); /* who halts goes on */
	WAIT_FOR(quiet == NR_CPUS);
	for (struct ktap_wait wait = { 0 }; !balanced() && ktap_wait(&wait);)
		;
	/* Of the lowest class: when it was taken, nothing else waits. */
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		raise_msi(vm, FENCE, cpu, MSI_ADDR(cpu), FENCE);
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		WAIT_FOR(got[FENCE][cpu]);
	expect_accounts();
	stop = true;
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		vcpu_wait_done(vm->vcpus[cpu]);
}

TEST_LIMIT(every_interrupt_is_accounted_for_in_xapic_mode, 140)
{
	stress();
}

TEST_LIMIT(every_interrupt_is_accounted_for_in_x2apic_mode, 140)
{
	guest_x2apic = true;
	stress();
}
