// SPDX-License-Identifier: GPL-2.0
/*
 * ioapic.c - the I/O APIC: 24 pins, version 0x11 (so it has no EOI register), at
 * MKVM_IOAPIC_BASE.
 *
 * State: struct mkvm_ioapic. Each pin has a redirection table entry (RTE) and a line, which is
 * high while any source holds it high. RTE bit 13 (polarity) has no effect: a source asserts a
 * line, it does not drive a voltage. An edge is delivered at once or, on a masked pin, lost
 * ("ignored, not delivered or held pending"). A level is delivered while the line is high, the
 * pin is unmasked and remote-IRR is clear. Delivery sets remote-IRR, and the EOI of the vector
 * that was sent clears it; that vector is stored apart from the RTE, which the guest may
 * rewrite.
 *
 * Manual: Intel 82093AA data sheet. Read next: routing.c, then lapic.c.
 */
#include <linux/bitops.h>
#include <linux/errno.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "mkvm.h"
#include "internal.h"
#include "compat.h"

#define IOAPIC_SELECT		0x00	/* MMIO offsets */
#define IOAPIC_WINDOW		0x10
#define IOAPIC_VERSION		(0x11 | (KVM_IOAPIC_NUM_PINS - 1) << 16)

#define RTE_WRITABLE		0xff0000000001afffull	/* but delivery status and remote-IRR */
#define RTE_REMOTE_IRR		BIT_ULL(14)
#define RTE_MASKED		BIT_ULL(16)

/*
 * A line that never falls interrupts the guest again at each EOI, before it can run one more
 * instruction outside the handler. After this many interrupts in a row the next one is delayed, as
 * in Linux KVM, so that the guest makes progress.
 */
#define IOAPIC_STORM_COUNT	10000
#define IOAPIC_STORM_DELAY	(10 * NSEC_PER_MSEC)

struct mkvm_ioapic {
	raw_spinlock_t lock;		/* protects all fields but (a) and (c) */
	struct mkvm *vm;		/* (c) */
	DECLARE_BITMAP(wants_eoi, 256);	/* (a) vectors whose EOI matters */
	struct kvm_ioapic_state reg;	/* only ioregsel, id and redirtbl are used */
	u32 line;			/* pins that are high */
	u32 pit_pins;		/* pins that the PIT has driven: their EOIs are reported to it */
	u32 resample_pins;		/* pins that irqfds with a resamplefd have driven */
	u32 storming;			/* pins that wait for storm_timer */
	u8 source[KVM_IOAPIC_NUM_PINS];	/* which sources hold the pin high: bit n is source n */
	u8 sent[KVM_IOAPIC_NUM_PINS];	/* vector of the last delivery whose EOI matters */
	u16 in_a_row[KVM_IOAPIC_NUM_PINS]; /* EOIs since one found the line low */
	struct hrtimer storm_timer;
};

/* Only fixed and lowest-priority delivery can be level triggered: no EOI ends the others. */
static bool pin_is_level(const struct mkvm_ioapic *ioapic, unsigned int pin)
{
	return ioapic->reg.redirtbl[pin].fields.trig_mode &&
	       ioapic->reg.redirtbl[pin].fields.delivery_mode <= 1;
}

/* Sends the pin's message unless it is masked or remote-IRR is set. Lock held. */
static int pin_deliver(struct mkvm_ioapic *ioapic, unsigned int pin)
{
	typeof(ioapic->reg.redirtbl[0]) *rte = &ioapic->reg.redirtbl[pin];
	struct mkvm_irq irq = {
		.dest = rte->fields.dest_id,
		.vector = rte->fields.vector,
		.delivery = rte->fields.delivery_mode,
		.logical = rte->fields.dest_mode,
		.level = pin_is_level(ioapic, pin),
		.assert = true,
	};
	int ret;

	if (rte->fields.mask || rte->fields.remote_irr) {
		mkvm_trace(pin_held, ioapic->vm, pin, rte->bits, false);
		return MKVM_IRQ_IGNORED;
	}

	/* The bit is set before the target, which takes no lock, can end the interrupt. */
	if (irq.level || ((ioapic->pit_pins | ioapic->resample_pins) & BIT(pin))) {
		ioapic->sent[pin] = irq.vector;
		set_bit(irq.vector, ioapic->wants_eoi);
		smp_mb__after_atomic();
	}
	irq.id = mkvm_trace_id(pin_id, ioapic->vm, KVM_IRQCHIP_IOAPIC, pin);
	ret = mkvm_irq_deliver(ioapic->vm, NULL, &irq);
	/*
	 * If coalesced, another pin's interrupt with this vector is pending, and one EOI ends both.
	 */
	if (irq.level && ret >= 0)
		rte->fields.remote_irr = 1;
	return ret;
}

/* Sends the message of a level-triggered pin that is high. Lock held. */
static int pin_deliver_level(struct mkvm_ioapic *ioapic, unsigned int pin)
{
	if (!pin_is_level(ioapic, pin) || !(ioapic->line & ~ioapic->storming & BIT(pin)))
		return MKVM_IRQ_IGNORED;
	return pin_deliver(ioapic, pin);
}

static void pin_set_low(struct mkvm_ioapic *ioapic, unsigned int pin)
{
	ioapic->line &= ~BIT(pin);
	ioapic->storming &= ~BIT(pin);
}

static void pin_release(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source)
{
	ioapic->source[pin] &= ~mkvm_source_released(source);
	if (!ioapic->source[pin])
		pin_set_low(ioapic, pin);
}

static int pin_set_high(struct mkvm_ioapic *ioapic, unsigned int pin)
{
	bool was_high = ioapic->line & BIT(pin);

	ioapic->line |= BIT(pin);
	if (pin_is_level(ioapic, pin))
		return pin_deliver_level(ioapic, pin);
	if (!was_high)
		return pin_deliver(ioapic, pin);
	mkvm_trace(pin_held, ioapic->vm, pin, 0, true);
	return MKVM_IRQ_COALESCED;
}

/*
 * mkvm_ioapic_set_irq - a source changes the level of a pin
 * @pin: 0 to 23; others are ignored
 * @level: 0, 1 or MKVM_PULSE
 *
 * Context: any, without ioapic->lock. Return: as mkvm_irq_deliver; MKVM_IRQ_COALESCED if an
 * edge-triggered pin was high already; MKVM_IRQ_IGNORED if it is masked or remote-IRR is set; 1 for
 * level 0.
 */
int mkvm_ioapic_set_irq(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source,
			int level)
{
	unsigned long flags;
	int ret = 1;

	if (pin >= KVM_IOAPIC_NUM_PINS)
		return MKVM_IRQ_IGNORED;
	pin = array_index_nospec(pin, KVM_IOAPIC_NUM_PINS);

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	mkvm_trace(ioapic_set, ioapic->vm, pin, level, ioapic->reg.redirtbl[pin].bits);
	if (source == MKVM_SOURCE_PIT)
		ioapic->pit_pins |= BIT(pin);
	if (level) {
		if (mkvm_source_pulses(source) && !pin_is_level(ioapic, pin))
			pin_release(ioapic, pin, MKVM_SOURCE_RESTORED);
		ioapic->source[pin] |= BIT(source);
		ioapic->resample_pins |= source == MKVM_SOURCE_RESAMPLE ? BIT(pin) : 0;
		ret = pin_set_high(ioapic, pin);
	}
	if (level != 1)
		pin_release(ioapic, pin, source);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
	return ret;
}

/*
 * mkvm_ioapic_wants_eoi - whether mkvm_ioapic_eoi must be called for this vector. Any context, no
 * lock.
 */
bool mkvm_ioapic_wants_eoi(struct mkvm_ioapic *ioapic, u8 vector)
{
	return test_bit(vector, ioapic->wants_eoi);
}

/* The level-triggered interrupt of a pin has ended; its line may still be high. Lock held. */
static void pin_eoi(struct mkvm_ioapic *ioapic, unsigned int pin)
{
	ioapic->reg.redirtbl[pin].fields.remote_irr = 0;
	if (!(ioapic->line & BIT(pin))) {
		ioapic->in_a_row[pin] = 0;
		return;
	}
	if (++ioapic->in_a_row[pin] >= IOAPIC_STORM_COUNT) {
		ioapic->in_a_row[pin] = 0;
		ioapic->storming |= BIT(pin);
		hrtimer_start(&ioapic->storm_timer, ns_to_ktime(IOAPIC_STORM_DELAY),
			      HRTIMER_MODE_REL_HARD);
	}
	pin_deliver_level(ioapic, pin);
}

/*
 * mkvm_ioapic_eoi - a LAPIC has ended the vector
 *
 * Resamplefds are signalled while remote-IRR is still set: a pin that they lower is not delivered
 * again, and a pin that they raise is delivered afterwards. Each pin is delivered at most once.
 * Context: any, without ioapic->lock.
 */
void mkvm_ioapic_eoi(struct mkvm_ioapic *ioapic, u8 vector)
{
	struct mkvm_pit *pit = READ_ONCE(ioapic->vm->irqchip.pit);
	unsigned long flags, acked = 0;
	unsigned int pin;

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	clear_bit(vector, ioapic->wants_eoi);
	for (pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		if (ioapic->sent[pin] != vector)
			continue;
		mkvm_trace(ioapic_eoi, ioapic->vm, pin, ioapic->reg.redirtbl[pin].bits,
			   ioapic->line & BIT(pin));
		if (ioapic->reg.redirtbl[pin].fields.remote_irr ||
		    (ioapic->resample_pins & BIT(pin)))
			acked |= BIT(pin);
		if (pit && (ioapic->pit_pins & BIT(pin)))
			mkvm_pit_acked(pit);
	}
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);

	for_each_set_bit(pin, &acked, KVM_IOAPIC_NUM_PINS)
		mkvm_irq_acked(ioapic->vm, KVM_IRQCHIP_IOAPIC, pin);

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	for_each_set_bit(pin, &acked, KVM_IOAPIC_NUM_PINS)
		if (ioapic->reg.redirtbl[pin].fields.remote_irr)
			pin_eoi(ioapic, pin);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
}

/* Context: hard interrupt. */
static enum hrtimer_restart ioapic_storm_over(struct hrtimer *timer)
{
	struct mkvm_ioapic *ioapic = container_of(timer, struct mkvm_ioapic, storm_timer);
	unsigned long flags;
	unsigned int pin;

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	ioapic->storming = 0;
	for (pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		pin_deliver_level(ioapic, pin);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
	return HRTIMER_NORESTART;
}

/*
 * Sets an RTE. An edge-triggered pin has no remote-IRR: older systems end a level interrupt by
 * switching the pin to edge and back. Lock held.
 */
static void pin_set_rte(struct mkvm_ioapic *ioapic, unsigned int pin, u64 bits)
{
	ioapic->reg.redirtbl[pin].bits = bits;
	if (!pin_is_level(ioapic, pin))
		ioapic->reg.redirtbl[pin].fields.remote_irr = 0;
}

/* An index without a register reads as all ones. Lock held. */
static u32 ioapic_read_register(const struct mkvm_ioapic *ioapic)
{
	u32 index = ioapic->reg.ioregsel;
	u32 pin = (index - 0x10) >> 1;

	if (index == 0 || index == 2)	/* id, arbitration id */
		return ioapic->reg.id << 24;
	if (index == 1)
		return IOAPIC_VERSION;
	if (index < 0x10 || pin >= KVM_IOAPIC_NUM_PINS)
		return ~0u;
	pin = array_index_nospec(pin, KVM_IOAPIC_NUM_PINS);
	return ioapic->reg.redirtbl[pin].bits >> (index & 1 ? 32 : 0);
}

/* Lock held. */
static void ioapic_write_register(struct mkvm_ioapic *ioapic, u32 val)
{
	u32 index = ioapic->reg.ioregsel;
	u32 pin = (index - 0x10) >> 1;
	u64 old, new;

	if (index == 0)
		ioapic->reg.id = (val >> 24) & 0xf;
	if (index < 0x10 || pin >= KVM_IOAPIC_NUM_PINS)
		return;

	pin = array_index_nospec(pin, KVM_IOAPIC_NUM_PINS);
	old = ioapic->reg.redirtbl[pin].bits;
	new = index & 1 ? (u64)val << 32 | (u32)old : (old & ~0xffffffffull) | val;
	pin_set_rte(ioapic, pin, (new & RTE_WRITABLE) | (old & RTE_REMOTE_IRR));
	pin_deliver_level(ioapic, pin);
}

/*
 * mkvm_ioapic_mmio_read - the guest reads from the IOAPIC's page
 * @offset: 0 to 0xff; reads as 0 where no register is
 * @len: 1, 2, 4 or 8 bytes
 *
 * Context: any, without ioapic->lock.
 */
void mkvm_ioapic_mmio_read(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len, void *val)
{
	unsigned long flags;
	u32 data = 0;

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	if (offset == IOAPIC_SELECT)
		data = ioapic->reg.ioregsel;
	else if (offset == IOAPIC_WINDOW)
		data = ioapic_read_register(ioapic);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);

	memset(val, 0, len);
	memcpy(val, &data, min(len, 4u));
}

/* As mkvm_ioapic_mmio_read; only the lower 4 of 8 bytes have an effect. */
void mkvm_ioapic_mmio_write(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len,
			    const void *val)
{
	unsigned long flags;
	u32 data = 0;

	memcpy(&data, val, min(len, 4u));
	raw_spin_lock_irqsave(&ioapic->lock, flags);
	if (offset == IOAPIC_SELECT)
		ioapic->reg.ioregsel = data & 0xff;
	else if (offset == IOAPIC_WINDOW)
		ioapic_write_register(ioapic, data);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
}

/*
 * mkvm_ioapic_get - KVM_GET_IRQCHIP
 *
 * irr has the lines that are high, without those whose edge was already delivered, so that setting
 * the state delivers no edge twice. Context: any.
 */
void mkvm_ioapic_get(struct mkvm_ioapic *ioapic, struct kvm_ioapic_state *state)
{
	unsigned long flags;
	unsigned int pin;

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	*state = ioapic->reg;
	for (pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (pin_is_level(ioapic, pin) || state->redirtbl[pin].fields.mask)
			state->irr |= ioapic->line & BIT(pin);
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
}

/*
 * mkvm_ioapic_set - KVM_SET_IRQCHIP
 *
 * The lines get the levels of irr (MKVM_SOURCE_RESTORED), and what can be delivered is delivered.
 * Reserved and read-only bits of RTEs are dropped, as on a write by the guest; pad is ignored,
 * since clients leave it uninitialised. Context: any. Return: -EINVAL for another base address or a
 * register's value that is too large; nothing has changed then.
 */
int mkvm_ioapic_set(struct mkvm_ioapic *ioapic, const struct kvm_ioapic_state *state)
{
	unsigned long flags;
	unsigned int pin;

	if (state->base_address != MKVM_IOAPIC_BASE || state->ioregsel > 0xff || state->id > 0xf ||
	    state->irr >> KVM_IOAPIC_NUM_PINS)
		return -EINVAL;

	raw_spin_lock_irqsave(&ioapic->lock, flags);
	ioapic->reg.ioregsel = state->ioregsel;
	ioapic->reg.id = state->id;
	for (pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		ioapic->source[pin] = state->irr & BIT(pin) ? BIT(MKVM_SOURCE_RESTORED) : 0;
		pin_set_low(ioapic, pin);
		ioapic->in_a_row[pin] = 0;
		pin_set_rte(ioapic, pin,
			    state->redirtbl[pin].bits & (RTE_WRITABLE | RTE_REMOTE_IRR));
		/* The state does not have the vector in service: it is presumably this one. */
		ioapic->sent[pin] = state->redirtbl[pin].fields.vector;
		if (ioapic->reg.redirtbl[pin].fields.remote_irr)
			set_bit(ioapic->sent[pin], ioapic->wants_eoi);
		if (!ioapic->source[pin])
			continue;
		mkvm_trace(raise_pin, ioapic->vm, KVM_IRQCHIP_IOAPIC, pin);
		pin_set_high(ioapic, pin);
	}
	raw_spin_unlock_irqrestore(&ioapic->lock, flags);
	return 0;
}

/*
 * mkvm_ioapic_create - creates vm->irqchip.ioapic with all pins masked. May sleep. Return: 0 or
 * -ENOMEM.
 */
int mkvm_ioapic_create(struct mkvm *vm)
{
	struct mkvm_ioapic *ioapic = kzalloc(sizeof(*ioapic), GFP_KERNEL_ACCOUNT);
	unsigned int pin;

	if (!ioapic)
		return -ENOMEM;
	raw_spin_lock_init(&ioapic->lock);
	ioapic->vm = vm;
	ioapic->reg.base_address = MKVM_IOAPIC_BASE;
	for (pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		ioapic->reg.redirtbl[pin].bits = RTE_MASKED;
	mkvm_hrtimer_setup(&ioapic->storm_timer, ioapic_storm_over, CLOCK_MONOTONIC,
			   HRTIMER_MODE_REL_HARD);
	vm->irqchip.ioapic = ioapic;
	return 0;
}

/* mkvm_ioapic_destroy - frees the IOAPIC, which nobody may reach any more. May sleep. */
void mkvm_ioapic_destroy(struct mkvm *vm)
{
	if (!vm->irqchip.ioapic)
		return;
	hrtimer_cancel(&vm->irqchip.ioapic->storm_timer);
	kfree(vm->irqchip.ioapic);
	vm->irqchip.ioapic = NULL;
}
