// SPDX-License-Identifier: GPL-2.0
/*
 * Single steps and breakpoints, the guest's and userspace's, over instructions that
 * the processor does not run itself: emulated accesses to devices, string
 * instructions, ports, and what is intercepted and skipped.
 *
 * Manuals: AMD APM vol. 2, "Software-Debug Resources"; Intel SDM vol. 3, "Debug, Branch
 * Profile, TSC". Read next: debug.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

#define DR6_CLEAR 0xffff0ff0ull
#define DR6_BS (1ull << 14)
#define DR6_BD (1ull << 13)
#define DR6_BT (1ull << 15)
#define DR7_FIXED 0x400ull
#define CR4_DE (1ull << 3)
#define RFLAGS_RF (1ull << 16)

/* DR7's fields for breakpoint n; by its LEN field the size is 1, 2, 8 or 4. */
enum { ON_EXECUTE, ON_WRITE, ON_PORT, ON_ACCESS };
enum { SIZE_1, SIZE_2, SIZE_8, SIZE_4 };
#define LOCAL(n) (1ull << (2 * (n)))
#define GLOBAL(n) (2ull << (2 * (n)))
#define CONTROL(n, on, size) (((u64)(on) | (u64)(size) << 2) << (16 + 4 * (n)))
static const u32 sizes[4] = { 1, 2, 8, 4 };

#define TSS_IST1 36
#define PORT 0x1230u
#define PIC_MASK 0x21u

/* --- The guest's #DB handler, and what it has seen --- */

static volatile struct {
	u64 rip, dr6, rflags, rcx;
} traps[16];
static volatile u32 nr_traps;
static volatile u64 next_rip;		/* behind the instruction that is watched */
static u8 ram[64] __attribute__((aligned(64)));

static void on_trap(struct guest_frame *frame)
{
	u64 dr6, clear = DR6_CLEAR;

	asm volatile("movq %%dr6, %0; movq %1, %%dr6" : "=&r"(dr6) : "r"(clear));
	if (nr_traps < 16) {
		traps[nr_traps].rip = frame->rip;
		traps[nr_traps].dr6 = dr6;
		traps[nr_traps].rflags = frame->rflags;
		traps[nr_traps].rcx = frame->rcx;
	}
	nr_traps++;
	if (frame->rip == next_rip)
		frame->rflags &= ~RFLAGS_TF;
}

static void write_dr6(u64 value)
{
	asm volatile("movq %0, %%dr6" :: "r"(value));
}

static void write_dr7(u64 value)
{
	asm volatile("movq %0, %%dr7" :: "r"(value | DR7_FIXED));
}

static void write_dr(int n, u64 value)
{
	if (n == 0)
		asm volatile("movq %0, %%dr0" :: "r"(value));
	else if (n == 1)
		asm volatile("movq %0, %%dr1" :: "r"(value));
	else if (n == 2)
		asm volatile("movq %0, %%dr2" :: "r"(value));
	else
		asm volatile("movq %0, %%dr3" :: "r"(value));
}

static void write_cr4(u64 set, u64 clear)
{
	u64 cr4;

	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	asm volatile("movq %0, %%cr4" :: "r"((cr4 | set) & ~clear));
}

static void start(void)
{
	guest_handlers[VEC_DB] = on_trap;
	nr_traps = 0;
	write_dr6(DR6_CLEAR);
	write_dr7(0);
}

/* One instruction; the trap behind it has next_rip. STEPPED sets TF before it. */
#define WATCHED(insn, ...)						\
	asm volatile("movq $772f, next_rip\n\t" insn "\n772:\tnop" : __VA_ARGS__)
#define STEPPED(insn, ...)						\
	asm volatile("movq $772f, next_rip\n\t"				\
		     "pushfq; orl $0x100, (%%rsp); popfq\n\t"		\
		     insn "\n772:\tnop" : __VA_ARGS__)

/* Just one trap came, behind the instruction, with these bits of DR6. */
#define GUEST_TRAPPED(bits) do {					\
	GUEST_EQ(1, nr_traps);						\
	GUEST_EQ(next_rip, traps[0].rip);				\
	GUEST_EQ(DR6_CLEAR | (bits), traps[0].dr6);			\
	nr_traps = 0;							\
} while (0)

/* Devices: what is read is 0, what is written goes nowhere. */
static void run_to_done(struct vcpu *vcpu)
{
	enum vcpu_event event;

	while ((event = vcpu_step(vcpu)) != EVENT_DONE) {
		struct kvm_run *run = vcpu->run;

		if (event == EVENT_STAGE)
			continue;
		if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write)
			memset(run->mmio.data, 0, sizeof(run->mmio.data));
		else if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN)
			memset((u8 *)run + run->io.data_offset, 0, run->io.size * run->io.count);
		else if (run->exit_reason != KVM_EXIT_MMIO && run->exit_reason != KVM_EXIT_IO)
			FAIL("exit %u", run->exit_reason);
	}
}

static void run_guest(void (*entry)(u64 arg), unsigned int flags)
{
	run_to_done(vcpu_add(vm_create(flags), entry, 0));
}

/* --- TF --- */

/*
 * Three rounds of REP with TF: a trap behind each, the last behind the instruction. RF is set
 * while rounds are left.
 */
#define GUEST_THREE_ROUNDS(insn, rdx) do {				\
	u64 rcx_ = 3, rsi_ = (u64)ram, rdi_ = (u64)ram;			\
	if (insn[4] == 's')				\
		rdi_ = MMIO_GPA;					\
	else								\
		rsi_ = (insn[4] == 'o') ? (u64)ram : MMIO_GPA;		\
	start();							\
	STEPPED(insn, "+c"(rcx_), "+S"(rsi_), "+D"(rdi_) : "d"(rdx), "a"(0) : "memory", "cc");	\
	GUEST_EQ(3, nr_traps);						\
	for (u32 i_ = 0; i_ < 3; i_++) {				\
		GUEST_EQ(2 - i_, traps[i_].rcx);			\
		GUEST_EQ(DR6_CLEAR | DR6_BS, traps[i_].dr6);		\
		GUEST_EQ(i_ == 2, traps[i_].rip == next_rip);		\
		GUEST_EQ(i_ < 2, !!(traps[i_].rflags & RFLAGS_RF));	\
	}								\
} while (0)

static void stepped_rep(u64 arg)
{
	(void)arg;
	GUEST_THREE_ROUNDS("rep movsb", 0);
	GUEST_THREE_ROUNDS("rep movsq", 0);
	GUEST_THREE_ROUNDS("rep stosl", 0);
	GUEST_THREE_ROUNDS("rep lodsw", 0);
	GUEST_THREE_ROUNDS("rep scasb", 0);
	GUEST_THREE_ROUNDS("rep insb", PORT);
	GUEST_THREE_ROUNDS("rep outsl", PORT);
	GUEST_THREE_ROUNDS("rep insw", PIC_MASK);
	GUEST_THREE_ROUNDS("rep outsb", PIC_MASK);
}

TEST(under_tf_each_round_of_an_emulated_rep_traps)
{
	if (is_linux_kvm())
		SKIP("Linux KVM traps behind the last round only");
	run_guest(stepped_rep, VM_IRQCHIP);
}

static void stepped_rep_of_none(u64 arg)
{
	u64 rcx = 0, rdi = MMIO_GPA;

	(void)arg;
	start();
	STEPPED("rep stosb", "+c"(rcx), "+D"(rdi) : "a"(0) : "memory");
	GUEST_TRAPPED(DR6_BS);
	rcx = 0;
	STEPPED("rep outsb", "+c"(rcx) : "d"(PORT) : "memory");
	GUEST_TRAPPED(DR6_BS);
}

TEST(under_tf_a_rep_with_count_0_traps_once)
{
	run_guest(stepped_rep_of_none, 0);
}

static void stepped_exits(u64 arg)
{
	u64 a = 0, c = MSR_MC0_STATUS, d = 0, b = 0;

	(void)arg;
	start();
	STEPPED("cpuid", "+a"(a), "+b"(b), "+c"(c), "+d"(d));
	GUEST_TRAPPED(DR6_BS);
	c = MSR_APICBASE;
	STEPPED("rdmsr", "+a"(a), "+c"(c), "+d"(d));
	GUEST_TRAPPED(DR6_BS);
	STEPPED("wrmsr", "+a"(a), "+c"(c), "+d"(d) :: "memory");
	GUEST_TRAPPED(DR6_BS);
	STEPPED("wbinvd", "+a"(a) :: "memory");
	GUEST_TRAPPED(DR6_BS);
	a = 1000;		/* no hypercall has this number */
	STEPPED("vmmcall", "+a"(a) :: "memory");
	GUEST_TRAPPED(DR6_BS);
	STEPPED("vmcall", "+a"(a) :: "memory");
	GUEST_TRAPPED(DR6_BS);
	STEPPED("inl %%dx, %%eax", "+a"(a) : "d"(PORT) : "memory");
	GUEST_TRAPPED(DR6_BS);
	STEPPED("outb %%al, %%dx", "+a"(a) : "d"(PIC_MASK) : "memory");
	GUEST_TRAPPED(DR6_BS);
	STEPPED("movq %%cr4, %%rax; movq %%rax, %%cr4", "+a"(a) :: "memory");
	GUEST_EQ(2, nr_traps);
	nr_traps = 0;
	STEPPED("addl %%eax, (%%rdx)", "+a"(a) : "d"(MMIO_GPA) : "memory");
	GUEST_TRAPPED(DR6_BS);
	/*
	 * The device gives SS a null selector. No trap comes before the next instruction has
	 * run.
	 */
	STEPPED("movw (%1), %%ss; movl %%eax, (%1)", "+a"(a) : "d"(MMIO_GPA) : "memory");
	asm volatile("movl %0, %%ss" :: "r"(SEL_DATA));
	GUEST_TRAPPED(DR6_BS);
	write_dr6(DR6_CLEAR | DR6_BD | DR6_BT | 0xf);
	STEPPED("cpuid", "+a"(a), "+b"(b), "+c"(c), "+d"(d));
	GUEST_TRAPPED(DR6_BS | DR6_BD | DR6_BT); /* B0 to B3 are of this trap, the others stay */
}

TEST(under_tf_what_is_intercepted_traps_behind_it)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not know VMCALL and VMMCALL from each other while it steps");
	run_guest(stepped_exits, VM_IRQCHIP);
}

static void stepped_halt(u64 arg)
{
	(void)arg;
	start();
	STEPPED("hlt", "+m"(ram[0]) :: "memory");
	GUEST_TRAPPED(DR6_BS);
}

TEST(under_tf_hlt_ends_by_its_own_trap)
{
	run_guest(stepped_halt, VM_IRQCHIP);
	if (!is_linux_kvm()) /* which leaves the trap to a KVM_RUN that userspace may never make */
		run_guest(stepped_halt, 0);
}

/*
 * With the stack in a device, POPF is emulated; what the device gives it is the argument,
 * with TF or without.
 */
static void popped_flags(u64 flags)
{
	u64 stack = (u64)guest_stacks[3];

	memcpy(guest_tss[0] + TSS_IST1, &stack, sizeof(stack));
	guest_idt[2 * VEC_DB] |= 1ull << 32;
	start();
	if (flags & RFLAGS_TF) {
		/* No trap comes behind POPF itself: it began without TF. */
		asm volatile("movq $772f, next_rip; movq %%rsp, %%rbx; movq %0, %%rsp\n\t"
			     "popfq; movq %%rbx, %%rsp\n772:\tnop" :: "r"(MMIO_GPA) : "rbx", "memory", "cc");
		GUEST_TRAPPED(DR6_BS);
		return;
	}
	asm volatile("movq $772f, next_rip; movq %%rsp, %%rbx; pushfq; orl $0x100, (%%rsp); popfq\n\t"
		     "movq %0, %%rsp; popfq\n772:\tmovq %%rbx, %%rsp"
		     :: "r"(MMIO_GPA) : "rbx", "memory", "cc");
	GUEST_EQ(2, nr_traps);
	GUEST_EQ(next_rip, traps[1].rip);
	GUEST_EQ(DR6_CLEAR | DR6_BS, traps[1].dr6);
	GUEST_EQ(0, traps[1].rflags & RFLAGS_TF);
}

static void run_popf(u64 flags)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), popped_flags, flags);
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);

	EXPECT_EQ(MMIO_GPA, run->mmio.phys_addr);
	EXPECT_EQ(8, run->mmio.len);
	memcpy(run->mmio.data, &flags, sizeof(flags));
	vcpu_run_to_done(vcpu);
}

TEST(an_emulated_popf_that_sets_tf_traps_behind_the_next_instruction)
{
	run_popf(2 | RFLAGS_TF);
}

TEST(an_emulated_popf_that_clears_tf_traps_once_more)
{
	run_popf(2);
}

/* --- Breakpoints on memory --- */

enum { READ, WRITE, MODIFY, NR_KINDS };

/* One access to a device, of 1, 2, 4 or 8 bytes. */
static void access(u32 kind, u32 size, u64 addr)
{
	u64 a = 0;

	switch (kind << 4 | size) {
	case READ << 4 | 1:
		WATCHED("movb (%1), %b0", "+a"(a) : "d"(addr) : "memory");
		break;
	case READ << 4 | 2:
		WATCHED("movw (%1), %w0", "+a"(a) : "d"(addr) : "memory");
		break;
	case READ << 4 | 4:
		WATCHED("movl (%1), %k0", "+a"(a) : "d"(addr) : "memory");
		break;
	case READ << 4 | 8:
		WATCHED("movq (%1), %0", "+a"(a) : "d"(addr) : "memory");
		break;
	case WRITE << 4 | 1:
		WATCHED("movb %b0, (%1)", "+a"(a) : "d"(addr) : "memory");
		break;
	case WRITE << 4 | 2:
		WATCHED("movw %w0, (%1)", "+a"(a) : "d"(addr) : "memory");
		break;
	case WRITE << 4 | 4:
		WATCHED("movl %k0, (%1)", "+a"(a) : "d"(addr) : "memory");
		break;
	case WRITE << 4 | 8:
		WATCHED("movq %0, (%1)", "+a"(a) : "d"(addr) : "memory");
		break;
	case MODIFY << 4 | 1:
		WATCHED("orb %b0, (%1)", "+a"(a) : "d"(addr) : "memory", "cc");
		break;
	case MODIFY << 4 | 2:
		WATCHED("lock; xaddw %w0, (%1)", "+a"(a) : "d"(addr) : "memory", "cc");
		break;
	case MODIFY << 4 | 4:
		WATCHED("xchgl %k0, (%1)", "+a"(a) : "d"(addr) : "memory", "cc");
		break;
	case MODIFY << 4 | 8:
		WATCHED("lock; cmpxchgq %0, (%1)", "+a"(a) : "d"(addr) : "memory", "cc");
		break;
	}
}

/*
 * Does an access of len bytes at addr touch one of the watched ones? Byte by byte, as the
 * manual tells it.
 */
static bool touches(u64 addr, u32 len, u64 watched, u32 size)
{
	watched &= ~(u64)(size - 1);
	for (u32 i = 0; i < len; i++)
		for (u32 k = 0; k < size; k++)
			if (addr + i == watched + k)
				return true;
	return false;
}

static void watched_memory(u64 arg)
{
	const u64 addr = MMIO_GPA + 16;

	(void)arg;
	start();
	for (u32 on = ON_WRITE; on <= ON_ACCESS; on++) {
		for (u32 len = 0; len < 4; len++) {
			for (u32 kind = 0; kind < NR_KINDS; kind++) {
				/* A few places, and one breakpoint after the other. */
				for (u64 watched = addr - 9; watched < addr + 10; watched += 3) {
					u32 n = watched & 3, size = 1 << (watched / 3 & 3);
					bool met = touches(addr, size, watched, sizes[len]) &&
						   (on == ON_ACCESS ||
						    (on == ON_WRITE && kind != READ));

					write_dr(n, watched);
					write_dr7((watched & 1 ? LOCAL(n) : GLOBAL(n)) |
						  CONTROL(n, on, len));
					access(kind, size, addr);
					if (met)
						GUEST_TRAPPED(1u << n);
					GUEST_EQ(0, nr_traps);
					write_dr7(CONTROL(n, on, len));		/* not on */
					access(kind, size, addr);
					GUEST_EQ(0, nr_traps);
				}
			}
		}
	}
}

TEST(breakpoints_watch_emulated_accesses_to_memory)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	run_guest(watched_memory, 0);
}

static void watch(int n, u64 addr, u32 on, u32 size)
{
	u64 dr7;

	asm volatile("movq %%dr7, %0" : "=r"(dr7));
	write_dr(n, addr);
	write_dr7(dr7 | LOCAL(n) | CONTROL(n, on, size));
}

static void watched_operands(u64 arg)
{
	u64 rsi, rdi, rcx, rsp, a = 0;

	(void)arg;
	/* Memory that an instruction touches beside the device. */
	start();
	watch(1, (u64)ram + 8, ON_WRITE, SIZE_4);
	rsi = MMIO_GPA, rdi = (u64)ram + 8;
	WATCHED("movsl", "+S"(rsi), "+D"(rdi) :: "memory");
	GUEST_TRAPPED(2);
	rsi = (u64)ram + 8, rdi = MMIO_GPA;
	WATCHED("movsl", "+S"(rsi), "+D"(rdi) :: "memory");
	GUEST_EQ(0, nr_traps);				/* read only */
	watch(2, (u64)ram + 8, ON_ACCESS, SIZE_1);
	watch(3, MMIO_GPA, ON_WRITE, SIZE_1);
	rsi = (u64)ram + 8, rdi = MMIO_GPA;
	WATCHED("movsl", "+S"(rsi), "+D"(rdi) :: "memory");
	GUEST_TRAPPED(4 | 8);				/* one trap tells of both */
	rsp = (u64)ram + 16;
	WATCHED("xchgq %%rsp, %1; pushq (%2); xchgq %%rsp, %1", "+a"(a), "+r"(rsp) : "d"(MMIO_GPA) : "memory");
	GUEST_EQ(1, nr_traps);
	GUEST_EQ(DR6_CLEAR | 2 | 4, traps[0].dr6);
	/* A single step and a breakpoint: one trap again. */
	start();
	watch(0, MMIO_GPA, ON_ACCESS, SIZE_8);
	STEPPED("movl (%1), %k0", "+a"(a) : "d"(MMIO_GPA + 4) : "memory");
	GUEST_TRAPPED(DR6_BS | 1);
	/* Sticky: what is not of a breakpoint stays. */
	write_dr6(DR6_CLEAR | DR6_BS | DR6_BD | DR6_BT | 0xe);
	WATCHED("movl (%1), %k0", "+a"(a) : "d"(MMIO_GPA + 4) : "memory");
	GUEST_TRAPPED(DR6_BS | DR6_BD | DR6_BT | 1);
	/* Of a REP the round that met it, and RF says that rounds are left. */
	start();
	watch(0, MMIO_GPA + 5, ON_WRITE, SIZE_1);
	rcx = 8, rdi = MMIO_GPA;
	WATCHED("rep stosb", "+c"(rcx), "+D"(rdi) : "a"(0) : "memory");
	GUEST_EQ(1, nr_traps);
	GUEST_EQ(2, traps[0].rcx);
	GUEST_EQ(next_rip - 2, traps[0].rip);
	GUEST_TRUE(traps[0].rflags & RFLAGS_RF);
	GUEST_EQ(DR6_CLEAR | 1, traps[0].dr6);
	/* In the shadow of MOV SS, which an emulated instruction ends. */
	start();
	watch(0, MMIO_GPA, ON_WRITE, SIZE_4);
	WATCHED("movl %%ss, %%eax; movl %%eax, %%ss; movl %%eax, (%1)", "+a"(a) : "d"(MMIO_GPA) : "memory");
	GUEST_TRAPPED(1);
}

TEST(breakpoints_watch_both_operands_each_round_and_beside_tf)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	run_guest(watched_operands, 0);
}

static void watched_devices(u64 arg)
{
	u64 a = 0;

	(void)arg;
	apic_enable();
	start();
	watch(0, IOAPIC_BASE, ON_WRITE, SIZE_4);
	watch(1, APIC_BASE + APIC_TPR, ON_ACCESS, SIZE_4);
	WATCHED("movl %k0, (%1)", "+a"(a) : "d"(IOAPIC_BASE) : "memory");
	GUEST_TRAPPED(1);
	WATCHED("movl %k0, (%1)", "+a"(a) : "d"(APIC_BASE + APIC_TPR) : "memory");
	GUEST_TRAPPED(2);
	WATCHED("movl (%1), %k0", "+a"(a) : "d"(APIC_BASE + APIC_TPR) : "memory");
	GUEST_TRAPPED(2);
	WATCHED("movl (%1), %k0", "+a"(a) : "d"(IOAPIC_BASE) : "memory");
	GUEST_EQ(0, nr_traps);
}

TEST(breakpoints_watch_devices_of_the_kernels)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	run_guest(watched_devices, VM_IRQCHIP);
}

/* --- Breakpoints on ports --- */

/* Every instruction that accesses a port once. */
static void port_access(u32 kind, u32 size, u16 port)
{
	u64 a = 0xff, rsi = (u64)ram, rdi = (u64)ram;

	switch (kind << 4 | size) {
	case READ << 4 | 1:
		WATCHED("inb %%dx, %%al", "+a"(a) : "d"(port) : "memory");
		break;
	case READ << 4 | 2:
		WATCHED("inw %%dx, %%ax", "+a"(a) : "d"(port) : "memory");
		break;
	case READ << 4 | 4:
		WATCHED("inl %%dx, %%eax", "+a"(a) : "d"(port) : "memory");
		break;
	case WRITE << 4 | 1:
		WATCHED("outb %%al, %%dx", "+a"(a) : "d"(port) : "memory");
		break;
	case WRITE << 4 | 2:
		WATCHED("outw %%ax, %%dx", "+a"(a) : "d"(port) : "memory");
		break;
	case WRITE << 4 | 4:
		WATCHED("outl %%eax, %%dx", "+a"(a) : "d"(port) : "memory");
		break;
	case MODIFY << 4 | 1:
		WATCHED("insb", "+D"(rdi) : "d"(port) : "memory");
		break;
	case MODIFY << 4 | 2:
		WATCHED("outsw", "+S"(rsi) : "d"(port) : "memory");
		break;
	case MODIFY << 4 | 4:
		WATCHED("outsl", "+S"(rsi) : "d"(port) : "memory");
		break;
	}
}

static void watched_ports(u64 base)
{
	start();
	write_cr4(CR4_DE, 0);
	for (u32 len = 0; len < 4; len++) {
		for (u32 kind = 0; kind < NR_KINDS; kind++) {
			for (u64 watched = base - 5; watched < base + 6; watched++) {
				u32 n = watched & 3, size = 1 << watched % 3;

				write_dr(n, watched);
				write_dr7(LOCAL(n) | CONTROL(n, ON_PORT, len));
				port_access(kind, size, base);
				if (touches(base, size, watched, sizes[len]))
					GUEST_TRAPPED(1u << n);
				GUEST_EQ(0, nr_traps);
			}
		}
	}
	/* Other kinds of breakpoints are on memory, and without CR4.DE there are none on ports. */
	write_dr(0, base);
	write_dr7(LOCAL(0) | CONTROL(0, ON_ACCESS, SIZE_4));
	port_access(READ, 1, base);
	GUEST_EQ(0, nr_traps);
	write_cr4(0, CR4_DE);
	write_dr7(LOCAL(0) | CONTROL(0, ON_PORT, SIZE_4));
	port_access(READ, 1, base);
	port_access(WRITE, 1, base);
	port_access(MODIFY, 1, base);
	GUEST_EQ(0, nr_traps);
}

static void watched_rep_ports(u64 arg)
{
	u64 rcx = 4, rdi = (u64)ram;

	(void)arg;
	watched_ports(PORT);
	watched_ports(PIC_MASK);
	write_cr4(CR4_DE, 0);
	start();
	watch(0, PORT, ON_PORT, SIZE_1);
	watch(1, (u64)ram + 2, ON_WRITE, SIZE_1);
	WATCHED("rep insb", "+c"(rcx), "+D"(rdi) : "d"(PORT) : "memory");
	GUEST_EQ(4, nr_traps);
	for (u32 i = 0; i < 4; i++) {
		GUEST_EQ(3 - i, traps[i].rcx);
		GUEST_EQ(DR6_CLEAR | (i == 2 ? 3 : 1), traps[i].dr6);
	}
}

TEST(breakpoints_watch_ports)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them");
	run_guest(watched_rep_ports, VM_IRQCHIP);
}

/* --- INT1 --- */

static void int1(u64 arg)
{
	(void)arg;
	start();
	WATCHED(".byte 0xf1", "+m"(ram[0]));
	GUEST_TRAPPED(0);
}

TEST(int1_is_a_trap_that_dr6_does_not_tell_of)
{
	run_guest(int1, 0);
}

/* --- Code of 16 bits: what is watched are linear addresses --- */

CODE_BLOB(real_code, 16,
	"movw %ax, 0x10\n\t"			/* DS's base is the device's */
	"movb $1, %al; outb %al, $0x77; hlt");
CODE_BLOB(real_handler, 16,
	"movb $2, %al; outb %al, $0x77; hlt");

static void set_debugregs(struct vcpu *vcpu, u64 dr0, u64 dr7)
{
	struct kvm_debugregs regs = { .db = { dr0 }, .dr6 = DR6_CLEAR, .dr7 = DR7_FIXED | dr7 };

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
}

/* In real mode with a data segment far up. Returns what the guest says: 1 no trap, 2 a trap. */
static u8 watch_real(u64 watched)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_run *run = vcpu->run;
	struct kvm_sregs sregs;

	vm_load(vm, CODE_GPA, real_code, real_code_end);
	vm_load(vm, CODE_GPA + 0x100, real_handler, real_handler_end);
	*(u16 *)(vm->low + 4 * VEC_DB) = CODE_GPA + 0x100;
	vcpu_set_real(vcpu, CODE_GPA);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.ds.base = MMIO_GPA;
	vcpu_set_sregs(vcpu, &sregs);
	set_debugregs(vcpu, watched, LOCAL(0) | CONTROL(0, ON_WRITE, SIZE_2));
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(MMIO_GPA + 0x10, run->mmio.phys_addr);
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	return *((u8 *)run + run->io.data_offset);
}

TEST(breakpoints_are_linear_addresses_in_16_bit_code_too)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	EXPECT_EQ(2, watch_real(MMIO_GPA + 0x10));
	EXPECT_EQ(1, watch_real(MMIO_GPA + 0x12));
	EXPECT_EQ(1, watch_real(0x10));
}

/* --- The same, by userspace --- */

static void set_debug(struct vcpu *vcpu, u32 control, int n, u64 addr, u64 dr7)
{
	struct kvm_guest_debug dbg = { .control = control };

	dbg.arch.debugreg[n] = addr;
	dbg.arch.debugreg[7] = DR7_FIXED | dr7;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &dbg));
}

#define HW_BP (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP)
#define STEP (KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP)

extern const u8 user_store[], user_stored[], user_rep[], user_repped[], user_in[], user_done[];

/* The guest's own breakpoint is on the same place, and does not count meanwhile. */
static void user_watched(u64 arg)
{
	u64 rdi = MMIO_GPA, rcx = 3;

	(void)arg;
	start();
	watch(1, MMIO_GPA, ON_ACCESS, SIZE_4);
	stage(1);
	asm volatile("user_store: movl %%eax, (%%rdi)\n"
		     "user_stored: nop\n"
		     "user_rep: rep stosb\n"
		     "user_repped: nop\n"
		     "user_in: inb %%dx, %%al\n"
		     "user_done: nop" : "+D"(rdi), "+c"(rcx) : "a"(0), "d"(PORT) : "memory");
	stage(2);
	GUEST_EQ(arg, nr_traps);
}

static void expect_debug(struct vcpu *vcpu, const u8 *rip, u64 dr6)
{
	struct kvm_run *run = vcpu->run;
	struct kvm_regs regs;

	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ((u64)rip, regs.rip);
	EXPECT_EQ((u64)rip, run->debug.arch.pc);
	EXPECT_EQ(VEC_DB, run->debug.arch.exception);
	EXPECT_EQ(DR6_CLEAR | dr6, run->debug.arch.dr6);
}

TEST(userspaces_breakpoints_watch_emulated_accesses)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), user_watched, 0);
	struct kvm_debugregs before, after;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &before));
	set_debug(vcpu, HW_BP, 2, MMIO_GPA + 2, LOCAL(2) | CONTROL(2, ON_WRITE, SIZE_2));
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	expect_debug(vcpu, user_stored, 4);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	expect_debug(vcpu, user_repped, 4);
	set_debug(vcpu, HW_BP, 2, PORT, LOCAL(2) | CONTROL(2, ON_PORT, SIZE_1));
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);		/* the guest's CR4.DE is clear */
	vcpu_run_to_stage(vcpu, 2);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &after));
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	vcpu_run_to_done(vcpu);
}

TEST(userspace_steps_through_the_rounds_of_an_emulated_rep)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), user_watched, 0);
	struct kvm_regs regs;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (is_linux_kvm())
		SKIP("Linux KVM steps over all rounds");
	vcpu_run_to_stage(vcpu, 1);
	/* Breakpoints of userspace that are not met hide the guest's own. */
	set_debug(vcpu, HW_BP, 0, (u64)user_store, LOCAL(0));
	expect_debug(vcpu, user_store, 1);
	set_debug(vcpu, HW_BP | STEP, 3, MMIO_GPA + 1, LOCAL(3) | CONTROL(3, ON_ACCESS, SIZE_1));
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	expect_debug(vcpu, user_stored, DR6_BS | 8);
	expect_debug(vcpu, user_rep, DR6_BS);
	for (u64 i = 3; i > 0; i--) {
		vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
		expect_debug(vcpu, i == 1 ? user_repped : user_rep, DR6_BS | (i == 2 ? 8 : 0));
		vcpu_get_regs(vcpu, &regs);
		EXPECT_EQ(i - 1, regs.rcx);
	}
	expect_debug(vcpu, user_in, DR6_BS);
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	expect_debug(vcpu, user_done, DR6_BS);
	set_debug(vcpu, 0, 0, 0, 0);
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_done(vcpu);
}

/*
 * Who steps only gets the guest's own traps to hand back, as of instructions that the
 * processor runs.
 */
TEST(a_guests_own_breakpoint_is_told_to_userspace_that_steps)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), user_watched, 4);	/* and three in the REP */

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them where it emulates");
	vcpu_run_to_stage(vcpu, 1);
	set_debug(vcpu, HW_BP, 0, (u64)user_store, LOCAL(0));
	expect_debug(vcpu, user_store, 1);
	set_debug(vcpu, STEP, 0, 0, 0);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	expect_debug(vcpu, user_stored, DR6_BS | 2);
	set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB, 0, 0, 0);
	for (int i = 0; i < 3; i++)
		vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_stage(vcpu, 2);
}
