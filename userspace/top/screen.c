// SPDX-License-Identifier: GPL-2.0
/*
 * The terminal: paints frames with curses and answers keys.
 *
 * The terminal is given back at the end, on signals (main.c has the polite ones) and after a crash;
 * while the program is stopped, curses sees to it. Owns the screen, the samples being shown, what
 * the user has scrolled to, and the message in the last line. Read frame.c for what is shown.
 */
#include <curses.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "top.h"

#define ESCAPE	27
#define CTRL_L	12

static struct termios saved_mode;
static const char *leave[3];		/* what the terminal wants to hear at the end */
static SCREEN *screen;
static struct source source;
static struct frame frame;
static const char *message;
static size_t first;			/* line at the top */
static bool helping, quit;

static const char *const help_lines[] = {
	"Up, Down, k, j     choose a VM or vCPU",
	"PgUp, PgDn         scroll",
	"Enter              show what is chosen",
	"Esc, Backspace     back to what it belongs to",
	"s                  order of vCPUs: by id, by exits/s, by interrupts/s",
	"t                  count tracepoints: interrupts by vector and source; or stop",
	"+, -               a longer, shorter time between samples",
	"Ctrl-L             paint the screen anew",
	"h, ?               this help; any key ends it",
	"q                  quit",
	"",
	"STATE     running: in the guest. outside: in the VMM, or waiting for a CPU.",
	"EXITS/s   times the guest was left; to the right of WAITS: why, per second.",
	"IRQS/s    interrupts that went into the guest.",
	"WAITS     the interrupt that comes next, and what holds it back.",
};

/* Async-signal-safe; SA_RESETHAND makes the second occurrence the real one. */
static void crashed(int number)
{
	size_t i;

	for (i = 0; i < sizeof(leave) / sizeof(leave[0]); i++)
		if (leave[i] && write(STDOUT_FILENO, leave[i], strlen(leave[i])) < 0)
			break;
	tcsetattr(STDIN_FILENO, TCSANOW, &saved_mode);
	raise(number);
}

void screen_give_back(void)
{
	if (screen && !isendwin())
		endwin();
}

static const char *capability(const char *name)
{
	char *text = tigetstr((char *)name);

	return text == (char *)-1 ? NULL : text;
}

static void open_screen(void)
{
	static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction action = { .sa_handler = crashed, .sa_flags = (int)SA_RESETHAND };
	const char *terminal = getenv("TERM");
	size_t i;

	tcgetattr(STDIN_FILENO, &saved_mode);
	screen = newterm(NULL, stdout, stdin);
	if (!screen)
		fail(2, "the terminal %s is not known: set TERM, or use --once", terminal ? terminal : "without a name");
	atexit(screen_give_back);
	leave[0] = capability("sgr0");
	leave[1] = capability("cnorm");
	leave[2] = capability("rmcup");
	for (i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &action, NULL);
	set_escdelay(50);
	cbreak();
	noecho();
	nonl();
	nodelay(stdscr, TRUE);
	keypad(stdscr, TRUE);
	curs_set(0);
}

/* ---- what is shown ---- */

static void take_samples(void)
{
	sample_free((struct sample *)source.old);
	trace_free((struct trace *)source.old_trace);
	source.old = source.new;
	source.old_trace = source.new_trace;
	source.new_trace = trace_take();
	source.new = sample_take();
}

static void forget_trace(void)
{
	trace_free((struct trace *)source.old_trace);
	trace_free((struct trace *)source.new_trace);
	source.old_trace = source.new_trace = NULL;
}

static void choose_row(struct view *view, const struct line *row)
{
	if (view->level == SHOW_VMS) {
		view->pid = row->pid;
		view->number = row->number;
	} else {
		view->vcpu = row->number;
	}
}

/* The row that is @step rows away from the chosen one; without one the first. */
static const struct line *row_at(int step)
{
	const struct line *row = NULL, *before = NULL, *chosen = NULL;
	size_t i;

	for (i = 0; i < frame.nr; i++) {
		const struct line *line = &frame.lines[i];

		if (!line->is_row)
			continue;
		if (chosen && step > 0)
			return line;
		if (line->chosen) {
			chosen = line;
			if (step <= 0)
				return step < 0 && before ? before : line;
		}
		before = line;
		row = row ? row : line;
	}
	return chosen ? chosen : row;
}

/* Draws again until what is chosen is there, as far as anything is. */
static void draw(struct view *view)
{
	const struct line *row;

	frame_free(&frame);
	frame_draw(&frame, view, &source);
	row = row_at(0);
	if (row && !row->chosen) {
		choose_row(view, row);
		frame_free(&frame);
		frame_draw(&frame, view, &source);
	}
}

static size_t rows_of_screen(void)
{
	return LINES > 1 ? (size_t)LINES - 1 : 1;
}

static void paint(double interval)
{
	size_t i, rows = rows_of_screen(), last = frame.nr > rows ? frame.nr - rows : 0;

	first = first > last ? last : first;
	erase();
	for (i = 0; i < rows; i++) {
		const struct line *line;

		if (helping && i < sizeof(help_lines) / sizeof(help_lines[0]))
			mvaddnstr((int)i, 0, help_lines[i], COLS);
		if (helping || first + i >= frame.nr)
			continue;
		line = &frame.lines[first + i];
		if (line->chosen)
			attrset(A_REVERSE);
		else
			attrset(line->title || first + i == 0 ? A_BOLD : A_NORMAL);
		mvaddnstr((int)i, 0, line->text, COLS);
		if (line->chosen)
			mvchgat((int)i, 0, -1, A_REVERSE, 0, NULL);
		attrset(A_NORMAL);
	}
	move(LINES - 1, 0);
	if (message)
		addnstr(message, COLS - 1);
	else
		printw("%.*s", COLS - 1, helping ? "any key: back" :
		       "q quit  h help  Enter show  Esc back  s sort  t trace  +- interval");
	if (!message && !helping && COLS > 76)
		printw("  %.1f s", interval);
	refresh();
}

/* Scrolls so that what is chosen can be seen. */
static void reveal(void)
{
	size_t i, rows = rows_of_screen();

	for (i = 0; i < frame.nr && !frame.lines[i].chosen; i++)
		;
	if (i == frame.nr)
		return;
	if (i < first)
		first = i < rows ? 0 : i;
	else if (i >= first + rows)
		first = i - rows + 1;
}

/* ---- keys ---- */

static void toggle_trace(void)
{
	forget_trace();
	if (trace_running()) {
		trace_stop();
		message = "Tracing has ended.";
	} else {
		message = trace_start();
	}
}

static void go(struct view *view, enum level level)
{
	view->level = level;
	first = 0;
}

static void move_choice(struct view *view, int step)
{
	const struct line *row = row_at(step);

	if (!row)
		return;
	choose_row(view, row);
	draw(view);
	reveal();
}

static void scroll_page(int direction)
{
	size_t page = rows_of_screen();

	if (direction > 0)
		first += page;
	else
		first = first > page ? first - page : 0;
}

static void answer(struct view *view, int key, double *interval)
{
	if (key == CTRL_L)
		clearok(stdscr, TRUE);
	if (key == CTRL_L || key == KEY_RESIZE)
		return;
	message = NULL;
	if (helping) {
		helping = false;
		return;
	}
	switch (key) {
	case 'q':
		quit = true;
		break;
	case 'h': case '?':
		helping = true;
		break;
	case KEY_UP: case 'k':
		move_choice(view, -1);
		break;
	case KEY_DOWN: case 'j':
		move_choice(view, 1);
		break;
	case KEY_PPAGE: case KEY_NPAGE:
		scroll_page(key == KEY_NPAGE ? 1 : -1);
		break;
	case '\r': case '\n': case KEY_ENTER:
		if (view->level < SHOW_VCPU && row_at(0))
			go(view, view->level + 1);
		break;
	case ESCAPE: case KEY_BACKSPACE: case 127: case '\b':
		if (view->level > SHOW_VMS)
			go(view, view->level - 1);
		break;
	case 's':
		view->sort = (view->sort + 1) % NR_SORTS;
		break;
	case 't':
		toggle_trace();
		break;
	case '+':
		*interval = *interval * 2 > 3600 ? 3600 : *interval * 2;
		break;
	case '-':
		*interval = *interval / 2 < 0.1 ? 0.1 : *interval / 2;
		break;
	}
}

void screen_run(struct view *view, double interval)
{
	double next = seconds() + interval;
	short events;
	int key;

	open_screen();
	take_samples();
	draw(view);
	while (!quit && !ended_by()) {
		paint(interval);
		events = wait_until(next, STDIN_FILENO);
		while ((key = getch()) != ERR) {
			answer(view, key, &interval);
			draw(view);
		}
		/* Nobody is there any more. */
		quit = quit || events & (POLLHUP | POLLERR | POLLNVAL);
		if (seconds() >= next) {
			take_samples();
			draw(view);
			next = seconds() + interval;
		}
	}
	screen_give_back();
}
