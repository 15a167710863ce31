// SPDX-License-Identifier: GPL-2.0
/*
 * lab_bochs.c - makes Bochs's SVM usable by the host, whichever hypervisor runs there.
 *
 * Bochs's VMRUN decides what RFLAGS.IF masks before it is in the guest, so a guest that is entered
 * with IF clear holds the host's interrupts back until it changes IF. IF does not mask NMIs: every
 * CPU gets a thousand a second. Each makes the guest exit, and the host takes its interrupts then.
 * The PIT sends them, because Linux leaves it alone once the LAPICs' timers run: it is the input of
 * a pin of the IOAPIC, whose delivery mode is set to NMI here. No CPU need be free for it.
 *
 * A guest that runs with RFLAGS.TF set and exits at an instruction leaves the trap of its step to
 * the host: it comes with the host's first instruction, while TR and GS are the guest's. The
 * handler of #DB must not use the TSS then. This one ignores traps of the kernel's mode, and
 * leaves those of userspace to the kernel.
 *
 * State: channel 0 of the PIT, that pin and a copy of the IDT, until the machine is off.
 * Read next: bochs, which loads this for --vendor amd-bochs.
 */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <linux/timex.h>
#include <asm/desc.h>
#include <asm/nmi.h>
#include <asm/trapnr.h>

#define IOAPIC_BASE	0xfec00000
#define IOAPIC_PIN	2		/* IRQ 0 in the firmware's tables */
#define RTE_NMI		(4 << 8)	/* edge triggered, physical destination, not masked */
#define RTE_MASKED	(1 << 16)
#define ALL_CPUS	(0xffu << 24)
#define PIT_COUNT	0x40
#define PIT_MODE	0x43
#define PIT_PERIODIC	0x34		/* channel 0, low byte and high byte, mode 2 */
#define NMIS_A_SECOND	1000

/* All NMIs of that machine are the PIT's, or those that another handler has served as well. */
static int lab_nmi(unsigned int type, struct pt_regs *regs)
{
	return NMI_HANDLED;
}

static void ioapic_write(void __iomem *base, unsigned int reg, u32 val)
{
	writel(reg, base);
	writel(val, base + 0x10);
}

static int __init send_nmis(void)
{
	unsigned int count = PIT_TICK_RATE / NMIS_A_SECOND;
	void __iomem *ioapic = ioremap(IOAPIC_BASE, PAGE_SIZE);
	unsigned long flags;
	int ret;

	if (!ioapic)
		return -ENOMEM;
	ret = register_nmi_handler(NMI_LOCAL, lab_nmi, 0, "lab_bochs");
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

void lab_debug_trap(void);
unsigned long lab_kernel_debug_trap;

/* On the stack are RIP and CS. Without a TSS there is no stack of its own. */
asm(".pushsection .text\n"
    "lab_debug_trap:\n"
    "	testb $3, 8(%rsp)\n"
    "	jnz 1f\n"
    "	iretq\n"
    "1:	jmp *lab_kernel_debug_trap(%rip)\n"
    ".popsection\n");

static void __init load_this_idt(void *idt)
{
	native_load_idt(idt);
}

static int __init ignore_debug_traps(void)
{
	struct desc_ptr idt;
	gate_desc *gates = (gate_desc *)__get_free_page(GFP_KERNEL), *gate = gates + X86_TRAP_DB;
	unsigned long handler = (unsigned long)lab_debug_trap;

	if (!gates)
		return -ENOMEM;
	store_idt(&idt);
	memcpy(gates, (void *)idt.address, idt.size + 1);
	lab_kernel_debug_trap = gate_offset(gate);
	gate->offset_low = handler;
	gate->offset_middle = handler >> 16;
	gate->offset_high = handler >> 32;
	gate->bits.ist = 0;
	idt.address = (unsigned long)gates;
	on_each_cpu(load_this_idt, &idt, 1);
	return 0;
}

static int __init lab_bochs_init(void)
{
	int ret = ignore_debug_traps();

	return ret ?: send_nmis();
}

/* No exit: all stays until the machine is off. */
module_init(lab_bochs_init);
MODULE_DESCRIPTION("Ways around faults of Bochs's SVM, in the lab");
MODULE_LICENSE("GPL");
