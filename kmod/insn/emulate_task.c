// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_task.c - task switches by far JMP and CALL, IRET, and task gates of the IDT.
 *
 * Intel's CPUs leave all task switches to the hypervisor. AMD's CPUs perform them, except those
 * that touch memory which the CPU cannot write. Writes to ROM are dropped, as on a bus; devices
 * are never accessed.
 *
 * A switch has two halves. Faults in the first half, up to reading the new TSS, belong to the old
 * task, which is unchanged. Faults in the second half belong to the new task: the switch has
 * taken place, segments that could not be loaded are unusable, and emu->fault is delivered
 * afterwards (emu->fault_after). The T bit of the new TSS is looked at last: it traps "after
 * program control has passed to the new task", which a fault prevents, so beside such a fault
 * there is neither #DB nor DR6.BT (Intel SDM vol. 3, "Task-Switch Exception Condition", "Task
 * Switching"). Both halves read everything before anything is written, so a switch that is not
 * possible leaves no trace.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: Intel SDM vol. 3, "Task Management"; AMD APM vol. 2, "Task Management".
 *
 * Read next: emulate_event.c and emulate_seg.c, which call this file.
 */
#include "descriptor.h"

#define LIMIT_32	103	/* the smallest limit that a 32-bit TSS may have */
#define LIMIT_16	43
#define EFLAGS_KNOWN	0x3f7fd5	/* the others are reserved and 0 */
#define DR6_SWITCH	BIT(15)
#define DR7_LOCAL	0x155	/* L0 to L3, LE */

#define TASK_WORDS	26	/* in a 32-bit TSS */
#define SAVED_WORDS	16	/* a switch saves those from EIP to GS */

/* Layout of a TSS: width is 2 or 4 bytes, all other fields count words of that width. */
struct layout {
	unsigned int width, words;
	int ip, flags, regs, segs, nr_segs, ldt;
};

static const struct layout layout_16 = { 2, 22, 7, 8, 9, 17, 4, 21 };
static const struct layout layout_32 = { 4, 26, 8, 9, 10, 18, 6, 24 };

struct task {
	const struct mkvm_task_switch *t;
	struct kvm_segment old_tr;
	struct mkvm_descriptor old_tss, new_tss;
	u64 new_base;
	const struct layout *from, *to;
	u32 word[TASK_WORDS];		/* the new TSS */
	struct kvm_segment seg[6], old_ldt, ldt;
	struct mkvm_mode mode;		/* the new task's */
	u32 flags;
	u64 sp, error_la;
	bool faulted;
};

/* TSSs have 32-bit addresses. */
static enum mkvm_emu_result tss_access(struct mkvm_emu *c, u64 la, void *buf, unsigned int len,
				       enum mkvm_emu_how how)
{
	return mkvm_emu_system(c, (u32)la, buf, len, how);
}

static bool is_32(const struct mkvm_descriptor *d)
{
	return desc_type(d) & 8;
}

/* Checks the new TSS's descriptor, and the limit of the old TSS. */
static enum mkvm_emu_result check_tss(struct mkvm_emu *c, struct task *s)
{
	u16 selector = s->t->selector;
	bool iret = s->t->why == MKVM_TASK_IRET;
	u8 vector = iret ? TS_VECTOR : GP_VECTOR;
	enum mkvm_emu_result res;
	struct kvm_segment tss;

	if ((selector & 4) || !(selector & ~3))
		return selector_fault(c, vector, selector);
	res = mkvm_emu_read_descriptor(c, selector, false, &s->new_tss);
	if (res == MKVM_EMU_FAULT && c->fault.vector == GP_VECTOR)
		return selector_fault(c, vector, selector);
	if (res)
		return res;
	if ((s->new_tss.low & DESC_S) || (desc_type(&s->new_tss) & ~(TSS_BUSY | 8)) != TSS_16 ||
	    !(desc_type(&s->new_tss) & TSS_BUSY) == iret)
		return selector_fault(c, vector, selector);
	if (!(s->new_tss.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	tss = mkvm_emu_segment_of(&s->new_tss);
	s->to = is_32(&s->new_tss) ? &layout_32 : &layout_16;
	if (tss.limit < (is_32(&s->new_tss) ? LIMIT_32 : LIMIT_16))
		return selector_fault(c, TS_VECTOR, selector);
	s->new_base = tss.base;
	mkvm_emu_get_segment(c, MKVM_EMU_TR, &s->old_tr);
	s->from = s->old_tr.type & 8 ? &layout_32 : &layout_16;
	if (s->old_tr.limit < (s->old_tr.type & 8 ? LIMIT_32 : LIMIT_16))
		return selector_fault(c, TS_VECTOR, s->old_tr.selector);
	if (s->t->why == MKVM_TASK_CALL || s->t->why == MKVM_TASK_GATE)
		return MKVM_EMU_DONE;
	return mkvm_emu_read_descriptor(c, s->old_tr.selector & ~4, false, &s->old_tss);
}

static enum mkvm_emu_result read_task(struct mkvm_emu *c, struct task *s)
{
	unsigned int len = s->to->width * s->to->words;
	u16 narrow[22];
	enum mkvm_emu_result res;
	unsigned int i;

	if (s->to->width == 4)
		return tss_access(c, s->new_base, s->word, len, MKVM_EMU_READ);
	res = tss_access(c, s->new_base, narrow, len, MKVM_EMU_READ);
	for (i = 0; i < s->to->words && !res; i++)
		s->word[i] = narrow[i];
	return res;
}

/* Writes the old task's registers to its TSS, or probes that they can be written. */
static enum mkvm_emu_result save_task(struct mkvm_emu *c, struct task *s, enum mkvm_emu_how how)
{
	const struct layout *l = s->from;
	u32 wide[SAVED_WORDS];
	u16 narrow[SAVED_WORDS];
	struct kvm_segment seg;
	int i, n = 0;

	wide[n++] = s->t->rip;
	wide[n++] = s->t->rflags & ~(s->t->why == MKVM_TASK_IRET ? X86_EFLAGS_NT : 0UL);
	for (i = 0; i < 8; i++)
		wide[n++] = c->regs[i];
	for (i = 0; i < l->nr_segs; i++) {
		mkvm_emu_get_segment(c, i, &seg);
		wide[n++] = seg.selector;
	}
	for (i = 0; i < n; i++)
		narrow[i] = wide[i];
	return tss_access(c, s->old_tr.base + l->ip * l->width,
			  l->width == 4 ? (void *)wide : narrow, n * l->width, how);
}

/* Writes the back link and the busy bits, or probes them. */
static enum mkvm_emu_result mark_tasks(struct mkvm_emu *c, struct task *s, enum mkvm_emu_how how)
{
	u8 busy = (s->old_tss.low >> 40 & 0xff) & ~TSS_BUSY;
	enum mkvm_emu_result res = MKVM_EMU_DONE;
	u16 link = s->old_tr.selector;

	if (s->t->why == MKVM_TASK_JMP || s->t->why == MKVM_TASK_IRET)
		res = mkvm_emu_system(c, s->old_tss.la + 5, &busy, 1, how);
	else
		res = tss_access(c, s->new_base, &link, 2, how);
	if (res)
		return res;
	if (how == MKVM_EMU_PROBE)
		return mkvm_emu_system(c, s->new_tss.la + 5, &busy, 1, how);
	return mkvm_emu_set_type_bits(c, &s->new_tss, TSS_BUSY);
}

static enum mkvm_emu_result task_fault(struct mkvm_emu *c, enum mkvm_emu_result res, u16 selector)
{
	if (res == MKVM_EMU_FAULT && c->fault.vector == GP_VECTOR)
		return selector_fault(c, TS_VECTOR, selector);
	return res;
}

static enum mkvm_emu_result load_ldt(struct mkvm_emu *c, struct task *s)
{
	u16 selector = s->word[s->to->ldt];
	struct mkvm_descriptor d;
	enum mkvm_emu_result res;

	s->ldt = (struct kvm_segment){ .selector = selector, .unusable = 1 };
	if (!(selector & ~3))
		return MKVM_EMU_DONE;
	if (selector & 4)
		return selector_fault(c, TS_VECTOR, selector);
	res = task_fault(c, mkvm_emu_read_descriptor(c, selector, false, &d), selector);
	if (res)
		return res;
	if ((d.low & DESC_S) || desc_type(&d) != LDT || !(d.low & DESC_P))
		return selector_fault(c, TS_VECTOR, selector);
	s->ldt = mkvm_emu_segment_of(&d);
	return MKVM_EMU_DONE;
}

/*
 * May a segment register of the new task hold this descriptor? The rules are those of ordinary
 * loads, except that cpl is the RPL of the new CS.
 */
static bool fits(unsigned int cpl, int seg, const struct mkvm_descriptor *d)
{
	unsigned int type = desc_type(d), dpl = desc_dpl(d), rpl = d->selector & 3;

	if (!(d->low & DESC_S))
		return false;
	if (seg == MKVM_CS)
		return (type & TYPE_CODE) && (type & TYPE_CONFORMING ? dpl <= cpl : dpl == cpl);
	if (seg == MKVM_SS)
		return (type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_WRITABLE && rpl == cpl &&
		       dpl == cpl;
	if ((type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_CODE)
		return false;
	return (type & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING) ||
	       (cpl <= dpl && rpl <= dpl);
}

static enum mkvm_emu_result load_one(struct mkvm_emu *c, struct task *s, int seg)
{
	u16 selector = s->seg[seg].selector;
	unsigned int cpl = s->mode.cpl;
	struct mkvm_descriptor d;
	enum mkvm_emu_result res;
	u8 absent = seg == MKVM_SS ? SS_VECTOR : NP_VECTOR;

	if (!(selector & ~3))
		return seg == MKVM_CS || seg == MKVM_SS ? selector_fault(c, TS_VECTOR, selector) :
							  MKVM_EMU_DONE;
	res = task_fault(c, mkvm_emu_read_descriptor(c, selector, false, &d), selector);
	if (res)
		return res;
	if (!fits(cpl, seg, &d))
		return selector_fault(c, TS_VECTOR, selector);
	if (!(d.low & DESC_P))
		return selector_fault(c, absent, selector);
	res = mkvm_emu_set_type_bits(c, &d, TYPE_ACCESSED);
	if (res)
		return res;
	s->seg[seg] = mkvm_emu_segment_of(&d);
	s->seg[seg].type |= TYPE_ACCESSED;
	return MKVM_EMU_DONE;
}

/*
 * Fills in the segments as they are before any descriptor has been read. CS and SS get values with
 * which the CPU can enter the guest at this CPL.
 */
static void bare_segments(struct task *s)
{
	bool vm86 = s->flags & X86_EFLAGS_VM;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(s->seg); i++) {
		u16 selector = i < s->to->nr_segs ? s->word[s->to->segs + i] : 0;

		if (vm86)
			s->seg[i] = (struct kvm_segment){
				.selector = selector,
				.base = selector << 4,
				.limit = 0xffff,
				.type = 3,
				.s = 1,
				.dpl = 3,
				.present = 1,
			};
		else
			s->seg[i] = (struct kvm_segment){
				.selector = selector,
				.unusable = 1,
				.dpl = i == MKVM_SS ? s->mode.cpl : 0,
			};
	}
	if (!vm86)
		s->seg[MKVM_CS] = (struct kvm_segment){
			.selector = s->seg[MKVM_CS].selector,
			.limit = 0xffff,
			.type = TYPE_CODE | 3,
			.s = 1,
			.dpl = s->mode.cpl,
			.present = 1,
		};
}

static enum mkvm_emu_result load_segments(struct mkvm_emu *c, struct task *s)
{
	static const u8 order[] = { MKVM_CS, MKVM_SS, MKVM_DS, MKVM_ES, MKVM_FS, MKVM_GS };
	enum mkvm_emu_result res = load_ldt(c, s);
	unsigned int i;

	mkvm_emu_set_segment(c, MKVM_EMU_LDTR, &s->ldt);	/* the others may use it */
	for (i = 0; i < ARRAY_SIZE(order) && !res && !(s->flags & X86_EFLAGS_VM); i++)
		res = load_one(c, s, order[i]);
	if (!res && s->word[s->to->ip] > s->seg[MKVM_CS].limit)
		return fault(c, GP_VECTOR);
	return res;
}

/* Probes the place of an exception's error code on the new task's stack. */
static enum mkvm_emu_result probe_error(struct mkvm_emu *c, struct task *s)
{
	const struct kvm_segment *ss = &s->seg[MKVM_SS];
	unsigned int sp_width = ss->db ? 4 : 2;

	if (!s->t->has_error)
		return MKVM_EMU_DONE;
	s->sp = (s->sp - s->to->width) & size_mask(sp_width);
	if (mkvm_emu_linearize_in(c, ss, MKVM_SS, s->sp, s->to->width, true, &s->error_la))
		return fault(c, SS_VECTOR);
	return mkvm_emu_access(c, s->error_la, NULL, s->to->width, MKVM_EMU_PROBE);
}

/* The second half: reads everything that the new task needs, in the new task's address space. */
static enum mkvm_emu_result load_task(struct mkvm_emu *c, struct task *s)
{
	u64 flags = c->rflags;
	enum mkvm_emu_result res;

	s->flags = (s->word[s->to->flags] & EFLAGS_KNOWN) | X86_EFLAGS_FIXED;
	if (s->t->why == MKVM_TASK_CALL || s->t->why == MKVM_TASK_GATE)
		s->flags |= X86_EFLAGS_NT;
	s->mode = c->mode;
	if (s->to->width == 4 && (c->mode.cr0 & X86_CR0_PG))
		s->mode.cr3 = s->word[7];
	s->mode.cpl = s->flags & X86_EFLAGS_VM ? 3 : s->word[s->to->segs + MKVM_CS] & 3;
	s->sp = s->word[s->to->regs + MKVM_RSP];
	bare_segments(s);
	mkvm_emu_get_segment(c, MKVM_EMU_LDTR, &s->old_ldt);
	c->mode = s->mode;
	c->rflags = s->flags;
	res = load_segments(c, s);
	if (!res)
		res = probe_error(c, s);
	c->rflags = flags;
	if (res != MKVM_EMU_FAULT)
		return res;
	mark_external(c, s->t->external);
	s->faulted = true;
	return MKVM_EMU_DONE;
}

/* Loads the new task's registers; no step can fail from here on. */
static void enter_task(struct mkvm_emu *c, struct task *s)
{
	struct kvm_segment tr = mkvm_emu_segment_of(&s->new_tss);
	u64 dr7, error = s->t->error;
	int i;

	if (s->mode.cr3 != c->mode.cr3)
		mkvm_emu_set_cr(c, 3, s->mode.cr3);
	mkvm_emu_set_cr(c, 0, c->mode.cr0 | X86_CR0_TS);
	for (i = 0; i < 8; i++)
		c->regs[i] = s->word[s->to->regs + i];
	for (i = 0; i < ARRAY_SIZE(s->seg); i++)
		mkvm_emu_set_segment(c, i, &s->seg[i]);
	tr.type |= TSS_BUSY;
	mkvm_emu_set_segment(c, MKVM_EMU_TR, &tr);
	mkvm_emu_dr(c, 7, &dr7, false);
	dr7 &= ~(u64)DR7_LOCAL;
	mkvm_emu_dr(c, 7, &dr7, true);
	c->mode = s->mode;
	c->rflags = s->flags;
	if (s->t->has_error && !s->faulted) {
		mkvm_emu_access(c, s->error_la, &error, s->to->width, MKVM_EMU_WRITE);
		reg_write(c, MKVM_RSP, s->seg[MKVM_SS].db ? 4 : 2, s->sp);
	}
	if (s->to->width == 4 && (s->word[TASK_WORDS - 1] & 1) && !s->faulted)
		c->traps |= DR6_SWITCH;
	c->next_rip = s->word[s->to->ip];
	c->flags = s->flags;
	c->fault_after = s->faulted;
	c->rf_loaded = true;
}

enum mkvm_emu_result mkvm_emu_task_switch(struct mkvm_emu *c, const struct mkvm_task_switch *t)
{
	struct mkvm_mode mode = c->mode;
	bool implicit = c->implicit;
	struct task s = { .t = t };
	enum mkvm_emu_result res;

	c->implicit = true;
	c->mode64 = false;
	res = check_tss(c, &s);
	if (!res)
		res = read_task(c, &s);
	if (!res)
		res = save_task(c, &s, MKVM_EMU_PROBE);
	if (!res)
		res = mark_tasks(c, &s, MKVM_EMU_PROBE);
	if (!res) {
		res = load_task(c, &s);
		c->mode = mode;
		if (!res)
			res = save_task(c, &s, MKVM_EMU_WRITE);
		if (!res)
			res = mark_tasks(c, &s, MKVM_EMU_WRITE);
		if (res)
			mkvm_emu_set_segment(c, MKVM_EMU_LDTR, &s.old_ldt);
		else
			enter_task(c, &s);
	}
	if (res == MKVM_EMU_FAULT)
		mark_external(c, t->external);
	c->implicit = implicit;
	return res;
}

/* Switches tasks on behalf of an instruction; the old task resumes at c->next_rip. */
static enum mkvm_emu_result switch_from(struct mkvm_emu *c, unsigned int why, u16 selector)
{
	struct mkvm_task_switch t = {
		.why = why,
		.selector = selector,
		.rip = c->next_rip,
		.rflags = c->rflags & ~(u64)X86_EFLAGS_RF,
	};

	return mkvm_emu_task_switch(c, &t);
}

enum mkvm_emu_result mkvm_emu_branch_to_task(struct mkvm_emu *c, u16 selector)
{
	unsigned int why = c->d.op == OP_CALL_FAR ? MKVM_TASK_CALL : MKVM_TASK_JMP;
	enum mkvm_emu_result res;
	struct mkvm_descriptor d;

	res = mkvm_emu_read_descriptor(c, selector, false, &d);
	if (res)
		return res;
	if ((d.low & DESC_S) || long_mode(c) ||
	    (desc_type(&d) != TASK_GATE && (desc_type(&d) & ~(TSS_BUSY | 8)) != TSS_16))
		return MKVM_EMU_UNHANDLED;
	if (desc_dpl(&d) < cpl(c) || desc_dpl(&d) < (selector & 3))
		return selector_fault(c, GP_VECTOR, selector);
	if (desc_type(&d) != TASK_GATE)
		return switch_from(c, why, selector);
	if (!(d.low & DESC_P))
		return selector_fault(c, NP_VECTOR, selector);
	return switch_from(c, why, d.low >> 16);
}

enum mkvm_emu_result mkvm_emu_return_to_task(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	struct kvm_segment tr;
	u16 link = 0;

	mkvm_emu_get_segment(c, MKVM_EMU_TR, &tr);
	res = tss_access(c, tr.base, &link, 2, MKVM_EMU_READ);
	return res ? res : switch_from(c, MKVM_TASK_IRET, link);
}
