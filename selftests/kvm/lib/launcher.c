// SPDX-License-Identifier: GPL-2.0
/*
 * Running mkvm-run from a test. It dies with the test: the harness ends the
 * test's process group.
 *
 * State: none. Read next: include/launcher.h.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"
#include "lib.h"
#include "vm.h"

#define LAUNCHER "userspace/mkvm-run"
#define MAX_ARGUMENTS 16

struct launcher launcher_start(const char *option, ...)
{
	char debugcon[32];
	const char *argv[MAX_ARGUMENTS + 1] = {
		LAUNCHER, "--quiet", "--device", device_path(), "--debugcon", debugcon,
	};
	struct launcher launcher;
	int console[2], n = 6;
	va_list options;

	if (access(LAUNCHER, X_OK))
		SKIP("%s is not built, or this is not the project's directory", LAUNCHER);
	va_start(options, option);
	for (; option && n < MAX_ARGUMENTS; option = va_arg(options, const char *))
		argv[n++] = option;
	va_end(options);
	ASSERT_LT(n, MAX_ARGUMENTS);
	ASSERT_OK(pipe(console));
	snprintf(debugcon, sizeof(debugcon), "/proc/self/fd/%d", console[1]);
	launcher.console = console[0];
	launcher.pid = fork();
	if (!launcher.pid) {
		dup2(open("/dev/null", O_RDWR), 0);
		execv(LAUNCHER, (char *const *)argv);
		_exit(127);
	}
	ASSERT_LT(0, launcher.pid);
	close(console[1]);
	return launcher;
}

void launcher_end(struct launcher *launcher)
{
	int status;

	kill(launcher->pid, SIGTERM);
	ASSERT_EQ(launcher->pid, waitpid(launcher->pid, &status, 0));
	EXPECT_EQ(SIGTERM, WTERMSIG(status));
	close(launcher->console);
}

const char *launcher_file(const void *bytes, size_t size)
{
	static char path[32];
	int fd = memfd_create("file", 0);

	ASSERT_OK(fd);
	ASSERT_EQ(size, write(fd, bytes, size));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return path;
}
