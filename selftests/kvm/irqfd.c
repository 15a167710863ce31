// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_IRQFD: an eventfd that raises a GSI, with and without a resamplefd that
 * hears of the guest's EOI; its errors, and changes of it while interrupts come.
 *
 * A guest tells a stage, the test writes to an eventfd and lets the guest go on.
 * GSIs 16 to 23 reach the IOAPIC alone. A resampling irqfd whose two eventfds are
 * one and the same is a device that raises its line again from within the EOI.
 *
 * Read next: ioapic.c, routing.c, ioeventfd.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vm.h"

#define GSI 20
#define VECTOR 0x60

static int irqfd(struct vm *vm, u32 flags, u32 gsi, int fd, int resamplefd)
{
	struct kvm_irqfd arg = { .fd = fd, .gsi = gsi, .flags = flags, .resamplefd = resamplefd };

	return ioctl(vm->fd, KVM_IRQFD, &arg);
}

static void assign(struct vm *vm, u32 gsi, int fd)
{
	ASSERT_OK(irqfd(vm, 0, gsi, fd, 0));
}

static void assign_resample(struct vm *vm, u32 gsi, int fd, int resamplefd)
{
	ASSERT_OK(irqfd(vm, KVM_IRQFD_FLAG_RESAMPLE, gsi, fd, resamplefd));
}

static void deassign(struct vm *vm, u32 gsi, int fd)
{
	ASSERT_OK(irqfd(vm, KVM_IRQFD_FLAG_DEASSIGN, gsi, fd, 0));
}

static int route(struct vm *vm, const struct kvm_irq_routing_entry *entry)
{
	struct {
		u32 nr, flags;		/* as struct kvm_irq_routing */
		struct kvm_irq_routing_entry entry;
	} table = { .nr = 1, .entry = *entry };

	return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

static void route_msi(struct vm *vm, u32 gsi, u32 vector)
{
	struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

	entry.u.msi.address_lo = MSI_ADDR(0);
	entry.u.msi.data = vector;
	ASSERT_OK(route(vm, &entry));
}

static void route_pin(struct vm *vm, u32 gsi, u32 pin)
{
	struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP };

	entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
	entry.u.irqchip.pin = pin;
	ASSERT_OK(route(vm, &entry));
}

/* Is the line of an IOAPIC pin high? For level pins and masked ones. */
static bool line_is_high(struct vm *vm, u32 pin)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	return chip.chip.ioapic.irr >> pin & 1;
}

/* Linux KVM raises pins a little after the write; so wait for it. */
static void signal_line(struct vm *vm, u32 pin, int fd)
{
	signal_fd(fd);
	WAIT_FOR(line_is_high(vm, pin));
}

static void signal_edge(struct vcpu *vcpu, int fd)
{
	signal_fd(fd);
	WAIT_FOR(vcpu_lapic_bit(vcpu, APIC_IRR, VECTOR + GSI));
}

/* All pins open with this trigger mode, at VECTOR and on; takes what comes between stages. */
static void take_irqs(u64 trigger)
{
	irq_count_range(0x30, 0xfe);
	apic_enable();
	apic_write(APIC_LVT0, LVT_MASKED);
	for (u32 pin = 0; pin < 24; pin++)
		rte_write(pin, trigger | (VECTOR + pin));
	for (;;) {
		stage(1);
		sti_nop_cli();
	}
}

static struct vcpu *start_guest(struct vm **vm, u64 trigger)
{
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_IRQFD);
	*vm = vm_create(VM_IRQCHIP);
	vcpu = vcpu_add(*vm, take_irqs, trigger);
	vcpu_run_to_stage(vcpu, 1);
	return vcpu;
}

/* One round of the guest; the vector came so often and no other did. */
static void expect_irqs(struct vcpu *vcpu, u32 vector, u32 count)
{
	vcpu_run_to_stage(vcpu, 1);
	for (u32 i = 0x30; i < 0xff; i++) {
		ktap_about("vector 0x%x", i);
		EXPECT_EQ(i == vector ? count : 0, irqs[i]);
		irqs[i] = 0;
	}
	ktap_about("%s", "");
}

/* --- The ioctl --- */

TEST(capabilities_are_offered)
{
	EXPECT_EQ(1, capability(KVM_CAP_IRQFD));
	EXPECT_EQ(1, capability(KVM_CAP_IRQFD_RESAMPLE));
}

TEST(what_is_wrong_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	int fd = new_eventfd(), file = open("/dev/null", O_RDWR | O_CLOEXEC);
	const u32 resample = KVM_IRQFD_FLAG_RESAMPLE, deassign = KVM_IRQFD_FLAG_DEASSIGN;

	NEED_CAP(KVM_CAP_IRQFD);
	EXPECT_ERRNO(EINVAL, irqfd(vm, 4, GSI, fd, 0));
	EXPECT_ERRNO(EINVAL, irqfd(vm, 1u << 31 | deassign, GSI, fd, 0));
	EXPECT_ERRNO(EBADF, irqfd(vm, 0, GSI, -1, 0));
	EXPECT_ERRNO(EINVAL, irqfd(vm, 0, GSI, file, 0));
	EXPECT_ERRNO(EBADF, irqfd(vm, deassign, GSI, -1, 0));
	EXPECT_ERRNO(EINVAL, irqfd(vm, deassign, GSI, file, 0));
	EXPECT_ERRNO(EBADF, irqfd(vm, resample, GSI, fd, -1));
	EXPECT_ERRNO(EINVAL, irqfd(vm, resample, GSI, fd, file));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_IRQFD, (void *)0x10));
	/* Nothing of this is left behind. */
	EXPECT_OK(irqfd(vm, 0, GSI, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(vm, 0, GSI, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(vm, 0, GSI + 1, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(vm, resample, GSI, fd, new_eventfd()));
	/* Only the pair of eventfd and GSI is taken away; without it nothing happens. */
	EXPECT_OK(irqfd(vm, deassign, GSI + 1, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(vm, 0, GSI, fd, 0));
	EXPECT_OK(irqfd(vm, deassign, GSI, fd, 0));
	EXPECT_OK(irqfd(vm, deassign, GSI, fd, 0));
	EXPECT_OK(irqfd(vm, 0, GSI, fd, 0));
}

TEST(padding_and_gsis_beyond_the_last_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	u32 gsis = capability(KVM_CAP_IRQ_ROUTING);
	struct kvm_irqfd arg = { .fd = new_eventfd(), .gsi = GSI };

	NEED_CAP(KVM_CAP_IRQFD);
	if (is_linux_kvm())
		SKIP("Linux KVM looks at neither");
	for (u32 i = 0; i < sizeof(arg.pad); i++) {
		arg.pad[i] = 1;
		EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_IRQFD, &arg));
		arg.pad[i] = 0;
	}
	EXPECT_ERRNO(EINVAL, irqfd(vm, 0, gsis, arg.fd, 0));
	EXPECT_ERRNO(EINVAL, irqfd(vm, 0, 0xffffffff, arg.fd, 0));
	EXPECT_ERRNO(EINVAL, irqfd(vm, KVM_IRQFD_FLAG_RESAMPLE, gsis, arg.fd, new_eventfd()));
	EXPECT_OK(irqfd(vm, 0, gsis - 1, arg.fd, 0));
	/* It leads nowhere. */
	signal_fd(arg.fd);
}

TEST(without_interrupt_controllers_there_are_no_irqfds)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_IRQFD);
	EXPECT_ERRNO(EINVAL, irqfd(vm, 0, GSI, new_eventfd(), 0));
}

/* --- Pulses --- */

TEST(each_signal_is_one_edge)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int fd = new_eventfd();

	assign(vm, GSI, fd);
	for (int i = 0; i < 3; i++) {
		signal_edge(vcpu, fd);
		expect_irqs(vcpu, VECTOR + GSI, 1);
	}
	EXPECT_EQ(0, take_count(fd));	/* the kernel took them */
	expect_irqs(vcpu, 0, 0);
}

TEST(each_signal_is_one_msi)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int fd = new_eventfd();

	route_msi(vm, 50, 0x91);
	assign(vm, 50, fd);
	for (int i = 0; i < 3; i++) {
		signal_fd(fd);
		expect_irqs(vcpu, 0x91, 1);
	}
}

TEST(a_signal_from_before_the_assignment_counts)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int fd = new_eventfd();

	signal_fd(fd);
	assign(vm, GSI, fd);
	/* Linux KVM does it a little later. */
	WAIT_FOR(vcpu_lapic_bit(vcpu, APIC_IRR, VECTOR + GSI));
	expect_irqs(vcpu, VECTOR + GSI, 1);
}

TEST(many_eventfds_may_raise_one_gsi)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int a = new_eventfd(), b = new_eventfd();

	assign(vm, GSI, a);
	assign(vm, GSI, b);
	signal_edge(vcpu, a);
	expect_irqs(vcpu, VECTOR + GSI, 1);
	signal_edge(vcpu, b);
	expect_irqs(vcpu, VECTOR + GSI, 1);
	deassign(vm, GSI, a);
	signal_fd(a);
	expect_irqs(vcpu, 0, 0);
	EXPECT_EQ(1, take_count(a));
	signal_edge(vcpu, b);
	expect_irqs(vcpu, VECTOR + GSI, 1);
}

/*
 * A kernel that raises and lowers a pin for a pulse may have been asked for its state in
 * between.
 */
TEST(a_pulse_is_an_edge_though_the_pin_was_high_in_a_state_that_was_set)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	int fd = new_eventfd();

	if (is_linux_kvm())
		SKIP("Linux KVM loses the first pulse");
	assign(vm, GSI, fd);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.irr |= 1 << GSI;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	expect_irqs(vcpu, VECTOR + GSI, 1);
	signal_edge(vcpu, fd);
	expect_irqs(vcpu, VECTOR + GSI, 1);
	EXPECT_TRUE(!line_is_high(vm, GSI));
}

TEST(a_level_that_was_set_stays_high_over_a_pulse_until_userspace_lowers_it)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL | RTE_MASKED);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	int fd = new_eventfd();

	(void)vcpu;
	if (is_linux_kvm())
		SKIP("Linux KVM has one source for both");
	assign(vm, GSI, fd);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.irr |= 1 << GSI;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	signal_fd(fd);
	EXPECT_TRUE(line_is_high(vm, GSI));
	vm_irq_line(vm, GSI, 0);
	EXPECT_TRUE(!line_is_high(vm, GSI));
}

TEST(a_pulse_does_not_lower_what_userspace_holds)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_MASKED);
	int fd = new_eventfd();

	(void)vcpu;
	if (is_linux_kvm())
		SKIP("Linux KVM has one source for both");
	assign(vm, GSI, fd);
	vm_irq_line(vm, GSI, 1);
	signal_fd(fd);
	EXPECT_TRUE(line_is_high(vm, GSI));
	vm_irq_line(vm, GSI, 0);
	EXPECT_TRUE(!line_is_high(vm, GSI));
}

/* --- The end of interrupt --- */

TEST(the_eoi_lowers_the_line_and_signals_the_resamplefd)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	assign_resample(vm, GSI, fd, done);
	for (int i = 0; i < 3; i++) {
		signal_line(vm, GSI, fd);
		EXPECT_EQ(0, take_count(done));
		expect_irqs(vcpu, VECTOR + GSI, 1);
		EXPECT_EQ(1, take_count(done));
		EXPECT_TRUE(!line_is_high(vm, GSI));
	}
	expect_irqs(vcpu, 0, 0);
	/* Another pin's end is not this one's. */
	vm_irq_line(vm, GSI + 1, 1);
	vm_irq_line(vm, GSI + 1, 0);
	expect_irqs(vcpu, VECTOR + GSI + 1, 1);
	EXPECT_EQ(0, take_count(done));
}

TEST(an_edge_pin_resamples_too)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int fd = new_eventfd(), done = new_eventfd();

	assign_resample(vm, GSI, fd, done);
	for (int i = 0; i < 3; i++) {
		signal_edge(vcpu, fd);
		expect_irqs(vcpu, VECTOR + GSI, 1);
		EXPECT_EQ(1, take_count(done));
	}
}

TEST(userspace_does_not_lower_what_a_resampling_irqfd_holds)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	vm_irq_line(vm, GSI, 1);
	vm_irq_line(vm, GSI, 0);
	EXPECT_TRUE(line_is_high(vm, GSI));
	expect_irqs(vcpu, VECTOR + GSI, 1);
	EXPECT_EQ(1, take_count(done));
}

/* Ends of interrupts of VECTOR + GSI until the line that userspace holds falls. */
static void on_shared_level(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	stage(100);
	apic_eoi();
}

/* Until on_shared_level() runs: at once, but a little later where the kernel raises pins later. */
static void run_to_handler(struct vcpu *vcpu)
{
	do {
		ASSERT_EQ(EVENT_STAGE, vcpu_step(vcpu));
	} while (vcpu->stage != 100 && is_linux_kvm());
	ASSERT_EQ(100, vcpu->stage);
}

TEST(the_eoi_does_not_lower_what_userspace_holds)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	guest_handlers[VECTOR + GSI] = on_shared_level;
	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	vm_irq_line(vm, GSI, 1);
	vcpu_run_to_stage(vcpu, 100);
	EXPECT_EQ(0, take_count(done));
	vcpu_run_to_stage(vcpu, 100);
	EXPECT_EQ(1, take_count(done));
	EXPECT_TRUE(line_is_high(vm, GSI));
	vm_irq_line(vm, GSI, 0);
	expect_irqs(vcpu, VECTOR + GSI, 2);
}

TEST(a_level_raised_again_while_its_end_is_told_comes_again)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd();

	guest_handlers[VECTOR + GSI] = on_shared_level;
	assign_resample(vm, GSI, fd, fd);
	signal_line(vm, GSI, fd);
	for (int i = 0; i < 20; i++)
		run_to_handler(vcpu);
	deassign(vm, GSI, fd);
	expect_irqs(vcpu, VECTOR + GSI, 20);
	expect_irqs(vcpu, 0, 0);
}

/* Whichever comes first in the kernel's list, nobody's line is lowered after it was told. */
static void two_on_one_gsi(bool again_first)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int again = new_eventfd(), fd = new_eventfd(), done = new_eventfd();

	guest_handlers[VECTOR + GSI] = on_shared_level;
	if (again_first)
		assign_resample(vm, GSI, again, again);
	assign_resample(vm, GSI, fd, done);
	if (!again_first)
		assign_resample(vm, GSI, again, again);
	signal_line(vm, GSI, fd);
	for (u64 i = 0; i < 10; i++) {
		run_to_handler(vcpu);
		EXPECT_EQ(i ? 1 : 0, take_count(done));
	}
	/* The one that asks again goes: the other one is told as ever. */
	deassign(vm, GSI, again);
	take_count(done);
	signal_line(vm, GSI, fd);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(1, take_count(done));
	irqs[VECTOR + GSI] = 0;
	expect_irqs(vcpu, 0, 0);
}

TEST(two_resamplefds_of_one_gsi_lose_nothing)
{
	two_on_one_gsi(true);
}

TEST(two_resamplefds_of_one_gsi_lose_nothing_in_the_other_order)
{
	two_on_one_gsi(false);
}

static void masked_in_service(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	rte_write(GSI, RTE_MASKED | RTE_LEVEL | (VECTOR + GSI));
	apic_eoi();
}

/* As a threaded handler does it: the line falls with the EOI, so there is nothing left to come. */
static void mask_eoi_unmask(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR + GSI] = masked_in_service;
	apic_enable();
	rte_write(GSI, RTE_LEVEL | (VECTOR + GSI));
	stage(1);			/* signalled */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR + GSI]);
	rte_write(GSI, RTE_LEVEL | (VECTOR + GSI));
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR + GSI]);
	GUEST_EQ(0, rte_read(GSI) & RTE_REMOTE_IRR);
	stage(2);			/* signalled */
	sti_nop_cli();
	GUEST_EQ(2, irqs[VECTOR + GSI]);
}

TEST(a_level_masked_before_its_eoi_gives_nothing_spurious)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, mask_eoi_unmask, 0);
	int fd = new_eventfd(), done = new_eventfd();

	NEED_CAP(KVM_CAP_IRQFD);
	assign_resample(vm, GSI, fd, done);
	vcpu_run_to_stage(vcpu, 1);
	signal_line(vm, GSI, fd);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, take_count(done));
	signal_line(vm, GSI, fd);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(1, take_count(done));
}

static void on_pic(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	outb(PIC_SLAVE, OCW2_EOI);
	outb(PIC_MASTER, OCW2_EOI);
}

static void pic_level(u64 arg)
{
	(void)arg;
	guest_handlers[0x3b] = on_pic;
	apic_enable();
	apic_write(APIC_LVT0, LVT_EXTINT);
	pic_init(0x30, ICW4_8086);
	outb(0x4d1, 1 << 3);		/* line 11 is level triggered */
	for (u32 i = 1; i <= 3; i++) {
		stage(i);		/* signalled */
		sti_nop_cli();
		GUEST_EQ(i, irqs[0x3b]);
		sti_nop_cli();
		GUEST_EQ(i, irqs[0x3b]);
	}
}

TEST(the_pics_eoi_lowers_the_line_and_signals_the_resamplefd)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, pic_level, 0);
	int fd = new_eventfd(), done = new_eventfd();

	NEED_CAP(KVM_CAP_IRQFD);
	assign_resample(vm, 11, fd, done);
	for (u32 i = 1; i <= 3; i++) {
		vcpu_run_to_stage(vcpu, i);
		EXPECT_EQ(i > 1, take_count(done));
		signal_line(vm, 11, fd);
	}
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(1, take_count(done));
	EXPECT_TRUE(!line_is_high(vm, 11));	/* the other controller's line, too */
}

TEST(a_restored_line_falls_with_its_eoi_as_well)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	EXPECT_TRUE(line_is_high(vm, GSI));
	expect_irqs(vcpu, VECTOR + GSI, 1);
	EXPECT_EQ(1, take_count(done));
	EXPECT_TRUE(!line_is_high(vm, GSI));
}

/* --- Going away --- */

TEST(a_resampling_irqfd_lets_its_line_go_when_it_goes)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_MASKED | RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	(void)vcpu;
	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	deassign(vm, GSI, fd);
	EXPECT_TRUE(!line_is_high(vm, GSI));
	/* Closing the eventfd is another way to go. */
	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	close(fd);
	WAIT_FOR(!line_is_high(vm, GSI));
}

TEST(eventfds_outlive_the_vm_and_the_vm_eventfds)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	int fd = new_eventfd(), fd2 = new_eventfd(), done = new_eventfd();

	NEED_CAP(KVM_CAP_IRQFD);
	for (int i = 0; i < 100; i++) {
		int gone = new_eventfd(), gone2 = new_eventfd();

		assign(vm, GSI, gone);
		assign_resample(vm, GSI, gone2, gone2);
		close(gone);
		close(gone2);
	}
	assign(vm, GSI, fd);
	assign_resample(vm, GSI, fd2, done);
	signal_fd(fd2);
	close(vm->fd);
	signal_fd(fd);
	signal_fd(fd2);
	/* The eventfds are free for another machine. */
	vm = vm_create(VM_IRQCHIP);
	assign(vm, GSI, fd);
	assign_resample(vm, GSI, fd2, done);
}

/* --- One eventfd, two machines --- */

TEST(an_eventfd_raises_one_gsi_of_one_vm)
{
	struct vm *vm, *other;
	struct vcpu *vcpu = start_guest(&vm, 0);
	int fd = new_eventfd(), copy = dup(fd);

	if (is_linux_kvm())
		SKIP("Linux KVM took a second VM for long, and then only one of them hears the signals");
	other = vm_create(VM_IRQCHIP);
	assign(vm, GSI, fd);
	/* Under whatever number, and for whatever kind. */
	EXPECT_ERRNO(EBUSY, irqfd(other, 0, GSI, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(other, 0, GSI + 1, copy, 0));
	EXPECT_ERRNO(EBUSY, irqfd(other, KVM_IRQFD_FLAG_RESAMPLE, GSI, fd, new_eventfd()));
	EXPECT_ERRNO(EBUSY, irqfd(vm, 0, GSI + 1, copy, 0));
	/* The one that has it hears of each signal, and takes it. */
	for (int i = 0; i < 3; i++) {
		signal_edge(vcpu, fd);
		expect_irqs(vcpu, VECTOR + GSI, 1);
	}
	EXPECT_EQ(0, take_count(fd));
	/* Nobody else can take it away. */
	EXPECT_OK(irqfd(other, KVM_IRQFD_FLAG_DEASSIGN, GSI, fd, 0));
	EXPECT_ERRNO(EBUSY, irqfd(other, 0, GSI, fd, 0));
	signal_edge(vcpu, fd);
	expect_irqs(vcpu, VECTOR + GSI, 1);
	/* Given back it is free, and so it is when its VM has gone. */
	deassign(vm, GSI, fd);
	assign(other, GSI, fd);
	EXPECT_ERRNO(EBUSY, irqfd(vm, 0, GSI, fd, 0));
	signal_fd(fd);
	expect_irqs(vcpu, 0, 0);
	close(other->fd);
	assign(vm, GSI, fd);
	signal_edge(vcpu, fd);
	expect_irqs(vcpu, VECTOR + GSI, 1);
}

static struct vm *rivals[2];
static volatile u32 rounds_begun, assigned;
static u32 rounds_seen[2];
static int rival_fd;

static void *assign_at_once(void *arg)
{
	u32 me = (u64)arg;

	for (;;) {
		while (rounds_begun == rounds_seen[me])
			;
		if (!irqfd(rivals[me], 0, GSI, rival_fd, 0))
			__atomic_fetch_or(&assigned, 1u << me, __ATOMIC_SEQ_CST);
		__atomic_fetch_add(&rounds_seen[me], 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* The first one has it, whichever that is. */
TEST(of_two_vms_that_want_an_eventfd_at_once_one_gets_it)
{
	pthread_t thread[2];

	NEED_CAP(KVM_CAP_IRQFD);
	if (is_linux_kvm())
		SKIP("Linux KVM gave it to both for long");
	rival_fd = new_eventfd();
	for (u64 i = 0; i < 2; i++) {
		rivals[i] = vm_create(VM_IRQCHIP);
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, assign_at_once, (void *)i));
	}
	for (u32 round = 1; round <= 200; round++) {
		assigned = 0;
		rounds_begun = round;
		for (int i = 0; i < 2; i++)
			WAIT_FOR(__atomic_load_n(&rounds_seen[i], __ATOMIC_SEQ_CST) == round);
		ASSERT_TRUE(assigned == 1 || assigned == 2);
		deassign(rivals[assigned == 2], GSI, rival_fd);
	}
}

/* --- Changes of routing --- */

TEST(a_new_route_frees_the_old_pin_and_asks_again)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_MASKED | RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();

	(void)vcpu;
	if (is_linux_kvm())
		SKIP("Linux KVM leaves the old pin high");
	assign_resample(vm, GSI, fd, done);
	signal_line(vm, GSI, fd);
	route_pin(vm, GSI, 9);
	EXPECT_TRUE(!line_is_high(vm, GSI));
	EXPECT_EQ(1, take_count(done));
	signal_fd(fd);
	EXPECT_TRUE(line_is_high(vm, 9));
}

static volatile bool raise_on;

static void *raise_fd(void *arg)
{
	for (u32 i = 0; raise_on; i++) {
		signal_fd(*(int *)arg);
		ktap_pace(i);
	}
	return NULL;
}

static void *change_routes(void *arg)
{
	for (u32 i = 0; raise_on; i++) {
		route_msi(arg, GSI, 0x80 + i % 16);
		route_pin(arg, GSI, i % 24);
		ktap_pace(i);
	}
	return NULL;
}

/* Three threads: signals, routes, and this one that assigns and takes away. */
TEST(assignment_routing_and_signals_may_race)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, RTE_LEVEL);
	int fd = new_eventfd(), done = new_eventfd();
	pthread_t raiser, router;

	if (is_linux_kvm())
		SKIP("Linux KVM leaves the old pin high, which interrupts for ever");
	raise_on = true;
	ASSERT_EQ(0, pthread_create(&raiser, NULL, raise_fd, &fd));
	ASSERT_EQ(0, pthread_create(&router, NULL, change_routes, vm));
	for (int i = 0; i < 200; i++) {
		if (i & 1)
			assign_resample(vm, GSI, fd, done);
		else
			assign(vm, GSI, fd);
		vcpu_run_to_stage(vcpu, 1);
		deassign(vm, GSI, fd);
	}
	raise_on = false;
	pthread_join(raiser, NULL);
	pthread_join(router, NULL);
	/* All of it is gone. */
	signal_fd(fd);
	vcpu_run_to_stage(vcpu, 1);
	for (u32 i = 0; i < 256; i++)
		irqs[i] = 0;
	expect_irqs(vcpu, 0, 0);
}
