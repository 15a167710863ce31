// SPDX-License-Identifier: GPL-2.0
/*
 * guest_fpu.c - access to the guest's FPU and vector registers for the emulator.
 *
 * Between mkvm_fpu_lock and mkvm_fpu_unlock the guest's registers are in the CPU (cpu/fpu.h).
 *
 * State: none. Read next: emulate_vec.c.
 */
#include "mkvm.h"
#include "cpu/fpu.h"
#include "emulate.h"
#include "x87.h"

#define MOVE(n, insn, reg)								\
	case n:										\
		if (write)								\
			asm volatile(insn " %0, %%" reg #n : : "m" (*buf));		\
		else									\
			asm volatile(insn " %%" reg #n ", %0" : "=m" (*buf));		\
		break;
#define MOVES_8(insn, reg)								\
	MOVE(0, insn, reg) MOVE(1, insn, reg) MOVE(2, insn, reg) MOVE(3, insn, reg)	\
	MOVE(4, insn, reg) MOVE(5, insn, reg) MOVE(6, insn, reg) MOVE(7, insn, reg)
#define MOVES_16(insn, reg)								\
	MOVES_8(insn, reg)								\
	MOVE(8, insn, reg) MOVE(9, insn, reg) MOVE(10, insn, reg) MOVE(11, insn, reg)	\
	MOVE(12, insn, reg) MOVE(13, insn, reg) MOVE(14, insn, reg) MOVE(15, insn, reg)
#define MOVES_32(insn, reg)								\
	MOVES_16(insn, reg)								\
	MOVE(16, insn, reg) MOVE(17, insn, reg) MOVE(18, insn, reg) MOVE(19, insn, reg)	\
	MOVE(20, insn, reg) MOVE(21, insn, reg) MOVE(22, insn, reg) MOVE(23, insn, reg)	\
	MOVE(24, insn, reg) MOVE(25, insn, reg) MOVE(26, insn, reg) MOVE(27, insn, reg)	\
	MOVE(28, insn, reg) MOVE(29, insn, reg) MOVE(30, insn, reg) MOVE(31, insn, reg)

static void move_xmm(unsigned int n, struct mkvm_vec *buf, bool write)
{
	switch (n) { MOVES_16("movdqu", "xmm") }
}

static void move_ymm(unsigned int n, struct mkvm_vec *buf, bool write)
{
	switch (n) { MOVES_16("vmovdqu", "ymm") }
}

static void move_zmm(unsigned int n, struct mkvm_vec *buf, bool write)
{
	switch (n) { MOVES_32("vmovdqu64", "zmm") }
}

/* The emulator has checked that the guest has these registers, so the host has them, too. */
void mkvm_emu_vec(struct mkvm_emu *emu, unsigned int n, struct mkvm_vec *buf, unsigned int len,
		  bool write)
{
	mkvm_fpu_lock(emu->vcpu);
	if (len == 16)
		move_xmm(n, buf, write);
	else if (len == 32)
		move_ymm(n, buf, write);
	else
		move_zmm(n, buf, write);
	mkvm_fpu_unlock(emu->vcpu);
}

#define MOVE_MASK(n)									\
	case n:										\
		if (boot_cpu_has(X86_FEATURE_AVX512BW) && write)			\
			asm volatile("kmovq %0, %%k" #n : : "m" (*val));		\
		else if (boot_cpu_has(X86_FEATURE_AVX512BW))				\
			asm volatile("kmovq %%k" #n ", %0" : "=m" (*val));		\
		else if (write)								\
			asm volatile("kmovw %0, %%k" #n : : "m" (*(u16 *)val));		\
		else									\
			asm volatile("kmovw %%k" #n ", %0" : "+m" (*(u16 *)val));	\
		break;

void mkvm_emu_mask(struct mkvm_emu *emu, unsigned int n, u64 *val, bool write)
{
	if (!write)
		*val = 0;
	mkvm_fpu_lock(emu->vcpu);
	switch (n) {
	MOVE_MASK(0) MOVE_MASK(1) MOVE_MASK(2) MOVE_MASK(3)
	MOVE_MASK(4) MOVE_MASK(5) MOVE_MASK(6) MOVE_MASK(7)
	}
	mkvm_fpu_unlock(emu->vcpu);
}

static void fxsave(struct mkvm_fx *fx)
{
	asm volatile("fxsave64 %0" : "+m" (*fx));
}

static void fxrstor(const struct mkvm_fx *fx)
{
	asm volatile("fxrstor64 %0" : : "m" (*fx));
}

void mkvm_emu_fx(struct mkvm_emu *emu, struct mkvm_fx *fx, bool write)
{
	mkvm_fpu_lock(emu->vcpu);
	if (write)
		fxrstor(fx);
	else
		fxsave(fx);
	mkvm_fpu_unlock(emu->vcpu);
}

void mkvm_emu_x87(struct mkvm_emu *emu, struct mkvm_fx *fx, void *mem, bool load)
{
	struct mkvm_fx guest;

	mkvm_fpu_lock(emu->vcpu);
	fxsave(&guest);
	fxrstor(fx);
	if (emu->opcode >= 0xd8 && emu->opcode <= 0xdf)
		x87_on_memory(emu->opcode, emu->mod << 6 | (emu->reg & 7) << 3 | (emu->rm & 7), mem,
			      emu->rip, emu->ea);
	else
		mmx_on_memory(emu->reg, mem, load);
	fxsave(fx);
	fxrstor(&guest);
	mkvm_fpu_unlock(emu->vcpu);
}

u64 mkvm_emu_xcr0(struct mkvm_emu *emu)
{
	return emu->vcpu->fpu.xcr0;
}
