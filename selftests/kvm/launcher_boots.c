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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"
#include "vm.h"

#define FOUND "Found 8 cpu(s)"

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
	struct launcher launcher = launcher_start("--monitor", "--smp", "8", "--mem", "64", NULL);

	if (!all_cpus_found(launcher.console)) {
		kill(launcher.pid, SIGKILL);
		FAIL("a boot hangs");
	}
	launcher_end(&launcher);
}

TEST_LIMIT(no_cpu_is_lost_while_a_monitor_reads_and_writes_all_state, 3000)
{
	/* In Bochs each takes a minute. */
	u32 boots = getenv("MKVM_LONG") ? 500 : 10;

	if (is_linux_kvm())
		SKIP("Linux KVM loses this: KVM_SET_VCPU_EVENTS clears the INIT");
	if (cpu_is_bochs())
		boots = 1;
	for (u32 i = 1; i <= boots; i++) {
		ktap_about("boot %u", i);
		boot();
	}
	ktap_note("%u boots", boots);
}
