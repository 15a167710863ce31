// SPDX-License-Identifier: GPL-2.0
/*
 * mkvm-run: a thin launcher for anything that speaks the KVM ABI.
 *
 * This file reads the command line, prints messages and starts the parts. It
 * owns the options. Every mistake that a user can make is refused here or in
 * the parts' set-up, before the first guest instruction, with one sentence and
 * exit status 2. Read machine.c next.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mkvm-run.h"

#define DEFAULT_DEVICE	"/dev/mkvm"
#define DEFAULT_BIOS	"/usr/share/seabios/bios-256k.bin"
#define MIN_MEMORY_MIB	16
#define MAX_CPUS	4096

struct options opt = {
	.smp = 1,
	.memory = 512 * MIB,
};

static struct timespec start_time;

static const char help_text[] =
"Usage: mkvm-run [OPTION]...\n"
"Boots a PC with SeaBIOS on a device that speaks the KVM ABI. The first serial\n"
"port is this program's standard input and output.\n"
"\n"
"  --device FILE    the KVM device (default " DEFAULT_DEVICE ")\n"
"  --smp N          number of CPUs (default 1)\n"
"  --mem MIB        memory in MiB (default 512)\n"
"  --kernel FILE    Linux kernel to boot (bzImage); without it the firmware\n"
"                   runs alone\n"
"  --initrd FILE    the kernel's initial RAM disk\n"
"  --append STRING  the kernel's command line\n"
"  --bios FILE      firmware (default " DEFAULT_BIOS ")\n"
"  --debugcon FILE  write the debug console (port 0x402) to FILE; - is\n"
"                   standard error\n"
"  --monitor        keep reading and writing back the state of all CPUs, to test\n"
"                   the device\n"
"  --no-reboot      end with status 0 when the guest resets\n"
"  --quiet          print errors only\n"
"  --help           print this text\n"
"  --version        print the version\n"
"\n"
"On a terminal: Ctrl-A x quits, Ctrl-A h helps, Ctrl-A a sends Ctrl-A.\n"
"Exit status: 0 after power-off or quit; (V << 1) | 1 after a write of V to\n"
"port 0xf4; 1 after a failure while running; 2 if an argument or the set-up\n"
"is wrong; 128 + N after signal N.\n";

enum option_id {
	OPT_DEVICE = 1, OPT_SMP, OPT_MEM, OPT_KERNEL, OPT_INITRD, OPT_APPEND,
	OPT_BIOS, OPT_DEBUGCON, OPT_MONITOR, OPT_NO_REBOOT, OPT_QUIET, OPT_HELP, OPT_VERSION,
	OPT_COUNT,
};

static const struct option long_options[] = {
	{ "device",	required_argument, NULL, OPT_DEVICE },
	{ "smp",	required_argument, NULL, OPT_SMP },
	{ "mem",	required_argument, NULL, OPT_MEM },
	{ "kernel",	required_argument, NULL, OPT_KERNEL },
	{ "initrd",	required_argument, NULL, OPT_INITRD },
	{ "append",	required_argument, NULL, OPT_APPEND },
	{ "bios",	required_argument, NULL, OPT_BIOS },
	{ "debugcon",	required_argument, NULL, OPT_DEBUGCON },
	{ "monitor",	no_argument, NULL, OPT_MONITOR },
	{ "no-reboot",	no_argument, NULL, OPT_NO_REBOOT },
	{ "quiet",	no_argument, NULL, OPT_QUIET },
	{ "help",	no_argument, NULL, OPT_HELP },
	{ "version",	no_argument, NULL, OPT_VERSION },
	{ }
};

double seconds_since_start(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start_time.tv_sec) +
	       (double)(now.tv_nsec - start_time.tv_nsec) / 1e9;
}

/* Prints a line with one write, so that lines of several threads stay whole. */
static void say(bool with_time, const char *format, va_list args)
{
	char time[32] = "", text[256];

	if (opt.quiet)
		return;
	vsnprintf(text, sizeof(text), format, args);
	if (with_time)
		snprintf(time, sizeof(time), "%7.3f s  ", seconds_since_start());
	fprintf(stderr, "%smkvm-run: %s%s\n", with_time && terminal_needs_newline() ? "\n" : "", time, text);
}

/* Prints a stage of the boot with its time, unless --quiet. Context: any. */
void stage(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(true, format, args);
	va_end(args);
}

/* Prints a line of information without a time, unless --quiet. Context: any. */
void note(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(false, format, args);
	va_end(args);
}

/* Prints one sentence and ends the program. Context: main thread only. */
void fail(int status, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "mkvm-run: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

/*
 * Reads a whole file. If that fails, it ends the program with a sentence that
 * @remedy completes. An empty file counts as a failure.
 */
struct file_data read_file(const char *path, const char *remedy)
{
	struct file_data file = { };
	struct stat st;
	ssize_t n;
	size_t done = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		fail(2, "cannot read %s (%s): %s", path, strerror(errno),
		     remedy);
	if (!S_ISREG(st.st_mode))
		fail(2, "%s is not a regular file: %s", path, remedy);
	if (!st.st_size)
		fail(2, "%s is empty: %s", path, remedy);
	file.size = (size_t)st.st_size;
	file.data = malloc(file.size);
	if (!file.data)
		fail(2, "no memory left to read %s (%zu bytes): free some on this machine",
		     path, file.size);
	while (done < file.size) {
		n = read(fd, file.data + done, file.size - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail(2, "cannot read all of %s (%s): %s", path,
			     n ? strerror(errno) : "it shrank", remedy);
		done += (size_t)n;
	}
	close(fd);
	return file;
}

static uint64_t parse_number(const char *name, const char *text, uint64_t min,
			     uint64_t max, const char *unit)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < min ||
	    value > max)
		fail(2, "--%s %s is not valid: give a whole number of %s from %llu to %llu",
		     name, text, unit, (unsigned long long)min,
		     (unsigned long long)max);
	return value;
}

static void apply_option(int id, const char *name)
{
	uint64_t host_mib = (uint64_t)sysconf(_SC_PHYS_PAGES) *
			    (uint64_t)sysconf(_SC_PAGESIZE) / MIB;

	if (id != OPT_APPEND && optarg && !*optarg)
		fail(2, "--%s has an empty value: give one or leave the option out",
		     name);
	switch (id) {
	case OPT_DEVICE:
		opt.device = optarg;
		break;
	case OPT_SMP:
		opt.smp = (unsigned int)parse_number(name, optarg, 1, MAX_CPUS,
						     "CPUs");
		break;
	case OPT_MEM:
		opt.memory = MIB * parse_number(name, optarg, MIN_MEMORY_MIB,
						host_mib,
						"MiB this machine has,");
		break;
	case OPT_KERNEL:
		opt.kernel = optarg;
		break;
	case OPT_INITRD:
		opt.initrd = optarg;
		break;
	case OPT_APPEND:
		opt.append = optarg;
		break;
	case OPT_BIOS:
		opt.bios = optarg;
		break;
	case OPT_DEBUGCON:
		opt.debugcon = optarg;
		break;
	case OPT_MONITOR:
		opt.monitor = true;
		break;
	case OPT_NO_REBOOT:
		opt.no_reboot = true;
		break;
	case OPT_QUIET:
		opt.quiet = true;
		break;
	case OPT_HELP:
		fputs(help_text, stdout);
		exit(fflush(stdout) ? 1 : 0);
	case OPT_VERSION:
		puts("mkvm-run " MKVM_RUN_VERSION);
		exit(fflush(stdout) ? 1 : 0);
	}
}

static void parse_arguments(int argc, char **argv)
{
	bool seen[OPT_COUNT] = { };
	int index = 0;
	int id;

	opterr = 0;
	while ((id = getopt_long(argc, argv, ":", long_options, &index)) != -1) {
		if (id == ':')
			fail(2, "%s needs a value: see mkvm-run --help",
			     argv[optind - 1]);
		if (id == '?')
			fail(2, "%s is not an option mkvm-run knows: see mkvm-run --help",
			     argv[optind - 1]);
		if (seen[id])
			fail(2, "--%s is given twice: give it once",
			     long_options[index].name);
		seen[id] = true;
		apply_option(id, long_options[index].name);
	}
	if (optind < argc)
		fail(2, "%s is not expected here: options start with --, see mkvm-run --help",
		     argv[optind]);
	if (!opt.kernel && opt.initrd)
		fail(2, "--initrd needs a kernel: add --kernel FILE");
	if (!opt.kernel && opt.append)
		fail(2, "--append needs a kernel: add --kernel FILE");
	if (!opt.device)
		opt.device = DEFAULT_DEVICE;
	if (!opt.bios)
		opt.bios = DEFAULT_BIOS;
}

int main(int argc, char **argv)
{
	struct file_data bios;
	int status;

	clock_gettime(CLOCK_MONOTONIC, &start_time);
	parse_arguments(argc, argv);
	bios = read_file(opt.bios,
			 "install Debian's package seabios or give --bios FILE");
	if (bios.size < BIOS_COPY_SIZE || bios.size > 16 * MIB ||
	    bios.size % 0x10000)
		fail(2, "%s cannot be a PC firmware (%zu bytes): give a ROM of 128 KiB to 16 MiB in whole 64 KiB",
		     opt.bios, bios.size);
	if (opt.kernel)
		linux_load();
	machine_open();
	chipset_open_debug_console();
	machine_create_memory(&bios);
	acpi_create();
	fwcfg_create();
	terminal_open();

	while (machine_run(&status))
		;
	terminal_finish();
	machine_print_summary();
	terminal_die();
	return status;
}
