// SPDX-License-Identifier: GPL-2.0
/*
 * decode.c - the instruction decoder: tables, and one pass over the bytes.
 *
 * The tables list the opcodes that are known. Instructions without an operand in memory are
 * left out, because they never cause an exit. Guest bytes are not trusted: every loop is
 * bounded by the 15 bytes of an instruction.
 *
 * State: only struct mkvm_emu.
 *
 * Manuals: AMD APM vol. 3, "Opcode and Operand Encodings"; Intel SDM vol. 2. Read next:
 * emulate.c.
 */
#include <linux/string.h>

#include "decode.h"

/* An operation in its byte form and its word form, at opcodes n and n + 1. */
#define PAIR(n, op, dst, src, flags) \
	[n] = INSN(op, dst, src, (flags) | BYTE), [(n) + 1] = INSN(op, dst, src, flags)
#define ALU(n, op, rw)	PAIR(n, op, RM, REG, MODRM | (rw)), PAIR((n) + 2, op, REG, RM, MODRM | (rw))
#define INSN(op, dst, src, flags)	{ op, dst, src, 0, flags, 0 }
#define PREFIX(kind)			INSN(OP_PREFIX, kind, NO, 0)
#define LENGTH(flags)			INSN(OP_LENGTH, NO, NO, flags)
#define ROW				INSN(OP_ROW, NO, NO, MODRM)
#define NEEDS(feature, op, dst, src, flags)	{ op, dst, src, 0, flags, X86_FEATURE_##feature }

enum {
	GROUP_ALU, GROUP_SHIFT, GROUP_POP, GROUP_MOV, GROUP_TEST, GROUP_INC, GROUP_INC_PUSH, GROUP_BT,
	GROUP_CX8, GROUP_SYSTEM, GROUP_TABLES,
};

static const struct mkvm_opcode one_byte[256] = {
	ALU(0x00, OP_ADD, RMW), ALU(0x08, OP_OR, RMW), ALU(0x10, OP_ADC, RMW), ALU(0x18, OP_SBB, RMW),
	ALU(0x20, OP_AND, RMW), ALU(0x28, OP_SUB, RMW), ALU(0x30, OP_XOR, RMW), ALU(0x38, OP_CMP, RD),
	[0x26] = PREFIX(SEGMENT), [0x2e] = PREFIX(SEGMENT), [0x36] = PREFIX(SEGMENT), [0x3e] = PREFIX(SEGMENT),
	[0x06] = INSN(OP_PUSH_SEG, NO, NO, NO64), [0x0e] = INSN(OP_PUSH_SEG, NO, NO, NO64),
	[0x16] = INSN(OP_PUSH_SEG, NO, NO, NO64), [0x1e] = INSN(OP_PUSH_SEG, NO, NO, NO64),
	[0x07] = INSN(OP_POP_SEG, NO, NO, NO64), [0x17] = INSN(OP_POP_SEG, NO, NO, NO64),
	[0x1f] = INSN(OP_POP_SEG, NO, NO, NO64),
	[0x50 ... 0x57] = INSN(OP_PUSH, NO, RM, OPREG | STACK64),
	[0x58 ... 0x5f] = INSN(OP_POP, RM, NO, OPREG | STACK64),
	[0x60] = INSN(OP_PUSHA, NO, NO, NO64), [0x61] = INSN(OP_POPA, NO, NO, NO64),
	[0x62] = INSN(OP_BOUND, REG, RM, MODRM | NO64),
	[0x63] = INSN(OP_MOVSX, REG, RM32, MODRM | WR),	/* 64-bit mode; else ARPL */
	[0x64 ... 0x65] = PREFIX(SEGMENT), [0x66] = PREFIX(OPSIZE), [0x67] = PREFIX(ADSIZE),
	[0x68] = INSN(OP_PUSH, NO, IMMZ, STACK64), [0x6a] = INSN(OP_PUSH, NO, IMM8, STACK64),
	[0x69] = INSN(OP_IMUL, REG, RM, MODRM | WR | IMM_Z), [0x6b] = INSN(OP_IMUL, REG, RM, MODRM | WR | IMM_8),
	PAIR(0x6c, OP_MOV, DI, PORT, STRING | WR), PAIR(0x6e, OP_MOV, PORT, SI, STRING | WR),
	PAIR(0x80, OP_GROUP, GROUP_ALU, IMMZ, MODRM), [0x83] = INSN(OP_GROUP, GROUP_ALU, IMM8, MODRM),
	[0x82] = INSN(OP_GROUP, GROUP_ALU, IMM8, MODRM | BYTE | NO64),
	PAIR(0x84, OP_TEST, RM, REG, MODRM | RD), PAIR(0x86, OP_XCHG, RM, REG, MODRM | RMW),
	PAIR(0x88, OP_MOV, RM, REG, MODRM | WR), PAIR(0x8a, OP_MOV, REG, RM, MODRM | WR),
	[0x8c] = INSN(OP_MOV_FROM_SEG, RM, NO, MODRM), [0x8e] = INSN(OP_MOV_TO_SEG, NO, RM, MODRM | REGS),
	[0x9a] = INSN(OP_CALL_FAR, NO, IMMZ, NO64 | IMM_16), [0xea] = INSN(OP_JMP_FAR, NO, IMMZ, NO64 | IMM_16),
	[0xc4 ... 0xc5] = INSN(OP_LOAD_POINTER, REG, RM, MODRM | NO64),
	[0xca] = INSN(OP_RET_FAR, NO, NO, IMM_16), [0xcb] = INSN(OP_RET_FAR, NO, NO, 0),
	[0x8f] = INSN(OP_GROUP, GROUP_POP, NO, MODRM | STACK64),
	[0x90] = LENGTH(0),
	[0x9c] = INSN(OP_PUSHF, NO, NO, STACK64), [0x9d] = INSN(OP_POPF, NO, NO, STACK64),
	PAIR(0xa0, OP_MOV, ACC, RM, MOFFS | WR), PAIR(0xa2, OP_MOV, RM, ACC, MOFFS | WR),
	PAIR(0xa4, OP_MOV, DI, SI, STRING | WR), PAIR(0xa6, OP_CMP, SI, DI, STRING | RD),
	PAIR(0xaa, OP_MOV, DI, ACC, STRING | WR), PAIR(0xac, OP_MOV, ACC, SI, STRING | WR),
	PAIR(0xae, OP_CMP, ACC, DI, STRING | RD),
	PAIR(0xc0, OP_GROUP, GROUP_SHIFT, IMM8, MODRM), PAIR(0xc6, OP_GROUP, GROUP_MOV, IMMZ, MODRM),
	[0xc2] = INSN(OP_RET, NO, NO, NEAR64 | IMM_16), [0xc3] = INSN(OP_RET, NO, NO, NEAR64),
	[0xc8] = INSN(OP_ENTER, NO, IMM8, STACK64 | IMM_16), [0xc9] = INSN(OP_LEAVE, NO, NO, STACK64),
	[0xcc] = LENGTH(0), [0xcd] = INSN(OP_LENGTH, NO, IMM8, 0), [0xce] = LENGTH(0),
	[0xcf] = INSN(OP_IRET, NO, NO, 0),
	PAIR(0xd0, OP_GROUP, GROUP_SHIFT, ONE, MODRM), PAIR(0xd2, OP_GROUP, GROUP_SHIFT, CL, MODRM),
	[0xd8 ... 0xdf] = INSN(OP_X87, NO, RM, MODRM),
	[0xd7] = INSN(OP_XLAT, ACC, NO, BYTE), [0xe8] = INSN(OP_CALL_REL, NO, IMMZ, NEAR64),
	[0xf0] = PREFIX(LOCK), [0xf1] = LENGTH(0), [0xf2 ... 0xf3] = PREFIX(REP), [0xf4] = LENGTH(0),
	PAIR(0xf6, OP_GROUP, GROUP_TEST, NO, MODRM),
	[0xfe] = INSN(OP_GROUP, GROUP_INC, NO, MODRM | BYTE), [0xff] = INSN(OP_GROUP, GROUP_INC_PUSH, NO, MODRM),
};

static const struct mkvm_opcode two_byte[256] = {	/* after 0F */
	[0x00] = INSN(OP_GROUP, GROUP_SYSTEM, NO, MODRM), [0x01] = INSN(OP_GROUP, GROUP_TABLES, NO, MODRM),
	[0x02] = INSN(OP_LAR, REG, RM, MODRM | REGS), [0x03] = INSN(OP_LSL, REG, RM, MODRM | REGS),
	[0xa0] = INSN(OP_PUSH_SEG, NO, NO, STACK64), [0xa8] = INSN(OP_PUSH_SEG, NO, NO, STACK64),
	[0xa1] = INSN(OP_POP_SEG, NO, NO, STACK64), [0xa9] = INSN(OP_POP_SEG, NO, NO, STACK64),
	[0xb2] = INSN(OP_LOAD_POINTER, REG, RM, MODRM), [0xb4 ... 0xb5] = INSN(OP_LOAD_POINTER, REG, RM, MODRM),
	[0x08 ... 0x09] = LENGTH(0), [0x30 ... 0x33] = LENGTH(0),
	[0x0d] = INSN(OP_NOP, NO, NO, MODRM), [0x18 ... 0x19] = INSN(OP_NOP, NO, NO, MODRM),
	[0x1c ... 0x1f] = INSN(OP_NOP, NO, NO, MODRM),
	[0x10 ... 0x13] = ROW, [0x16 ... 0x17] = ROW, [0xc4] = ROW, [0xf0] = ROW, [0xf7] = ROW,
	[0x28 ... 0x29] = ROW, [0x2b] = ROW, [0x6e ... 0x6f] = ROW, [0x7e ... 0x7f] = ROW,
	[0xd6] = ROW, [0xe7] = ROW, [0xae] = ROW, [0xb8] = ROW, [0xbc ... 0xbd] = ROW,
	[0x40 ... 0x4f] = NEEDS(CMOV, OP_CMOV, REG, RM, MODRM | RMW),
	[0x90 ... 0x9f] = INSN(OP_SETCC, RM, NO, MODRM | WR | BYTE),
	[0xa2] = LENGTH(0), [0xaa] = LENGTH(0),
	[0xa4] = INSN(OP_SHLD, RM, IMM8, MODRM | RMW), [0xa5] = INSN(OP_SHLD, RM, CL, MODRM | RMW),
	[0xac] = INSN(OP_SHRD, RM, IMM8, MODRM | RMW), [0xad] = INSN(OP_SHRD, RM, CL, MODRM | RMW),
	[0xaf] = INSN(OP_IMUL, REG, RM, MODRM | RMW),
	[0x20] = INSN(OP_GET_CR, NO, NO, MODRM),
	[0x21] = INSN(OP_GET_DR, NO, NO, MODRM),
	[0x22] = INSN(OP_SET_CR, NO, NO, MODRM),
	[0x23] = INSN(OP_SET_DR, NO, NO, MODRM),
	[0xa3] = INSN(OP_BT, RM, REG, MODRM | RD), [0xab] = INSN(OP_BTS, RM, REG, MODRM | RMW),
	[0xb3] = INSN(OP_BTR, RM, REG, MODRM | RMW), [0xbb] = INSN(OP_BTC, RM, REG, MODRM | RMW),
	[0xba] = INSN(OP_GROUP, GROUP_BT, IMM8, MODRM),
	PAIR(0xb0, OP_CMPXCHG, RM, REG, MODRM | RMW), PAIR(0xc0, OP_XADD, RM, REG, MODRM | RMW),
	[0xb6] = INSN(OP_MOV, REG, RM8, MODRM | WR), [0xb7] = INSN(OP_MOV, REG, RM16, MODRM | WR),	/* MOVZX */
	[0xbe] = INSN(OP_MOVSX, REG, RM8, MODRM | WR), [0xbf] = INSN(OP_MOVSX, REG, RM16, MODRM | WR),
	[0xc3] = INSN(OP_MOV, RM, REG, MODRM | WR | NOT16),					/* MOVNTI */
	[0xc7] = INSN(OP_GROUP, GROUP_CX8, NO, MODRM),
};

/*
 * Opcodes whose operation is selected by ModRM.reg. The opcode's flags are added, and its source is
 * used where the source here is NO.
 */
static const struct mkvm_opcode groups[][8] = {
	[GROUP_ALU] = { INSN(OP_ADD, RM, NO, RMW), INSN(OP_OR, RM, NO, RMW), INSN(OP_ADC, RM, NO, RMW),
		INSN(OP_SBB, RM, NO, RMW), INSN(OP_AND, RM, NO, RMW), INSN(OP_SUB, RM, NO, RMW),
		INSN(OP_XOR, RM, NO, RMW), INSN(OP_CMP, RM, NO, RD) },
	[GROUP_SHIFT] = { INSN(OP_ROL, RM, NO, RMW), INSN(OP_ROR, RM, NO, RMW), INSN(OP_RCL, RM, NO, RMW),
		INSN(OP_RCR, RM, NO, RMW), INSN(OP_SHL, RM, NO, RMW), INSN(OP_SHR, RM, NO, RMW),
		INSN(OP_SHL, RM, NO, RMW), INSN(OP_SAR, RM, NO, RMW) },
	[GROUP_POP] = { INSN(OP_POP, RM, NO, REGS) },
	[GROUP_MOV] = { INSN(OP_MOV, RM, NO, WR) },
	[GROUP_TEST] = { [0 ... 1] = INSN(OP_TEST, RM, IMMZ, RD), INSN(OP_NOT, RM, NO, RMW), INSN(OP_NEG, RM, NO, RMW),
		INSN(OP_MUL, NO, RM, 0), INSN(OP_IMUL_ACC, NO, RM, 0), INSN(OP_DIV, NO, RM, 0),
		INSN(OP_IDIV, NO, RM, 0) },
	[GROUP_INC] = { INSN(OP_INC, RM, NO, RMW), INSN(OP_DEC, RM, NO, RMW) },
	[GROUP_INC_PUSH] = { INSN(OP_INC, RM, NO, RMW), INSN(OP_DEC, RM, NO, RMW),
		INSN(OP_CALL, NO, RM, NEAR64 | REGS), INSN(OP_CALL_FAR, NO, RM, 0), INSN(OP_JMP, NO, RM, NEAR64),
		INSN(OP_JMP_FAR, NO, RM, 0), INSN(OP_PUSH, NO, RM, STACK64 | REGS) },
	[GROUP_BT] = { [4] = INSN(OP_BT, RM, NO, RD),
		INSN(OP_BTS, RM, NO, RMW), INSN(OP_BTR, RM, NO, RMW), INSN(OP_BTC, RM, NO, RMW) },
	[GROUP_SYSTEM] = { INSN(OP_SLDT, RM, NO, 0), INSN(OP_STR, RM, NO, 0), INSN(OP_LLDT, NO, RM, REGS),
		INSN(OP_LTR, NO, RM, REGS), INSN(OP_VERR, NO, RM, REGS), INSN(OP_VERW, NO, RM, REGS) },
	[GROUP_TABLES] = { INSN(OP_SGDT, RM, NO, 0), INSN(OP_SIDT, RM, NO, 0), INSN(OP_LGDT, NO, RM, 0),
		INSN(OP_LIDT, NO, RM, 0), INSN(OP_SMSW, RM, NO, REGS), LENGTH(0), INSN(OP_LMSW, NO, RM, REGS),
		LENGTH(0) },
	[GROUP_CX8] = { [1] = NEEDS(CX8, OP_CMPXCHG_PAIR, RM, NO, RMW) },
};

/*
 * Opcodes that prefixes turn into different instructions, and those in the maps 0F 38 and 0F 3A or
 * encoded by VEX or EVEX. map: 1, 2 or 3 for 0F, 0F 38 or 0F 3A. pp: the prefixes that the row
 * accepts. kinds: the encodings that it accepts. reg: a bit for each accepted ModRM.reg; 0: all.
 */
enum { PP_NO = 1, PP_66 = 2, PP_F3 = 4, PP_F2 = 8, PP_INT = PP_NO | PP_66 };
enum { LEGACY = 1, VEX = 2, EVEX = 4, W0 = 8, W1 = 16 };	/* W0, W1: VEX.W must be 0, 1 */

/* bytes: 0 means the length of the vector */
#define LOAD_VEC(bytes, flags)	{ OP_VEC, VEC, RM, bytes, MODRM | WR | (flags), 0 }
#define STORE_VEC(bytes, flags)	{ OP_VEC, RM, VEC, bytes, MODRM | WR | (flags), 0 }
#define LOAD_HALF		{ OP_VEC_HALF, VEC, RM, 8, MODRM | WR | VEX_128 | USES_VVVV, 0 }
#define STORE_HALF		{ OP_VEC_HALF, RM, VEC, 8, MODRM | WR | VEX_128, 0 }
#define MMX(dst, src, bytes, flags)	{ OP_MMX, dst, src, bytes, MODRM | WR | (flags), X86_FEATURE_MMX }
#define ALL	(LEGACY | VEX | EVEX)
/* feature: the CPUID bit that is needed besides that of the encoding; 0: none */
#define REPEAT(bytes, flags, feature)							\
	{ OP_VEC_REPEAT, VEC, RM, bytes, MODRM | WR | (flags), feature }
#define DUP(bytes, feature)		{ OP_VEC_DUP, VEC, RM, bytes, MODRM | WR | MASKS, feature }
#define INSERT(bytes, flags, feature)							\
	{ OP_VEC_INSERT, VEC, RM, bytes, MODRM | WR | USES_VVVV | IMM_8 | (flags), feature }
#define EXTRACT(bytes, flags, feature)							\
	{ OP_VEC_EXTRACT, RM, VEC, bytes, MODRM | WR | IMM_8 | (flags), feature }
#define LOAD_BY_SIGN(bytes, feature)							\
	{ OP_VEC_BY_SIGN, VEC, RM, bytes, MODRM | WR | USES_VVVV, feature }
#define STORE_BY_SIGN(bytes, feature)							\
	{ OP_VEC_BY_SIGN, RM, VEC, bytes, MODRM | WR | USES_VVVV, feature }
#define KMOV(pp, w, bytes, feature)							\
	{ 1, 0x90, pp, VEX | (w), 0,							\
	  { OP_KMOV, VEC, RM, bytes, MODRM | WR | VEX_128, X86_FEATURE_##feature } },	\
	{ 1, 0x91, pp, VEX | (w), 0,							\
	  { OP_KMOV, RM, VEC, bytes, MODRM | WR | VEX_128, X86_FEATURE_##feature } }
/* Two EVEX instructions that differ in W, which selects the element size and the CPUID bit. */
#define EVEX_BLOCKS(map, opcode, block, bytes, flags, w0, w1)				\
	{ map, opcode, PP_66, EVEX | W0, 0,						\
	  block(bytes, MASKS | WIDER | (flags), X86_FEATURE_##w0) },			\
	{ map, opcode, PP_66, EVEX | W1, 0,						\
	  block(bytes, MASKS | WIDER | (flags), X86_FEATURE_##w1) }

static const struct row {
	u8 map, opcode, pp, kinds, reg;
	struct mkvm_opcode d;
} rows[] = {
	{ 1, 0x10, PP_INT, ALL, 0, LOAD_VEC(0, MASKS) },		/* MOVUPS, MOVUPD */
	{ 1, 0x11, PP_INT, ALL, 0, STORE_VEC(0, MASKS) },
	{ 1, 0x10, PP_F3, ALL, 0, LOAD_VEC(4, MASKS) },		/* MOVSS */
	{ 1, 0x11, PP_F3, ALL, 0, STORE_VEC(4, MASKS) },
	{ 1, 0x10, PP_F2, ALL, 0, LOAD_VEC(8, MASKS) },		/* MOVSD */
	{ 1, 0x11, PP_F2, ALL, 0, STORE_VEC(8, MASKS) },
	{ 1, 0x12, PP_INT, ALL, 0, LOAD_HALF },			/* MOVLPS, MOVLPD */
	{ 1, 0x13, PP_INT, ALL, 0, STORE_HALF },
	{ 1, 0x16, PP_INT, ALL, 0, LOAD_HALF },			/* MOVHPS, MOVHPD */
	{ 1, 0x17, PP_INT, ALL, 0, STORE_HALF },
	{ 1, 0x28, PP_INT, ALL, 0, LOAD_VEC(0, ALIGNED | MASKS) },	/* MOVAPS, MOVAPD */
	{ 1, 0x29, PP_INT, ALL, 0, STORE_VEC(0, ALIGNED | MASKS) },
	{ 1, 0x2b, PP_INT, ALL, 0, STORE_VEC(0, ALIGNED) },	/* MOVNTPS, MOVNTPD */
	/* AMD's MOVNTSS and MOVNTSD */
	{ 1, 0x2b, PP_F3, LEGACY, 0, { OP_VEC, RM, VEC, 4, MODRM | WR, X86_FEATURE_SSE4A } },
	{ 1, 0x2b, PP_F2, LEGACY, 0, { OP_VEC, RM, VEC, 8, MODRM | WR, X86_FEATURE_SSE4A } },
	{ 1, 0x6e, PP_66, ALL, 0, LOAD_VEC(0, BY_W | VEX_128) },	/* MOVD, MOVQ */
	{ 1, 0x7e, PP_66, ALL, 0, STORE_VEC(0, BY_W | VEX_128) },
	{ 1, 0x7e, PP_F3, ALL, 0, LOAD_VEC(8, VEX_128) },	/* MOVQ */
	{ 1, 0xd6, PP_66, ALL, 0, STORE_VEC(8, VEX_128) },
	{ 1, 0x6f, PP_66, ALL, 0, LOAD_VEC(0, ALIGNED | MASKS) },	/* MOVDQA */
	{ 1, 0x7f, PP_66, ALL, 0, STORE_VEC(0, ALIGNED | MASKS) },
	{ 1, 0x6f, PP_F3, ALL, 0, LOAD_VEC(0, MASKS) },		/* MOVDQU */
	{ 1, 0x7f, PP_F3, ALL, 0, STORE_VEC(0, MASKS) },
	/* VMOVDQU8, VMOVDQU16 */
	{ 1, 0x6f, PP_F2, EVEX, 0, NEEDS(AVX512BW, OP_VEC, VEC, RM, MODRM | WR | MASKS | NARROW) },
	{ 1, 0x7f, PP_F2, EVEX, 0, NEEDS(AVX512BW, OP_VEC, RM, VEC, MODRM | WR | MASKS | NARROW) },
	{ 1, 0xe7, PP_66, ALL, 0, STORE_VEC(0, ALIGNED) },	/* MOVNTDQ */
	{ 1, 0xf0, PP_F2, LEGACY | VEX, 0, { OP_VEC, VEC, RM, 0, MODRM | WR, X86_FEATURE_XMM3 } },	/* LDDQU */
	{ 2, 0x2a, PP_66, ALL, 0, { OP_VEC, VEC, RM, 0, MODRM | WR | ALIGNED, X86_FEATURE_XMM4_1 } },	/* MOVNTDQA */
	{ 1, 0x12, PP_F2, ALL, 0, DUP(8, X86_FEATURE_XMM3) },	/* MOVDDUP, MOVSLDUP, MOVSHDUP */
	{ 1, 0x12, PP_F3, ALL, 0, DUP(4, X86_FEATURE_XMM3) },
	{ 1, 0x16, PP_F3, ALL, 0, DUP(4, X86_FEATURE_XMM3) },
	/* VBROADCASTSS, VBROADCASTSD, VBROADCASTF128 and their like */
	{ 2, 0x18, PP_66, VEX | W0, 0, REPEAT(4, 0, X86_FEATURE_AVX) },
	{ 2, 0x18, PP_66, EVEX | W0, 0, REPEAT(4, MASKS, 0) },
	{ 2, 0x19, PP_66, VEX | W0, 0, REPEAT(8, WIDER, X86_FEATURE_AVX) },
	EVEX_BLOCKS(2, 0x19, REPEAT, 8, 0, AVX512DQ, AVX512F),
	{ 2, 0x1a, PP_66, VEX | W0, 0, REPEAT(16, WIDER, X86_FEATURE_AVX) },
	EVEX_BLOCKS(2, 0x1a, REPEAT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(2, 0x1b, REPEAT, 32, 0, AVX512DQ, AVX512F),
	/* VPBROADCASTD, VPBROADCASTQ, VBROADCASTI128 and their like, VPBROADCASTB, VPBROADCASTW */
	{ 2, 0x58, PP_66, VEX | W0, 0, REPEAT(4, 0, X86_FEATURE_AVX2) },
	{ 2, 0x58, PP_66, EVEX | W0, 0, REPEAT(4, MASKS, 0) },
	{ 2, 0x59, PP_66, VEX | W0, 0, REPEAT(8, 0, X86_FEATURE_AVX2) },
	{ 2, 0x59, PP_66, EVEX | W0, 0, REPEAT(8, MASKS, X86_FEATURE_AVX512DQ) },
	{ 2, 0x59, PP_66, EVEX | W1, 0, REPEAT(8, MASKS, 0) },
	{ 2, 0x5a, PP_66, VEX | W0, 0, REPEAT(16, WIDER, X86_FEATURE_AVX2) },
	EVEX_BLOCKS(2, 0x5a, REPEAT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(2, 0x5b, REPEAT, 32, 0, AVX512DQ, AVX512F),
	{ 2, 0x78, PP_66, VEX | W0, 0, REPEAT(1, 0, X86_FEATURE_AVX2) },
	{ 2, 0x78, PP_66, EVEX | W0, 0, REPEAT(1, MASKS, X86_FEATURE_AVX512BW) },
	{ 2, 0x79, PP_66, VEX | W0, 0, REPEAT(2, 0, X86_FEATURE_AVX2) },
	{ 2, 0x79, PP_66, EVEX | W0, 0, REPEAT(2, MASKS, X86_FEATURE_AVX512BW) },
	/* PINSRW, PINSRB, PINSRD, PINSRQ, INSERTPS */
	{ 1, 0xc4, PP_66, LEGACY | VEX, 0, INSERT(2, VEX_128, 0) },
	{ 1, 0xc4, PP_66, EVEX, 0, INSERT(2, VEX_128, X86_FEATURE_AVX512BW) },
	{ 3, 0x20, PP_66, LEGACY | VEX, 0, INSERT(1, VEX_128, X86_FEATURE_XMM4_1) },
	{ 3, 0x20, PP_66, EVEX, 0, INSERT(1, VEX_128, X86_FEATURE_AVX512BW) },
	{ 3, 0x22, PP_66, LEGACY | VEX, 0, INSERT(0, VEX_128 | BY_W, X86_FEATURE_XMM4_1) },
	{ 3, 0x22, PP_66, EVEX, 0, INSERT(0, VEX_128 | BY_W, X86_FEATURE_AVX512DQ) },
	{ 3, 0x21, PP_66, ALL, 0,
	  { OP_VEC_INSERTPS, VEC, RM, 4, MODRM | WR | USES_VVVV | IMM_8 | VEX_128, X86_FEATURE_XMM4_1 } },
	/* PEXTRB, PEXTRW, PEXTRD, PEXTRQ, EXTRACTPS */
	{ 3, 0x14, PP_66, LEGACY | VEX, 0, EXTRACT(1, VEX_128, X86_FEATURE_XMM4_1) },
	{ 3, 0x14, PP_66, EVEX, 0, EXTRACT(1, VEX_128, X86_FEATURE_AVX512BW) },
	{ 3, 0x15, PP_66, LEGACY | VEX, 0, EXTRACT(2, VEX_128, X86_FEATURE_XMM4_1) },
	{ 3, 0x15, PP_66, EVEX, 0, EXTRACT(2, VEX_128, X86_FEATURE_AVX512BW) },
	{ 3, 0x16, PP_66, LEGACY | VEX, 0, EXTRACT(0, VEX_128 | BY_W, X86_FEATURE_XMM4_1) },
	{ 3, 0x16, PP_66, EVEX, 0, EXTRACT(0, VEX_128 | BY_W, X86_FEATURE_AVX512DQ) },
	{ 3, 0x17, PP_66, ALL, 0, EXTRACT(4, VEX_128, X86_FEATURE_XMM4_1) },
	/* VINSERTF128, VINSERTI128 and their like */
	{ 3, 0x18, PP_66, VEX | W0, 0, INSERT(16, WIDER, X86_FEATURE_AVX) },
	EVEX_BLOCKS(3, 0x18, INSERT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(3, 0x1a, INSERT, 32, 0, AVX512DQ, AVX512F),
	{ 3, 0x38, PP_66, VEX | W0, 0, INSERT(16, WIDER, X86_FEATURE_AVX2) },
	EVEX_BLOCKS(3, 0x38, INSERT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(3, 0x3a, INSERT, 32, 0, AVX512DQ, AVX512F),
	/* VEXTRACTF128, VEXTRACTI128 and their like */
	{ 3, 0x19, PP_66, VEX | W0, 0, EXTRACT(16, WIDER, X86_FEATURE_AVX) },
	EVEX_BLOCKS(3, 0x19, EXTRACT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(3, 0x1b, EXTRACT, 32, 0, AVX512DQ, AVX512F),
	{ 3, 0x39, PP_66, VEX | W0, 0, EXTRACT(16, WIDER, X86_FEATURE_AVX2) },
	EVEX_BLOCKS(3, 0x39, EXTRACT, 16, 0, AVX512F, AVX512DQ),
	EVEX_BLOCKS(3, 0x3b, EXTRACT, 32, 0, AVX512DQ, AVX512F),
	/* VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ, MASKMOVDQU */
	{ 2, 0x2c, PP_66, VEX | W0, 0, LOAD_BY_SIGN(4, X86_FEATURE_AVX) },
	{ 2, 0x2d, PP_66, VEX | W0, 0, LOAD_BY_SIGN(8, X86_FEATURE_AVX) },
	{ 2, 0x2e, PP_66, VEX | W0, 0, STORE_BY_SIGN(4, X86_FEATURE_AVX) },
	{ 2, 0x2f, PP_66, VEX | W0, 0, STORE_BY_SIGN(8, X86_FEATURE_AVX) },
	{ 2, 0x8c, PP_66, VEX, 0, LOAD_BY_SIGN(0, X86_FEATURE_AVX2) },
	{ 2, 0x8e, PP_66, VEX, 0, STORE_BY_SIGN(0, X86_FEATURE_AVX2) },
	{ 1, 0xf7, PP_66, LEGACY | VEX, 0,
	  { OP_VEC_BY_BYTE, DI, VEC, 16, MODRM | WR | REGS | VEX_128, 0 } },
	KMOV(PP_NO, W0, 2, AVX512F), KMOV(PP_66, W0, 1, AVX512DQ), KMOV(PP_NO, W1, 8, AVX512BW),
	KMOV(PP_66, W1, 4, AVX512BW),
	{ 1, 0xae, PP_NO, LEGACY, BIT(0), NEEDS(FXSR, OP_FXSAVE, RM, NO, MODRM | WR) },
	{ 1, 0xae, PP_NO, LEGACY, BIT(1), NEEDS(FXSR, OP_FXRSTOR, NO, RM, MODRM) },
	{ 1, 0x6e, PP_NO, LEGACY, 0, MMX(VEC, RM, 0, BY_W) },	/* MOVD, MOVQ of MMX */
	{ 1, 0x7e, PP_NO, LEGACY, 0, MMX(RM, VEC, 0, BY_W) },
	{ 1, 0x6f, PP_NO, LEGACY, 0, MMX(VEC, RM, 8, 0) },
	{ 1, 0x7f, PP_NO, LEGACY, 0, MMX(RM, VEC, 8, 0) },
	{ 1, 0xe7, PP_NO, LEGACY, 0, MMX(RM, VEC, 8, 0) },	/* MOVNTQ */
	{ 1, 0xae, PP_NO, LEGACY | VEX, BIT(2), { OP_MXCSR, NO, RM, 4, MODRM | VEX_128, 0 } },
	{ 1, 0xae, PP_NO, LEGACY | VEX, BIT(3), { OP_MXCSR, RM, NO, 4, MODRM | WR | VEX_128, 0 } },
	{ 1, 0xae, PP_NO, LEGACY, BIT(7), NEEDS(CLFLUSH, OP_CLFLUSH, NO, RM, MODRM) },
	{ 1, 0xae, PP_66, LEGACY, BIT(7), NEEDS(CLFLUSHOPT, OP_CLFLUSH, NO, RM, MODRM) },
	{ 1, 0xae, PP_66, LEGACY, BIT(6), NEEDS(CLWB, OP_CLFLUSH, NO, RM, MODRM) },
	{ 1, 0xb8, PP_F3, LEGACY, 0, NEEDS(POPCNT, OP_POPCNT, REG, RM, MODRM | WR) },
	{ 1, 0xbc, PP_INT | PP_F2, LEGACY, 0, INSN(OP_BSF, REG, RM, MODRM | WR) },
	{ 1, 0xbd, PP_INT | PP_F2, LEGACY, 0, INSN(OP_BSR, REG, RM, MODRM | WR) },
	{ 1, 0xbc, PP_F3, LEGACY, 0, NEEDS(BMI1, OP_TZCNT, REG, RM, MODRM | WR) },
	{ 1, 0xbd, PP_F3, LEGACY, 0, NEEDS(ABM, OP_LZCNT, REG, RM, MODRM | WR) },
	{ 2, 0xf0, PP_INT, LEGACY, 0, NEEDS(MOVBE, OP_MOVBE, REG, RM, MODRM | WR) },
	{ 2, 0xf1, PP_INT, LEGACY, 0, NEEDS(MOVBE, OP_MOVBE, RM, REG, MODRM | WR) },
	{ 2, 0xf0, PP_F2, LEGACY, 0, NEEDS(XMM4_2, OP_CRC32, REG, RM8, MODRM | RMW) },
	{ 2, 0xf1, PP_F2, LEGACY, 0, NEEDS(XMM4_2, OP_CRC32, REG, RM, MODRM | RMW) },
	{ 2, 0xf6, PP_66, LEGACY, 0, NEEDS(ADX, OP_ADCX, REG, RM, MODRM | RMW | NOT16) },
	{ 2, 0xf6, PP_F3, LEGACY, 0, NEEDS(ADX, OP_ADOX, REG, RM, MODRM | RMW | NOT16) },
	{ 2, 0xf9, PP_NO, LEGACY, 0, NEEDS(MOVDIRI, OP_MOV, RM, REG, MODRM | WR | NOT16) },
	{ 2, 0xf2, PP_NO, VEX, 0, NEEDS(BMI1, OP_ANDN, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf3, PP_NO, VEX, BIT(1), NEEDS(BMI1, OP_BLSR, SECOND, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf3, PP_NO, VEX, BIT(2), NEEDS(BMI1, OP_BLSMSK, SECOND, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf3, PP_NO, VEX, BIT(3), NEEDS(BMI1, OP_BLSI, SECOND, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf5, PP_NO, VEX, 0, NEEDS(BMI2, OP_BZHI, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf5, PP_F3, VEX, 0, NEEDS(BMI2, OP_PEXT, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf5, PP_F2, VEX, 0, NEEDS(BMI2, OP_PDEP, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf6, PP_F2, VEX, 0, NEEDS(BMI2, OP_MULX, NO, RM, MODRM | NOT16 | USES_VVVV) },
	{ 2, 0xf7, PP_NO, VEX, 0, NEEDS(BMI1, OP_BEXTR, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf7, PP_66, VEX, 0, NEEDS(BMI2, OP_SHLX, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf7, PP_F3, VEX, 0, NEEDS(BMI2, OP_SARX, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 2, 0xf7, PP_F2, VEX, 0, NEEDS(BMI2, OP_SHRX, REG, RM, MODRM | WR | NOT16 | USES_VVVV) },
	{ 3, 0xf0, PP_F2, VEX, 0, NEEDS(BMI2, OP_RORX, REG, RM, MODRM | WR | NOT16 | IMM_8) },
};

/*
 * Reads the next n bytes, little-endian and sign-extended. They may be unknown yet: mkvm_decode
 * checks this afterwards.
 */
static inline s64 take(const u8 **p, unsigned int n)
{
	u64 v;

	memcpy(&v, *p, sizeof(v));
	*p += n;
	return sign_extend(v, n);
}

/*
 * Reads the prefixes and returns the opcode. A later prefix overrides an earlier one of its kind;
 * REX is ignored unless it immediately precedes the opcode.
 */
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
		/* Prefixes for ES, CS, SS and DS are ignored in 64-bit mode. */
		if (one_byte[byte].dst != SEGMENT || !c->mode64 || byte >= 0x64)
			c->prefix[one_byte[byte].dst] = byte;
	}
	return byte;
}

/* Reads SIB and displacement, and computes c->ea and the base's default segment. */
static void parse_address(struct mkvm_emu *c, const u8 **p)
{
	static const u8 base16[8] = { MKVM_RBX, MKVM_RBX, MKVM_RBP, MKVM_RBP, MKVM_RSI, MKVM_RDI, MKVM_RBP, MKVM_RBX };
	unsigned int base = c->rm, absolute = 5;

	if (c->ad == 2) {
		base = base16[c->rm & 7];
		if (c->rm < 4)
			c->ea = c->regs[c->rm & 1 ? MKVM_RDI : MKVM_RSI];
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
		c->ea += take(p, 1) * (c->vex.kind == EVEX_BYTES ? vec_bytes(c) : 1);
	else if (c->mod == 2 || (base & 7) == absolute)
		c->ea += take(p, c->ad == 2 ? 2 : 4);
	if (!c->mod && (base & 7) == absolute)
		return;
	c->ea += c->regs[base];
	if (base == MKVM_RSP || base == MKVM_RBP)
		c->seg = MKVM_SS;
	c->sp_based = base == MKVM_RSP;
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
	if (c->d.op >= OP_GET_CR && c->d.op <= OP_SET_DR)	/* the CPU ignores mod */
		return;
	/* VMMCALL and the like */
	if (c->mod == 3 && d.op == OP_GROUP && d.dst == GROUP_TABLES && c->d.op != OP_LMSW &&
	    c->d.op != OP_SMSW)
		c->d = (struct mkvm_opcode)LENGTH(MODRM);
	if (c->mod != 3)
		parse_address(c, p);
	else if (c->d.op != OP_LENGTH && !(c->d.flags & REGS))
		c->d.op = OP_NONE;
}

/* Finds the row for the opcode, its prefixes and ModRM.reg; OP_NONE if there is none. */
static struct mkvm_opcode find_row(const struct mkvm_emu *c, unsigned int map, u8 pp, u8 modrm)
{
	u8 vex_kind = c->vex.kind == EVEX_BYTES ? EVEX : VEX;
	u8 kind = c->vex.kind ? vex_kind : LEGACY;
	u8 other_w = c->vex.w ? W0 : W1;
	const struct row *r;

	for (r = rows; r < rows + ARRAY_SIZE(rows); r++)
		if (r->map == map && r->opcode == c->opcode && (r->pp & pp) &&
		    (r->kinds & kind) && !(r->kinds & other_w) &&
		    (!r->reg || (r->reg >> (modrm >> 3 & 7) & 1)))
			return r->d;
	return (struct mkvm_opcode){ .op = OP_NONE };
}

/* F3 and F2 override 66. */
static u8 legacy_pp(const struct mkvm_emu *c)
{
	if (c->prefix[REP])
		return c->prefix[REP] == 0xf3 ? PP_F3 : PP_F2;
	return c->prefix[OPSIZE] ? PP_66 : PP_NO;
}

/*
 * C4, C5 and 62 begin a VEX or EVEX prefix in 64-bit mode. In other modes they do so if they would
 * otherwise be an LES, LDS or BOUND without a memory operand.
 */
static bool begins_vex(const struct mkvm_emu *c, u8 byte, u8 next)
{
	if (byte != 0xc4 && byte != 0xc5 && byte != 0x62)
		return false;
	return c->mode64 || (next & 0xc0) == 0xc0;
}

/*
 * Reads the bytes that follow C5, C4 or 62, and the opcode. VEX and EVEX are undefined after a
 * prefix that they replace, and outside protected mode. Intel SDM vol. 2, "The VEX Prefix" and
 * "EVEX".
 */
static void parse_vex(struct mkvm_emu *c, u8 first, const u8 **p)
{
	bool evex = first == 0x62, refused = c->prefix[REX] || c->prefix[OPSIZE] || c->prefix[REP] || c->prefix[LOCK];
	u8 rxb = *(*p)++, last = rxb, map = 1;

	c->vex.kind = first == 0xc4 ? 3 : 2;
	if (evex)
		c->vex.kind = EVEX_BYTES;
	if (first != 0xc5) {
		map = rxb & (evex ? 7 : 31);
		last = *(*p)++;
		c->vex.w = last & 0x80;
	}
	/* R is inverted in all forms, as are X and B, which C5 lacks, and EVEX's second R. */
	c->prefix[REX] = 0x40;
	if (c->mode64)
		c->prefix[REX] |= (first == 0xc5 ? ~rxb >> 5 & 4 : ~rxb >> 5 & 7) | (c->vex.w ? 8 : 0);
	c->vex.vvvv = ~last >> 3 & (c->mode64 ? 15 : 7);
	c->vex.length = last >> 2 & 1;
	if (evex) {
		u8 e = *(*p)++;

		c->vex.length = e >> 5 & 3;
		c->vex.upper = c->mode64 && !(rxb & 0x10);
		c->vex.vvvv |= c->mode64 && !(e & 8) ? 16 : 0;
		c->vex.mask = e & 7;
		c->vex.zero = e & 0x80;
		/* Only arithmetic instructions may set the broadcast bit. */
		refused |= (rxb & 8) || !(last & 4) || (e & 0x10) || c->vex.length == 3;
	}
	c->opcode = *(*p)++;
	c->d = find_row(c, map, 1 << (last & 3), **p);
	refused |= !(c->d.flags & USES_VVVV) && ((~last >> 3 & 15) || c->vex.vvvv);
	refused |= (c->d.op < OP_VEC || (c->d.flags & VEX_128)) && c->vex.length;
	refused |= c->vex.mask && !(c->d.flags & MASKS);
	refused |= c->vex.zero && (!c->vex.mask || c->d.dst != VEC);
	refused |= (c->d.flags & WIDER) && (16 << c->vex.length) <= max_t(u8, c->d.width, 16);
	if (refused || !protected_mode(c))
		c->d.op = OP_NONE;
}

/* Reads the opcode and looks it up in the tables. */
static void parse_opcode(struct mkvm_emu *c, const u8 **p)
{
	u8 byte = parse_prefixes(c, p);

	c->opcode = byte;
	c->d = one_byte[byte];
	if (unlikely(begins_vex(c, byte, **p))) {
		parse_vex(c, byte, p);
	} else if (byte == 0x0f) {
		c->opcode = byte = *(*p)++;
		c->d = two_byte[byte];
		if (byte == 0x38 || byte == 0x3a) {
			c->opcode = *(*p)++;
			c->d = find_row(c, byte == 0x38 ? 2 : 3, legacy_pp(c), **p);
		} else if (c->d.op == OP_ROW) {
			c->d = find_row(c, 1, legacy_pp(c), **p);
		}
	} else if (byte == 0x63 && !c->mode64) {
		c->d = (struct mkvm_opcode)INSN(OP_ARPL, RM, REG, MODRM | RMW);
	}
	if (c->mode64 && (c->d.flags & NO64))
		c->d.op = OP_NONE;
}

static unsigned int operand_size(const struct mkvm_emu *c)
{
	u32 flags = c->d.flags;

	if (flags & BYTE)
		return 1;
	if (c->mode64 && (flags & (STACK64 | NEAR64)))
		return (flags & STACK64) && c->prefix[OPSIZE] && !(c->prefix[REX] & 8) ? 2 : 8;
	if (c->prefix[REX] & 8)
		return (flags & STRING) && (c->d.src == PORT || c->d.dst == PORT) ? 4 : 8;
	return (c->mode64 || c->mode.cs_db) == !c->prefix[OPSIZE] || (flags & NOT16) ? 4 : 2;
}

/* Reads what follows the operands: the address of MOV, and the immediates. */
static void parse_immediates(struct mkvm_emu *c, const u8 **p)
{
	if (c->d.flags & MOFFS)
		c->ea = take(p, c->ad);
	if ((c->d.flags & IMM_16) && c->d.src != IMMZ)
		c->imm16 = take(p, 2);
	if (c->d.src == IMM8 || (c->d.flags & IMM_8))
		c->imm = take(p, 1);
	else if (c->d.src == IMMZ || (c->d.flags & IMM_Z))
		c->imm = take(p, min_t(u8, c->size, 4));
	if ((c->d.flags & IMM_16) && c->d.src == IMMZ)	/* a far pointer: the selector is last */
		c->imm16 = take(p, 2);
}

/* Decodes the bytes in emu->insn. It may read past those that are known; mkvm_decode checks. */
static void parse(struct mkvm_emu *c)
{
	const u8 *p = c->insn;

	c->ea = 0;
	c->imm = 0;
	c->imm16 = 0;
	c->mod = 0;
	c->seg = MKVM_DS;
	c->rip_relative = false;
	c->sp_based = false;
	memset(c->prefix, 0, sizeof(c->prefix));
	c->vex = (struct mkvm_vex){ 0 };
	parse_opcode(c, &p);

	if (c->mode64)
		c->ad = c->prefix[ADSIZE] ? 4 : 8;
	else
		c->ad = c->mode.cs_db == !c->prefix[ADSIZE] ? 4 : 2;
	if (c->d.flags & MODRM)
		parse_modrm(c, &p);
	if (c->d.flags & OPREG) {
		c->mod = 3;
		c->rm = (c->opcode & 7) | (c->prefix[REX] & 1) << 3;
	}
	c->size = operand_size(c);
	parse_immediates(c, &p);
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

/* If decoding needed bytes that are not known, they are fetched and decoding starts over. */
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
	c->one_operand = !(c->d.flags & STRING) && c->d.op <= OP_LAST_ONE_OPERAND;
	return MKVM_EMU_DONE;
}

/*
 * Returns the length of HLT, CPUID, RDMSR or WRMSR without a prefix, which most skipped instructions
 * are; 0 for others.
 */
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
