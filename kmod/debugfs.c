// SPDX-License-Identifier: GPL-2.0
/*
 * debugfs.c - a look at each VM: /sys/kernel/debug/mkvm/PID-NUMBER/{vcpus,irqchip,routing,memslots}.
 *
 * Reading changes nothing: it takes no vCPU's mutex, wakes nobody and causes no exit. So
 * what belongs to a vCPU's thread is read as it is at that moment, and rip and RFLAGS are
 * those of the last exit. Files are there from the VM's creation to its end, which waits
 * for who reads.
 *
 * State: the directory "mkvm". Read next: mkvm.h.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <asm/apicdef.h>

#include "hw_ops.h"

static struct dentry *top;

/* ---- vcpus ---- */

static int vcpus_show(struct seq_file *s, void *unused)
{
	static const char * const where[] = { "outside", "guest", "leaving" };
	static const char * const bits[] = {
		[MKVM_PEND_INIT] = "INIT", [MKVM_PEND_SIPI] = "SIPI", [MKVM_PEND_NMI] = "NMI", [MKVM_PEND_SMI] = "SMI",
		[MKVM_PEND_EVENT] = "look", [MKVM_PEND_MSRS] = "MSR filter", [MKVM_PEND_TELL] = "tell",
		[MKVM_PEND_NMI2] = "second NMI",
	};
	struct mkvm *vm = s->private;
	struct mkvm_vcpu *vcpu;
	int i, bit, vector;

	mkvm_for_each_vcpu(i, vcpu, vm) {
		unsigned long pending = READ_ONCE(vcpu->pending);
		const char *why = mkvm_why_waiting(vcpu, &vector);

		seq_printf(s, "vcpu %u: %s, %s, cpu %d%s, rip 0x%llx, rflags 0x%llx, last exit %s\n", vcpu->id,
			   mkvm_mp_state_name(READ_ONCE(vcpu->mp_state)), where[READ_ONCE(vcpu->where) % 3],
			   READ_ONCE(vcpu->cpu), READ_ONCE(vcpu->in_smm) ? ", in SMM" : "", READ_ONCE(vcpu->rip),
			   READ_ONCE(vcpu->rflags), mkvm_hw->last_exit(vcpu));
		seq_printf(s, "  pending 0x%lx", pending);
		for (bit = 0; bit < ARRAY_SIZE(bits); bit++)
			if (pending & BIT(bit))
				seq_printf(s, " %s%s", bits[bit], pending & BIT(bit + MKVM_PEND_UNSEEN) ? "(unseen)" : "");
		if (READ_ONCE(vcpu->event.type))
			seq_printf(s, ", vector 0x%x in delivery", READ_ONCE(vcpu->event.vector));
		if (vector > 255)
			seq_printf(s, ", the PIC waits: %s", why ?: "for an entry");
		else if (vector >= 0)
			seq_printf(s, ", vector 0x%x waits: %s", vector, why ?: "for an entry");
		seq_puts(s, "\n");
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vcpus);

/* ---- irqchip ---- */

static u32 lapic_reg(const struct kvm_lapic_state *state, u32 reg)
{
	return *(const u32 *)&state->regs[reg];
}

static void show_vectors(struct seq_file *s, const struct kvm_lapic_state *state, const char *name, u32 reg)
{
	unsigned int v;

	seq_printf(s, " %s", name);
	for (v = 0; v < 256; v++)
		if (lapic_reg(state, reg + (v >> 5) * 0x10) >> (v & 31) & 1)
			seq_printf(s, " 0x%x", v);
}

static void show_lapic(struct seq_file *s, struct mkvm_vcpu *vcpu, struct kvm_lapic_state *state)
{
	mkvm_lapic_get_state(vcpu->lapic, state);
	seq_printf(s, "lapic %u: base 0x%llx spiv 0x%x tpr 0x%x ppr 0x%x ldr 0x%x\n ", vcpu->id,
		   mkvm_lapic_get_base(vcpu->lapic), lapic_reg(state, APIC_SPIV), lapic_reg(state, APIC_TASKPRI),
		   lapic_reg(state, APIC_PROCPRI), lapic_reg(state, APIC_LDR));
	seq_printf(s, " timer 0x%x lint0 0x%x lint1 0x%x error 0x%x", lapic_reg(state, APIC_LVTT),
		   lapic_reg(state, APIC_LVT0), lapic_reg(state, APIC_LVT1), lapic_reg(state, APIC_LVTERR));
	show_vectors(s, state, "irr", APIC_IRR);
	show_vectors(s, state, "isr", APIC_ISR);
	seq_puts(s, "\n");
}

static void show_pics(struct seq_file *s, struct mkvm *vm)
{
	struct kvm_ioapic_state ioapic;
	struct kvm_pic_state pic;
	int i;

	for (i = 0; i < 2; i++) {
		mkvm_pic_get(vm->pic, i, &pic);
		seq_printf(s, "pic %d: base 0x%x irr 0x%02x isr 0x%02x imr 0x%02x lines 0x%02x elcr 0x%02x\n", i,
			   pic.irq_base, pic.irr, pic.isr, pic.imr, pic.last_irr, pic.elcr);
	}
	mkvm_ioapic_get(vm->ioapic, &ioapic);
	for (i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		seq_printf(s, "ioapic pin %d: vector 0x%02x mode %d dest 0x%02x %s %s%s%s\n", i,
			   ioapic.redirtbl[i].fields.vector, ioapic.redirtbl[i].fields.delivery_mode,
			   ioapic.redirtbl[i].fields.dest_id, ioapic.redirtbl[i].fields.trig_mode ? "level" : "edge",
			   ioapic.irr & BIT(i) ? "high" : "low", ioapic.redirtbl[i].fields.mask ? ", masked" : "",
			   ioapic.redirtbl[i].fields.remote_irr ? ", remote-IRR" : "");
}

static int irqchip_show(struct seq_file *s, void *unused)
{
	struct kvm_lapic_state *state = kmalloc(sizeof(*state), GFP_KERNEL);
	struct mkvm *vm = s->private;
	struct mkvm_vcpu *vcpu;
	int i;

	if (!state)
		return -ENOMEM;
	if (mkvm_pic_in_kernel(vm))
		show_pics(s, vm);
	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->lapic)
			show_lapic(s, vcpu, state);
	kfree(state);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(irqchip);

/* ---- routing, memslots ---- */

static int routing_show(struct seq_file *s, void *unused)
{
	static const char * const chips[] = { "pic 0", "pic 1", "ioapic" };
	struct kvm_irq_routing_entry e;
	u32 gsi;
	int i;

	for (gsi = 0; gsi < MKVM_NR_GSI; gsi++) {
		for (i = 0; i <= KVM_NR_IRQCHIPS; i++) {
			if (!mkvm_routing_get(s->private, gsi, i, &e))
				continue;
			if (e.type == KVM_IRQ_ROUTING_MSI)
				seq_printf(s, "gsi %u: msi address 0x%x%08x data 0x%x\n", gsi, e.u.msi.address_hi,
					   e.u.msi.address_lo, e.u.msi.data);
			else
				seq_printf(s, "gsi %u: %s pin %u\n", gsi, chips[i], e.u.irqchip.pin);
		}
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(routing);

static int memslots_show(struct seq_file *s, void *unused)
{
	struct mkvm *vm = s->private;
	int as, i, idx = srcu_read_lock(&vm->srcu);

	for (as = 0; as < MKVM_NR_AS; as++) {
		const struct mkvm_memslots *slots = srcu_dereference(vm->slots[as], &vm->srcu);

		for (i = 0; i < slots->nr; i++)
			seq_printf(s, "space %d slot %u: gpa 0x%llx size 0x%llx hva 0x%lx%s%s\n", as,
				   slots->slot[i].id & 0xffff, slots->slot[i].gfn << PAGE_SHIFT,
				   slots->slot[i].npages << PAGE_SHIFT, slots->slot[i].hva,
				   slots->slot[i].flags & KVM_MEM_READONLY ? " read-only" : "",
				   slots->slot[i].dirty ? " dirty log" : "");
	}
	srcu_read_unlock(&vm->srcu, idx);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(memslots);

/* ---- life ---- */

/* mkvm_debugfs_add - a VM's directory; without debugfs nothing happens. Context: the VM is complete; sleeps. */
void mkvm_debugfs_add(struct mkvm *vm)
{
	char name[32];

	snprintf(name, sizeof(name), "%d-%u", task_tgid_nr(current), vm->nr);
	vm->debugfs = debugfs_create_dir(name, top);
	debugfs_create_file("vcpus", 0400, vm->debugfs, vm, &vcpus_fops);
	debugfs_create_file("irqchip", 0400, vm->debugfs, vm, &irqchip_fops);
	debugfs_create_file("routing", 0400, vm->debugfs, vm, &routing_fops);
	debugfs_create_file("memslots", 0400, vm->debugfs, vm, &memslots_fops);
}

/* mkvm_debugfs_remove - from its return on nobody reads. Sleeps. */
void mkvm_debugfs_remove(struct mkvm *vm)
{
	debugfs_remove_recursive(vm->debugfs);
}

void mkvm_debugfs_setup(void)
{
	top = debugfs_create_dir("mkvm", NULL);
}

void mkvm_debugfs_teardown(void)
{
	debugfs_remove_recursive(top);
}
