/* SPDX-License-Identifier: GPL-2.0 */
/*
 * enter.S - enters the guest by VMRUN, and returns after the exit.
 *
 * State: none; the registers are exchanged between the guest and the array that the caller
 * passes. RAX, RSP, RIP and RFLAGS are in the VMCB. Read next: svm.c.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include "compat.h"
#include "enter.h"

/*
 * int svm_vmrun(u64 vmcb_pa, u64 *regs, u64 host_save_pa)
 *
 * Interrupts are off. From CLGI to STGI nothing interrupts, not even an NMI, because the host's FS,
 * GS and TR are not loaded all the time. VMRUN with RFLAGS.IF set lets physical interrupts cause an
 * exit (APM vol. 2, "Virtualizing Interrupts"); they are taken after STGI, when the caller enables
 * interrupts. Return: 0; 1 if SVM is disabled on this CPU, so the guest has not been entered.
 */
SYM_FUNC_START(svm_vmrun)
	PUSH_CALLERS_REGS
	push %rdx			/* 16(%rsp) from here on: the host's save page */
	push %rsi			/* 8(%rsp): registers */
	push %rdi			/* 0(%rsp): VMCB */

1:	clgi
	mov %rsi, %rax
	LOAD_GUEST_REGS
	mov (%rsp), %rax
	vmload %rax
	MKVM_SVM_CLEAR_CPU_BUFFERS
	sti
	vmrun %rax
	cli
	vmsave %rax
	mov 16(%rsp), %rax
	vmload %rax

	mov 8(%rsp), %rax
	SAVE_GUEST_REGS

	/* The guest's register values and predictions must not influence host speculation. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, MKVM_SVM_RSB_FEATURE
	MKVM_UNTRAIN_RET
	xor %eax, %eax
	xor %ecx, %ecx
	xor %edx, %edx
	xor %ebp, %ebp
	xor %esi, %esi
	xor %edi, %edi
	xor %r8d, %r8d
	xor %r9d, %r9d
	xor %r10d, %r10d
	xor %r11d, %r11d
	stgi

2:	add $24, %rsp
	POP_CALLERS_REGS
	RET

3:	mov $1, %eax			/* #UD: SVM is off */
	jmp 2b
	_ASM_EXTABLE(1b, 3b)
SYM_FUNC_END(svm_vmrun)
