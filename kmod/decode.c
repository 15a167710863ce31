// SPDX-License-Identifier: GPL-2.0
/*
 * decode.c - the instruction decoder: tables, and one pass over the bytes.
 *
 * An instruction is known when its opcode stands in a table; what has no operand
 * in memory is left out, since it never causes an exit. Guest bytes are hostile:
 * every loop is bounded by the 15 bytes of an instruction.
 *
 * State: none outside of struct mkvm_emu.
 *
 * Manuals: AMD APM vol. 3, "Opcode and Operand Encodings"; Intel SDM vol. 2.
 * Read next: emulate.c.
 */
#include <linux/string.h>
#include <asm/msr-index.h>

#include "decode.h"

/* An operation in its byte form and its word form, at opcodes n and n + 1. */
#define PAIR(n, op, dst, src, flags) \
	[n] = { op, dst, src, (flags) | BYTE }, [(n) + 1] = { op, dst, src, flags }
#define ALU(n, op, rw)	PAIR(n, op, RM, REG, MODRM | (rw)), PAIR((n) + 2, op, REG, RM, MODRM | (rw))
#define PREFIX(kind)	{ OP_PREFIX, kind, NO, 0 }
#define LENGTH(flags)	{ OP_LENGTH, NO, NO, flags }
#define LOAD_VEC	{ OP_VEC, VEC, RM, MODRM | WR }
#define STORE_VEC	{ OP_VEC, RM, VEC, MODRM | WR }

enum { GROUP_ALU, GROUP_SHIFT, GROUP_MOV, GROUP_TEST, GROUP_INC, GROUP_INC_PUSH, GROUP_BT };

static const struct mkvm_opcode one_byte[256] = {
	ALU(0x00, OP_ADD, RMW), ALU(0x08, OP_OR, RMW), ALU(0x10, OP_ADC, RMW), ALU(0x18, OP_SBB, RMW),
	ALU(0x20, OP_AND, RMW), ALU(0x28, OP_SUB, RMW), ALU(0x30, OP_XOR, RMW), ALU(0x38, OP_CMP, RD),
	[0x26] = PREFIX(SEGMENT), [0x2e] = PREFIX(SEGMENT), [0x36] = PREFIX(SEGMENT), [0x3e] = PREFIX(SEGMENT),
	[0x63] = { OP_MOVSX, REG, RM32, MODRM | WR },	/* 64-bit mode; else ARPL */
	[0x64 ... 0x65] = PREFIX(SEGMENT), [0x66] = PREFIX(OPSIZE), [0x67] = PREFIX(ADSIZE),
	PAIR(0x6c, OP_MOV, DI, PORT, STRING | WR), PAIR(0x6e, OP_MOV, PORT, SI, STRING | WR),
	PAIR(0x80, OP_GROUP, GROUP_ALU, IMMZ, MODRM), [0x83] = { OP_GROUP, GROUP_ALU, IMM8, MODRM },
	PAIR(0x84, OP_TEST, RM, REG, MODRM | RD), PAIR(0x86, OP_XCHG, RM, REG, MODRM | RMW),
	PAIR(0x88, OP_MOV, RM, REG, MODRM | WR), PAIR(0x8a, OP_MOV, REG, RM, MODRM | WR),
	[0x90] = LENGTH(0),
	PAIR(0xa0, OP_MOV, ACC, RM, MOFFS | WR), PAIR(0xa2, OP_MOV, RM, ACC, MOFFS | WR),
	PAIR(0xa4, OP_MOV, DI, SI, STRING | WR), PAIR(0xa6, OP_CMP, SI, DI, STRING | RD),
	PAIR(0xaa, OP_MOV, DI, ACC, STRING | WR), PAIR(0xac, OP_MOV, ACC, SI, STRING | WR),
	PAIR(0xae, OP_CMP, ACC, DI, STRING | RD),
	PAIR(0xc0, OP_GROUP, GROUP_SHIFT, IMM8, MODRM), PAIR(0xc6, OP_GROUP, GROUP_MOV, IMMZ, MODRM),
	[0xcc] = LENGTH(0), [0xcd] = { OP_LENGTH, NO, IMM8, 0 }, [0xce] = LENGTH(0),
	PAIR(0xd0, OP_GROUP, GROUP_SHIFT, ONE, MODRM), PAIR(0xd2, OP_GROUP, GROUP_SHIFT, CL, MODRM),
	[0xf0] = PREFIX(LOCK), [0xf2 ... 0xf3] = PREFIX(REP), [0xf4] = LENGTH(0),
	PAIR(0xf6, OP_GROUP, GROUP_TEST, NO, MODRM),
	[0xfe] = { OP_GROUP, GROUP_INC, NO, MODRM | BYTE }, [0xff] = { OP_GROUP, GROUP_INC_PUSH, NO, MODRM },
};

static const struct mkvm_opcode two_byte[256] = {	/* after 0F */
	[0x01] = LENGTH(MODRM), [0x08 ... 0x09] = LENGTH(0), [0x30 ... 0x33] = LENGTH(0),
	[0x10] = LOAD_VEC, [0x11] = STORE_VEC, [0x28] = LOAD_VEC, [0x29] = STORE_VEC, [0x2b] = STORE_VEC,
	[0x6e ... 0x6f] = LOAD_VEC, [0x7e ... 0x7f] = STORE_VEC, [0xd6] = STORE_VEC, [0xe7] = STORE_VEC,
	[0xa2] = LENGTH(0), [0xaa] = LENGTH(0),
	[0xa4] = { OP_SHLD, RM, IMM8, MODRM | RMW }, [0xa5] = { OP_SHLD, RM, CL, MODRM | RMW },
	[0xac] = { OP_SHRD, RM, IMM8, MODRM | RMW }, [0xad] = { OP_SHRD, RM, CL, MODRM | RMW },
	[0x21] = { OP_GET_DR, NO, NO, MODRM },
	[0x22] = { OP_SET_CR, NO, NO, MODRM },
	[0x23] = { OP_SET_DR, NO, NO, MODRM },
	[0xa3] = { OP_BT, RM, REG, MODRM | RD }, [0xab] = { OP_BTS, RM, REG, MODRM | RMW },
	[0xb3] = { OP_BTR, RM, REG, MODRM | RMW }, [0xbb] = { OP_BTC, RM, REG, MODRM | RMW },
	[0xba] = { OP_GROUP, GROUP_BT, IMM8, MODRM },
	PAIR(0xb0, OP_CMPXCHG, RM, REG, MODRM | RMW), PAIR(0xc0, OP_XADD, RM, REG, MODRM | RMW),
	[0xb6] = { OP_MOV, REG, RM8, MODRM | WR }, [0xb7] = { OP_MOV, REG, RM16, MODRM | WR },	/* MOVZX */
	[0xbe] = { OP_MOVSX, REG, RM8, MODRM | WR }, [0xbf] = { OP_MOVSX, REG, RM16, MODRM | WR },
	[0xc3] = { OP_MOV, RM, REG, MODRM | WR | NOT16 },					/* MOVNTI */
};

/* By ModRM.reg. Flags, and the source where it is NO, come from the opcode. */
static const struct mkvm_opcode groups[][8] = {
	[GROUP_ALU] = { { OP_ADD, RM, NO, RMW }, { OP_OR, RM, NO, RMW }, { OP_ADC, RM, NO, RMW },
		{ OP_SBB, RM, NO, RMW }, { OP_AND, RM, NO, RMW }, { OP_SUB, RM, NO, RMW },
		{ OP_XOR, RM, NO, RMW }, { OP_CMP, RM, NO, RD } },
	[GROUP_SHIFT] = { { OP_ROL, RM, NO, RMW }, { OP_ROR, RM, NO, RMW }, { OP_RCL, RM, NO, RMW },
		{ OP_RCR, RM, NO, RMW }, { OP_SHL, RM, NO, RMW }, { OP_SHR, RM, NO, RMW },
		{ OP_SHL, RM, NO, RMW }, { OP_SAR, RM, NO, RMW } },
	[GROUP_MOV] = { { OP_MOV, RM, NO, WR } },
	[GROUP_TEST] = { [0 ... 1] = { OP_TEST, RM, IMMZ, RD }, { OP_NOT, RM, NO, RMW }, { OP_NEG, RM, NO, RMW } },
	[GROUP_INC] = { { OP_INC, RM, NO, RMW }, { OP_DEC, RM, NO, RMW } },
	[GROUP_INC_PUSH] = { { OP_INC, RM, NO, RMW }, { OP_DEC, RM, NO, RMW }, [6] = { OP_PUSH, NO, RM, 0 } },
	[GROUP_BT] = { [4] = { OP_BT, RM, NO, RD },
		{ OP_BTS, RM, NO, RMW }, { OP_BTR, RM, NO, RMW }, { OP_BTC, RM, NO, RMW } },
};

/* The next n bytes, little-endian, sign-extended; whether all are known decode() asks afterwards. */
static inline s64 take(const u8 **p, unsigned int n)
{
	u64 v;

	memcpy(&v, *p, sizeof(v));
	*p += n;
	return sign_extend(v, n);
}

/* A later prefix wins over an earlier one; REX counts only right before the opcode. Returns the opcode. */
static u8 parse_prefixes(struct mkvm_emu *c, const u8 **p)
{
	u8 byte;

	while (*p <= c->insn + MKVM_MAX_INSN) {
		byte = *(*p)++;
		if (c->mode64 && (byte & 0xf0) == 0x40) {
			c->prefix[REX] = byte;
			continue;
		}
		if (likely(one_byte[byte].op != OP_PREFIX))
			break;
		c->prefix[REX] = 0;
		/* those of ES, CS, SS and DS mean nothing in 64-bit mode */
		if (one_byte[byte].dst != SEGMENT || !c->mode64 || byte >= 0x64)
			c->prefix[one_byte[byte].dst] = byte;
	}
	return byte;
}

/* SIB and displacement; c->ea, and the segment that goes with the base. */
static void parse_address(struct mkvm_emu *c, const u8 **p)
{
	static const u8 base16[8] = { RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX };
	unsigned int base = c->rm, absolute = 5;

	if (c->ad == 2) {
		base = base16[c->rm & 7];
		if (c->rm < 4)
			c->ea = c->regs[c->rm & 1 ? RDI : RSI];
		absolute = c->rm == 6 ? base : 8;
	} else if ((base & 7) == 4) {
		u8 sib = *(*p)++;
		unsigned int index = (sib >> 3 & 7) | (c->prefix[REX] & 2) << 2;

		base = (sib & 7) | (c->prefix[REX] & 1) << 3;
		if (index != 4)
			c->ea = c->regs[index] << (sib >> 6);
	} else {
		c->rip_relative = c->mode64 && !c->mod && (base & 7) == 5;
	}
	if (c->mod == 1)
		c->ea += take(p, 1);
	else if (c->mod == 2 || (base & 7) == absolute)
		c->ea += take(p, c->ad == 2 ? 2 : 4);
	if (!c->mod && (base & 7) == absolute)
		return;
	c->ea += c->regs[base];
	if (base == RSP || base == RBP)
		c->seg = MKVM_SS;
}

static void parse_modrm(struct mkvm_emu *c, const u8 **p)
{
	u8 modrm = *(*p)++;
	struct mkvm_opcode d = c->d;

	c->mod = modrm >> 6;
	c->reg = (modrm >> 3 & 7) | (c->prefix[REX] & 4) << 1;
	c->rm = (modrm & 7) | (c->prefix[REX] & 1) << 3;
	if (d.op == OP_GROUP) {
		c->d = groups[d.dst][c->reg & 7];
		c->d.flags |= d.flags;
		if (c->d.src == NO)
			c->d.src = d.src;
	}
	if (c->d.op >= OP_SET_CR && c->d.op <= OP_SET_DR)	/* mod is taken as 3 */
		return;
	if (c->mod != 3)
		parse_address(c, p);
	else if (c->d.op != OP_LENGTH)
		c->d.op = OP_NONE;
}

/*
 * A move of an XMM register: its size, by the prefix that is part of the opcode.
 * What is absent, MMX above all, is not known.
 */
static void parse_vec(struct mkvm_emu *c, u8 opcode)
{
	enum { NONE, P66, PF2, PF3, NR, ALIGNED = 0x80 };
	static const u8 sizes[256][NR] = {
		[0x10 ... 0x11] = { 16, 16, [PF2] = 8, [PF3] = 4 },		/* MOVUPS, MOVUPD, MOVSD, MOVSS */
		[0x28 ... 0x29] = { 16 | ALIGNED, 16 | ALIGNED },		/* MOVAPS, MOVAPD */
		[0x2b] = { 16 | ALIGNED, 16 | ALIGNED },			/* MOVNTPS, MOVNTPD */
		[0x6e] = { [P66] = 4 }, [0x7e] = { [P66] = 4, [PF3] = 8 },	/* MOVD, MOVQ */
		[0x6f] = { [P66] = 16 | ALIGNED, [PF3] = 16 },			/* MOVDQA, MOVDQU */
		[0x7f] = { [P66] = 16 | ALIGNED, [PF3] = 16 },
		[0xd6] = { [P66] = 8 },						/* MOVQ */
		[0xe7] = { [P66] = 16 | ALIGNED },				/* MOVNTDQ */
	};
	unsigned int form = c->prefix[REP] ? PF2 + (c->prefix[REP] & 1) : c->prefix[OPSIZE] ? P66 : NONE;

	c->vec_size = sizes[opcode][form] & ~ALIGNED;
	c->aligned = sizes[opcode][form] & ALIGNED;
	if (!c->vec_size)
		c->d.op = OP_NONE;
	else if (c->vec_size == 4 && (c->prefix[REX] & 8) && form == P66)
		c->vec_size = 8;
	else if (opcode == 0x7e && form == PF3)
		c->d = (struct mkvm_opcode)LOAD_VEC;
}

/* Decodes what emu->insn holds, beyond the bytes that are known if it must. */
static void parse(struct mkvm_emu *c)
{
	const u8 *p = c->insn;
	u8 byte;

	c->ea = 0;
	c->imm = 0;
	c->seg = MKVM_DS;
	c->rip_relative = false;
	memset(c->prefix, 0, sizeof(c->prefix));
	byte = parse_prefixes(c, &p);
	c->d = one_byte[byte];
	if (byte == 0x0f) {
		byte = *p++;
		c->d = two_byte[byte];
		if (unlikely(c->d.op == OP_VEC))
			parse_vec(c, byte);
	} else if (byte == 0x63 && !c->mode64) {
		c->d.op = OP_NONE;
	}

	if (c->mode64)
		c->ad = c->prefix[ADSIZE] ? 4 : 8;
	else
		c->ad = c->mode.cs_db == !c->prefix[ADSIZE] ? 4 : 2;
	if (c->d.flags & MODRM)
		parse_modrm(c, &p);
	if (c->d.flags & BYTE)
		c->size = 1;
	else if (c->prefix[REX] & 8)
		c->size = c->d.flags & STRING && (c->d.src == PORT || c->d.dst == PORT) ? 4 : 8;
	else
		c->size = (c->mode64 || c->mode.cs_db) == !c->prefix[OPSIZE] || (c->d.flags & NOT16) ? 4 : 2;

	if (c->d.flags & MOFFS)
		c->ea = take(&p, c->ad);
	if (c->d.src >= IMM8)
		c->imm = take(&p, c->d.src == IMM8 ? 1 : min_t(u8, c->size, 4));
	c->pos = p - c->insn;
	if (c->rip_relative)
		c->ea += c->rip + c->pos;
	c->ea &= size_mask(c->ad);
	if (c->prefix[SEGMENT])
		c->seg = c->prefix[SEGMENT] >= 0x64 ? MKVM_FS + (c->prefix[SEGMENT] & 1) : c->prefix[SEGMENT] >> 3 & 3;
}

/* Fetches more of the instruction, up to the end of the page. */
static enum mkvm_emu_result fetch(struct mkvm_emu *c)
{
	u64 la = c->rip + c->insn_len, len = MKVM_MAX_INSN - c->insn_len;
	enum mkvm_emu_result res;

	if (!len || (c->mode64 && !canonical(la)))
		return fault(c, GP_VECTOR);
	if (!c->mode64) {
		struct kvm_segment cs;
		u32 off = la;

		mkvm_emu_get_segment(c, MKVM_CS, &cs);
		if (off > cs.limit)
			return fault(c, GP_VECTOR);
		la = (u32)(cs.base + off);
		len = min(len, (u64)cs.limit - off + 1);
	}
	len = min(len, 4096 - (la & 4095));
	res = mkvm_emu_fetch(c, la, c->insn + c->insn_len, len);
	if (!res)
		c->insn_len += len;
	return res;
}

/* Decodes the whole instruction. What needed an unknown byte is decoded anew when that is there. */
enum mkvm_emu_result mkvm_decode(struct mkvm_emu *c)
{
	enum mkvm_emu_result res;

	c->mode64 = (c->mode.efer & EFER_LMA) && c->mode.cs_l;
	for (;;) {
		if (c->insn_len) {
			parse(c);
			if (c->pos <= c->insn_len)
				break;
		}
		res = fetch(c);
		if (res)
			return res;
	}
	if (c->d.op == OP_NONE)
		return MKVM_EMU_UNHANDLED;
	c->insn_len = c->pos;
	c->one_operand = !(c->d.flags & STRING) && c->d.op != OP_PUSH;
	return MKVM_EMU_DONE;
}

/* The length of HLT, CPUID, RDMSR or WRMSR without a prefix, which are most of what is skipped; of others 0. */
static unsigned int bare_length(const u8 *insn)
{
	u16 two = insn[0] | insn[1] << 8;

	return two == 0xa20f || two == 0x300f || two == 0x320f ? 2 : insn[0] == 0xf4;
}

unsigned int mkvm_insn_length(struct mkvm_emu *c)
{
	c->mode64 = (c->mode.efer & EFER_LMA) && c->mode.cs_l;
	if (!c->insn_len && fetch(c))
		return 0;
	c->pos = c->insn_len >= 2 ? bare_length(c->insn) : 0;
	if (likely(c->pos)) {
		c->insn_len = c->pos;
		c->d = (struct mkvm_opcode)LENGTH(0);
		c->prefix[LOCK] = 0;
		return c->pos;
	}
	return mkvm_decode(c) ? 0 : c->pos;
}
