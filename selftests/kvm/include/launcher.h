/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mkvm-run under test: what its firmware or guest writes to the debug console
 * comes through a pipe.
 *
 * State: struct launcher. Read next: lib/launcher.c.
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include <sys/types.h>

#include "ktap.h"
#include "types.h"

struct launcher {
	pid_t pid;
	int console;		/* to read */
};

/* Starts it with these options; where it is not built the test skips. The last argument is NULL. */
struct launcher launcher_start(const char *option, ...) __attribute__((sentinel));
/* SIGTERM ends it, and nothing else has. */
void launcher_end(struct launcher *launcher);

/* A file in memory for one of its options: its path, until the next call. */
const char *launcher_file(const void *bytes, size_t size);

#endif
