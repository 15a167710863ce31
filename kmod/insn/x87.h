/* SPDX-License-Identifier: GPL-2.0 */
/*
 * x87.h - executes x87 and MMX instructions that have an operand in memory, on the registers in
 * the CPU and with a buffer as the operand.
 *
 * Read next: emulate_vec.c.
 */
#ifndef MKVM_X87_H
#define MKVM_X87_H

#include <linux/types.h>

/* Executes the instruction with its operand at [rax], for which ModRM is ModRM.reg << 3. */
#define X87_CASE(opcode, reg)                                         \
	case (opcode) << 3 | (reg):                                   \
		asm volatile(".byte %c1, %c2"                         \
			     :                                        \
			     : "a"(mem), "i"(opcode), "i"((reg) << 3) \
			     : "memory");                             \
		break;
#define X87_CASES(opcode)								\
	X87_CASE(opcode, 0) X87_CASE(opcode, 1) X87_CASE(opcode, 2) X87_CASE(opcode, 3)	\
	X87_CASE(opcode, 4) X87_CASE(opcode, 5) X87_CASE(opcode, 6) X87_CASE(opcode, 7)
#define MMX_CASE(n)									\
	case n:										\
		if (load)								\
			asm volatile("movq (%0), %%mm" #n : : "r" (mem) : "memory");	\
		else									\
			asm volatile("movq %%mm" #n ", (%0)" : : "r" (mem) : "memory");	\
		break;

/*
 * x87_on_memory - run an instruction of opcode D8 to DF with mem as its operand
 * @rip, @ea: the guest's instruction and operand addresses, stored in the FPU's pointers
 *
 * Environments and states have the format of 32-bit protected mode. Context: the FPU belongs to the
 * caller (fpregs_lock); an x87 exception is pending only if the instruction does not wait for it.
 */
static inline void x87_on_memory(u8 opcode, u8 modrm, void *mem, u32 rip, u32 ea)
{
	u8 reg = modrm >> 3 & 7;
	u32 env[7];

	switch (opcode << 3 | reg) {
	X87_CASES(0xd8) X87_CASES(0xd9) X87_CASES(0xda) X87_CASES(0xdb)
	X87_CASES(0xdc) X87_CASES(0xdd) X87_CASES(0xde) X87_CASES(0xdf)
	}
	/* FLDCW, FNSTCW and FNSTSW leave the pointers alone; the others have them in mem. */
	if ((opcode == 0xd9 || opcode == 0xdd) && reg >= 4)
		return;
	asm volatile("fnstenv %0" : "=m" (env));
	env[3] = rip;
	env[4] = (opcode & 7) << 24 | modrm << 16;
	env[5] = ea;
	env[6] = 0;
	asm volatile("fldenv %0" : : "m" (env));
}

/* Executes MOVQ between MMX register n and mem. Context: as x87_on_memory. */
static inline void mmx_on_memory(u8 n, void *mem, bool load)
{
	switch (n & 7) {
		MMX_CASE(0)
		MMX_CASE(1) MMX_CASE(2) MMX_CASE(3) MMX_CASE(4) MMX_CASE(5) MMX_CASE(6) MMX_CASE(7)
	}
}

#endif
