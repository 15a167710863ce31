// SPDX-License-Identifier: GPL-2.0
/*
 * Samples the debugfs files of all VMs, as trees of JSON.
 *
 * Reading them takes no vCPU's lock and kicks no vCPU (kmod/explain/debugfs.c). VMs may end
 * meanwhile; one whose files no longer exist is left out. Owns the directory's path. Read frame.c
 * next.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#include "top.h"
#include "../../uapi/mkvm.h"

static char top[4000];

void sample_open(const char *debugfs)
{
	bool system = !strcmp(debugfs, DEFAULT_DEBUGFS);
	struct statfs fs;
	DIR *dir;

	if (strlen(debugfs) > sizeof(top) - 100)
		fail(2, "--debugfs is too long: give the directory where debugfs is mounted");
	snprintf(top, sizeof(top), "%s/mkvm", debugfs);
	if (system && access("/sys/module/mkvm", F_OK))
		fail(2, "the module mkvm is not loaded: load it with modprobe mkvm");
	if (system && (statfs(debugfs, &fs) || fs.f_type != DEBUGFS_MAGIC))
		fail(2, "debugfs is not mounted: run mount -t debugfs debugfs %s", debugfs);
	dir = opendir(top);
	if (!dir && (errno == EACCES || errno == EPERM))
		fail(2, "you may not read %s: run mkvm-top as root", top);
	if (!dir)
		fail(2, "cannot read %s (%s): is debugfs disabled, or --debugfs wrong?", top, strerror(errno));
	closedir(dir);
}

/* Returns the contents of a file, to be freed; NULL if it does not exist. */
static char *read_text(const char *path)
{
	size_t size = 0, room = 16384;
	char *text = malloc(room);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		fail(2, "you may not read %s: run mkvm-top as root, on a kernel that is not locked down", path);
	while (fd >= 0 && text && (n = read(fd, text + size, room - size - 1)) > 0) {
		size += (size_t)n;
		if (room - size < 4096) {
			char *more = realloc(text, room *= 2);

			if (!more)
				free(text);
			text = more;
		}
	}
	if (fd >= 0)
		close(fd);
	if (n < 0 || !text) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	return text;
}

static struct json *read_tree(const struct vm *vm, const char *name, char **text)
{
	struct json *tree;
	char path[sizeof(top) + 64];

	snprintf(path, sizeof(path), "%s/%d-%u/%s.json", top, vm->pid, vm->number, name);
	*text = read_text(path);
	/* If the VM has ended, the file does not exist or is empty. */
	if (!*text || !**text)
		return NULL;
	tree = json_parse(*text);
	if (!tree)
		fail(2, "%s is not JSON: use mkvm-top and mkvm of the same version", path);
	if (json_number(tree, "version", -1) != MKVM_DEBUGFS_VERSION)
		fail(2, "%s is not of version %d: use mkvm-top and mkvm of the same version", path, MKVM_DEBUGFS_VERSION);
	return tree;
}

static void read_command(struct vm *vm)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", vm->pid);
	f = fopen(path, "re");
	if (!f || !fgets(vm->command, sizeof(vm->command), f))
		strcpy(vm->command, "-");
	vm->command[strcspn(vm->command, "\n")] = 0;
	if (f)
		fclose(f);
}

static void vm_close(struct vm *vm)
{
	size_t i;

	json_free(vm->vcpus);
	json_free(vm->stats);
	json_free(vm->irqchip);
	for (i = 0; i < sizeof(vm->text) / sizeof(vm->text[0]); i++)
		free(vm->text[i]);
}

static bool vm_open(struct vm *vm)
{
	vm->vcpus = read_tree(vm, "vcpus", &vm->text[0]);
	vm->time = seconds();
	vm->stats = read_tree(vm, "stats", &vm->text[1]);
	vm->irqchip = read_tree(vm, "irqchip", &vm->text[2]);
	if (vm->vcpus && vm->stats && vm->irqchip) {
		read_command(vm);
		return true;
	}
	vm_close(vm);
	return false;
}

static int compare_vms(const void *a, const void *b)
{
	const struct vm *x = a, *y = b;

	return (x->number > y->number) - (x->number < y->number);
}

/* Samples all existing VMs. Ends the program if memory is short. */
struct sample *sample_take(void)
{
	struct sample *sample = calloc(1, sizeof(*sample));
	DIR *dir = opendir(top);
	struct dirent *entry;

	while (dir && sample && (entry = readdir(dir))) {
		struct vm vm = { };
		int end = 0;

		if (sscanf(entry->d_name, "%d-%u%n", &vm.pid, &vm.number, &end) != 2 ||
		    entry->d_name[end] || !vm_open(&vm))
			continue;
		sample->vms = realloc(sample->vms, (sample->nr + 1) * sizeof(vm));
		if (!sample->vms)
			break;
		sample->vms[sample->nr++] = vm;
	}
	if (!sample || (sample->nr && !sample->vms))
		fail(2, "no memory left: free some on this machine");
	if (dir)
		closedir(dir);
	if (sample->nr)
		qsort(sample->vms, sample->nr, sizeof(*sample->vms), compare_vms);
	return sample;
}

void sample_free(struct sample *sample)
{
	size_t i;

	if (!sample)
		return;
	for (i = 0; i < sample->nr; i++)
		vm_close(&sample->vms[i]);
	free(sample->vms);
	free(sample);
}

/* Finds a VM, of any process if @pid is 0. Returns NULL if there is none. */
struct vm *sample_find(const struct sample *sample, pid_t pid, unsigned int number)
{
	size_t i;

	for (i = 0; sample && i < sample->nr; i++)
		if (sample->vms[i].number == number && (!pid || sample->vms[i].pid == pid))
			return &sample->vms[i];
	return NULL;
}

/* Returns the first element of a list in the file; NULL if it is empty. */
const struct json *list_of(const struct json *file, const char *name)
{
	const struct json *list = json_get(file, name);

	return list ? list->child : NULL;
}

const struct json *by_id(const struct json *list, unsigned int id)
{
	for (; list; list = list->next)
		if (json_number(list, "id", -1) == id)
			return list;
	return NULL;
}
