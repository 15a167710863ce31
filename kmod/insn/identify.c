// SPDX-License-Identifier: GPL-2.0
/*
 * identify.c - says what a decoded instruction is, to those who must not know the decoder's tables.
 *
 * State: none.
 *
 * Read next: decode.c, run_insn.c, skip.c.
 */
#include <linux/string.h>

#include "decode.h"

bool mkvm_emu_is_intercepted(const struct mkvm_emu *emu, enum mkvm_intercept what,
			     unsigned int number)
{
	switch (what) {
	case MKVM_INTERCEPT_INS: case MKVM_INTERCEPT_OUTS:
		return (emu->d.flags & STRING) && emu->size == number &&
		       (what == MKVM_INTERCEPT_INS ? emu->d.src : emu->d.dst) == PORT;
	case MKVM_INTERCEPT_GET_CR:
		if (emu->d.op == OP_SMSW)
			return number == MKVM_ANY_CR;
		return emu->d.op == OP_GET_CR && (number == MKVM_ANY_CR || emu->reg == number);
	case MKVM_INTERCEPT_SET_CR:	/* AMD: LOCK makes CR0 CR8 */
		if (emu->d.op == OP_LMSW)
			return !number;
		return emu->d.op == OP_SET_CR && (emu->prefix[LOCK] ? 8 : emu->reg) == number;
	case MKVM_INTERCEPT_TASK:
		return emu->d.op == OP_JMP_FAR || emu->d.op == OP_CALL_FAR || emu->d.op == OP_IRET;
	default:
		return emu->reg == number &&
		       emu->d.op == (what == MKVM_INTERCEPT_SET_DR ? OP_SET_DR : OP_GET_DR);
	}
}

enum mkvm_insn mkvm_emu_identify(const struct mkvm_emu *emu, unsigned int len, u8 *vector)
{
	static const struct {
		u8 len, bytes[3];
		enum mkvm_insn insn;
	} known[] = {
		{ 3, { 0x0f, 0x01, 0xc1 }, MKVM_INSN_HYPERCALL },
		{ 3, { 0x0f, 0x01, 0xd9 }, MKVM_INSN_HYPERCALL },
		{ 2, { 0x0f, 0xaa }, MKVM_INSN_RSM },
		{ 1, { 0xcc }, MKVM_INSN_INT3 },
		{ 1, { 0xce }, MKVM_INSN_INTO },
		{ 1, { 0xf1 }, MKVM_INSN_INT1 },
	};
	const u8 *end = emu->insn + len;
	unsigned int i;

	if (emu->d.op != OP_LENGTH || emu->prefix[LOCK] ||
	    ((emu->d.flags & MODRM) && emu->mod != 3))
		return MKVM_INSN_OTHER;
	/* Among the opcodes of which only the length is known, INT n alone has an immediate. */
	if (emu->d.src == IMM8) {
		if (vector)
			*vector = end[-1];
		return MKVM_INSN_INT_N;
	}
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (len >= known[i].len &&
		    !memcmp(end - known[i].len, known[i].bytes, known[i].len))
			return known[i].insn;
	return MKVM_INSN_OTHER;
}

bool mkvm_emu_is_known(const struct mkvm_emu *emu)
{
	return emu->d.op != OP_LENGTH;
}

bool mkvm_emu_unmasks_nmi(const struct mkvm_emu *emu)
{
	return emu->d.op == OP_IRET;
}
