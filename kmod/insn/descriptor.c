// SPDX-License-Identifier: GPL-2.0
/*
 * descriptor.c - reads segment descriptors, and sets their accessed and busy bits; segments of real
 * mode, which have none.
 *
 * A CPU does both with supervisor rights, whatever CPL is (mkvm_emu_system). If the table is in
 * ROM, the bits are dropped, as on a bus.
 *
 * State: none, as in emulate.c.
 *
 * Manual: AMD APM vol. 2, "Segment Descriptors".
 *
 * Read next: emulate_seg.c, emulate_event.c and emulate_task.c, which call this file.
 */
#include "descriptor.h"

/* Reads the descriptor that a selector names (descriptor.h). */
enum mkvm_emu_result mkvm_emu_read_descriptor(struct mkvm_emu *c, u16 selector, bool wide,
					      struct mkvm_descriptor *d)
{
	unsigned int len = wide && long_mode(c) ? 16 : 8;
	enum mkvm_emu_result res;
	struct kvm_segment ldt;
	struct kvm_dtable gdt;
	u64 base, limit;

	*d = (struct mkvm_descriptor){ .selector = selector };
	if (selector & 4) {
		mkvm_emu_get_segment(c, MKVM_EMU_LDTR, &ldt);
		if (ldt.unusable || !ldt.present)
			return selector_fault(c, GP_VECTOR, selector);
		base = ldt.base;
		limit = ldt.limit;
	} else {
		mkvm_emu_dt(c, false, &gdt, false);
		base = gdt.base;
		limit = gdt.limit;
	}
	if ((selector & ~7ULL) + len - 1 > limit)
		return selector_fault(c, GP_VECTOR, selector);
	d->la = base + (selector & ~7);
	if (!long_mode(c))
		d->la = (u32)d->la;
	res = mkvm_emu_system(c, d->la, &d->low, 8, MKVM_EMU_READ);
	if (!res && len == 16)
		res = mkvm_emu_system(c, d->la + 8, &d->high, 8, MKVM_EMU_READ);
	return res;
}

/*
 * Sets type bits, in memory as well. RETRY: the byte that holds them has changed since it was
 * checked, so the checks must be made again.
 */
enum mkvm_emu_result mkvm_emu_set_type_bits(struct mkvm_emu *c, struct mkvm_descriptor *d,
					    unsigned int bits)
{
	u64 byte;

	if ((desc_type(d) & bits) == bits)
		return MKVM_EMU_DONE;
	c->was[0] = d->low >> 40 & 0xff;
	d->low |= (u64)bits << 40;
	byte = d->low >> 40 & 0xff;
	return mkvm_emu_system(c, d->la + 5, &byte, 1, MKVM_EMU_REPLACE);
}

struct kvm_segment mkvm_emu_segment_of(const struct mkvm_descriptor *d)
{
	struct kvm_segment s = {
		.base = (d->low >> 16 & 0xffffff) | (d->low >> 32 & 0xff000000) | d->high << 32,
		.limit = (d->low & 0xffff) | (d->low >> 32 & 0xf0000),
		.selector = d->selector,
		.type = desc_type(d),
		.s = !!(d->low & DESC_S),
		.dpl = desc_dpl(d),
		.present = !!(d->low & DESC_P),
		.avl = d->low >> 52 & 1,
		.l = !!(d->low & DESC_L),
		.db = !!(d->low & DESC_DB),
		.g = !!(d->low & DESC_G),
	};

	if (s.g)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

/* The base is 16 times the selector (descriptor.h). */
void mkvm_emu_real_segment(struct mkvm_emu *c, int seg, u16 selector, struct kvm_segment *s)
{
	mkvm_emu_get_segment(c, seg, s);
	s->selector = selector;
	s->base = selector << 4;
	if (s->unusable) {	/* protected mode has loaded a null selector */
		s->unusable = 0;
		s->present = 1;
		s->s = 1;
		s->type = TYPE_WRITABLE | TYPE_ACCESSED;
	}
}
