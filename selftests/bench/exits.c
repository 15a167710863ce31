// SPDX-License-Identifier: GPL-2.0
/*
 * exits: what one VM exit of each common kind costs.
 *
 * A client of the KVM ABI alone: the same binary measures the kernel's own
 * kvm_amd and mkvm. Each row of rows[] is a small long-mode guest that does
 * one thing again and again and takes the time-stamp counter once a round.
 * In the icount lab the counter advances by one per instruction executed,
 * in the guest, in the kernel and in this client alike, so the difference of
 * two neighbouring stamps is the number of instructions of one round,
 * including the guest's own loop. Nothing is subtracted.
 *
 * State: none outside struct vm. Each row runs in a child process with VMs of
 * its own, so that a row that fails takes no other row with it.
 *
 * Output: one line a row, separated by tabs: name, "ok", median, 5th and 95th
 * percentile, mean, lowest and highest median of the passes, rounds, title; or
 * name, "fail", the reason, title. Messages for people go to stderr.
 *
 * Read next: bench (the table), profile (where a row's instructions go),
 * Documentation/performance.rst.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Guest-physical layout of the low slot, which is populated before the guest runs. */
#define LOW_SIZE	0x1000000ul
#define GP_TABLES	0x1000ul	/* page tables, grown upwards */
#define GP_GDT		0x18000ul
#define GP_IDT		0x19000ul
#define GP_FLAGS	0x1a000ul	/* struct flags */
#define GP_STACK	0x20000ul	/* tops: 0x20000 plus 0x4000 for each vCPU id */
#define GP_CODE		0x40000ul
#define GP_STAMPS	0x100000ul	/* one 64-bit stamp a round, and one more */
#define GP_TOUCH	0x40000000ul	/* second slot: what the touch rows touch */
#define MAX_ROUNDS	((LOW_SIZE - GP_STAMPS) / 8 - 1)

#define APIC_PHYS	0xfee00000ul
#define APIC_VIRT	0xffffffffff5fd000ul	/* a 4 KiB page high up, as in Linux's fixmap */
#define IRQ_GSI		10
#define PORT_USER	0x80	/* the port that goes to userspace and back */
#define PORT_DONE	0xf0	/* the guest has finished */
#define SECONDS_A_ROW	15
#define SETUP_TICKS	10000000

#define SMALL_PAGE	0x1000ul
#define HUGE_PAGE	0x200000ul

/*
 * Marks for the profiler: a long no-operation with a displacement that the
 * plugin knows. They stand just outside the measured rounds and do nothing else.
 */
#define MARK_START	".byte 0x0f, 0x1f, 0x80, 0x01, 0x56, 0x4b, 0x4d\n"
#define MARK_STOP	".byte 0x0f, 0x1f, 0x80, 0x02, 0x56, 0x4b, 0x4d\n"

/*
 * The guests. On entry: r8 rounds, r9 where stamps go, r10 address to touch
 * and r11 its step, r14 struct flags, r12 the IPI destination.
 */
asm(".pushsection .rodata\n"
    ".set APIC, 0xffffffffff5fd000\n"
    ".macro STAMP\n"
    "	rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, (%r9); add $8, %r9\n"
    ".endm\n"
    ".macro ENABLE_APIC\n"
    "	movl $0x1ff, APIC + 0xf0\n"
    ".endm\n"
    ".macro ENABLE_X2APIC\n"
    "	mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr\n"
    "	mov $0x80f, %ecx; mov $0x1ff, %eax; xor %edx, %edx; wrmsr\n"
    ".endm\n"
    ".macro FINISH\n"
    "	out %al, $0xf0\n"
    ".endm\n"
    ".macro ROUNDS\n"
    MARK_START
    "1:	STAMP\n"
    ".endm\n"
    ".macro AGAIN\n"
    "	dec %r8; jnz 1b; STAMP\n"
    MARK_STOP
    "	FINISH\n"
    ".endm\n"
    ".macro SEND vector\n"
    "	mov %r12d, APIC + 0x310; movl $\\vector, APIC + 0x300\n"
    ".endm\n"
    ".macro SEND_X2 vector\n"
    "	mov $0x830, %ecx; mov $\\vector, %eax; mov %r12d, %edx; wrmsr\n"
    ".endm\n"
    /* One interrupt ends each HLT: STI holds it off until HLT has begun. */
    ".macro WAIT\n"
    "	sti; hlt; cli\n"
    ".endm\n"
    "guest_start:\n"
    "g_eoi:		movl $0, APIC + 0xb0; iretq\n"
    "g_eoi_x2:	mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; iretq\n"
    "g_cpuid:	ENABLE_APIC; ROUNDS; xor %eax, %eax; cpuid; AGAIN\n"
    "g_apic_read:	ENABLE_APIC; ROUNDS; mov APIC + 0x20, %eax; AGAIN\n"
    "g_tpr_write:	ENABLE_APIC; mov $0x10, %ebx; ROUNDS; mov %ebx, APIC + 0x80; AGAIN\n"
    "g_pic_read:	ENABLE_APIC; ROUNDS; in $0x21, %al; AGAIN\n"
    "g_port_write:	ENABLE_APIC; ROUNDS; out %al, $0x80; AGAIN\n"
    "g_touch:	ENABLE_APIC; ROUNDS; movb $1, (%r10); add %r11, %r10; AGAIN\n"
    "g_ipi:		ENABLE_APIC; ROUNDS; SEND 0x40; WAIT; AGAIN\n"
    "g_ipi_x2:	ENABLE_X2APIC; ROUNDS; SEND_X2 0x41; WAIT; AGAIN\n"
    "g_echo:		ENABLE_APIC; movl $1, (%r14)\n"
    "1:		WAIT; SEND 0x40; dec %r8; jnz 1b; FINISH\n"
    "g_echo_x2:	ENABLE_X2APIC; movl $1, (%r14)\n"
    "1:		WAIT; SEND_X2 0x41; dec %r8; jnz 1b; FINISH\n"
    /* The line reaches the PIC too; mask it there, as Linux does. */
    "g_irq:		ENABLE_APIC; mov $0xff, %al; out %al, $0x21; out %al, $0xa1; movl $1, (%r14)\n"
    "1:		WAIT; incl 4(%r14); dec %r8; jnz 1b; FINISH\n"
    "guest_end:\n"
    ".popsection\n");

#define GUEST_SYMBOL(name) extern const char name[] __attribute__((visibility("hidden")))
GUEST_SYMBOL(guest_start);
GUEST_SYMBOL(guest_end);
GUEST_SYMBOL(g_eoi);
GUEST_SYMBOL(g_eoi_x2);
GUEST_SYMBOL(g_cpuid);
GUEST_SYMBOL(g_apic_read);
GUEST_SYMBOL(g_tpr_write);
GUEST_SYMBOL(g_pic_read);
GUEST_SYMBOL(g_port_write);
GUEST_SYMBOL(g_touch);
GUEST_SYMBOL(g_ipi);
GUEST_SYMBOL(g_ipi_x2);
GUEST_SYMBOL(g_echo);
GUEST_SYMBOL(g_echo_x2);
GUEST_SYMBOL(g_irq);

/* At GP_FLAGS; written by the guest, read by the client. */
struct flags {
	uint32_t ready;		/* the guest waits for its first interrupt */
	uint32_t served;	/* interrupts taken */
};

struct row {
	const char *name;
	const char *title;
	const char *guest;	/* what vCPU 0 runs */
	const char *echo;	/* what vCPU 1 runs; NULL: there is none */
	unsigned int rounds;
	unsigned int warmup;	/* first rounds that are run and not counted */
	unsigned long page;	/* size of the host pages touched; 0: none */
	int populated;		/* the host pages exist before the guest touches them */
	int irq_line;		/* this client raises an interrupt each round */
};

static const struct row rows[] = {
	{ "cpuid", "CPUID", g_cpuid, .rounds = 8192, .warmup = 256 },
	{ "lapic-read", "LAPIC read (xAPIC)", g_apic_read, .rounds = 8192, .warmup = 256 },
	{ "tpr-write", "TPR write (xAPIC)", g_tpr_write, .rounds = 8192, .warmup = 256 },
	{ "pic-read", "PIC port read, in the kernel", g_pic_read, .rounds = 8192, .warmup = 256 },
	{ "port-write", "port write to userspace and back", g_port_write, .rounds = 8192, .warmup = 256 },
	{ "touch-4k", "first touch, 4 KiB, host page absent", g_touch, .rounds = 4096, .warmup = 64,
	  .page = SMALL_PAGE },
	{ "touch-4k-present", "first touch, 4 KiB, host page present", g_touch, .rounds = 4096, .warmup = 64,
	  .page = SMALL_PAGE, .populated = 1 },
	{ "touch-2m", "first touch, 2 MiB, host page absent", g_touch, .rounds = 64, .warmup = 4,
	  .page = HUGE_PAGE },
	{ "touch-2m-present", "first touch, 2 MiB, host page present", g_touch, .rounds = 128, .warmup = 4,
	  .page = HUGE_PAGE, .populated = 1 },
	{ "ipi", "IPI to a halted vCPU and back (xAPIC)", g_ipi, g_echo, .rounds = 4096, .warmup = 64 },
	{ "ipi-x2apic", "IPI to a halted vCPU and back (x2APIC)", g_ipi_x2, g_echo_x2, .rounds = 4096, .warmup = 64 },
	{ "irq-line", "HLT wake by KVM_IRQ_LINE, round trip", g_irq, .rounds = 4096, .warmup = 64, .irq_line = 1 },
};
#define NR_ROWS (sizeof(rows) / sizeof(rows[0]))

struct vcpu {
	int fd;
	struct kvm_run *run;
	pthread_t thread;
};

struct vm {
	int fd;
	int dev;
	uint8_t *low;		/* host view of the low slot */
	uint8_t *touch;		/* host view of the touched slot, or NULL */
	size_t touch_size;
	unsigned long next_table;	/* guest-physical, next free page-table page */
	struct vcpu vcpu[2];
};

static const struct row *current;	/* the row of this child, for fail() */

/* Ends this row's process with its one line of output. */
static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	printf("%s\tfail\t", current->name);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\t%s\n", current->title);
	fflush(stdout);
	_exit(1);
}

static void on_alarm(int sig)
{
	(void)sig;
	fail("no end after %d s: an interrupt or an exit was lost", SECONDS_A_ROW);
}

static int kvm(int fd, unsigned long request, const char *name, void *arg)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		fail("%s: %s", name, strerror(errno));
	return r;
}
#define KVM(fd, request, arg) kvm(fd, request, #request, (void *)(uintptr_t)(arg))

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

static uint64_t *table_of(struct vm *vm, unsigned long phys)
{
	return (uint64_t *)(vm->low + phys);
}

/* Maps one page of @size at @virt to @phys in the guest's own tables, accessed and dirty. */
static void map_page(struct vm *vm, uint64_t virt, uint64_t phys, unsigned long size)
{
	uint64_t *table = table_of(vm, GP_TABLES);
	int shift, last = size == HUGE_PAGE ? 21 : 12;

	for (shift = 39; shift > last; shift -= 9) {
		uint64_t *entry = &table[virt >> shift & 511];

		if (!*entry) {
			*entry = vm->next_table | 0x23;
			vm->next_table += SMALL_PAGE;
		}
		table = table_of(vm, *entry & ~0xffful);
	}
	table[virt >> last & 511] = phys | 0x63 | (size == HUGE_PAGE ? 0x80 : 0);
}

static void set_gate(struct vm *vm, int vector, const char *handler)
{
	uint64_t *gate = (uint64_t *)(vm->low + GP_IDT + vector * 16);
	uint64_t addr = GP_CODE + (handler - guest_start);

	gate[0] = (addr & 0xffff) | 8 << 16 | 0x8eull << 40 | (addr >> 16 & 0xffff) << 48;
	gate[1] = addr >> 32;
}

static void fill_low(struct vm *vm)
{
	uint64_t *gdt = (uint64_t *)(vm->low + GP_GDT);
	unsigned long a;

	memset(vm->low, 0, LOW_SIZE);
	memcpy(vm->low + GP_CODE, guest_start, guest_end - guest_start);
	gdt[1] = 0x00af9b000000ffffull;
	gdt[2] = 0x00cf93000000ffffull;
	set_gate(vm, 0x40, g_eoi);
	set_gate(vm, 0x41, g_eoi_x2);
	vm->next_table = GP_TABLES + SMALL_PAGE;
	for (a = 0; a < LOW_SIZE; a += HUGE_PAGE)
		map_page(vm, a, a, HUGE_PAGE);
	for (a = 0; a < vm->touch_size; a += HUGE_PAGE)
		map_page(vm, GP_TOUCH + a, GP_TOUCH + a, HUGE_PAGE);
	map_page(vm, APIC_VIRT, APIC_PHYS, SMALL_PAGE);
}

/*
 * Anonymous memory whose address is a multiple of 2 MiB, with huge pages or
 * without. What is left over of the mapping goes at once: a page fault's cost
 * depends on how many mappings the process has.
 */
static uint8_t *host_memory(size_t size, int huge, int populate)
{
	uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t head = -(uintptr_t)p & (HUGE_PAGE - 1), i;

	if (p == MAP_FAILED)
		fail("%zu MiB of memory: %s", size >> 20, strerror(errno));
	if (head)
		munmap(p, head);
	p += head;
	munmap(p + size, HUGE_PAGE - head);
	if (madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) && huge)
		fail("transparent huge pages: %s", strerror(errno));
	if (populate)
		for (i = 0; i < size; i += SMALL_PAGE)
			*(volatile uint8_t *)(p + i) = 0;
	return p;
}

static void add_slot(struct vm *vm, int slot, uint64_t gpa, uint8_t *host, size_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	KVM(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static void set_cpuid(struct vm *vm, struct vcpu *vcpu)
{
	enum { MAX = 256 };
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + MAX * sizeof(cpuid->entries[0]));
	if (!cpuid)
		fail("out of memory");
	cpuid->nent = MAX;
	KVM(vm->dev, KVM_GET_SUPPORTED_CPUID, cpuid);
	KVM(vcpu->fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
}

static void set_long_mode(struct vcpu *vcpu)
{
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs sregs;

	KVM(vcpu->fd, KVM_GET_SREGS, &sregs);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr.type = 11;
	sregs.gdt = (struct kvm_dtable){ .base = GP_GDT, .limit = 3 * 8 - 1 };
	sregs.idt = (struct kvm_dtable){ .base = GP_IDT, .limit = SMALL_PAGE - 1 };
	sregs.cr0 = 0x80050033;	/* PG AM WP NE ET MP PE */
	sregs.cr3 = GP_TABLES;
	sregs.cr4 = 0x6a0;	/* OSXMMEXCPT OSFXSR PGE PAE */
	sregs.efer = 0x500;	/* LMA LME */
	KVM(vcpu->fd, KVM_SET_SREGS, &sregs);
}

static void add_vcpu(struct vm *vm, int id, const struct row *row, unsigned int rounds)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct vcpu *vcpu = &vm->vcpu[id];
	struct kvm_regs regs = {
		.rip = GP_CODE + ((id ? row->echo : row->guest) - guest_start),
		.rflags = 2,
		.rsp = GP_STACK + 0x4000 * id,
		.r8 = rounds,
		.r9 = GP_STAMPS,
		.r10 = GP_TOUCH,
		.r11 = row->page,
		.r14 = GP_FLAGS,
	};
	int size = KVM(vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0);

	/* The xAPIC's ICR holds the destination in its top byte, the x2APIC's is the number itself. */
	regs.r12 = !id;
	if (row->guest == g_ipi)
		regs.r12 <<= 24;
	vcpu->fd = KVM(vm->fd, KVM_CREATE_VCPU, id);
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		fail("mmap of the vCPU: %s", strerror(errno));
	set_cpuid(vm, vcpu);
	set_long_mode(vcpu);
	KVM(vcpu->fd, KVM_SET_REGS, &regs);
	KVM(vcpu->fd, KVM_SET_MP_STATE, &runnable);
}

/* An edge-triggered entry for IRQ_GSI, vector 0x40, to APIC 0, as Linux sets up an ISA interrupt. */
static void route_irq(struct vm *vm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	KVM(vm->fd, KVM_GET_IRQCHIP, &chip);
	chip.chip.ioapic.redirtbl[IRQ_GSI].bits = 0x40;
	KVM(vm->fd, KVM_SET_IRQCHIP, &chip);
}

static void vm_open(struct vm *vm, const char *device, const struct row *row, unsigned int rounds)
{
	struct kvm_pit_config pit = { 0 };

	memset(vm, 0, sizeof(*vm));
	vm->dev = open(device, O_RDWR | O_CLOEXEC);
	if (vm->dev < 0)
		fail("%s: %s", device, strerror(errno));
	vm->fd = KVM(vm->dev, KVM_CREATE_VM, 0);
	KVM(vm->fd, KVM_CREATE_IRQCHIP, 0);
	KVM(vm->fd, KVM_CREATE_PIT2, &pit);
	vm->low = host_memory(LOW_SIZE, 0, 1);
	if (row->page) {
		vm->touch_size = (rounds * row->page + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
		vm->touch = host_memory(vm->touch_size, row->page == HUGE_PAGE, row->populated);
		add_slot(vm, 1, GP_TOUCH, vm->touch, vm->touch_size);
	}
	fill_low(vm);
	add_slot(vm, 0, 0, vm->low, LOW_SIZE);
	add_vcpu(vm, 0, row, rounds);
	if (row->echo)
		add_vcpu(vm, 1, row, rounds);
	if (row->irq_line)
		route_irq(vm);
}

static void vm_close(struct vm *vm)
{
	int i;

	for (i = 0; i < 2 && vm->vcpu[i].run; i++) {
		munmap(vm->vcpu[i].run, KVM(vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(vm->vcpu[i].fd);
	}
	close(vm->fd);
	close(vm->dev);
	munmap(vm->low, LOW_SIZE);
	if (vm->touch)
		munmap(vm->touch, vm->touch_size);
}

/* Runs a vCPU until its guest has finished. */
static void *vcpu_run(void *arg)
{
	struct vcpu *vcpu = arg;
	struct kvm_run *run = vcpu->run;

	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			fail("KVM_RUN: %s", strerror(errno));
		}
		if (run->exit_reason != KVM_EXIT_IO)
			fail("exit reason %u (hardware %#llx, internal %u) instead of a port write", run->exit_reason,
			     (unsigned long long)run->hw.hardware_exit_reason, run->internal.suberror);
		if (run->io.port == PORT_DONE)
			return NULL;
	}
}

static void start(struct vcpu *vcpu)
{
	int r = pthread_create(&vcpu->thread, NULL, vcpu_run, vcpu);

	if (r)
		fail("a thread for a vCPU: %s", strerror(r));
}

/*
 * With real-time threads of one priority a woken thread runs when the running
 * one blocks or yields, so the order of events in a round is always the same.
 */
static void wait_until(const uint32_t *word, uint32_t value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value)
		sched_yield();
}

static void set_line(struct vm *vm, int level)
{
	struct kvm_irq_level line = { .irq = IRQ_GSI, .level = level };

	if (ioctl(vm->fd, KVM_IRQ_LINE, &line) < 0)
		fail("KVM_IRQ_LINE: %s", strerror(errno));
}

/* Raise, let the vCPU's thread take the interrupt and halt again, lower. */
static void raise_lines(struct vm *vm, uint64_t *stamps, unsigned int rounds)
{
	struct flags *flags = (struct flags *)(vm->low + GP_FLAGS);
	unsigned int i;

	asm volatile(MARK_START : : : "memory");
	for (i = 0; i < rounds; i++) {
		stamps[i] = rdtsc();
		set_line(vm, 1);
		wait_until(&flags->served, i + 1);
		set_line(vm, 0);
	}
	stamps[rounds] = rdtsc();
	asm volatile(MARK_STOP : : : "memory");
}

/* One pass over a fresh VM: cost[] gets a figure for each round. */
static void measure(const char *device, const struct row *row, unsigned int rounds, uint64_t *cost)
{
	struct vm vm;
	struct flags *flags;
	uint64_t *stamps, t0, t1;
	unsigned int i;

	vm_open(&vm, device, row, rounds);
	flags = (struct flags *)(vm.low + GP_FLAGS);
	stamps = (uint64_t *)(vm.low + GP_STAMPS);
	if (row->echo) {
		start(&vm.vcpu[1]);
		wait_until(&flags->ready, 1);
	}
	if (row->irq_line) {
		start(&vm.vcpu[0]);
		wait_until(&flags->ready, 1);
	}
	t0 = rdtsc();
	if (row->irq_line) {
		raise_lines(&vm, stamps, rounds);
		pthread_join(vm.vcpu[0].thread, NULL);
	} else {
		vcpu_run(&vm.vcpu[0]);
	}
	t1 = rdtsc();
	if (row->echo)
		pthread_join(vm.vcpu[1].thread, NULL);
	for (i = 0; i < rounds; i++)
		cost[i] = stamps[i + 1] - stamps[i];
	/* The guest's clock must be the host's, or the figures mean nothing; SETUP_TICKS covers what precedes a row. */
	if (stamps[rounds] - stamps[0] > t1 - t0 ||
	    (stamps[rounds] - stamps[0]) * 10 + SETUP_TICKS < (t1 - t0) * 9)
		fail("the guest's time-stamp counter ran %llu while the host's ran %llu",
		     (unsigned long long)(stamps[rounds] - stamps[0]), (unsigned long long)(t1 - t0));
	vm_close(&vm);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* All passes of one row, and its line of output. */
static void run_row(const char *device, const struct row *row, unsigned int rounds, unsigned int passes)
{
	unsigned int n = rounds - row->warmup, total = n * passes, i;
	uint64_t *all = calloc(total, sizeof(*all)), *cost = calloc(rounds, sizeof(*cost));
	uint64_t median, low = ~0ull, high = 0;
	double sum = 0;

	if (!all || !cost)
		fail("out of memory");
	signal(SIGALRM, on_alarm);
	alarm(SECONDS_A_ROW);
	for (i = 0; i < passes; i++) {
		measure(device, row, rounds, cost);
		memcpy(all + i * n, cost + row->warmup, n * sizeof(*cost));
		qsort(cost + row->warmup, n, sizeof(*cost), compare);
		median = cost[row->warmup + n / 2];
		low = median < low ? median : low;
		high = median > high ? median : high;
	}
	qsort(all, total, sizeof(*all), compare);
	for (i = 0; i < total; i++)
		sum += all[i];
	printf("%s\tok\t%llu\t%llu\t%llu\t%.0f\t%llu\t%llu\t%u\t%s\n", row->name,
	       (unsigned long long)all[total / 2], (unsigned long long)all[total / 20],
	       (unsigned long long)all[total - 1 - total / 20], sum / total,
	       (unsigned long long)low, (unsigned long long)high, total, row->title);
	fflush(stdout);
}

/*
 * Keeps other threads of the machine out of the rounds; without the right to do
 * so figures spread more. SCHED_RR rather than SCHED_FIFO: a guest that spins
 * for ever must not keep this process's other thread from seeing the alarm.
 */
static void be_undisturbed(void)
{
	struct sched_param param = { .sched_priority = 1 };
	int fd = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "-1", 2) != 2)
		fprintf(stderr, "exits: cannot lift the limit on real-time threads\n");
	if (fd >= 0)
		close(fd);
	if (sched_setscheduler(0, SCHED_RR, &param))
		fprintf(stderr, "exits: no real-time scheduling (%s): expect more spread\n", strerror(errno));
}

/* Returns 0 when the row's process ended well. */
static int fork_row(const char *device, const struct row *row, unsigned int rounds, unsigned int passes)
{
	int status;
	pid_t pid;

	fprintf(stderr, "exits: %s, %u rounds, %u %s\n", row->title, rounds, passes, passes == 1 ? "pass" : "passes");
	fflush(NULL);
	pid = fork();
	current = row;
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (!pid) {
		be_undisturbed();
		run_row(device, row, rounds, passes);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		printf("%s\tfail\tits process died\t%s\n", row->name, row->title);
	return status;
}

static void usage(FILE *out)
{
	unsigned int i;

	fprintf(out, "usage: exits [--device /dev/mkvm] [--quick] [--passes N] [ROW...]\n"
		"Prints what one exit of each kind costs, in ticks of the time-stamp counter;\n"
		"in the icount lab a tick is an instruction. Rows (all of them by default):\n");
	for (i = 0; i < NR_ROWS; i++)
		fprintf(out, "  %-18s %s\n", rows[i].name, rows[i].title);
}

static const struct row *find_row(const char *name)
{
	unsigned int i;

	for (i = 0; i < NR_ROWS; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	fprintf(stderr, "exits: no row is called \"%s\"; \"exits --help\" lists the rows.\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	const struct row *chosen[NR_ROWS];
	const char *device = "/dev/mkvm";
	unsigned int nr = 0, passes = 3, divide = 1, i;
	int failed = 0;

	for (i = 1; i < (unsigned int)argc; i++) {
		if (!strcmp(argv[i], "--help")) {
			usage(stdout);
			return 0;
		} else if (!strcmp(argv[i], "--quick")) {
			divide = 4;
		} else if (!strcmp(argv[i], "--device") && argv[i + 1]) {
			device = argv[++i];
		} else if (!strcmp(argv[i], "--passes") && argv[i + 1] && atoi(argv[i + 1]) > 0) {
			passes = atoi(argv[++i]);
		} else if (argv[i][0] == '-' || nr == NR_ROWS) {
			fprintf(stderr, "exits: \"%s\" is not understood here; see \"exits --help\".\n", argv[i]);
			return 2;
		} else {
			chosen[nr++] = find_row(argv[i]);
		}
	}
	if (!nr)
		for (; nr < NR_ROWS; nr++)
			chosen[nr] = &rows[nr];
	if (access(device, R_OK | W_OK)) {
		fprintf(stderr, "exits: %s: %s; load the module, or name its device with --device.\n",
			device, strerror(errno));
		return 2;
	}
	for (i = 0; i < nr; i++)
		failed |= fork_row(device, chosen[i], chosen[i]->rounds / divide, passes);
	return failed ? 1 : 0;
}
