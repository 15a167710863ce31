/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest's assembler parts: trap entries, the return of a guest function,
 * and the way of an AP from its SIPI to long mode.
 *
 * Read next: lib/guest.c.
 */

#define AP_TRAMPOLINE 0x8000
#define PORT_DONE 0x5104

	.text

/* 256 entries of 16 bytes; vectors without an error code push 0. */
	.globl	guest_trap_entries
	.balign	16
guest_trap_entries:
	.set	vector, 0
	.rept	256
	.balign	16
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

/* The stack becomes a struct guest_frame; 16-byte aligned at the call. */
trap_common:
	pushq	%rax
	pushq	%rbx
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%rbp
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	movq	%rsp, %rdi
	cld
	call	guest_trap
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rbp
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rbx
	popq	%rax
	addq	$16, %rsp
	iretq

	.globl	guest_return
guest_return:
	movl	$PORT_DONE, %edx
	xorl	%eax, %eax
	outl	%eax, %dx
	hlt
	jmp	guest_return

/* Runs from guest address AP_TRAMPOLINE, entered at CS = its paragraph. */
	.section .rodata
	.globl	ap_trampoline, ap_trampoline_end
	.balign	16
ap_trampoline:
	.code16
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	AP_TRAMPOLINE + ap_gdtr - ap_trampoline
	movl	$0x620, %eax			/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$guest_pml4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x100, %eax			/* EFER.LME */
	wrmsr
	movl	$0x80010033, %eax		/* PG, WP, NE, ET, MP, PE */
	movl	%eax, %cr0
	ljmpl	$0x08, $ap_long
	.balign	4
ap_gdtr:
	.word	8 * 8 - 1
	.long	guest_gdt
ap_trampoline_end:

	.text
	.code64
ap_long:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	lidt	guest_idtr
	movl	$1, %edi
	lock xaddq %rdi, guest_ap_count
	/* Stacks from the top down: vCPUs of the host's making use the others. */
	movq	%rdi, %rax
	shlq	$14, %rax
	movq	$guest_stacks + 16 * 16384, %rsp
	subq	%rax, %rsp
	pushq	$guest_return
	jmpq	*guest_ap_entry

	.section .note.GNU-stack, "", @progbits
