// SPDX-License-Identifier: GPL-2.0
/*
 * pic.c - the pair of 8259A interrupt controllers of a PC, with the edge/level control
 * registers (ELCR) of the PIIX.
 *
 * State: struct mkvm_pic. The registers of a chip are stored as KVM_GET_IRQCHIP returns them:
 * last_irr has the present levels of the eight lines, priority_add the line with the highest
 * priority, init_state the ICW that is expected next (its number less one, 0: none).
 *
 * Bit 2 of the master's IRR always equals the slave's INT output; it is not a latched edge. So
 * a slave request that goes away leaves nothing behind in the master.
 *
 * The master's INT output goes to LINT0 of every CPU. A CPU whose LINT0 is ExtINT asks for the
 * vector with an acknowledge, for which an edge stays latched even when its line has fallen
 * (mkvm_pic_set_irq gives the reason); the field for that is "output". For every other delivery
 * mode INT is a line, high and low as the data sheet describes it; the field for that is
 * "line".
 *
 * Manuals: Intel 8259A data sheet; Intel 82371AB (PIIX4) data sheet, "Interrupt Controller
 * Registers". Read next: ioapic.c.
 */
#include <linux/bitops.h>
#include <linux/errno.h>
#include <linux/nospec.h>
#include <linux/slab.h>

#include "mkvm.h"
#include "internal.h"

#define PIC_CASCADE	2	/* the master's pin that the slave drives */
#define PIC_SPURIOUS	7	/* an acknowledge without a request gives this line */

/*
 * Pins that may be level triggered: all but 0, 1, 2 (timer, keyboard, cascade), 8 (RTC), 13 (FPU).
 */
static const u8 pic_elcr_mask[2] = { 0xf8, 0xde };

struct mkvm_pic {
	raw_spinlock_t lock;		/* protects all fields but (c) */
	struct mkvm *vm;		/* (c) */
	struct kvm_pic_state chip[2];	/* master, slave; registers are also read without lock */
	u8 source[16];			/* which sources hold the pin high: bit n is source n */
	u16 pit_pins;			/* pins that the PIT has driven */
	u16 unended;		/* pins that were acknowledged and whose end is not yet reported */
	bool output;		/* an acknowledge would find a request; also read without lock */
	bool line;			/* INT as a line; also read without lock */
	u8 changes;			/* MKVM_INT_*, to be reported after the lock is released */
};

/* Returns the line with the highest priority of those in the mask, which is not 0. */
static unsigned int chip_highest(const struct kvm_pic_state *chip, u8 mask)
{
	return (__ffs(ror8(mask, chip->priority_add)) + chip->priority_add) & 7;
}

/*
 * Returns the lines in service that hold others back. In special mask mode masked lines do not, and
 * a non-specific EOI skips them.
 */
static u8 chip_service(const struct kvm_pic_state *chip)
{
	return chip->special_mask ? chip->isr & ~chip->imr : chip->isr;
}

/* Returns the highest of these requests if it is above all lines in service, else -1. */
static int chip_choose(const struct mkvm_pic *pic, unsigned int nr, u8 request)
{
	const struct kvm_pic_state *chip = &pic->chip[nr];
	u8 service = chip_service(chip);
	unsigned int irq;

	if (!request)
		return -1;
	irq = chip_highest(chip, request);
	/* Special fully nested mode: the slave may interrupt its own service. */
	if (nr == 0 && irq == PIC_CASCADE && chip->special_fully_nested_mode)
		service &= ~BIT(PIC_CASCADE);
	else if (service & BIT(irq))
		return -1;
	return chip_highest(chip, service | BIT(irq)) == irq ? (int)irq : -1;
}

/* Returns the line that an acknowledge would get, or -1. */
static int chip_pending(struct mkvm_pic *pic, unsigned int nr)
{
	const struct kvm_pic_state *chip = &pic->chip[nr];
	u8 request = chip->irr & ~chip->imr;

	return chip_choose(pic, nr, request);
}

/*
 * Updates INT as a line and records its change. It is called at each change, since a pulse makes
 * two of them. 8259A data sheet, "Interrupt Request Register": without an acknowledge a request
 * lasts as long as its line is high.
 */
static void pic_update_line(struct mkvm_pic *pic)
{
	const struct kvm_pic_state *master = &pic->chip[0], *slave = &pic->chip[1];
	u8 request = master->irr & master->last_irr & ~BIT(PIC_CASCADE);
	bool high;

	if (chip_choose(pic, 1, slave->irr & slave->last_irr & ~slave->imr) >= 0)
		request |= BIT(PIC_CASCADE);
	high = chip_choose(pic, 0, request & ~master->imr) >= 0;
	if (high == pic->line)
		return;
	WRITE_ONCE(pic->line, high);
	pic->changes |= high ? MKVM_INT_RISES : MKVM_INT_FALLS;
}

static void pin_release(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source)
{
	struct kvm_pic_state *chip = &pic->chip[pin >> 3];
	u8 bit = BIT(pin & 7);

	pic->source[pin] &= ~mkvm_source_released(source);
	if (pic->source[pin])
		return;
	chip->last_irr &= ~bit;
	chip->irr &= ~(bit & chip->elcr);
}

/*
 * Ends every operation: lowers the pins that were held until their interrupt ended, updates the
 * cascade and the output, and unlocks. Then it notifies the CPUs if INT has changed or an
 * acknowledge would now find a request (with look also if it would have done so before), and
 * reports the interrupts that ended.
 */
static void pic_unlock(struct mkvm_pic *pic, unsigned long flags, bool look)
	__releases(&pic->lock)
{
	unsigned long ended = pic->unended & ~(pic->chip[0].isr | pic->chip[1].isr << 8);
	bool before = pic->output, after;
	unsigned int pin, changes;

	pic->unended &= ~ended;
	for_each_set_bit(pin, &ended, 16) {
		pin_release(pic, pin, MKVM_SOURCE_RESAMPLE);
		mkvm_trace(pic_eoi, pic->vm, pin, pic->source[pin]);
	}
	pic->chip[0].irr &= ~BIT(PIC_CASCADE);
	if (chip_pending(pic, 1) >= 0)
		pic->chip[0].irr |= BIT(PIC_CASCADE);
	after = chip_pending(pic, 0) >= 0;
	WRITE_ONCE(pic->output, after);
	pic_update_line(pic);
	changes = pic->changes | (after && (look || !before) ? MKVM_INT_REQUEST : 0);
	pic->changes = 0;
	raw_spin_unlock_irqrestore(&pic->lock, flags);

	if (changes)
		mkvm_pic_output_changed(pic->vm, changes);
	for_each_set_bit(pin, &ended, 16)
		mkvm_irq_acked(pic->vm, pin >> 3, pin & 7);
}

static void chip_eoi(struct kvm_pic_state *chip, unsigned int irq, bool rotate)
{
	chip->isr &= ~BIT(irq);
	chip->priority_add = rotate ? (irq + 1) & 7 : chip->priority_add;
}

/*
 * One acknowledge cycle. INT falls; another request makes it rise again. Returns the line; without
 * a request the spurious one, for which no ISR bit is set.
 */
static unsigned int chip_ack(struct mkvm_pic *pic, unsigned int nr)
{
	struct kvm_pic_state *chip = &pic->chip[nr];
	struct mkvm_pit *pit = READ_ONCE(pic->vm->irqchip.pit);
	int irq = chip_pending(pic, nr);

	if (irq < 0)
		return PIC_SPURIOUS;

	if (pic->line) {
		WRITE_ONCE(pic->line, false);
		pic->changes |= MKVM_INT_FALLS;
	}
	if (!(chip->elcr & BIT(irq)))
		chip->irr &= ~BIT(irq);
	if (chip->auto_eoi)
		chip_eoi(chip, irq, chip->rotate_on_auto_eoi);
	else
		chip->isr |= BIT(irq);
	pic->unended |= BIT(nr * 8 + irq);
	if (nr || irq != PIC_CASCADE)
		mkvm_trace(pic_ack, pic->vm, nr * 8 + irq);
	/* The pin can latch the PIT's next tick now. */
	if (pit && (pic->pit_pins & BIT(nr * 8 + irq)))
		mkvm_pit_acked(pit);
	return irq;
}

/*
 * mkvm_pic_ack - run both acknowledge cycles (INTA)
 *
 * Context: any, without pic->lock. Return: the vector, 0..255; that of the spurious interrupt if
 * there is no request any more.
 */
int mkvm_pic_ack(struct mkvm_pic *pic)
{
	unsigned long flags;
	int irq, vector;

	raw_spin_lock_irqsave(&pic->lock, flags);
	irq = chip_ack(pic, 0);
	vector = (u8)(pic->chip[0].irq_base + irq);
	if (irq == PIC_CASCADE)
		vector = (u8)(pic->chip[1].irq_base + chip_ack(pic, 1));
	pic_unlock(pic, flags, true);
	return vector;
}

/* mkvm_pic_output - whether an acknowledge would find a request. Any context, no lock. */
bool mkvm_pic_output(struct mkvm_pic *pic)
{
	return READ_ONCE(pic->output);
}

/*
 * mkvm_pic_line - whether INT is high. All delivery modes but ExtINT use it. Any context, no lock.
 */
bool mkvm_pic_line(struct mkvm_pic *pic)
{
	return READ_ONCE(pic->line);
}

/*
 * mkvm_pic_set_irq - a source changes the level of a pin
 * @pin: 0 to 15; others are ignored, and so is 2, the cascade, to which no line leads
 * @level: 0, 1 or MKVM_PULSE
 *
 * An edge stays latched if the line falls before the acknowledge: userspace raises edges as short
 * pulses, and Linux KVM does the same (by the data sheet the result would be a spurious IRQ 7).
 *
 * Context: any, without pic->lock. Return: 1, MKVM_IRQ_COALESCED, or MKVM_IRQ_IGNORED if the pin is
 * masked. A masked edge is latched nevertheless, so the PIT, which must not send it again, gets 1.
 */
int mkvm_pic_set_irq(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source, int level)
{
	struct kvm_pic_state *chip = &pic->chip[pin >> 3 & 1];
	u8 bit = BIT(pin & 7);
	unsigned long flags;
	int ret = 1;

	if (pin >= 16 || pin == PIC_CASCADE)
		return MKVM_IRQ_IGNORED;

	raw_spin_lock_irqsave(&pic->lock, flags);
	if (source == MKVM_SOURCE_PIT)
		pic->pit_pins |= BIT(pin);
	if (level && mkvm_source_pulses(source) && !(chip->elcr & bit)) {
		pin_release(pic, pin, MKVM_SOURCE_RESTORED);
		pic_update_line(pic);
	}
	if (level || (pic->source[pin] & ~mkvm_source_released(source))) {
		pic->source[pin] |= level ? BIT(source) : 0;
		ret = !(chip->irr & bit) && (chip->elcr & bit || !(chip->last_irr & bit));
		chip->last_irr |= bit;
		chip->irr |= ret ? bit : 0;
		pic_update_line(pic);
	}
	if (level != 1)
		pin_release(pic, pin, source);
	mkvm_trace(pic_set, pic->vm, pin, level, ret, chip->imr & bit);
	if ((chip->imr & bit) && !(source == MKVM_SOURCE_PIT && ret))
		ret = MKVM_IRQ_IGNORED;
	pic_unlock(pic, flags, false);
	return ret;
}

/*
 * ICW1 clears what the data sheet lists, and the in-service bits, so that an interrupt which a
 * previous owner never ended holds no other back. Edges are forgotten; a line that is still high at
 * level requests again. Bits 1 (single) and 3 (level triggered) have no effect in the PIIX.
 */
static void chip_icw1(struct kvm_pic_state *chip, u8 val)
{
	bool init4 = val & 1;

	*chip = (struct kvm_pic_state){
		.last_irr = chip->last_irr,
		.irr = chip->last_irr & chip->elcr,
		.irq_base = chip->irq_base,
		.elcr = chip->elcr,
		.elcr_mask = chip->elcr_mask,
		.init_state = 1,
		.init4 = init4,
		.auto_eoi = init4 && chip->auto_eoi,
		.special_fully_nested_mode = init4 && chip->special_fully_nested_mode,
	};
}

/* OCW2. Bits 7..5: rotate, specific, EOI. */
static void chip_ocw2(struct kvm_pic_state *chip, u8 val)
{
	switch (val >> 5) {
	case 0:		/* rotation in automatic EOI mode: off, on */
	case 4:
		chip->rotate_on_auto_eoi = val >> 7;
		break;
	case 1:		/* non-specific EOI */
	case 5:
		if (chip_service(chip))
			chip_eoi(chip, chip_highest(chip, chip_service(chip)), val & 0x80);
		break;
	case 3:		/* specific EOI */
	case 7:
		chip_eoi(chip, val & 7, val & 0x80);
		break;
	case 6:		/* set priority: the named line is the lowest */
		chip->priority_add = (val + 1) & 7;
		break;
	}
}

static void chip_write_command(struct kvm_pic_state *chip, u8 val)
{
	if (val & 0x10) {
		chip_icw1(chip, val);
	} else if (val & 0x08) {	/* OCW3 */
		chip->poll |= (val >> 2) & 1;
		if (val & 0x02)
			chip->read_reg_select = val & 1;
		if (val & 0x40)
			chip->special_mask = (val >> 5) & 1;
	} else {
		chip_ocw2(chip, val);
	}
}

static void chip_write_data(struct kvm_pic_state *chip, u8 val)
{
	switch (chip->init_state) {
	case 0:		/* OCW1 */
		WRITE_ONCE(chip->imr, val);
		break;
	case 1:		/* ICW2 */
		chip->irq_base = val & 0xf8;
		chip->init_state = 2;
		break;
	case 2:		/* ICW3: the wiring of a PC is fixed */
		chip->init_state = chip->init4 ? 3 : 0;
		break;
	default:	/* ICW4 */
		chip->special_fully_nested_mode = (val >> 4) & 1;
		chip->auto_eoi = (val >> 1) & 1;
		chip->init_state = 0;
	}
}

/* A pin that becomes level triggered requests while its line is high; a latched edge is dropped. */
static void chip_write_elcr(struct kvm_pic_state *chip, u8 val)
{
	u8 now_level = val & chip->elcr_mask & ~chip->elcr;

	WRITE_ONCE(chip->elcr, val & chip->elcr_mask);
	chip->irr = (chip->irr & ~now_level) | (chip->last_irr & now_level);
}

/*
 * mkvm_pic_port_write - the guest writes one byte to port 0x20, 0x21, 0xa0, 0xa1, 0x4d0 or 0x4d1
 *
 * Context: any, without pic->lock.
 */
void mkvm_pic_port_write(struct mkvm_pic *pic, u16 port, u8 val)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&pic->lock, flags);
	if (port >= 0x4d0)
		chip_write_elcr(&pic->chip[port & 1], val);
	else if (port & 1)
		chip_write_data(&pic->chip[port >> 7], val);
	else
		chip_write_command(&pic->chip[port >> 7], val);
	pic_unlock(pic, flags, false);
}

/*
 * In poll mode the next read of either port is the acknowledge. Bit 7 says whether there was a
 * request.
 */
static u8 pic_poll(struct mkvm_pic *pic, unsigned int nr)
{
	unsigned long flags;
	u8 val;

	raw_spin_lock_irqsave(&pic->lock, flags);
	pic->chip[nr].poll = 0;
	val = chip_pending(pic, nr) >= 0 ? 0x80 : 0;
	val |= chip_ack(pic, nr);
	pic_unlock(pic, flags, true);
	return val;
}

/*
 * mkvm_pic_port_read - the guest reads one byte from one of the same ports
 *
 * Reading a register is one load without side effects and needs no lock; only a poll takes it.
 * Context: any, without pic->lock.
 */
u8 mkvm_pic_port_read(struct mkvm_pic *pic, u16 port)
{
	const struct kvm_pic_state *chip = &pic->chip[port >> 7 & 1];

	if (port >= 0x4d0)
		return READ_ONCE(pic->chip[port & 1].elcr);
	if (unlikely(READ_ONCE(chip->poll)))
		return pic_poll(pic, port >> 7);
	if (port & 1)
		return READ_ONCE(chip->imr);
	return READ_ONCE(chip->read_reg_select) ? READ_ONCE(chip->isr) : READ_ONCE(chip->irr);
}

/* mkvm_pic_get - KVM_GET_IRQCHIP: the registers of chip 0 (master) or 1 (slave). Any context. */
void mkvm_pic_get(struct mkvm_pic *pic, unsigned int chip, struct kvm_pic_state *state)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&pic->lock, flags);
	*state = pic->chip[array_index_nospec(chip, ARRAY_SIZE(pic->chip))];
	raw_spin_unlock_irqrestore(&pic->lock, flags);
}

/*
 * mkvm_pic_set - KVM_SET_IRQCHIP: set the registers of a chip
 *
 * The lines get the levels of last_irr (MKVM_SOURCE_RESTORED). The master's cascade request follows
 * the slave, regardless of irr. Context: any. Return: -EINVAL for a value that the chip cannot
 * hold; nothing has changed then.
 */
int mkvm_pic_set(struct mkvm_pic *pic, unsigned int chip, const struct kvm_pic_state *state)
{
	unsigned long flags;
	unsigned int i;

	if (chip > 1 || state->priority_add > 7 || state->init_state > 3)
		return -EINVAL;
	chip = array_index_nospec(chip, ARRAY_SIZE(pic->chip));
	if ((state->read_reg_select | state->poll | state->special_mask | state->auto_eoi |
	     state->init4 | state->rotate_on_auto_eoi | state->special_fully_nested_mode) > 1)
		return -EINVAL;
	if ((state->elcr_mask & ~pic_elcr_mask[chip]) || (state->elcr & ~state->elcr_mask))
		return -EINVAL;

	raw_spin_lock_irqsave(&pic->lock, flags);
	pic->chip[chip] = *state;
	pic->unended |= state->isr << (chip * 8);
	for (i = 0; i < 8; i++)
		pic->source[chip * 8 + i] = state->last_irr & BIT(i) ? BIT(MKVM_SOURCE_RESTORED) :
								       0;
	for (i = 0; mkvm_tracing() && i < 8; i++)
		if (state->irr & BIT(i))
			mkvm_trace_raise_pin(pic->vm, chip, i);
	/* Edges had their effect before this state was saved; levels are evaluated again. */
	pic_update_line(pic);
	pic->changes = MKVM_INT_REQUEST;
	pic_unlock(pic, flags, true);
	return 0;
}

/* mkvm_pic_create - creates vm->irqchip.pic. May sleep. Return: 0 or -ENOMEM. */
int mkvm_pic_create(struct mkvm *vm)
{
	struct mkvm_pic *pic = kzalloc(sizeof(*pic), GFP_KERNEL_ACCOUNT);

	if (!pic)
		return -ENOMEM;
	raw_spin_lock_init(&pic->lock);
	pic->vm = vm;
	pic->chip[0].elcr_mask = pic_elcr_mask[0];
	pic->chip[1].elcr_mask = pic_elcr_mask[1];
	vm->irqchip.pic = pic;
	return 0;
}

/* mkvm_pic_destroy - frees the PIC, which nobody may reach any more. */
void mkvm_pic_destroy(struct mkvm *vm)
{
	kfree(vm->irqchip.pic);
	vm->irqchip.pic = NULL;
}
