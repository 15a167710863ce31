/* SPDX-License-Identifier: GPL-2.0 */
/*
 * enter.h - macros that both vendors' enter.S use for guest entry and exit.
 *
 * State: none. The registers are an array in the order of their numbers in instructions, RAX
 * RCX RDX RBX RSP RBP RSI RDI R8..R15 (struct mkvm_vcpu). Read next: svm/enter.S, vmx/enter.S.
 */
#ifndef MKVM_ENTER_H
#define MKVM_ENTER_H

#define REG(n) ((n) * 8)

/* The registers that a C function preserves for its caller. */
.macro PUSH_CALLERS_REGS
	push %rbp
	push %r15
	push %r14
	push %r13
	push %r12
	push %rbx
.endm

.macro POP_CALLERS_REGS
	pop %rbx
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	pop %rbp
.endm

/* Load or save all registers but RSP and RAX, which holds the address of the array. */
.macro LOAD_GUEST_REGS
	mov REG(1)(%rax), %rcx
	mov REG(2)(%rax), %rdx
	mov REG(3)(%rax), %rbx
	mov REG(5)(%rax), %rbp
	mov REG(6)(%rax), %rsi
	mov REG(7)(%rax), %rdi
	mov REG(8)(%rax), %r8
	mov REG(9)(%rax), %r9
	mov REG(10)(%rax), %r10
	mov REG(11)(%rax), %r11
	mov REG(12)(%rax), %r12
	mov REG(13)(%rax), %r13
	mov REG(14)(%rax), %r14
	mov REG(15)(%rax), %r15
.endm

.macro SAVE_GUEST_REGS
	mov %rcx, REG(1)(%rax)
	mov %rdx, REG(2)(%rax)
	mov %rbx, REG(3)(%rax)
	mov %rbp, REG(5)(%rax)
	mov %rsi, REG(6)(%rax)
	mov %rdi, REG(7)(%rax)
	mov %r8, REG(8)(%rax)
	mov %r9, REG(9)(%rax)
	mov %r10, REG(10)(%rax)
	mov %r11, REG(11)(%rax)
	mov %r12, REG(12)(%rax)
	mov %r13, REG(13)(%rax)
	mov %r14, REG(14)(%rax)
	mov %r15, REG(15)(%rax)
.endm

#endif
