/* SPDX-License-Identifier: GPL-2.0 */
/*
 * emulate.h - the instruction emulator's contract.
 *
 * The emulator is pure: it sees registers, a few mode bits and the functions that its caller
 * supplies, and knows nothing about a VM. It decodes and executes one instruction, or one iteration
 * of a repeated string instruction.
 *
 * Restarting: if one of the supplied functions returns EXIT (userspace must answer first), the
 * emulator returns EXIT and has changed nothing. Later the caller executes the same instruction
 * again from its start, and the functions repeat their previous answers from a log, up to the first
 * new access. So the emulator calls them in the same order with the same arguments each time, and
 * changes registers only when everything has succeeded. insn and insn_len are kept between the
 * attempts, so known bytes are not fetched again, and fetches need no log.
 *
 * Read next: decode.c, emulate.c, then access.c, which implements the supplied functions.
 */
#ifndef MKVM_EMULATE_H
#define MKVM_EMULATE_H

#include <linux/types.h>
#include <linux/kvm.h>

enum mkvm_emu_result {
	MKVM_EMU_DONE,		/* executed: registers, RIP and RFLAGS are updated */
	MKVM_EMU_AGAIN,		/* executed one iteration of REP, RIP not advanced: call again */
	MKVM_EMU_EXIT,		/* userspace must answer: nothing has changed, run again later */
	MKVM_EMU_FAULT,		/* the guest gets emu->fault: nothing has changed */
	MKVM_EMU_UNHANDLED,	/* the instruction is not emulated: nothing has changed */
	MKVM_EMU_RETRY,		/* another vCPU changed the operand: nothing changed, run again */
};

enum { MKVM_ES, MKVM_CS, MKVM_SS, MKVM_DS, MKVM_FS, MKVM_GS };	/* encoding order */
enum { MKVM_EMU_TR = 6, MKVM_EMU_LDTR = 7 };			/* as seg of the functions below */

#define MKVM_MAX_INSN	15	/* bytes of an instruction, at most */
#define MKVM_INSN_ROOM	40	/* bytes that the decoder may read before it checks the length */

/* The mode in which the guest executes the instruction. */
struct mkvm_mode {
	u64 cr0, cr3, cr4, efer;
	u8 cpl;
	bool cs_l, cs_db;
};

/* The general registers in the order of their encoding. */
enum {
	MKVM_RAX, MKVM_RCX, MKVM_RDX, MKVM_RBX, MKVM_RSP, MKVM_RBP, MKVM_RSI, MKVM_RDI,
	MKVM_NR_REGS = 16,
};

#define MKVM_DR7_FIXED	BIT(10)		/* reads 1 always, and is DR7's value after a reset */
#define MKVM_DR6_BD	BIT(13)		/* a debug register was accessed under DR7.GD */

/* How to execute an opcode; decode.h defines the values. */
struct mkvm_opcode {
	u8 op;
	u8 dst, src;
	u8 width;		/* of the operand in memory, in bytes; 0: prefixes determine it */
	u32 flags;
	u16 feature;		/* X86_FEATURE_* that CPUID must show, 0: none */
};

/* Fields of a VEX or EVEX prefix; those that REX has as well are in prefix[REX]. */
struct mkvm_vex {
	u8 kind;		/* length of the prefix in bytes; 4: EVEX; 0: none */
	u8 vvvv;		/* the second source */
	u8 length;		/* vectors have 16 << length bytes */
	u8 mask;		/* number of the mask register; 0: no mask */
	bool zero;		/* elements outside the mask are cleared instead of kept */
	bool w;
	bool upper;		/* ModRM.reg names one of the vector registers 16 to 31 */
};

struct mkvm_emu {
	struct mkvm_vcpu *vcpu;		/* in: for the supplied functions */
	u64 *regs;			/* in, out: MKVM_NR_REGS of them */
	u64 rip, rflags;		/* in, out */
	struct mkvm_mode mode;		/* in */
	bool io_checked;		/* in: the CPU has checked the port of INS or OUTS */
	u16 ins_taken;			/* elements that INS has read and not yet stored */
	bool one_by_one;		/* in: INS moves one element per call, as others do */
	void *ins_buf;			/* in: the page where mkvm_emu_pio puts what it reads */
	u8 *insn;			/* in: MKVM_INSN_ROOM bytes; out: the instruction */
	u8 insn_len;			/* in: bytes known; out: the length, once decoded */
	bool one_operand;		/* out: the instruction has a single memory operand */
	bool ss_loaded;			/* out: MOV or POP to SS: the next one is shadowed */
	bool rf_loaded;			/* out: IRET or a task switch has loaded RF as well */
	bool fault_after;		/* out: DONE, and a new task starts with emu->fault */
	bool implicit;			/* in: devices are UNHANDLED, ROM drops writes */
	/*
	 * Private to the supplied functions. host_fault: the host has no memory for a guest page.
	 * patient: the instruction has side effects, so a signal must not end it soon. watched:
	 * accesses must be compared with the breakpoints. asked: it is not the guest that accesses
	 * memory, but an ioctl that asks for an address.
	 */
	bool host_fault, patient, watched, asked;
	u32 traps;			/* breakpoints hit in this call, as bits of DR6 */
	struct {
		u64 all, any, leaf;
	} walked;			/* entries of the last walk: ANDed, ORed, the leaf */
	struct {
		u8 vector;
		bool has_error;
		u32 error;
		u64 cr2;		/* for #PF */
	} fault;			/* out */

	/* Private to the emulator: the decoded instruction. */
	struct mkvm_opcode d;
	u8 pos;				/* bytes decoded */
	u8 opcode;			/* its last byte */
	struct mkvm_vex vex;
	u8 size, ad;			/* of operands and of addresses, in bytes */
	u8 mod, reg, rm;		/* of ModRM, extended by REX */
	u8 seg;
	bool mode64, rip_relative;
	bool sp_based;			/* rSP is the base of the address */
	u8 prefix[8];			/* the last prefix of each kind; 0: absent */
	u64 ea, imm;
	u16 imm16;			/* the second immediate: a frame's size or a selector */
	u64 was[2];			/* for REPLACE: the operand when it was read */
	u64 next_rip, flags;		/* RIP and RFLAGS after the instruction */
};

/*
 * The functions that the caller supplies. Accesses return DONE, EXIT, FAULT (with emu->fault filled
 * in), RETRY or UNHANDLED. The emulator has checked linear addresses against segment limits and for
 * being canonical (48 bits). An access may cross a page.
 */
enum mkvm_emu_how {
	MKVM_EMU_READ,
	MKVM_EMU_MODIFY,	/* a read that a REPLACE or WRITE follows; faults as a write does */
	MKVM_EMU_WRITE,
	/*
	 * A write that replaces emu->was. It is atomic for 1, 2, 4, 8 or 16 bytes of RAM within a
	 * cache line; RETRY: the memory no longer holds emu->was, and is unchanged.
	 */
	MKVM_EMU_REPLACE,
	MKVM_EMU_PROBE,		/* would a WRITE fault? UNHANDLED: over 8 bytes, not RAM */
};

/*
 * Accesses memory or a device at linear address la with the current privilege. buf holds at least
 * 8 bytes; a read that returns DONE fills len bytes. len is 1, 2, 4, 8, 10, 16, 32 or 64 bytes;
 * PROBE and the WRITE of INS may span up to a page.
 */
enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how);
/* Fetches len bytes of the instruction, at most 15 and within a page. buf has room for 16. */
enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len);
/*
 * Executes OUTS of one element of size bytes at out, or, with out NULL, INS of count elements, at
 * most a page, to emu->ins_buf.
 */
enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size,
				  unsigned int count, const void *out);
/*
 * As mkvm_emu_access, for the CPU's implicit accesses to descriptor tables and TSSs: with
 * supervisor privilege, whatever CPL is. A WRITE where there is no RAM is dropped.
 */
enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how);
/* Read or write a segment register; seg: MKVM_ES to MKVM_GS, MKVM_EMU_TR or MKVM_EMU_LDTR. */
void mkvm_emu_get_segment(struct mkvm_emu *emu, int seg, struct kvm_segment *var);
void mkvm_emu_set_segment(struct mkvm_emu *emu, int seg, const struct kvm_segment *var);
/* Reads or writes IDTR or GDTR. */
void mkvm_emu_dt(struct mkvm_emu *emu, bool idt, struct kvm_dtable *dt, bool write);
/* Does the guest's CPUID show X86_FEATURE_*, a feature of leaf 1, 7 or 0x80000001? */
bool mkvm_emu_has(struct mkvm_emu *emu, unsigned int feature);
/* Read or write CR0, 2, 3, 4 or 8 as MOV does at CPL 0. A write returns 1 for #GP. */
u64 mkvm_emu_get_cr(struct mkvm_emu *emu, int cr);
int mkvm_emu_set_cr(struct mkvm_emu *emu, int cr, u64 val);

/* The largest vector register. */
struct mkvm_vec {
	u64 q[8];
};

/* The memory image of FXSAVE64. */
struct mkvm_fx {
	u16 fcw, fsw, ftw, fop;
	u64 rip, rdp;
	u32 mxcsr, mxcsr_mask;
	u8 registers[480];
} __aligned(16);

/*
 * Reads or writes the lowest len bytes, 16, 32 or 64, of vector register n. A write of more than 16
 * bytes clears the bytes above.
 */
void mkvm_emu_vec(struct mkvm_emu *emu, unsigned int n, struct mkvm_vec *buf, unsigned int len,
		  bool write);
/* Reads or writes mask register n, which has 16 bits on a CPU without AVX512BW. */
void mkvm_emu_mask(struct mkvm_emu *emu, unsigned int n, u64 *val, bool write);
/* Reads or writes the x87, MMX and XMM registers. */
void mkvm_emu_fx(struct mkvm_emu *emu, struct mkvm_fx *fx, bool write);
/*
 * Executes the decoded x87 or MMX instruction on the registers in fx. mem: operand, 16 bytes, or
 * 108 for a whole state or environment, in the format of 32-bit protected mode. load: it is read.
 */
void mkvm_emu_x87(struct mkvm_emu *emu, struct mkvm_fx *fx, void *mem, bool load);
/* Returns the guest's XCR0. */
u64 mkvm_emu_xcr0(struct mkvm_emu *emu);
/* Reads or writes DR0 to DR3, DR6 or DR7; the emulator has made all checks. */
void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write);

/*
 * mkvm_emulate - decode and execute the instruction at emu->rip
 *
 * The work is bounded: a call executes one instruction, or one iteration of REP (REP INS: up to a
 * page), and returns AGAIN until RCX is 0. Context: whatever the supplied functions require.
 */
enum mkvm_emu_result mkvm_emulate(struct mkvm_emu *emu);

/* An interrupt or exception that is being delivered. */
struct mkvm_emu_event {
	u8 vector;
	bool soft;		/* INT n, INT3, INTO: the gate's DPL counts, faults lack EXT */
	bool int_n;		/* INT n: CR4.VME applies in virtual-8086 mode */
	bool has_error;
	u32 error;
	u64 rip, rflags;	/* to be pushed on the handler's stack */
};

/*
 * mkvm_emu_deliver - deliver an event, up to the handler's first instruction
 *
 * emu->implicit must be set. Return: DONE, FAULT, RETRY or UNHANDLED, as for an instruction. FAULT
 * leaves the delivery's own fault in emu->fault; the caller combines it with the event (#DF).
 * UNHANDLED means that nothing has been written, and that the delivery would access a device or a
 * hole.
 */
enum mkvm_emu_result mkvm_emu_deliver(struct mkvm_emu *emu, const struct mkvm_emu_event *ev);

/*
 * mkvm_insn_length - find the length of the instruction at emu->rip, for exits without a next RIP
 *
 * Besides the emulated instructions it knows those that are intercepted: CPUID, HLT, PAUSE, RDMSR,
 * WRMSR, RDTSC, RDPMC, INVD, WBINVD, RSM, INT, INT1, INT3, INTO and the group 0F 01. Return: bytes,
 * or 0 if it could not be fetched or decoded. Context: as mkvm_emulate.
 */
unsigned int mkvm_insn_length(struct mkvm_emu *emu);

/* ---- decode.c, identify.c: what the surroundings may ask of an instruction ---- */

/*
 * mkvm_decode - decode the instruction at emu->rip
 *
 * Bytes beyond emu->insn_len are fetched. Return: DONE; FAULT with #GP if the instruction is longer
 * than 15 bytes or runs past the end of CS; UNHANDLED if it is not in the tables; else as
 * mkvm_emu_fetch. Context: as mkvm_emulate.
 */
enum mkvm_emu_result mkvm_decode(struct mkvm_emu *emu);

/*
 * The instruction that the CPU has intercepted. The emulator runs no other one: the code in memory
 * may have changed since.
 */
enum mkvm_intercept {
	MKVM_INTERCEPT_INS,	/* number: bytes per element */
	MKVM_INTERCEPT_OUTS,
	MKVM_INTERCEPT_GET_CR,	/* number: the register's number, or MKVM_ANY_CR */
	MKVM_INTERCEPT_SET_CR,	/* number: the register's number */
	MKVM_INTERCEPT_TASK,	/* a far JMP or CALL, or IRET */
	MKVM_INTERCEPT_GET_DR,
	MKVM_INTERCEPT_SET_DR,
};

#define MKVM_ANY_CR 0xff	/* the CPU reports a control register but not which one */

/* Is the decoded instruction the one that the CPU has checked and intercepted? */
bool mkvm_emu_is_intercepted(const struct mkvm_emu *emu, enum mkvm_intercept what,
			     unsigned int number);

/* Instructions that some CPU does not have, or does not identify in its exit. */
enum mkvm_insn {
	MKVM_INSN_OTHER,
	MKVM_INSN_HYPERCALL,
	MKVM_INSN_RSM,
	MKVM_INSN_INT1,
	MKVM_INSN_INT3,
	MKVM_INSN_INTO,
	MKVM_INSN_INT_N
};

/* Which of them it is, @len bytes long; *vector, if not NULL: that of INT n. */
enum mkvm_insn mkvm_emu_identify(const struct mkvm_emu *emu, unsigned int len, u8 *vector);

/* Does mkvm_emulate execute it? */
bool mkvm_emu_is_known(const struct mkvm_emu *emu);

/* Does it end the handling of an NMI? Only IRET does. */
bool mkvm_emu_unmasks_nmi(const struct mkvm_emu *emu);

/* ---- helpers of the emulator and of its surroundings ---- */

/* Does the exception push an error code? AMD APM vol. 2, "Error Codes". Any context. */
static inline bool mkvm_has_error_code(u8 vector)
{
	return vector == DF_VECTOR || (vector >= TS_VECTOR && vector <= PF_VECTOR) ||
	       vector == AC_VECTOR;
}

/* Fills in emu->fault; real mode pushes no error code. */
static inline enum mkvm_emu_result fault_with(struct mkvm_emu *c, u8 vector, u32 error)
{
	c->fault.vector = vector;
	c->fault.has_error = mkvm_has_error_code(vector) && (c->mode.cr0 & X86_CR0_PE);
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

#endif
