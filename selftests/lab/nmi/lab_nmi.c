// SPDX-License-Identifier: GPL-2.0
/*
 * lab_nmi.c - sends an NMI to every CPU of a machine of Bochs's, a thousand times a second.
 *
 * Bochs's VMRUN decides what RFLAGS.IF masks before it is in the guest, so a guest that is entered
 * with IF clear holds the host's interrupts back until it changes IF. IF does not mask NMIs: each
 * makes the guest exit, and the host takes its interrupts then. The PIT sends them, because Linux
 * leaves it alone once the LAPICs' timers run: it is the input of a pin of the IOAPIC, whose
 * delivery mode is set to NMI here. No CPU need be free for it.
 *
 * State: channel 0 of the PIT and that pin, until the machine is off.
 * Read next: bochs, which loads this for --vendor amd-bochs.
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/timex.h>
#include <asm/nmi.h>

#define IOAPIC_BASE	0xfec00000
#define IOAPIC_PIN	2		/* IRQ 0 in the firmware's tables */
#define RTE_NMI		(4 << 8)	/* edge triggered, physical destination, not masked */
#define RTE_MASKED	(1 << 16)
#define ALL_CPUS	(0xffu << 24)
#define PIT_COUNT	0x40
#define PIT_MODE	0x43
#define PIT_PERIODIC	0x34		/* channel 0, low byte and high byte, mode 2 */

static unsigned int hz = 1000;
module_param(hz, uint, 0444);
MODULE_PARM_DESC(hz, "NMIs a second (default 1000; 19 is the least)");

/* All NMIs of that machine are the PIT's, or those that another handler has served as well. */
static int lab_nmi_handler(unsigned int type, struct pt_regs *regs)
{
	return NMI_HANDLED;
}

static void ioapic_write(void __iomem *base, unsigned int reg, u32 val)
{
	writel(reg, base);
	writel(val, base + 0x10);
}

static int __init lab_nmi_init(void)
{
	unsigned int count = PIT_TICK_RATE / clamp(hz, 19u, PIT_TICK_RATE / 2);
	void __iomem *ioapic = ioremap(IOAPIC_BASE, PAGE_SIZE);
	unsigned long flags;
	int ret;

	if (!ioapic)
		return -ENOMEM;
	ret = register_nmi_handler(NMI_LOCAL, lab_nmi_handler, 0, "lab_nmi");
	if (ret)
		goto out;
	/* The kernel's lock of the IOAPIC is not exported; nothing else sets up a pin now. */
	local_irq_save(flags);
	ioapic_write(ioapic, 0x10 + 2 * IOAPIC_PIN, RTE_MASKED);
	ioapic_write(ioapic, 0x11 + 2 * IOAPIC_PIN, ALL_CPUS);
	ioapic_write(ioapic, 0x10 + 2 * IOAPIC_PIN, RTE_NMI);
	outb(PIT_PERIODIC, PIT_MODE);
	outb(count & 0xff, PIT_COUNT);
	outb(count >> 8, PIT_COUNT);
	local_irq_restore(flags);
out:
	iounmap(ioapic);
	return ret;
}

/* No exit: the PIT goes on until the machine is off. */
module_init(lab_nmi_init);
MODULE_DESCRIPTION("NMIs for the AMD machine of Bochs");
MODULE_LICENSE("GPL");
