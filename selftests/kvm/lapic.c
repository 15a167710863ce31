// SPDX-License-Identifier: GPL-2.0
/*
 * The local APIC as its own vCPU sees it: registers in xAPIC and x2APIC mode,
 * priorities, self-IPIs, the timer, and KVM_GET_LAPIC / KVM_SET_LAPIC.
 *
 * Read next: ipi.c (between vCPUs), ioapic.c.
 */
#include <sched.h>
#include <string.h>

#include "vm.h"

/* For guests, which cannot ask: Linux KVM's departures from the manuals. */
static bool on_linux_kvm;

static struct vm *run_guest(void (*guest)(u64 arg))
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	on_linux_kvm = is_linux_kvm();
	vcpu_run_to_done(vcpu_add(vm, guest, 0));
	return vm;
}

/* --- xAPIC registers --- */

static void reset_values(u64 arg)
{
	(void)arg;
	GUEST_EQ(0, apic_read(APIC_ID));
	GUEST_EQ(0x10, apic_read(APIC_VERSION) & 0xf0);
	GUEST_TRUE((apic_read(APIC_VERSION) >> 16 & 0xff) >= 3);
	GUEST_EQ(0, apic_read(APIC_TPR));
	GUEST_EQ(0, apic_read(APIC_PPR));
	GUEST_EQ(0, apic_read(APIC_LDR));
	GUEST_EQ(0xffffffff, apic_read(APIC_DFR));
	GUEST_EQ(0xff, apic_read(APIC_SPIV));
	GUEST_EQ(LVT_MASKED, apic_read(APIC_LVTT));
	GUEST_EQ(LVT_MASKED, apic_read(APIC_LVT1));
	GUEST_EQ(LVT_MASKED, apic_read(APIC_LVTERR));
	GUEST_EQ(0, apic_read(APIC_TMICT));
	GUEST_EQ(0, apic_read(APIC_TMCCT));
	GUEST_EQ(0, apic_read(APIC_TDCR));
	for (u32 i = 0; i < 8; i++) {
		GUEST_EQ(0, apic_read(APIC_ISR + i * 16));
		GUEST_EQ(0, apic_read(APIC_IRR + i * 16));
		GUEST_EQ(0, apic_read(APIC_TMR + i * 16));
	}
}

TEST(xapic_registers_have_their_reset_values)
{
	run_guest(reset_values);
}

static void writable_registers(u64 arg)
{
	(void)arg;
	apic_enable();
	/* The low four bits are the register's too; Linux KVM loses them. */
	apic_write(APIC_TPR, on_linux_kvm ? 0xffffff40 : 0xffffff42);
	GUEST_EQ(on_linux_kvm ? 0x40 : 0x42, apic_read(APIC_TPR));
	GUEST_EQ(apic_read(APIC_TPR), apic_read(APIC_PPR));
	apic_write(APIC_LDR, 0x12ffffff);
	GUEST_EQ(0x12000000, apic_read(APIC_LDR));
	apic_write(APIC_DFR, 0x00000000);
	GUEST_EQ(0x0fffffff, apic_read(APIC_DFR));
	apic_write(APIC_TDCR, 0xffffffff);
	GUEST_EQ(0xb, apic_read(APIC_TDCR));
	apic_write(APIC_ICR2, 0x55ffffff);
	GUEST_EQ(0x55000000, apic_read(APIC_ICR2) & 0xff000000);
	apic_write(APIC_LVTERR, 0xffffffff);
	GUEST_EQ(0x100ff, apic_read(APIC_LVTERR) & ~0x1000);
	apic_write(APIC_LVT0, 0x700);
	GUEST_EQ(0x700, apic_read(APIC_LVT0));
	apic_write(APIC_LVT1, 0x400);
	GUEST_EQ(0x400, apic_read(APIC_LVT1));
	/* Read-only ones. */
	apic_write(APIC_PPR, 0xff);
	GUEST_EQ(apic_read(APIC_TPR), apic_read(APIC_PPR));
	apic_write(APIC_IRR, 0xffffffff);
	GUEST_EQ(0, apic_read(APIC_IRR));
	apic_write(APIC_TMCCT, 5);
	GUEST_EQ(0, apic_read(APIC_TMCCT));
}

TEST(xapic_registers_keep_their_writable_bits_only)
{
	run_guest(writable_registers);
}

static void software_disable(u64 arg)
{
	(void)arg;
	apic_enable();
	apic_write(APIC_LVT0, 0x700);
	apic_write(APIC_LVTT, 0x40);
	apic_write(APIC_SPIV, 0xff);
	GUEST_EQ(0x700 | LVT_MASKED, apic_read(APIC_LVT0));
	GUEST_EQ(0x40 | LVT_MASKED, apic_read(APIC_LVTT));
	/* While disabled, a mask bit cannot be cleared. */
	apic_write(APIC_LVTT, 0x41);
	GUEST_EQ(0x41 | LVT_MASKED, apic_read(APIC_LVTT));
	apic_enable();
	apic_write(APIC_LVTT, 0x41);
	GUEST_EQ(0x41, apic_read(APIC_LVTT));
}

TEST(software_disable_masks_every_lvt)
{
	run_guest(software_disable);
}

static void disabled_takes_no_fixed(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_write(APIC_SPIV, 0xff);
	apic_icr(0, ICR_SELF | 0x50);
	sti_nop_cli();
	GUEST_EQ(0, irqs[0x50]);
	GUEST_TRUE(!apic_bit(APIC_IRR, 0x50));
}

TEST(a_software_disabled_apic_takes_no_fixed_interrupt)
{
	run_guest(disabled_takes_no_fixed);
}

static void self_ipi(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_icr(0, ICR_SELF | 0x31);
	GUEST_TRUE(apic_bit(APIC_IRR, 0x31));
	GUEST_EQ(0, irqs[0x31]);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x31]);
	GUEST_TRUE(!apic_bit(APIC_IRR, 0x31));
	GUEST_TRUE(!apic_bit(APIC_ISR, 0x31));
	GUEST_EQ(0, apic_read(APIC_ICR) & 0x1000);
	/* Twice before it is taken is once. */
	apic_icr(0, ICR_SELF | 0x31);
	apic_icr(0, ICR_SELF | 0x31);
	sti_nop_cli();
	sti_nop_cli();
	GUEST_EQ(2, irqs[0x31]);
}

TEST(a_self_ipi_waits_in_irr_and_arrives_once)
{
	run_guest(self_ipi);
}

/*
 * The vectors that may be sent, less 17 and 21: exceptions with these numbers
 * push an error code, which the trap entries expect, and interrupts do not.
 */
static bool testable(u32 vector)
{
	return vector >= 0x10 && vector != 17 && vector != 21;
}

static u32 testable_word(u32 i)
{
	return i ? 0xffffffff : 0xffff0000 & ~(1u << 17 | 1u << 21);
}

static void every_vector(u64 arg)
{
	(void)arg;
	irq_count_range(0x10, 0xff);
	apic_write(APIC_SPIV, SPIV_ENABLE | 0xfe);
	for (u32 vector = 0x10; vector <= 0xff; vector++)
		if (testable(vector))
			apic_icr(0, ICR_SELF | vector);
	for (u32 i = 0; i < 8; i++)
		GUEST_EQ(testable_word(i), apic_read(APIC_IRR + i * 16));
	/* Each taken one has to end before a lower class can come. */
	sti();
	GUEST_WAIT(irqs[0x10]);
	cli();
	for (u32 vector = 0x10; vector <= 0xff; vector++)
		GUEST_EQ(testable(vector), irqs[vector]);
}

TEST(every_vector_from_16_to_255_can_be_sent)
{
	run_guest(every_vector);
}

static volatile u32 order[8], order_len;

static void note_order_eoi(struct guest_frame *frame)
{
	order[order_len++ & 7] = frame->vector;
	apic_eoi();
}

static void priority_order(u64 arg)
{
	static const u8 vectors[] = { 0x41, 0xa0, 0x40, 0x72, 0xa1 };
	static const u8 want[] = { 0xa1, 0xa0, 0x72, 0x41, 0x40 };

	(void)arg;
	apic_enable();
	for (int i = 0; i < 5; i++) {
		guest_handlers[vectors[i]] = note_order_eoi;
		apic_icr(0, ICR_SELF | vectors[i]);
	}
	sti();
	GUEST_WAIT(order_len == 5);
	cli();
	for (int i = 0; i < 5; i++)
		GUEST_EQ(want[i], order[i]);
}

TEST(interrupts_come_in_order_of_their_vectors)
{
	run_guest(priority_order);
}

static volatile u32 inner_irqs;

static void nested_inner(struct guest_frame *frame)
{
	(void)frame;
	inner_irqs++;
	GUEST_TRUE(apic_bit(APIC_ISR, 0x90));
	GUEST_TRUE(apic_bit(APIC_ISR, 0x50));
	GUEST_EQ(0x90, apic_read(APIC_PPR));
	apic_eoi();
	/* EOI takes the highest in service away. */
	GUEST_TRUE(!apic_bit(APIC_ISR, 0x90));
	GUEST_TRUE(apic_bit(APIC_ISR, 0x50));
}

static void nested_outer(struct guest_frame *frame)
{
	(void)frame;
	GUEST_TRUE(apic_bit(APIC_ISR, 0x50));
	GUEST_EQ(0x50, apic_read(APIC_PPR));
	/* Of the same class: has to wait for the EOI. A higher one comes in. */
	apic_icr(0, ICR_SELF | 0x5f);
	apic_icr(0, ICR_SELF | 0x90);
	sti_nop_cli();
	GUEST_EQ(1, inner_irqs);
	GUEST_EQ(0, irqs[0x5f]);
	GUEST_TRUE(apic_bit(APIC_IRR, 0x5f));
	apic_eoi();
	GUEST_EQ(0, apic_read(APIC_PPR));
}

static void nesting(u64 arg)
{
	(void)arg;
	apic_enable();
	guest_handlers[0x50] = nested_outer;
	guest_handlers[0x90] = nested_inner;
	guest_handlers[0x5f] = irq_count;
	apic_icr(0, ICR_SELF | 0x50);
	sti_nop_cli();
	sti_nop_cli();
	GUEST_EQ(1, inner_irqs);
	GUEST_EQ(1, irqs[0x5f]);
}

TEST(a_higher_class_interrupts_a_lower_one_and_eoi_ends_the_highest)
{
	run_guest(nesting);
}

static void tpr_masks(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TPR, 0x50);
	apic_icr(0, ICR_SELF | 0x5e);
	apic_icr(0, ICR_SELF | 0x60);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x60]);
	GUEST_EQ(0, irqs[0x5e]);
	/* The sub-class does not count. */
	apic_write(APIC_TPR, 0x4f);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x5e]);
}

TEST(tpr_holds_back_its_class_and_lower_ones)
{
	run_guest(tpr_masks);
}

static void cr8_and_tpr(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	write_cr8(7);
	GUEST_EQ(0x70, apic_read(APIC_TPR));
	apic_write(APIC_TPR, 0x35);
	GUEST_EQ(3, read_cr8());
	write_cr8(15);
	apic_icr(0, ICR_SELF | 0xfe);
	sti();
	for (int i = 0; i < 20; i++)
		cpu_relax();
	GUEST_EQ(0, irqs[0xfe]);
	/* At once when the threshold falls, with interrupts on. */
	write_cr8(14);
	asm volatile("nop");
	GUEST_EQ(1, irqs[0xfe]);
	write_cr8(5);
	apic_icr(0, ICR_SELF | 0x40);
	asm volatile("nop");
	GUEST_EQ(0, irqs[0x40]);
	write_cr8(3);
	asm volatile("nop");
	GUEST_EQ(1, irqs[0x40]);
	cli();
}

TEST(cr8_is_the_tpr_and_lowering_it_delivers_at_once)
{
	run_guest(cr8_and_tpr);
}

static volatile u64 cr8_vector;

static void cr8_reserved(u64 arg)
{
	(void)arg;
	cr8_vector = GUEST_TRY("mov %0, %%cr8", : "r"(16ul));
}

TEST(reserved_bits_of_cr8_are_gp)
{
	if (cpu_is_tcg())
		SKIP("QEMU's TCG takes them where nobody intercepts CR8");
	run_guest(cr8_reserved);
	EXPECT_EQ(VEC_GP, cr8_vector);
}

static void illegal_vectors(u64 arg)
{
	(void)arg;
	irq_count_range(0x10, 0xfe);
	apic_enable();
	apic_write(APIC_LVTERR, 0x60);
	apic_write(APIC_ESR, 0);
	GUEST_EQ(0, apic_read(APIC_ESR));
	apic_icr(0, ICR_SELF | 0x05);
	apic_write(APIC_ESR, 0);
	GUEST_EQ(1 << 5, apic_read(APIC_ESR) & 1 << 5);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x60]);
	apic_write(APIC_ESR, 0);
	GUEST_EQ(0, apic_read(APIC_ESR));
}

TEST(sending_a_vector_under_16_sets_esr_and_raises_the_error_interrupt)
{
	if (is_linux_kvm())
		SKIP("Linux KVM has no error status: ESR always reads 0");
	run_guest(illegal_vectors);
}

static void illegal_msis(u64 arg)
{
	(void)arg;
	irq_count_range(0x10, 0xfe);
	apic_enable();
	apic_write(APIC_LVTERR, 0x60);
	for (u32 vector = 0; vector <= 16; vector++) {
		stage(vector);		/* signalled */
		apic_write(APIC_ESR, 0);
		GUEST_EQ(vector < 16 ? 1 << 6 : 0, apic_read(APIC_ESR));
		sti_nop_cli();
		GUEST_EQ(vector < 16 ? vector + 1 : 16, irqs[0x60]);
	}
	GUEST_EQ(1, irqs[16]);
}

TEST(an_msi_with_a_vector_under_16_sets_esr_and_arrives_nowhere)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, illegal_msis, 0);

	if (is_linux_kvm())
		SKIP("Linux KVM has no error status: ESR always reads 0");
	for (u32 vector = 0; vector <= 16; vector++) {
		vcpu_run_to_stage(vcpu, vector);
		EXPECT_EQ(vector == 16, vm_msi(vm, MSI_ADDR(0), vector) > 0);
	}
	vcpu_run_to_done(vcpu);
}

static void nmi_lint_and_self_nmi(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_NMI] = irq_count_only;
	apic_enable();
	/* Fixed self-IPI aside, a shorthand of self takes no NMI; use dest. */
	apic_icr(0, ICR_NMI);
	GUEST_WAIT(irqs[VEC_NMI] == 1);
}

TEST(an_nmi_to_ones_own_id_arrives)
{
	run_guest(nmi_lint_and_self_nmi);
}

/* --- Access rules of the page --- */

static void odd_accesses(u64 arg)
{
	u8 byte;

	(void)arg;
	apic_enable();
	apic_write(APIC_TPR, 0x30);
	/* The low byte may be read, and unused offsets of a register are 0 or so. */
	byte = *(volatile u8 *)(APIC_BASE + APIC_TPR);
	GUEST_EQ(0x30, byte);
	/* A write that is not 32 bits at a multiple of 16 changes nothing. */
	*(volatile u32 *)(APIC_BASE + APIC_TPR + 4) = 0x77;
	GUEST_EQ(0x30, apic_read(APIC_TPR));
	apic_write(0x3f4 & ~0xf, 0);
	GUEST_EQ(0x30, apic_read(APIC_TPR));
}

TEST(odd_accesses_to_the_page_are_harmless)
{
	run_guest(odd_accesses);
}

static void moved_base(u64 arg)
{
	const u64 base = 0xfef00000;

	(void)arg;
	wrmsr(MSR_APICBASE, base | APICBASE_ENABLE | APICBASE_BSP);
	mmio_write32(base + APIC_TPR, 0x20);
	GUEST_EQ(2, read_cr8());
	stage(1);
	/* Nobody is at the old place now. */
	stage(apic_read(APIC_TPR));
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE | APICBASE_BSP);
	GUEST_EQ(0x20, apic_read(APIC_TPR));
}

TEST(a_moved_apic_base_moves_the_page)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, moved_base, 0);
	struct kvm_run *run;
	const u32 mark = 0x1234;

	if (is_linux_kvm())
		SKIP("Linux KVM keeps the page at its default address");
	vcpu_run_to_stage(vcpu, 1);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(APIC_BASE + APIC_TPR, run->mmio.phys_addr);
	memcpy(run->mmio.data, &mark, 4);
	vcpu_run_to_stage(vcpu, 0x1234);
	vcpu_run_to_done(vcpu);
}

static void expect_hole(void)
{
	/* An MSI with vector 0xff to id 0, if a client were told of it as QEMU is. */
	mmio_write32(APIC_BASE, 0xff);
	apic_write(APIC_TPR, 0x20);
	GUEST_EQ(0xffffffff, apic_read(APIC_TPR));
	GUEST_EQ(0xffffffff, apic_read(APIC_VERSION));
	GUEST_EQ(0xffffffff, mmio_read32(APIC_BASE + 0xffc));
	GUEST_EQ(0, read_cr8());
}

static void holes(u64 arg)
{
	(void)arg;
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_BSP);
	expect_hole();
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE | APICBASE_BSP);
	GUEST_EQ(0xff, apic_read(APIC_SPIV));
	x2apic_enable();
	expect_hole();
}

/* KVM_X86_QUIRK_LAPIC_MMIO_HOLE: userspace, which takes writes there for MSIs, hears of none. */
TEST(where_no_apic_answers_its_page_reads_all_ones_and_takes_no_write)
{
	run_guest(holes);
}

static void id_and_disable(u64 arg)
{
	(void)arg;
	apic_write(APIC_ID, 7 << 24);
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_BSP);
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE | APICBASE_BSP);
	stage(apic_read(APIC_ID));
}

TEST(a_disabled_apic_forgets_the_id_that_was_written)
{
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 3);

	vcpu_set_guest(vcpu, id_and_disable, 0);
	vcpu_run_to_stage(vcpu, 3 << 24);
}

static void base_rules(u64 arg)
{
	(void)arg;
	/* xAPIC to "x2APIC without enable", reserved bits. */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_APICBASE, APIC_BASE | APICBASE_X2APIC));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE | 1));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_APICBASE, 1ull << 63 | APICBASE_ENABLE));
	/* Into x2APIC; not straight back to xAPIC. */
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_BSP | APICBASE_ENABLE |
	      APICBASE_X2APIC);
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE));
	/* Through disabled it goes; from disabled not straight to x2APIC. */
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_BSP);
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_APICBASE, APIC_BASE | APICBASE_ENABLE |
				   APICBASE_X2APIC));
	wrmsr(MSR_APICBASE, APIC_BASE | APICBASE_BSP | APICBASE_ENABLE);
	GUEST_EQ(0xff, apic_read(APIC_SPIV));
}

TEST(apic_base_changes_obey_the_state_machine)
{
	run_guest(base_rules);
}

/* --- x2APIC --- */

static void x2apic_values(u64 arg)
{
	(void)arg;
	x2apic_enable();
	GUEST_EQ(5, x2apic_read(APIC_ID));
	/* Cluster 0, bit of the id's low four bits. */
	GUEST_EQ(1 << 5, x2apic_read(APIC_LDR));
	GUEST_EQ(0x10, x2apic_read(APIC_VERSION) & 0xf0);
	x2apic_write(APIC_TPR, 0x60);
	GUEST_EQ(6, read_cr8());
	GUEST_EQ(0x60, x2apic_read(APIC_PPR));
	x2apic_write(APIC_TPR, 0);
	irq_count_range(0x20, 0xfe);
	x2apic_write(APIC_SELF_IPI, 0x77);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x77]);
	x2apic_icr(5, ICR_FIXED | 0x78);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x78]);
	/* ICR is one 64-bit register and reads back. */
	GUEST_EQ(5ull << 32 | 0x78, x2apic_read(APIC_ICR));
}

TEST(x2apic_registers_work_through_msrs)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 5);

	vcpu_set_guest(vcpu, x2apic_values, 0);
	vcpu_run_to_done(vcpu);
}

/*
 * Interrupts wait for IF and for TPR, which MOV to CR8 and WRMSR lower; each is in ISR until
 * its EOI.
 */
static void x2apic_priorities(u64 arg)
{
	(void)arg;
	x2apic_enable();
	irq_count_range(0x20, 0xfe);
	x2apic_write(APIC_TPR, 0x70);
	x2apic_write(APIC_SELF_IPI, 0x61);
	x2apic_write(APIC_SELF_IPI, 0x72);
	x2apic_write(APIC_SELF_IPI, 0x83);
	GUEST_EQ(1 << 3, x2apic_read(APIC_IRR + 0x40));
	GUEST_EQ(1 << 18, x2apic_read(APIC_IRR + 0x30) & 1 << 18);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x83]);
	GUEST_EQ(0, irqs[0x72]);
	GUEST_EQ(0, x2apic_read(APIC_IRR + 0x40));
	GUEST_EQ(0, x2apic_read(APIC_ISR + 0x40));
	GUEST_EQ(0x70, x2apic_read(APIC_PPR));
	write_cr8(6);
	GUEST_EQ(0x60, x2apic_read(APIC_TPR));
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x72]);
	GUEST_EQ(0, irqs[0x61]);
	asm volatile("sti" ::: "memory");
	x2apic_write(APIC_TPR, 0x50);
	asm volatile("nop; cli" ::: "memory");
	GUEST_EQ(1, irqs[0x61]);
	GUEST_EQ(0x50, x2apic_read(APIC_PPR));
}

TEST(x2apic_interrupts_wait_for_if_and_tpr_in_order)
{
	run_guest(x2apic_priorities);
}

static volatile u32 sent, taken;

static void count_taken(struct guest_frame *frame)
{
	(void)frame;
	taken++;
	x2apic_write(APIC_EOI, 0);
}

#define REQUESTS 300

/* Turns interrupts on for a moment only, and makes no exit of its own. */
static void x2apic_closed(u64 arg)
{
	(void)arg;
	x2apic_enable();
	guest_handlers[0x51] = count_taken;
	stage(1);
	while (taken < REQUESTS)
		sti_nop_cli();
}

/*
 * Each is sent when the one before was taken, so that none may be merged: none is lost, and
 * none comes twice.
 */
TEST(requests_to_a_guest_that_makes_no_exits_are_each_taken_once)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, x2apic_closed, 0);

	vcpu_start(vcpu);
	vcpu_wait_stage(vcpu, 1);
	for (sent = 0; sent < REQUESTS; sent++) {
		while (taken < sent)
			sched_yield();
		EXPECT_OK(vm_msi(vm, MSI_ADDR(0), 0x51));
	}
	vcpu_wait_done(vcpu);
	EXPECT_EQ(REQUESTS, taken);
}

static void x2apic_faults(u64 arg)
{
	u64 value;

	(void)arg;
	/* No such MSRs in xAPIC mode. */
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x02, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x08, 0));
	x2apic_enable();
	/* DFR and ICR2 are gone; ID, version, LDR, PPR are read-only. */
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x0e, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x0e, 0));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x31, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x02, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x03, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x0d, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x0a, 0));
	/* EOI and SELF_IPI are write-only. */
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x0b, &value));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x3f, &value));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_X2APIC + 0x0b, 0));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_X2APIC + 0x28, 0));
	/* Upper halves. */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x0f, 1ull << 32 | 0x1ff));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_X2APIC + 0x50, &value));
}

TEST(x2apic_accesses_that_are_not_allowed_are_gp)
{
	run_guest(x2apic_faults);
}

static void x2apic_reserved_bits(u64 arg)
{
	(void)arg;
	x2apic_enable();
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x08, 0x100));	/* TPR */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x3e, 0x10));	/* TDCR */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x3f, 0x100));	/* SELF_IPI */
	/* These take 0 alone. */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x0b, 1));	/* EOI */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_X2APIC + 0x28, 1));	/* ESR */
}

TEST(x2apic_reserved_bits_are_gp)
{
	if (is_linux_kvm())
		SKIP("Linux KVM ignores reserved bits in x2APIC writes");
	run_guest(x2apic_reserved_bits);
}

/* --- Timer --- */

#define TIMER_VECTOR 0x81

static void one_shot(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER_VECTOR);
	apic_write(APIC_TMICT, 200000);
	GUEST_TRUE(apic_read(APIC_TMCCT) <= 200000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR]);
	cli();
	GUEST_EQ(0, apic_read(APIC_TMCCT));
	GUEST_EQ(200000, apic_read(APIC_TMICT));
	/* And no second time: another timer's round passes. */
	apic_write(APIC_LVTT, TIMER_VECTOR + 1);
	apic_write(APIC_TMICT, 400000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR + 1]);
	cli();
	GUEST_EQ(1, irqs[TIMER_VECTOR]);
}

TEST(a_one_shot_timer_fires_once_and_its_count_ends_at_0)
{
	run_guest(one_shot);
}

static void periodic(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_PERIODIC);
	apic_write(APIC_TMICT, 1000000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR] >= 5);
	/* The count runs again and again, never over its start. */
	for (int i = 0; i < 20; i++)
		GUEST_TRUE(apic_read(APIC_TMCCT) <= 1000000);
	/* A zero count stops it. */
	apic_write(APIC_TMICT, 0);
	sti_nop_cli();
	GUEST_EQ(0, apic_read(APIC_TMCCT));
	irqs[TIMER_VECTOR] = 0;
	apic_write(APIC_LVTT, TIMER_VECTOR + 1);
	apic_write(APIC_TMICT, 3000000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR + 1]);
	cli();
	GUEST_EQ(0, irqs[TIMER_VECTOR]);
}

TEST(a_periodic_timer_goes_on_until_its_count_is_0)
{
	run_guest(periodic);
}

static void masked_timer(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_MASKED);
	apic_write(APIC_TMICT, 1000);
	GUEST_WAIT(apic_read(APIC_TMCCT) == 0);
	GUEST_TRUE(!apic_bit(APIC_IRR, TIMER_VECTOR));
	sti_nop_cli();
	GUEST_EQ(0, irqs[TIMER_VECTOR]);
}

TEST(a_masked_timer_counts_without_an_interrupt)
{
	run_guest(masked_timer);
}

static void divide_values(u64 arg)
{
	static const u8 codes[] = { 0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa };
	u64 spent[8];

	(void)arg;
	apic_enable();
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_MASKED);
	/* The shortest of five counts: what the host does meanwhile only adds. */
	for (int i = 0; i < 8; i++) {
		apic_write(APIC_TDCR, codes[i]);
		GUEST_EQ(codes[i], apic_read(APIC_TDCR));
		spent[i] = ~0ull;
		for (int n = 0; n < 5; n++) {
			u64 start = rdtsc(), took;

			apic_write(APIC_TMICT, 100000);
			GUEST_WAIT(apic_read(APIC_TMCCT) == 0);
			took = rdtsc() - start;
			if (took < spent[i])
				spent[i] = took;
		}
	}
	for (int i = 4; i < 8; i++)
		GUEST_TRUE(spent[i] > spent[i - 1]);
	GUEST_TRUE(spent[7] > spent[0] * 16);
}

TEST(the_timers_divisor_slows_it_down)
{
	run_guest(divide_values);
}

static void every_count_and_divisor(u64 arg)
{
	static const u32 counts[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff };

	(void)arg;
	apic_enable();
	for (u32 mode = 0; mode <= 3; mode++)
		for (u32 tdcr = 0; tdcr < 16; tdcr++)
			for (u32 i = 0; i < 6; i++) {
				apic_write(APIC_LVTT, TIMER_VECTOR | LVT_MASKED | mode << 17);
				apic_write(APIC_TDCR, tdcr);
				apic_write(APIC_TMICT, counts[i]);
				/* Linux KVM lengthens short periods. */
				if (on_linux_kvm && mode == 1)
					continue;
				GUEST_TRUE(apic_read(APIC_TMCCT) <= counts[i]);
			}
	apic_write(APIC_TMICT, 0);
}

TEST(no_count_and_divisor_upsets_the_timer)
{
	run_guest(every_count_and_divisor);
}

static void deadline(u64 arg)
{
	u64 now;

	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_DEADLINE);
	GUEST_EQ(TIMER_VECTOR | LVT_DEADLINE, apic_read(APIC_LVTT));
	now = rdtsc();
	wrmsr(MSR_TSC_DEADLINE, now + 500000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR]);
	cli();
	GUEST_TRUE(rdtsc() >= now + 500000);
	GUEST_EQ(0, rdmsr(MSR_TSC_DEADLINE));
	/* In the past: at once. */
	wrmsr(MSR_TSC_DEADLINE, 1);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR] == 2);
	cli();
	/* Zero disarms; TMICT has no effect in this mode. */
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000000ull);
	GUEST_TRUE(rdmsr(MSR_TSC_DEADLINE) != 0);
	wrmsr(MSR_TSC_DEADLINE, 0);
	GUEST_EQ(0, rdmsr(MSR_TSC_DEADLINE));
	apic_write(APIC_TMICT, 1000);
	GUEST_EQ(0, apic_read(APIC_TMCCT));
	/* Leaving the mode disarms as well. */
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000000ull);
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_MASKED);
	GUEST_EQ(0, rdmsr(MSR_TSC_DEADLINE));
}

TEST(the_tsc_deadline_timer_fires_and_disarms)
{
	NEED_CAP(KVM_CAP_TSC_DEADLINE_TIMER);
	run_guest(deadline);
}

static void deadline_outside(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_DEADLINE);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 2000000);
	stage(1);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR]);
	cli();
	sti_nop_cli();
	GUEST_EQ(1, irqs[TIMER_VECTOR]);
	GUEST_EQ(0, rdmsr(MSR_TSC_DEADLINE));
}

TEST(a_deadline_that_passes_outside_of_kvm_run_gives_one_interrupt)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, deadline_outside, 0);
	struct kvm_lapic_state lapic;
	u64 start;

	NEED_CAP(KVM_CAP_TSC_DEADLINE_TIMER);
	vcpu_run_to_stage(vcpu, 1);
	/* 2,000,000 cycles are 2 ms at 1 GHz. */
	start = ktap_now_ns();
	WAIT_FOR(ktap_now_ns() > start + 20000000);
	vcpu_finish_exit(vcpu);
	vcpu_get_msr(vcpu, MSR_TSC_DEADLINE);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	vcpu_run_to_done(vcpu);
}

static void halted_by_timer(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER_VECTOR);
	for (u32 i = 1; i <= 20; i++) {
		apic_write(APIC_TMICT, 50000);
		while (irqs[TIMER_VECTOR] != i)
			sti_hlt_cli();
	}
}

TEST(the_timer_wakes_a_halted_vcpu_every_time)
{
	run_guest(halted_by_timer);
}

static void in_another_thread(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_PERIODIC);
	apic_write(APIC_TMICT, 100000);
	for (u32 i = 0; i < 50; i++) {
		u32 before = irqs[TIMER_VECTOR];

		sti();
		GUEST_WAIT(irqs[TIMER_VECTOR] != before);
		cli();
		stage(i);
	}
}

TEST(a_vcpu_that_changes_threads_keeps_its_timer)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, in_another_thread, 0);

	for (int i = 0; i < 5; i++) {
		u32 from = __atomic_load_n(&vcpu->stage, __ATOMIC_ACQUIRE);

		vcpu_start(vcpu);
		WAIT_FOR(__atomic_load_n(&vcpu->stage, __ATOMIC_ACQUIRE) >= from + 3);
		vcpu_stop(vcpu);
	}
	vcpu_run_to_done(vcpu);
}

/* --- KVM_GET_LAPIC, KVM_SET_LAPIC --- */

static void wait_irqs_off(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_icr(0, ICR_SELF | 0x45);
	apic_icr(0, ICR_SELF | 0xc3);
	apic_write(APIC_TPR, 0x20);
	stage(1);
	sti();
	GUEST_WAIT(irqs[0x45]);
	cli();
}

TEST(get_lapic_shows_what_is_pending)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, wait_irqs_off, 0);

	vcpu_run_to_stage(vcpu, 1);
	EXPECT_TRUE(vcpu_lapic_bit(vcpu, APIC_IRR, 0x45));
	EXPECT_TRUE(vcpu_lapic_bit(vcpu, APIC_IRR, 0xc3));
	EXPECT_TRUE(!vcpu_lapic_bit(vcpu, APIC_IRR, 0x46));
	EXPECT_EQ(SPIV_ENABLE | 0xff, vcpu_lapic(vcpu, APIC_SPIV));
	EXPECT_EQ(0x20, vcpu_lapic(vcpu, APIC_TPR));
	EXPECT_EQ(0, vcpu_lapic(vcpu, APIC_ID));
	vcpu_run_to_done(vcpu);
	EXPECT_TRUE(!vcpu_lapic_bit(vcpu, APIC_IRR, 0x45));
	EXPECT_TRUE(!vcpu_lapic_bit(vcpu, APIC_ISR, 0x45));
}

static void set_lapic_bit(struct kvm_lapic_state *lapic, u32 reg, u32 vector)
{
	lapic->regs[reg + (vector >> 5) * 16 + (vector >> 3 & 3)] |=
		1 << (vector & 7);
}

TEST(interrupts_set_by_set_lapic_are_delivered)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, wait_irqs_off, 0);
	struct kvm_lapic_state lapic;

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	set_lapic_bit(&lapic, APIC_IRR, 0x99);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(1, irqs[0x99]);
	EXPECT_EQ(1, irqs[0xc3]);
	EXPECT_EQ(1, irqs[0x45]);
}

static void eoi_all(u64 arg)
{
	(void)arg;
	irq_count_range(0x10, 0xff);
	apic_enable();
	stage(1);
	/* Everything is in service and pending again: nothing comes in. */
	sti_nop_cli();
	for (u32 vector = 0x10; vector <= 0xff; vector++)
		GUEST_EQ(0, irqs[vector]);
	sti();
	for (u32 vector = 0x10; vector <= 0xff; vector++)
		if (testable(vector))
			apic_eoi();
	GUEST_WAIT(irqs[0x10]);
	cli();
	for (u32 vector = 0x10; vector <= 0xff; vector++)
		GUEST_EQ(testable(vector), irqs[vector]);
	for (u32 i = 0; i < 8; i++) {
		GUEST_EQ(0, apic_read(APIC_IRR + i * 16));
		GUEST_EQ(0, apic_read(APIC_ISR + i * 16));
	}
	/* One EOI more than there was to end. */
	apic_eoi();
}

TEST(set_lapic_with_every_bit_in_service_and_pending_drains)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, eoi_all, 0);
	struct kvm_lapic_state lapic;

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	for (u32 vector = 0x10; vector <= 0xff; vector++) {
		if (!testable(vector))
			continue;
		set_lapic_bit(&lapic, APIC_IRR, vector);
		set_lapic_bit(&lapic, APIC_ISR, vector);
	}
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	vcpu_run_to_done(vcpu);
}

static void tpr_from_host(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_icr(0, ICR_SELF | 0x40);
	stage(1);
	GUEST_EQ(5, read_cr8());
	sti();
	asm volatile("nop; nop");
	GUEST_EQ(0, irqs[0x40]);
	write_cr8(3);
	asm volatile("nop");
	GUEST_EQ(1, irqs[0x40]);
	cli();
}

TEST(a_tpr_from_set_lapic_masks_until_cr8_falls)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, tpr_from_host, 0);
	struct kvm_lapic_state lapic;

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	lapic.regs[APIC_TPR] = 0x50;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	vcpu_run_to_done(vcpu);
}

static void timer_restored(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	stage(1);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR] >= 3);
	cli();
}

TEST(a_periodic_timer_restored_by_set_lapic_runs)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, timer_restored, 0);
	struct kvm_lapic_state lapic;
	const u32 spiv = SPIV_ENABLE | 0xff, lvtt = TIMER_VECTOR | LVT_PERIODIC;
	const u32 count = 500000, divide_by_1 = 0xb;

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	memcpy(lapic.regs + APIC_SPIV, &spiv, 4);
	memcpy(lapic.regs + APIC_LVTT, &lvtt, 4);
	memcpy(lapic.regs + APIC_TMICT, &count, 4);
	memcpy(lapic.regs + APIC_TMCCT, &count, 4);
	memcpy(lapic.regs + APIC_TDCR, &divide_by_1, 4);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	vcpu_run_to_done(vcpu);
}

TEST(lapic_state_round_trip)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 3);
	struct kvm_lapic_state set, got;
	const u32 lvt = 0x1005a, ldr = 0x08000000;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &set));
	EXPECT_EQ(3 << 24, vcpu_lapic(vcpu, APIC_ID));
	memcpy(set.regs + APIC_LVTERR, &lvt, 4);
	memcpy(set.regs + APIC_LDR, &ldr, 4);
	set_lapic_bit(&set, APIC_IRR, 0x33);
	set_lapic_bit(&set, APIC_TMR, 0x33);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &set));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &got));
	EXPECT_EQ(0, memcmp(&set, &got, sizeof(set)));
}
