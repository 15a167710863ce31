// SPDX-License-Identifier: GPL-2.0
/*
 * The symptoms of Documentation/debugging.rst, each provoked by a mistake of
 * a guest or of its VMM. The symptom is what passes; which mistake it was is what
 * the scripts of trace/ must tell (machine/trace-test).
 *
 * Read next: initsipi.c, ioapic.c, smm.c, where these things work.
 */
#include <string.h>

#include "vm.h"

#define PIN 20
#define VECTOR 0x60
#define TIMER_VECTOR 0x41
#define SIPI_PAGE 0x9
#define SMBASE 0x30000u
#define SMM_ENTRY 0x8000
#define SMM_PORT 0x70

/* ---- a CPU does not start ---- */

static void sipi_then_init(u64 arg)
{
	(void)arg;
	apic_enable();
	apic_icr(1, ICR_ASSERT | ICR_STARTUP | SIPI_PAGE);
	apic_icr(1, ICR_ASSERT | ICR_INIT);
}

TEST(an_ap_does_not_start_that_gets_its_sipi_before_the_init)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *bsp = vcpu_add(vm, sipi_then_init, 0), *ap = vcpu_create(vm, 1);
	struct kvm_lapic_state lapic;

	/* Linux KVM finds a new vCPU once its APIC was touched. */
	ASSERT_OK(ioctl(ap->fd, KVM_GET_LAPIC, &lapic));
	ASSERT_OK(ioctl(ap->fd, KVM_SET_LAPIC, &lapic));
	vcpu_run_to_done(bsp);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
}

/* ---- an interrupt is lost, or comes twice ---- */

static void with_pin(u64 entry)
{
	apic_enable();
	irq_count_range(VECTOR, VECTOR);
	mmio_write32(IOAPIC_BASE, IOAPIC_REG_RTE + 2 * PIN + 1);
	mmio_write32(IOAPIC_BASE + 0x10, entry >> 32);
	mmio_write32(IOAPIC_BASE, IOAPIC_REG_RTE + 2 * PIN);
	mmio_write32(IOAPIC_BASE + 0x10, entry);
}

static void forgets_to_unmask(u64 arg)
{
	(void)arg;
	with_pin(RTE_MASKED | VECTOR);
	stage(1);
	with_pin(VECTOR);
	sti_nop_cli();
	GUEST_EQ(0, irqs[VECTOR]);
}

static void pulse(struct vm *vm)
{
	vm_irq_line(vm, PIN, 1);
	vm_irq_line(vm, PIN, 0);
}

TEST(an_interrupt_is_lost_that_was_raised_before_its_pin_was_unmasked)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, forgets_to_unmask, 0);

	vcpu_run_to_stage(vcpu, 1);
	pulse(vm);
	vcpu_run_to_done(vcpu);
}

static void never_allows_it(u64 arg)
{
	(void)arg;
	apic_enable();
	stage(1);
	for (u32 i = 2; i < 5; i++)
		stage(i);
	GUEST_EQ(0, irqs[VECTOR]);
}

TEST(an_interrupt_waits_for_ever_while_interrupts_are_off)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, never_allows_it, 0);

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), VECTOR));
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_stage(vcpu, 3);
	vcpu_run_to_stage(vcpu, 4);
	vcpu_run_to_done(vcpu);
}

static void counts_to_two(u64 arg)
{
	(void)arg;
	with_pin(VECTOR);
	stage(1);
	sti();
	GUEST_WAIT(irqs[VECTOR] == 1);
	stage(2);
	GUEST_WAIT(irqs[VECTOR] == 2);
}

TEST(an_interrupt_comes_twice_that_two_sources_raise)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, counts_to_two, 0);
	struct kvm_irqfd irqfd = { .fd = new_eventfd(), .gsi = PIN };

	ASSERT_OK(ioctl(vm->fd, KVM_IRQFD, &irqfd));
	vcpu_run_to_stage(vcpu, 1);
	pulse(vm);
	vcpu_run_to_stage(vcpu, 2);
	signal_fd(irqfd.fd);
	vcpu_run_to_done(vcpu);
}

/* ---- a vector that nobody raised ---- */

static void forgets_its_timer(u64 arg)
{
	(void)arg;
	apic_enable();
	irq_count_range(TIMER_VECTOR, TIMER_VECTOR);
	apic_write(APIC_LVTT, TIMER_VECTOR);
	apic_write(APIC_TMICT, 100000);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR] == 1);
}

TEST(a_vector_comes_that_no_device_raised)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	vcpu_run_to_done(vcpu_add(vm, forgets_its_timer, 0));
}

/* ---- an SMI hangs the guest ---- */

CODE_BLOB(endless_handler, 16,
	  "outb %al, $0x70\n"
	  "1: hlt\n"
	  "jmp 1b\n");
CODE_BLOB(idle_code, 16,
	  "1: jmp 1b\n");

TEST(an_smi_hangs_the_guest_whose_handler_has_no_rsm)
{
	struct vcpu *vcpu;
	struct kvm_run *run;
	struct kvm_vcpu_events events;
	struct vm *vm;

	NEED_CAP(KVM_CAP_X86_SMM);
	vm = vm_create(VM_IRQCHIP);
	memcpy((u8 *)vm_add_memory(vm, 0x10000, 0, SMBASE, 0x10000) + SMM_ENTRY, endless_handler,
	       endless_handler_end - endless_handler);
	vm_load(vm, CODE_GPA, idle_code, idle_code_end);
	vcpu = vcpu_create(vm, 0);
	vcpu_set_real(vcpu, CODE_GPA);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SMI));
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(SMM_PORT, run->io.port);
	vcpu_finish_exit(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.smi.smm);
}
