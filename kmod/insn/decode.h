/* SPDX-License-Identifier: GPL-2.0 */
/*
 * decode.h - the description of a decoded instruction, and helpers: private to decode.c,
 * identify.c, operand.c and emulate*.c. What others may ask of an instruction is in emulate.h.
 *
 * Read next: decode.c, emulate.c.
 */
#ifndef MKVM_DECODE_H
#define MKVM_DECODE_H

#include <linux/kernel.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/processor-flags.h>

#include "emulate.h"

enum op {
	OP_NONE, OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP,
	OP_MOV, OP_MOVSX, OP_TEST, OP_NOT, OP_NEG, OP_INC, OP_DEC,
	OP_XCHG, OP_XADD, OP_CMPXCHG, OP_BT, OP_BTS, OP_BTR, OP_BTC,
	OP_ROL, OP_ROR, OP_RCL, OP_RCR, OP_SHL, OP_SHR, OP_SAR, OP_SHLD, OP_SHRD,
	/* with a destination and a source, as above; computed by emulate_bits.c */
	OP_CMOV, OP_SETCC, OP_MOVBE, OP_IMUL, OP_BSF, OP_BSR, OP_TZCNT, OP_LZCNT, OP_POPCNT,
	OP_CRC32,
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
	/* on the stack (emulate_stack.c) */
	OP_PUSH, OP_POP, OP_PUSHA, OP_POPA, OP_PUSHF, OP_POPF, OP_ENTER, OP_LEAVE,
	OP_CALL, OP_CALL_REL, OP_JMP, OP_RET,
	/* on segments, descriptors and control registers (emulate_seg.c, emulate.c) */
	OP_MOV_FROM_SEG, OP_MOV_TO_SEG, OP_PUSH_SEG, OP_POP_SEG, OP_LOAD_POINTER,
	OP_CALL_FAR, OP_JMP_FAR, OP_RET_FAR, OP_IRET, OP_SGDT, OP_SIDT, OP_LGDT, OP_LIDT,
	OP_SMSW, OP_LMSW,
	OP_SLDT, OP_STR, OP_LLDT, OP_LTR, OP_VERR, OP_VERW, OP_LAR, OP_LSL,
	OP_GET_CR, OP_SET_CR, OP_GET_DR, OP_SET_DR,
	OP_LENGTH,		/* only its length is known */
	OP_PREFIX,		/* dst: its kind */
	OP_GROUP,		/* dst: the row in groups[], by ModRM.reg */
	OP_ROW,			/* prefixes select the instruction, in rows[] */
};

/*
 * Kinds of operand. RM: the one that ModRM names, in memory, or in a register if REGS is set; RM8,
 * RM16 and RM32 have that size whatever the instruction's is. REG: the register in ModRM.reg. ACC:
 * rAX. SECOND: the register in VEX.vvvv. SI and DI: a string at rSI or rDI. PORT: the port in DX.
 * VEC: a vector register. IMM8, IMMZ: an immediate of 8 bits, or of up to 32. A shift's count is
 * CL, ONE or IMM8.
 */
enum { NO, RM, REG, ACC, SECOND, SI, DI, PORT, RM8, RM16, RM32, VEC, CL, ONE, IMM8, IMMZ };

enum { REX, SEGMENT, OPSIZE, ADSIZE, LOCK, REP };	/* prefixes, as in emu->prefix */

#define MODRM	0x0001	/* a ModRM byte follows */
#define BYTE	0x0002	/* operands of 8 bits */
#define RD	0x0004	/* the destination is read */
#define WR	0x0008	/* the destination is written */
#define MOFFS	0x0010	/* the address follows the opcode */
#define STRING	0x0020	/* a string instruction, which REP may repeat */
#define NOT16	0x0040	/* operands of 32 or 64 bits, never 16 */
#define STACK64	0x0080	/* in 64-bit mode operands of 64 or 16 bits, never 32 */
#define NEAR64	0x0100	/* in 64-bit mode operands of 64 bits, always: near branches */
#define NO64	0x0200	/* undefined in 64-bit mode */
#define REGS	0x0400	/* emulated with a register in place of the memory operand, too */
#define OPREG	0x0800	/* RM is the register in the lowest bits of the opcode */
#define IMM_8	0x1000	/* has an immediate of 8 bits besides the source, */
#define IMM_Z	0x2000	/* or one of up to 32 bits, */
#define IMM_16	0x4000	/* or one of 16 bits, in emu->imm16 */
#define ALIGNED	0x8000	/* a misaligned vector operand raises #GP */
#define USES_VVVV 0x10000	/* VEX.vvvv names a register; without it vvvv must be 1111b */
#define BY_W	0x20000	/* of vectors: 8 bytes with REX.W or VEX.W, else 4 */
#define VEX_128	0x40000	/* VEX.L must be 0 */
#define MASKS	0x80000	/* EVEX may name a mask */
#define NARROW	0x100000 /* the elements of the mask have 1 or 2 bytes */
#define WIDER	0x200000 /* the vector must exceed 128 bits, and the operand */
#define RMW	(RD | WR)

#define EVEX_BYTES	4	/* emu->vex.kind of EVEX */

/*
 * Returns the size in bytes of a vector instruction's memory operand. An 8-bit displacement after
 * EVEX is in units of it.
 */
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

/* Virtual-8086 mode does not count as protected mode here. */
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

/* A write of 32 bits clears the upper half of the register; smaller writes keep the rest. */
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

/* ---- operand.c; each returns what mkvm_emu_access does ---- */

/* Accesses len bytes at off in a segment, with the segment's and the alignment checks. */
enum mkvm_emu_result mkvm_emu_mem(struct mkvm_emu *c, enum mkvm_emu_how how, int seg, u64 off,
				  unsigned int len, void *buf);
/*
 * Makes the segment's checks without an access, and returns the linear address in *la; the first
 * form takes a segment that is not loaded yet.
 */
enum mkvm_emu_result mkvm_emu_linearize_in(struct mkvm_emu *c, const struct kvm_segment *s,
					   int seg, u64 off,
					   unsigned int len, bool write, u64 *la);
enum mkvm_emu_result mkvm_emu_linearize(struct mkvm_emu *c, int seg, u64 off,
					unsigned int len, bool write,
					u64 *la);
/* Reads or writes the operand that ModRM names, of at most 8 bytes, in memory or a register. */
enum mkvm_emu_result mkvm_emu_rm(struct mkvm_emu *c, enum mkvm_emu_how how, unsigned int size,
				 u64 *val);
/*
 * Sets ZF, SF and PF from r, and CF, OF and AF from others; flags that others lacks are cleared.
 * Returns the lowest c->size bytes of r.
 */
u64 mkvm_emu_set_flags(struct mkvm_emu *c, u64 r, u64 others);

/* The stack pointer during an instruction that may still fail; width: 2, 4 or 8 bytes of rSP. */
struct mkvm_stack {
	unsigned int width;
	u64 sp;
};

/* ---- emulate_*.c: each executes the operations listed for it in enum op ---- */

/* Returns the new destination and updates c->flags. */
u64 mkvm_emu_compute_bits(struct mkvm_emu *c, u64 dst, u64 src);
enum mkvm_emu_result mkvm_emu_run_bits(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_stack(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_segment(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_run_vec(struct mkvm_emu *c);

/* emulate_stack.c: push and pop move c->size bytes; only stack_end changes rSP. */
struct mkvm_stack mkvm_emu_stack_begin(struct mkvm_emu *c);
enum mkvm_emu_result mkvm_emu_push(struct mkvm_emu *c, struct mkvm_stack *s, u64 val);
enum mkvm_emu_result mkvm_emu_pop(struct mkvm_emu *c, struct mkvm_stack *s, u64 *val);
void mkvm_emu_stack_end(struct mkvm_emu *c, const struct mkvm_stack *s);
/* Returns the flags that POPF may change at the current CPL and operand size. */
u64 mkvm_emu_own_flags(const struct mkvm_emu *c);

#endif
