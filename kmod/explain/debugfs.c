// SPDX-License-Identifier: GPL-2.0
/*
 * debugfs.c - the state of each VM in debugfs:
 * /sys/kernel/debug/mkvm/PID-NUMBER/{vcpus,irqchip,routing,memslots,stats}, as text, and the
 * same as JSON in vcpus.json and so on.
 *
 * Reading changes nothing: it takes no vCPU's mutex, wakes no thread and causes no exit. So
 * what belongs to a vCPU's thread is read as it is at that moment, and rip and RFLAGS are those
 * of the last exit. The files exist from the VM's creation to its end, which waits for readers.
 * The JSON is an interface: Documentation/debugfs.rst lists its fields, and VERSION is
 * increased when one of them is removed or changes its meaning.
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

/* ---- one description of the data for both renderings ---- */

struct out {
	struct seq_file *s;
	bool json, first;		/* first: the next item needs no comma */
	struct kvm_lapic_state lapic;	/* scratch space */
};

static void comma(struct out *o)
{
	if (o->json && !o->first)
		seq_putc(o->s, ',');
	o->first = false;
}

/* Begins an object or a list. @key: NULL within a list. */
static void begin(struct out *o, const char *key, char bracket)
{
	if (!o->json)
		return;
	comma(o);
	if (key)
		seq_printf(o->s, "\"%s\":", key);
	seq_putc(o->s, bracket);
	o->first = true;
}

static void end(struct out *o, char bracket)
{
	if (o->json)
		seq_putc(o->s, bracket);
	else if (bracket == '}')
		seq_putc(o->s, '\n');
	o->first = false;
}

/*
 * Prints items of an object. @record is a printf format in which each value is in braces, after its
 * key: "vcpu {id %u}: {mp_state %s}". Text omits braces and keys, and JSON omits all else. JSON has
 * strings and hexadecimal numbers in quotes, since many programs read JSON's numbers as floating
 * point. Items with '?' before the key take their values from flag().
 */
static __printf(2, 3) void show(struct out *o, const char *record, ...)
{
	char format[256] = "";
	const char *item;
	va_list args;
	size_t n = 0;

	comma(o);
	for (; (item = strchr(record, '{')); record = strchr(item, '}') + 1) {
		const char *value = strchr(item, ' ') + 1;
		int flag = item[1] == '?', key = value - item - 2 - flag,
		    len = strchr(value, '}') - value;
		const char *quote = *value == '0' || (value[1] == 's' && !flag) ? "\"" : "";

		if (o->json)
			n += scnprintf(format + n, sizeof(format) - n, "%s\"%.*s\":%s%.*s%s",
				       n ? "," : "", key, item + 1 + flag, quote, len, value,
				       quote);
		else
			n += scnprintf(format + n, sizeof(format) - n, "%.*s%.*s",
				       (int)(item - record), record, len, value);
	}
	if (!o->json)
		strscpy(format + n, record, sizeof(format) - n);
	va_start(args, record);
	seq_vprintf(o->s, format, args);
	va_end(args);
}

/*
 * Returns the value of an item whose key begins with '?': true or false in JSON, words or none in
 * text.
 */
static const char *flag(struct out *o, bool value, const char *words)
{
	if (o->json)
		return value ? "true" : "false";
	return value ? words : "";
}

/* ---- vcpus ---- */

static void show_pending(struct out *o, unsigned long pending)
{
	static const char *const bits[] = {
		[MKVM_PEND_INIT] = "INIT",  [MKVM_PEND_SIPI] = "SIPI",
		[MKVM_PEND_NMI] = "NMI",    [MKVM_PEND_SMI] = "SMI",
		[MKVM_PEND_EVENT] = "look", [MKVM_PEND_MSRS] = "MSR filter",
		[MKVM_PEND_REPORT] = "report",  [MKVM_PEND_NMI2] = "second NMI",
	};
	int bit;

	begin(o, "pending", '[');
	for (bit = 0; bit < ARRAY_SIZE(bits); bit++) {
		if (!(pending & BIT(bit)))
			continue;
		comma(o);
		seq_printf(o->s, o->json ? "\"%s\"" : " %s%s", bits[bit],
			   pending & BIT(bit + MKVM_PEND_UNSEEN) ? "(unseen)" : "");
	}
	end(o, ']');
}

static void show_vcpu(struct out *o, struct mkvm_vcpu *vcpu)
{
	static const char * const where[] = { "outside", "guest", "leaving" };
	struct mkvm_vcpu_state v;
	const char *why;

	mkvm_vcpu_state(vcpu, &v);
	why = mkvm_hold_name(v.hold) ?: "for an entry";
	begin(o, NULL, '{');
	show(o, "vcpu {id %u}: {mp_state %s}, {where %s}, cpu {cpu %d}{?in_smm %s}", v.id,
	     mkvm_mp_state_name(v.mp_state), where[v.where % 3], v.cpu,
	     flag(o, v.in_smm, ", in SMM"));
	show(o, ", rip {rip 0x%llx}, rflags {rflags 0x%llx}, last exit {last_exit %s}\n  pending {word 0x%x}",
	     v.rip, v.rflags, v.last_exit, v.pending);
	show_pending(o, v.pending);
	if (v.delivering >= 0)
		show(o, ", vector {in_delivery 0x%x} in delivery", v.delivering);
	if (v.waiting == MKVM_WAITS_EXTINT)
		show(o, ", the {waiting %s} waits: {why %s}", "PIC", why);
	else if (v.waiting >= 0)
		show(o, ", vector {waiting 0x%x} waits: {why %s}", v.waiting, why);
	end(o, '}');
}

/* ---- irqchip ---- */

static u32 lapic_reg(const struct kvm_lapic_state *state, u32 reg)
{
	return *(const u32 *)&state->regs[reg];
}

static void show_vectors(struct out *o, const char *name, u32 reg)
{
	unsigned int v;

	begin(o, name, '[');
	if (!o->json)
		seq_printf(o->s, " %s", name);
	for (v = 0; v < 256; v++) {
		if (!(lapic_reg(&o->lapic, reg + (v >> 5) * 0x10) >> (v & 31) & 1))
			continue;
		comma(o);
		seq_printf(o->s, o->json ? "\"0x%x\"" : " 0x%x", v);
	}
	end(o, ']');
}

static void show_lapic(struct out *o, struct mkvm_vcpu *vcpu)
{
	struct kvm_lapic_state *state = &o->lapic;

	if (!vcpu->lapic)
		return;
	mkvm_lapic_get_state(vcpu->lapic, state);
	begin(o, NULL, '{');
	show(o,
	     "lapic {id %u}: base {base 0x%llx} spiv {spiv 0x%x} tpr {tpr 0x%x} ppr {ppr 0x%x} ldr {ldr 0x%x}\n ",
	     vcpu->id, mkvm_lapic_get_base(vcpu->lapic), lapic_reg(state, APIC_SPIV),
	     lapic_reg(state, APIC_TASKPRI), lapic_reg(state, APIC_PROCPRI),
	     lapic_reg(state, APIC_LDR));
	show(o, " timer {timer 0x%x} lint0 {lint0 0x%x} lint1 {lint1 0x%x} error {error 0x%x}",
	     lapic_reg(state, APIC_LVTT), lapic_reg(state, APIC_LVT0), lapic_reg(state, APIC_LVT1),
	     lapic_reg(state, APIC_LVTERR));
	show_vectors(o, "irr", APIC_IRR);
	show_vectors(o, "isr", APIC_ISR);
	end(o, '}');
}

static void show_pics(struct out *o, struct mkvm *vm)
{
	struct kvm_pic_state pic;
	int i;

	for (i = 0; i < 2 && mkvm_pic_in_kernel(vm); i++) {
		mkvm_pic_get(vm->irqchip.pic, i, &pic);
		begin(o, NULL, '{');
		show(o, "pic {id %d}: base {base 0x%x} irr {irr 0x%02x} isr {isr 0x%02x} imr {imr 0x%02x}", i,
		     pic.irq_base, pic.irr, pic.isr, pic.imr);
		show(o, " lines {lines 0x%02x} elcr {elcr 0x%02x}", pic.last_irr, pic.elcr);
		end(o, '}');
	}
}

static void show_ioapic(struct out *o, struct mkvm *vm)
{
	struct kvm_ioapic_state ioapic;
	int i;

	if (!mkvm_pic_in_kernel(vm))
		return;
	mkvm_ioapic_get(vm->irqchip.ioapic, &ioapic);
	for (i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
		begin(o, NULL, '{');
		show(o, "ioapic pin {pin %d}: vector {vector 0x%02x} mode {mode %d} dest {dest 0x%02x}", i,
		     ioapic.redirtbl[i].fields.vector, ioapic.redirtbl[i].fields.delivery_mode,
		     ioapic.redirtbl[i].fields.dest_id);
		show(o, " {trigger %s} {line %s}{?masked %s}{?remote_irr %s}",
		     ioapic.redirtbl[i].fields.trig_mode ? "level" : "edge",
		     ioapic.irr & BIT(i) ? "high" : "low",
		     flag(o, ioapic.redirtbl[i].fields.mask, ", masked"),
		     flag(o, ioapic.redirtbl[i].fields.remote_irr, ", remote-IRR"));
		end(o, '}');
	}
}

/* ---- routing, memslots, stats ---- */

static void show_route(struct out *o, u32 gsi, const struct kvm_irq_routing_entry *e)
{
	static const char * const chips[] = { "pic 0", "pic 1", "ioapic" };

	begin(o, NULL, '{');
	if (e->type == KVM_IRQ_ROUTING_MSI)
		show(o, "gsi {gsi %u}: {to %s} address {address 0x%llx} data {data 0x%x}", gsi, "msi",
		     (u64)e->u.msi.address_hi << 32 | e->u.msi.address_lo, e->u.msi.data);
	else
		show(o, "gsi {gsi %u}: {to %s} pin {pin %u}", gsi, chips[e->u.irqchip.irqchip], e->u.irqchip.pin);
	end(o, '}');
}

static void show_routes(struct out *o, struct mkvm *vm)
{
	struct kvm_irq_routing_entry e;
	u32 gsi;
	int i;

	for (gsi = 0; gsi < MKVM_NR_GSI; gsi++)
		for (i = 0; i <= KVM_NR_IRQCHIPS; i++)
			if (mkvm_routing_get(vm, gsi, i, &e))
				show_route(o, gsi, &e);
}

static void show_slots(struct out *o, struct mkvm *vm)
{
	int as, i, idx = srcu_read_lock(&vm->srcu);

	for (as = 0; as < MKVM_NR_AS; as++) {
		const struct mkvm_memslots *slots = srcu_dereference(vm->slots[as], &vm->srcu);

		for (i = 0; i < slots->nr; i++) {
			const struct mkvm_memslot *slot = &slots->slot[i];

			begin(o, NULL, '{');
			show(o,
			     "space {space %d} slot {slot %u}: gpa {gpa 0x%llx} size {size 0x%llx}",
			     as, slot->id & 0xffff, slot->gfn << PAGE_SHIFT,
			     slot->npages << PAGE_SHIFT);
			show(o, " hva {hva 0x%lx}{?read_only %s}{?dirty_log %s}", slot->hva,
			     flag(o, slot->flags & KVM_MEM_READONLY, " read-only"),
			     flag(o, slot->dirty, " dirty log"));
			end(o, '}');
		}
	}
	srcu_read_unlock(&vm->srcu, idx);
}

static void show_counters(struct out *o, u32 id, const u64 *values, bool vcpu)
{
	u32 i, nr = vcpu ? MKVM_NR_VCPU_STATS : MKVM_NR_VM_STATS;

	begin(o, NULL, '{');
	show(o, vcpu ? "vcpu {id %u}:" : "vm {id %u}:", id);
	for (i = 0; i < nr; i++) {
		comma(o);
		seq_printf(o->s, o->json ? "\"%s\":%llu" : " %s %llu", mkvm_stat_name(i, vcpu),
			   READ_ONCE(values[i]));
	}
	end(o, '}');
}

static void show_vm_stats(struct out *o, struct mkvm *vm)
{
	show_counters(o, vm->nr, vm->stats, false);
}

static void show_vcpu_stats(struct out *o, struct mkvm_vcpu *vcpu)
{
	show_counters(o, vcpu->id, vcpu->stats, true);
}

/* ---- life ---- */

static const char * const files[] = { "vcpus", "irqchip", "routing", "memslots", "stats" };

/* The lists of each file. A function prints a list for the VM, or one item of it for each vCPU. */
static const struct {
	const char *file, *list;
	void (*of_vm)(struct out *o, struct mkvm *vm);
	void (*of_vcpu)(struct out *o, struct mkvm_vcpu *vcpu);
} lists[] = {
	{ "vcpus", "vcpus", .of_vcpu = show_vcpu },
	{ "irqchip", "pics", .of_vm = show_pics },
	{ "irqchip", "ioapic", .of_vm = show_ioapic },
	{ "irqchip", "lapics", .of_vcpu = show_lapic },
	{ "routing", "routes", .of_vm = show_routes },
	{ "memslots", "slots", .of_vm = show_slots },
	{ "stats", "vm", .of_vm = show_vm_stats },
	{ "stats", "vcpus", .of_vcpu = show_vcpu_stats },
};

static void show_list(struct out *o, struct mkvm *vm, int list)
{
	struct mkvm_vcpu *vcpu;
	int i;

	begin(o, lists[list].list, '[');
	if (lists[list].of_vm)
		lists[list].of_vm(o, vm);
	else
		mkvm_for_each_vcpu(i, vcpu, vm)
			lists[list].of_vcpu(o, vcpu);
	end(o, ']');
}

/* Prints the lists that belong to the file's name, as JSON if it ends in .json. */
static int view_show(struct seq_file *s, void *unused)
{
	const char *name = s->file->f_path.dentry->d_name.name;
	struct out *o = kzalloc(sizeof(*o), GFP_KERNEL);
	int i;

	if (!o)
		return -ENOMEM;
	o->s = s;
	o->json = strstr(name, ".json");
	if (o->json)
		seq_printf(s, "{\"version\":%d", MKVM_DEBUGFS_VERSION);
	for (i = 0; i < ARRAY_SIZE(lists); i++)
		if (str_has_prefix(name, lists[i].file))
			show_list(o, s->private, i);
	if (o->json)
		seq_puts(s, "}\n");
	kfree(o);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(view);

/*
 * mkvm_debugfs_add - create a VM's directory; without debugfs this does nothing
 *
 * Context: the VM is complete; may sleep.
 */
void mkvm_debugfs_add(struct mkvm *vm)
{
	char name[32];
	int i;

	snprintf(name, sizeof(name), "%d-%u", task_tgid_nr(current), vm->nr);
	vm->debugfs = debugfs_create_dir(name, top);
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		debugfs_create_file(files[i], 0400, vm->debugfs, vm, &view_fops);
		snprintf(name, sizeof(name), "%s.json", files[i]);
		debugfs_create_file(name, 0400, vm->debugfs, vm, &view_fops);
	}
}

/* mkvm_debugfs_remove - remove a VM's directory. Afterwards nobody reads it. May sleep. */
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
