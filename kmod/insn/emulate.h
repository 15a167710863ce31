/* SPDX-License-Identifier: GPL-2.0 */
/*
 * emulate.h - the instruction emulator's contract.
 *
 * The emulator is pure: it sees registers, a few mode bits and the functions
 * below, and knows nothing about a VM. It decodes one instruction and executes it,
 * or one iteration of a repeated string instruction.
 *
 * Restarting: if one of these functions returns EXIT (userspace must answer
 * first), the emulator returns EXIT and has changed nothing. Later the caller
 * executes the same instruction again from its start, and the functions repeat
 * their previous answers from a log, up to the access that is new. So they are
 * called in the same order with the same arguments each time, and registers
 * change only when everything has succeeded. insn and insn_len are kept between
 * the attempts: bytes that are there are not fetched again, so fetch is the only
 * function that is not logged.
 *
 * Read next: decode.c, emulate.c, then mmio.c, which implements the functions.
 */
#ifndef MKVM_EMULATE_H
#define MKVM_EMULATE_H

#include <linux/types.h>
#include <linux/kvm.h>

enum mkvm_emu_result {
	MKVM_EMU_DONE,		/* ran; registers, RIP and RFLAGS are new */
	MKVM_EMU_AGAIN,		/* one iteration of REP ran, RIP still at the instruction: call again */
	MKVM_EMU_EXIT,		/* userspace must answer: nothing changed, run again later */
	MKVM_EMU_FAULT,		/* the guest gets emu->fault: nothing changed */
	MKVM_EMU_UNHANDLED,	/* not an instruction that is emulated: nothing changed */
	MKVM_EMU_RETRY,		/* another processor was quicker: nothing changed, run again */
};

enum { MKVM_ES, MKVM_CS, MKVM_SS, MKVM_DS, MKVM_FS, MKVM_GS };	/* encoding order */
enum { MKVM_EMU_TR = 6, MKVM_EMU_LDTR = 7 };			/* for the functions below */

#define MKVM_MAX_INSN	15	/* bytes of an instruction */
#define MKVM_INSN_ROOM	40	/* what the decoder may read before it knows that they are too many */

/* What the guest's code at an instruction runs as. */
struct mkvm_mode {
	u64 cr0, cr3, cr4, efer;
	u8 cpl;
	bool cs_l, cs_db;
};

/* How an instruction is run; what the values mean decode.h says. */
struct mkvm_opcode {
	u8 op;
	u8 dst, src;
	u8 width;		/* bytes in memory where that is not by prefixes, 0: it is */
	u32 flags;
	u16 feature;		/* X86_FEATURE_* that CPUID must show, 0: none */
};

/* What a VEX or EVEX prefix says; the register bits that REX has, too, are in prefix[REX]. */
struct mkvm_vex {
	u8 kind;		/* 0: neither; else its length in bytes, EVEX's is 4 */
	u8 vvvv;		/* the second source */
	u8 length;		/* of vectors: 16 << length bytes */
	u8 mask;		/* 0: none */
	bool zero;		/* what the mask leaves out is cleared, not kept */
	bool w;
	bool upper;		/* ModRM.reg is of a vector register from 16 on */
};

struct mkvm_emu {
	struct mkvm_vcpu *vcpu;		/* in: the surroundings' own */
	u64 *regs;			/* in, out: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 */
	u64 rip, rflags;		/* in, out */
	struct mkvm_mode mode;		/* in */
	bool io_checked;		/* in: the CPU has checked that INS and OUTS may use their port */
	u16 ins_taken;			/* the surroundings' own: elements that INS has got and not stored, 0: none */
	bool one_by_one;		/* in: INS takes one element a call, as all other strings do */
	void *ins_buf;			/* in: the page where mkvm_emu_pio puts what it reads */
	u8 *insn;			/* in: MKVM_INSN_ROOM bytes; out: the instruction */
	u8 insn_len;			/* in: how many are known; out: its length if decoded, else all known */
	bool one_operand;		/* out: every access to memory is to the one operand that is there */
	bool ss_loaded;			/* out: MOV to or POP of SS: the next instruction is not interrupted */
	bool fault_after;		/* out: DONE, and emu->fault is the first of a new task */
	bool implicit;			/* in: no instruction; devices are UNHANDLED, ROM loses writes */
	bool host_fault, patient, watched;	/* the surroundings' own, */
	u32 traps;			/* and breakpoints that this call has met, as in DR6 */
	struct {
		u64 all, any, leaf;
	} walked;			/* likewise: what the last walk found */
	struct {
		u8 vector;
		bool has_error;
		u32 error;
		u64 cr2;		/* of a #PF */
	} fault;			/* out */

	/* The emulator's own: the instruction, decoded. */
	struct mkvm_opcode d;
	u8 pos;				/* bytes decoded */
	u8 opcode;			/* the last byte of it */
	struct mkvm_vex vex;
	u8 size, ad;			/* of operand and address, bytes */
	u8 mod, reg, rm;		/* ModRM, with REX's bits */
	u8 seg;
	bool mode64, rip_relative;
	bool sp_based;			/* the address has rSP in it */
	u8 prefix[8];			/* the last of its kind, 0: absent */
	u64 ea, imm;
	u16 imm16;			/* besides imm */
	u64 was[2];			/* of REPLACE: what the operand was when it was read */
	u64 next_rip, flags;		/* RIP and RFLAGS when it has run */
};

/*
 * What the surroundings supply. Accesses return DONE, EXIT, FAULT (with emu->fault
 * filled in), RETRY or UNHANDLED. Linear addresses are already checked against segment
 * limits and for being canonical (48 bits); an access may cross a page.
 */
enum mkvm_emu_how {
	MKVM_EMU_READ,
	MKVM_EMU_MODIFY,	/* reads what a WRITE to the same place follows: #PF as for a write */
	MKVM_EMU_WRITE,
	/*
	 * A WRITE over what emu->was says was there. Of 1, 2, 4, 8 or 16 bytes of RAM within a
	 * cache line it is atomic; RETRY: by now something else is there, and stays.
	 */
	MKVM_EMU_REPLACE,
	MKVM_EMU_PROBE,		/* no access: would a WRITE fault? Of more than 8 bytes: UNHANDLED unless RAM */
};

/*
 * buf: at least a u64 (a DONE read fills len bytes); len: 1, 2, 4, 8, 10, 16, 32, 64, for PROBE and
 * WRITE of INS up to a page
 */
enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how);
/* Bytes of the instruction into buf, which has room for 16; len up to 15, within a page. */
enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len);
/* OUTS of one element from out; INS (out is NULL) of count elements, at most a page, to emu->ins_buf. */
enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size, unsigned int count,
				  const void *out);
/*
 * As mkvm_emu_access, for descriptors: a supervisor's, whatever CPL is; a WRITE where
 * there is no RAM is dropped.
 */
enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how);
void mkvm_emu_get_segment(struct mkvm_emu *emu, int seg, struct kvm_segment *var);
void mkvm_emu_set_segment(struct mkvm_emu *emu, int seg, const struct kvm_segment *var);
void mkvm_emu_dt(struct mkvm_emu *emu, bool idt, struct kvm_dtable *dt, bool write);
/* Does the guest's CPUID show X86_FEATURE_*? Of the words that CPUID's leaves 1, 7 and 0x80000001 fill. */
bool mkvm_emu_has(struct mkvm_emu *emu, unsigned int feature);
/* MOV from and to CR0, 2, 3, 4 or 8 at CPL 0. A write returns 1 for #GP. */
u64 mkvm_emu_get_cr(struct mkvm_emu *emu, int cr);
int mkvm_emu_set_cr(struct mkvm_emu *emu, int cr, u64 val);

/* As much as a vector register may have. */
struct mkvm_vec {
	u64 q[8];
};

/* FXSAVE's image, in its 64-bit form. */
struct mkvm_fx {
	u16 fcw, fsw, ftw, fop;
	u64 rip, rdp;
	u32 mxcsr, mxcsr_mask;
	u8 registers[480];
} __aligned(16);

/*
 * Reads or writes len bytes, 16, 32 or 64, of vector register n. A write of more than 16
 * clears all above.
 */
void mkvm_emu_vec(struct mkvm_emu *emu, unsigned int n, struct mkvm_vec *buf, unsigned int len, bool write);
/* Reads or writes mask register n; of a CPU without AVX512BW it has 16 bits. */
void mkvm_emu_mask(struct mkvm_emu *emu, unsigned int n, u64 *val, bool write);
/* Reads or writes x87, MMX and XMM registers. */
void mkvm_emu_fx(struct mkvm_emu *emu, struct mkvm_fx *fx, bool write);
/* Runs the x87 or MMX instruction that is decoded on those in fx, with mem, 16 bytes, as the operand. */
void mkvm_emu_x87(struct mkvm_emu *emu, struct mkvm_fx *fx, void *mem);
u64 mkvm_emu_xcr0(struct mkvm_emu *emu);
/* MOV to or from DR0 to 3, 6 or 7, all checked. */
void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write);

/*
 * mkvm_emulate - decode and run the instruction at emu->rip.
 *
 * Context: what the surroundings need. Bounded work: one instruction, or for REP one
 * iteration (REP INS: up to one page) a call; returns AGAIN while RCX is not used up.
 */
enum mkvm_emu_result mkvm_emulate(struct mkvm_emu *emu);

/* An interrupt or exception on its way to its handler. */
struct mkvm_emu_event {
	u8 vector;
	bool soft;		/* by INT n, INT3 or INTO: the gate's DPL counts, and faults are not external */
	bool has_error;
	u32 error;
	u64 rip, rflags;	/* as the handler is to find them in its frame */
};

/*
 * mkvm_emu_deliver - deliver an event: up to the handler's first instruction
 *
 * emu->implicit must be set. Results are those of an instruction, without AGAIN and EXIT; emu->fault is
 * that of the delivery itself, and how it merges with the event is the caller's to say. UNHANDLED: a
 * device, or nothing, is where the CPU would have to read or write, and nothing has been written; or
 * virtual-8086 mode's extensions count (CR4.VME).
 */
enum mkvm_emu_result mkvm_emu_deliver(struct mkvm_emu *emu, const struct mkvm_emu_event *ev);

/*
 * mkvm_insn_length - length in bytes of the instruction at emu->rip, for exits
 * that give no next RIP. 0: could not be decoded or fetched. Knows, besides what is
 * emulated, what is intercepted: CPUID, HLT, PAUSE, RDMSR, WRMSR, RDTSC, RDPMC, INVD, WBINVD, RSM and 0F 01.
 */
unsigned int mkvm_insn_length(struct mkvm_emu *emu);

#endif
