// SPDX-License-Identifier: GPL-2.0
/*
 * profile-plugin: a QEMU TCG plugin that counts executed instructions by
 * address, between the marks that exits puts around its measured rounds.
 *
 * Every instruction that QEMU translates gets a counter which the translated
 * code itself increments, so nothing is sampled and the counts are exact. The
 * marks (a long no-operation with a magic displacement, see exits.c) set all
 * counters to zero and write them out.
 *
 * State: one slot a distinct (address, code byte length) in slots[], found
 * through an open-addressed hash; slot i counts in word i of one scoreboard.
 * The lab has one processor and one emulator thread: no locks.
 *
 * Output: lines "ADDRESS C COUNT BYTES", the address as 16 hex digits and the
 * instruction's bytes in hex, to the file given as out=FILE; the last pair of
 * marks wins.
 *
 * Read next: profile, which turns this into a table of functions.
 *
 * Debian does not package QEMU's plugin header. What this file uses of the
 * interface is declared here, from QEMU's document on TCG plugins, version 4.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;

typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;

enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(uint64_t id, struct qemu_plugin_tb *tb));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t len);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, void (*cb)(unsigned int vcpu, void *data),
					    enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn, enum qemu_plugin_op op,
							 qemu_plugin_u64 entry, uint64_t value);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element_size);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *score, unsigned int vcpu);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 4;
EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

#define SLOTS		(1u << 22)	/* a lab's boot translates some 400,000 addresses */
#define MAX_INSN	15
static const uint8_t mark_bytes[] = { 0x0f, 0x1f, 0x80, 0, 0x56, 0x4b, 0x4d };

struct slot {
	uint64_t address;
	uint8_t size;		/* 0: free */
	uint8_t bytes[MAX_INSN];
};

static struct slot *slots;
static unsigned int used;
static struct qemu_plugin_scoreboard *score;
static const char *out_name;

/* The slot of an instruction; a new one when the address or the bytes there are new. */
static unsigned int slot_of(uint64_t address, const uint8_t *bytes, uint8_t size)
{
	unsigned int i = (address * 0x9e3779b97f4a7c15ull) >> 42;

	while (slots[i].size &&
	       (slots[i].address != address || slots[i].size != size || memcmp(slots[i].bytes, bytes, size)))
		i = (i + 1) & (SLOTS - 1);
	if (!slots[i].size) {
		if (++used == SLOTS - SLOTS / 8) {
			fprintf(stderr, "profile-plugin: more code than there are slots\n");
			abort();
		}
		slots[i].address = address;
		slots[i].size = size;
		memcpy(slots[i].bytes, bytes, size);
	}
	return i;
}

static void on_start(unsigned int vcpu, void *data)
{
	(void)data;
	memset(qemu_plugin_scoreboard_find(score, vcpu), 0, SLOTS * sizeof(uint64_t));
}

static void on_stop(unsigned int vcpu, void *data)
{
	const uint64_t *count = qemu_plugin_scoreboard_find(score, vcpu);
	FILE *out = fopen(out_name, "w");
	unsigned int i, b;

	(void)data;
	if (!out) {
		perror(out_name);
		abort();
	}
	for (i = 0; i < SLOTS; i++) {
		if (!count[i])
			continue;
		fprintf(out, "%016llx C %llu ", (unsigned long long)slots[i].address, (unsigned long long)count[i]);
		for (b = 0; b < slots[i].size; b++)
			fprintf(out, "%02x", slots[i].bytes[b]);
		fputc('\n', out);
	}
	if (fclose(out)) {
		perror(out_name);
		abort();
	}
}

/* 1: start, 2: stop, 0: any other instruction. */
static int mark_of(const uint8_t *bytes, size_t size)
{
	if (size != sizeof(mark_bytes) || memcmp(bytes, mark_bytes, 3) || memcmp(bytes + 4, mark_bytes + 4, 3))
		return 0;
	return bytes[3] == 1 || bytes[3] == 2 ? bytes[3] : 0;
}

static void on_translate(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t n = qemu_plugin_tb_n_insns(tb), i, size;
	uint8_t bytes[MAX_INSN];

	(void)id;
	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		qemu_plugin_u64 counter = { .score = score };

		size = qemu_plugin_insn_size(insn);
		if (!size || size > MAX_INSN)
			continue;
		qemu_plugin_insn_data(insn, bytes, size);
		switch (mark_of(bytes, size)) {
		case 1:
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_start, QEMU_PLUGIN_CB_NO_REGS, NULL);
			break;
		case 2:
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
			break;
		default:
			counter.offset = slot_of(qemu_plugin_insn_vaddr(insn), bytes, size) * sizeof(uint64_t);
			qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, QEMU_PLUGIN_INLINE_ADD_U64,
									    counter, 1);
		}
	}
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4)) {
		fprintf(stderr, "profile-plugin: wants out=FILE\n");
		return 1;
	}
	out_name = strdup(argv[0] + 4);
	slots = calloc(SLOTS, sizeof(*slots));
	if (!out_name || !slots)
		return 1;
	score = qemu_plugin_scoreboard_new(SLOTS * sizeof(uint64_t));
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}
