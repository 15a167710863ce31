// SPDX-License-Identifier: GPL-2.0
/*
 * Connects the serial port to standard input and output, and handles the
 * terminal's mode and the signals. Everything here runs in the main thread,
 * which waits in terminal_serve() while the vCPU threads run.
 *
 * The terminal is in raw mode only while this process is in the foreground,
 * and is restored at exit, on fatal signals and while stopped. Owns the
 * saved mode, the signal descriptor and the escape state. Read serial.c for
 * the rings it fills and empties.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "mkvm-run.h"

#define CHUNK		4096	/* a pipe that polls writable accepts this much */
#define BATCH_MS	2	/* output waits this long for more to come */
#define DRAIN_MS	2000	/* the last output waits this long for a reader */
#define ESCAPE		0x01	/* Ctrl-A */

static struct termios saved_mode;
static volatile sig_atomic_t raw;
static bool input_is_terminal;
static bool input_open = true;
static bool escaped;
static bool output_open = true;
static bool shared_terminal;	/* serial output and messages share a terminal */
static volatile bool mid_line;
static int signal_fd;
static int fatal_signal;

/* Has the guest left the cursor in the middle of a line? */
bool terminal_needs_newline(void)
{
	return shared_terminal && mid_line;
}

/* Restores the saved mode. Async-signal-safe. */
static void restore_mode(void)
{
	if (raw) {
		raw = 0;
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_mode);
	}
}

/* Enters raw mode, except for output processing, which messages need. */
static void enter_raw_mode(void)
{
	struct termios mode;

	if (!input_is_terminal || raw ||
	    tcgetpgrp(STDIN_FILENO) != getpgrp() ||
	    tcgetattr(STDIN_FILENO, &saved_mode) < 0)
		return;
	mode = saved_mode;
	mode.c_iflag &= (tcflag_t)~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR |
				    IGNCR | ICRNL | IXON);
	mode.c_lflag &= (tcflag_t)~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	mode.c_cc[VMIN] = 1;
	mode.c_cc[VTIME] = 0;
	raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}

/* Restores the mode on a fatal signal; SA_RESETHAND lets the signal's second occurrence kill. */
static void crashed(int signal_number)
{
	restore_mode();
	raise(signal_number);
}

void terminal_open(void)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction action = { .sa_handler = crashed,
				    .sa_flags = (int)SA_RESETHAND };
	sigset_t set;
	size_t i;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	for (i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	sigaddset(&set, SIGPWR);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (signal_fd < 0)
		fail(2, "cannot receive signals (%s): free some file descriptors",
		     strerror(errno));
	input_is_terminal = isatty(STDIN_FILENO);
	shared_terminal = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
	atexit(restore_mode);
	enter_raw_mode();
}

static void press_power_button(void)
{
	machine_lock();
	pm_press_power_button();
	machine_unlock();
}

/* Presses and releases Enter, each of which raises IRQ 1. */
static void press_key(void)
{
	static const uint8_t enter[] = { 0x1c, 0x9c };

	machine_lock();
	keyboard_send(enter, sizeof(enter));
	machine_unlock();
}

static void handle_signal(void)
{
	struct signalfd_siginfo info;

	if (read(signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	switch (info.ssi_signo) {
	case SIGTSTP:
		restore_mode();
		kill(getpid(), SIGSTOP);
		break;
	case SIGCONT:
		enter_raw_mode();
		break;
	case SIGPWR:
		press_power_button();
		break;
	default:
		fatal_signal = (int)info.ssi_signo;
		machine_stop(false, 1, "ended by a signal");
	}
}

static void escape_command(uint8_t key)
{
	switch (key) {
	case 'x':
		machine_stop(false, 0, "quit with Ctrl-A x");
		break;
	case 'p':
		press_power_button();
		break;
	case 'k':
		press_key();
		break;
	case 'h':
		fputs("\nCtrl-A x  quit\nCtrl-A p  press the power button\nCtrl-A k  press Enter on the keyboard\nCtrl-A a  send Ctrl-A\nCtrl-A h  this help\n",
		      stderr);
		break;
	}
}

/* Executes and removes the escape commands in @data; returns the number of remaining bytes. */
static size_t filter_escapes(uint8_t *data, size_t size)
{
	size_t i, kept = 0;

	for (i = 0; i < size; i++) {
		if (escaped) {
			escaped = false;
			if (data[i] == 'a' || data[i] == ESCAPE)
				data[kept++] = ESCAPE;
			else
				escape_command(data[i]);
		} else if (data[i] == ESCAPE) {
			escaped = true;
		} else {
			data[kept++] = data[i];
		}
	}
	return kept;
}

static void move_input(size_t room)
{
	uint8_t data[CHUNK];
	ssize_t n = read(STDIN_FILENO, data, room < CHUNK ? room : CHUNK);
	size_t size;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		input_open = false;
		return;
	}
	size = input_is_terminal ? filter_escapes(data, (size_t)n) : (size_t)n;
	machine_lock();
	serial_input(data, size);
	machine_unlock();
}

static size_t output_waiting(void)
{
	uint8_t byte;
	size_t n;

	machine_lock();
	n = serial_output_peek(&byte, 1);
	machine_unlock();
	return n;
}

/* Writes pending output. Called when standard output polls writable. */
static void move_output(void)
{
	uint8_t data[CHUNK];
	size_t size;
	ssize_t n;

	machine_lock();
	size = serial_output_peek(data, sizeof(data));
	machine_unlock();
	if (!size)
		return;
	n = output_open ? write(STDOUT_FILENO, data, size) : (ssize_t)size;
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		output_open = false;
		fprintf(stderr, "mkvm-run: cannot write to standard output (%s): give it a reader or a file with room\n",
			strerror(errno));
		machine_stop(false, 1, "standard output failed");
		n = (ssize_t)size;
	}
	mid_line = data[n - 1] != '\n';
	machine_lock();
	serial_output_done((size_t)n);
	machine_unlock();
}

/*
 * Transfers bytes and handles signals until the machine stops. Output is
 * delayed by BATCH_MS after its first byte, so that many bytes share a write.
 */
void terminal_serve(void)
{
	bool batched = false;
	size_t room;
	bool waiting;

	while (!machine_stopping()) {
		waiting = output_waiting();
		machine_lock();
		room = serial_input_room();
		machine_unlock();
		struct pollfd fds[] = {
			{ signal_fd, POLLIN, 0 },
			{ machine_wake_fd(), POLLIN, 0 },
			{ input_open && room && (raw || !input_is_terminal) ?
			  STDIN_FILENO : -1, POLLIN, 0 },
			{ waiting && batched ? STDOUT_FILENO : -1, POLLOUT, 0 },
			{ pm_timer_fd(), POLLIN, 0 },
		};
		int n = poll(fds, 5, waiting && !batched ? BATCH_MS : -1);

		batched = waiting && (n == 0 || batched);
		if (n <= 0)
			continue;
		if (fds[0].revents)
			handle_signal();
		if (fds[1].revents) {
			uint64_t count;

			if (read(machine_wake_fd(), &count, sizeof(count)) < 0)
				continue;
		}
		if (fds[2].revents)
			move_input(room);
		if (fds[3].revents) {
			move_output();
			batched = false;
		}
		if (fds[4].revents) {
			machine_lock();
			pm_timer_expired();
			machine_unlock();
		}
	}
}

/* Writes the guest's remaining output, as long as there is a reader. */
void terminal_drain(void)
{
	struct pollfd out = { STDOUT_FILENO, POLLOUT, 0 };

	while (output_waiting() && poll(&out, 1, DRAIN_MS) > 0)
		move_output();
}

/* Restores the terminal. */
void terminal_finish(void)
{
	restore_mode();
}

/* Ends the program by the signal that ended the run, if there was one. */
void terminal_die(void)
{
	sigset_t set;

	if (!fatal_signal)
		return;
	sigemptyset(&set);
	sigaddset(&set, fatal_signal);
	raise(fatal_signal);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
