// SPDX-License-Identifier: GPL-2.0
/*
 * SeaBIOS with 8 CPUs, booted again and again by the launcher while it reads
 * and writes back the state of all CPUs without a pause (its --monitor). A boot
 * is over when SeaBIOS has told on the debug console how many CPUs it found; one
 * that never tells hangs, and is a CPU lost.
 *
 * Read next: initsipi.c, and monitor.c of the launcher.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm.h"

#define LAUNCHER "userspace/mkvm-run"
#define FOUND "Found 8 cpu(s)"

static pid_t launcher;

static pid_t start_launcher(int console)
{
	char debugcon[32];
	pid_t pid;

	snprintf(debugcon, sizeof(debugcon), "/proc/self/fd/%d", console);
	pid = fork();
	if (!pid) {
		dup2(open("/dev/null", O_RDWR), 0);
		execl(LAUNCHER, LAUNCHER, "--quiet", "--monitor", "--smp", "8", "--mem", "64", "--device",
		      device_path(), "--debugcon", debugcon, NULL);
		_exit(127);
	}
	ASSERT_LT(0, pid);
	return pid;
}

/* Reads until the firmware tells; false: it says nothing any more. */
static bool all_cpus_found(int console)
{
	struct pollfd in = { console, POLLIN, 0 };
	static char text[65536];
	size_t size = 0;
	ssize_t n;

	while (size < sizeof(text) - 1) {
		if (poll(&in, 1, 60000) != 1)
			break;
		n = read(console, text + size, sizeof(text) - 1 - size);
		if (n <= 0)
			break;
		size += n;
		text[size] = 0;
		if (strstr(text, FOUND))
			return true;
	}
	ktap_note("the firmware's last words: %s", size > 200 ? text + size - 200 : text);
	return false;
}

static void boot(void)
{
	int console[2], status;

	ASSERT_OK(pipe(console));
	launcher = start_launcher(console[1]);
	close(console[1]);
	if (!all_cpus_found(console[0])) {
		kill(launcher, SIGKILL);
		FAIL("a boot hangs");
	}
	kill(launcher, SIGTERM);
	ASSERT_EQ(launcher, waitpid(launcher, &status, 0));
	EXPECT_EQ(SIGTERM, WTERMSIG(status));
	close(console[0]);
}

TEST_LIMIT(no_cpu_is_lost_while_a_monitor_reads_and_writes_all_state, 3000)
{
	u32 boots = getenv("MKVM_LONG") ? 500 : 10;

	if (is_linux_kvm())
		SKIP("Linux KVM loses this: KVM_SET_VCPU_EVENTS clears the INIT");
	if (access(LAUNCHER, X_OK))
		SKIP("%s is not built, or this is not the project's directory", LAUNCHER);
	for (u32 i = 1; i <= boots; i++) {
		ktap_about("boot %u", i);
		boot();
	}
	ktap_note("%u boots", boots);
}
