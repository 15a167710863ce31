/* SPDX-License-Identifier: GPL-2.0 */
/*
 * decode.h - what decode.c and emulate.c share: the words in which decode.c says
 * what an instruction is, and helpers. Nobody else includes it.
 */
#ifndef MKVM_DECODE_H
#define MKVM_DECODE_H

#include <linux/kernel.h>
#include <asm/processor-flags.h>

#include "emulate.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

enum op {
	OP_NONE, OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP,
	OP_MOV, OP_MOVSX, OP_TEST, OP_NOT, OP_NEG, OP_INC, OP_DEC,
	OP_XCHG, OP_XADD, OP_CMPXCHG, OP_BT, OP_BTS, OP_BTR, OP_BTC,
	OP_ROL, OP_ROR, OP_RCL, OP_RCR, OP_SHL, OP_SHR, OP_SAR, OP_SHLD, OP_SHRD,
	OP_PUSH,
	OP_VEC,			/* a move between memory and an XMM register */
	OP_SET_CR, OP_GET_DR, OP_SET_DR,
	OP_LENGTH,		/* only its length is known */
	OP_PREFIX,		/* dst: its kind */
	OP_GROUP,		/* dst: the row in groups[], by ModRM.reg */
};

/*
 * Where an operand is. RM: memory, RM8 to RM32 of its own size. SI, DI: strings. IMMZ: up to 32 bits. VEC: XMM.
 * A shift's count: CL, ONE or IMM8.
 */
enum { NO, RM, REG, ACC, SI, DI, PORT, RM8, RM16, RM32, VEC, CL, ONE, IMM8, IMMZ };

enum { REX, SEGMENT, OPSIZE, ADSIZE, LOCK, REP };	/* prefixes, as in emu->prefix */

#define MODRM	0x01	/* a ModRM byte follows */
#define BYTE	0x02	/* operands of 8 bits */
#define RD	0x04	/* the destination is read */
#define WR	0x08	/* the destination is written */
#define MOFFS	0x10	/* the address follows the opcode */
#define STRING	0x20
#define NOT16	0x40	/* 32 or 64 bits */
#define RMW	(RD | WR)

/*
 * mkvm_decode - decode the instruction at emu->rip, fetching what is not known of it.
 *
 * Context: as mkvm_emulate. Return: DONE; what mkvm_emu_fetch says; UNHANDLED.
 */
enum mkvm_emu_result mkvm_decode(struct mkvm_emu *c);

static inline enum mkvm_emu_result fault(struct mkvm_emu *c, u8 vector)
{
	c->fault.vector = vector;
	c->fault.has_error = vector != UD_VECTOR && vector != NM_VECTOR && (c->mode.cr0 & X86_CR0_PE);
	c->fault.error = 0;
	return MKVM_EMU_FAULT;
}

static inline u64 size_mask(unsigned int size)
{
	return ~0ULL >> (64 - 8 * size);
}

static inline s64 sign_extend(u64 v, unsigned int size)
{
	return (s64)(v << (64 - 8 * size)) >> (64 - 8 * size);
}

static inline bool canonical(u64 la)
{
	return (u64)sign_extend(la, 6) == la;
}

#endif
