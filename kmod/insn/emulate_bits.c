// SPDX-License-Identifier: GPL-2.0
/*
 * emulate_bits.c - integer instructions beyond ADD and similar: conditions, byte order, bit
 * counts and fields, multiplication, division, comparison of pairs, BOUND, ARPL, XLAT.
 *
 * State: none, as in emulate.c.
 *
 * Manuals: AMD APM vol. 3; Intel SDM vol. 2.
 *
 * Read next: emulate.c, which calls this file.
 */
#include <linux/string.h>
#include <linux/swab.h>

#include "decode.h"

/* Does condition cc hold, 0 to 15 as in the lowest bits of Jcc, SETcc and CMOVcc? */
static bool condition(u64 flags, unsigned int cc)
{
	bool less = !(flags & X86_EFLAGS_SF) != !(flags & X86_EFLAGS_OF);
	bool holds;

	switch (cc >> 1) {
	case 0:
		holds = flags & X86_EFLAGS_OF;
		break;
	case 1:
		holds = flags & X86_EFLAGS_CF;
		break;
	case 2:
		holds = flags & X86_EFLAGS_ZF;
		break;
	case 3:
		holds = flags & (X86_EFLAGS_CF | X86_EFLAGS_ZF);
		break;
	case 4:
		holds = flags & X86_EFLAGS_SF;
		break;
	case 5:
		holds = flags & X86_EFLAGS_PF;
		break;
	case 6:
		holds = less;
		break;
	default:
		holds = less || (flags & X86_EFLAGS_ZF);
	}
	return holds != (cc & 1);
}

static u64 byte_swap(u64 v, unsigned int size)
{
	return swab64(v) >> (64 - 8 * size);
}

/* Sets the flags in bits to val, and keeps the others. */
static void put_flags(struct mkvm_emu *c, u64 bits, u64 val)
{
	c->flags = (c->flags & ~bits) | val;
}

/* Returns the upper 64 bits of a 128-bit product. */
static u64 multiply_high(u64 a, u64 b, bool is_signed)
{
	if (is_signed)
		return ((__int128)(s64)a * (s64)b) >> 64;
	return ((__uint128_t)a * b) >> 64;
}

/*
 * Multiplies two operands of c->size bytes; returns the low half, and the high half in *high. CF
 * and OF are set if the low half alone is not the product.
 */
static u64 multiply(struct mkvm_emu *c, u64 a, u64 b, bool is_signed, u64 *high)
{
	unsigned int bits = 8 * c->size;
	u64 low, sign;

	if (is_signed) {
		a = sign_extend(a, c->size);
		b = sign_extend(b, c->size);
	}
	low = a * b;
	*high = c->size == 8 ? multiply_high(a, b, is_signed) : low >> bits & size_mask(c->size);
	low &= size_mask(c->size);
	sign = is_signed && (low >> (bits - 1)) ? size_mask(c->size) : 0;
	put_flags(c, X86_EFLAGS_CF | X86_EFLAGS_OF,
		  *high != sign ? X86_EFLAGS_CF | X86_EFLAGS_OF : 0);
	return low;
}

/* Executes BSF, BSR, TZCNT, LZCNT and POPCNT; BSF and BSR of 0 have no result. */
static u64 count_bits(struct mkvm_emu *c, u64 v)
{
	unsigned int bits = 8 * c->size, n = 0, i;
	bool forward = c->d.op == OP_BSF || c->d.op == OP_TZCNT,
	     scan = c->d.op == OP_BSF || c->d.op == OP_BSR;

	if (c->d.op == OP_POPCNT) {
		for (i = 0; i < bits; i++)
			n += v >> i & 1;
		put_flags(c, X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF |
			  X86_EFLAGS_SF | X86_EFLAGS_OF, v ? 0 : X86_EFLAGS_ZF);
		return n;
	}
	while (n < bits && !(v >> (forward ? n : bits - 1 - n) & 1))
		n++;
	if (scan) {
		put_flags(c, X86_EFLAGS_ZF, v ? 0 : X86_EFLAGS_ZF);
		return forward ? n : bits - 1 - n;
	}
	put_flags(c, X86_EFLAGS_CF | X86_EFLAGS_ZF,
		  (v ? 0 : X86_EFLAGS_CF) | (n ? 0 : X86_EFLAGS_ZF));
	return n;
}

/* Continues a CRC-32C over the source; prefix 66 makes it 16 bits. Intel SDM vol. 2, "CRC32". */
static u64 crc32c(const struct mkvm_emu *c, u32 crc, u64 v)
{
	unsigned int bits = 8 * c->size;

	if (c->opcode == 0xf0)
		bits = 8;
	else if (c->size == 4 && c->prefix[OPSIZE])
		bits = 16;
	while (bits--) {
		crc = crc >> 1 ^ ((crc ^ v) & 1 ? 0x82f63b78 : 0);
		v >>= 1;
	}
	return crc;
}

/* PDEP spreads the low bits of v over those of mask, PEXT gathers them. */
static u64 deposit(u64 v, u64 mask)
{
	u64 r = 0;

	for (; mask; mask &= mask - 1, v >>= 1)
		if (v & 1)
			r |= mask & -mask;
	return r;
}

static u64 extract(u64 v, u64 mask)
{
	u64 r = 0, bit = 1;

	for (; mask; mask &= mask - 1, bit <<= 1)
		if (v & mask & -mask)
			r |= bit;
	return r;
}

/* BEXTR: extracts length bits, beginning with bit start. */
static u64 bit_field(const struct mkvm_emu *c, u64 v, u64 control)
{
	unsigned int start = control & 0xff, length = control >> 8 & 0xff;

	if (start >= 8 * c->size)
		return 0;
	v >>= start;
	return length < 64 ? v & ((1ULL << length) - 1) : v;
}

/* ADCX and ADOX: add with a carry in and out in a single flag, CF or OF. */
static u64 add_carry(struct mkvm_emu *c, u64 a, u64 b)
{
	u64 flag = c->d.op == OP_ADCX ? X86_EFLAGS_CF : X86_EFLAGS_OF;
	__uint128_t sum = (__uint128_t)a + b + !!(c->flags & flag);

	put_flags(c, flag, sum >> (8 * c->size) ? flag : 0);
	return sum;
}

/* VEX.vvvv names the second source. ANDN to BZHI set ZF and SF, and clear OF. */
static u64 compute_vex(struct mkvm_emu *c, u64 src)
{
	u64 v = reg_read(c, c->vex.vvvv, c->size), r, cf = 0;
	unsigned int bits = 8 * c->size, count = v & (bits - 1);

	switch (c->d.op) {
	case OP_PDEP:
		return deposit(v, src);
	case OP_PEXT:
		return extract(v, src);
	case OP_RORX:
		count = c->imm & (bits - 1);
		return count ? src >> count | src << (bits - count) : src;
	case OP_SHLX:
		return src << count;
	case OP_SHRX:
		return src >> count;
	case OP_SARX:
		return sign_extend(src, c->size) >> count;
	case OP_ANDN:
		r = ~v & src;
		break;
	case OP_BLSR:
		r = src & (src - 1);
		cf = src ? 0 : X86_EFLAGS_CF;
		break;
	case OP_BLSMSK:
		r = src ^ (src - 1);
		cf = src ? 0 : X86_EFLAGS_CF;
		break;
	case OP_BLSI:
		r = src & -src;
		cf = src ? X86_EFLAGS_CF : 0;
		break;
	case OP_BZHI:
		cf = (v & 0xff) >= bits ? X86_EFLAGS_CF : 0;
		r = cf ? src : src & ((1ULL << (v & 0xff)) - 1);
		break;
	default:
		r = bit_field(c, src, v);
	}
	return mkvm_emu_set_flags(c, r, cf);
}

/* Returns the new destination and updates the flags, as emulate.c's compute does. */
u64 mkvm_emu_compute_bits(struct mkvm_emu *c, u64 dst, u64 src)
{
	u64 high;

	switch (c->d.op) {
	case OP_CMOV:
		return condition(c->flags, c->opcode & 15) ? src : dst;
	case OP_SETCC:
		return condition(c->flags, c->opcode & 15);
	case OP_MOVBE:
		return byte_swap(src, c->size);
	case OP_IMUL:
		return multiply(c, src, c->d.flags & RD ? dst : c->imm, true, &high);
	case OP_BSF: case OP_BSR: case OP_TZCNT: case OP_LZCNT: case OP_POPCNT:
		return count_bits(c, src);
	case OP_CRC32:
		return crc32c(c, dst, src);
	case OP_ADCX: case OP_ADOX:
		return add_carry(c, dst, src);
	}
	return compute_vex(c, src);
}

/* ---- with implied registers ---- */

/* Writes rDX:rAX, or AX for byte operands. */
static void write_pair(struct mkvm_emu *c, u64 low, u64 high)
{
	if (c->size == 1) {
		reg_write(c, MKVM_RAX, 2, low | high << 8);
		return;
	}
	reg_write(c, MKVM_RAX, c->size, low);
	reg_write(c, MKVM_RDX, c->size, high);
}

static u64 high_of_pair(const struct mkvm_emu *c)
{
	return c->size == 1 ? c->regs[MKVM_RAX] >> 8 & 0xff : reg_read(c, MKVM_RDX, c->size);
}

/* Divides high:low by divisor, all of 64 bits. high < divisor, so the quotient fits in 64 bits. */
static u64 divide_128(u64 high, u64 low, u64 divisor, u64 *remainder)
{
	u64 quotient;

	asm("divq %4" : "=a" (quotient), "=d" (*remainder)
	    : "0" (low), "1" (high), "rm" (divisor) : "cc");
	return quotient;
}

static enum mkvm_emu_result run_divide(struct mkvm_emu *c, u64 divisor)
{
	unsigned int bits = 8 * c->size;
	u64 high = high_of_pair(c), low = reg_read(c, MKVM_RAX, c->size), mask = size_mask(c->size),
	    quotient, remainder;
	bool is_signed = c->d.op == OP_IDIV, negative = is_signed && high >> (bits - 1),
	     differ = negative;

	if (is_signed && divisor >> (bits - 1)) {
		divisor = -divisor & mask;
		differ = !negative;
	}
	if (negative) {
		low = -low & mask;
		high = (~high + !low) & mask;
	}
	if (high >= divisor)
		return fault(c, DE_VECTOR);
	if (c->size == 8) {
		quotient = divide_128(high, low, divisor, &remainder);
	} else {
		low |= high << bits;
		quotient = divide_128(0, low, divisor, &remainder);
	}
	/* A signed quotient has one bit less, except that it may be the lowest number. */
	if (is_signed && quotient > (mask >> 1) + differ)
		return fault(c, DE_VECTOR);
	write_pair(c, (differ ? -quotient : quotient) & mask,
		   (negative ? -remainder : remainder) & mask);
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result run_multiply(struct mkvm_emu *c, u64 src)
{
	u64 low, high, flags = c->flags;

	if (c->d.op == OP_MULX) {
		low = multiply(c, reg_read(c, MKVM_RDX, c->size), src, false, &high);
		c->flags = flags;
		reg_write(c, c->vex.vvvv, c->size, low);
		reg_write(c, c->reg, c->size, high);
		return MKVM_EMU_DONE;
	}
	low = multiply(c, reg_read(c, MKVM_RAX, c->size), src, c->d.op == OP_IMUL_ACC, &high);
	write_pair(c, low, high);
	return MKVM_EMU_DONE;
}

/* Executes CMPXCHG8B and CMPXCHG16B, which always write the operand. */
static enum mkvm_emu_result run_cmpxchg_pair(struct mkvm_emu *c)
{
	unsigned int half = c->size == 8 ? 8 : 4;
	u64 old[2] = { 0, 0 }, buf[2] = { 0, 0 }, la;
	enum mkvm_emu_result res;
	bool equal;

	res = mkvm_emu_linearize(c, c->seg, c->ea, 2 * half, true, &la);
	if (res)
		return res;
	if (half == 8 && (la & 15))
		return fault(c, GP_VECTOR);
	res = mkvm_emu_mem(c, MKVM_EMU_MODIFY, c->seg, c->ea, 2 * half, buf);
	if (res)
		return res;
	memcpy(c->was, buf, sizeof(c->was));
	old[0] = half == 8 ? buf[0] : (u32)buf[0];
	old[1] = half == 8 ? buf[1] : buf[0] >> 32;
	equal = old[0] == reg_read(c, MKVM_RAX, half) && old[1] == reg_read(c, MKVM_RDX, half);
	if (equal && half == 8) {
		buf[0] = c->regs[MKVM_RBX];
		buf[1] = c->regs[MKVM_RCX];
	} else if (equal) {
		buf[0] = (u32)c->regs[MKVM_RBX] | c->regs[MKVM_RCX] << 32;
	}
	res = mkvm_emu_mem(c, MKVM_EMU_REPLACE, c->seg, c->ea, 2 * half, buf);
	if (res)
		return res;
	put_flags(c, X86_EFLAGS_ZF, equal ? X86_EFLAGS_ZF : 0);
	if (!equal) {
		reg_write(c, MKVM_RAX, half, old[0]);
		reg_write(c, MKVM_RDX, half, old[1]);
	}
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result run_bound(struct mkvm_emu *c)
{
	s64 index = sign_extend(reg_read(c, c->reg, c->size), c->size);
	enum mkvm_emu_result res;
	u64 bounds = 0;

	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, 2 * c->size, &bounds);
	if (res)
		return res;
	if (index < sign_extend(bounds, c->size) ||
	    index > sign_extend(bounds >> (8 * c->size), c->size))
		return fault(c, BR_VECTOR);
	return MKVM_EMU_DONE;
}

/* Executes ARPL: raises the selector's RPL to that of the register. */
static enum mkvm_emu_result run_arpl(struct mkvm_emu *c)
{
	u64 selector = 0, rpl = c->regs[c->reg] & 3;
	enum mkvm_emu_result res = mkvm_emu_mem(c, MKVM_EMU_MODIFY, c->seg, c->ea, 2, &selector);
	bool below = (selector & 3) < rpl;

	if (!res && below) {
		c->was[0] = selector;
		selector = (selector & ~3ULL) | rpl;
		res = mkvm_emu_mem(c, MKVM_EMU_REPLACE, c->seg, c->ea, 2, &selector);
	}
	if (!res)
		put_flags(c, X86_EFLAGS_ZF, below ? X86_EFLAGS_ZF : 0);
	return res;
}

static enum mkvm_emu_result run_xlat(struct mkvm_emu *c)
{
	u64 off = (c->regs[MKVM_RBX] + (c->regs[MKVM_RAX] & 0xff)) & size_mask(c->ad), val = 0;
	enum mkvm_emu_result res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, off, 1, &val);

	if (!res)
		reg_write(c, MKVM_RAX, 1, val);
	return res;
}

/* Executes CLFLUSH: it needs the right to read a byte, and no device sees an access. */
static enum mkvm_emu_result run_clflush(struct mkvm_emu *c)
{
	u64 la;

	return mkvm_emu_linearize(c, c->seg, c->ea, 1, false, &la);
}

enum mkvm_emu_result mkvm_emu_run_bits(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;
	u64 src = 0;

	switch (c->d.op) {
	case OP_CMPXCHG_PAIR:
		return run_cmpxchg_pair(c);
	case OP_BOUND:
		return run_bound(c);
	case OP_ARPL:
		return run_arpl(c);
	case OP_XLAT:
		return run_xlat(c);
	case OP_NOP:
		return MKVM_EMU_DONE;
	case OP_CLFLUSH:
		return run_clflush(c);
	}
	res = mkvm_emu_mem(c, MKVM_EMU_READ, c->seg, c->ea, c->size, &src);
	if (res)
		return res;
	return c->d.op == OP_DIV || c->d.op == OP_IDIV ? run_divide(c, src) : run_multiply(c, src);
}
