// SPDX-License-Identifier: GPL-2.0
/*
 * test_emulate.c - the instruction emulator against two others and the manuals.
 *
 * Random instructions run here and in Unicorn, in real mode, 32-bit protected
 * mode and 64-bit mode: registers, defined flags, RIP and memory must agree.
 * What is decoded, its length and what is undefined must agree with Zydis. The
 * rest (segments, restarting, fetching, I/O, control registers) is checked
 * against what the manuals say.
 *
 * State: one machine, made anew by machine_init(). Read next: kmod/insn/emulate.c.
 */
#include <cpuid.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <Zydis/Zydis.h>
#include <unicorn/unicorn.h>

#include "ktap.h"
#include "../../kmod/insn/decode.c"
#include "../../kmod/insn/identify.c"
#include "../../kmod/insn/operand.c"
#include "../../kmod/insn/descriptor.c"
#include "../../kmod/insn/emulate.c"
#include "../../kmod/insn/emulate_bits.c"
#include "../../kmod/insn/emulate_stack.c"
#include "../../kmod/insn/emulate_seg.c"
#include "../../kmod/insn/emulate_ret.c"
#include "../../kmod/insn/emulate_gate.c"
#include "../../kmod/insn/emulate_event.c"
#include "../../kmod/insn/emulate_task.c"
#include "../../kmod/insn/emulate_vec.c"
#include "../../kmod/insn/x87.h"

#define RAM_SIZE	0x120000
#define ARITH		0x8d5ULL		/* CF PF AF ZF SF OF */
#define FLAG_DF		0x400ULL
#define FLAG_VM		0x20000ULL

enum mode { REAL, PROT32, LONG64 };
static const char *const mode_name[] = { "real", "protected", "long" };

/* What a callback was asked; a replay must ask the same. */
struct access {
	char kind;
	u64 addr;
	unsigned int len;
	u8 data[512];
};

static struct machine {
	enum mode mode;
	struct mkvm_emu emu;
	u64 regs[16];
	struct kvm_segment seg[8];
	struct kvm_dtable dt[2];		/* GDTR, IDTR */
	u64 rom_end;				/* system writes below this are dropped */
	u64 cr[16];
	u64 dr[8];
	u64 xmm[32][2], upper[32][6];		/* vector registers: the lowest 16 bytes, and those above */
	u64 k[8];
	struct mkvm_fx fx;
	u64 xcr0;
	u64 ram_base;
	u64 lo, hi;				/* writes to RAM lie in here */
	unsigned int pio_nr;			/* elements so far: what a port gives next */
	u64 probe_limit;			/* from here on a probe faults */

	struct access log[16];
	unsigned int nr, answered;		/* accesses in this run; those the log answers */
	unsigned int exit_at;			/* this access and later ones say EXIT */
	bool differs;				/* a replay asked something else */
	unsigned int fetches, segments;
	unsigned int lacks;			/* X86_FEATURE_* that CPUID does not show */
	u64 meddle;				/* before a byte here is replaced, another processor inverts it */
	u64 fetch_la[4];
	unsigned int fetch_len[4];
} m;

static u8 ram[RAM_SIZE], uc_ram[RAM_SIZE];
static u8 ins_page[4096], insn_room[MKVM_INSN_ROOM];

static u64 random_below(u64 n)
{
	return ktap_random() % n;
}

static bool chance(unsigned int percent)
{
	return random_below(100) < percent;
}

/* Ports give this: it depends on nothing but how many elements were read. */
static u32 port_data(unsigned int n)
{
	return n * 0x9e3779b1u + 0x12345678;
}

/* Notes an access; says what the emulator is to be told before it is made. */
static enum mkvm_emu_result access_note(char kind, u64 addr, unsigned int len, const void *data, struct access **slot)
{
	struct access *a = &m.log[m.nr < 15 ? m.nr : 15];

	*slot = a;
	if (++m.nr >= m.exit_at)
		return MKVM_EMU_EXIT;
	if (m.nr <= m.answered) {
		if (a->kind != kind || a->addr != addr || a->len != len ||
		    (data && memcmp(a->data, data, len < 64 ? len : 64)))
			m.differs = true;
		return MKVM_EMU_AGAIN;		/* the log has the answer */
	}
	a->kind = kind;
	a->addr = addr;
	a->len = len;
	if (data)
		memcpy(a->data, data, len < 64 ? len : 64);
	return MKVM_EMU_DONE;
}

static void *ram_at(u64 la, unsigned int len)
{
	u64 off = la - m.ram_base;

	return off < RAM_SIZE && off + len <= RAM_SIZE ? ram + off : NULL;
}

static enum mkvm_emu_result page_fault(u64 la, u32 error)
{
	m.emu.fault.vector = 14;
	m.emu.fault.has_error = true;
	m.emu.fault.error = error;
	m.emu.fault.cr2 = la;
	return MKVM_EMU_FAULT;
}

enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len)
{
	if (m.fetches < 4) {
		m.fetch_la[m.fetches] = la;
		m.fetch_len[m.fetches] = len;
	}
	m.fetches++;
	if (!ram_at(la, len))
		return page_fault(la, 0x10);
	memset(buf, 0xcc, 16);			/* it may write that much */
	memcpy(buf, ram_at(la, len), len);
	return MKVM_EMU_DONE;
}

static enum mkvm_emu_result do_read(char kind, u64 la, void *buf, unsigned int len)
{
	struct access *a;
	enum mkvm_emu_result res = access_note(kind, la, len, NULL, &a);

	if (res == MKVM_EMU_EXIT)
		return res;
	if (res == MKVM_EMU_DONE) {
		if (!ram_at(la, len))
			return page_fault(la, kind == 'm' ? 2 : 0);
		memcpy(a->data, ram_at(la, len), len);
	}
	memcpy(buf, a->data, len);
	return MKVM_EMU_DONE;
}

/* Another processor is quicker, if the test wants so. RETRY: what was read is there no more. */
static enum mkvm_emu_result meddle(u64 la, unsigned int len)
{
	if (!ram_at(la, len))
		return MKVM_EMU_DONE;
	if (m.meddle && m.meddle - la < len)
		*(u8 *)ram_at(m.meddle, 1) ^= 0xff;
	m.meddle = 0;
	return memcmp(ram_at(la, len), m.emu.was, len) ? MKVM_EMU_RETRY : MKVM_EMU_DONE;
}

static enum mkvm_emu_result do_write(u64 la, const void *buf, unsigned int len, bool replace)
{
	struct access *a;
	enum mkvm_emu_result res = access_note('w', la, len, buf, &a);

	if (res == MKVM_EMU_DONE && replace && meddle(la, len))
		return MKVM_EMU_RETRY;

	if (res == MKVM_EMU_DONE) {
		if (!ram_at(la, len))
			return page_fault(la, 2);
		memcpy(ram_at(la, len), buf, len);
		m.lo = min(m.lo, la);
		m.hi = max(m.hi, la + len);
	}
	return res == MKVM_EMU_AGAIN ? MKVM_EMU_DONE : res;
}

enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how)
{
	switch (how) {
	case MKVM_EMU_READ:
		return do_read('r', la, buf, len);
	case MKVM_EMU_MODIFY:
		return do_read('m', la, buf, len);
	case MKVM_EMU_WRITE:
	case MKVM_EMU_REPLACE:
		return do_write(la, buf, len, how == MKVM_EMU_REPLACE);
	default:
		return la + len > m.probe_limit ? page_fault(la, 2) : MKVM_EMU_DONE;
	}
}

enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size, unsigned int count,
				  const void *out)
{
	struct access *a;
	enum mkvm_emu_result res = access_note(out ? 'o' : 'i', port, size * count, out, &a);
	unsigned int i, first = res == MKVM_EMU_AGAIN ? a->data[0] : m.pio_nr;

	if (res == MKVM_EMU_EXIT || out)
		return res == MKVM_EMU_AGAIN ? MKVM_EMU_DONE : res;
	for (i = 0; i < count; i++) {
		u32 v = port_data(first + i);

		memcpy((u8 *)emu->ins_buf + i * size, &v, size);
	}
	if (res == MKVM_EMU_DONE) {
		a->data[0] = first;
		m.pio_nr += count;
	}
	return MKVM_EMU_DONE;
}

void mkvm_emu_get_segment(struct mkvm_emu *emu, int seg, struct kvm_segment *var)
{
	m.segments++;
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

/* No bytes of a ROM change, and no device hears of it. */
enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len,
				     enum mkvm_emu_how how)
{
	if (how >= MKVM_EMU_WRITE && la < m.rom_end)
		return MKVM_EMU_DONE;
	return mkvm_emu_access(emu, la, buf, len, how);
}

bool mkvm_emu_has(struct mkvm_emu *emu, unsigned int feature)
{
	return feature != m.lacks;
}

u64 mkvm_emu_get_cr(struct mkvm_emu *emu, int cr)
{
	return m.cr[cr];
}

int mkvm_emu_set_cr(struct mkvm_emu *emu, int cr, u64 val)
{
	if (val == 0xbad)
		return 1;
	m.cr[cr] = val;
	return 0;
}

void mkvm_emu_vec(struct mkvm_emu *emu, unsigned int n, struct mkvm_vec *buf, unsigned int len, bool write)
{
	memcpy(write ? m.xmm[n] : buf->q, write ? buf->q : m.xmm[n], 16);
	if (write && len > 16)
		memset(m.upper[n], 0, sizeof(m.upper[n]));
	memcpy(write ? m.upper[n] : buf->q + 2, write ? buf->q + 2 : m.upper[n], len - 16);
}

void mkvm_emu_fx(struct mkvm_emu *emu, struct mkvm_fx *fx, bool write)
{
	*(write ? &m.fx : fx) = write ? *fx : m.fx;
}

void mkvm_emu_mask(struct mkvm_emu *emu, unsigned int n, u64 *val, bool write)
{
	*(write ? &m.k[n] : val) = write ? *val : m.k[n];
}

/* This program's own FPU lends its registers. */
void mkvm_emu_x87(struct mkvm_emu *emu, struct mkvm_fx *fx, void *mem, bool load)
{
	struct mkvm_fx own;

	asm volatile("fxsave64 %0" : "=m" (own));
	asm volatile("fxrstor64 %0" : : "m" (*fx));
	if (emu->opcode >= 0xd8 && emu->opcode <= 0xdf)
		x87_on_memory(emu->opcode, emu->mod << 6 | (emu->reg & 7) << 3 | (emu->rm & 7), mem,
			      emu->rip, emu->ea);
	else
		mmx_on_memory(emu->reg, mem, load);
	asm volatile("fxsave64 %0" : "=m" (*fx));
	asm volatile("fxrstor64 %0" : : "m" (own));
}

u64 mkvm_emu_xcr0(struct mkvm_emu *emu)
{
	return m.xcr0;
}

void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write)
{
	if (write)
		m.dr[dr] = *val;
	else
		*val = m.dr[dr];
}

static u64 ram_base_of(enum mode mode)
{
	return mode == REAL ? 0 : mode == PROT32 ? 0x400000 : 0x10000000;
}

/* CPL 0, flat segments (real mode: selector 0), code at the start of page 1 of RAM. */
static void machine_init(enum mode mode)
{
	unsigned int i;

	memset(&m, 0, sizeof(m));
	m.mode = mode;
	m.ram_base = ram_base_of(mode);
	m.exit_at = ~0u;
	m.probe_limit = ~0ULL;
	m.emu.regs = m.regs;
	m.emu.insn = insn_room;
	m.emu.mode.cr0 = mode != REAL;
	m.emu.mode.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
	m.emu.mode.efer = mode == LONG64 ? EFER_LMA : 0;
	m.emu.mode.cs_l = mode == LONG64;
	m.emu.mode.cs_db = mode == PROT32;
	m.emu.rip = m.ram_base + 0x1000;
	m.xcr0 = 0xe7;
	m.fx = (struct mkvm_fx){ .fcw = 0x37f, .mxcsr = 0x1f80, .mxcsr_mask = 0xffff };
	m.emu.rflags = 2;
	m.emu.ins_buf = ins_page;
	for (i = 0; i < 6; i++)
		m.seg[i] = (struct kvm_segment){ .limit = mode == REAL ? 0xffff : 0xffffffff, .present = 1, .s = 1,
			.type = i == MKVM_CS && mode != REAL ? 11 : 3, .db = mode == PROT32, .g = mode != REAL };
}

static void put_code(u64 la, const void *code, unsigned int len)
{
	memcpy(ram_at(la, len), code, len);
}

static u64 code_la(void)
{
	return m.mode == LONG64 ? m.emu.rip : (u32)(m.emu.rip + m.seg[MKVM_CS].base);
}

/* Runs one instruction from its first byte: nothing known, an empty log. */
static enum mkvm_emu_result run_once(void)
{
	m.emu.insn_len = 0;
	m.nr = m.answered = m.fetches = m.segments = 0;
	return mkvm_emulate(&m.emu);
}

#define RUN(...) ({								\
	const u8 run_code[] = { __VA_ARGS__ };					\
	put_code(code_la(), run_code, sizeof(run_code));			\
	run_once(); })

static void load_bytes(const u8 *p)
{
	memcpy(m.emu.insn, p, MKVM_MAX_INSN);
	m.emu.insn_len = MKVM_MAX_INSN;
}

static u64 ram_get(u64 la, unsigned int size)
{
	u64 v = 0;

	memcpy(&v, ram_at(la, size), size);
	return v;
}

static void ram_put(u64 la, u64 v, unsigned int size)
{
	memcpy(ram_at(la, size), &v, size);
}

/* ---- Against Unicorn ---- */

static struct unicorn {
	uc_engine *uc;
	unsigned int pio_nr;
	u64 lo, hi;			/* what it wrote lies in here */
} uc[3];

static const int uc_regs[16] = {
	UC_X86_REG_RAX, UC_X86_REG_RCX, UC_X86_REG_RDX, UC_X86_REG_RBX,
	UC_X86_REG_RSP, UC_X86_REG_RBP, UC_X86_REG_RSI, UC_X86_REG_RDI,
	UC_X86_REG_R8, UC_X86_REG_R9, UC_X86_REG_R10, UC_X86_REG_R11,
	UC_X86_REG_R12, UC_X86_REG_R13, UC_X86_REG_R14, UC_X86_REG_R15,
}, uc_regs32[8] = {
	UC_X86_REG_EAX, UC_X86_REG_ECX, UC_X86_REG_EDX, UC_X86_REG_EBX,
	UC_X86_REG_ESP, UC_X86_REG_EBP, UC_X86_REG_ESI, UC_X86_REG_EDI,
}, uc_segs[6] = {
	UC_X86_REG_ES, UC_X86_REG_CS, UC_X86_REG_SS, UC_X86_REG_DS, UC_X86_REG_FS, UC_X86_REG_GS,
};

static void widen(u64 *lo, u64 *hi, u64 la, u64 len)
{
	*lo = min(*lo, la);
	*hi = max(*hi, la + len);
}

static void hook_write(uc_engine *e, uc_mem_type type, uint64_t addr, int size, int64_t value, void *data)
{
	struct unicorn *u = data;

	widen(&u->lo, &u->hi, addr, size);
}

static uint32_t hook_in(uc_engine *e, uint32_t port, int size, void *data)
{
	struct unicorn *u = data;
	u32 v = port_data(u->pio_nr++);

	return size == 4 ? v : v & ((1u << 8 * size) - 1);
}

static void hook_out(uc_engine *e, uint32_t port, int size, uint32_t value, void *data)
{
}

static bool unicorn_open(enum mode mode)
{
	static const uc_mode modes[] = { UC_MODE_16, UC_MODE_32, UC_MODE_64 };
	struct unicorn *u = &uc[mode];
	uc_hook h;

	if (u->uc)
		return true;
	return uc_open(UC_ARCH_X86, modes[mode], &u->uc) == UC_ERR_OK &&
	       uc_ctl_set_cpu_model(u->uc, UC_CPU_X86_EPYC_ROME) == UC_ERR_OK &&
	       uc_mem_map_ptr(u->uc, ram_base_of(mode), RAM_SIZE, UC_PROT_ALL, uc_ram) == UC_ERR_OK &&
	       uc_hook_add(u->uc, &h, UC_HOOK_MEM_WRITE, hook_write, u, 1, 0) == UC_ERR_OK &&
	       uc_hook_add(u->uc, &h, UC_HOOK_INSN, hook_in, u, 1, 0, UC_X86_INS_IN) == UC_ERR_OK &&
	       uc_hook_add(u->uc, &h, UC_HOOK_INSN, hook_out, u, 1, 0, UC_X86_INS_OUT) == UC_ERR_OK;
}

static u64 gdt_entry(u32 base, unsigned int type)
{
	return 0x00cf900000000000ULL | (u64)type << 40 | 0xffff | (u64)(base & 0xffffff) << 16 |
	       (u64)(base >> 24) << 56;
}

/* Random bases for the segments, the same on both sides. */
static void random_segments(void)
{
	struct unicorn *u = &uc[m.mode];
	u64 gdt = m.ram_base + RAM_SIZE - 0x1000;
	uc_x86_mmr gdtr = { .base = gdt, .limit = 0xff };
	unsigned int i;

	if (m.mode == LONG64) {
		m.seg[MKVM_FS].base = random_below(0x1000);
		m.seg[MKVM_GS].base = -random_below(0x1000);
		uc_reg_write(u->uc, UC_X86_REG_FS_BASE, &m.seg[MKVM_FS].base);
		uc_reg_write(u->uc, UC_X86_REG_GS_BASE, &m.seg[MKVM_GS].base);
		return;
	}
	for (i = 0; i < 6; i++) {
		u32 sel = m.mode == REAL ? random_below(0x10000) : 8 * (i + 1);

		m.seg[i].selector = sel;
		if (m.mode == REAL)
			m.seg[i].base = sel << 4;
		else if (i != MKVM_CS)
			m.seg[i].base = (u32)(random_below(0x2000) - 0x1000);
		if (m.mode == PROT32) {
			u64 e = gdt_entry(m.seg[i].base, m.seg[i].type);

			memcpy(uc_ram + (gdt - m.ram_base) + sel, &e, 8);
			memcpy(ram + (gdt - m.ram_base) + sel, &e, 8);
		}
	}
	if (m.mode == PROT32)
		uc_reg_write(u->uc, UC_X86_REG_GDTR, &gdtr);
	for (i = 0; i < 6; i++) {
		u64 sel = m.seg[i].selector;

		uc_reg_write(u->uc, uc_segs[i], &sel);
	}
}

static u64 random_register(void)
{
	u64 kind = random_below(100), window = m.ram_base + 0x40000 + random_below(0x80000);

	if (m.mode == REAL)
		return chance(70) ? random_below(0x10000) : (u32)ktap_random();
	if (kind < 45)
		return window;
	if (kind < 70)
		return random_below(0x100);
	if (kind < 85)
		return m.mode == LONG64 ? -random_below(0x100) : (u32)-random_below(0x100);
	if (kind < 92 && m.mode == LONG64)
		return window | ktap_random() << 32;
	return m.mode == LONG64 ? ktap_random() : (u32)ktap_random();
}

/* Operations count apart when they are string instructions. */
#define STRING_OP	128
#define NR_OPS		(2 * STRING_OP)

static unsigned int op_of(const struct mkvm_opcode *d)
{
	return d->op + (d->flags & STRING ? STRING_OP + d->dst * 4 + (d->src == SI) + 2 * (d->src == PORT) : 0);
}

/* Every opcode of which Unicorn can judge the results, groups by member, rows one by one. */
static struct candidate {
	u8 map;				/* 0: of one byte, then as in rows[] */
	u8 byte;
	int member;			/* -1: not of a group */
	u8 pp, kind;			/* of a row: its prefixes, and whether it needs VEX; 0: not of a row */
	struct mkvm_opcode d;
} candidate[1024];
static unsigned int candidates;
static bool known_op[NR_OPS];
static bool everything;			/* candidates are those that Unicorn lacks, too */

/*
 * Unicorn knows neither F6 and F7 /1, the second TEST, nor XMM registers in 16-bit mode; its CPUs hide
 * some features; and of BLSI, BZHI, PDEP and PEXT it makes something else than a CPU does (see below).
 */
static bool unicorn_lacks(const struct candidate *cand)
{
	if (cand->d.op >= OP_VEC && cand->d.op <= OP_X87 && (m.mode == REAL || cand->d.op > OP_VEC_HALF))
		return true;
	if (cand->member == 1 && cand->d.op == OP_TEST)
		return true;
	if ((cand->kind == VEX || cand->d.op == OP_ARPL || cand->d.feature == X86_FEATURE_ADX) && m.mode == REAL)
		return true;
	if (m.mode == LONG64 && (cand->d.flags & NO64))
		return true;
	switch (cand->d.feature) {
	case X86_FEATURE_MOVDIRI: case X86_FEATURE_XMM4_1: case X86_FEATURE_MOVBE: case X86_FEATURE_POPCNT:
	case X86_FEATURE_XMM4_2:
		return true;
	}
	return cand->d.op == OP_NOP || cand->d.op == OP_CLFLUSH || (cand->d.op >= OP_BLSI && cand->d.op <= OP_PEXT);
}

static void add_candidate(struct candidate cand)
{
	if (cand.d.op > OP_NONE && cand.d.op <= OP_RET && (everything || !unicorn_lacks(&cand))) {
		known_op[op_of(&cand.d)] = true;
		candidate[candidates++] = cand;
	}
}

static void find_candidates(void)
{
	unsigned int map, byte, i;

	candidates = 0;
	memset(known_op, 0, sizeof(known_op));
	for (map = 0; map < 2; map++) {
		for (byte = 0; byte < 256; byte++) {
			struct mkvm_opcode d = map ? two_byte[byte] : one_byte[byte];

			if (!map && byte == 0x63 && m.mode != LONG64)
				d = (struct mkvm_opcode)INSN(OP_ARPL, RM, REG, MODRM | RMW);
			for (i = 0; i < 8 && d.op == OP_GROUP; i++) {
				struct mkvm_opcode g = groups[d.dst][i];

				g.flags |= d.flags;
				add_candidate((struct candidate){ map, byte, i, 0, 0, g });
			}
			if (d.op != OP_GROUP)
				add_candidate((struct candidate){ map, byte, -1, 0, 0, d });
		}
	}
	for (i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *r = &rows[i];
		int member = r->reg ? __builtin_ctz(r->reg) : -1;

		if (r->kinds != EVEX)
			add_candidate((struct candidate){ r->map, r->opcode, member, r->pp,
				      r->kinds & LEGACY ?: VEX, r->d });
	}
}

static void find_all_candidates(void)
{
	everything = true;
	find_candidates();
	everything = false;
}

/* The operation that random_candidate() takes; any, and each as likely as the others, with NR_OPS. */
static unsigned int wanted_op = NR_OPS;

static const struct candidate *random_candidate(void)
{
	const struct candidate *cand;
	unsigned int op = wanted_op;

	while (op == NR_OPS || !known_op[op])
		op = random_below(NR_OPS);
	do {
		cand = &candidate[random_below(candidates)];
	} while (op_of(&cand->d) != op);
	return cand;
}

/* VEX with random registers, and the opcode. */
static unsigned int put_vex(u8 *p, const struct candidate *cand)
{
	static const u8 pp_bits[] = { [PP_NO] = 0, [PP_66] = 1, [PP_F3] = 2, [PP_F2] = 3 };
	u8 inverted = m.mode == LONG64 ? ktap_random() & 0xe0 : 0xe0;

	p[0] = 0xc4;
	p[1] = inverted | cand->map;
	p[2] = (ktap_random() & 0xf8) | pp_bits[cand->pp];	/* W, vvvv; L 0 */
	p[2] &= ~4;
	if (!(cand->d.flags & USES_VVVV))
		p[2] |= 0x78;
	if (m.mode != LONG64)
		p[2] |= 0x40;
	p[3] = cand->byte;
	return 4;
}

/* 66, F2 or F3 as a row wants it; others at random. */
static unsigned int put_prefixes(u8 *p, const struct candidate *cand)
{
	bool string = cand->d.flags & STRING;
	unsigned int n = 0;

	/* to 66 before near branches in 64-bit mode it obeys, as AMD's CPUs do */
	if (m.mode == LONG64 && (cand->d.flags & NEAR64))
		return 0;
	if (cand->pp & PP_66 ? cand->pp == PP_66 || chance(40) : !cand->pp && chance(25))
		p[n++] = 0x66;
	if (cand->pp == PP_F2 || cand->pp == PP_F3)
		p[n++] = cand->pp == PP_F2 ? 0xf2 : 0xf3;
	else if (string ? chance(60) : !cand->pp && chance(5))
		p[n++] = 0xf2 | (ktap_random() & 1);
	return n;
}

/* Random prefixes, opcode and operands near RAM. */
static void random_insn(u8 *p, const struct candidate *cand)
{
	static const u8 segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
	u8 sign = chance(50) ? 0 : 0xff;
	unsigned int n = 0;

	if (chance(m.mode == LONG64 ? 10 : 25))
		p[n++] = 0x67;
	if (chance(15))
		p[n++] = segs[random_below(6)];
	/* Unicorn: LOCK NEG sets other flags */
	if (chance(5) && (cand->d.flags & RMW) == RMW && cand->d.dst == RM && cand->d.op != OP_NEG &&
	    cand->d.op < OP_ROL)
		p[n++] = 0xf0;
	if (cand->kind == VEX) {
		n += put_vex(p + n, cand);
	} else {
		n += put_prefixes(p + n, cand);
		if (m.mode == LONG64 && chance(60))	/* Unicorn takes REX.R in C7 and C6 for the opcode's */
			p[n++] = 0x40 | (ktap_random() & ((cand->byte & 0xfe) == 0xc6 ? 11 : 15));
		if (cand->map)
			p[n++] = 0x0f;
		if (cand->map > 1)
			p[n++] = cand->map == 2 ? 0x38 : 0x3a;
		p[n++] = cand->byte;
	}
	if (cand->d.flags & MODRM) {
		p[n] = (cand->d.flags & REGS) && chance(30) ? ktap_random() : random_below(0xc0);
		if (cand->member >= 0)
			p[n] = (p[n] & 0xc7) | cand->member << 3;
		n++;
	}
	for (p[n++] = ktap_random(); n < 20; n += 4) {
		p[n] = ktap_random();
		p[n + 1] = ktap_random();
		p[n + 2] = chance(90) ? sign : ktap_random();
		p[n + 3] = sign;
	}
}

/* Unicorn's carry of shifts by CL, SHLD and SHRD is not the CPU's: see below. */
static u64 undefined_flags(unsigned int op)
{
	switch (op) {
	case OP_ROL: case OP_ROR: case OP_RCL: case OP_RCR:
		return 0x800;
	case OP_SHL: case OP_SHR: case OP_SAR: case OP_SHLD: case OP_SHRD:
		return 0x811;
	case OP_AND: case OP_OR: case OP_XOR: case OP_TEST:
		return 0x10;
	case OP_BT: case OP_BTS: case OP_BTR: case OP_BTC:
		return ARITH & ~0x41ULL;
	case OP_IMUL: case OP_MUL: case OP_IMUL_ACC:
		return ARITH & ~0x801ULL;
	case OP_DIV: case OP_IDIV:
		return ARITH;
	case OP_BSF: case OP_BSR:
		return ARITH & ~0x40ULL;
	case OP_TZCNT: case OP_LZCNT:
		return ARITH & ~0x41ULL;
	case OP_ANDN: case OP_BLSR: case OP_BLSMSK: case OP_BLSI: case OP_BZHI:
		return 0x14;
	case OP_BEXTR:
		return 0x94;
	}
	return 0;
}

/* Runs the instruction at la in Unicorn up to the byte behind it. */
static uc_err unicorn_run(u64 la, u64 *regs, u64 (*xmm)[2], u64 *flags, u64 *rip, unsigned int len, bool branches)
{
	struct unicorn *u = &uc[m.mode];
	int n = m.mode == LONG64 ? 16 : 8, i;
	const int *names = m.mode == LONG64 ? uc_regs : uc_regs32;
	static const int ip[] = { UC_X86_REG_IP, UC_X86_REG_EIP, UC_X86_REG_RIP };
	uint64_t cr4 = X86_CR4_OSFXSR;
	uc_err err;

	for (i = 0; i < n; i++)
		uc_reg_write(u->uc, names[i], &regs[i]);
	for (i = 0; i < n && i < 16; i++)
		uc_reg_write(u->uc, UC_X86_REG_XMM0 + i, xmm[i]);
	uc_reg_write(u->uc, UC_X86_REG_CR4, &cr4);
	uc_reg_write(u->uc, UC_X86_REG_EFLAGS, flags);
	u->pio_nr = 0;
	u->lo = ~0ULL;
	u->hi = 0;
	uc_ctl_remove_cache(u->uc, la, la + 32);
	/* It stops where a branch should have led: what is there it need not understand. */
	err = uc_emu_start(u->uc, la, branches && code_la() != la ? code_la() : la + len, 0, branches ? 1 : 0);
	if (branches && err == UC_ERR_FETCH_UNMAPPED)	/* there it is, whatever there is */
		err = UC_ERR_OK;
	for (i = 0; i < n; i++) {
		regs[i] = 0;
		uc_reg_read(u->uc, names[i], &regs[i]);
	}
	for (i = 0; i < n && i < 16; i++)
		uc_reg_read(u->uc, UC_X86_REG_XMM0 + i, xmm[i]);
	*flags = 0;
	*rip = 0;
	uc_reg_read(u->uc, UC_X86_REG_EFLAGS, flags);
	uc_reg_read(u->uc, ip[m.mode], rip);
	return err;
}

static void print_case(const u8 *code, unsigned int len, const u64 *before)
{
	unsigned int i;

	printf("# %s mode:", mode_name[m.mode]);
	for (i = 0; i < len; i++)
		printf(" %02x", code[i]);
	for (i = 0; i < (m.mode == LONG64 ? 16 : 8); i++)
		printf("%s%#llx", i ? " " : " regs ", (unsigned long long)before[i]);
	printf("\n");
}

static void print_memory(void)
{
	unsigned int i;

	for (i = 0; i < RAM_SIZE; i++)
		if (ram[i] != uc_ram[i])
			printf("# memory at %#x: %#x, Unicorn %#x\n", i, ram[i], uc_ram[i]);
}

/* Memory must be the same wherever one of the two wrote. */
static bool same_memory(struct unicorn *u)
{
	if (m.hi)
		widen(&u->lo, &u->hi, m.lo, m.hi - m.lo);
	return u->hi <= u->lo || !memcmp(ram + (u->lo - m.ram_base), uc_ram + (u->lo - m.ram_base), u->hi - u->lo);
}

/* One random instruction: before, and what Unicorn makes of it. */
struct trial {
	u8 code[24];
	u64 la;
	u64 before[16];
	u64 regs[16], xmm[16][2], flags, rip;
	struct mkvm_emu c;		/* decoded */
};

/* Random targets would seldom be canonical. */
static void put_target(const struct mkvm_emu *c)
{
	u64 at = c->d.op == OP_RET ? m.regs[MKVM_RSP] : c->ea + (c->seg >= MKVM_FS ? m.seg[c->seg].base : 0);
	u64 target = m.ram_base + random_below(RAM_SIZE);

	if (m.mode != LONG64 || c->d.op < OP_CALL || c->d.op > OP_RET || !ram_at(at, 8))
		return;
	ram_put(at, target, 8);
	memcpy(uc_ram + (at - m.ram_base), &target, 8);
}

static bool trial_make(struct trial *t, bool *known)
{
	const struct candidate *cand = random_candidate();
	bool string = cand->d.flags & STRING;
	enum mkvm_emu_result res;
	unsigned int i;

	for (i = 0; i < 16; i++) {
		m.regs[i] = random_register();
		m.xmm[i][0] = ktap_random();
		m.xmm[i][1] = ktap_random();
	}
	random_insn(t->code, cand);
	m.emu.rflags = t->flags = 2 | (ktap_random() & (ARITH | FLAG_DF));
	t->la = code_la();
	put_code(t->la, t->code, MKVM_MAX_INSN);
	memcpy(uc_ram + (t->la - m.ram_base), t->code, MKVM_MAX_INSN);
	m.emu.insn_len = 0;
	res = mkvm_decode(&m.emu);
	t->c = m.emu;
	if (string)	/* a small count, whatever is above it */
		m.regs[MKVM_RCX] = random_below(20) | (m.regs[MKVM_RCX] & ~size_mask(t->c.ad));
	put_target(&t->c);
	if (cand->d.op == OP_CMPXCHG && t->c.size == 4)	/* Unicorn clears RAX's upper half even on success */
		m.regs[MKVM_RAX] = (u32)m.regs[MKVM_RAX];
	memcpy(t->before, m.regs, sizeof(t->before));
	memcpy(t->regs, m.regs, sizeof(t->regs));
	memcpy(t->xmm, m.xmm, sizeof(t->xmm));
	m.pio_nr = 0;
	m.lo = ~0ULL;
	m.hi = 0;
	*known = res == MKVM_EMU_DONE;
	if (cand->d.op == OP_VEC && !*known)	/* the prefixes make it another instruction */
		return true;
	/* What SHLD and SHRD of 16 bits make of more than 16 is undefined. */
	if ((cand->d.op == OP_SHLD || cand->d.op == OP_SHRD) && t->c.size == 2)
		*known &= ((t->c.d.src == CL ? m.regs[MKVM_RCX] : t->c.imm) & 31) <= 16;
	/* Unicorn copies the first pointer again and again, and stores one of 16 bits with what is above it */
	if (cand->d.op == OP_ENTER && ((t->c.imm & 31) > 1 || (m.mode == REAL && t->c.size == 4)))
		*known = false;
	if (cand->d.op == OP_RET && (t->c.imm16 & 0x8000))	/* which Unicorn takes for negative */
		*known = false;
	return EXPECT_EQ(MKVM_EMU_DONE, res) && EXPECT_EQ(cand->d.op, t->c.d.op);
}

static bool trial_agrees(const struct trial *t, enum mkvm_emu_result res, uc_err err)
{
	u64 want = ARITH & ~undefined_flags(t->c.d.op);
	unsigned int i;

	/* A page that is not there is there for neither; of #DE and #BR Unicorn tells by not going on. */
	if (res == MKVM_EMU_FAULT && (err != UC_ERR_OK || (m.emu.fault.vector != 14 && t->rip == m.emu.rip)))
		return true;
	if (res == MKVM_EMU_DONE && err == UC_ERR_OK && !memcmp(m.regs, t->regs, m.mode == LONG64 ? 128 : 64) &&
	    !memcmp(m.xmm, t->xmm, m.mode == LONG64 ? 256 : 128) &&
	    (m.emu.rflags & want) == (t->flags & want) && m.emu.rip == t->rip && same_memory(&uc[m.mode]))
		return true;
	NOTE_FAILURE("op %u: result %d, Unicorn %d; flags %#llx, %#llx; rip %#llx, %#llx", t->c.d.op, res, err,
		  (unsigned long long)m.emu.rflags, (unsigned long long)t->flags,
		  (unsigned long long)m.emu.rip, (unsigned long long)t->rip);
	print_case(t->code, t->c.pos, t->before);
	print_memory();
	for (i = 0; i < 16; i++)
		if (m.regs[i] != t->regs[i])
			printf("# register %u: %#llx, Unicorn %#llx\n", i, (unsigned long long)m.regs[i],
			       (unsigned long long)t->regs[i]);
	return false;
}

/* One random instruction in both; counts it in done[op] when both ran it with memory. */
static bool compare_one(unsigned int *done)
{
	struct trial t;
	enum mkvm_emu_result res;
	unsigned int steps = 0;
	uc_err err = UC_ERR_EXCEPTION;
	bool ok, known;

	if (!trial_make(&t, &known))
		return false;
	if (!known)
		return true;
	do {
		res = run_once();
	} while (res == MKVM_EMU_AGAIN && ++steps < 100);
	if (m.lo < t.la + MKVM_MAX_INSN && m.hi > t.la) {	/* it changed itself: Unicorn runs the new bytes */
		memcpy(ram, uc_ram, RAM_SIZE);
		return true;
	}
	/* Unicorn checks no limits and aborts on some undefined forms: the other tests have them */
	if (res != MKVM_EMU_FAULT || m.emu.fault.vector == 14 || m.emu.fault.vector == DE_VECTOR ||
	    m.emu.fault.vector == BR_VECTOR)
		err = unicorn_run(t.la, t.regs, t.xmm, &t.flags, &t.rip, t.c.pos,
				  t.c.d.op >= OP_CALL && t.c.d.op <= OP_RET);
	ok = trial_agrees(&t, res, err);
	if (!ok || res != MKVM_EMU_DONE)	/* a fault behind the first write of PUSHA, or a bad one */
		memcpy(ram, uc_ram, RAM_SIZE);
	else
		done[op_of(&t.c.d)]++;
	return ok;
}

static bool compare_next(unsigned int *done, unsigned int i)
{
	if (i % 500 == 0)
		random_segments();
	m.emu.rip = m.mode == REAL ? random_below(0xff00) : m.ram_base + 0x20000 + random_below(0x1000);
	return compare_one(done);
}

/* Many more rounds with MKVM_LONG, which make check sets; each operation has its turn in any case. */
static void compare_mode(enum mode mode)
{
	const unsigned int rounds = getenv("MKVM_LONG") ? 20000 : 3000;
	unsigned int done[NR_OPS] = { 0 }, i, n, bad = 0;

	ASSERT_TRUE(unicorn_open(mode));
	machine_init(mode);
	find_candidates();
	for (i = 0; i < RAM_SIZE; i++)
		ram[i] = ktap_random();
	memcpy(uc_ram, ram, RAM_SIZE);
	for (i = 0; i < rounds && bad < 10; i++)
		bad += !compare_next(done, i);
	for (i = 0; i < NR_OPS; i++) {
		wanted_op = i;
		for (n = 0; known_op[i] && done[i] < 2 && n < 500 && bad < 10; n++)
			bad += !compare_next(done, n);
		if (known_op[i] && !EXPECT_LE(2, done[i]))
			printf("# operation %u: %u times with memory in %s mode\n", i, done[i], mode_name[mode]);
	}
	wanted_op = NR_OPS;
}

TEST(real_mode_instructions_do_what_unicorn_does)
{
	compare_mode(REAL);
}

TEST(protected_mode_instructions_do_what_unicorn_does)
{
	compare_mode(PROT32);
}

TEST(long_mode_instructions_do_what_unicorn_does)
{
	compare_mode(LONG64);
}

/* ---- Against the CPU that runs this ---- */

#define NATIVE(size, suffix, type)							\
static u64 native##size(unsigned int op, u64 v, u64 more, u8 cl, u64 *flags)		\
{											\
	type r = v, m = more;								\
											\
	switch (op) {									\
	ONE_SHIFT(OP_ROL, "rol", "", suffix) ONE_SHIFT(OP_ROR, "ror", "", suffix)	\
	ONE_SHIFT(OP_RCL, "rcl", "", suffix) ONE_SHIFT(OP_RCR, "rcr", "", suffix)	\
	ONE_SHIFT(OP_SHL, "shl", "", suffix) ONE_SHIFT(OP_SHR, "shr", "", suffix)	\
	ONE_SHIFT(OP_SAR, "sar", "", suffix)						\
	DOUBLE_SHIFTS(suffix)								\
	}										\
	return r;									\
}
#define ONE_SHIFT(op, name, operand, suffix)						\
	case op:									\
		asm("lea -128(%%rsp), %%rsp; pushq %1; popfq\n\t"			\
		    name suffix " %%cl, " operand "%0; pushfq; popq %1; lea 128(%%rsp), %%rsp"	\
		    : "+r" (r), "+r" (*flags) : "c" (cl), "r" (m) : "cc", "memory");	\
		break;
#define DOUBLE_SHIFTS(suffix)								\
	ONE_SHIFT(OP_SHLD, "shld", "%3, ", suffix) ONE_SHIFT(OP_SHRD, "shrd", "%3, ", suffix)

NATIVE(2, "w", u16)
NATIVE(4, "l", u32)
NATIVE(8, "q", u64)
#undef DOUBLE_SHIFTS
#define DOUBLE_SHIFTS(suffix)	/* not of bytes */
NATIVE(1, "b", u8)

TEST(shifts_and_rotates_do_what_the_cpu_does)
{
	static u64 (*const native[])(unsigned int op, u64 v, u64 more, u8 cl, u64 *flags) = {
		native1, native2, native4, native8,
	};
	static const u8 prefix[] = { 0x90, 0x66, 0x90, 0x48 };
	unsigned int n, op, log, count;
	u64 rip;

	machine_init(LONG64);
	rip = m.emu.rip;
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	for (n = 0; n < 200000 && ktap_failures < 5; n++) {
		u64 v = ktap_random(), more = ktap_random(), flags = 2 | (ktap_random() & ARITH), before = flags, want;
		unsigned int member = random_below(8);
		u8 code[5], *p = code;

		log = random_below(4);
		op = chance(20) && log ? random_below(2) ? OP_SHLD : OP_SHRD : groups[GROUP_SHIFT][member].op;
		if (log & 1)
			*p++ = prefix[log];
		if (op >= OP_SHLD)
			*p++ = 0x0f;
		*p++ = op == OP_SHLD ? 0xa5 : op == OP_SHRD ? 0xad : 0xd2 + !!log;
		*p++ = op >= OP_SHLD ? 0x13 : 0x03 | member << 3;	/* [rbx], rdx */
		m.regs[MKVM_RCX] = chance(50) ? random_below(9) : ktap_random();
		count = m.regs[MKVM_RCX] & (log == 3 ? 63 : 31);
		if (op >= OP_SHLD && log == 1 && count > 16)
			continue;					/* undefined */
		m.regs[MKVM_RDX] = more;
		ram_put(m.regs[MKVM_RBX], v, 8);
		m.emu.rip = rip;
		put_code(rip, code, sizeof(code));
		m.emu.rflags = flags;
		m.emu.insn_len = 0;
		want = native[log](op, v, more, m.regs[MKVM_RCX], &flags);
		EXPECT_EQ(MKVM_EMU_DONE, run_once());
		EXPECT_EQ(want, ram_get(m.regs[MKVM_RBX], 1 << log));
		EXPECT_EQ(0, (m.emu.rflags ^ flags) & (count == 1 ? 0x8c5 : op < OP_SHL ? 0xd5 : 0xc5));
		if (!count)
			EXPECT_EQ(before, m.emu.rflags);
		if (ktap_failures)
			printf("# op %u of %u bytes, value %#llx, cl %u\n", op, 1 << log, (unsigned long long)v,
			       count);
	}
}

/*
 * Any instruction of 64-bit mode with one operand at [rbx], registers and flags before and after: the
 * stub is copied to where it may be changed, and the hole filled. R15 points to the registers.
 */
asm(".pushsection .text\n"
    "native_stub:	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rdi, %r15\n"
    "	push 128(%r15); popfq; mov 0(%r15), %rax; mov 8(%r15), %rcx; mov 16(%r15), %rdx; mov 24(%r15), %rbx\n"
    "	mov 40(%r15), %rbp; mov 48(%r15), %rsi; mov 56(%r15), %rdi; mov 64(%r15), %r8; mov 72(%r15), %r9\n"
    "	mov 80(%r15), %r10; mov 88(%r15), %r11; mov 96(%r15), %r12; mov 104(%r15), %r13; mov 112(%r15), %r14\n"
    "native_hole:	.fill 16, 1, 0x90\n"
    "	mov %rax, 0(%r15); mov %rcx, 8(%r15); mov %rdx, 16(%r15); mov %rbx, 24(%r15); mov %rbp, 40(%r15)\n"
    "	mov %rsi, 48(%r15); mov %rdi, 56(%r15); mov %r8, 64(%r15); mov %r9, 72(%r15); mov %r10, 80(%r15)\n"
    "	mov %r11, 88(%r15); mov %r12, 96(%r15); mov %r13, 104(%r15); mov %r14, 112(%r15)\n"
    "	pushfq; pop 128(%r15); cld; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
    "native_end:	.popsection\n");
extern const u8 native_stub[], native_hole[], native_end[];

static void native_run(const u8 *code, unsigned int len, u64 *regs_and_flags)
{
	static u8 *page;

	if (!page)
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, native_stub, native_end - native_stub);
	memcpy(page + (native_hole - native_stub), code, len);
	((void (*)(u64 *))page)(regs_and_flags);
}

static bool native_has(unsigned int feature)
{
	unsigned int a, b, c, d;

	switch (feature) {
	case X86_FEATURE_POPCNT:
		return __builtin_cpu_supports("popcnt");
	case X86_FEATURE_XMM4_2:
		return __builtin_cpu_supports("sse4.2");
	case X86_FEATURE_BMI1: case X86_FEATURE_ABM:	/* all that have one have the others */
	case X86_FEATURE_MOVBE:
		return __builtin_cpu_supports("bmi");
	case X86_FEATURE_BMI2: case X86_FEATURE_ADX:
		return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_ADX);
	}
	return feature != X86_FEATURE_MOVDIRI;
}

/* All integer instructions with one operand but those that may fault; the operand is at [rbx]. */
static unsigned int native_insn(u8 *p, const struct candidate *cand)
{
	unsigned int n = 0, reg = cand->member >= 0 ? cand->member : (int)random_below(8);
	u8 rex = 0x40 | (ktap_random() & 0xc);

	if (cand->kind == VEX) {
		n = put_vex(p, cand);
		p[1] |= 0x60;				/* neither X nor B */
	} else {
		n = put_prefixes(p, cand);
		if (chance(50) && (reg != 7 || cand->member >= 0))
			p[n++] = rex;
		if (cand->map)
			p[n++] = 0x0f;
		if (cand->map > 1)
			p[n++] = cand->map == 2 ? 0x38 : 0x3a;
		p[n++] = cand->byte;
	}
	p[n++] = 0x03 | reg << 3;
	p[n] = ktap_random();				/* an immediate, if there is one */
	return n;
}

/* Registers that the stub needs itself, or that have the operand's address. */
static bool native_forbidden(const struct mkvm_emu *c)
{
	unsigned int used = 0;

	if (c->d.dst == REG || c->d.src == REG || c->d.op == OP_SHLD || c->d.op == OP_SHRD || c->vex.kind)
		used |= 1 << (high_byte(c, c->reg, c->size) ? c->reg - 4 : c->reg);
	if (c->vex.kind)
		used |= 1 << c->vex.vvvv;
	return used & (1 << MKVM_RBX | 1 << MKVM_RSP | 1 << 15);
}

static bool native_fits(const struct candidate *cand)
{
	if (cand->map == 1 && cand->byte == 0xc3)	/* MOVNTI, undefined after most prefixes */
		return false;
	return (cand->d.flags & (MODRM | NO64)) == MODRM && native_has(cand->d.feature) && cand->d.op < OP_VEC &&
	       cand->d.op != OP_DIV && cand->d.op != OP_IDIV && cand->d.op != OP_CMPXCHG_PAIR &&
	       cand->d.op != OP_NOP && cand->d.op != OP_CLFLUSH;
}

static void native_compare(const u8 *code, const struct candidate *cand, unsigned int *done)
{
	u64 regs[17], operand[4], want = ARITH & ~undefined_flags(cand->d.op), mine, i;

	for (i = 0; i < 16; i++)
		m.regs[i] = chance(20) ? random_below(0x80) : ktap_random();
	for (i = 0; i < 4; i++)
		operand[i] = chance(10) ? 0 : chance(10) ? random_below(0x100) : ktap_random();
	m.regs[MKVM_RBX] = m.ram_base + 0x2010;
	m.regs[MKVM_RCX] &= 0x0f;				/* what 16-bit SHLD makes of more is undefined */
	if (cand->d.op >= OP_BT && cand->d.op <= OP_BTC)
		for (i = 0; i < 16; i++)
			m.regs[i] = i == MKVM_RBX ? m.regs[i] : random_below(64);
	memcpy(regs, m.regs, sizeof(m.regs));
	regs[MKVM_RBX] = (u64)&operand[1];
	regs[16] = m.emu.rflags = 2 | (ktap_random() & ARITH);
	for (i = 0; i < 4; i++)
		ram_put(m.ram_base + 0x2008 + 8 * i, operand[i], 8);
	m.emu.rip = m.ram_base + 0x1000;
	put_code(m.emu.rip, code, MKVM_MAX_INSN);
	if (!EXPECT_EQ(MKVM_EMU_DONE, run_once()))
		return;
	native_run(code, m.emu.insn_len, regs);
	regs[MKVM_RBX] = m.regs[MKVM_RBX];
	regs[MKVM_RSP] = m.regs[MKVM_RSP];
	regs[15] = m.regs[15];
	mine = m.emu.rflags & want;
	done[cand->d.op]++;
	if (EXPECT_EQ(regs[16] & want, mine) && EXPECT_FALSE(memcmp(regs, m.regs, 128)) &&
	    EXPECT_FALSE(memcmp(operand, ram_at(m.ram_base + 0x2008, 32), 32)))
		return;
	print_case(code, m.emu.insn_len, regs);
	print_case(code, m.emu.insn_len, m.regs);
}

TEST(integer_instructions_do_what_the_cpu_does)
{
	unsigned int done[OP_VEC] = { 0 }, n, fits = 0;
	u8 code[MKVM_MAX_INSN + 8];

	machine_init(LONG64);
	find_all_candidates();
	for (n = 0; n < 200000 && ktap_failures < 10; n++) {
		const struct candidate *cand = &candidate[random_below(candidates)];

		if (!native_fits(cand))
			continue;
		memset(code, 0, sizeof(code));
		native_insn(code, cand);
		load_bytes(code);
		if (mkvm_decode(&m.emu) != MKVM_EMU_DONE || native_forbidden(&m.emu))
			continue;
		if ((cand->d.op == OP_SHLD || cand->d.op == OP_SHRD) && m.emu.size == 2 && (m.emu.imm & 31) > 16)
			continue;
		native_compare(code, cand, done);
	}
	for (n = 0; n < candidates; n++) {
		if (!native_fits(&candidate[n]))
			continue;
		fits++;
		if (!EXPECT_LT(50, done[candidate[n].d.op]))
			printf("# operation %u\n", candidate[n].d.op);
	}
	EXPECT_LT(100, fits);
}

/*
 * Vector instructions likewise: the operand is at [rbx], or [rdi], and R15 points to 16 YMM registers.
 */
asm(".pushsection .text\n"
    ".macro each_ymm what:vararg\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "	\\what \\n\n"
    ".endr\n"
    ".endm\n"
    ".macro load_ymm n\n	vmovdqu 32*\\n(%r15), %ymm\\n\n.endm\n"
    ".macro store_ymm n\n	vmovdqu %ymm\\n, 32*\\n(%r15)\n.endm\n"
    "vec_stub:	push %rbx; push %r15; mov %rdi, %r15; mov %rsi, %rbx; mov %rsi, %rdi\n"
    "	each_ymm load_ymm\n"
    "vec_hole:	.fill 16, 1, 0x90\n"
    "	each_ymm store_ymm\n"
    "	vzeroupper; pop %r15; pop %rbx; ret\n"
    "vec_end:	.popsection\n");
extern const u8 vec_stub[], vec_hole[], vec_end[];

static void native_vec_run(const u8 *code, unsigned int len, void *registers, void *operand)
{
	static u8 *page;

	if (!page)
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, vec_stub, vec_end - vec_stub);
	memcpy(page + (vec_hole - vec_stub), code, len);
	((void (*)(void *, void *))page)(registers, operand);
}

static void random_vector_bytes(u8 *p, enum mode mode);

/* One whose operand is at [rbx] or, of MASKMOVDQU, at [rdi]. */
static bool random_native_vector(u8 *code)
{
	random_vector_bytes(code, LONG64);
	load_bytes(code);
	if (mkvm_decode(&m.emu) || undefined(&m.emu) || m.emu.d.op < OP_VEC || m.emu.d.op > OP_VEC_BY_BYTE ||
	    m.emu.vex.kind == EVEX_BYTES || m.emu.ad != 8 || m.emu.prefix[SEGMENT])
		return false;
	if (m.emu.d.feature == X86_FEATURE_SSE4A && !__builtin_cpu_supports("sse4a"))
		return false;
	return m.emu.d.op == OP_VEC_BY_BYTE || (!m.emu.mod && m.emu.rm == MKVM_RBX);
}

TEST(vector_moves_do_what_the_cpu_does)
{
	unsigned int done[OP_VEC_BY_BYTE + 1] = { 0 }, n, i;
	u8 code[MKVM_MAX_INSN], operand[64] __attribute__((aligned(64)));
	u64 ymm[16][4], mine[16][4];

	if (!__builtin_cpu_supports("avx2"))
		SKIP("the CPU has no AVX2");
	machine_init(LONG64);
	for (n = 0; n < 1500000 && ktap_failures < 5; n++) {
		if (!random_native_vector(code))
			continue;
		for (i = 0; i < 16; i++) {
			ymm[i][0] = m.xmm[i][0] = ktap_random();
			ymm[i][1] = m.xmm[i][1] = ktap_random();
			ymm[i][2] = m.upper[i][0] = ktap_random();
			ymm[i][3] = m.upper[i][1] = ktap_random();
		}
		m.regs[MKVM_RBX] = m.regs[MKVM_RDI] = m.ram_base + 0x2000;
		for (i = 0; i < sizeof(operand); i++)
			operand[i] = ktap_random();
		memcpy(ram_at(m.regs[MKVM_RBX], 64), operand, 64);
		m.emu.rip = m.ram_base + 0x1000;
		put_code(m.emu.rip, code, sizeof(code));
		if (!EXPECT_EQ(MKVM_EMU_DONE, run_once()))
			continue;
		native_vec_run(code, m.emu.insn_len, ymm, operand);
		for (i = 0; i < 16; i++) {
			memcpy(mine[i], m.xmm[i], 16);
			memcpy(mine[i] + 2, m.upper[i], 16);
		}
		if (!EXPECT_FALSE(memcmp(mine, ymm, sizeof(ymm))) ||
		    !EXPECT_FALSE(memcmp(operand, ram_at(m.regs[MKVM_RBX], 64), 64)))
			print_case(code, m.emu.insn_len, m.regs);
		done[m.emu.d.op]++;
	}
	for (n = OP_VEC; n <= OP_VEC_BY_BYTE; n++)
		if (!EXPECT_LT(30, done[n]))
			printf("# operation %u\n", n);
}

/* ---- Against Zydis ---- */

static void zydis_open(ZydisDecoder *z, enum mode mode)
{
	static const ZydisMachineMode modes[] = {
		ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_MACHINE_MODE_LONG_64,
	};
	static const ZydisStackWidth widths[] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64 };

	ZydisDecoderInit(z, modes[mode], widths[mode]);
}

/* INS, OUTS, MOV with an address behind the opcode, the other string instructions. */
static bool memory_without_modrm(const ZydisDecodedInstruction *i)
{
	return i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && ((i->opcode & 0xfc) == 0x6c ||
	       ((i->opcode & 0xf0) == 0xa0 && (i->opcode & 0xfe) != 0xa8));
}

/* Those have to be known, under a mask, too. x87's may be left out (whole states). */
static bool moves_vector(const ZydisDecodedInstruction *i)
{
	static const ZydisMnemonic moves[] = {
		ZYDIS_MNEMONIC_MOVD, ZYDIS_MNEMONIC_MOVQ, ZYDIS_MNEMONIC_MOVNTQ, ZYDIS_MNEMONIC_MOVLPS,
		ZYDIS_MNEMONIC_MOVLPD, ZYDIS_MNEMONIC_MOVHPS, ZYDIS_MNEMONIC_MOVHPD, ZYDIS_MNEMONIC_LDDQU,
		ZYDIS_MNEMONIC_MOVNTDQA, ZYDIS_MNEMONIC_VMOVUPS, ZYDIS_MNEMONIC_VMOVUPD, ZYDIS_MNEMONIC_VMOVSS,
		ZYDIS_MNEMONIC_VMOVSD, ZYDIS_MNEMONIC_VMOVLPS, ZYDIS_MNEMONIC_VMOVLPD, ZYDIS_MNEMONIC_VMOVHPS,
		ZYDIS_MNEMONIC_VMOVHPD, ZYDIS_MNEMONIC_VMOVAPS, ZYDIS_MNEMONIC_VMOVAPD, ZYDIS_MNEMONIC_VMOVNTPS,
		ZYDIS_MNEMONIC_VMOVNTPD, ZYDIS_MNEMONIC_VMOVD, ZYDIS_MNEMONIC_VMOVQ, ZYDIS_MNEMONIC_VMOVDQA,
		ZYDIS_MNEMONIC_VMOVDQU, ZYDIS_MNEMONIC_VMOVNTDQ, ZYDIS_MNEMONIC_VMOVNTDQA, ZYDIS_MNEMONIC_VLDDQU,
		ZYDIS_MNEMONIC_VMOVDQA32, ZYDIS_MNEMONIC_VMOVDQA64, ZYDIS_MNEMONIC_VMOVDQU8,
		ZYDIS_MNEMONIC_VMOVDQU16, ZYDIS_MNEMONIC_VMOVDQU32, ZYDIS_MNEMONIC_VMOVDQU64,
		ZYDIS_MNEMONIC_MOVDDUP, ZYDIS_MNEMONIC_MOVSLDUP, ZYDIS_MNEMONIC_MOVSHDUP,
		ZYDIS_MNEMONIC_VMOVDDUP, ZYDIS_MNEMONIC_VMOVSLDUP, ZYDIS_MNEMONIC_VMOVSHDUP,
		ZYDIS_MNEMONIC_PINSRB, ZYDIS_MNEMONIC_PINSRD, ZYDIS_MNEMONIC_PINSRQ, ZYDIS_MNEMONIC_INSERTPS,
		ZYDIS_MNEMONIC_VPINSRB, ZYDIS_MNEMONIC_VPINSRW, ZYDIS_MNEMONIC_VPINSRD, ZYDIS_MNEMONIC_VPINSRQ,
		ZYDIS_MNEMONIC_VINSERTPS, ZYDIS_MNEMONIC_PEXTRB, ZYDIS_MNEMONIC_PEXTRW, ZYDIS_MNEMONIC_PEXTRD,
		ZYDIS_MNEMONIC_PEXTRQ, ZYDIS_MNEMONIC_EXTRACTPS, ZYDIS_MNEMONIC_VPEXTRB, ZYDIS_MNEMONIC_VPEXTRW,
		ZYDIS_MNEMONIC_VPEXTRD, ZYDIS_MNEMONIC_VPEXTRQ, ZYDIS_MNEMONIC_VEXTRACTPS,
		ZYDIS_MNEMONIC_VBROADCASTSS, ZYDIS_MNEMONIC_VBROADCASTSD, ZYDIS_MNEMONIC_VBROADCASTF128,
		ZYDIS_MNEMONIC_VBROADCASTF32X2, ZYDIS_MNEMONIC_VBROADCASTF32X4, ZYDIS_MNEMONIC_VBROADCASTF64X2,
		ZYDIS_MNEMONIC_VBROADCASTF32X8, ZYDIS_MNEMONIC_VBROADCASTF64X4, ZYDIS_MNEMONIC_VPBROADCASTB,
		ZYDIS_MNEMONIC_VPBROADCASTW, ZYDIS_MNEMONIC_VPBROADCASTD, ZYDIS_MNEMONIC_VPBROADCASTQ,
		ZYDIS_MNEMONIC_VBROADCASTI128, ZYDIS_MNEMONIC_VBROADCASTI32X2, ZYDIS_MNEMONIC_VBROADCASTI32X4,
		ZYDIS_MNEMONIC_VBROADCASTI64X2, ZYDIS_MNEMONIC_VBROADCASTI32X8, ZYDIS_MNEMONIC_VBROADCASTI64X4,
		ZYDIS_MNEMONIC_VINSERTF128, ZYDIS_MNEMONIC_VINSERTI128, ZYDIS_MNEMONIC_VINSERTF32X4,
		ZYDIS_MNEMONIC_VINSERTF64X2, ZYDIS_MNEMONIC_VINSERTF32X8, ZYDIS_MNEMONIC_VINSERTF64X4,
		ZYDIS_MNEMONIC_VINSERTI32X4, ZYDIS_MNEMONIC_VINSERTI64X2, ZYDIS_MNEMONIC_VINSERTI32X8,
		ZYDIS_MNEMONIC_VINSERTI64X4, ZYDIS_MNEMONIC_VEXTRACTF128, ZYDIS_MNEMONIC_VEXTRACTI128,
		ZYDIS_MNEMONIC_VEXTRACTF32X4, ZYDIS_MNEMONIC_VEXTRACTF64X2, ZYDIS_MNEMONIC_VEXTRACTF32X8,
		ZYDIS_MNEMONIC_VEXTRACTF64X4, ZYDIS_MNEMONIC_VEXTRACTI32X4, ZYDIS_MNEMONIC_VEXTRACTI64X2,
		ZYDIS_MNEMONIC_VEXTRACTI32X8, ZYDIS_MNEMONIC_VEXTRACTI64X4, ZYDIS_MNEMONIC_VMASKMOVPS,
		ZYDIS_MNEMONIC_VMASKMOVPD, ZYDIS_MNEMONIC_VPMASKMOVD, ZYDIS_MNEMONIC_VPMASKMOVQ,
		ZYDIS_MNEMONIC_KMOVB, ZYDIS_MNEMONIC_KMOVW, ZYDIS_MNEMONIC_KMOVD, ZYDIS_MNEMONIC_KMOVQ,
		ZYDIS_MNEMONIC_MOVNTSS, ZYDIS_MNEMONIC_MOVNTSD,
		ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64, ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64,
	};
	unsigned int k;

	/* MMX's is none of them */
	if (i->mnemonic == ZYDIS_MNEMONIC_PINSRW)
		return i->meta.isa_ext == ZYDIS_ISA_EXT_SSE2;
	for (k = 0; k < ARRAY_SIZE(moves); k++)
		if (i->mnemonic == moves[k])
			return true;
	return false;
}

/* The stack is memory, whatever else is operand. */
static bool uses_stack(const ZydisDecodedInstruction *i)
{
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHA: case ZYDIS_MNEMONIC_PUSHAD: case ZYDIS_MNEMONIC_POPA: case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_PUSHF: case ZYDIS_MNEMONIC_PUSHFD: case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_POPF: case ZYDIS_MNEMONIC_POPFD: case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_ENTER: case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_IRET: case ZYDIS_MNEMONIC_IRETD: case ZYDIS_MNEMONIC_IRETQ:
		return true;
	case ZYDIS_MNEMONIC_PUSH: case ZYDIS_MNEMONIC_POP: case ZYDIS_MNEMONIC_CALL: case ZYDIS_MNEMONIC_RET:
		return true;
	default:
		return false;
	}
}

/* Descriptors are memory, too; and what changes CR0 is intercepted. */
static bool reads_descriptor(const ZydisDecodedInstruction *i)
{
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_LLDT: case ZYDIS_MNEMONIC_LTR: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_LSL:
		return true;
	/* They read no descriptor, but a CPU may intercept them with any operand. */
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_SMSW:
		return true;
	case ZYDIS_MNEMONIC_JMP:
		return i->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	case ZYDIS_MNEMONIC_MOV:
		return i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && i->opcode == 0x8e;
	default:
		return false;
	}
}

/* With an operand in memory these must be known. */
static const ZydisMnemonic known[] = {
	ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_OR, ZYDIS_MNEMONIC_ADC, ZYDIS_MNEMONIC_SBB, ZYDIS_MNEMONIC_AND,
	ZYDIS_MNEMONIC_SUB, ZYDIS_MNEMONIC_XOR, ZYDIS_MNEMONIC_CMP, ZYDIS_MNEMONIC_TEST, ZYDIS_MNEMONIC_NOT,
	ZYDIS_MNEMONIC_NEG, ZYDIS_MNEMONIC_INC, ZYDIS_MNEMONIC_DEC, ZYDIS_MNEMONIC_XADD,
	ZYDIS_MNEMONIC_CMPXCHG, ZYDIS_MNEMONIC_XCHG, ZYDIS_MNEMONIC_PUSH, ZYDIS_MNEMONIC_BT,
	ZYDIS_MNEMONIC_BTS, ZYDIS_MNEMONIC_BTR, ZYDIS_MNEMONIC_BTC, ZYDIS_MNEMONIC_MOVZX, ZYDIS_MNEMONIC_MOVSX,
	ZYDIS_MNEMONIC_MOVSXD, ZYDIS_MNEMONIC_MOVNTI, ZYDIS_MNEMONIC_MOVSB,
	ZYDIS_MNEMONIC_MOVSW, ZYDIS_MNEMONIC_MOVSQ, ZYDIS_MNEMONIC_STOSB, ZYDIS_MNEMONIC_STOSW,
	ZYDIS_MNEMONIC_STOSD, ZYDIS_MNEMONIC_STOSQ, ZYDIS_MNEMONIC_LODSB, ZYDIS_MNEMONIC_LODSW,
	ZYDIS_MNEMONIC_LODSD, ZYDIS_MNEMONIC_LODSQ, ZYDIS_MNEMONIC_CMPSB, ZYDIS_MNEMONIC_CMPSW,
	ZYDIS_MNEMONIC_CMPSQ, ZYDIS_MNEMONIC_SCASB, ZYDIS_MNEMONIC_SCASW, ZYDIS_MNEMONIC_SCASD,
	ZYDIS_MNEMONIC_SCASQ, ZYDIS_MNEMONIC_INSB, ZYDIS_MNEMONIC_INSW, ZYDIS_MNEMONIC_INSD,
	ZYDIS_MNEMONIC_OUTSB, ZYDIS_MNEMONIC_OUTSW, ZYDIS_MNEMONIC_OUTSD,
	ZYDIS_MNEMONIC_MOVUPS, ZYDIS_MNEMONIC_MOVUPD, ZYDIS_MNEMONIC_MOVSS, ZYDIS_MNEMONIC_MOVAPS,
	ZYDIS_MNEMONIC_MOVAPD, ZYDIS_MNEMONIC_MOVNTPS, ZYDIS_MNEMONIC_MOVNTPD, ZYDIS_MNEMONIC_MOVDQA,
	ZYDIS_MNEMONIC_MOVDQU, ZYDIS_MNEMONIC_MOVNTDQ,
	ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR, ZYDIS_MNEMONIC_RCL, ZYDIS_MNEMONIC_RCR, ZYDIS_MNEMONIC_SHL,
	ZYDIS_MNEMONIC_SHR, ZYDIS_MNEMONIC_SAR, ZYDIS_MNEMONIC_SHLD, ZYDIS_MNEMONIC_SHRD,
	ZYDIS_MNEMONIC_IMUL, ZYDIS_MNEMONIC_MUL, ZYDIS_MNEMONIC_DIV, ZYDIS_MNEMONIC_IDIV,
	ZYDIS_MNEMONIC_BSF, ZYDIS_MNEMONIC_BSR, ZYDIS_MNEMONIC_TZCNT, ZYDIS_MNEMONIC_LZCNT,
	ZYDIS_MNEMONIC_POPCNT, ZYDIS_MNEMONIC_MOVBE, ZYDIS_MNEMONIC_CRC32, ZYDIS_MNEMONIC_ADCX,
	ZYDIS_MNEMONIC_ADOX, ZYDIS_MNEMONIC_CMPXCHG8B, ZYDIS_MNEMONIC_CMPXCHG16B, ZYDIS_MNEMONIC_BOUND,
	ZYDIS_MNEMONIC_ARPL, ZYDIS_MNEMONIC_POP, ZYDIS_MNEMONIC_MOVDIRI, ZYDIS_MNEMONIC_CLFLUSH,
	ZYDIS_MNEMONIC_CLFLUSHOPT, ZYDIS_MNEMONIC_CLWB, ZYDIS_MNEMONIC_LDS, ZYDIS_MNEMONIC_LES,
	ZYDIS_MNEMONIC_LSS, ZYDIS_MNEMONIC_LFS, ZYDIS_MNEMONIC_LGS, ZYDIS_MNEMONIC_SGDT,
	ZYDIS_MNEMONIC_SIDT, ZYDIS_MNEMONIC_LGDT, ZYDIS_MNEMONIC_LIDT, ZYDIS_MNEMONIC_SMSW,
	ZYDIS_MNEMONIC_SLDT, ZYDIS_MNEMONIC_STR,
};

/* Must the emulator know this instruction? */
static bool must_run(const ZydisDecodedInstruction *i)
{
	unsigned int k;

	if (i->mnemonic == ZYDIS_MNEMONIC_MOV && i->opcode_map == ZYDIS_OPCODE_MAP_0F)
		return i->opcode >= 0x20 && i->opcode < 0x24;	/* control registers, debug registers */
	if (uses_stack(i) || reads_descriptor(i) || i->mnemonic == ZYDIS_MNEMONIC_XLAT)
		return true;
	if (i->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU || i->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU)
		return true;
	if (i->attributes & ZYDIS_ATTRIB_HAS_MODRM ? i->raw.modrm.mod == 3 : !memory_without_modrm(i))
		return false;
	for (k = 0; k < sizeof(known) / sizeof(known[0]); k++)
		if (i->mnemonic == known[k])
			return true;
	switch (i->meta.category) {
	case ZYDIS_CATEGORY_CMOV: case ZYDIS_CATEGORY_SETCC: case ZYDIS_CATEGORY_BMI1: case ZYDIS_CATEGORY_BMI2:
		return true;
	case ZYDIS_CATEGORY_CALL: case ZYDIS_CATEGORY_UNCOND_BR:
		return true;
	default:
		break;
	}
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return true;
	case ZYDIS_MNEMONIC_CMPSD:
		return i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
	case ZYDIS_MNEMONIC_MOVSD:	/* the string's, and that of an XMM register */
		return i->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	default:
		return moves_vector(i) || i->mnemonic == ZYDIS_MNEMONIC_STMXCSR ||
		       i->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || i->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR ||
		       i->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
	}
}

static const u8 intercepted[][3] = {	/* 0F first where it is one; the last byte random where 0 */
	{ 0x0f, 0xa2 }, { 0xf4 }, { 0x0f, 0x32 }, { 0x0f, 0x30 }, { 0x0f, 0x08 }, { 0x0f, 0x09 }, { 0x0f, 0x01, 0xd1 },
	{ 0x0f, 0x33 }, { 0x0f, 0x31 }, { 0x0f, 0x01, 0xf9 }, { 0x0f, 0x01, 0x38 }, { 0x0f, 0x01, 0x7c },
	{ 0x0f, 0x01, 0xbd }, { 0xf3, 0x90 }, { 0x0f, 0x01, 0xd9 }, { 0x0f, 0x01, 0xc1 }, { 0x0f, 0x22 },
	{ 0x0f, 0x01, 0x30 }, { 0x0f, 0x01, 0xf4 }, { 0x0f, 0x01, 0xc8 }, { 0x0f, 0x01, 0xc9 }, { 0x0f, 0xaa },
};

static void random_bytes(u8 *p, enum mode mode)
{
	static const u8 prefixes[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3 };
	unsigned int i, n = 0;

	for (i = 0; i < MKVM_MAX_INSN; i++)
		p[i] = ktap_random();
	while (n < 10 && chance(40))
		p[n++] = prefixes[random_below(sizeof(prefixes))];
	if (mode == LONG64 && chance(40))
		p[n++] = 0x40 | (ktap_random() & 15);
	if (chance(40))
		p[n++] = 0x0f;
	if (chance(2)) {
		p[n++] = 0x38;
		p[n++] = 0xf0 | (ktap_random() & 1);
	}
}

/* AMD's LOCK MOV CR0, which is CR8, Zydis does not know. */
static bool locked_cr(const struct mkvm_emu *c)
{
	return c->prefix[LOCK] && (c->d.op == OP_GET_CR || c->d.op == OP_SET_CR);
}

/* With a prefix 66, F2 or F3 MOVNTI is undefined: the CPU refuses it, so the emulator need not. */
static bool movnti(const struct mkvm_emu *c)
{
	const u8 *p = c->insn;

	while (one_byte[*p].op == OP_PREFIX || (c->mode64 && (*p & 0xf0) == 0x40))
		p++;
	return p[0] == 0x0f && p[1] == 0xc3;
}

static void zydis_mode(enum mode mode, unsigned int rounds)
{
	ZydisDecodedInstruction i;
	unsigned int n, ran = 0, refused = 0, undefs = 0;
	u8 bytes[MKVM_MAX_INSN];
	ZydisDecoder z;
	enum mkvm_emu_result res;

	zydis_open(&z, mode);
	machine_init(mode);
	for (n = 0; n < rounds && ktap_failures < 10; n++) {
		bool good, ok = true;

		random_bytes(bytes, mode);
		load_bytes(bytes);
		good = ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&z, NULL, bytes, MKVM_MAX_INSN, &i));
		res = mkvm_decode(&m.emu);
		if (locked_cr(&m.emu))
			continue;
		if (good && must_run(&i)) {
			ok = EXPECT_EQ(MKVM_EMU_DONE, res) && EXPECT_FALSE(undefined(&m.emu)) &&
			     EXPECT_EQ(i.length, m.emu.pos) && EXPECT_NE(OP_LENGTH, m.emu.d.op);
			ran++;
		} else if (good && !res && (m.emu.d.op == OP_LENGTH || m.emu.d.op == OP_NOP || m.emu.d.op == OP_X87)) {
			ok = EXPECT_EQ(i.length, m.emu.pos);
		} else if (good) {
			ok = EXPECT_EQ(MKVM_EMU_UNHANDLED, res);
			refused++;
		} else if (!res && m.emu.d.op != OP_LENGTH && m.emu.d.op != OP_X87 && !movnti(&m.emu) &&
			   m.emu.vex.kind != EVEX_BYTES) {	/* the CPU refuses more of EVEX */
			ok = EXPECT_TRUE(undefined(&m.emu));
			undefs++;
		}
		if (!ok) {
			u64 none[16] = { 0 };

			printf("# %s\n", good ? ZydisMnemonicGetString(i.mnemonic) : "(undefined)");
			print_case(bytes, MKVM_MAX_INSN, none);
		}
	}
	EXPECT_LT(rounds / 10, ran);
	EXPECT_LT(rounds / 20, refused);
	EXPECT_LT(rounds / 200, undefs);
}

TEST(zydis_knows_the_same_instructions_and_lengths_in_real_mode)
{
	zydis_mode(REAL, 300000);
}

TEST(zydis_knows_the_same_instructions_and_lengths_in_protected_mode)
{
	zydis_mode(PROT32, 300000);
}

TEST(zydis_knows_the_same_instructions_and_lengths_in_long_mode)
{
	zydis_mode(LONG64, 300000);
}

/* ---- All encodings with an operand in memory ---- */

/*
 * Does it access memory by ModRM or on its own? Hints and LEA do not, and VSIB's forms are gathers
 * and scatters.
 */
static bool accesses_memory(const ZydisDecodedInstruction *i)
{
	if (i->meta.category == ZYDIS_CATEGORY_PREFETCH || i->meta.category == ZYDIS_CATEGORY_WIDENOP ||
	    i->meta.category == ZYDIS_CATEGORY_NOP || i->mnemonic == ZYDIS_MNEMONIC_LEA)
		return false;
	return i->attributes & ZYDIS_ATTRIB_HAS_MODRM && i->raw.modrm.mod != 3;
}

/* Its operands are vectors, or a scalar in a vector register. */
static bool is_vector(const ZydisDecodedInstruction *i)
{
	static const char *const sets[] = {
		"SSE", "AVX", "MMX", "PENTIUMMMX", "AES", "GFNI", "FMA", "F16C", "SHA", "PCLMULQDQ", "XOP",
		"KEYLOCKER", "SSSE3", "VAES", "VPCLMULQDQ",
	};
	const char *set = ZydisISASetGetString(i->meta.isa_set);
	unsigned int k;

	for (k = 0; k < ARRAY_SIZE(sets); k++)
		if (!strncmp(set, sets[k], strlen(sets[k])) || strstr(set, "MMX"))
			return true;
	return false;
}

/* The conversions PMOVSX, PMOVZX and VPMOV have "mov" in their names, but are no moves. */
static bool is_move(const ZydisDecodedInstruction *i)
{
	static const char *const parts[] = {
		"mov", "broadcast", "insert", "extract", "pinsr", "pextr", "lddqu", "mxcsr",
	};
	const char *name = ZydisMnemonicGetString(i->mnemonic);
	unsigned int k;

	if (!strncmp(name, "pmov", 4) || !strncmp(name, "vpmov", 5) ||
	    (i->mnemonic == ZYDIS_MNEMONIC_PINSRW && i->meta.isa_ext != ZYDIS_ISA_EXT_SSE2))
		return false;
	for (k = 0; k < ARRAY_SIZE(parts); k++)
		if (strstr(name, parts[k]))
			return true;
	return false;
}

/* Documentation/abi.rst lists what no driver does on a device. */
static bool may_be_refused(const ZydisDecodedInstruction *i)
{
	static const char *const sets[] = {
		"XSAVE", "MPX", "CET", "MOVDIR", "ENQCMD", "VTX", "AMX_TILE", "PT", "INVPCID",
		"SM3", "SM4", "RAO_INT",	/* known to Zydis 4.1 and newer */
	};
	const char *set = ZydisISASetGetString(i->meta.isa_set);
	unsigned int k;

	if (is_vector(i))
		return !is_move(i);
	/* INVLPG accesses no memory, UD0 and UD1 are undefined. */
	if (i->mnemonic == ZYDIS_MNEMONIC_INVLPG || i->mnemonic == ZYDIS_MNEMONIC_UD0 ||
	    i->mnemonic == ZYDIS_MNEMONIC_UD1)
		return true;
	for (k = 0; k < ARRAY_SIZE(sets); k++)
		if (!strncmp(set, sets[k], strlen(sets[k])))
			return true;
	return false;
}

static unsigned int nr_known, nr_refused;

static void try_encoding(const ZydisDecoder *z, const u8 *bytes, unsigned int len)
{
	u8 code[MKVM_MAX_INSN] = { 0 };
	ZydisDecodedInstruction i;

	memcpy(code, bytes, len);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(z, NULL, code, MKVM_MAX_INSN, &i)) ||
	    !accesses_memory(&i))
		return;
	load_bytes(code);
	if (mkvm_decode(&m.emu) == MKVM_EMU_DONE && m.emu.d.op != OP_LENGTH) {
		nr_known++;
		return;
	}
	nr_refused++;
	if (!EXPECT_TRUE(may_be_refused(&i)))
		printf("# %s of %s\n", ZydisMnemonicGetString(i.mnemonic), ZydisISASetGetString(i.meta.isa_set));
}

static void try_vex(const ZydisDecoder *z, unsigned int map, unsigned int pp, u8 opcode, u8 modrm)
{
	unsigned int w, l;

	for (w = 0; w < 2; w++) {
		for (l = 0; l < 3; l++) {
			u8 vex[] = { 0xc4, 0xe0 | map, w << 7 | 0x78 | l << 2 | pp, opcode, modrm };
			u8 evex[] = { 0x62, 0xf0 | map, w << 7 | 0x7c | pp, 0x08 | l << 5, opcode, modrm };

			if (l < 2)
				try_encoding(z, vex, sizeof(vex));
			try_encoding(z, evex, sizeof(evex));
		}
	}
}

/* All opcodes of a map with all kinds of prefixes and each ModRM.reg, with the operand at [rbx]. */
static void try_map(const ZydisDecoder *z, unsigned int map, unsigned int pp)
{
	static const u8 prefixes[] = { 0, 0x66, 0xf3, 0xf2 }, escapes[] = { 0, 0, 0x38, 0x3a };
	unsigned int n = 0, opcode, reg;
	u8 code[5];

	if (pp)
		code[n++] = prefixes[pp];
	if (map)
		code[n++] = 0x0f;
	if (escapes[map])
		code[n++] = escapes[map];
	for (opcode = 0; opcode < 256; opcode++) {
		for (reg = 0; reg < 8; reg++) {
			code[n] = opcode;
			code[n + 1] = reg << 3 | 3;
			try_encoding(z, code, n + 2);
			if (map)
				try_vex(z, map, pp, opcode, code[n + 1]);
		}
	}
}

TEST(what_is_refused_is_no_drivers)
{
	unsigned int mode, map, pp;
	ZydisDecoder z;

	for (mode = REAL; mode <= LONG64; mode++) {
		zydis_open(&z, mode);
		machine_init(mode);
		for (map = 0; map < 4; map++)
			for (pp = 0; pp < 4; pp++)
				try_map(&z, map, pp);
	}
	EXPECT_LT(8000, nr_known);
	EXPECT_LT(8000, nr_refused);
}

/* One of rows[] with a prefix of a kind that it may have or not, masks and lengths of all kinds. */
static void random_vector_bytes(u8 *p, enum mode mode)
{
	const struct row *r;
	unsigned int n = 0, kind = random_below(3);
	u8 rxb = mode == LONG64 ? ktap_random() : 0xf0 | ktap_random();

	do
		r = &rows[random_below(ARRAY_SIZE(rows))];
	while (r->d.op < OP_VEC || r->d.op > OP_X87);
	for (n = 0; n < MKVM_MAX_INSN; n++)
		p[n] = ktap_random();
	n = 0;
	if (!kind) {
		static const u8 pp[] = { 0, 0x66, 0xf3, 0, 0xf2 };
		u8 wanted = r->pp == PP_INT ? chance(50) ? 0 : 0x66 : pp[r->pp >> 1 & 3 ? r->pp >> 1 : r->pp >> 3 ? 4 : 0];

		if (wanted)
			p[n++] = wanted;
		if (mode == LONG64 && chance(50))
			p[n++] = 0x40 | (ktap_random() & 15);
		p[n++] = 0x0f;
		if (r->map > 1)
			p[n++] = r->map == 2 ? 0x38 : 0x3a;
	} else {
		u8 bits = r->pp & PP_66 ? chance(r->pp == PP_INT ? 50 : 100) : r->pp == PP_F3 ? 2 : r->pp == PP_F2 ? 3 : 0;
		u8 vvvv = r->d.flags & USES_VVVV ? ktap_random() & 0x78 : chance(90) ? 0x78 : ktap_random() & 0x78;

		p[n++] = kind == 1 ? 0xc4 : 0x62;
		p[n++] = (rxb & (kind == 1 ? 0xe0 : 0xf0)) | r->map;
		p[n++] = (chance(50) ? 0x80 : 0) | vvvv | bits | (kind == 1 ? ktap_random() & 4 : 4);
		if (kind == 2)
			p[n++] = (chance(70) ? ktap_random() & 7 : 0) | (chance(80) ? 8 : 0) |
				 (ktap_random() & 0x60) | (chance(40) ? 0x80 : 0) | (chance(5) ? 0x10 : 0);
	}
	p[n++] = r->opcode;
	if (chance(90))
		p[n] = random_below(0xc0);
	if (r->reg)
		p[n] = (p[n] & 0xc7) | __builtin_ctz(r->reg) << 3;
}

static void zydis_vectors(enum mode mode)
{
	unsigned int n, ran = 0, masked = 0;
	ZydisDecodedInstruction i;
	u8 bytes[MKVM_MAX_INSN];
	ZydisDecoder z;

	zydis_open(&z, mode);
	machine_init(mode);
	for (n = 0; n < 400000 && ktap_failures < 10; n++) {
		enum mkvm_emu_result res;
		bool ok = true;

		random_vector_bytes(bytes, mode);
		load_bytes(bytes);
		res = mkvm_decode(&m.emu);
		if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&z, NULL, bytes, MKVM_MAX_INSN, &i))) {
			if (must_run(&i)) {
				ok = EXPECT_EQ(MKVM_EMU_DONE, res) && EXPECT_EQ(i.length, m.emu.pos);
				ran++;
				masked += m.emu.vex.mask != 0;
			} else if (!res && m.emu.d.op != OP_X87 && m.emu.d.op != OP_NOP) {
				ok = EXPECT_EQ(MKVM_EMU_UNHANDLED, res);
			}
		} else if (!res && m.emu.d.op != OP_X87 && m.emu.vex.kind != EVEX_BYTES) {
			ok = EXPECT_TRUE(undefined(&m.emu));
		}
		if (!ok) {
			u64 none[16] = { 0 };

			print_case(bytes, MKVM_MAX_INSN, none);
		}
	}
	EXPECT_LT(50000, ran);
	EXPECT_LT(10000, masked);
}

TEST(zydis_knows_the_same_vector_instructions_in_protected_mode)
{
	zydis_vectors(PROT32);
}

TEST(zydis_knows_the_same_vector_instructions_in_long_mode)
{
	zydis_vectors(LONG64);
}

TEST(intercepted_instructions_have_zydis_length)
{
	ZydisDecodedInstruction i;
	unsigned int n, mode, k, checked = 0;
	u8 bytes[MKVM_MAX_INSN];
	ZydisDecoder z;

	for (mode = REAL; mode <= LONG64; mode++) {
		zydis_open(&z, mode);
		machine_init(mode);
		for (n = 0; n < 200 * sizeof(intercepted) / 3; n++) {
			const u8 *op = intercepted[n / 200];

			for (k = 0; k < MKVM_MAX_INSN; k++)
				bytes[k] = ktap_random();
			k = 0;
			if (chance(30))
				bytes[k++] = 0x66;
			if (chance(30))
				bytes[k++] = 0x67;
			if (chance(30) && mode == LONG64)
				bytes[k++] = 0x48;
			bytes[k++] = op[0];
			if (op[1])
				bytes[k++] = op[1];
			if (op[1] && op[2])
				bytes[k++] = op[2];
			if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&z, NULL, bytes, MKVM_MAX_INSN, &i)))
				continue;
			load_bytes(bytes);
			if (!EXPECT_EQ(i.length, mkvm_insn_length(&m.emu))) {
				u64 none[16] = { 0 };

				print_case(bytes, MKVM_MAX_INSN, none);
			}
			checked++;
		}
	}
	EXPECT_LT(10000, checked);
}

/* ---- Against the manuals ---- */

/* One instruction of every kind that accesses memory or a port. */
static const struct {
	const char *name;
	u8 code[10];
	u8 accesses;
} restarts[] = {
	{ "mov eax, [rbx]", { 0x8b, 0x03 }, 1 },
	{ "mov [rbx], eax", { 0x89, 0x03 }, 1 },
	{ "add [rbx], ecx", { 0x01, 0x0b }, 2 },
	{ "adc [rbx], 5", { 0x83, 0x13, 0x05 }, 2 },
	{ "cmp [rbx], ecx", { 0x39, 0x0b }, 1 },
	{ "xchg [rbx], ecx", { 0x87, 0x0b }, 2 },
	{ "lock xadd [rbx], ecx", { 0xf0, 0x0f, 0xc1, 0x0b }, 2 },
	{ "cmpxchg [rbx], ecx", { 0x0f, 0xb1, 0x0b }, 2 },
	{ "btc [rbx], ecx", { 0x0f, 0xbb, 0x0b }, 2 },
	{ "neg [rbx]", { 0xf7, 0x1b }, 2 },
	{ "ror [rbx], 1", { 0xd1, 0x0b }, 2 },
	{ "shld [rbx], ecx, cl", { 0x0f, 0xa5, 0x0b }, 2 },
	{ "push [rbx]", { 0xff, 0x33 }, 2 },
	{ "movups xmm1, [rbx]", { 0x0f, 0x10, 0x0b }, 1 },
	{ "movdqa [rbx], xmm1", { 0x66, 0x0f, 0x7f, 0x0b }, 1 },
	{ "rep movsd", { 0xf3, 0xa5 }, 2 },
	{ "stosd", { 0xab }, 1 },
	{ "lodsd", { 0xad }, 1 },
	{ "repe cmpsd", { 0xf3, 0xa7 }, 2 },
	{ "repne scasd", { 0xf2, 0xaf }, 1 },
	{ "rep insd", { 0xf3, 0x6d }, 2 },
	{ "outsd", { 0x6f }, 2 },
	{ "cmovz eax, [rbx]", { 0x0f, 0x44, 0x03 }, 1 },
	{ "setz [rbx]", { 0x0f, 0x94, 0x03 }, 1 },
	{ "movbe [rbx], eax", { 0x0f, 0x38, 0xf1, 0x03 }, 1 },
	{ "imul eax, [rbx], 3", { 0x6b, 0x03, 0x03 }, 1 },
	{ "mul [rbx]", { 0xf7, 0x23 }, 1 },
	{ "idiv [rbx]", { 0xf7, 0x3b }, 1 },
	{ "popcnt eax, [rbx]", { 0xf3, 0x0f, 0xb8, 0x03 }, 1 },
	{ "mulx eax, ecx, [rbx]", { 0xc4, 0xe2, 0x73, 0xf6, 0x03 }, 1 },
	{ "cmpxchg16b [rbx]", { 0x48, 0x0f, 0xc7, 0x0b }, 2 },
	{ "xlat", { 0xd7 }, 1 },
	{ "pop [rbx]", { 0x8f, 0x03 }, 2 },
	{ "pop rax", { 0x58 }, 1 },
	{ "pushfq", { 0x9c }, 1 },
	{ "popfq", { 0x9d }, 1 },
	{ "enter 16, 3", { 0xc8, 0x10, 0x00, 0x03 }, 6 },
	{ "leave", { 0xc9 }, 1 },
	{ "call next", { 0xe8, 0x00, 0x00, 0x00, 0x00 }, 1 },
	{ "call [rbx]", { 0xff, 0x13 }, 2 },
	{ "jmp [rbx]", { 0xff, 0x23 }, 1 },
	{ "ret 8", { 0xc2, 0x08, 0x00 }, 1 },
	{ "vmovdqu8 [rbx] {k1}, zmm2", { 0x62, 0xf1, 0x7f, 0x49, 0x7f, 0x13 }, 5 },
	{ "vmovdqu8 zmm2 {k1}, [rbx]", { 0x62, 0xf1, 0x7f, 0x49, 0x6f, 0x13 }, 5 },
	{ "vpmaskmovd [rbx], ymm3, ymm2", { 0xc4, 0xe2, 0x65, 0x8e, 0x13 }, 2 },
	{ "vpbroadcastb zmm2 {k1}{z}, [rbx]", { 0x62, 0xf2, 0x7d, 0xc9, 0x78, 0x13 }, 1 },
	{ "pinsrw xmm2, [rbx], 1", { 0x66, 0x0f, 0xc4, 0x13, 0x01 }, 1 },
	{ "pextrq [rbx], xmm2, 1", { 0x66, 0x48, 0x0f, 0x3a, 0x16, 0x13, 0x01 }, 1 },
	{ "kmovq k2, [rbx]", { 0xc4, 0xe1, 0xf8, 0x90, 0x13 }, 1 },
	{ "fxsave [rbx]", { 0x0f, 0xae, 0x03 }, 1 },
	{ "fxrstor [rbx]", { 0x0f, 0xae, 0x0b }, 1 },
};

static void restart_machine(unsigned int n)
{
	unsigned int i;

	machine_init(LONG64);
	for (i = 0; i < 16; i++)
		m.regs[i] = 0x100 + i;
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	m.regs[MKVM_RSI] = m.ram_base + 0x4000;
	m.regs[MKVM_RDI] = m.ram_base + 0x5000;
	m.regs[MKVM_RBP] = m.ram_base + 0x3800;
	for (i = 0; i < 0x6000; i += 4)
		ram_put(m.ram_base + i, 0x01020304 * (i + 1), 4);
	ram_put(m.regs[MKVM_RBX] + 24, 0x1f80, 4);	/* MXCSR, of FXRSTOR */
	m.k[1] = 0x8700000100000001;		/* bytes 0, 32, 56 to 58, 63 */
	m.xmm[3][0] = 0x80000000;
	m.upper[3][1] = 0x8000000000000000;
	ram_put(m.regs[MKVM_RBX], 0x10203040, 8);
	ram_put(m.regs[MKVM_RSP], 0x10203040, 8);
	put_code(m.emu.rip, restarts[n].code, sizeof(restarts[n].code));
}

TEST(an_exit_at_any_access_changes_nothing_and_the_replay_asks_the_same)
{
	struct machine before, whole;
	static u8 ram_before[0x8000];
	unsigned int n, at;

	for (n = 0; n < sizeof(restarts) / sizeof(restarts[0]); n++) {
		enum mkvm_emu_result end;
		bool ok = true;

		restart_machine(n);
		end = run_once();
		ok &= EXPECT_TRUE(end == MKVM_EMU_DONE || end == MKVM_EMU_AGAIN) &&
		      EXPECT_EQ(restarts[n].accesses, m.nr);
		whole = m;
		memcpy(ram_before, ram, sizeof(ram_before));

		restart_machine(n);
		for (at = 1; at <= restarts[n].accesses; at++) {
			before = m;
			m.nr = 0;
			m.answered = at - 1;
			m.exit_at = at;
			ok &= EXPECT_EQ(MKVM_EMU_EXIT, mkvm_emulate(&m.emu));
			ok &= EXPECT_FALSE(memcmp(m.regs, before.regs, sizeof(m.regs)));
			ok &= EXPECT_EQ(before.emu.rip, m.emu.rip) && EXPECT_EQ(before.emu.rflags, m.emu.rflags);
			ok &= EXPECT_EQ(1, m.fetches) && EXPECT_FALSE(m.differs);
			/* userspace answers: now the access is made, and the log has it */
			m.nr = 0;
			m.exit_at = at + 1;
			if (at < restarts[n].accesses)
				ok &= EXPECT_EQ(MKVM_EMU_EXIT, mkvm_emulate(&m.emu));
		}
		ok &= EXPECT_EQ(end, mkvm_emulate(&m.emu)) && EXPECT_FALSE(m.differs);
		ok &= EXPECT_FALSE(memcmp(m.regs, whole.regs, sizeof(m.regs))) && EXPECT_EQ(whole.emu.rip, m.emu.rip);
		ok &= EXPECT_EQ(whole.emu.rflags, m.emu.rflags) &&
		      EXPECT_FALSE(memcmp(ram, ram_before, sizeof(ram_before)));
		ok &= EXPECT_EQ(restarts[n].accesses, m.nr) && EXPECT_EQ(1, m.fetches);
		if (!ok)
			printf("# %s\n", restarts[n].name);
	}
}

TEST(a_failed_access_changes_no_register)
{
	unsigned int n;
	struct machine before;

	for (n = 0; n < sizeof(restarts) / sizeof(restarts[0]); n++) {
		restart_machine(n);
		m.regs[MKVM_RBX] = m.regs[MKVM_RDI] = 0x666000;	/* not RAM */
		if (restarts[n].code[0] == 0xad || restarts[n].code[0] == 0x6f)
			m.regs[MKVM_RSI] = 0x666000;
		before = m;
		if (run_once() == MKVM_EMU_DONE)
			continue;		/* no memory in it */
		EXPECT_EQ(14, m.emu.fault.vector);
		EXPECT_EQ(0x666000, m.emu.fault.cr2 & ~0xfffULL);	/* BTC: and a few bits on */
		if (!EXPECT_FALSE(memcmp(m.regs, before.regs, sizeof(m.regs))) ||
		    !EXPECT_EQ(before.emu.rip, m.emu.rip) || !EXPECT_EQ(before.emu.rflags, m.emu.rflags))
			printf("# %s\n", restarts[n].name);
	}
}

TEST(code_is_fetched_once_up_to_the_end_of_the_page_and_beyond_only_when_needed)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	EXPECT_EQ(1, m.fetches);
	EXPECT_EQ(15, m.fetch_len[0]);
	EXPECT_EQ(0, m.segments);

	m.emu.rip = m.ram_base + 0x1ffe;		/* ends with the page */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	EXPECT_EQ(1, m.fetches);
	EXPECT_EQ(2, m.fetch_len[0]);
	EXPECT_EQ(2, m.emu.insn_len);

	m.emu.rip = m.ram_base + 0x1fff;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	EXPECT_EQ(2, m.fetches);
	EXPECT_EQ(1, m.fetch_len[0]);
	EXPECT_EQ(m.ram_base + 0x2000, m.fetch_la[1]);
	EXPECT_EQ(14, m.fetch_len[1]);
	EXPECT_EQ(m.ram_base + 0x2001, m.emu.rip);

	m.emu.rip = m.ram_base + RAM_SIZE - 1;		/* the next page is not there */
	ram_put(m.emu.rip, 0x8b, 1);
	EXPECT_EQ(MKVM_EMU_FAULT, run_once());
	EXPECT_EQ(14, m.emu.fault.vector);
	EXPECT_EQ(m.ram_base + RAM_SIZE, m.emu.fault.cr2);
	EXPECT_EQ(1, m.emu.insn_len);
}

TEST(bytes_that_are_known_are_not_fetched)
{
	static const u8 code[] = { 0x8b, 0x43, 0x10 };

	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	memcpy(m.emu.insn, code, 3);
	m.emu.insn_len = 3;
	EXPECT_EQ(MKVM_EMU_DONE, mkvm_emulate(&m.emu));
	EXPECT_EQ(0, m.fetches);
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	put_code(m.emu.rip, code, 3);
	memcpy(m.emu.insn, code, 1);
	m.emu.insn_len = 1;
	EXPECT_EQ(MKVM_EMU_DONE, mkvm_emulate(&m.emu));
	EXPECT_EQ(1, m.fetches);
	EXPECT_EQ(m.ram_base + 0x1001, m.fetch_la[0]);
	EXPECT_EQ(14, m.fetch_len[0]);
}

TEST(sixteen_bytes_are_too_many)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_EQ(MKVM_EMU_DONE,
		  RUN(0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x8b, 0x03));
	EXPECT_EQ(15, m.emu.insn_len);
	EXPECT_EQ(MKVM_EMU_FAULT,
		  RUN(0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x8b, 0x03));
	EXPECT_EQ(GP_VECTOR, m.emu.fault.vector);
	EXPECT_EQ(0, m.emu.fault.error);
	EXPECT_EQ(0, mkvm_insn_length(&m.emu));
}

#define EXPECT_FAULT(vec, ...) do {						\
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(__VA_ARGS__));				\
	EXPECT_EQ(vec, m.emu.fault.vector);					\
	EXPECT_EQ(mkvm_has_error_code(vec) && m.emu.mode.cr0, m.emu.fault.has_error);	\
	EXPECT_EQ(0, m.emu.fault.error); } while (0)

TEST(vector_moves_obey_cr0_cr4_and_alignment)
{
	machine_init(PROT32);
	m.regs[MKVM_RBX] = m.ram_base + 0x2008;
	m.xmm[1][1] = 5;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x11, 0x0b));		/* movups [ebx], xmm1 */
	EXPECT_EQ(5, ram_get(m.ram_base + 0x2010, 8));
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x29, 0x0b);			/* movaps */
	m.seg[MKVM_DS].base = 8;					/* what counts is the linear address */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x29, 0x0b));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf2, 0x0f, 0x10, 0x0b));		/* movsd xmm1, [ebx] */
	EXPECT_EQ(0, m.xmm[1][1]);
	m.emu.mode.cr0 |= X86_CR0_TS;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x0f, 0x29, 0x0b));
	EXPECT_EQ(NM_VECTOR, m.emu.fault.vector);
	EXPECT_FALSE(m.emu.fault.has_error);
	m.emu.mode.cr0 |= X86_CR0_EM;
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x29, 0x0b);
	m.emu.mode.cr0 &= ~(u64)(X86_CR0_EM | X86_CR0_TS);
	m.emu.mode.cr4 = 0;
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x29, 0x0b);
}

TEST(wide_vector_moves_clear_what_is_above_and_legacy_ones_keep_it)
{
	unsigned int i;

	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2008;
	for (i = 0; i < 16; i++)
		ram_put(m.regs[MKVM_RBX] + 8 * i, 0x100 + i, 8);
	memset(m.upper[1], 0xee, sizeof(m.upper[1]));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf3, 0x0f, 0x6f, 0x0b));		/* movdqu xmm1, [rbx] */
	EXPECT_EQ(0x101, m.xmm[1][1]);
	EXPECT_EQ(0xeeeeeeeeeeeeeeee, m.upper[1][0]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xfe, 0x6f, 0x0b));		/* vmovdqu ymm1, [rbx] */
	EXPECT_EQ(32, m.log[0].len);
	EXPECT_EQ(0x103, m.upper[1][1]);
	EXPECT_EQ(0, m.upper[1][2]);
	memset(m.upper[1], 0xee, sizeof(m.upper[1]));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xfa, 0x10, 0x0b));		/* vmovss xmm1, [rbx] */
	EXPECT_EQ(4, m.log[0].len);
	EXPECT_EQ(0, m.xmm[1][1] | m.upper[1][0] | m.upper[1][5]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xe1, 0xfe, 0x48, 0x6f, 0x4b, 0x01));	/* vmovdqu64 zmm17, [rbx+64] */
	EXPECT_EQ(64, m.log[0].len);
	EXPECT_EQ(0x108, m.xmm[17][0]);
	EXPECT_EQ(0x10f, m.upper[17][5]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xe1, 0xfe, 0x48, 0x7f, 0x0b));		/* vmovdqu64 [rbx], zmm17 */
	EXPECT_EQ(0x10f, ram_get(m.regs[MKVM_RBX] + 56, 8));
	m.xmm[2][0] = 0x55;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xe8, 0x16, 0x0b));		/* vmovhps xmm1, xmm2, [rbx] */
	EXPECT_EQ(0x55, m.xmm[1][0]);
	EXPECT_EQ(0x108, m.xmm[1][1]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x13, 0x0b));		/* movlps [rbx], xmm1 */
	EXPECT_EQ(0x55, ram_get(m.regs[MKVM_RBX], 8));
	EXPECT_FAULT(GP_VECTOR, 0xc5, 0xfc, 0x29, 0x0b);		/* vmovaps [rbx], ymm1 */
	m.regs[MKVM_RBX] += 24;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xfc, 0x29, 0x0b));
	EXPECT_FAULT(GP_VECTOR, 0x62, 0xf1, 0x7c, 0x48, 0x29, 0x0b);	/* with zmm1 */
}

/* 0x2000 of RAM holds bytes that count up; all registers hold ones. */
static void masks_machine(u64 mask)
{
	unsigned int i;

	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	for (i = 0; i < 64; i++)
		ram_put(m.regs[MKVM_RBX] + i, i, 1);
	memset(m.xmm, 0xff, sizeof(m.xmm));
	memset(m.upper, 0xff, sizeof(m.upper));
	m.k[1] = mask;
}

static void expect_access(unsigned int n, unsigned int at, unsigned int len)
{
	EXPECT_EQ(m.regs[MKVM_RBX] + at, m.log[n].addr);
	EXPECT_EQ(len, m.log[n].len);
}

TEST(masked_loads_read_what_the_mask_names_and_keep_or_clear_the_rest)
{
	masks_machine(0xffff800000000e06);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0x7f, 0x49, 0x6f, 0x13));	/* vmovdqu8 zmm2 {k1}, [rbx] */
	EXPECT_EQ(7, m.nr);
	expect_access(0, 1, 1);
	expect_access(1, 2, 1);
	expect_access(2, 9, 1);
	expect_access(3, 10, 2);
	expect_access(4, 47, 1);
	expect_access(5, 48, 8);
	expect_access(6, 56, 8);
	EXPECT_EQ(0xffffffffff0201ff, m.xmm[2][0]);
	EXPECT_EQ(0xffffffff0b0a09ff, m.xmm[2][1]);
	EXPECT_EQ(0x2fffffffffffffff, m.upper[2][3]);
	EXPECT_EQ(0x3f3e3d3c3b3a3938, m.upper[2][5]);

	masks_machine(0x5);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0x7e, 0xa9, 0x6f, 0x13));	/* vmovdqu32 ymm2 {k1}{z}, [rbx] */
	EXPECT_EQ(2, m.nr);
	expect_access(0, 0, 4);
	expect_access(1, 8, 4);
	EXPECT_EQ(0x03020100, m.xmm[2][0]);
	EXPECT_EQ(0x0b0a0908, m.xmm[2][1]);
	EXPECT_EQ(0, m.upper[2][0] | m.upper[2][5]);
	masks_machine(0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0xfd, 0x49, 0x28, 0x13));	/* vmovapd zmm2 {k1}, [rbx] */
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(~0ULL, m.xmm[2][0] & m.upper[2][5]);
	m.regs[MKVM_RBX] += 8;
	EXPECT_FAULT(GP_VECTOR, 0x62, 0xf1, 0xfd, 0x49, 0x28, 0x13);
	masks_machine(0);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0x7e, 0x09, 0x10, 0x13));	/* vmovss xmm2 {k1}, [rbx] */
	EXPECT_EQ(0xffffffff, m.xmm[2][0]);
	EXPECT_EQ(0, m.xmm[2][1] | m.upper[2][0]);
	masks_machine(0x3);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf2, 0xfd, 0x49, 0x5b, 0x13));	/* vbroadcasti64x4 zmm2 {k1}, [rbx] */
	EXPECT_EQ(2, m.nr);
	EXPECT_EQ(0x0f0e0d0c0b0a0908, m.xmm[2][1]);
	EXPECT_EQ(~0ULL, m.upper[2][0] & m.upper[2][2] & m.upper[2][5]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf2, 0x7d, 0xc9, 0x58, 0x53, 0x02));	/* vpbroadcastd zmm2 {k1}{z}, [rbx + 8] */
	EXPECT_EQ(1, m.nr);
	expect_access(0, 8, 4);
	EXPECT_EQ(0x0b0a09080b0a0908, m.xmm[2][0]);
	EXPECT_EQ(0, m.xmm[2][1] | m.upper[2][5]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf3, 0xf5, 0x48, 0x3a, 0x13, 0x01));	/* vinserti64x4 zmm2, zmm1, [rbx], 1 */
	EXPECT_EQ(~0ULL, m.xmm[2][0] & m.upper[2][1]);
	EXPECT_EQ(0x0706050403020100, m.upper[2][2]);
	EXPECT_FAULT(UD_VECTOR, 0xc5, 0x78, 0x90, 0x0b);			/* kmovw k9, [rbx] */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xf8, 0x90, 0x13));			/* kmovw k2, [rbx] */
	EXPECT_EQ(0x0100, m.k[2]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc4, 0xe1, 0xf8, 0x91, 0x53, 0x08));	/* kmovq [rbx + 8], k2 */
	EXPECT_EQ(0x0100, ram_get(m.regs[MKVM_RBX] + 8, 8));
}

TEST(masked_stores_write_what_the_mask_names_once_all_of_it_may_be_written)
{
	masks_machine(0x8002);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x13));	/* vmovdqu32 [rbx] {k1}, zmm2 */
	EXPECT_EQ(2, m.nr);
	expect_access(0, 4, 4);
	expect_access(1, 60, 4);
	EXPECT_EQ(0xffffffff03020100, ram_get(m.regs[MKVM_RBX], 8));
	EXPECT_EQ(0xffffffff3b3a3938, ram_get(m.regs[MKVM_RBX] + 56, 8));
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0x62, 0xf1, 0x7e, 0xc9, 0x7f, 0x13));	/* {z}: none */
	m.probe_limit = m.regs[MKVM_RBX] + 61;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x13));
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(m.regs[MKVM_RBX] + 60, m.emu.fault.cr2);
	m.k[1] = 0x4002;							/* the last element is none of it */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x13));
	m.probe_limit = ~0ULL;
	masks_machine(0x2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf3, 0xfd, 0x49, 0x19, 0x13, 0x01));	/* vextractf64x2 [rbx] {k1}, zmm2, 1 */
	EXPECT_EQ(1, m.nr);
	expect_access(0, 8, 8);
	m.xmm[3][0] = 0x80000000;						/* the first element alone */
	m.xmm[3][1] = 0;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc4, 0xe2, 0x61, 0x2e, 0x13));		/* vmaskmovps [rbx], xmm3, xmm2 */
	EXPECT_EQ(1, m.nr);
	expect_access(0, 0, 4);
	m.regs[MKVM_RBX] = m.ram_base + RAM_SIZE - 4;				/* nothing behind it is accessed */
	ram_put(m.regs[MKVM_RBX], 0x12345678, 4);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc4, 0xe2, 0x61, 0x2c, 0x13));		/* vmaskmovps xmm2, xmm3, [rbx] */
	EXPECT_EQ(0x12345678, m.xmm[2][0]);
	EXPECT_EQ(0, m.xmm[2][1]);
}

TEST(whole_states_are_stored_and_loaded_as_far_as_the_mode_has_them)
{
	struct mkvm_fx image = { .fcw = 0x37f, .fsw = 0x3800, .ftw = 1, .rip = ~0ULL, .mxcsr = 0x1f80 };
	u64 at;

	machine_init(LONG64);
	at = m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	memset(m.fx.registers, 0x77, sizeof(m.fx.registers));
	m.fx.rip = 0x1234567890;
	memset(ram_at(at, 512), 0xee, 512);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xae, 0x03));			/* fxsave [rbx] */
	EXPECT_EQ(0x37f, ram_get(at, 2));
	EXPECT_EQ(0x34567890, ram_get(at + 8, 8));
	EXPECT_EQ(0x7777777777777777, ram_get(at + 408, 8));
	EXPECT_EQ(0xeeeeeeeeeeeeeeee, ram_get(at + 416, 8));			/* others may use it */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x48, 0x0f, 0xae, 0x03));			/* fxsave64 [rbx] */
	EXPECT_EQ(0x1234567890, ram_get(at + 8, 8));
	memset(image.registers, 0x55, sizeof(image.registers));
	memcpy(ram_at(at, 512), &image, 512);
	m.emu.mode.efer |= EFER_FFXSR;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xae, 0x0b));			/* fxrstor [rbx] */
	EXPECT_EQ(0x3800, m.fx.fsw);
	EXPECT_EQ(0xffffffff, m.fx.rip);
	EXPECT_EQ(0x55, m.fx.registers[0]);
	EXPECT_EQ(0x77, m.fx.registers[128]);					/* xmm0 */
	m.emu.mode.efer &= ~(u64)EFER_FFXSR;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x48, 0x0f, 0xae, 0x0b));
	EXPECT_EQ(~0ULL, m.fx.rip);
	EXPECT_EQ(0x55, m.fx.registers[383]);
	ram_put(at + 24, 0x80001f80, 4);
	m.fx.mxcsr_mask = 0xffff;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0xae, 0x0b);
	m.regs[MKVM_RBX] += 8;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0xae, 0x03);
	m.emu.mode.cr0 |= X86_CR0_TS;
	EXPECT_FAULT(NM_VECTOR, 0x0f, 0xae, 0x03);
	machine_init(PROT32);
	at = m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	memset(ram_at(at, 512), 0xee, 512);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xae, 0x03));
	EXPECT_EQ(0, ram_get(at + 280, 8));					/* xmm7 is the last */
	EXPECT_EQ(0xeeeeeeeeeeeeeeee, ram_get(at + 288, 8));
}

TEST(wide_vector_moves_need_their_state_enabled)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.xcr0 = 7;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xfe, 0x6f, 0x0b));
	EXPECT_FAULT(UD_VECTOR, 0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x0b);
	m.xcr0 = 3;
	EXPECT_FAULT(UD_VECTOR, 0xc5, 0xfe, 0x6f, 0x0b);
	m.xcr0 = 0xe7;
	m.lacks = X86_FEATURE_AVX512VL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0xf1, 0xfe, 0x48, 0x6f, 0x0b));
	EXPECT_FAULT(UD_VECTOR, 0x62, 0xf1, 0xfe, 0x28, 0x6f, 0x0b);	/* ymm1 */
	m.lacks = X86_FEATURE_AVX512BW;
	EXPECT_FAULT(UD_VECTOR, 0x62, 0xf1, 0x7f, 0x48, 0x6f, 0x0b);	/* vmovdqu8 */
	m.lacks = X86_FEATURE_AVX;
	EXPECT_FAULT(UD_VECTOR, 0xc5, 0xfe, 0x6f, 0x0b);
	m.lacks = 0;
	m.emu.mode.cr0 |= X86_CR0_TS;
	EXPECT_FAULT(NM_VECTOR, 0xc5, 0xfe, 0x6f, 0x0b);
	EXPECT_FAULT(NM_VECTOR, 0xdd, 0x03);				/* fld qword [rbx] */
	m.emu.mode.cr0 &= ~(u64)X86_CR0_TS;
	m.emu.mode.cr4 = X86_CR4_OSFXSR;
	EXPECT_FAULT(UD_VECTOR, 0xc5, 0xfe, 0x6f, 0x0b);
}

TEST(mxcsr_takes_no_reserved_bits)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xae, 0x1b));		/* stmxcsr [rbx] */
	EXPECT_EQ(0x1f80, ram_get(m.regs[MKVM_RBX], 4));
	ram_put(m.regs[MKVM_RBX], 0x1f81, 4);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc5, 0xf8, 0xae, 0x13));		/* vldmxcsr [rbx] */
	EXPECT_EQ(0x1f81, m.fx.mxcsr);
	ram_put(m.regs[MKVM_RBX], 0x11f80, 4);
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0xae, 0x13);
}

TEST(x87_and_mmx_run_on_the_guests_registers)
{
	struct mkvm_fx before;

	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0x4008000000000000, 8);			/* 3.0 */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xdd, 0x03));			/* fld qword [rbx] */
	EXPECT_EQ(7, m.fx.fsw >> 11 & 7);
	EXPECT_TRUE(!m.fx.rip || m.fx.rip == m.ram_base + 0x1000);	/* not all CPUs save them */
	EXPECT_TRUE(!m.fx.rdp || m.fx.rdp == m.regs[MKVM_RBX]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xdc, 0x0b));			/* fmul qword [rbx] */
	before = m.fx;
	m.emu.insn_len = 0;
	m.nr = 0;
	m.exit_at = 1;
	put_code(code_la(), (const u8 []){ 0xdb, 0x1b }, 2);		/* fistp dword [rbx] */
	EXPECT_EQ(MKVM_EMU_EXIT, mkvm_emulate(&m.emu));
	EXPECT_FALSE(memcmp(&before, &m.fx, sizeof(before)));
	m.exit_at = ~0u;
	EXPECT_EQ(MKVM_EMU_DONE, run_once());
	EXPECT_EQ(9, ram_get(m.regs[MKVM_RBX], 4));
	EXPECT_EQ(0, m.fx.fsw >> 11 & 7);
	ram_put(m.regs[MKVM_RBX], 0x1122334455667788, 8);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x6f, 0x0b));		/* movq mm1, [rbx] */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x7e, 0x4b, 0x10));		/* movd [rbx + 16], mm1 */
	EXPECT_EQ(0x55667788, ram_get(m.regs[MKVM_RBX] + 16, 4));
	EXPECT_EQ(4, m.log[0].len);
	m.fx.rip = 0x1234;
	ram_put(m.regs[MKVM_RBX], 0x37e, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xd9, 0x2b));			/* fldcw [rbx] is not pointed to */
	EXPECT_TRUE(!m.fx.rip || m.fx.rip == 0x1234);
	EXPECT_EQ(0x37e, m.fx.fcw);
	m.fx.ftw = 0;							/* empty: a store is invalid, unmasked */
	m.fx.fsw = 0;
	ram_put(m.regs[MKVM_RBX], 0x55667788, 4);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xd9, 0x1b));			/* fstp dword [rbx] */
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(0x81, m.fx.fsw & 0x81);
	m.fx.fcw = 0x37f;
	m.fx.fsw |= 0x81;						/* an exception waits */
	EXPECT_FAULT(MF_VECTOR, 0xdd, 0x03);
	EXPECT_FAULT(MF_VECTOR, 0x0f, 0x6f, 0x0b);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xdd, 0x3b));			/* fnstsw [rbx] */
	m.fx.fcw = 0x37e;
	m.fx.fsw |= 0x81;
	EXPECT_FAULT(MF_VECTOR, 0xdd, 0x23);				/* frstor [rbx] waits */
	EXPECT_FAULT(MF_VECTOR, 0xd9, 0x23);				/* fldenv [rbx] */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xdd, 0x33));			/* fnsave [rbx] does not */
	EXPECT_EQ(0, m.fx.fsw);
	m.emu.mode.cr0 |= X86_CR0_EM;
	EXPECT_FAULT(NM_VECTOR, 0xdd, 0x03);
	EXPECT_FAULT(NM_VECTOR, 0xdd, 0x33);
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x6f, 0x0b);
}

/* 1, pi, 2 at the top, with flags and other rounding, in m.fx and by the CPU in its own registers. */
#define FILL_X87 "fninit; fildl %1; fldpi; fld1; fldcw %2; fcompp; fldl %0; fldpi; fld1"
static const double x87_third = 1.0 / 3;
static const u32 x87_two = 2;
static const u16 x87_control = 0x77f;

static void fill_x87(void)
{
	struct mkvm_fx own, mask = m.fx;

	asm volatile("fxsave64 %0" : "=m" (own));
	asm volatile(FILL_X87 : : "m" (x87_third), "m" (x87_two), "m" (x87_control));
	asm volatile("fxsave64 %0; fxrstor64 %1" : "=m" (m.fx) : "m" (own));
	m.fx.mxcsr = mask.mxcsr;
	m.fx.mxcsr_mask = mask.mxcsr_mask;
}

#define X87_REGISTERS (8 * 10)

/* Pointers and selectors differ between CPUs: only the rest of the head is compared. */
static void expect_same_state(const u8 *mine, const u8 *other, bool wide, bool whole)
{
	unsigned int head = wide ? 28 : 14, i;

	for (i = 0; i < 3; i++)
		EXPECT_EQ(*(u16 *)(other + i * head / 7), *(u16 *)(mine + i * head / 7));
	if (whole)
		EXPECT_FALSE(memcmp(mine + head, other + head, X87_REGISTERS));
}

TEST(x87_states_are_what_the_cpu_stores)
{
	u8 native[108], prefix[] = { 0x66, 0xdd, 0x33 }, *mine;
	unsigned int i;

	for (i = 0; i < 4; i++) {
		bool wide = i & 1, whole = i & 2;

		machine_init(LONG64);
		fill_x87();
		m.regs[MKVM_RBX] = m.ram_base + 0x2000;
		mine = ram_at(m.regs[MKVM_RBX], sizeof(native));
		memset(mine, 0x5a, sizeof(native));
		prefix[1] = whole ? 0xdd : 0xd9;
		put_code(code_la(), prefix + wide, 3 - wide);
		EXPECT_EQ(MKVM_EMU_DONE, run_once());
		asm volatile(FILL_X87 : : "m" (x87_third), "m" (x87_two), "m" (x87_control));
		if (whole && wide)
			asm volatile("fnsave %0" : "=m" (native));
		else if (whole)
			asm volatile("data16 fnsave %0" : "=m" (native));
		else if (wide)
			asm volatile("fnstenv %0; fninit" : "=m" (native));
		else
			asm volatile("data16 fnstenv %0; fninit" : "=m" (native));
		expect_same_state(mine, native, wide, whole);
		EXPECT_EQ(m.regs[MKVM_RBX] + (wide ? 28 : 14) + (whole ? X87_REGISTERS : 0), m.hi);
		EXPECT_EQ(whole ? 0x37f : 0x77f, m.fx.fcw);
		EXPECT_EQ(!whole, !!m.fx.ftw);
	}
}

TEST(x87_states_are_what_unicorn_stores)
{
	static const u8 fill[] = { 0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0xe8, 0xd9, 0xee }; /* fninit fldpi fld1 fldz */
	static const struct { u8 code[3], len; bool wide, whole; } forms[] = {
		{ { 0xd9, 0x33 }, 2, true, false }, { { 0x66, 0xd9, 0x33 }, 3, false, false },
		{ { 0xdd, 0x33 }, 2, true, true }, { { 0x66, 0xdd, 0x33 }, 3, false, true },
	};
	u8 *mine;
	unsigned int mode, i;

	for (mode = PROT32; mode <= LONG64; mode++) {
		if (!unicorn_open(mode))
			SKIP("no Unicorn");
		for (i = 0; i < ARRAY_SIZE(forms); i++) {
			u64 regs[16] = { 0 }, flags = 2, rip, xmm[16][2] = { { 0 } };
			struct mkvm_fx own;
			u64 la;

			machine_init(mode);
			la = m.ram_base + 0x1000;
			asm volatile("fxsave64 %0" : "=m" (own));
			asm volatile("fninit; fldpi; fld1; fldz");
			asm volatile("fxsave64 %0; fxrstor64 %1" : "=m" (m.fx) : "m" (own));
			regs[MKVM_RBX] = m.regs[MKVM_RBX] = m.ram_base + 0x2000;
			mine = ram_at(m.regs[MKVM_RBX], 108);
			put_code(la, forms[i].code, forms[i].len);
			EXPECT_EQ(MKVM_EMU_DONE, run_once());
			memcpy(uc_ram + 0x1000, fill, sizeof(fill));
			memcpy(uc_ram + 0x1000 + sizeof(fill), forms[i].code, forms[i].len);
			EXPECT_EQ(UC_ERR_OK, unicorn_run(la, regs, xmm, &flags, &rip,
							 sizeof(fill) + forms[i].len, false));
			expect_same_state(mine, uc_ram + 0x2000, forms[i].wide, forms[i].whole);
		}
	}
}

/* The four formats of the head, with pointers of more than 16 bits, stored and loaded again. */
TEST(x87_pointers_have_the_format_of_the_mode)
{
	static const struct { enum mode mode; bool wide; u8 head[28]; } forms[] = {
		{ PROT32, true, { 0x7f, 3, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
				  0x78, 0x56, 3, 0, 0, 0, 0x45, 1, 0x21, 0x43, 5, 0, 0, 0, 0xff, 0xff } },
		{ REAL, true, { 0x7f, 3, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
				0x78, 0x56, 0xff, 0xff, 0x45, 0x31, 0, 0, 0x21, 0x43, 0xff, 0xff,
				0, 0x50, 0, 0 } },
		{ PROT32, false, { 0x7f, 3, 0, 0x38, 0xff, 0xff, 0x78, 0x56, 0, 0, 0x21, 0x43, 0, 0 } },
		{ REAL, false, { 0x7f, 3, 0, 0x38, 0xff, 0xff, 0x78, 0x56, 0x45, 0x31, 0x21, 0x43, 0, 0x50 } },
	};
	struct { u32 fcw, fsw, ftw, fip, fop, fdp, fds; } native = {
		0xffff037f, 0xffff3800, 0xffffffff, 0x35678, 0x145 << 16, 0x54321, 0xffff0000,
	}, env;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(forms); i++) {
		struct mkvm_emu *c = &m.emu;
		u8 image[X87_STATE] = { 0 };

		machine_init(forms[i].mode);
		c->size = forms[i].wide ? 4 : 2;
		memcpy(image, &native, sizeof(native));
		EXPECT_EQ(forms[i].wide ? 28 : 14, pack_env(c, image));
		if (!EXPECT_FALSE(memcmp(image, forms[i].head, forms[i].wide ? 28 : 14)))
			printf("# form %u\n", i);
		unpack_env(c, image);
		memcpy(&env, image, sizeof(env));
		EXPECT_EQ(0x037f, (u16)env.fcw);
		EXPECT_EQ(0x3800, (u16)env.fsw);
		EXPECT_EQ(0xffff, (u16)env.ftw);
		EXPECT_EQ(forms[i].mode == PROT32 && !forms[i].wide ? 0x5678 : 0x35678, env.fip);
		EXPECT_EQ(forms[i].mode == PROT32 && !forms[i].wide ? 0x4321 : 0x54321, env.fdp);
		EXPECT_EQ(forms[i].mode == PROT32 && !forms[i].wide ? 0 : 0x145 << 16, env.fop);
	}
}

TEST(segment_limits_are_the_last_byte)
{
	machine_init(PROT32);
	m.seg[MKVM_DS].base = m.seg[MKVM_SS].base = m.ram_base;
	m.seg[MKVM_DS].limit = m.seg[MKVM_SS].limit = 0x2fff;
	m.regs[MKVM_RBX] = m.regs[MKVM_RBP] = 0x2ffc;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));	/* mov eax, [ebx] */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x45, 0x00));
	m.regs[MKVM_RBX] = m.regs[MKVM_RBP] = 0x2ffd;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
	EXPECT_FAULT(SS_VECTOR, 0x8b, 0x45, 0x00);	/* mov eax, [ebp] */
	EXPECT_FAULT(GP_VECTOR, 0x3e, 0x8b, 0x45, 0x00);
	EXPECT_FAULT(SS_VECTOR, 0x36, 0x8b, 0x03);
	m.regs[MKVM_RBX] = 0xfffffffe;			/* around the end of the offsets */
	m.seg[MKVM_DS].limit = 0xffffffff;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
}

TEST(expand_down_segments_begin_above_the_limit)
{
	machine_init(PROT32);
	m.seg[MKVM_DS].type = 7;
	m.seg[MKVM_DS].limit = 0x2fff;
	m.seg[MKVM_DS].base = m.ram_base;
	m.regs[MKVM_RBX] = 0x3000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	m.regs[MKVM_RBX] = 0x2fff;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
	m.seg[MKVM_DS].db = 0;
	m.regs[MKVM_RBX] = 0xfffc;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	m.regs[MKVM_RBX] = 0xfffd;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
}

TEST(segment_types_forbid_writes_and_reads)
{
	machine_init(PROT32);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.seg[MKVM_DS].type = 1;			/* read-only */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	EXPECT_FAULT(GP_VECTOR, 0x89, 0x03);
	EXPECT_FAULT(GP_VECTOR, 0x01, 0x03);		/* the read of an ADD, too */
	EXPECT_EQ(0, m.nr);
	EXPECT_FAULT(GP_VECTOR, 0x2e, 0x89, 0x03);	/* code */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x2e, 0x8b, 0x03));
	m.seg[MKVM_CS].type = 9;			/* execute-only */
	EXPECT_FAULT(GP_VECTOR, 0x2e, 0x8b, 0x03);
	m.seg[MKVM_FS].unusable = 1;
	EXPECT_FAULT(GP_VECTOR, 0x64, 0x8b, 0x03);
	m.emu.rflags |= FLAG_VM;			/* virtual-8086 mode: no types */
	m.emu.mode.cpl = 3;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x89, 0x03));
}

TEST(real_mode_faults_carry_no_error_code)
{
	machine_init(REAL);
	m.regs[MKVM_RBX] = 0xffff;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x07);		/* mov ax, [bx] */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8a, 0x07));
	m.regs[MKVM_RBP] = 0xffff;
	EXPECT_FAULT(SS_VECTOR, 0x8b, 0x46, 0x00);
	m.emu.mode.cr0 = 1;
	m.emu.rflags |= FLAG_VM;
	EXPECT_FAULT(SS_VECTOR, 0x8b, 0x46, 0x00);
}

TEST(non_canonical_addresses_fault)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.regs[MKVM_RBP] = 0x7ffffffffffd;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
	EXPECT_FAULT(SS_VECTOR, 0x8b, 0x45, 0x00);
	EXPECT_FAULT(SS_VECTOR, 0x3e, 0x8b, 0x45, 0x00);	/* DS means nothing */
	EXPECT_FAULT(GP_VECTOR, 0x64, 0x3e, 0x8b, 0x45, 0x00);	/* nor does it undo FS */
	m.regs[MKVM_RBX] = 0xffff7fffffffffffULL;
	EXPECT_FAULT(GP_VECTOR, 0x8b, 0x03);
	EXPECT_FAULT(GP_VECTOR, 0x64, 0x8b, 0x03);
	m.seg[MKVM_FS].base = m.ram_base + 0x2000 - m.regs[MKVM_RBX];
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x64, 0x8b, 0x03));
	m.regs[MKVM_RSP] = 0x800000000008;
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_FAULT(SS_VECTOR, 0xff, 0x33);		/* push [rbx] */
	m.emu.rip = 0x800000000000;
	EXPECT_EQ(MKVM_EMU_FAULT, run_once());
	EXPECT_EQ(GP_VECTOR, m.emu.fault.vector);
}

TEST(no_instruction_leaves_a_non_canonical_rip)
{
	static const u8 code[] = { 0x89, 0x03 };

	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.emu.rip = 0x7ffffffffffe;
	memcpy(m.emu.insn, code, 2);
	m.emu.insn_len = 2;
	EXPECT_EQ(MKVM_EMU_FAULT, mkvm_emulate(&m.emu));
	EXPECT_EQ(GP_VECTOR, m.emu.fault.vector);
	EXPECT_EQ(0x7ffffffffffe, m.emu.rip);
	EXPECT_EQ(0, m.nr);
}

TEST(code_beyond_the_limit_of_cs_faults_and_rip_wraps_at_4_gib)
{
	machine_init(REAL);
	m.emu.rip = 0xfffe;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x88, 0x07));	/* mov [bx], al */
	EXPECT_EQ(0x10000, m.emu.rip);
	EXPECT_FAULT(GP_VECTOR, 0x88, 0x07);
	m.seg[MKVM_CS].limit = 0xffffffff;		/* big real mode, an SMI's handler */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x88, 0x07));
	EXPECT_EQ(0x10002, m.emu.rip);
	m.seg[MKVM_CS].limit = 0xffff;
	m.emu.rip = 0xffff;
	EXPECT_FAULT(GP_VECTOR, 0x88, 0x07);
	EXPECT_EQ(1, m.fetches);
	EXPECT_EQ(1, m.fetch_len[0]);
	machine_init(PROT32);
	m.seg[MKVM_CS].base = m.ram_base;
	m.seg[MKVM_CS].limit = 0x1fff;
	m.emu.rip = 0x1ffe;
	m.regs[MKVM_RBX] = m.ram_base + 0x3000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x88, 0x03));
	EXPECT_EQ(0x2000, m.emu.rip);
	EXPECT_FAULT(GP_VECTOR, 0x88, 0x03);
	m.seg[MKVM_CS].limit = 0x1803;			/* what is beyond is not even fetched */
	m.emu.rip = 0x1802;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x88, 0x03));
	EXPECT_EQ(1, m.fetches);
	EXPECT_EQ(2, m.fetch_len[0]);
	m.seg[MKVM_CS].base = m.ram_base + 0x2000;	/* the last byte of 4 GiB of offsets */
	m.seg[MKVM_CS].limit = 0xffffffff;
	m.emu.rip = 0xfffffffe;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x88, 0x03));
	EXPECT_EQ(0, m.emu.rip);
}

TEST(completion_clears_rf_and_a_fault_does_not)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.emu.rflags = 0x10002;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x89, 0x03));
	EXPECT_EQ(2, m.emu.rflags);
	m.emu.rflags = 0x10002;
	m.regs[MKVM_RBX] = 0;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x89, 0x03));
	EXPECT_EQ(0x10002, m.emu.rflags);
}

TEST(rep_counts_what_the_address_size_says)
{
	machine_init(PROT32);
	m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	m.regs[MKVM_RCX] = 0;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf3, 0xaa));	/* rep stosb, none */
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(m.ram_base + 0x1002, m.emu.rip);
	m.regs[MKVM_RCX] = 0x10000;
	m.emu.rip = m.ram_base + 0x1000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x67, 0xf3, 0xaa));	/* CX is 0 */
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(0x10000, m.regs[MKVM_RCX]);
	m.regs[MKVM_RCX] = 2;
	m.emu.rip = m.ram_base + 0x1000;
	EXPECT_EQ(MKVM_EMU_AGAIN, RUN(0xf3, 0xaa));
	EXPECT_EQ(m.ram_base + 0x1000, m.emu.rip);
	EXPECT_EQ(1, m.regs[MKVM_RCX]);
	EXPECT_EQ(MKVM_EMU_DONE, run_once());
	EXPECT_EQ(0, m.regs[MKVM_RCX]);
	EXPECT_EQ(m.ram_base + 0x2002, m.regs[MKVM_RDI]);

	machine_init(LONG64);
	m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	m.regs[MKVM_RCX] = 0x500000000ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x67, 0xf3, 0xaa));	/* ECX is 0 */
	EXPECT_EQ(0, m.nr);
	m.emu.rip = m.ram_base + 0x1000;
	m.regs[MKVM_RCX] = 0x500000002ULL;
	EXPECT_EQ(MKVM_EMU_AGAIN, RUN(0x67, 0xf3, 0xaa));
	EXPECT_EQ(1, m.regs[MKVM_RCX]);
	m.regs[MKVM_RCX] = 0x500000000ULL;
	EXPECT_EQ(MKVM_EMU_AGAIN, RUN(0xf3, 0xaa));
	EXPECT_EQ(0x4ffffffffULL, m.regs[MKVM_RCX]);
}

TEST(rep_ins_reads_ahead_a_page_or_what_may_be_written)
{
	unsigned int i;

	machine_init(LONG64);
	m.regs[MKVM_RDX] = 0x1f0;
	m.regs[MKVM_RDI] = m.ram_base + 0x2001;
	m.regs[MKVM_RCX] = 256;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf3, 0x66, 0x6d));	/* rep insw */
	EXPECT_EQ(256, m.pio_nr);
	EXPECT_EQ(2, m.nr);
	EXPECT_EQ(512, m.log[0].len);
	EXPECT_EQ(0, m.regs[MKVM_RCX]);
	EXPECT_EQ(m.ram_base + 0x2201, m.regs[MKVM_RDI]);
	for (i = 0; i < 256; i++)
		EXPECT_EQ(port_data(i) & 0xffff, ram_get(m.ram_base + 0x2001 + 2 * i, 2));

	m.regs[MKVM_RCX] = 5000;
	m.emu.rip = m.ram_base + 0x1000;
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());
	EXPECT_EQ(4096, m.log[0].len);
	m.probe_limit = m.regs[MKVM_RDI] + 4095;
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());		/* one by one */
	EXPECT_EQ(2, m.log[0].len);
	EXPECT_EQ(5000 - 2049, m.regs[MKVM_RCX]);
	m.probe_limit = ~0ULL;
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());
	EXPECT_EQ(4096, m.log[0].len);

	m.emu.rflags |= FLAG_DF;
	m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());
	EXPECT_EQ(2, m.log[0].len);
	EXPECT_EQ(m.ram_base + 0x1ffe, m.regs[MKVM_RDI]);
}

TEST(rep_ins_stops_at_the_end_of_offsets_and_segment)
{
	machine_init(PROT32);
	m.seg[MKVM_ES].base = m.ram_base + 0x80;	/* DI wraps within a page */
	m.regs[MKVM_RDI] = 0xfffc;
	m.regs[MKVM_RCX] = 100;
	EXPECT_EQ(MKVM_EMU_AGAIN, RUN(0x67, 0xf3, 0x6c));	/* rep insb */
	EXPECT_EQ(4, m.log[0].len);
	EXPECT_EQ(0, m.regs[MKVM_RDI]);
	m.seg[MKVM_ES].limit = 0x1001;
	m.regs[MKVM_RDI] = 0x1000;
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());
	EXPECT_EQ(MKVM_EMU_AGAIN, run_once());
	EXPECT_EQ(0x1002, m.regs[MKVM_RDI]);
	EXPECT_EQ(MKVM_EMU_FAULT, run_once());
	EXPECT_EQ(0, m.nr);
}

TEST(ins_asks_whether_it_may_write_before_it_reads_the_port)
{
	machine_init(LONG64);
	m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	m.probe_limit = 0;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x6c));
	EXPECT_EQ(14, m.emu.fault.vector);
	EXPECT_EQ(0, m.pio_nr);
}

TEST(ports_need_iopl_where_the_cpu_has_not_checked)
{
	machine_init(PROT32);
	m.regs[MKVM_RSI] = m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	m.emu.mode.cpl = 3;
	EXPECT_FAULT(GP_VECTOR, 0x6c);
	EXPECT_FAULT(GP_VECTOR, 0x6e);
	EXPECT_EQ(0, m.nr);
	m.emu.io_checked = true;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x6c));
	m.emu.io_checked = false;
	m.emu.rflags = 0x3002;			/* IOPL 3 */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x6c));
	m.emu.rflags |= FLAG_VM;
	EXPECT_FAULT(GP_VECTOR, 0x6c);
	m.emu.rflags = 2;
	m.emu.mode.cpl = 0;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x6e));
	EXPECT_EQ('o', m.log[1].kind);
}

TEST(control_registers_by_number_width_and_privilege)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = 7;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x44, 0x0f, 0x22, 0xc3));	/* mov cr8, rbx */
	EXPECT_EQ(7, m.cr[8]);
	m.regs[MKVM_RBX] = 6;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf0, 0x0f, 0x22, 0xc3));	/* lock mov cr0 is cr8 */
	EXPECT_EQ(6, m.cr[8]);
	m.regs[MKVM_RBX] = ~0ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x22, 0xe3));	/* mov cr4, rbx */
	EXPECT_EQ(~0ULL, m.cr[4]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x22, 0x24));	/* mod is not looked at */
	EXPECT_EQ(3, m.emu.insn_len);
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x22, 0xcb);		/* cr1 */
	EXPECT_FAULT(UD_VECTOR, 0x44, 0x0f, 0x22, 0xcb);	/* cr9 */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x0f, 0x22, 0xdb);	/* lock mov cr3 */
	m.regs[MKVM_RBX] = 0xbad;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x22, 0xe3);
	m.emu.mode.cpl = 3;
	m.regs[MKVM_RBX] = 0;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x22, 0xc3);
	machine_init(PROT32);
	m.regs[MKVM_RBX] = 0xffffffff00000001ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x22, 0xe3));	/* 32 bits */
	EXPECT_EQ(1, m.cr[4]);
}

TEST(control_registers_are_read_by_number_width_and_privilege)
{
	machine_init(LONG64);
	m.cr[4] = 0x123456789;
	m.cr[8] = 7;
	m.regs[MKVM_RBX] = m.regs[11] = ~0ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x20, 0xe3));	/* mov rbx, cr4 */
	EXPECT_EQ(0x123456789, m.regs[MKVM_RBX]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x41, 0x0f, 0x20, 0xe3));	/* mov r11, cr4 */
	EXPECT_EQ(0x123456789, m.regs[11]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0x0f, 0x20, 0x24));	/* mov rsp, cr4: mod is not looked at */
	EXPECT_EQ(0x123456789, m.regs[MKVM_RSP]);
	EXPECT_EQ(4, m.emu.insn_len);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x45, 0x0f, 0x20, 0xc3));	/* mov r11, cr8 */
	EXPECT_EQ(7, m.regs[11]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf0, 0x0f, 0x20, 0xc3));	/* lock mov rbx, cr0 is cr8 */
	EXPECT_EQ(7, m.regs[MKVM_RBX]);
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x20, 0xcb);		/* cr1 */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x0f, 0x20, 0xe3);	/* lock mov rbx, cr4 */
	m.emu.mode.cpl = 3;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x20, 0xe3);
	EXPECT_EQ(7, m.regs[MKVM_RBX]);
	machine_init(PROT32);
	m.cr[4] = 0x123456789;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x20, 0xe3));	/* 32 bits */
	EXPECT_EQ(0x23456789, (u32)m.regs[MKVM_RBX]);
}

TEST(undefined_forms_fault_and_unknown_ones_do_not)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x89, 0x03);		/* lock mov */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x03, 0x03);		/* lock add register, memory */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x39, 0x03);		/* lock cmp */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0x0f, 0xa3, 0x03);	/* lock bt */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0xaa);			/* lock stosb */
	EXPECT_FAULT(UD_VECTOR, 0xf0, 0xd1, 0x03);		/* lock rol */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf0, 0x01, 0x03));
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0x01, 0xc3));		/* add register: not in memory */
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0xfe, 0x33));		/* not push */
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0x0f, 0xba, 0x13, 0x00));
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0xc5, 0xf8, 0x77));	/* vzeroupper */
	EXPECT_EQ(15, m.emu.insn_len);				/* all bytes, for the one who is told */
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0x0f, 0x14, 0x03));	/* unpcklps */
	EXPECT_EQ(MKVM_EMU_UNHANDLED, RUN(0x0f, 0xa2));		/* cpuid: only its length */
	EXPECT_EQ(2, m.emu.insn_len);
	EXPECT_EQ(0, m.nr);
	EXPECT_EQ(2, mkvm_insn_length(&m.emu));
	m.emu.insn[1] = 0x0b;
	EXPECT_EQ(0, mkvm_insn_length(&m.emu));
}

TEST(what_cpuid_does_not_show_is_undefined_or_what_it_was_before)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0x80, 8);
	m.lacks = X86_FEATURE_MOVBE;
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x38, 0xf0, 0x03);
	m.lacks = X86_FEATURE_POPCNT;
	EXPECT_FAULT(UD_VECTOR, 0xf3, 0x0f, 0xb8, 0x03);
	m.lacks = X86_FEATURE_BMI2;
	EXPECT_FAULT(UD_VECTOR, 0xc4, 0xe2, 0x73, 0xf6, 0x03);	/* mulx */
	m.lacks = X86_FEATURE_CX16;
	EXPECT_FAULT(UD_VECTOR, 0x48, 0x0f, 0xc7, 0x0b);	/* cmpxchg16b */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xc7, 0x0b));
	m.lacks = X86_FEATURE_ABM;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf3, 0x0f, 0xbd, 0x0b));	/* lzcnt is bsr */
	EXPECT_EQ(7, m.regs[MKVM_RCX]);
	m.lacks = 0;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf3, 0x0f, 0xbd, 0x0b));
	EXPECT_EQ(24, m.regs[MKVM_RCX]);
}

TEST(division_faults_where_the_quotient_does_not_fit)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0, 8);
	EXPECT_FAULT(DE_VECTOR, 0x48, 0xf7, 0x33);		/* div [rbx]: by 0 */
	ram_put(m.regs[MKVM_RBX], 7, 8);
	m.regs[MKVM_RDX] = 7;
	EXPECT_FAULT(DE_VECTOR, 0x48, 0xf7, 0x33);
	EXPECT_EQ(false, m.emu.fault.has_error);
	m.regs[MKVM_RDX] = 6;
	m.regs[MKVM_RAX] = ~0ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x48, 0xf7, 0x33));
	EXPECT_EQ(~0ULL, m.regs[MKVM_RAX]);
	EXPECT_EQ(6, m.regs[MKVM_RDX]);
	ram_put(m.regs[MKVM_RBX], ~0ULL, 8);				/* the lowest number by -1 */
	m.regs[MKVM_RDX] = ~0ULL;
	m.regs[MKVM_RAX] = 1ULL << 63;
	EXPECT_FAULT(DE_VECTOR, 0x48, 0xf7, 0x3b);		/* idiv [rbx] */
	ram_put(m.regs[MKVM_RBX], 1, 8);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x48, 0xf7, 0x3b));
	EXPECT_EQ(1ULL << 63, m.regs[MKVM_RAX]);
	m.regs[MKVM_RAX] = 0xff80;					/* -128 by 1, and by -1 */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf6, 0x3b));
	EXPECT_EQ(0x80, m.regs[MKVM_RAX] & 0xffff);
	ram_put(m.regs[MKVM_RBX], 0xff, 1);
	m.regs[MKVM_RAX] = 0xff80;
	EXPECT_FAULT(DE_VECTOR, 0xf6, 0x3b);
}

/* What reads its operand and writes it; with the operand at [rbx]. */
static const u8 replacing[][6] = {
	{ 0xf0, 0x01, 0x0b },			/* lock add [rbx], ecx */
	{ 0xf0, 0x48, 0x83, 0x2b, 0x05 },	/* lock sub qword [rbx], 5 */
	{ 0x86, 0x0b },				/* xchg [rbx], cl */
	{ 0x66, 0x87, 0x0b },			/* xchg [rbx], cx */
	{ 0xf0, 0x0f, 0xc1, 0x0b },		/* lock xadd [rbx], ecx */
	{ 0xf0, 0x0f, 0xb1, 0x0b },		/* lock cmpxchg [rbx], ecx */
	{ 0xf0, 0x0f, 0xc7, 0x0b },		/* lock cmpxchg8b [rbx] */
	{ 0xf0, 0x48, 0x0f, 0xc7, 0x0b },	/* lock cmpxchg16b [rbx] */
	{ 0xf0, 0x0f, 0xba, 0x2b, 0x09 },	/* lock bts dword [rbx], 9 */
	{ 0xf0, 0xf7, 0x1b },			/* lock neg dword [rbx] */
	{ 0xf0, 0xf7, 0x13 },			/* lock not dword [rbx] */
	{ 0xf0, 0xfe, 0x0b },			/* lock dec byte [rbx] */
};

TEST(an_operand_that_another_processor_changes_is_not_written_over)
{
	struct machine before;
	unsigned int n;

	for (n = 0; n < ARRAY_SIZE(replacing); n++) {
		machine_init(LONG64);
		m.regs[MKVM_RBX] = m.ram_base + 0x2000;
		m.regs[MKVM_RCX] = 0x1122334455667788;
		ram_put(m.regs[MKVM_RBX], 0x55, 8);
		ram_put(m.regs[MKVM_RBX] + 8, 0, 8);
		put_code(code_la(), replacing[n], sizeof(replacing[n]));
		m.meddle = m.regs[MKVM_RBX];
		before = m;
		if (!EXPECT_EQ(MKVM_EMU_RETRY, run_once()) || !EXPECT_EQ(0xaa, ram_get(m.regs[MKVM_RBX], 8)) ||
		    !EXPECT_FALSE(memcmp(m.regs, before.regs, sizeof(m.regs))) ||
		    !EXPECT_EQ(before.emu.rip, m.emu.rip) || !EXPECT_EQ(before.emu.rflags, m.emu.rflags))
			printf("# case %u\n", n);
		EXPECT_EQ(MKVM_EMU_DONE, run_once());
		if (n == 4)
			EXPECT_EQ(0x55667788 + 0xaa, ram_get(m.regs[MKVM_RBX], 8));
	}
}

TEST(pairs_are_compared_and_always_written)
{
	machine_init(LONG64);
	m.regs[MKVM_RSI] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RSI], 0x1111111122222222, 8);
	m.regs[MKVM_RAX] = 0x22222222;
	m.regs[MKVM_RDX] = 0x11111111;
	m.regs[MKVM_RBX] = 0x33333333;
	m.regs[MKVM_RCX] = 0x44444444;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf0, 0x0f, 0xc7, 0x0e));	/* lock cmpxchg8b [rsi] */
	EXPECT_EQ(0x40, m.emu.rflags & 0x40);
	EXPECT_EQ(0x4444444433333333, ram_get(m.regs[MKVM_RSI], 8));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xf0, 0x0f, 0xc7, 0x0e));
	EXPECT_EQ(0, m.emu.rflags & 0x40);
	EXPECT_EQ(0x33333333, m.regs[MKVM_RAX]);
	EXPECT_EQ(0x44444444, m.regs[MKVM_RDX]);
	EXPECT_EQ(2, m.nr);
	ram_put(m.regs[MKVM_RSI] + 8, 5, 8);
	m.regs[MKVM_RAX] = 0x4444444433333333;
	m.regs[MKVM_RDX] = 5;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x48, 0x0f, 0xc7, 0x0e));
	EXPECT_EQ(0x33333333, ram_get(m.regs[MKVM_RSI], 8));
	EXPECT_EQ(0x44444444, ram_get(m.regs[MKVM_RSI] + 8, 8));
	m.regs[MKVM_RSI] += 8;
	EXPECT_FAULT(GP_VECTOR, 0x48, 0x0f, 0xc7, 0x0e);	/* not aligned to 16 bytes */
}

TEST(bounds_are_of_the_operands_size)
{
	machine_init(PROT32);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0x0000000500000000 | (u32)-5, 8);
	m.regs[MKVM_RAX] = 5;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0x03));
	m.regs[MKVM_RAX] = (u32)-5;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x62, 0x03));
	m.regs[MKVM_RAX] = 6;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x62, 0x03));
	EXPECT_EQ(BR_VECTOR, m.emu.fault.vector);
	EXPECT_FALSE(m.emu.fault.has_error);
}

TEST(enter_copies_the_frame_pointers_of_the_levels_above)
{
	machine_init(LONG64);
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	m.regs[MKVM_RBP] = m.ram_base + 0x2800;
	ram_put(m.regs[MKVM_RBP] - 8, 0x1111, 8);
	ram_put(m.regs[MKVM_RBP] - 16, 0x2222, 8);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc8, 0x20, 0x00, 0x03));	/* enter 32, 3 */
	EXPECT_EQ(m.ram_base + 0x2800, ram_get(m.ram_base + 0x2ff8, 8));
	EXPECT_EQ(0x1111, ram_get(m.ram_base + 0x2ff0, 8));
	EXPECT_EQ(0x2222, ram_get(m.ram_base + 0x2fe8, 8));
	EXPECT_EQ(m.ram_base + 0x2ff8, ram_get(m.ram_base + 0x2fe0, 8));
	EXPECT_EQ(m.ram_base + 0x2ff8, m.regs[MKVM_RBP]);
	EXPECT_EQ(m.ram_base + 0x2fe0 - 0x20, m.regs[MKVM_RSP]);
}

TEST(a_popped_operand_by_the_stack_pointer_is_at_the_new_one)
{
	machine_init(LONG64);
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	ram_put(m.regs[MKVM_RSP], 0x77, 8);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8f, 0x44, 0x24, 0x08));	/* pop [rsp + 8] */
	EXPECT_EQ(0x77, ram_get(m.ram_base + 0x3010, 8));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x5c));			/* pop rsp */
}

TEST(flags_are_popped_as_privilege_allows)
{
	machine_init(LONG64);
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	ram_put(m.regs[MKVM_RSP], 0x3f7fd7, 8);
	ram_put(m.regs[MKVM_RSP] + 8, 2, 8);
	m.emu.mode.cpl = 3;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x9d));
	EXPECT_EQ(0x244dd7, m.emu.rflags);			/* neither IF nor IOPL, VM, RF, VIF, VIP */
	m.emu.mode.cpl = 0;
	m.emu.rflags = 0x202;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0x9d));		/* 16 bits */
	EXPECT_EQ(2, m.emu.rflags);
	machine_init(REAL);
	m.emu.mode.cr0 = 1;
	m.emu.rflags |= FLAG_VM;
	m.emu.mode.cpl = 3;
	EXPECT_FAULT(GP_VECTOR, 0x9c);				/* pushf with IOPL 0 */
}

TEST(branches_out_of_the_segment_or_to_no_address_fault)
{
	machine_init(LONG64);
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0x800000000000, 8);
	EXPECT_FAULT(GP_VECTOR, 0xff, 0x13);			/* call [rbx] */
	EXPECT_EQ(m.ram_base + 0x3000, m.regs[MKVM_RSP]);
	EXPECT_FAULT(GP_VECTOR, 0xff, 0x23);			/* jmp [rbx] */
	machine_init(PROT32);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	m.regs[MKVM_RSP] = m.ram_base + 0x3000;
	m.seg[MKVM_CS].limit = m.ram_base + 0x4fff;
	ram_put(m.regs[MKVM_RBX], m.ram_base + 0x5000, 4);
	EXPECT_FAULT(GP_VECTOR, 0xff, 0x23);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0xff, 0x23));	/* 16 bits of it */
	EXPECT_EQ(0x5000, m.emu.rip);
}

TEST(programs_that_ask_for_it_hear_of_addresses_that_are_not_aligned)
{
	machine_init(LONG64);
	m.regs[MKVM_RBX] = m.ram_base + 0x2001;
	m.emu.rflags |= X86_EFLAGS_AC;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
	m.emu.mode.cr0 |= X86_CR0_AM;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));		/* CPL 0 */
	m.emu.mode.cpl = 3;
	EXPECT_FAULT(AC_VECTOR, 0x8b, 0x03);
	EXPECT_FAULT(AC_VECTOR, 0x0f, 0x44, 0x03);		/* cmov */
	EXPECT_FAULT(AC_VECTOR, 0xf3, 0x0f, 0x10, 0x03);	/* movss */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x10, 0x03));	/* movups has no alignment */
	EXPECT_FAULT(AC_VECTOR, 0xdb, 0x2b);			/* fld of 10 bytes: 8 */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8a, 0x03));
	m.regs[MKVM_RBX] = 0x666001;					/* before the page is found to be missing */
	EXPECT_FAULT(AC_VECTOR, 0x8b, 0x03);
	m.regs[MKVM_RBX] = m.ram_base + 0x2001;
	m.emu.rflags &= ~(u64)X86_EFLAGS_AC;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8b, 0x03));
}

/* A GDT at 0x3000 of RAM: 8 code, 0x10 data, 0x18 TSS, 0x28 LDT, each present; all of it supervisor's. */
static void put_gdt(void)
{
	u64 long_code = m.mode == LONG64 ? 0x00af9a000000ffff : 0x00cf9a000000ffff;
	u64 at = m.ram_base + 0x3000, tss = m.ram_base + 0x2000;

	m.dt[0] = (struct kvm_dtable){ .base = at, .limit = 0x37 };
	ram_put(at, 0, 8);
	ram_put(at + 8, long_code, 8);
	ram_put(at + 0x10, 0x00cf92000000ffff, 8);
	ram_put(at + 0x18, 0x0000890000000067 | (tss & 0xffffff) << 16 | tss >> 24 << 56, 8);
	ram_put(at + 0x20, 0, 8);
	ram_put(at + 0x28, 0x000082004000002f, 8);
	ram_put(at + 0x30, 0, 8);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
}

#define EXPECT_SELECTOR_FAULT(vec, selector, ...) do {				\
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(__VA_ARGS__));				\
	EXPECT_EQ(vec, m.emu.fault.vector);					\
	EXPECT_TRUE(m.emu.fault.has_error);					\
	EXPECT_EQ(selector, m.emu.fault.error); } while (0)

TEST(segment_registers_are_loaded_with_all_checks)
{
	machine_init(PROT32);
	put_gdt();
	ram_put(m.regs[MKVM_RBX], 0x10, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8e, 0x1b));		/* mov ds, [ebx] */
	EXPECT_EQ(0x10, m.seg[MKVM_DS].selector);
	EXPECT_EQ(0xffffffff, m.seg[MKVM_DS].limit);
	EXPECT_EQ(3, m.seg[MKVM_DS].type);
	EXPECT_EQ(0x93, ram_get(m.ram_base + 0x3015, 1));	/* accessed */
	EXPECT_FALSE(m.emu.ss_loaded);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8e, 0x13));		/* mov ss, [ebx] */
	EXPECT_TRUE(m.emu.ss_loaded);
	EXPECT_FAULT(UD_VECTOR, 0x8e, 0x0b);			/* mov cs, [ebx] */
	ram_put(m.regs[MKVM_RBX], 8, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8e, 0x03));		/* readable code in ES */
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 8, 0x8e, 0x13);	/* not in SS */
	ram_put(m.regs[MKVM_RBX], 0x18, 2);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x18, 0x8e, 0x1b);	/* a TSS */
	ram_put(m.regs[MKVM_RBX], 0x3b, 2);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x38, 0x8e, 0x1b);	/* beyond the table */
	ram_put(m.regs[MKVM_RBX], 0x14, 2);
	m.seg[MKVM_EMU_LDTR].unusable = 1;
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x14, 0x8e, 0x1b);	/* no LDT */
	ram_put(m.regs[MKVM_RBX], 0x13, 2);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x10, 0x8e, 0x1b);	/* RPL above DPL */
	ram_put(m.ram_base + 0x3015, 0x13, 1);
	ram_put(m.regs[MKVM_RBX], 0x10, 2);
	EXPECT_SELECTOR_FAULT(NP_VECTOR, 0x10, 0x8e, 0x1b);
	EXPECT_SELECTOR_FAULT(SS_VECTOR, 0x10, 0x8e, 0x13);
	ram_put(m.regs[MKVM_RBX], 3, 2);				/* no segment */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x8e, 0x2b));		/* mov gs, [ebx] */
	EXPECT_TRUE(m.seg[MKVM_GS].unusable);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0, 0x8e, 0x13);
}

TEST(segment_registers_of_real_mode_take_any_selector)
{
	machine_init(REAL);
	m.regs[MKVM_RBX] = 0x2000;
	ram_put(0x2000, 0x12345678, 4);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xc4, 0x0f));		/* les cx, [bx] */
	EXPECT_EQ(0x5678, m.regs[MKVM_RCX]);
	EXPECT_EQ(0x1234, m.seg[MKVM_ES].selector);
	EXPECT_EQ(0x12340, m.seg[MKVM_ES].base);
	EXPECT_EQ(0xffff, m.seg[MKVM_ES].limit);
	m.regs[MKVM_RSP] = 0x3000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x06));			/* push es */
	EXPECT_EQ(0x1234, ram_get(0x2ffe, 2));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x1f));			/* pop ds */
	EXPECT_EQ(0x12340, m.seg[MKVM_DS].base);
	EXPECT_EQ(0x3000, m.regs[MKVM_RSP]);
	m.seg[MKVM_DS].base = 0;
	EXPECT_EQ(MKVM_EMU_FAULT, RUN(0x0f, 0x00, 0x1f));	/* ltr [bx] */
	EXPECT_EQ(UD_VECTOR, m.emu.fault.vector);
}

TEST(the_task_register_marks_its_descriptor_unless_that_is_in_a_rom)
{
	unsigned int rom;

	for (rom = 0; rom < 2; rom++) {
		machine_init(LONG64);
		put_gdt();
		m.rom_end = rom ? m.ram_base + RAM_SIZE : 0;
		m.regs[MKVM_RCX] = 0x18;
		EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0xd9));	/* ltr cx */
		EXPECT_EQ(0x18, m.seg[MKVM_EMU_TR].selector);
		EXPECT_EQ(11, m.seg[MKVM_EMU_TR].type);
		EXPECT_EQ(m.ram_base + 0x2000, m.seg[MKVM_EMU_TR].base);
		EXPECT_EQ(rom ? 0x89 : 0x8b, ram_get(m.ram_base + 0x301d, 1));
		if (!rom)
			EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x18, 0x0f, 0x00, 0xd9);	/* busy */
	}
	m.regs[MKVM_RCX] = 0x28;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0xd1));	/* lldt cx */
	EXPECT_EQ(0x2f, m.seg[MKVM_EMU_LDTR].limit);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x28, 0x0f, 0x00, 0xd9);
	m.emu.mode.cpl = 3;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x00, 0xd1);
}

TEST(a_descriptor_that_another_processor_changes_is_checked_again)
{
	machine_init(LONG64);
	put_gdt();
	m.regs[MKVM_RCX] = 0x18;
	m.meddle = m.ram_base + 0x301d;
	put_code(code_la(), (const u8 []){ 0x0f, 0x00, 0xd9 }, 3);	/* ltr cx */
	EXPECT_EQ(MKVM_EMU_RETRY, run_once());
	EXPECT_EQ(0x76, ram_get(m.ram_base + 0x301d, 1));
	EXPECT_EQ(0, m.seg[MKVM_EMU_TR].selector);
	ram_put(m.ram_base + 0x301d, 0x8b, 1);			/* another one has loaded it */
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x18, 0x0f, 0x00, 0xd9);
	m.regs[MKVM_RCX] = 0x10;
	m.meddle = m.ram_base + 0x3015;
	put_code(code_la(), (const u8 []){ 0x8e, 0xd9 }, 2);	/* mov ds, ecx */
	EXPECT_EQ(MKVM_EMU_RETRY, run_once());
	EXPECT_EQ(0x6d, ram_get(m.ram_base + 0x3015, 1));
	EXPECT_EQ(0, m.seg[MKVM_DS].selector);
}

TEST(descriptor_tables_and_system_registers_are_stored_and_loaded)
{
	machine_init(LONG64);
	put_gdt();
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0x03));	/* sgdt [rbx] */
	EXPECT_EQ(0x37, ram_get(m.regs[MKVM_RBX], 2));
	EXPECT_EQ(m.ram_base + 0x3000, ram_get(m.regs[MKVM_RBX] + 2, 8));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0x1b));	/* lidt [rbx] */
	EXPECT_EQ(0x37, m.dt[1].limit);
	EXPECT_EQ(m.ram_base + 0x3000, m.dt[1].base);
	ram_put(m.regs[MKVM_RBX] + 2, 0x800000000000, 8);
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x01, 0x13);		/* lgdt [rbx] */
	m.seg[MKVM_EMU_TR].selector = 0x18;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0x0b));	/* str [rbx] */
	EXPECT_EQ(0x18, ram_get(m.regs[MKVM_RBX], 2));
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0x23));	/* smsw [rbx] */
	EXPECT_EQ(1, ram_get(m.regs[MKVM_RBX], 2));
	m.regs[MKVM_RAX] = ~0ULL;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0x0f, 0x01, 0xe0));	/* smsw ax */
	EXPECT_EQ(~0xffffULL | (u16)m.emu.mode.cr0, m.regs[MKVM_RAX]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0xe0));	/* smsw eax */
	EXPECT_EQ((u32)m.emu.mode.cr0, m.regs[MKVM_RAX]);
	ram_put(m.regs[MKVM_RBX], 0xfffa, 2);			/* PE stays */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0x33));	/* lmsw [rbx] */
	EXPECT_EQ(0xb, m.cr[0]);
	m.regs[MKVM_RAX] = 0xfff5;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0xf0));	/* lmsw ax */
	EXPECT_EQ(5, m.cr[0]);
	m.emu.mode.cpl = 3;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x01, 0x03));
	m.emu.mode.cr4 |= X86_CR4_UMIP;
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x01, 0x03);
	EXPECT_FAULT(GP_VECTOR, 0x0f, 0x01, 0x33);
	machine_init(PROT32);
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	ram_put(m.regs[MKVM_RBX], 0xff445566001fULL, 6);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0x0f, 0x01, 0x13));	/* 24 bits of the base */
	EXPECT_EQ(0x445566, m.dt[0].base);
}

TEST(far_branches_within_a_level_change_cs)
{
	machine_init(PROT32);
	put_gdt();
	m.regs[MKVM_RSP] = m.ram_base + 0x5000;
	m.seg[MKVM_CS].selector = 0x30;
	ram_put(m.regs[MKVM_RBX], 0x8000000000ULL | (u32)(m.ram_base + 0x1800), 6);
	ram_put(m.regs[MKVM_RBX] + 4, 8, 2);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xff, 0x1b));		/* call far [ebx] */
	EXPECT_EQ(m.ram_base + 0x1800, m.emu.rip);
	EXPECT_EQ(8, m.seg[MKVM_CS].selector);
	EXPECT_EQ(0x30, ram_get(m.ram_base + 0x4ffc, 4));
	EXPECT_EQ(m.ram_base + 0x1002, ram_get(m.ram_base + 0x4ff8, 4));
	EXPECT_EQ(0x9b, ram_get(m.ram_base + 0x300d, 1));	/* accessed */
	ram_put(m.ram_base + 0x4ffc, 8, 4);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xca, 0x04, 0x00));	/* retf 4 */
	EXPECT_EQ(m.ram_base + 0x1002, m.emu.rip);
	EXPECT_EQ(m.ram_base + 0x5004, m.regs[MKVM_RSP]);
	ram_put(m.regs[MKVM_RBX] + 4, 0x10, 2);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x10, 0xff, 0x2b);	/* jmp far to data */
	ram_put(m.regs[MKVM_RBX] + 4, 0x18, 2);
	ram_put(m.ram_base + 0x301d, 0x82, 1);
	EXPECT_SELECTOR_FAULT(GP_VECTOR, 0x18, 0xff, 0x2b);	/* to an LDT */
	machine_init(REAL);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0xea, 0x34, 0x12, 0x00, 0x20));
	EXPECT_EQ(0x1234, m.emu.rip);
	EXPECT_EQ(0x20000, m.seg[MKVM_CS].base);
}

TEST(selectors_are_verified_without_a_fault)
{
	machine_init(PROT32);
	put_gdt();
	m.regs[MKVM_RCX] = 0x10;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0xe9));	/* verw cx */
	EXPECT_EQ(0x40, m.emu.rflags & 0x40);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x03, 0xd1));	/* lsl edx, cx */
	EXPECT_EQ(0xffffffff, m.regs[MKVM_RDX]);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x02, 0xd1));	/* lar edx, cx */
	EXPECT_EQ(0xcf9200, m.regs[MKVM_RDX]);
	m.regs[MKVM_RCX] = 8;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0xe9));	/* code cannot be written */
	EXPECT_EQ(0, m.emu.rflags & 0x40);
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x00, 0xe1));	/* verr cx */
	EXPECT_EQ(0x40, m.emu.rflags & 0x40);
	m.regs[MKVM_RCX] = 0x1000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0x03, 0xd1));
	EXPECT_EQ(0, m.emu.rflags & 0x40);
	EXPECT_EQ(0xcf9200, m.regs[MKVM_RDX]);
	m.emu.rflags |= FLAG_VM;
	EXPECT_FAULT(UD_VECTOR, 0x0f, 0x00, 0xe1);
}

TEST(bit_offsets_wrap_with_the_address_size)
{
	machine_init(REAL);
	m.regs[MKVM_RBX] = 0xfff0;
	m.regs[MKVM_RAX] = 0x101;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xab, 0x07));	/* bts [bx], ax */
	EXPECT_EQ(0x10, m.log[0].addr);
	EXPECT_EQ('m', m.log[0].kind);
	EXPECT_EQ(0x10, m.log[1].addr);
	m.regs[MKVM_RBX] = 0x2000;
	m.regs[MKVM_RAX] = 0xfff1;					/* bit -15 */
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x0f, 0xa3, 0x07));	/* bt [bx], ax */
	EXPECT_EQ(0x1ffe, m.log[0].addr);
	EXPECT_EQ('r', m.log[0].kind);
}

TEST(a_round_of_repe_cmps_leaves_its_flags)
{
	machine_init(LONG64);
	m.regs[MKVM_RSI] = m.regs[MKVM_RDI] = m.ram_base + 0x2000;
	m.regs[MKVM_RCX] = 3;
	m.emu.rflags = 0x10003;
	EXPECT_EQ(MKVM_EMU_AGAIN, RUN(0xf3, 0xa6));
	EXPECT_EQ(0x10046, m.emu.rflags);			/* RF stays until the end */
	m.regs[MKVM_RDI]++;
	ram_put(m.regs[MKVM_RSI], 0x0201, 2);
	EXPECT_EQ(MKVM_EMU_DONE, run_once());
	EXPECT_EQ(1, m.regs[MKVM_RCX]);
	EXPECT_EQ(1, m.emu.rflags & 0x10041);
}

TEST(push_uses_as_much_of_the_stack_pointer_as_the_stack_segment_says)
{
	machine_init(PROT32);
	m.seg[MKVM_SS].db = 0;					/* SP, not ESP */
	m.seg[MKVM_SS].base = m.ram_base;
	m.regs[MKVM_RSP] = 0x50000;
	m.regs[MKVM_RBX] = m.ram_base + 0x2000;
	EXPECT_EQ(MKVM_EMU_DONE, RUN(0x66, 0xff, 0x33));	/* push word [ebx] */
	EXPECT_EQ(0x5fffe, m.regs[MKVM_RSP]);
	EXPECT_EQ(m.ram_base + 0xfffe, m.log[1].addr);
}

/* Whatever the bytes and registers are, a call ends, stays in bounds and keeps what it must. */
TEST(garbage_is_harmless)
{
	unsigned int n, i, results[5] = { 0 };

	for (n = 0; n < 1500000; n++) {
		enum mkvm_emu_result res;
		u64 rip;

		if (n % 1000 == 0) {
			machine_init(random_below(3));
			m.emu.mode.cs_db = chance(50);
			m.emu.mode.cs_l = chance(50);
			m.emu.mode.cr0 = chance(80);
			m.emu.mode.cpl = ktap_random() & 3;
			m.emu.io_checked = chance(50);
			for (i = 0; i < 6; i++) {
				m.seg[i].type = ktap_random() & 15;
				m.seg[i].db = chance(50);
				m.seg[i].limit = ktap_random() >> (32 + random_below(16));
			}
		}
		if (n % 4 == 0)
			for (i = 0; i < 16; i++)
				m.regs[i] = random_register();
		random_bytes(m.emu.insn, m.mode);
		m.emu.insn_len = chance(90) ? MKVM_MAX_INSN : random_below(MKVM_MAX_INSN + 1);
		m.emu.rip = rip = m.ram_base + (ktap_random() & 0xffff);
		m.emu.rflags = 2 | (ktap_random() & 0x37fd5);
		m.nr = 0;
		m.exit_at = chance(10) ? 1 + random_below(3) : ~0u;
		res = mkvm_emulate(&m.emu);
		results[res]++;
		if (!EXPECT_GE(MKVM_MAX_INSN, m.emu.insn_len) || !EXPECT_GE(64, m.nr) ||	/* as ENTER */
		    (res != MKVM_EMU_DONE && !EXPECT_EQ(rip, m.emu.rip)))
			return;
	}
	for (i = 0; i < 5; i++)
		EXPECT_LT(300, results[i]);
}
