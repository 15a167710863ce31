/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - what the files of insn/ that connect the emulator to a vCPU call of each other.
 * emulate.h has what the emulator itself calls, and what calls it.
 *
 * Read next: access.c.
 */
#ifndef MKVM_INSN_INTERNAL_H
#define MKVM_INSN_INTERNAL_H

#include "mkvm.h"

/* An access, as in the error code of #PF. */
enum { ACC_PRESENT = 1, ACC_WRITE = 2, ACC_USER = 4, ACC_RESERVED = 8, ACC_FETCH = 16, ACC_KEY = 32 };

/* walk.c: linear to guest-physical. RETRY: a signal has ended the walk. Own thread, vm->srcu held. */
enum mkvm_emu_result mkvm_emu_translate(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa);

/* access.c: the emulator's state for the instruction at RIP. Own thread. */
struct mkvm_emu *mkvm_emu_begin(struct mkvm_vcpu *vcpu);

/* skip.c: the length of the instruction at RIP, 0 where that fails; *emu has it decoded. Own thread. */
unsigned int mkvm_decode_at_rip(struct mkvm_vcpu *vcpu, struct mkvm_emu **emu);

#endif
