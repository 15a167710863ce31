// SPDX-License-Identifier: GPL-2.0
/*
 * operand.c - accesses an instruction's operands in memory and registers, with the checks of
 * segments, alignment and linear addresses; and computes the flags of a result.
 *
 * State: none, as in emulate.c.
 *
 * Manual: AMD APM vol. 2, "Segmented Virtual Memory".
 *
 * Read next: emulate.c, which calls this file; access.c, which this file calls.
 */
#include <linux/log2.h>

#include "decode.h"

/*
 * Checks an access of len bytes at off against the segment, and returns its linear address in *la.
 * Outside 64-bit mode an access that wraps past 4 GiB faults, as the manuals allow.
 */
enum mkvm_emu_result mkvm_emu_linearize_in(struct mkvm_emu *c, const struct kvm_segment *s, int seg,
					   u64 off, unsigned int len, bool write, u64 *la)
{
	u8 vector = seg == MKVM_SS ? SS_VECTOR : GP_VECTOR;
	bool down;
	u64 top;

	if (c->mode64) {
		*la = seg >= MKVM_FS ? s->base + off : off;
		return canonical(*la) && canonical(*la + len - 1) ? MKVM_EMU_DONE :
								    fault(c, vector);
	}
	if (protected_mode(c)) {
		if (s->unusable || !s->present)
			return fault(c, vector);
		/* In the type, 8 means code; 2 means readable code or writable data. */
		if (write ? (s->type & 0xa) != 2 : (s->type & 0xa) == 8)
			return fault(c, GP_VECTOR);
	}
	down = (s->type & 0xc) == 4;	/* expand-down: valid offsets are above the limit */
	top = s->db ? 0xffffffff : 0xffff;
	if (!down)
		top = s->limit;
	if ((down && off <= s->limit) || off + len - 1 > top)
		return fault(c, vector);
	*la = (u32)(s->base + off);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_linearize(struct mkvm_emu *c, int seg, u64 off, unsigned int len,
					bool write, u64 *la)
{
	struct kvm_segment s;

	mkvm_emu_get_segment(c, seg, &s);
	return mkvm_emu_linearize_in(c, &s, seg, off, len, write, la);
}

/* Are misaligned accesses to raise #AC? AMD APM vol. 2, "#AC". */
static bool checks_alignment(const struct mkvm_emu *c)
{
	return (c->rflags & X86_EFLAGS_AC) && (c->mode.cr0 & X86_CR0_AM) && c->mode.cpl == 3;
}

static noinline enum mkvm_emu_result mem_in_segment(struct mkvm_emu *c, enum mkvm_emu_how how,
						    int seg, u64 off, unsigned int len, void *buf)
{
	unsigned int align = len == 10 ? 8 : len;	/* 10 bytes: an x87 register */
	enum mkvm_emu_result res = mkvm_emu_linearize(c, seg, off, len, how != MKVM_EMU_READ, &off);

	if (res)
		return res;
	if (checks_alignment(c) && align <= 8 && is_power_of_2(align) && (off & (align - 1)))
		return fault(c, AC_VECTOR);
	return mkvm_emu_access(c, off, buf, len, how);
}

enum mkvm_emu_result mkvm_emu_mem(struct mkvm_emu *c, enum mkvm_emu_how how, int seg, u64 off,
				  unsigned int len, void *buf)
{
	if (likely(c->mode64 && seg < MKVM_FS && canonical(off) && canonical(off + len - 1) &&
		   !(c->rflags & X86_EFLAGS_AC)))
		return mkvm_emu_access(c, off, buf, len, how);
	return mem_in_segment(c, how, seg, off, len, buf);
}

enum mkvm_emu_result mkvm_emu_rm(struct mkvm_emu *c, enum mkvm_emu_how how, unsigned int size,
				 u64 *val)
{
	if (c->mod != 3)
		return mkvm_emu_mem(c, how, c->seg, c->ea, size, val);
	if (how == MKVM_EMU_WRITE)
		reg_write(c, c->rm, size, *val);
	else
		*val = reg_read(c, c->rm, size);
	return MKVM_EMU_DONE;
}

u64 mkvm_emu_set_flags(struct mkvm_emu *c, u64 r, u64 others)
{
	c->flags &= ~(u64)(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF |
			   X86_EFLAGS_SF | X86_EFLAGS_OF);
	r &= size_mask(c->size);
	if (!r)
		others |= X86_EFLAGS_ZF;
	if (r >> (8 * c->size - 1))
		others |= X86_EFLAGS_SF;
	if (0x9669 >> ((r ^ r >> 4) & 15) & 1)	/* bit n: n has an even number of ones */
		others |= X86_EFLAGS_PF;
	c->flags |= others;
	return r;
}
