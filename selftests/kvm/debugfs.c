// SPDX-License-Identifier: GPL-2.0
/*
 * The files of each VM in debugfs: what they show, as text and as JSON, that looking disturbs
 * nobody, and that a VM may go while somebody looks.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../uapi/mkvm.h"
#include "../../userspace/top/json.h"
#include "vm.h"

#define TOP "/sys/kernel/debug/mkvm"
#define ROUNDS 300
#define VECTOR 0x41
#define OTHERS "Linux KVM has other files in debugfs"

static const char *const files[] = {
	"vcpus", "irqchip", "routing", "memslots", "stats",
	"vcpus.json", "irqchip.json", "routing.json", "memslots.json", "stats.json",
};

#define NR_FILES (int)(sizeof(files) / sizeof(files[0]))

/* The directory of this process's newest VM. */
static void find_vm(char *path, size_t size)
{
	char prefix[32];
	struct dirent *d;
	int newest = -1, number;
	DIR *dir;

	dir = opendir(TOP);
	if (!dir)
		SKIP(TOP " is not there: debugfs is not mounted, or may not be read");
	snprintf(prefix, sizeof(prefix), "%d-%%d", getpid());
	while ((d = readdir(dir)))
		if (sscanf(d->d_name, prefix, &number) == 1 && number > newest)
			newest = number;
	closedir(dir);
	ASSERT_LE(0, newest);
	snprintf(path, size, TOP "/%d-%d", getpid(), newest);
}

/* The whole file; a VM that has gone: "". */
static const char *look(const char *vm, const char *file)
{
	static char text[65536];
	char path[256];
	size_t n = 0;
	ssize_t r;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", vm, file);
	fd = open(path, O_RDONLY);
	while (fd >= 0 && (r = read(fd, text + n, sizeof(text) - 1 - n)) > 0)
		n += r;
	if (fd >= 0)
		close(fd);
	text[n] = 0;
	return text;
}

static void expect_shown(const char *vm, const char *file, const char *words)
{
	const char *text = look(vm, file);

	if (!strstr(text, words))
		FAIL("%s does not say '%s' but: %.2000s", file, words, text);
}

/* The first object of a list in a file. */
static const struct json *first_of(struct json **tree, const char *vm, const char *file,
				   const char *list)
{
	const struct json *objects;

	*tree = json_parse((char *)look(vm, file));
	ASSERT_EQ(1, json_number(*tree, "version", -1));
	objects = json_get(*tree, list);
	ASSERT_TRUE(objects && objects->type == JSON_LIST && objects->child);
	return objects->child;
}

static void expect_string(const char *want, const struct json *object, const char *key)
{
	const char *seen = json_string(object, key, "(none)");

	if (strcmp(want, seen))
		FAIL("%s is '%s', not '%s'", key, seen, want);
}

static void guest_setup(void)
{
	irq_count_range(0x20, 0xfe);
	apic_enable();
}

static void halts(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	sti_hlt_cli();
	stage(2);
}

static void wait_until_shown(const char *vm, const char *words)
{
	WAIT_FOR(strstr(look(vm, "vcpus"), words));
}

/* The guest has not allowed the interrupt that it gets. */
static void let_one_wait(struct vm *vm, struct vcpu *vcpu, char *path, size_t size)
{
	find_vm(path, size);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), VECTOR));
}

TEST(each_file_shows_its_part_of_the_vm)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halts, 0);
	char path[128];

	if (is_linux_kvm())
		SKIP(OTHERS);
	let_one_wait(vm, vcpu, path, sizeof(path));
	expect_shown(path, "vcpus", "vcpu 0: RUNNABLE, outside");
	expect_shown(path, "vcpus", cpu_is_intel() ? "last exit IO_INSTRUCTION" : "last exit io");
	expect_shown(path, "vcpus", "vector 0x41 waits: IF=0");
	expect_shown(path, "irqchip", "irr 0x41 isr\n");
	expect_shown(path, "irqchip", "pic 1: base");
	expect_shown(path, "irqchip", "ioapic pin 23: vector 0x00 mode 0 dest 0x00 edge low, masked");
	expect_shown(path, "routing", "gsi 5: pic 0 pin 5\ngsi 5: ioapic pin 5\n");
	expect_shown(path, "memslots", "space 0 slot 0: gpa 0x0 size 0x400000");
}

TEST(each_json_twin_shows_the_same)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halts, 0);
	const struct json *object;
	struct json *tree;
	char path[128];

	if (is_linux_kvm())
		SKIP(OTHERS);
	let_one_wait(vm, vcpu, path, sizeof(path));
	object = first_of(&tree, path, "vcpus.json", "vcpus");
	EXPECT_EQ(0, json_number(object, "id", -1));
	expect_string("RUNNABLE", object, "mp_state");
	expect_string("outside", object, "where");
	expect_string(cpu_is_intel() ? "IO_INSTRUCTION" : "io", object,
		      "last_exit"); /* the vendors' names */
	expect_string("0x41", object, "waiting");
	expect_string("IF=0", object, "why");
	object = first_of(&tree, path, "irqchip.json", "lapics");
	EXPECT_TRUE(json_get(object, "irr")->child && !json_get(object, "irr")->child->next);
	expect_string("0x1ff", object, "spiv");
	object = first_of(&tree, path, "irqchip.json", "ioapic");
	EXPECT_TRUE(json_true(object, "masked") && !json_true(object, "remote_irr"));
	object = first_of(&tree, path, "routing.json", "routes");
	expect_string("pic 0", object, "to");
	object = first_of(&tree, path, "memslots.json", "slots");
	expect_string("0x400000", object, "size");
	object = first_of(&tree, path, "stats.json", "vcpus");
	EXPECT_LT(0, json_number(object, "io_exits", 0));
}

TEST(a_vmm_gets_the_same_of_its_vcpu_without_root)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halts, 0);
	struct mkvm_vcpu_state state = { .id = 0 };
	const struct json *object;
	struct json *tree;
	char path[128], hex[24];

	EXPECT_EQ(is_linux_kvm() ? 0 : MKVM_API_VERSION,
		  ioctl(vm->fd, KVM_CHECK_EXTENSION, MKVM_CAP_VERSION));
	if (is_linux_kvm())
		SKIP("Linux KVM has no MKVM_GET_VCPU_STATE");
	let_one_wait(vm, vcpu, path, sizeof(path));
	object = first_of(&tree, path, "vcpus.json", "vcpus");
	ASSERT_EQ(0, seteuid(65534));
	ASSERT_OK(ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
	ASSERT_EQ(0, seteuid(0));
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, state.mp_state);
	EXPECT_EQ(MKVM_OUTSIDE, state.where);
	EXPECT_EQ(MKVM_WAITS_NONE, state.delivering);
	EXPECT_EQ(VECTOR, state.waiting);
	EXPECT_EQ(MKVM_HOLD_IF, state.hold);
	EXPECT_EQ(MKVM_HOLD_NOTHING, state.hold_nmi);
	EXPECT_EQ(0, state.in_smm);
	EXPECT_LT(0, state.exits);
	expect_string(state.last_exit, object, "last_exit");
	snprintf(hex, sizeof(hex), "0x%llx", state.rip);
	expect_string(hex, object, "rip");
	snprintf(hex, sizeof(hex), "0x%llx", state.rflags);
	expect_string(hex, object, "rflags");
	EXPECT_EQ(vcpu->run->if_flag, !!(state.rflags & 0x200));
	ASSERT_OK(ioctl(vcpu->fd, KVM_NMI));
	ASSERT_OK(ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
	EXPECT_TRUE(state.pending & 1 << MKVM_PEND_NMI);
	EXPECT_TRUE(state.pending & 1 << (MKVM_PEND_NMI + MKVM_PEND_UNSEEN));
}

TEST(a_vcpu_that_waits_for_its_start_says_so)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct mkvm_vcpu_state state = { .id = 1 };

	if (is_linux_kvm())
		SKIP("Linux KVM has no MKVM_GET_VCPU_STATE");
	vcpu_create(vm, 0);
	vcpu_create(vm, 1);
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(1), VECTOR | 4 << 8));		/* NMI */
	ASSERT_OK(ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, state.mp_state);
	EXPECT_EQ(MKVM_HOLD_SIPI, state.hold_nmi);
	EXPECT_EQ(-1, state.cpu);
	EXPECT_TRUE(!strcmp("none", state.last_exit));
}

TEST(a_vcpus_state_is_refused_for_other_ids_and_reserved_fields)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct mkvm_vcpu_state state = { .id = 7 };

	if (is_linux_kvm())
		SKIP("Linux KVM has no MKVM_GET_VCPU_STATE");
	vcpu_add(vm, halts, 0);
	EXPECT_ERRNO(ENOENT, ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
	state.id = 0;
	for (unsigned int i = 0; i < sizeof(state.reserved); i++) {
		((u8 *)state.reserved)[i] = 1;
		EXPECT_ERRNO(EINVAL, ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
		((u8 *)state.reserved)[i] = 0;
	}
	EXPECT_OK(ioctl(vm->fd, MKVM_GET_VCPU_STATE, &state));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, MKVM_GET_VCPU_STATE, NULL));
}

TEST(lists_of_what_is_not_there_are_empty)
{
	static const char *const lists[] = { "pics", "ioapic", "lapics" };
	struct json *tree;
	char path[128];

	vm_create(0);
	if (is_linux_kvm())
		SKIP(OTHERS);
	find_vm(path, sizeof(path));
	tree = json_parse((char *)look(path, "irqchip.json"));
	for (int i = 0; i < 3; i++)
		EXPECT_TRUE(json_get(tree, lists[i]) && !json_get(tree, lists[i])->child);
	tree = json_parse((char *)look(path, "vcpus.json"));
	EXPECT_TRUE(json_get(tree, "vcpus") && !json_get(tree, "vcpus")->child);
}

static pid_t runner;

static void *run_halted(void *vcpu)
{
	__atomic_store_n(&runner, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	vcpu_run_to_stage(vcpu, 2);
	return NULL;
}

/* How often the thread has gone to sleep. */
static long switches(void)
{
	char path[64], line[128];
	long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", runner);
	f = fopen(path, "r");
	ASSERT_TRUE(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1)
			break;
	fclose(f);
	return n;
}

static long exits(const char *vm)
{
	struct json *tree;
	long n = json_number(first_of(&tree, vm, "stats.json", "vcpus"), "exits", -1);

	json_free(tree);
	ASSERT_LT(0, n);
	return n;
}

TEST(looking_wakes_no_vcpu_and_waits_for_none)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, halts, 0);
	pthread_t thread;
	char path[128];
	long before, exits_before;

	if (is_linux_kvm())
		SKIP(OTHERS);
	find_vm(path, sizeof(path));
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_halted, vcpu));
	wait_until_shown(path, "vcpu 0: HALTED");
	/* Asleep, not on its way: nothing else happens to it. */
	do {
		before = switches();
		usleep(100000);
	} while (before != switches());
	exits_before = exits(path);
	for (int i = 0; i < ROUNDS; i++)
		for (int f = 0; f < NR_FILES; f++)
			ASSERT_TRUE(*look(path, files[f]));
	EXPECT_EQ(before, switches());
	EXPECT_EQ(exits_before, exits(path));
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), VECTOR));
	ASSERT_EQ(0, pthread_join(thread, NULL));
}

static void spins(u64 arg)
{
	(void)arg;
	guest_setup();
	for (;;)
		stage(1);
}

static int stop, broken, looked;
static char newest[128];

static void *look_always(void *unused)
{
	(void)unused;
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		static char text[65536];
		char path[160];
		int fd;

		for (int f = 0; f < NR_FILES; f++) {
			size_t n = 0;
			ssize_t r;

			snprintf(path, sizeof(path), "%s/%s", newest, files[f]);
			fd = open(path, O_RDONLY);
			if (fd < 0)
				continue;
			while ((r = read(fd, text + n, 100)) > 0)
				n += r;
			close(fd);
			text[n] = 0;
			/*
			 * All of it or, when the VM has gone, nothing: a VM goes only when
			 * nobody reads.
			 */
			if (strstr(files[f], ".json") && n && !r) {
				struct json *tree = json_parse(text);

				broken += !tree;
				json_free(tree);
			}
		}
		__atomic_fetch_add(&looked, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* All files were read once from here on. */
static void wait_until_looked(void)
{
	int before = __atomic_load_n(&looked, __ATOMIC_SEQ_CST);

	WAIT_FOR(__atomic_load_n(&looked, __ATOMIC_SEQ_CST) - before > 1);
}

/*
 * A client that asks by ioctls, and writes its copy back, may lose them: initsipi.c, stale
 * events.
 */
TEST(who_looks_all_the_time_loses_no_init_and_no_sipi)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *ap;
	pthread_t thread;

	vcpu_add(vm, halts, 0);
	ap = vcpu_create(vm, 1);
	if (is_linux_kvm())
		SKIP(OTHERS);
	find_vm(newest, sizeof(newest));
	ASSERT_EQ(0, pthread_create(&thread, NULL, look_always, NULL));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(1), ICR_INIT));
		wait_until_looked();
		ASSERT_LE(0, vm_msi(vm, MSI_ADDR(1), ICR_STARTUP | 9));
		wait_until_looked();
		EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, broken);
}

TEST(a_vm_may_go_while_its_files_are_read)
{
	pthread_t thread;
	char path[160];
	char byte;
	int fd;

	if (is_linux_kvm())
		SKIP(OTHERS);
	for (int i = 0; i < 50; i++) {
		struct vm *vm = vm_create(VM_IRQCHIP);
		struct vcpu *vcpu = vcpu_add(vm, spins, 0);

		find_vm(newest, sizeof(newest));
		if (!i)
			ASSERT_EQ(0, pthread_create(&thread, NULL, look_always, NULL));
		vcpu_run_to_stage(vcpu, 1);
		snprintf(path, sizeof(path), "%s/vcpus", newest);
		fd = open(path, O_RDONLY);
		ASSERT_OK(fd);
		close(vcpu->fd);
		munmap(vcpu->run, ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 0));
		close(vm->fd);
		EXPECT_TRUE(read(fd, &byte, 1) <= 0 || byte == 'v');
		close(fd);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, broken);
}
