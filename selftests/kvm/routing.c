// SPDX-License-Identifier: GPL-2.0
/*
 * GSI routing: the table a VM starts with, KVM_SET_GSI_ROUTING's limits, MSI
 * routes, and that an old route is gone when the ioctl returns.
 *
 * Read next: ioapic.c, pic.c.
 */
#include <stdlib.h>
#include <string.h>

#include "vm.h"

#define VECTOR 0x60

/* A struct kvm_irq_routing with room for more than any device may take. */
static struct {
	u32 nr, flags;
	struct kvm_irq_routing_entry entries[4200];
} table;

static struct kvm_irq_routing_entry *add_route(u32 gsi, u32 type)
{
	struct kvm_irq_routing_entry *entry = &table.entries[table.nr++];

	memset(entry, 0, sizeof(*entry));
	entry->gsi = gsi;
	entry->type = type;
	return entry;
}

static struct kvm_irq_routing_entry *add_pin(u32 gsi, u32 chip, u32 pin)
{
	struct kvm_irq_routing_entry *entry =
		add_route(gsi, KVM_IRQ_ROUTING_IRQCHIP);

	entry->u.irqchip.irqchip = chip;
	entry->u.irqchip.pin = pin;
	return entry;
}

static struct kvm_irq_routing_entry *add_msi(u32 gsi, u32 address, u32 data)
{
	struct kvm_irq_routing_entry *entry =
		add_route(gsi, KVM_IRQ_ROUTING_MSI);

	entry->u.msi.address_lo = address;
	entry->u.msi.data = data;
	return entry;
}

static int set_routing(struct vm *vm)
{
	return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

static void clear_table(void)
{
	table.nr = 0;
	table.flags = 0;
}

static void pulse(struct vm *vm, u32 gsi)
{
	vm_irq_line(vm, gsi, 1);
	vm_irq_line(vm, gsi, 0);
}

/* Pins 0 to 23 at vectors 0x60 to 0x77; takes what comes between stages. */
static void take_irqs(u64 arg)
{
	(void)arg;
	irq_count_range(0x30, 0xfe);
	apic_enable();
	apic_write(APIC_LVT0, LVT_MASKED);
	for (u32 pin = 0; pin < 24; pin++)
		rte_write(pin, VECTOR + pin);
	for (;;) {
		stage(1);
		sti_nop_cli();
	}
}

/* The vectors taken since the last call, as a sum of counts. */
static void expect_only(struct vcpu *vcpu, u32 vector)
{
	vcpu_run_to_stage(vcpu, 1);
	for (u32 i = 0x30; i < 0xff; i++) {
		ktap_about("vector 0x%x", i);
		EXPECT_EQ(i == vector, irqs[i]);
		irqs[i] = 0;
	}
	ktap_about("%s", "");
}

static struct vcpu *start_guest(struct vm **vm)
{
	struct vcpu *vcpu;

	*vm = vm_create(VM_IRQCHIP);
	vcpu = vcpu_add(*vm, take_irqs, 0);
	vcpu_run_to_stage(vcpu, 1);
	return vcpu;
}

TEST(by_default_a_gsi_is_the_ioapic_pin_of_its_number)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);

	for (u32 gsi = 0; gsi < 24; gsi++) {
		pulse(vm, gsi);
		expect_only(vcpu, VECTOR + gsi);
	}
}

static u8 pic_irr(struct vm *vm, u32 chip_id)
{
	struct kvm_irqchip chip = { .chip_id = chip_id };

	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	return chip.chip.pic.irr;
}

TEST(by_default_gsis_under_16_are_the_pics_lines_too)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	for (u32 gsi = 0; gsi < 8; gsi++) {
		if (gsi == 2)
			continue;	/* the cascade */
		vm_irq_line(vm, gsi, 1);
		EXPECT_EQ(1 << gsi, pic_irr(vm, KVM_IRQCHIP_PIC_MASTER) & 1 << gsi);
		vm_irq_line(vm, gsi + 8, 1);
		EXPECT_EQ(1 << gsi, pic_irr(vm, KVM_IRQCHIP_PIC_SLAVE) & 1 << gsi);
	}
}

TEST(a_new_table_replaces_the_old_one)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);

	clear_table();
	add_pin(0, KVM_IRQCHIP_IOAPIC, 2);	/* as PCs have their timer */
	add_pin(40, KVM_IRQCHIP_IOAPIC, 9);
	ASSERT_OK(set_routing(vm));
	pulse(vm, 0);
	expect_only(vcpu, VECTOR + 2);
	pulse(vm, 40);
	expect_only(vcpu, VECTOR + 9);
	/* No route at all. */
	pulse(vm, 9);
	expect_only(vcpu, 0);
}

TEST(an_empty_table_routes_nothing)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);

	clear_table();
	ASSERT_OK(set_routing(vm));
	for (u32 gsi = 0; gsi < 24; gsi++)
		pulse(vm, gsi);
	expect_only(vcpu, 0);
}

TEST(an_msi_route_fires_on_level_1_alone)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);

	clear_table();
	add_msi(30, MSI_ADDR(0), 0x91);
	ASSERT_OK(set_routing(vm));
	vm_irq_line(vm, 30, 0);
	expect_only(vcpu, 0);
	vm_irq_line(vm, 30, 1);
	expect_only(vcpu, 0x91);
	vm_irq_line(vm, 30, 0);
	expect_only(vcpu, 0);
	/* There is no line: each 1 is a message. */
	vm_irq_line(vm, 30, 1);
	expect_only(vcpu, 0x91);
	vm_irq_line(vm, 30, 1);
	expect_only(vcpu, 0x91);
}

TEST(one_gsi_may_reach_pic_and_ioapic)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);

	clear_table();
	add_pin(5, KVM_IRQCHIP_PIC_MASTER, 6);
	add_pin(5, KVM_IRQCHIP_IOAPIC, 11);
	ASSERT_OK(set_routing(vm));
	vm_irq_line(vm, 5, 1);
	expect_only(vcpu, VECTOR + 11);
	EXPECT_EQ(1 << 6, pic_irr(vm, KVM_IRQCHIP_PIC_MASTER));
}

/* Each of these must be refused, and the table before it stay. */
TEST(bad_tables_are_refused_and_change_nothing)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);
	u32 gsis = capability(KVM_CAP_IRQ_ROUTING);

	ASSERT_LE(24, gsis);
	ASSERT_LE(gsis, 4199);
	clear_table();
	table.flags = 1;
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, KVM_IRQCHIP_IOAPIC, 24);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, KVM_IRQCHIP_PIC_MASTER, 8);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, KVM_IRQCHIP_PIC_SLAVE, 8);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, 3, 0);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(gsis, KVM_IRQCHIP_IOAPIC, 0);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(0xffffffff, KVM_IRQCHIP_IOAPIC, 0);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_route(4, 77);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, KVM_IRQCHIP_IOAPIC, 4)->flags = 1;
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_msi(4, MSI_ADDR(0), 0x44)->flags = 0x80;
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	/* Two pins of one chip, a pin and an MSI. */
	clear_table();
	add_pin(4, KVM_IRQCHIP_IOAPIC, 4);
	add_pin(4, KVM_IRQCHIP_IOAPIC, 5);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	clear_table();
	add_pin(4, KVM_IRQCHIP_IOAPIC, 4);
	add_msi(4, MSI_ADDR(0), 0x44);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	/* A good entry before the bad one is not taken either. */
	clear_table();
	add_pin(4, KVM_IRQCHIP_IOAPIC, 7);
	add_pin(5, KVM_IRQCHIP_IOAPIC, 99);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	pulse(vm, 4);
	expect_only(vcpu, VECTOR + 4);
}

TEST(as_many_entries_as_there_are_gsis_and_no_more)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm);
	u32 gsis = capability(KVM_CAP_IRQ_ROUTING);

	clear_table();
	for (u32 gsi = 0; gsi < gsis; gsi++)
		add_msi(gsi, MSI_ADDR(0), 0x80 + gsi % 8);
	ASSERT_OK(set_routing(vm));
	vm_irq_line(vm, gsis - 1, 1);
	expect_only(vcpu, 0x80 + (gsis - 1) % 8);
	add_msi(0, MSI_ADDR(0), 0x44);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	table.nr = 0xffffffff;
	EXPECT_ERRNO(EINVAL, set_routing(vm));
	vm_irq_line(vm, 0, 1);
	expect_only(vcpu, 0x80);
}

TEST(an_msi_route_that_is_not_for_the_local_apics_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	if (is_linux_kvm())
		SKIP("Linux KVM does not look at the address");
	clear_table();
	add_msi(4, 0x1000, 0x44);
	EXPECT_ERRNO(EINVAL, set_routing(vm));
}

/* --- Changes while interrupts come --- */

static volatile bool raise_on;

static void *raise_gsi(void *arg)
{
	struct vm *vm = arg;

	for (u32 i = 0; raise_on; i++) {
		vm_irq_line(vm, 50, 1);
		ktap_pace(i);
	}
	return NULL;
}

static void *raise_fd(void *arg)
{
	for (u32 i = 0; raise_on; i++) {
		signal_fd(*(int *)arg);
		ktap_pace(i);
	}
	return NULL;
}

static volatile u32 newest;

/* Takes what the old route has left in IRR; then only the new one may come. */
static void never_an_old_vector(u64 arg)
{
	u32 old = 0x80;

	(void)arg;
	irq_count_range(0x80, 0xc0);
	apic_enable();
	for (;;) {
		stage(1);
		sti();
		GUEST_WAIT(!apic_bit(APIC_IRR, old));
		cli();
		irqs[old] = 0;
		stage(2);
		sti();
		GUEST_WAIT(irqs[newest] >= 3);
		cli();
		GUEST_EQ(0, irqs[old]);
		irqs[newest] = 0;
		old = newest;
	}
}

/*
 * One thread raises a GSI for ever, this one changes its route. Once the ioctl
 * has returned and the old vector has left IRR, it is history.
 */
static void change_the_route_of(struct vm *vm, void *(*raise)(void *arg), void *arg)
{
	struct vcpu *vcpu = vcpu_add(vm, never_an_old_vector, 0);
	pthread_t raiser;

	vcpu_run_to_stage(vcpu, 1);
	raise_on = true;
	ASSERT_EQ(0, pthread_create(&raiser, NULL, raise, arg));
	for (u32 round = 0; round < 100; round++) {
		newest = 0x81 + round % 63;
		clear_table();
		add_msi(50, MSI_ADDR(0), newest);
		ASSERT_OK(set_routing(vm));
		vcpu_run_to_stage(vcpu, 2);
		vcpu_run_to_stage(vcpu, 1);
	}
	raise_on = false;
	pthread_join(raiser, NULL);
}

TEST(an_old_route_delivers_nothing_after_the_change)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	if (is_linux_kvm())
		SKIP("Linux KVM delivers by a copy that it took before the change");
	change_the_route_of(vm, raise_gsi, vm);
}

TEST(an_irqfd_delivers_nothing_by_its_old_route)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irqfd irqfd = { .fd = new_eventfd(), .gsi = 50 };

	NEED_CAP(KVM_CAP_IRQFD);
	ASSERT_OK(ioctl(vm->fd, KVM_IRQFD, &irqfd));
	change_the_route_of(vm, raise_fd, &irqfd.fd);
}
