/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - functions shared by the files of insn/ that connect the emulator to a vCPU
 * (access.c, walk.c, run_insn.c, skip.c). The emulator's own interface is emulate.h.
 *
 * Read next: access.c.
 */
#ifndef MKVM_INSN_INTERNAL_H
#define MKVM_INSN_INTERNAL_H

#include "mkvm.h"

/* Kinds of access, with the values of the error code of #PF. */
enum {
	ACC_PRESENT = 1,
	ACC_WRITE = 2,
	ACC_USER = 4,
	ACC_RESERVED = 8,
	ACC_FETCH = 16,
	ACC_KEY = 32
};

/*
 * walk.c: translates a linear address to a guest-physical one. acc: ACC_WRITE and ACC_FETCH;
 * ACC_USER is added at CPL 3. Return: DONE; FAULT with emu->fault; RETRY if a signal ended the
 * walk; UNHANDLED if the host has no memory where an entry should be.
 * Context: the vCPU's own thread, vm->srcu held; may sleep.
 */
enum mkvm_emu_result mkvm_emu_translate(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa);

/*
 * access.c: handles an access for which the host has no page at p. If the memory has failed, the
 * thread gets SIGBUS. Return: RETRY if a signal is pending or the page exists by now; else
 * UNHANDLED with emu->host_fault set.
 * Context: the vCPU's own thread, vm->srcu held; may sleep.
 */
enum mkvm_emu_result mkvm_emu_host_fault(struct mkvm_emu *emu, const void __user *p, bool write);

/*
 * access.c: initialises vcpu->insn.emu for the instruction at RIP. Context: the vCPU's own
 * thread.
 */
struct mkvm_emu *mkvm_emu_begin(struct mkvm_vcpu *vcpu);

/*
 * skip.c: decodes the instruction at RIP into *emu. Return: its length in bytes, or 0 if it could
 * not be fetched or decoded. Context: the vCPU's own thread; takes vm->srcu; may sleep.
 */
unsigned int mkvm_decode_at_rip(struct mkvm_vcpu *vcpu, struct mkvm_emu **emu);

/* skip.c: ends an instruction that was emulated; traps: bits of DR6. Own thread. */
void mkvm_end_instruction(struct mkvm_vcpu *vcpu, u32 traps);
/*
 * skip.c: reports KVM_INTERNAL_ERROR_EMULATION with the instruction's bytes. Own thread. Return:
 * 0.
 */
int mkvm_emulation_failed(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu);

#endif
