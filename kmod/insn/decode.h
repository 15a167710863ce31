/* SPDX-License-Identifier: GPL-2.0 */
/*
 * decode.h - what decode.c and emulate*.c share: the description of a decoded instruction, and
 * helpers. Of the other files only mmio.c includes it.
 */
#ifndef MKVM_DECODE_H
#define MKVM_DECODE_H

#include <linux/kernel.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/processor-flags.h>

#include "emulate.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

enum op {
	OP_NONE, OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP,
	OP_MOV, OP_MOVSX, OP_TEST, OP_NOT, OP_NEG, OP_INC, OP_DEC,
	OP_XCHG, OP_XADD, OP_CMPXCHG, OP_BT, OP_BTS, OP_BTR, OP_BTC,
	OP_ROL, OP_ROR, OP_RCL, OP_RCR, OP_SHL, OP_SHR, OP_SAR, OP_SHLD, OP_SHRD,
	/* with a destination and a source like those above, computed by emulate_bits.c */
	OP_CMOV, OP_SETCC, OP_MOVBE, OP_IMUL, OP_BSF, OP_BSR, OP_TZCNT, OP_LZCNT, OP_POPCNT, OP_CRC32,
	OP_ADCX, OP_ADOX, OP_ANDN, OP_BEXTR, OP_BLSR, OP_BLSMSK, OP_BLSI, OP_BZHI, OP_PDEP, OP_PEXT,
	OP_RORX, OP_SHLX, OP_SARX, OP_SHRX,
	OP_LAST_PLAIN = OP_SHRX,
	/* with one operand in memory (emulate_bits.c) */
	OP_MULX, OP_MUL, OP_IMUL_ACC, OP_DIV, OP_IDIV, OP_CMPXCHG_PAIR, OP_BOUND, OP_ARPL, OP_XLAT,
	OP_NOP, OP_CLFLUSH,
	/* emulate_vec.c */
	OP_VEC, OP_VEC_HALF,	/* moves between memory and a vector register */
	OP_VEC_REPEAT, OP_VEC_DUP, OP_VEC_INSERT, OP_VEC_INSERTPS, OP_VEC_EXTRACT,
	OP_VEC_BY_SIGN, OP_VEC_BY_BYTE,	/* VMASKMOV and VPMASKMOV, MASKMOVDQU */
	OP_KMOV, OP_FXSAVE, OP_FXRSTOR,
	OP_MXCSR, OP_MMX, OP_X87,
	OP_LAST_ONE_OPERAND = OP_X87,
	/* with the stack (emulate_stack.c) */
	OP_PUSH, OP_POP, OP_PUSHA, OP_POPA, OP_PUSHF, OP_POPF, OP_ENTER, OP_LEAVE,
	OP_CALL, OP_CALL_REL, OP_JMP, OP_RET,
	/* with segments and descriptors (emulate_seg.c) */
	OP_MOV_FROM_SEG, OP_MOV_TO_SEG, OP_PUSH_SEG, OP_POP_SEG, OP_LOAD_POINTER,
	OP_CALL_FAR, OP_JMP_FAR, OP_RET_FAR, OP_IRET, OP_SGDT, OP_SIDT, OP_LGDT, OP_LIDT, OP_SMSW, OP_LMSW,
	OP_SLDT, OP_STR, OP_LLDT, OP_LTR, OP_VERR, OP_VERW, OP_LAR, OP_LSL,
	OP_GET_CR, OP_SET_CR, OP_GET_DR, OP_SET_DR,
	OP_LENGTH,		/* only its length is known */
	OP_PREFIX,		/* dst: its kind */
	OP_GROUP,		/* dst: the row in groups[], by ModRM.reg */
	OP_ROW,			/* what it is, prefixes say too: rows[] */
};

/*
 * Where an operand is. RM: memory, or a register where REGS allows one; RM8 to RM32 of its own size.
 * SECOND: the register that VEX names. SI, DI: strings. IMMZ: up to 32 bits. VEC: XMM. A shift's
 * count: CL, ONE or IMM8.
 */
enum { NO, RM, REG, ACC, SECOND, SI, DI, PORT, RM8, RM16, RM32, VEC, CL, ONE, IMM8, IMMZ };

enum { REX, SEGMENT, OPSIZE, ADSIZE, LOCK, REP };	/* prefixes, as in emu->prefix */

#define MODRM	0x0001	/* a ModRM byte follows */
#define BYTE	0x0002	/* operands of 8 bits */
#define RD	0x0004	/* the destination is read */
#define WR	0x0008	/* the destination is written */
#define MOFFS	0x0010	/* the address follows the opcode */
#define STRING	0x0020
#define NOT16	0x0040	/* 32 or 64 bits */
#define STACK64	0x0080	/* in 64-bit mode 64 or 16 bits */
#define NEAR64	0x0100	/* in 64-bit mode 64 bits: near branches */
#define NO64	0x0200	/* none in 64-bit mode */
#define REGS	0x0400	/* the form without an operand in memory has to do with memory, too */
#define OPREG	0x0800	/* RM is the register that the opcode's lowest bits name */
#define IMM_8	0x1000	/* an immediate besides the source, of 8 bits */
#define IMM_Z	0x2000	/* or up to 32 */
#define IMM_16	0x4000
#define ALIGNED	0x8000	/* of OP_VEC: else #GP */
#define USES_VVVV 0x10000	/* VEX names a register; else it may not */
#define BY_W	0x20000	/* of vectors: 8 bytes with REX.W or VEX.W, else 4 */
#define VEX_128	0x40000	/* VEX may not say 256 bits */
#define MASKS	0x80000	/* EVEX may name a mask */
#define NARROW	0x100000 /* the mask's elements are of 1 or 2 bytes */
#define WIDER	0x200000 /* the vector has more than 128 bits, and more than the operand */
#define RMW	(RD | WR)

#define EVEX_BYTES	4	/* emu->vex.kind of EVEX */

/*
 * mkvm_decode - decode the instruction at emu->rip, fetching what is not known of it.
 *
 * Context: as mkvm_emulate. Return: DONE; what mkvm_emu_fetch says; UNHANDLED.
 */
enum mkvm_emu_result mkvm_decode(struct mkvm_emu *c);

/* Bytes in memory of a vector instruction's operand: what EVEX's short displacements count. */
static inline unsigned int vec_bytes(const struct mkvm_emu *c)
{
	u32 flags = c->d.flags;

	if (flags & BY_W)
		return c->mode64 && (c->vex.w || (!c->vex.kind && (c->prefix[REX] & 8))) ? 8 : 4;
	if (c->d.op == OP_VEC_DUP && c->d.width == 8 && !c->vex.length)	/* MOVDDUP */
		return 8;
	if (c->d.width && c->d.op != OP_VEC_DUP && c->d.op != OP_VEC_BY_SIGN)
		return c->d.width;
	return 16 << c->vex.length;
}

/* AMD APM vol. 2, "Error Codes". */
static inline bool vector_has_error(u8 vector)
{
	return (vector >= TS_VECTOR && vector <= PF_VECTOR) || vector == AC_VECTOR;
}

static inline enum mkvm_emu_result fault_with(struct mkvm_emu *c, u8 vector, u32 error)
{
	c->fault.vector = vector;
	c->fault.has_error = vector_has_error(vector) && (c->mode.cr0 & X86_CR0_PE);
	c->fault.error = error;
	return MKVM_EMU_FAULT;
}

static inline enum mkvm_emu_result fault(struct mkvm_emu *c, u8 vector)
{
	return fault_with(c, vector, 0);
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

/* VM86 mode is none. */
static inline bool protected_mode(const struct mkvm_emu *c)
{
	return (c->mode.cr0 & X86_CR0_PE) && !(c->rflags & X86_EFLAGS_VM);
}

static inline unsigned int iopl(const struct mkvm_emu *c)
{
	return (c->rflags & X86_EFLAGS_IOPL) >> X86_EFLAGS_IOPL_BIT;
}

/* Without REX the byte registers 4 to 7 are AH, CH, DH and BH. */
static inline bool high_byte(const struct mkvm_emu *c, unsigned int n, unsigned int size)
{
	return size == 1 && !c->prefix[REX] && n >= 4;
}

static inline u64 reg_read(const struct mkvm_emu *c, unsigned int n, unsigned int size)
{
	return high_byte(c, n, size) ? c->regs[n & 3] >> 8 & 0xff : c->regs[n] & size_mask(size);
}

/* A write of 32 bits clears the upper half, smaller ones leave the rest. */
static inline void reg_write(struct mkvm_emu *c, unsigned int n, unsigned int size, u64 val)
{
	u64 mask = size_mask(size);

	if (high_byte(c, n, size))
		c->regs[n & 3] = (c->regs[n & 3] & ~0xff00ULL) | (val & 0xff) << 8;
	else if (size >= 4)
		c->regs[n] = val & mask;
	else
		c->regs[n] = (c->regs[n] & ~mask) | (val & mask);
}

/* ---- emulate.c: for its companions; each returns what mkvm_emu_access does ---- */

/* An access to len bytes at off in a segment, with all of the segment's checks. */
enum mkvm_emu_result mkvm_emu_mem(struct mkvm_emu *c, enum mkvm_emu_how how, int seg, u64 off,
				  unsigned int len, void *buf);
/* The segment's checks alone, and the linear address; of a segment that is not loaded, likewise. */
enum mkvm_emu_result mkvm_emu_linearize_in(struct mkvm_emu *c, const struct kvm_segment *s, int seg, u64 off,
					   unsigned int len, bool write, u64 *la);
enum mkvm_emu_result mkvm_emu_linearize(struct mkvm_emu *c, int seg, u64 off, unsigned int len, bool write,
					u64 *la);
/* The operand that ModRM names, of at most 8 bytes: memory or a register. */
enum mkvm_emu_result mkvm_emu_rm(struct mkvm_emu *c, enum mkvm_emu_how how, unsigned int size, u64 *val);
/* Sets ZF, SF and PF of r, and what the caller gives of CF, OF and AF; returns r's lowest c->size bytes. */
u64 mkvm_emu_set_flags(struct mkvm_emu *c, u64 r, u64 others);

/* What is left of rSP and how much of it counts, while an instruction may still fail. */
struct mkvm_stack {
	unsigned int width;
	u64 sp;
};

/* ---- the companions: by what an instruction is about ---- */

u64 mkvm_emu_compute_bits(struct mkvm_emu *c, u64 dst, u64 src);
enum mkvm_emu_result mkvm_emu_run_bits(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_stack(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_segment(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_vec(struct mkvm_emu *c);

/* emulate_stack.c: c->size bytes each; rSP changes at the end alone. */
struct mkvm_stack mkvm_emu_stack_begin(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_push(struct mkvm_emu *c, struct mkvm_stack *s, u64 val);
enum mkvm_emu_result mkvm_emu_pop(struct mkvm_emu *c, struct mkvm_stack *s, u64 *val);
void mkvm_emu_stack_end(struct mkvm_emu *c, const struct mkvm_stack *s);
u64 mkvm_emu_own_flags(const struct mkvm_emu *c);

#endif
