/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a guest inside a test can use.
 *
 * A long-mode guest is a plain C function of the test binary: the binary's
 * image is a memory slot whose guest address equals its host address, so
 * guest and host share every global variable and every pointer to one. A
 * guest must not call the C library, which lies outside of the image.
 *
 * A guest speaks to the host through OUT to the ports below; a failed check in
 * a guest fails the test with file, line and values.
 *
 * State: the page tables, descriptor tables, stacks, trap handlers and
 * interrupt counters of the one guest that a test process runs.
 * Read next: lib/guest.c, lib/entry.S.
 */
#ifndef GUEST_H
#define GUEST_H

#include "ktap.h"
#include "types.h"

#define GUEST_CPUS 16

/* Ports that the library's run loop understands. */
#define PORT_STAGE 0x5100	/* 32-bit OUT: a stage was reached */
#define PORT_DONE 0x5104	/* 32-bit OUT: the guest function returned */
#define PORT_FAIL 0x5108	/* 32-bit OUT: address of a struct guest_failure */

/* Segment selectors. */
#define SEL_CODE64 0x08
#define SEL_DATA 0x10
#define SEL_CODE32 0x18
#define SEL_CODE16 0x20
#define SEL_USER_CODE 0x2b
#define SEL_USER_DATA 0x33
#define SEL_TSS 0x38

/* Exception vectors. */
#define VEC_DE 0
#define VEC_DB 1
#define VEC_NMI 2
#define VEC_BP 3
#define VEC_UD 6
#define VEC_DF 8
#define VEC_GP 13
#define VEC_PF 14
#define VEC_NONE 0x1ff		/* a GUEST_TRY that met no exception */

/* No page table maps this address. */
#define GUEST_UNMAPPED 0x8000000000ull

#define CR0_PE (1ull << 0)
#define CR0_MP (1ull << 1)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_WP (1ull << 16)
#define CR0_NW (1ull << 29)
#define CR0_CD (1ull << 30)
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_OSFXSR (1ull << 9)
#define CR4_OSXMMEXCPT (1ull << 10)
#define CR4_OSXSAVE (1ull << 18)
#define EFER_SCE (1ull << 0)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)
#define RFLAGS_FIXED (1ull << 1)
#define RFLAGS_TF (1ull << 8)
#define RFLAGS_IF (1ull << 9)
#define RFLAGS_DF (1ull << 10)

#define MSR_TSC 0x10
#define MSR_APICBASE 0x1b
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800
#define MSR_MC0_STATUS 0x401
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_HWCR 0xc0010015
#define APICBASE_BSP (1ull << 8)
#define APICBASE_X2APIC (1ull << 10)
#define APICBASE_ENABLE (1ull << 11)

/* Local APIC registers, by their offset in the xAPIC page. */
#define APIC_BASE 0xfee00000ull
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_TPR 0x80
#define APIC_APR 0x90
#define APIC_PPR 0xa0
#define APIC_EOI 0xb0
#define APIC_LDR 0xd0
#define APIC_DFR 0xe0
#define APIC_SPIV 0xf0
#define APIC_ISR 0x100
#define APIC_TMR 0x180
#define APIC_IRR 0x200
#define APIC_ESR 0x280
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define APIC_LVTT 0x320
#define APIC_LVTTHMR 0x330
#define APIC_LVTPC 0x340
#define APIC_LVT0 0x350
#define APIC_LVT1 0x360
#define APIC_LVTERR 0x370
#define APIC_TMICT 0x380
#define APIC_TMCCT 0x390
#define APIC_TDCR 0x3e0
#define APIC_SELF_IPI 0x3f0

#define ICR_FIXED 0x000
#define ICR_LOWEST 0x100
#define ICR_SMI 0x200
#define ICR_NMI 0x400
#define ICR_INIT 0x500
#define ICR_STARTUP 0x600
#define ICR_LOGICAL 0x800
#define ICR_ASSERT 0x4000
#define ICR_LEVEL 0x8000
#define ICR_SELF 0x40000
#define ICR_ALL 0x80000
#define ICR_OTHERS 0xc0000

#define LVT_MASKED 0x10000
#define LVT_PERIODIC 0x20000
#define LVT_DEADLINE 0x40000
#define LVT_EXTINT 0x700
#define LVT_NMI 0x400
#define SPIV_ENABLE 0x100

/* IOAPIC: index, data, registers, redirection table entry bits. */
#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_REG_ID 0
#define IOAPIC_REG_VERSION 1
#define IOAPIC_REG_RTE 0x10
#define RTE_LOWEST 0x100ull
#define RTE_NMI 0x400ull
#define RTE_EXTINT 0x700ull
#define RTE_LOGICAL 0x800ull
#define RTE_PENDING 0x1000ull
#define RTE_LOW 0x2000ull
#define RTE_REMOTE_IRR 0x4000ull
#define RTE_LEVEL 0x8000ull
#define RTE_MASKED 0x10000ull
#define RTE_DEST(id) ((u64)(id) << 56)

/* What the trap entry leaves on the stack (lib/entry.S). */
struct guest_frame {
	u64 r15, r14, r13, r12, r11, r10, r9, r8;
	u64 rbp, rdi, rsi, rdx, rcx, rbx, rax;
	u64 vector, error;
	u64 rip, cs, rflags, rsp, ss;
};

struct guest_failure {
	const char *file;
	u32 line;
	const char *text;
	u64 want, seen;
};

/* What the last GUEST_TRY() met. One vCPU at a time may use it. */
struct guest_caught {
	u64 resume;
	u64 vector, error, cr2, rip;
};

typedef void (*guest_handler)(struct guest_frame *frame);

extern volatile struct guest_caught guest_caught;
extern guest_handler guest_handlers[256];
/* How often irq_count() ran for each vector, on any vCPU. */
extern volatile u32 irqs[256];
/* True makes irq_count() end its interrupt through the x2APIC. */
extern bool guest_x2apic;

extern u64 guest_pml4[512], guest_pdpt[512], guest_pd[4][512];
extern u64 guest_gdt[8], guest_idt[512];
extern u8 guest_tss[GUEST_CPUS][104];
extern u8 guest_stacks[GUEST_CPUS][16384];

/* lib/entry.S: the address a guest function returns to. */
void guest_return(void);
/*
 * lib/entry.S: real-mode code that brings an AP to long mode and calls
 * guest_ap_entry(guest_ap_count before it was incremented) on a stack of its
 * own. Put it into guest memory with vm_load() at AP_TRAMPOLINE.
 */
#define AP_TRAMPOLINE 0x8000
#define AP_VECTOR (AP_TRAMPOLINE >> 12)
extern const u8 ap_trampoline[], ap_trampoline_end[];
extern void (*guest_ap_entry)(u64 index);
extern volatile u64 guest_ap_count;

/* Handlers for guest_handlers[]: count in irqs[] and end of interrupt. */
void irq_count(struct guest_frame *frame);
/* The same without the end of interrupt (NMI, ExtINT, exceptions). */
void irq_count_only(struct guest_frame *frame);
/* Sets irq_count for all vectors from first to last. */
void irq_count_range(unsigned int first, unsigned int last);

void guest_fail(const char *file, u32 line, const char *text, u64 want,
		u64 seen) __attribute__((noreturn));

#define GUEST_EQ(want, seen) do {					\
	u64 want_ = (u64)(want);					\
	u64 seen_ = (u64)(seen);					\
	if (want_ != seen_)						\
		guest_fail(__FILE__, __LINE__, #want " == " #seen,	\
			   want_, seen_);				\
} while (0)
#define GUEST_TRUE(cond) GUEST_EQ(1, !!(cond))

/* Spins until the condition holds: another vCPU or the host makes it so. */
#define GUEST_WAIT(cond) do {						\
	while (!(cond))							\
		cpu_relax();						\
} while (0)

/*
 * Runs one instruction and says which exception it raised, VEC_NONE for none;
 * guest_caught has the details. asm operands may follow, outputs first.
 */
#define GUEST_TRY(insn, ...) ({						\
	guest_caught.vector = VEC_NONE;					\
	asm volatile("movq $771f, guest_caught\n\t"			\
		     insn "\n"						\
		     "771:\tmovq $0, guest_caught"			\
		     : __VA_ARGS__);					\
	guest_caught.vector;						\
})

static inline void cpu_relax(void)
{
	asm volatile("pause" ::: "memory");
}

static inline void barrier(void)
{
	asm volatile("" ::: "memory");
}

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" :: "a"(value), "Nd"(port) : "memory");
}

static inline void outw(u16 port, u16 value)
{
	asm volatile("outw %0, %1" :: "a"(value), "Nd"(port) : "memory");
}

static inline void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" :: "a"(value), "Nd"(port) : "memory");
}

static inline u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline u16 inw(u16 port)
{
	u16 value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline u32 inl(u16 port)
{
	u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

/* Tells the host that a named point was reached. */
static inline void stage(u32 number)
{
	outl(PORT_STAGE, number);
}

static inline u64 rdmsr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return (u64)high << 32 | low;
}

static inline void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" :: "c"(msr), "a"((u32)value),
		     "d"((u32)(value >> 32)) : "memory");
}

/* The exception that RDMSR or WRMSR raised, VEC_NONE for none. */
static inline u64 rdmsr_try(u32 msr, u64 *value)
{
	u32 low = 0, high = 0;
	u64 vector;

	vector = GUEST_TRY("rdmsr", "+a"(low), "+d"(high) : "c"(msr) : "memory");
	*value = (u64)high << 32 | low;
	return vector;
}

static inline u64 wrmsr_try(u32 msr, u64 value)
{
	return GUEST_TRY("wrmsr", "+c"(msr) : "a"((u32)value),
			 "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdtsc(void)
{
	u32 low, high;

	asm volatile("rdtsc" : "=a"(low), "=d"(high) :: "memory");
	return (u64)high << 32 | low;
}

static inline void cpuid(u32 leaf, u32 index, u32 out[4])
{
	asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]),
		     "=d"(out[3]) : "a"(leaf), "c"(index));
}

static inline void cli(void)
{
	asm volatile("cli" ::: "memory");
}

static inline void sti(void)
{
	asm volatile("sti" ::: "memory");
}

/* Lets what is pending come in now: one instruction outside STI's shadow. */
static inline void sti_nop_cli(void)
{
	asm volatile("sti; nop; nop; cli" ::: "memory");
}

/* Halts with interrupts on; off again after the one that woke it. */
static inline void sti_hlt_cli(void)
{
	asm volatile("sti; hlt; cli" ::: "memory");
}

static inline u64 read_cr8(void)
{
	u64 value;

	asm volatile("mov %%cr8, %0" : "=r"(value) :: "memory");
	return value;
}

static inline void write_cr8(u64 value)
{
	asm volatile("mov %0, %%cr8" :: "r"(value) : "memory");
}

static inline u32 mmio_read32(u64 addr)
{
	u32 value;

	asm volatile("movl (%1), %0" : "=r"(value) : "r"(addr) : "memory");
	return value;
}

static inline void mmio_write32(u64 addr, u32 value)
{
	asm volatile("movl %0, (%1)" :: "r"(value), "r"(addr) : "memory");
}

static inline u32 apic_read(u32 reg)
{
	return mmio_read32(APIC_BASE + reg);
}

static inline void apic_write(u32 reg, u32 value)
{
	mmio_write32(APIC_BASE + reg, value);
}

/* xAPIC: high half first, the write of the low half sends. */
static inline void apic_icr(u32 dest, u32 command)
{
	apic_write(APIC_ICR2, dest << 24);
	apic_write(APIC_ICR, command);
}

static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}

/* Switches the xAPIC on in its own software enable, spurious vector 0xff. */
static inline void apic_enable(void)
{
	apic_write(APIC_SPIV, SPIV_ENABLE | 0xff);
}

static inline u64 x2apic_read(u32 reg)
{
	return rdmsr(MSR_X2APIC + (reg >> 4));
}

static inline void x2apic_write(u32 reg, u64 value)
{
	wrmsr(MSR_X2APIC + (reg >> 4), value);
}

static inline void x2apic_icr(u32 dest, u32 command)
{
	x2apic_write(APIC_ICR, (u64)dest << 32 | command);
}

/* To x2APIC mode, software-enabled, with irq_count() following. */
static inline void x2apic_enable(void)
{
	wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) | APICBASE_ENABLE |
	      APICBASE_X2APIC);
	x2apic_write(APIC_SPIV, SPIV_ENABLE | 0xff);
	guest_x2apic = true;
}

/* One bit of a 256-bit register: IRR, ISR or TMR. */
static inline bool apic_bit(u32 reg, u32 vector)
{
	return apic_read(reg + (vector >> 5) * 16) >> (vector & 31) & 1;
}

static inline u32 ioapic_read(u32 reg)
{
	mmio_write32(IOAPIC_BASE, reg);
	return mmio_read32(IOAPIC_BASE + 0x10);
}

static inline void ioapic_write(u32 reg, u32 value)
{
	mmio_write32(IOAPIC_BASE, reg);
	mmio_write32(IOAPIC_BASE + 0x10, value);
}

static inline u64 rte_read(u32 pin)
{
	u32 low = ioapic_read(IOAPIC_REG_RTE + pin * 2);

	return (u64)ioapic_read(IOAPIC_REG_RTE + pin * 2 + 1) << 32 | low;
}

/* Destination first, so that the entry is whole when it is unmasked. */
static inline void rte_write(u32 pin, u64 rte)
{
	ioapic_write(IOAPIC_REG_RTE + pin * 2 + 1, rte >> 32);
	ioapic_write(IOAPIC_REG_RTE + pin * 2, rte);
}

/*
 * The PICs: vectors base to base + 7 and base + 8 to base + 15; initialization
 * leaves all lines open.
 */
#define PIC_MASTER 0x20
#define PIC_SLAVE 0xa0
#define ICW4_8086 1
#define ICW4_AUTO_EOI 2
#define OCW2_EOI 0x20

static inline void pic_mask(u16 mask)
{
	outb(PIC_MASTER + 1, mask);
	outb(PIC_SLAVE + 1, mask >> 8);
}

static inline void pic_init(u8 base, u8 icw4)
{
	outb(PIC_MASTER, 0x11);
	outb(PIC_MASTER + 1, base);
	outb(PIC_MASTER + 1, 1 << 2);
	outb(PIC_MASTER + 1, icw4);
	outb(PIC_SLAVE, 0x11);
	outb(PIC_SLAVE + 1, base + 8);
	outb(PIC_SLAVE + 1, 2);
	outb(PIC_SLAVE + 1, icw4);
}

#endif
