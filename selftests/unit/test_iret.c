// SPDX-License-Identifier: GPL-2.0
/*
 * test_iret.c - far branches of the instruction emulator that change the privilege level: IRET and
 * RETF in every mode, with random descriptors and stacks against Unicorn, and what Unicorn leaves
 * out against the manuals; CALL and JMP through call gates against the manuals.
 *
 * State: one machine, made anew by machine_init(). Read next: kmod/insn/emulate_ret.c,
 * emulate_gate.c.
 */
#include <stdlib.h>
#include <unicorn/unicorn.h>

#include "ktap.h"
#include "../../kmod/insn/decode.c"
#include "../../kmod/insn/operand.c"
#include "../../kmod/insn/descriptor.c"
#include "../../kmod/insn/emulate.c"
#include "../../kmod/insn/emulate_stack.c"
#include "../../kmod/insn/emulate_seg.c"
#include "../../kmod/insn/emulate_ret.c"
#include "../../kmod/insn/emulate_task.c"
#include "../../kmod/insn/emulate_event.c"
#include "../../kmod/insn/emulate_gate.c"

#define RAM_SIZE	0x10000
#define CODE		0x1000
#define STACK		0x8000
#define GDT		0x3000
#define NR_DESC		32
#define OLD_TSS		0x4000
#define NEW_TSS		0x5000

enum mode { REAL, PROT32, LONG64, NR_MODES };

static struct machine {
	struct mkvm_emu emu;
	u64 regs[16];
	struct kvm_segment seg[8];
	struct kvm_dtable dt[2];
	u64 cr[16], dr[8];
	u64 ro_from, ro_to;		/* a write here is a page fault, */
	u64 rom_from, rom_to;		/* here it is dropped if it is implicit */
	unsigned int writes;
} m;

static u8 ram[RAM_SIZE], uc_ram[RAM_SIZE], insn_room[MKVM_INSN_ROOM];

/* ---- what the emulator asks of its surroundings ---- */

static enum mkvm_emu_result page_fault(u64 la, u32 error)
{
	m.emu.fault.vector = PF_VECTOR;
	m.emu.fault.has_error = true;
	m.emu.fault.error = error;
	m.emu.fault.cr2 = la;
	return MKVM_EMU_FAULT;
}

enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how)
{
	bool write = how >= MKVM_EMU_WRITE;

	if (la >= RAM_SIZE || la + len > RAM_SIZE || (write && la >= m.ro_from && la < m.ro_to))
		return page_fault(la, write ? 2 : 0);
	if (how == MKVM_EMU_PROBE)
		return MKVM_EMU_DONE;
	m.writes += write;
	memcpy(write ? ram + la : buf, write ? buf : ram + la, len);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how)
{
	if (how >= MKVM_EMU_WRITE && la >= m.rom_from && la < m.rom_to)
		return MKVM_EMU_DONE;
	return mkvm_emu_access(emu, la, buf, len, how);
}

enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len)
{
	if (la + 16 > RAM_SIZE)
		return page_fault(la, 0x10);
	memcpy(buf, ram + la, 16);
	return MKVM_EMU_DONE;
}

enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size,
				  unsigned int count, const void *out)
{
	return MKVM_EMU_UNHANDLED;
}

void mkvm_emu_get_segment(struct mkvm_emu *emu, int seg, struct kvm_segment *var)
{
	*var = m.seg[seg];
}

void mkvm_emu_set_segment(struct mkvm_emu *emu, int seg, const struct kvm_segment *var)
{
	m.seg[seg] = *var;
}

void mkvm_emu_dt(struct mkvm_emu *emu, bool idt, struct kvm_dtable *dt, bool write)
{
	*(write ? &m.dt[idt] : dt) = write ? *dt : m.dt[idt];
}

bool mkvm_emu_has(struct mkvm_emu *emu, unsigned int feature)
{
	return true;
}

u64 mkvm_emu_get_cr(struct mkvm_emu *emu, int cr)
{
	return m.cr[cr];
}

int mkvm_emu_set_cr(struct mkvm_emu *emu, int cr, u64 val)
{
	m.cr[cr] = val;
	return 0;
}

void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write)
{
	*(write ? &m.dr[dr] : val) = write ? *val : m.dr[dr];
}

/* Other instructions. */
u64 mkvm_emu_compute_bits(struct mkvm_emu *c, u64 dst, u64 src)
{
	abort();
}

enum mkvm_emu_result mkvm_emu_run_bits(struct mkvm_emu *c)
{
	abort();
}

enum mkvm_emu_result mkvm_emu_run_vec(struct mkvm_emu *c)
{
	abort();
}

/* ---- the machine ---- */

static u64 descriptor(unsigned int type, bool s, unsigned int dpl, bool present, unsigned int flags)
{
	return 0x000f00000000ffffULL | (u64)type << 40 | (u64)s << 44 | (u64)dpl << 45 |
	       (u64)present << 47 | (u64)flags << 52;
}

static void put_descriptor(unsigned int n, u64 value)
{
	memcpy(ram + GDT + n * 8, &value, 8);
}

/* The segment that a selector names, without a check. */
static void load(int seg, u16 selector)
{
	struct mkvm_descriptor d = { .selector = selector };

	memcpy(&d.low, ram + GDT + (selector & ~7), 8);
	m.seg[seg] = mkvm_emu_segment_of(&d);
	if (!(selector & ~3))
		m.seg[seg].unusable = 1;
}

enum {
	CODE_0 = 0x08, DATA_0 = 0x10, CODE_3 = 0x1b, DATA_3 = 0x23, CONFORMING_0 = 0x28,
	CODE16_3 = 0x33, DATA16_3 = 0x3b, ABSENT_CODE_3 = 0x43, ABSENT_DATA_3 = 0x4b,
	CODE64_0 = 0x50, CODE64_3 = 0x5b, FRESH_CODE_3 = 0x63, FRESH_DATA_3 = 0x6b, SMALL_3 = 0x73,
	TSS_OLD = 0x78, TSS_NEW = 0x80, NR_FIXED = 17,
};

static void put_gdt(void)
{
	static const struct {
		u16 selector;
		u8 type, dpl;
		bool present;
		u8 flags;
	} rows[] = {
		{ CODE_0, 0xb, 0, true, 0xc }, { DATA_0, 3, 0, true, 0xc },
		{ CODE_3, 0xb, 3, true, 0xc }, { DATA_3, 3, 3, true, 0xc },
		{ CONFORMING_0, 0xf, 0, true, 0xc },
		{ CODE16_3, 0xb, 3, true, 0 }, { DATA16_3, 3, 3, true, 0 },
		{ ABSENT_CODE_3, 0xb, 3, false, 0xc }, { ABSENT_DATA_3, 3, 3, false, 0xc },
		{ CODE64_0, 0xb, 0, true, 0xa }, { CODE64_3, 0xb, 3, true, 0xa },
		{ FRESH_CODE_3, 0xa, 3, true, 0xc }, { FRESH_DATA_3, 2, 3, true, 0xc },
	};

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		put_descriptor(rows[i].selector / 8, descriptor(rows[i].type, true, rows[i].dpl,
								rows[i].present, rows[i].flags));
	put_descriptor(SMALL_3 / 8, 0x0040fb0000000fff);	/* its limit is 0xfff */
	put_descriptor(TSS_OLD / 8, 0x67 | (u64)OLD_TSS << 16 | 0x8bULL << 40);
	put_descriptor(TSS_NEW / 8, 0x67 | (u64)NEW_TSS << 16 | 0x8bULL << 40);
}

/* Level 0, flat, or real mode with segments of 0. */
static void machine_init(enum mode mode)
{
	memset(&m, 0, sizeof(m));
	memset(ram, 0, sizeof(ram));
	m.emu.regs = m.regs;
	m.emu.insn = insn_room;
	m.emu.mode.cr0 = mode != REAL;
	m.emu.mode.efer = mode == LONG64 ? EFER_LMA : 0;
	m.emu.mode.cs_l = mode == LONG64;
	m.emu.mode.cs_db = mode == PROT32;
	m.emu.rip = CODE;
	m.emu.rflags = X86_EFLAGS_FIXED;
	m.regs[MKVM_RSP] = STACK;
	m.dt[0] = (struct kvm_dtable){ .base = GDT, .limit = NR_DESC * 8 - 1 };
	put_gdt();
	for (int i = 0; i < 6; i++) {
		load(i, i != MKVM_CS ? DATA_0 : mode == LONG64 ? CODE64_0 : CODE_0);
		if (mode == REAL)
			m.seg[i] = (struct kvm_segment){
				.limit = 0xffff, .present = 1, .s = 1, .type = 3,
			};
	}
	load(MKVM_EMU_TR, TSS_OLD);
}

static void to_level_3(void)
{
	m.emu.mode.cpl = 3;
	for (int i = 0; i < 6; i++)
		load(i, i == MKVM_CS ? CODE_3 : DATA_3);
}

static void to_vm86(unsigned int iopl)
{
	m.emu.mode.cpl = 3;
	m.emu.mode.cs_db = false;
	m.emu.rflags |= X86_EFLAGS_VM | iopl << X86_EFLAGS_IOPL_BIT;
	for (int i = 0; i < 6; i++)
		m.seg[i] = (struct kvm_segment){
			.limit = 0xffff, .present = 1, .s = 1, .dpl = 3, .type = 3,
		};
}

/* Words on the stack, from the top. */
static void put_words(unsigned int size, const u64 *words, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		memcpy(ram + STACK + i * size, &words[i], size);
}

#define STACK_WORDS(size, ...) ({						\
	const u64 words_[] = { __VA_ARGS__ };					\
	put_words(size, words_, sizeof(words_) / sizeof(words_[0])); })

static enum mkvm_emu_result run_code(const u8 *code, unsigned int len)
{
	memcpy(ram + CODE, code, len);
	m.emu.insn_len = 0;
	m.emu.rf_loaded = false;
	return mkvm_emulate(&m.emu);
}

#define RUN(...) ({								\
	const u8 code_[] = { __VA_ARGS__ };					\
	run_code(code_, sizeof(code_)); })

#define IRET 0xcf
#define OPERAND 0x66
#define REX_W 0x48
#define RETF 0xcb
#define RETF_N(n) 0xca, (n), 0

/* The instruction faults, and has changed nothing. */
static void expect_fault(u8 vector, u32 error, const u8 *code, unsigned int len)
{
	struct machine before = m;

	EXPECT_EQ(MKVM_EMU_FAULT, run_code(code, len));
	EXPECT_EQ(vector, m.emu.fault.vector);
	EXPECT_EQ(error, m.emu.fault.has_error ? m.emu.fault.error : 0);
	EXPECT_EQ(0, m.writes);
	EXPECT_EQ(0, memcmp(before.regs, m.regs, sizeof(m.regs)));
	EXPECT_EQ(0, memcmp(before.seg, m.seg, sizeof(m.seg)));
	EXPECT_EQ(before.emu.rip, m.emu.rip);
	EXPECT_EQ(before.emu.rflags, m.emu.rflags);
}

#define EXPECT_FAULT(vector, error, ...) ({					\
	const u8 code_[] = { __VA_ARGS__ };					\
	expect_fault(vector, error, code_, sizeof(code_)); })

/* ---- against Unicorn ---- */

static uc_engine *uc[NR_MODES];
static uc_context *uc_new[NR_MODES];	/* at level 0 */
static bool uc_faulted;

static const int uc_segs[6] = {
	UC_X86_REG_ES, UC_X86_REG_CS, UC_X86_REG_SS, UC_X86_REG_DS, UC_X86_REG_FS, UC_X86_REG_GS,
};

static void note_exception(uc_engine *e, uint32_t number, void *data)
{
	(void)number;
	(void)data;
	uc_faulted = true;
	uc_emu_stop(e);
}

static void open_unicorn(enum mode mode)
{
	static const uc_mode modes[] = { UC_MODE_16, UC_MODE_32, UC_MODE_64 };
	uc_hook hook;

	ASSERT_EQ(UC_ERR_OK, uc_open(UC_ARCH_X86, modes[mode], &uc[mode]));
	ASSERT_EQ(UC_ERR_OK, uc_mem_map_ptr(uc[mode], 0, RAM_SIZE, UC_PROT_ALL, uc_ram));
	ASSERT_EQ(UC_ERR_OK,
		  uc_hook_add(uc[mode], &hook, UC_HOOK_INTR, note_exception, NULL, 1, 0));
	ASSERT_EQ(UC_ERR_OK, uc_context_alloc(uc[mode], &uc_new[mode]));
	ASSERT_EQ(UC_ERR_OK, uc_context_save(uc[mode], uc_new[mode]));
}

static u64 uc_get(enum mode mode, int reg)
{
	u64 v = 0;

	uc_reg_read(uc[mode], reg, &v);
	return v;
}

static void uc_set(enum mode mode, int reg, u64 v)
{
	uc_reg_write(uc[mode], reg, &v);
}

/* Runs the instruction at CODE there. Returns whether it has faulted. */
static bool unicorn_faults(enum mode mode, u64 flags)
{
	uc_x86_mmr gdtr = { .base = GDT, .limit = NR_DESC * 8 - 1 };
	uc_err err;

	memcpy(uc_ram, ram, RAM_SIZE);
	ASSERT_EQ(UC_ERR_OK, uc_context_restore(uc[mode], uc_new[mode]));
	uc_reg_write(uc[mode], UC_X86_REG_GDTR, &gdtr);
	for (int i = 0; i < 6 && mode != LONG64; i++)
		uc_set(mode, uc_segs[i], m.seg[i].selector);
	uc_set(mode, mode == LONG64 ? UC_X86_REG_RSP : UC_X86_REG_ESP, m.regs[MKVM_RSP]);
	uc_set(mode, UC_X86_REG_EFLAGS, flags);
	uc_ctl_remove_cache(uc[mode], CODE, CODE + 16);
	uc_faulted = false;
	err = uc_emu_start(uc[mode], CODE, RAM_SIZE, 0, 1);
	return uc_faulted || err != UC_ERR_OK;
}

#define SAME_FLAGS (0x3f7fd5 & ~(X86_EFLAGS_RF | X86_EFLAGS_VIF | X86_EFLAGS_VIP))

static bool same(const char *what, u64 mine, u64 theirs)
{
	if (mine == theirs)
		return true;
	ktap_note("%s %#llx, Unicorn %#llx", what, (unsigned long long)mine,
		  (unsigned long long)theirs);
	return false;
}

static bool compare(enum mode mode, enum mkvm_emu_result res, bool faults)
{
	static const char *const names[] = { "ES", "CS", "SS", "DS", "FS", "GS" };
	bool ok = same("fault", res == MKVM_EMU_FAULT, faults);

	if (!ok || faults)
		return ok;
	/* Its EIP is a linear address when it has stopped. */
	ok &= same("RIP", m.emu.rip + (mode == LONG64 ? 0 : m.seg[MKVM_CS].base),
		   uc_get(mode, mode == LONG64 ? UC_X86_REG_RIP : UC_X86_REG_EIP));
	ok &= same("RSP", m.regs[MKVM_RSP],
		   uc_get(mode, mode == LONG64 ? UC_X86_REG_RSP : UC_X86_REG_ESP));
	ok &= same("RFLAGS", m.emu.rflags & SAME_FLAGS,
		   uc_get(mode, UC_X86_REG_EFLAGS) & SAME_FLAGS);
	for (int i = 0; i < 6; i++)
		if (mode != LONG64 || i == MKVM_CS || i == MKVM_SS)
			ok &= same(names[i], m.seg[i].selector, uc_get(mode, uc_segs[i]));
	return ok;
}

static unsigned int random_below(unsigned int n)
{
	return ktap_random() % n;
}

/* Descriptors beyond the fixed ones: code and data of all kinds, accessed. */
static void put_random_gdt(enum mode mode)
{
	for (unsigned int i = NR_FIXED; i < NR_DESC; i++) {
		unsigned int type = random_below(16) | 1, flags = random_below(2) ? 0xc : 0x8;

		if (mode == LONG64 && (type & TYPE_CODE))
			flags = random_below(4) ? 0xa : 0xc;
		if (!(type & TYPE_CODE))
			type &= ~TYPE_CONFORMING;	/* it would expand down */
		put_descriptor(i, descriptor(type, random_below(8), random_below(4),
					     random_below(8), flags));
	}
}

static u16 random_selector(void)
{
	return random_below(8) ? random_below(NR_DESC + 1) * 8 + random_below(4) : random_below(4);
}

/* Code or data that fit, mostly, so that more than faults is compared. */
static u16 selector_for(enum mode mode, bool code, bool user)
{
	if (!random_below(4))
		return random_selector();
	if (code)
		return mode == LONG64 ? user ? CODE64_3 : CODE64_0 : user ? CODE_3 : CODE_0;
	return user ? DATA_3 : DATA_0;
}

/* One return: its code, and the words on the stack. */
struct scene {
	u8 code[4];
	unsigned int len, size;		/* of the code and of each word */
	bool iret;
	unsigned int gap;		/* of parameters, in words */
	u64 words[9];
};

static void make_code(enum mode mode, struct scene *s)
{
	*s = (struct scene){ .size = mode == REAL ? 2 : 4, .iret = random_below(3) };
	if (random_below(2)) {
		s->code[s->len++] = mode == LONG64 ? REX_W : OPERAND;
		s->size = mode == LONG64 ? 8 : 6 - s->size;
	}
	s->code[s->len++] = s->iret ? IRET : RETF;
	if (!s->iret && random_below(2)) {
		s->code[s->len - 1] = RETF - 1;		/* with parameters */
		s->code[s->len] = 8;
		s->len += 2;
		s->gap = 8 / s->size;
	}
}

static void make_words(enum mode mode, struct scene *s)
{
	bool user = random_below(2);
	u64 *w = s->words, stack[2];

	w[0] = 0x1100 + random_below(0x800);
	w[1] = mode == REAL ? random_below(0x100) : selector_for(mode, true, user);
	stack[0] = STACK + 0x100 + random_below(0x100);
	stack[1] = selector_for(mode, false, user);
	/* Unicorn checks no limit of code, and allows any null stack in long mode. */
	if ((w[1] & ~3ULL) == (SMALL_3 & ~3) && mode != REAL)
		w[1] = CODE_3;
	if (stack[1] < 4)
		stack[1] = w[1] == CODE64_0 ? 0 : DATA_3;
	if (!s->iret) {
		memcpy(w + 2 + s->gap, stack, sizeof(stack));
		return;
	}
	w[2] = ktap_random() & 0x257fd5;
	if (mode == PROT32 && s->size == 4 && !random_below(8))
		w[2] |= X86_EFLAGS_VM;
	memcpy(w + 3, stack, sizeof(stack));
	for (int k = 5; k < 9; k++)
		w[k] = random_below(0x100);
}

static void note_scene(const struct scene *s, u64 flags, enum mkvm_emu_result res)
{
	ktap_note("%s of %u bytes, flags %#llx; result %d, vector %u, error %#x",
		  s->iret ? "IRET" : "RETF", s->size, (unsigned long long)flags, res,
		  m.emu.fault.vector, m.emu.fault.error);
	for (int i = 0; i < 6; i++)
		ktap_note("word %d: %#llx", i, (unsigned long long)s->words[i]);
}

static void against_unicorn(enum mode mode, unsigned int rounds)
{
	unsigned int done = 0;

	open_unicorn(mode);
	for (unsigned int i = 0; i < rounds; i++) {
		u64 flags = X86_EFLAGS_FIXED | (ktap_random() & 0x243cd5);
		enum mkvm_emu_result res;
		struct scene s;
		bool faults;

		ktap_about("round %u", i);
		machine_init(mode);
		put_random_gdt(mode);
		if (mode == LONG64)
			m.seg[MKVM_SS] = (struct kvm_segment){ .unusable = 1 };
		for (int seg = MKVM_DS; seg <= MKVM_GS && mode == PROT32; seg++)
			if (random_below(2))
				load(seg, random_below(2) ? DATA_3 : CONFORMING_0);
		make_code(mode, &s);
		make_words(mode, &s);
		put_words(s.size, s.words, 9);
		memcpy(ram + CODE, s.code, sizeof(s.code));
		m.emu.rflags = flags;
		faults = unicorn_faults(mode, flags);
		res = run_code(s.code, s.len);
		done += res == MKVM_EMU_DONE;
		if (!compare(mode, res, faults)) {
			note_scene(&s, flags, res);
			FAIL("they differ");
		}
	}
	EXPECT_LE(rounds / 8, done);
}

TEST(far_returns_in_real_mode_agree_with_unicorn)
{
	against_unicorn(REAL, 1000);
}

TEST(far_returns_in_protected_mode_agree_with_unicorn)
{
	against_unicorn(PROT32, 4000);
}

TEST(far_returns_in_64_bit_mode_agree_with_unicorn)
{
	against_unicorn(LONG64, 4000);
}

/* ---- against the manuals ---- */

#define USER_FLAGS (X86_EFLAGS_FIXED | X86_EFLAGS_CF | X86_EFLAGS_IF)

TEST(iret_to_an_outer_level_loads_the_stack_and_drops_inner_segments)
{
	machine_init(PROT32);
	load(MKVM_FS, CONFORMING_0);
	load(MKVM_GS, DATA_3);
	STACK_WORDS(4, 0x1234, CODE_3, USER_FLAGS | X86_EFLAGS_RF, 0x9000, DATA_3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(0x1234, m.emu.rip);
	EXPECT_EQ(USER_FLAGS | X86_EFLAGS_RF, m.emu.rflags);
	EXPECT_EQ(0x9000, m.regs[MKVM_RSP]);
	EXPECT_EQ(CODE_3, m.seg[MKVM_CS].selector);
	EXPECT_EQ(DATA_3, m.seg[MKVM_SS].selector);
	EXPECT_EQ(3, m.seg[MKVM_SS].dpl);
	EXPECT_TRUE(m.seg[MKVM_DS].unusable && !m.seg[MKVM_DS].selector);
	EXPECT_TRUE(m.seg[MKVM_ES].unusable && !m.seg[MKVM_ES].selector);
	EXPECT_EQ(CONFORMING_0, m.seg[MKVM_FS].selector);
	EXPECT_EQ(DATA_3, m.seg[MKVM_GS].selector);
	EXPECT_EQ(0, m.writes);
}

TEST(accessed_bits_are_set_last_and_lost_in_rom)
{
	for (int rom = 0; rom < 2; rom++) {
		machine_init(PROT32);
		m.rom_to = rom ? RAM_SIZE : 0;
		STACK_WORDS(4, 0x1234, FRESH_CODE_3, USER_FLAGS, 0x9000, FRESH_DATA_3);
		EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
		EXPECT_EQ(0xb, m.seg[MKVM_CS].type);
		EXPECT_EQ(3, m.seg[MKVM_SS].type);
		EXPECT_EQ(rom ? 0xfa : 0xfb, ram[GDT + (FRESH_CODE_3 & ~7) + 5]);
		EXPECT_EQ(rom ? 0xf2 : 0xf3, ram[GDT + (FRESH_DATA_3 & ~7) + 5]);
		EXPECT_EQ(rom ? 0 : 2, m.writes);
	}
	machine_init(PROT32);
	STACK_WORDS(4, 0x1234, FRESH_CODE_3, USER_FLAGS, 0x9000, ABSENT_DATA_3);
	EXPECT_FAULT(SS_VECTOR, ABSENT_DATA_3 & ~3, IRET);
	STACK_WORDS(4, 0x1234, FRESH_CODE_3, USER_FLAGS, 0x9000, DATA_0);
	EXPECT_FAULT(GP_VECTOR, DATA_0, IRET);
	m.ro_from = GDT;
	m.ro_to = GDT + NR_DESC * 8;
	STACK_WORDS(4, 0x1234, FRESH_CODE_3, USER_FLAGS, 0x9000, DATA_3);
	EXPECT_FAULT(PF_VECTOR, 2, IRET);
}

TEST(each_check_of_a_return_faults_with_its_own_error)
{
	static const struct {
		u64 rip, cs, sp, ss;
		u8 vector;
		u32 error;
	} rows[] = {
		{ 0x1234, 0, 0x9000, DATA_3, GP_VECTOR, 0 },
		{ 0x1234, 3, 0x9000, DATA_3, GP_VECTOR, 0 },
		{ 0x1234, NR_DESC * 8 + 3, 0x9000, DATA_3, GP_VECTOR, NR_DESC * 8 },
		{ 0x1234, DATA_3, 0x9000, DATA_3, GP_VECTOR, DATA_3 & ~3 },
		{ 0x1234, TSS_OLD, 0x9000, DATA_3, GP_VECTOR, TSS_OLD },
		{ 0x1234, CODE_0 | 3, 0x9000, DATA_3, GP_VECTOR, CODE_0 },
		{ 0x1234, CODE_3 & ~3, 0x9000, DATA_3, GP_VECTOR, CODE_3 & ~3 },
		{ 0x1234, ABSENT_CODE_3, 0x9000, DATA_3, NP_VECTOR, ABSENT_CODE_3 & ~3 },
		{ 0x1234, CODE_3, 0x9000, 0, GP_VECTOR, 0 },
		{ 0x1234, CODE_3, 0x9000, 3, GP_VECTOR, 0 },
		{ 0x1234, CODE_3, 0x9000, NR_DESC * 8 + 3, GP_VECTOR, NR_DESC * 8 },
		{ 0x1234, CODE_3, 0x9000, CODE_3, GP_VECTOR, CODE_3 & ~3 },
		{ 0x1234, CODE_3, 0x9000, DATA_3 & ~3, GP_VECTOR, DATA_3 & ~3 },
		{ 0x1234, CODE_3, 0x9000, ABSENT_DATA_3, SS_VECTOR, ABSENT_DATA_3 & ~3 },
		{ 0x1000, SMALL_3, 0x9000, DATA_3, GP_VECTOR, 0 },
	};

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ktap_about("row %u", i);
		machine_init(PROT32);
		STACK_WORDS(4, rows[i].rip, rows[i].cs, USER_FLAGS, rows[i].sp, rows[i].ss);
		EXPECT_FAULT(rows[i].vector, rows[i].error, IRET);
		STACK_WORDS(4, rows[i].rip, rows[i].cs, 0, 0, rows[i].sp, rows[i].ss);
		EXPECT_FAULT(rows[i].vector, rows[i].error, RETF_N(8));
	}
	machine_init(PROT32);
	STACK_WORDS(4, 0xfff, SMALL_3, USER_FLAGS, 0x9000, DATA_3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	machine_init(PROT32);
	to_level_3();
	STACK_WORDS(4, 0x1234, CODE_0, USER_FLAGS);
	EXPECT_FAULT(GP_VECTOR, CODE_0, IRET);
	EXPECT_FAULT(GP_VECTOR, CODE_0, RETF);
	m.seg[MKVM_SS].limit = STACK + 10;		/* the flags are half inside */
	m.seg[MKVM_SS].g = 0;
	EXPECT_FAULT(SS_VECTOR, 0, IRET);
}

TEST(iret_gives_each_level_the_flags_that_it_may_change)
{
	u64 all = 0x3d7fd5;			/* but VM */

	machine_init(PROT32);
	STACK_WORDS(4, 0x1234, CODE_0, all);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(all | X86_EFLAGS_FIXED, m.emu.rflags);
	EXPECT_EQ(STACK + 12, m.regs[MKVM_RSP]);
	machine_init(PROT32);
	m.emu.rflags |= X86_EFLAGS_VIP | X86_EFLAGS_RF;
	STACK_WORDS(2, 0x1234, CODE_0, all & 0xffff);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(OPERAND, IRET));
	EXPECT_EQ((all & 0xffff) | X86_EFLAGS_FIXED | X86_EFLAGS_VIP, m.emu.rflags);
	machine_init(PROT32);
	to_level_3();
	STACK_WORDS(4, 0x1234, CODE_3, all);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ((all & ~(X86_EFLAGS_IF | X86_EFLAGS_IOPL | X86_EFLAGS_VIF | X86_EFLAGS_VIP)) |
		  X86_EFLAGS_FIXED, m.emu.rflags);
	machine_init(PROT32);
	to_level_3();
	m.emu.rflags |= X86_EFLAGS_IOPL;
	STACK_WORDS(4, 0x1234, CODE_3, X86_EFLAGS_IF | X86_EFLAGS_VM);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(X86_EFLAGS_IF | X86_EFLAGS_IOPL | X86_EFLAGS_FIXED, m.emu.rflags);
}

TEST(iret_from_level_0_enters_virtual_8086_mode)
{
	machine_init(PROT32);
	STACK_WORDS(4, 0xffff, 0x123, X86_EFLAGS_VM | X86_EFLAGS_IF | X86_EFLAGS_VIF, 0x7654, 0x200,
		    0x300, 0x400, 0x500, 0x600);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(0xffff, m.emu.rip);
	EXPECT_EQ(0x7654, m.regs[MKVM_RSP]);
	EXPECT_EQ(X86_EFLAGS_VM | X86_EFLAGS_IF | X86_EFLAGS_VIF | X86_EFLAGS_FIXED, m.emu.rflags);
	for (int i = 0; i < 6; i++) {
		static const u16 want[] = { 0x300, 0x123, 0x200, 0x400, 0x500, 0x600 };

		EXPECT_EQ(want[i], m.seg[i].selector);
		EXPECT_EQ(want[i] << 4, m.seg[i].base);
		EXPECT_EQ(0xffff, m.seg[i].limit);
		EXPECT_EQ(3, m.seg[i].type);
		EXPECT_EQ(3, m.seg[i].dpl);
		EXPECT_TRUE(m.seg[i].s && m.seg[i].present && !m.seg[i].unusable && !m.seg[i].db);
	}
	machine_init(PROT32);
	STACK_WORDS(4, 0x10000, 0x123, X86_EFLAGS_VM, 0x7654, 0x200, 0x300, 0x400, 0x500, 0x600);
	EXPECT_FAULT(GP_VECTOR, 0, IRET);
}

TEST(iret_in_virtual_8086_mode_needs_iopl_or_virtual_interrupts)
{
	const u64 popped = X86_EFLAGS_IF | X86_EFLAGS_CF;

	for (unsigned int iopl = 0; iopl < 4; iopl++) {
		machine_init(PROT32);
		to_vm86(iopl);
		STACK_WORDS(2, 0x1234, 0x100, popped);
		if (iopl < 3) {
			EXPECT_FAULT(GP_VECTOR, 0, IRET);
			m.emu.mode.cr4 = X86_CR4_VME;
		}
		EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
		EXPECT_EQ(0x1234, m.emu.rip);
		EXPECT_EQ(0x1000, m.seg[MKVM_CS].base);
		EXPECT_EQ(X86_EFLAGS_FIXED | X86_EFLAGS_VM | iopl << 12 | X86_EFLAGS_CF |
			  (iopl < 3 ? X86_EFLAGS_VIF : X86_EFLAGS_IF), m.emu.rflags);
	}
	machine_init(PROT32);
	to_vm86(2);
	m.emu.mode.cr4 = X86_CR4_VME;
	STACK_WORDS(4, 0x1234, 0x100, popped);
	EXPECT_FAULT(GP_VECTOR, 0, OPERAND, IRET);	/* 32-bit operands */
	STACK_WORDS(2, 0x1234, 0x100, popped | X86_EFLAGS_TF);
	EXPECT_FAULT(GP_VECTOR, 0, IRET);
	STACK_WORDS(2, 0x1234, 0x100, popped);
	m.emu.rflags |= X86_EFLAGS_VIP;
	EXPECT_FAULT(GP_VECTOR, 0, IRET);
	STACK_WORDS(2, 0x1234, 0x100, X86_EFLAGS_CF);
	m.emu.rflags |= X86_EFLAGS_VIF;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(0, m.emu.rflags & X86_EFLAGS_VIF);
}

TEST(iret_with_nt_set_returns_to_the_task_of_the_back_link)
{
	u32 *tss = (u32 *)(ram + NEW_TSS);

	machine_init(PROT32);
	*(u16 *)(ram + OLD_TSS) = TSS_NEW;
	tss[8] = 0x1234;			/* EIP */
	tss[9] = X86_EFLAGS_FIXED;
	tss[14] = STACK + 0x40;			/* ESP */
	for (int i = 0; i < 6; i++)
		tss[18 + i] = i == MKVM_CS ? CODE_0 : DATA_0;
	m.emu.rflags |= X86_EFLAGS_NT;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(0x1234, m.emu.rip);
	EXPECT_EQ(TSS_NEW, m.seg[MKVM_EMU_TR].selector);
	EXPECT_EQ(STACK + 0x40, m.regs[MKVM_RSP]);
	machine_init(LONG64);
	m.emu.rflags |= X86_EFLAGS_NT;
	EXPECT_FAULT(GP_VECTOR, 0, REX_W, IRET);
}

TEST(iret_in_64_bit_mode_always_pops_a_stack)
{
	machine_init(LONG64);
	STACK_WORDS(8, 0x1234, CODE64_0, USER_FLAGS, 0xffff800000009000, 0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(REX_W, IRET));
	EXPECT_EQ(0xffff800000009000, m.regs[MKVM_RSP]);
	EXPECT_TRUE(m.seg[MKVM_SS].unusable);
	EXPECT_EQ(0, m.seg[MKVM_SS].dpl);
	machine_init(LONG64);
	STACK_WORDS(8, 0x1234, CODE64_3, USER_FLAGS, 0x9000, 3);
	EXPECT_FAULT(GP_VECTOR, 0, REX_W, IRET);
	STACK_WORDS(8, 0x800000001234, CODE64_3, USER_FLAGS, 0x9000, DATA_3);
	EXPECT_FAULT(GP_VECTOR, 0, REX_W, IRET);
	STACK_WORDS(8, 0x100001234, CODE_3, USER_FLAGS, 0x9000, DATA_3);
	EXPECT_FAULT(GP_VECTOR, 0, REX_W, IRET);	/* beyond the limit of 32-bit code */
	STACK_WORDS(8, 0x1234, CODE_3, USER_FLAGS | X86_EFLAGS_VM, 0x9000, DATA_3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(REX_W, IRET));
	EXPECT_EQ(USER_FLAGS, m.emu.rflags);
	EXPECT_EQ(CODE_3, m.seg[MKVM_CS].selector);
	machine_init(LONG64);
	put_descriptor(NR_FIXED, descriptor(0xb, true, 3, true, 0xe));	/* L and D */
	STACK_WORDS(8, 0x1234, NR_FIXED * 8 + 3, USER_FLAGS, 0x9000, DATA_3);
	EXPECT_FAULT(GP_VECTOR, NR_FIXED * 8, REX_W, IRET);
}

TEST(a_stack_of_16_bits_keeps_the_upper_half_of_esp)
{
	machine_init(PROT32);
	m.regs[MKVM_RSP] = 0x12340000 | STACK;
	m.seg[MKVM_SS].db = 0;
	STACK_WORDS(4, 0x1234, CODE16_3, USER_FLAGS, 0x56789000, DATA16_3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(IRET));
	EXPECT_EQ(0x12349000, m.regs[MKVM_RSP]);
}

TEST(retf_to_an_outer_level_releases_parameters_on_both_stacks)
{
	machine_init(PROT32);
	STACK_WORDS(4, 0x1234, CODE_3, 0, 0, 0x9000, DATA_3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(RETF_N(8)));
	EXPECT_EQ(0x9008, m.regs[MKVM_RSP]);
	EXPECT_EQ(0x1234, m.emu.rip);
	EXPECT_TRUE(m.seg[MKVM_DS].unusable);
	machine_init(LONG64);			/* within a level it pops no stack */
	STACK_WORDS(8, 0x1234, CODE64_0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(REX_W, RETF));
	EXPECT_EQ(STACK + 16, m.regs[MKVM_RSP]);
}

/* ---- call gates, against the manuals ---- */

#define GATE (NR_FIXED * 8)
#define CALL_M 0xff, 0x1d		/* CALL and JMP through a far pointer at POINTER */
#define JMP_M 0xff, 0x2d
#define POINTER 0x2000
#define CALL_GATE_POINTER CALL_M, POINTER & 0xff, POINTER >> 8, 0, 0
#define JMP_GATE_POINTER JMP_M, POINTER & 0xff, POINTER >> 8, 0, 0
#define INNER_STACK 0x9000

static void put_gate(unsigned int type, unsigned int dpl, u16 selector, u64 rip, unsigned int nr)
{
	u64 low = (rip & 0xffff) | (u64)selector << 16 | (u64)nr << 32 | (u64)type << 40 |
		  (u64)dpl << 45 | DESC_P | (rip >> 16 & 0xffff) << 48;

	put_descriptor(NR_FIXED, low);
	put_descriptor(NR_FIXED + 1, rip >> 32);
}

/* The far pointer, and the stack of level 0 in the TSS. */
static void gate_scene(enum mode mode, bool user, u16 selector)
{
	u32 sp = INNER_STACK;

	machine_init(mode);
	if (user)
		to_level_3();
	memcpy(ram + POINTER + 4, &selector, 2);
	memcpy(ram + OLD_TSS + 4, &sp, 4);
	ram[OLD_TSS + 8] = mode == LONG64 ? 0 : DATA_0;
	STACK_WORDS(4, 0x11111111, 0x22222222, 0x33333333);
}

static u32 word_at(u32 where)
{
	u32 word;

	memcpy(&word, ram + where, 4);
	return word;
}

TEST(a_call_through_a_gate_to_an_inner_level_copies_parameters)
{
	gate_scene(PROT32, true, GATE | 3);
	put_gate(CALL_GATE, 3, CODE_0 | 3, 0x12345, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(CALL_GATE_POINTER));
	EXPECT_EQ(0x12345, m.emu.rip);
	EXPECT_EQ(CODE_0, m.seg[MKVM_CS].selector);
	EXPECT_EQ(DATA_0, m.seg[MKVM_SS].selector);
	EXPECT_EQ(INNER_STACK - 24, m.regs[MKVM_RSP]);
	EXPECT_EQ(DATA_3, word_at(INNER_STACK - 4));
	EXPECT_EQ(STACK, word_at(INNER_STACK - 8));
	EXPECT_EQ(0x22222222, word_at(INNER_STACK - 12));
	EXPECT_EQ(0x11111111, word_at(INNER_STACK - 16));
	EXPECT_EQ(CODE_3, word_at(INNER_STACK - 20));
	EXPECT_EQ(CODE + 6, word_at(INNER_STACK - 24));
	EXPECT_EQ(DATA_3, m.seg[MKVM_DS].selector);
}

TEST(a_gate_of_16_bits_pushes_words_of_two_bytes)
{
	gate_scene(PROT32, true, GATE | 3);
	put_gate(CALL_GATE_16, 3, CODE_0, 0x51234, 1);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(CALL_GATE_POINTER));
	EXPECT_EQ(0x1234, m.emu.rip);
	EXPECT_EQ(INNER_STACK - 10, m.regs[MKVM_RSP]);
	EXPECT_EQ((u32)STACK | DATA_3 << 16, word_at(INNER_STACK - 4));
	EXPECT_EQ(0x1111, word_at(INNER_STACK - 6) & 0xffff);
	EXPECT_EQ((CODE + 6) | CODE_3 << 16, word_at(INNER_STACK - 10));
}

TEST(a_gate_within_a_level_pushes_the_return_address_alone)
{
	gate_scene(PROT32, false, GATE);
	put_gate(CALL_GATE, 0, CODE_0, 0x12345, 7);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(CALL_GATE_POINTER));
	EXPECT_EQ(0x12345, m.emu.rip);
	EXPECT_EQ(STACK - 8, m.regs[MKVM_RSP]);
	EXPECT_EQ(CODE_0, word_at(STACK - 4));
	EXPECT_EQ(CODE + 6, word_at(STACK - 8));
	/* Conforming code runs at the caller's level. */
	gate_scene(PROT32, true, GATE | 3);
	put_gate(CALL_GATE, 3, CONFORMING_0, 0x12345, 0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(CALL_GATE_POINTER));
	EXPECT_EQ(CONFORMING_0 | 3, m.seg[MKVM_CS].selector);
	EXPECT_EQ(STACK - 8, m.regs[MKVM_RSP]);
	gate_scene(PROT32, false, GATE);
	put_gate(CALL_GATE, 0, CODE_0, 0x12345, 0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(JMP_GATE_POINTER));
	EXPECT_EQ(0x12345, m.emu.rip);
	EXPECT_EQ(STACK, m.regs[MKVM_RSP]);
	EXPECT_EQ(0, m.writes);
}

TEST(a_gate_in_64_bit_mode_has_no_parameters_and_a_null_stack_segment)
{
	gate_scene(LONG64, true, GATE | 3);
	load(MKVM_CS, CODE64_3);
	put_gate(CALL_GATE, 3, CODE64_0, 0xffff800000012345, 5);
	memcpy(ram + OLD_TSS + 4, &(u32){ INNER_STACK + 4 }, 4);	/* it is not aligned */
	/* The pointer is relative to RIP. */
	memcpy(ram + CODE + 6 + POINTER + 4, &(u16){ GATE | 3 }, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(CALL_GATE_POINTER));
	EXPECT_EQ(0xffff800000012345, m.emu.rip);
	EXPECT_EQ(CODE64_0, m.seg[MKVM_CS].selector);
	EXPECT_TRUE(m.seg[MKVM_SS].unusable);
	EXPECT_EQ(0, m.seg[MKVM_SS].selector);
	EXPECT_EQ(INNER_STACK + 4 - 32, m.regs[MKVM_RSP]);
	EXPECT_EQ(CODE + 6, word_at(INNER_STACK + 4 - 32));
	EXPECT_EQ(CODE64_3, word_at(INNER_STACK + 4 - 24));
	EXPECT_EQ(STACK, word_at(INNER_STACK + 4 - 16));
	EXPECT_EQ(DATA_3, word_at(INNER_STACK + 4 - 8));
}

TEST(each_check_of_a_call_gate_faults_with_its_own_error)
{
	static const struct {
		unsigned int type, dpl;
		u16 selector, ss;
		u32 rip;
		u8 vector;
		u32 error;
	} rows[] = {
		{ 2, 3, CODE_0, DATA_0, 0x1234, GP_VECTOR, GATE },	/* an LDT */
		{ INTERRUPT_GATE, 3, CODE_0, DATA_0, 0x1234, GP_VECTOR, GATE },
		{ CALL_GATE, 2, CODE_0, DATA_0, 0x1234, GP_VECTOR, GATE },
		{ CALL_GATE, 3, 0, DATA_0, 0x1234, GP_VECTOR, 0 },
		{ CALL_GATE, 3, DATA_0, DATA_0, 0x1234, GP_VECTOR, DATA_0 },
		{ CALL_GATE, 3, ABSENT_CODE_3, DATA_0, 0x1234, NP_VECTOR, ABSENT_CODE_3 & ~3 },
		{ CALL_GATE, 3, CODE_0, 0, 0x1234, TS_VECTOR, 0 },
		{ CALL_GATE, 3, CODE_0, DATA_3, 0x1234, TS_VECTOR, DATA_3 & ~3 },
		{ CALL_GATE, 3, CODE_0, CODE_0, 0x1234, TS_VECTOR, CODE_0 },
		{ CALL_GATE, 3, SMALL_3, DATA_0, 0x1000, GP_VECTOR, 0 },
	};

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ktap_about("row %u", i);
		gate_scene(PROT32, true, GATE | 3);
		put_gate(rows[i].type, rows[i].dpl, rows[i].selector, rows[i].rip, 1);
		ram[OLD_TSS + 8] = rows[i].ss;
		EXPECT_FAULT(rows[i].vector, rows[i].error, CALL_GATE_POINTER);
	}
	gate_scene(PROT32, true, GATE | 3);
	put_gate(CALL_GATE, 3, CODE_0, 0x1234, 0);
	ram[GDT + GATE + 5] &= 0x7f;				/* absent */
	EXPECT_FAULT(NP_VECTOR, GATE, CALL_GATE_POINTER);
	put_gate(CALL_GATE, 3, CODE_0, 0x1234, 0);
	EXPECT_FAULT(GP_VECTOR, CODE_0, JMP_GATE_POINTER);	/* JMP cannot go inward */
	m.seg[MKVM_EMU_TR].limit = 7;
	EXPECT_FAULT(TS_VECTOR, TSS_OLD, CALL_GATE_POINTER);
	m.seg[MKVM_EMU_TR].limit = 0x67;
	m.ro_to = INNER_STACK;
	EXPECT_FAULT(PF_VECTOR, 2, CALL_GATE_POINTER);
}
