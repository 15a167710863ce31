// SPDX-License-Identifier: GPL-2.0
/*
 * Who owns which interrupt controller: KVM_CAP_SPLIT_IRQCHIP with its EOI
 * exits and ExtINT, the window of KVM_INTERRUPT in all three modes, TPR access
 * reports, the VAPIC page, 32-bit APIC ids.
 *
 * Read next: events.c (KVM_INTERRUPT without any irqchip), routing.c.
 */
#include <string.h>

#include "vm.h"

#define PINS 24
#define LEVEL 0xc000u		/* MSI data: level triggered, asserted */
#define TRIGGER 0x8000u		/* the same as QEMU's IOAPIC sends it */
#define PIN 3
#define PIN_VECTOR 0x31
#define PORT_EOI 0x5200		/* OUT: EOI to a local APIC that is the VMM's */
#define SPIV_DIRECTED_EOI 0x1000

static struct vm *split_vm(void)
{
	NEED_CAP(KVM_CAP_SPLIT_IRQCHIP);
	return vm_create(VM_SPLIT);
}

static int interrupt(struct vcpu *vcpu, u32 vector)
{
	struct kvm_interrupt irq = { .irq = vector };

	return ioctl(vcpu->fd, KVM_INTERRUPT, &irq);
}

struct msi_route {
	u32 gsi;
	u64 address;
	u32 data;
};

/* struct kvm_irq_routing with room. */
struct routing_table {
	u32 nr, flags;
	struct kvm_irq_routing_entry e[8];
};

static int set_routes(struct vm *vm, int n, const struct msi_route *routes)
{
	struct routing_table table = { .nr = n };

	for (int i = 0; i < n; i++) {
		table.e[i].gsi = routes[i].gsi;
		table.e[i].type = KVM_IRQ_ROUTING_MSI;
		table.e[i].u.msi.address_lo = routes[i].address;
		table.e[i].u.msi.address_hi = routes[i].address >> 32;
		table.e[i].u.msi.data = routes[i].data;
	}
	return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

static void route_pin(struct vm *vm, u32 data)
{
	struct msi_route route = { PIN, MSI_ADDR(0), data };

	ASSERT_OK(set_routes(vm, 1, &route));
}

static void set_window(struct vcpu *vcpu, bool wanted)
{
	vcpu->run->request_interrupt_window = wanted;
}

/* --- Creation --- */

TEST(split_irqchip_is_created_once_and_before_vcpus)
{
	int vm = vm_create_bare();

	NEED_CAP(KVM_CAP_SPLIT_IRQCHIP);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, 1ull << 32));
	EXPECT_ERRNO(EINVAL,
		     vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, capability(KVM_CAP_IRQ_ROUTING) + 1));
	EXPECT_OK(vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, PINS));
	EXPECT_ERRNO(EEXIST, vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, PINS));
	EXPECT_ERRNO(EEXIST, ioctl(vm, KVM_CREATE_IRQCHIP));

	vm = vm_create_bare();
	ASSERT_OK(ioctl(vm, KVM_CREATE_IRQCHIP));
	EXPECT_ERRNO(EEXIST, vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, PINS));

	vm = vm_create_bare();
	ASSERT_OK(ioctl(vm, KVM_CREATE_VCPU, 0L));
	EXPECT_ERRNO(EEXIST, vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, PINS));

	EXPECT_OK(vm_enable_cap(vm_create_bare(), KVM_CAP_SPLIT_IRQCHIP,
				capability(KVM_CAP_IRQ_ROUTING)));
	EXPECT_OK(vm_enable_cap(vm_create_bare(), KVM_CAP_SPLIT_IRQCHIP, 0));
}

TEST(enable_cap_refuses_what_it_does_not_know)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .flags = 1, .args = { PINS } };
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_ENABLE_CAP_VM);
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_ENABLE_CAP, &cap));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, 0x7fffffff, 0));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_X2APIC_API, 1ull << 40));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_ENABLE_CAP, 8ul));
	if (!is_linux_kvm()) {
		cap.flags = 0;
		cap.args[1] = 1;
		EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_ENABLE_CAP, &cap));
		cap.args[1] = 0;
		cap.pad[63] = 1;
		EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_ENABLE_CAP, &cap));
	}
	vcpu = vcpu_create(vm, 0);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vcpu->fd, KVM_CAP_SPLIT_IRQCHIP, PINS));
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_ENABLE_CAP, 8ul));
}

static void touch_chips(u64 arg)
{
	(void)arg;
	inb(PIC_MASTER + 1);
	inb(0x40);
	mmio_read32(IOAPIC_BASE);
	GUEST_EQ(0, apic_read(APIC_ID));
	stage(1);
}

TEST(in_split_mode_pic_pit_and_ioapic_are_userspaces)
{
	struct vm *vm = split_vm();
	struct vcpu *vcpu = vcpu_add(vm, touch_chips, 0);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
	struct routing_table table = { .nr = 1,
				       .e[0] = { .gsi = 1, .type = KVM_IRQ_ROUTING_IRQCHIP } };
	struct kvm_irq_level line = { .irq = PIN, .level = 1 };
	struct kvm_run *run;

	EXPECT_ERRNO(ENXIO, ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	EXPECT_ERRNO(ENXIO, ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table));
	/* No route yet: nobody is there. */
	EXPECT_OK(ioctl(vm->fd, KVM_IRQ_LINE_STATUS, &line));
	EXPECT_EQ(-1, (int)line.status);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(PIC_MASTER + 1, run->io.port);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(0x40, run->io.port);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
	EXPECT_EQ(IOAPIC_BASE, run->mmio.phys_addr);
	vcpu_run_to_done(vcpu);
}

/* --- EOI exits --- */

static void to_apic_mode(bool x2apic)
{
	irq_count_range(0x20, 0xfe);
	if (x2apic)
		x2apic_enable();
	else
		apic_enable();
}

static void stages(u64 x2apic)
{
	to_apic_mode(x2apic);
	sti();
	for (u32 i = 1;; i++)
		stage(i);
}

/* Runs to the guest's next stage; the vector whose EOI is told before, 0: none. */
static u32 eoi_before_next_stage(struct vcpu *vcpu)
{
	u32 told = 0;

	while (vcpu_step(vcpu) != EVENT_STAGE) {
		ASSERT_EQ(KVM_EXIT_IOAPIC_EOI, vcpu->run->exit_reason);
		ASSERT_EQ(0, told);
		told = vcpu->run->eoi.vector;
	}
	return told;
}

static void eoi_exits(bool x2apic)
{
	const struct msi_route routes[] = {
		{ PIN, MSI_ADDR(0), PIN_VECTOR | TRIGGER },
		{ PIN + 1, MSI_ADDR(0), 0x41 },
		{ PINS, MSI_ADDR(0), 0x51 | LEVEL },
		{ PINS - 1, MSI_ADDR(0), 0x61 | LEVEL },
	};
	struct vm *vm = split_vm();
	struct vcpu *vcpu = vcpu_add(vm, stages, x2apic);

	ASSERT_OK(set_routes(vm, 4, routes));
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	for (u32 i = 1; i <= 3; i++) {
		vm_irq_line(vm, PIN, 1);
		EXPECT_EQ(PIN_VECTOR, eoi_before_next_stage(vcpu));
		EXPECT_EQ(i, irqs[PIN_VECTOR]);
		EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	}
	/* The last pin; an edge; a GSI that is no pin; the pin's vector by another way. */
	vm_irq_line(vm, PINS - 1, 1);
	EXPECT_EQ(0x61, eoi_before_next_stage(vcpu));
	vm_irq_line(vm, PIN + 1, 1);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	vm_irq_line(vm, PINS, 1);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	EXPECT_EQ(1, irqs[0x41]);
	EXPECT_EQ(1, irqs[0x51]);
	vm_msi(vm, MSI_ADDR(0), PIN_VECTOR | LEVEL);
	EXPECT_EQ(PIN_VECTOR, eoi_before_next_stage(vcpu));
	EXPECT_EQ(4, irqs[PIN_VECTOR]);
}

TEST(xapic_eoi_of_a_level_vector_of_a_pin_is_told_once)
{
	eoi_exits(false);
}

TEST(x2apic_eoi_of_a_level_vector_of_a_pin_is_told_once)
{
	eoi_exits(true);
}

TEST(an_edge_with_a_level_pins_vector_is_not_told)
{
	struct vm *vm = split_vm();
	struct vcpu *vcpu = vcpu_add(vm, stages, 0);

	if (is_linux_kvm())
		SKIP("Linux KVM does not look at TMR");
	route_pin(vm, PIN_VECTOR | LEVEL);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	vm_msi(vm, MSI_ADDR(0), PIN_VECTOR);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	EXPECT_EQ(1, irqs[PIN_VECTOR]);
}

static void on_pin(struct guest_frame *frame)
{
	stage(100);
	irq_count(frame);
}

static void rewritten(u64 arg)
{
	(void)arg;
	to_apic_mode(false);
	guest_handlers[PIN_VECTOR] = on_pin;
	sti();
	for (u32 i = 1;; i++)
		stage(i);
}

TEST(a_pin_rewritten_in_service_is_told_of_the_eoi_once)
{
	struct vm *vm = split_vm();
	struct vcpu *vcpu = vcpu_add(vm, rewritten, 0);

	if (is_linux_kvm())
		SKIP("Linux KVM 6.1 forgets the vector with the route");
	route_pin(vm, PIN_VECTOR | LEVEL);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 100);
	route_pin(vm, 0x71 | LEVEL);
	route_pin(vm, 0x81 | LEVEL);
	EXPECT_EQ(PIN_VECTOR, eoi_before_next_stage(vcpu));
	vm_irq_line(vm, PIN, 1);
	EXPECT_EQ(0x81, eoi_before_next_stage(vcpu));
	/* Finished and no longer routed: this vector is nobody's. */
	route_pin(vm, 0x81 | LEVEL);
	guest_handlers[PIN_VECTOR] = irq_count;
	vm_msi(vm, MSI_ADDR(0), PIN_VECTOR | LEVEL);
	EXPECT_EQ(0, eoi_before_next_stage(vcpu));
	EXPECT_EQ(2, irqs[PIN_VECTOR]);
}

static void directed_eoi(u64 x2apic)
{
	to_apic_mode(x2apic);
	if (x2apic) {
		GUEST_TRUE(x2apic_read(APIC_VERSION) & 1 << 24);
		x2apic_write(APIC_SPIV, SPIV_ENABLE | SPIV_DIRECTED_EOI | 0xff);
	} else {
		GUEST_TRUE(apic_read(APIC_VERSION) & 1 << 24);
		apic_write(APIC_SPIV, SPIV_ENABLE | SPIV_DIRECTED_EOI | 0xff);
		GUEST_TRUE(apic_read(APIC_SPIV) & SPIV_DIRECTED_EOI);
	}
	sti();
	for (u32 i = 1;; i++)
		stage(i);
}

TEST(with_eoi_broadcasts_suppressed_no_eoi_is_told)
{
	for (u64 x2apic = 0; x2apic < 2; x2apic++) {
		struct vm *vm = split_vm();
		struct vcpu *vcpu = vcpu_add(vm, directed_eoi, x2apic);

		if (is_linux_kvm())
			SKIP("Linux KVM 6.1 tells all the same");
		route_pin(vm, PIN_VECTOR | LEVEL);
		EXPECT_EQ(0, eoi_before_next_stage(vcpu));
		irqs[PIN_VECTOR] = 0;
		vm_irq_line(vm, PIN, 1);
		EXPECT_EQ(0, eoi_before_next_stage(vcpu));
		EXPECT_EQ(1, irqs[PIN_VECTOR]);
	}
}

/* --- ExtINT and its window --- */

#define EXTINT 0x70

static void extint(u64 arg)
{
	(void)arg;
	to_apic_mode(false);
	guest_handlers[EXTINT] = irq_count_only;
	apic_write(APIC_LVT0, LVT_EXTINT | LVT_MASKED);
	stage(1);
	sti();
	stage(2);
	apic_write(APIC_LVT0, LVT_EXTINT);
	asm volatile("nop");
	stage(3);
	cli();
	stage(4);
	stage(5);
	sti_nop_cli();
	stage(6);
}

TEST(extint_comes_by_kvm_interrupt_when_lint0_lets_it)
{
	struct vcpu *vcpu = vcpu_add(split_vm(), extint, 0);
	struct kvm_run *run = vcpu->run;

	set_window(vcpu, true);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0, run->ready_for_interrupt_injection);
	/* IF is set, but LINT0 is masked: no window. */
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, run->if_flag);
	EXPECT_EQ(0, run->ready_for_interrupt_injection);
	EXPECT_EQ(KVM_EXIT_IRQ_WINDOW_OPEN, vcpu_run(vcpu));
	EXPECT_EQ(1, run->ready_for_interrupt_injection);
	EXPECT_ERRNO(EINVAL, interrupt(vcpu, 256));
	EXPECT_OK(interrupt(vcpu, EXTINT));
	EXPECT_ERRNO(EEXIST, interrupt(vcpu, EXTINT + 1));
	set_window(vcpu, false);
	vcpu_run_to_stage(vcpu, 3);
	EXPECT_EQ(1, irqs[EXTINT]);
	EXPECT_EQ(1, run->ready_for_interrupt_injection);
	/* IF is clear: it waits, and a second one is refused all the time. */
	vcpu_run_to_stage(vcpu, 4);
	EXPECT_EQ(0, run->ready_for_interrupt_injection);
	EXPECT_OK(interrupt(vcpu, EXTINT));
	vcpu_run_to_stage(vcpu, 5);
	EXPECT_EQ(1, irqs[EXTINT]);
	EXPECT_EQ(0, run->ready_for_interrupt_injection);
	EXPECT_ERRNO(EEXIST, interrupt(vcpu, EXTINT));
	vcpu_run_to_stage(vcpu, 6);
	EXPECT_EQ(2, irqs[EXTINT]);
	vcpu_run_to_done(vcpu);
}

CODE_BLOB(started, 16, "outb %al, $0x80\n");

TEST(init_drops_an_extint_that_waits)
{
	struct vm *vm = split_vm();
	struct vcpu *ap;

	if (is_linux_kvm())
		SKIP("Linux KVM keeps it");
	vcpu_add(vm, extint, 0);
	ap = vcpu_add(vm, extint, 0);
	vm_load(vm, CODE_GPA, started, started_end);
	vcpu_run_to_stage(ap, 1);
	EXPECT_OK(interrupt(ap, EXTINT));
	EXPECT_ERRNO(EEXIST, interrupt(ap, EXTINT));
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(1), 0x4500));
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(1), 0x4600 | CODE_GPA >> 12));
	vcpu_run_to_exit(ap, KVM_EXIT_IO);
	EXPECT_OK(interrupt(ap, EXTINT));
	EXPECT_EQ(0, irqs[EXTINT]);
}

static void halts(u64 arg)
{
	(void)arg;
	guest_handlers[EXTINT] = irq_count_only;
	stage(1);
	sti_hlt_cli();
	GUEST_EQ(1, irqs[EXTINT]);
}

TEST(kvm_interrupt_wakes_a_halted_vcpu)
{
	struct vcpu *vcpu = vcpu_add(split_vm(), halts, 0);
	struct kvm_regs regs;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &regs);
	regs.rflags |= RFLAGS_IF;
	regs.rip += 2;		/* behind STI; HLT */
	vcpu_set_regs(vcpu, &regs);
	vcpu_set_mp_state(vcpu, KVM_MP_STATE_HALTED);
	if (!is_linux_kvm()) {	/* there it sleeps on */
		set_window(vcpu, true);
		EXPECT_EQ(KVM_EXIT_IRQ_WINDOW_OPEN, vcpu_run(vcpu));
		EXPECT_EQ(KVM_MP_STATE_HALTED, vcpu_mp_state(vcpu));
		set_window(vcpu, false);
	}
	EXPECT_OK(interrupt(vcpu, EXTINT));
	vcpu_run_to_done(vcpu);
}

TEST(not_ready_while_an_event_waits_to_be_delivered)
{
	struct vcpu *vcpu = vcpu_add(split_vm(), halts, 0);
	struct kvm_run *run = vcpu->run;
	struct kvm_vcpu_events events;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_sti(vcpu);
	vcpu_finish_exit(vcpu);
	EXPECT_EQ(1, run->ready_for_interrupt_injection);
	set_window(vcpu, true);
	for (int exception = 0; exception < 2; exception++) {
		vcpu_get_events(vcpu, &events);
		events.exception.injected = exception;
		events.exception.nr = VEC_UD;
		events.interrupt.injected = !exception;
		events.interrupt.nr = EXTINT;
		ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
		vcpu_finish_exit(vcpu);
		EXPECT_EQ(0, run->ready_for_interrupt_injection);
		if (!exception && !is_linux_kvm())
			EXPECT_ERRNO(EEXIST, interrupt(vcpu, EXTINT));
	}
}

/*
 * The interrupt that ran twice: 33 and 62 are pending, TPR masks 33. Who has
 * the local APIC must not matter: each handler runs once, and no window opens
 * that nobody asked for or through which nothing can go.
 */
enum { KERNEL, SPLIT, USER };

static volatile u32 apic_owner;

static void on_masked(struct guest_frame *frame)
{
	if (apic_owner != USER) {
		irq_count(frame);
		return;
	}
	irq_count_only(frame);
	outb(PORT_EOI, 0);
}

static void two_vectors(u64 x2apic)
{
	if (apic_owner != USER)
		to_apic_mode(x2apic);
	if (apic_owner == SPLIT && x2apic)
		x2apic_write(APIC_LVT0, LVT_EXTINT | LVT_MASKED);
	else if (apic_owner == SPLIT)
		apic_write(APIC_LVT0, LVT_EXTINT | LVT_MASKED);
	guest_handlers[33] = guest_handlers[62] = on_masked;
	write_cr8(2);
	stage(1);
	sti();
	GUEST_WAIT(irqs[62]);
	GUEST_EQ(0, irqs[33]);
	stage(2);
	GUEST_EQ(0, irqs[33]);
	write_cr8(0);
	GUEST_WAIT(irqs[33]);
	stage(3);
	cli();
	sti_nop_cli();
	GUEST_EQ(1, irqs[33]);
	GUEST_EQ(1, irqs[62]);
	stage(4);
}

/* A local APIC in userspace, as far as these guests need one. */
static u64 user_irr, user_isr;

static int user_vector(const struct kvm_run *run)
{
	int irr = user_irr ? 63 - __builtin_clzll(user_irr) : -1;
	int isr = user_isr ? 63 - __builtin_clzll(user_isr) : -1;

	return irr >> 4 > isr >> 4 && irr >> 4 > (int)run->cr8 ? irr : -1;
}

/* What a VMM does before KVM_RUN. */
static void user_inject(struct vcpu *vcpu)
{
	int vector = user_vector(vcpu->run);

	if (vector >= 0 && vcpu->run->ready_for_interrupt_injection) {
		ASSERT_OK(interrupt(vcpu, vector));
		if (!is_linux_kvm())
			EXPECT_ERRNO(EEXIST, interrupt(vcpu, vector));
		user_irr &= ~(1ull << vector);
		user_isr |= 1ull << vector;
		vector = user_vector(vcpu->run);
	}
	set_window(vcpu, vector >= 0);
}

static void user_exit(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		ASSERT_EQ(1, run->request_interrupt_window);
		ASSERT_EQ(1, run->ready_for_interrupt_injection);
		ASSERT_EQ(1, run->if_flag);
		break;
	case KVM_EXIT_SET_TPR:
		break;
	case KVM_EXIT_IO:
		ASSERT_EQ(PORT_EOI, run->io.port);
		user_isr &= ~(1ull << (63 - __builtin_clzll(user_isr)));
		break;
	default:
		FAIL("exit %u", run->exit_reason);
	}
}

static void runs_once(u32 owner, bool x2apic)
{
	u32 chips = owner == KERNEL ? VM_IRQCHIP : 0;
	struct vm *vm = owner == SPLIT ? split_vm() : vm_create(chips);
	struct vcpu *vcpu = vcpu_add(vm, two_vectors, x2apic);
	enum vcpu_event event;

	apic_owner = owner;
	do {
		if (owner == USER)
			user_inject(vcpu);
		else		/* the kernel's PIC has no window; or LINT0 is masked */
			set_window(vcpu, vcpu->stage);
		event = vcpu_step(vcpu);
		if (event == EVENT_EXIT)
			user_exit(vcpu);
		ASSERT_TRUE(owner == USER || event != EVENT_EXIT);
		if (event != EVENT_STAGE || vcpu->stage != 1)
			continue;
		if (owner == USER) {
			user_irr = 1ull << 33 | 1ull << 62;
			continue;
		}
		EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), 33));
		EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), 62));
	} while (event != EVENT_DONE);
	EXPECT_EQ(1, irqs[33]);
	EXPECT_EQ(1, irqs[62]);
	EXPECT_EQ(4, vcpu->stage);
}

TEST(two_vectors_and_tpr_kernel_xapic)
{
	runs_once(KERNEL, false);
}

TEST(two_vectors_and_tpr_kernel_x2apic)
{
	runs_once(KERNEL, true);
}

TEST(two_vectors_and_tpr_split_xapic)
{
	runs_once(SPLIT, false);
}

TEST(two_vectors_and_tpr_split_x2apic)
{
	runs_once(SPLIT, true);
}

TEST(two_vectors_and_tpr_userspace)
{
	runs_once(USER, false);
}

/* --- What kvm_run says at every exit --- */

static void change_fields(u64 has_apic)
{
	write_cr8(5);
	stage(1);
	sti();
	stage(2);
	cli();
	write_cr8(9);
	if (has_apic)
		wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) | APICBASE_X2APIC);
	stage(3);
}

TEST(kvm_run_shows_if_cr8_and_apic_base_in_every_mode)
{
	static const unsigned int modes[] = { VM_IRQCHIP, VM_SPLIT, 0 };
	const u64 base = APIC_BASE | APICBASE_ENABLE | APICBASE_BSP;

	NEED_CAP(KVM_CAP_SPLIT_IRQCHIP);
	for (int i = 0; i < 3; i++) {
		struct vcpu *vcpu = vcpu_add(vm_create(modes[i]), change_fields, modes[i]);
		struct kvm_run *run = vcpu->run;
		bool kernel_pic = modes[i] == VM_IRQCHIP;

		ktap_about("mode %u", modes[i]);
		vcpu_run_to_stage(vcpu, 1);
		EXPECT_EQ(0, run->if_flag);
		EXPECT_EQ(5, run->cr8);
		EXPECT_EQ(base, run->apic_base);
		EXPECT_EQ(kernel_pic, run->ready_for_interrupt_injection);
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, run->if_flag);
		EXPECT_EQ(1, run->ready_for_interrupt_injection);
		vcpu_run_to_stage(vcpu, 3);
		EXPECT_EQ(0, run->if_flag);
		EXPECT_EQ(9, run->cr8);
		EXPECT_EQ(base | (modes[i] ? APICBASE_X2APIC : 0), run->apic_base);
		vcpu_run_to_done(vcpu);
	}
}

/* --- TPR access reports, VAPIC page --- */

extern const u8 tpr_write[], tpr_read[];

static void touch_tpr(u64 arg)
{
	u32 value;

	(void)arg;
	asm volatile("tpr_write: movl %0, (%1)" :: "r"(0x30), "r"(APIC_BASE + APIC_TPR) : "memory");
	stage(1);
	asm volatile("tpr_read: movl (%1), %0"
		     : "=r"(value)
		     : "r"(APIC_BASE + APIC_TPR)
		     : "memory");
	GUEST_EQ(0x30, value);
	write_cr8(4);
	GUEST_EQ(4, read_cr8());
	apic_enable();
	stage(2);
	GUEST_EQ(0x40, apic_read(APIC_TPR));
	stage(3);
}

TEST(accesses_to_tpr_are_told_with_their_instruction)
{
	struct kvm_tpr_access_ctl ctl = { .enabled = 1 };
	struct vcpu *vcpu = vcpu_add(vm_create(VM_IRQCHIP), touch_tpr, 0);
	struct kvm_run *run;

	NEED_CAP(KVM_CAP_VAPIC);
	ctl.flags = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_TPR_ACCESS_REPORTING, &ctl));
	ctl.flags = 0;
	ASSERT_OK(ioctl(vcpu->fd, KVM_TPR_ACCESS_REPORTING, &ctl));
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_TPR_ACCESS);
	EXPECT_EQ((u64)tpr_write, run->tpr_access.rip);
	EXPECT_EQ(1, run->tpr_access.is_write);
	EXPECT_EQ(0x30, vcpu_lapic(vcpu, APIC_TPR));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(KVM_EXIT_TPR_ACCESS, vcpu_run(vcpu));
	EXPECT_EQ((u64)tpr_read, run->tpr_access.rip);
	EXPECT_EQ(0, run->tpr_access.is_write);
	/* CR8 is no access to the register; and it can be switched off. */
	vcpu_run_to_stage(vcpu, 2);
	ctl.enabled = 0;
	ASSERT_OK(ioctl(vcpu->fd, KVM_TPR_ACCESS_REPORTING, &ctl));
	vcpu_run_to_stage(vcpu, 3);
	vcpu_run_to_done(vcpu);
}

static volatile u32 vapic __attribute__((aligned(4)));

static void use_vapic(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_TPR, 0x50);
	GUEST_EQ(0x50, vapic & 0xff);
	stage(1);
	/* The host has sent 0x43: masked, and seen in the page. */
	GUEST_EQ(0x43000050, vapic);
	sti();
	asm volatile("nop");
	GUEST_EQ(0, irqs[0x43]);
	*(volatile u8 *)&vapic = 0x20;
	stage(2);
	GUEST_EQ(1, irqs[0x43]);
	GUEST_EQ(0x20, apic_read(APIC_TPR));
	GUEST_EQ(0x20, vapic);
	stage(3);
}

TEST(the_vapic_page_shows_tpr_and_takes_it)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, use_vapic, 0);
	struct kvm_vapic_addr addr = { .vapic_addr = MMIO_GPA };

	NEED_CAP(KVM_CAP_VAPIC);
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
	if (is_linux_kvm())
		SKIP("Linux KVM loses a TPR that is written to the register");
	addr.vapic_addr = (u64)&vapic;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), 0x43));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(0x20, vcpu_lapic(vcpu, APIC_TPR));
	vcpu_run_to_stage(vcpu, 3);
	addr.vapic_addr = 0;
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
	vapic = 0x99;
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x99, vapic);
	EXPECT_EQ(0x20, vcpu_lapic(vcpu, APIC_TPR));

	vcpu = vcpu_create(vm_create(0), 0);
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
}

TEST(a_vapic_page_that_goes_away_harms_nobody)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, touch_tpr, 0);
	struct kvm_vapic_addr addr = { .vapic_addr = TEST_GPA + PAGE_SIZE - 4 };
	void *memory = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);

	NEED_CAP(KVM_CAP_VAPIC);
	if (is_linux_kvm())
		SKIP("Linux KVM loses a TPR that is written to the register");
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0x30, *((u8 *)memory + PAGE_SIZE - 4));
	ASSERT_OK(vm_set_slot(vm, SLOT_TEST, 0, TEST_GPA, 0, memory));
	vcpu_run_to_done(vcpu);
}

/* --- APIC ids of 32 bits --- */

#define FAR_ID 300

static struct vm *wide_vm(u64 flags)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	NEED_CAP(KVM_CAP_X2APIC_API);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X2APIC_API, flags));
	return vm;
}

static int wide_msi(struct vm *vm, u32 dest, u32 high, u32 data)
{
	struct kvm_msi msi = { .address_lo = MSI_ADDR(dest & 0xff),
			       .address_hi = high,
			       .data = data };

	return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

static void far_guest(u64 arg)
{
	(void)arg;
	to_apic_mode(true);
	GUEST_EQ(FAR_ID, x2apic_read(APIC_ID));
	stage(1);
	sti_nop_cli();
	GUEST_EQ(1, irqs[0x55]);
	GUEST_EQ(1, irqs[0x56]);
	GUEST_EQ(0, irqs[0x57]);
}

TEST(msis_and_routes_reach_an_id_over_255)
{
	struct vm *vm =
		wide_vm(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	struct msi_route route = { 40, (u64)(FAR_ID & ~0xff) << 32 | MSI_ADDR(FAR_ID & 0xff),
				   0x56 };
	struct vcpu *near = vcpu_create(vm, FAR_ID & 0xff), *vcpu = vcpu_create(vm, FAR_ID);

	vcpu_set_guest(vcpu, far_guest, 0);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(1, wide_msi(vm, FAR_ID, FAR_ID & ~0xff, 0x55));
	ASSERT_OK(set_routes(vm, 1, &route));
	vm_irq_line(vm, 40, 1);
	/* Its low 8 bits are another vCPU's. */
	wide_msi(vm, FAR_ID & 0xff, 0, 0x57);
	EXPECT_EQ(false, vcpu_lapic_bit(vcpu, APIC_IRR, 0x57));
	EXPECT_EQ(false, vcpu_lapic_bit(near, APIC_IRR, 0x55));
	vcpu_run_to_done(vcpu);
	EXPECT_ERRNO(EINVAL, wide_msi(vm, FAR_ID, FAR_ID, 0x55));
	route.address |= 1ull << 32;
	EXPECT_ERRNO(EINVAL, set_routes(vm, 1, &route));
}

static void ipi_to_far(u64 arg)
{
	(void)arg;
	to_apic_mode(true);
	x2apic_icr(FAR_ID, 0x55);
	x2apic_icr((FAR_ID & ~15) << 12 | 1 << (FAR_ID & 15), ICR_LOGICAL | 0x56);
	x2apic_icr(FAR_ID << 16 | (FAR_ID & 0xff), 0x57);
	stage(1);
}

TEST(ipis_reach_an_id_over_255)
{
	struct vm *vm =
		wide_vm(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	struct vcpu *near = vcpu_create(vm, FAR_ID & 0xff), *vcpu = vcpu_create(vm, FAR_ID);

	vcpu_set_guest(vcpu, far_guest, 0);
	vcpu_set_guest(near, ipi_to_far, 0);
	vcpu_run_to_stage(vcpu, 1);
	vcpu_run_to_stage(near, 1);
	for (u32 vector = 0x55; vector <= 0x57; vector++)
		EXPECT_EQ(false, vcpu_lapic_bit(near, APIC_IRR, vector));
	vcpu_run_to_done(vcpu);
}

static void only_x2apic(u64 arg)
{
	(void)arg;
	to_apic_mode(true);
	stage(1);
}

TEST(destination_255_is_a_broadcast_to_x2apics_until_userspace_says_no)
{
	for (u64 flags = 0; flags < 4; flags++) {
		struct vm *vm = wide_vm(flags);
		struct vcpu *vcpu = vcpu_add(vm, only_x2apic, 0);
		bool quirk = !(flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);

		ktap_about("flags %llu", (unsigned long long)flags);
		vcpu_run_to_stage(vcpu, 1);
		wide_msi(vm, 0xff, 0, 0x60);
		EXPECT_EQ(quirk, vcpu_lapic_bit(vcpu, APIC_IRR, 0x60));
		if (flags == 3) {
			EXPECT_EQ(1, wide_msi(vm, 0xff, 0xffffff00, 0x61));
			EXPECT_EQ(true, vcpu_lapic_bit(vcpu, APIC_IRR, 0x61));
		}
	}
}

TEST(the_lapic_image_has_the_id_as_userspace_chose)
{
	for (u64 flags = 0; flags < 2; flags++) {
		struct vcpu *vcpu = vcpu_create(wide_vm(flags), 5);
		struct kvm_lapic_state lapic;
		u32 id;

		ktap_about("flags %llu", (unsigned long long)flags);
		EXPECT_EQ(5u << 24, vcpu_lapic(vcpu, APIC_ID));
		ASSERT_EQ(1, vcpu_set_msr(vcpu, MSR_APICBASE,
					  APIC_BASE | APICBASE_ENABLE | APICBASE_X2APIC));
		EXPECT_EQ(flags ? 5 : 5u << 24, vcpu_lapic(vcpu, APIC_ID));
		ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
		EXPECT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
		EXPECT_EQ(flags ? 5 : 5u << 24, vcpu_lapic(vcpu, APIC_ID));
		id = flags ? 5u << 24 : 6u << 24;
		memcpy(lapic.regs + APIC_ID, &id, sizeof(id));
		if (flags || !is_linux_kvm())
			EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	}
}
