// SPDX-License-Identifier: GPL-2.0
/*
 * The guest side of the library: tables, trap dispatch, interrupt counters.
 * Everything here runs in the guest, save guest_init_tables().
 *
 * State: see guest.h.
 * Read next: lib/entry.S, lib/vm.c.
 */
#include "guest.h"
#include "lib.h"

#define PAGE_PRESENT 1ull
#define PAGE_WRITE 2ull
#define PAGE_USER 4ull
#define PAGE_LARGE 0x80ull
#define TABLE_FLAGS (PAGE_PRESENT | PAGE_WRITE | PAGE_USER)

u64 guest_pml4[512] __attribute__((aligned(4096)));
u64 guest_pdpt[512] __attribute__((aligned(4096)));
u64 guest_pd[4][512] __attribute__((aligned(4096)));
u64 guest_idt[512] __attribute__((aligned(16)));
u8 guest_tss[GUEST_CPUS][104] __attribute__((aligned(16)));
u8 guest_stacks[GUEST_CPUS][16384] __attribute__((aligned(16)));
u64 guest_gdt[8] __attribute__((aligned(16))) = {
	[SEL_CODE64 / 8] = 0x00af9b000000ffff,
	[SEL_DATA / 8] = 0x00cf93000000ffff,
	[SEL_CODE32 / 8] = 0x00cf9b000000ffff,
	[SEL_CODE16 / 8] = 0x00009b000000ffff,
	[SEL_USER_CODE / 8] = 0x00affb000000ffff,
	[SEL_USER_DATA / 8] = 0x00cff3000000ffff,
};

/* The operand of LIDT, for an AP that brings itself up. */
struct guest_idtr {
	u16 limit;
	u64 base;
} __attribute__((packed)) guest_idtr = { sizeof(guest_idt) - 1, 0 };

volatile struct guest_caught guest_caught;
guest_handler guest_handlers[256];
volatile u32 irqs[256];
bool guest_x2apic;
void (*guest_ap_entry)(u64 index);
volatile u64 guest_ap_count;

extern const u8 guest_trap_entries[];

static void fill_idt_gate(u64 *gate, u64 entry)
{
	const u64 present_interrupt_gate = 0x8e00ull << 32;

	gate[0] = (entry & 0xffff) | SEL_CODE64 << 16 | present_interrupt_gate |
		  (entry >> 16 & 0xffff) << 48;
	gate[1] = entry >> 32;
}

void guest_init_tables(void)
{
	guest_pml4[0] = (u64)guest_pdpt | TABLE_FLAGS;
	for (u64 gib = 0; gib < 4; gib++) {
		guest_pdpt[gib] = (u64)guest_pd[gib] | TABLE_FLAGS;
		for (u64 i = 0; i < 512; i++)
			guest_pd[gib][i] = (gib << 30 | i << 21) | TABLE_FLAGS |
					   PAGE_LARGE;
	}
	for (unsigned int vector = 0; vector < 256; vector++)
		fill_idt_gate(guest_idt + vector * 2,
			      (u64)guest_trap_entries + vector * 16);
	guest_idtr.base = (u64)guest_idt;
}

void guest_fail(const char *file, u32 line, const char *text, u64 want,
		u64 seen)
{
	struct guest_failure failure = { file, line, text, want, seen };

	for (;;)
		outl(PORT_FAIL, (u32)(u64)&failure);
}

void guest_trap(struct guest_frame *frame)
{
	guest_handler handler = guest_handlers[frame->vector & 255];
	u64 cr2 = 0;

	if (handler) {
		handler(frame);
		return;
	}
	if (frame->vector == VEC_PF)
		asm volatile("mov %%cr2, %0" : "=r"(cr2));
	if (frame->vector < 32 && guest_caught.resume) {
		guest_caught.vector = frame->vector;
		guest_caught.error = frame->error;
		guest_caught.cr2 = cr2;
		guest_caught.rip = frame->rip;
		frame->rip = guest_caught.resume;
		guest_caught.resume = 0;
		return;
	}
	guest_fail("guest", (u32)frame->vector,
		   "unexpected vector (line = vector; rip, error or cr2)",
		   frame->rip, frame->vector == VEC_PF ? cr2 : frame->error);
}

void irq_count_only(struct guest_frame *frame)
{
	__atomic_add_fetch(&irqs[frame->vector & 255], 1, __ATOMIC_SEQ_CST);
}

void irq_count(struct guest_frame *frame)
{
	irq_count_only(frame);
	if (guest_x2apic)
		x2apic_write(APIC_EOI, 0);
	else
		apic_eoi();
}

void irq_count_range(unsigned int first, unsigned int last)
{
	for (unsigned int vector = first; vector <= last; vector++)
		guest_handlers[vector] = irq_count;
}
