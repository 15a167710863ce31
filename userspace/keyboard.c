// SPDX-License-Identifier: GPL-2.0
/*
 * Implements the keyboard controller (8042) at ports 0x60 and 0x64, and a
 * keyboard that answers drivers' commands; there is no mouse. Each byte from
 * the keyboard raises an edge on IRQ 1 if the mode byte enables it. Scan codes
 * are those of set 1: drivers enable the controller's translation, and this
 * controller always translates.
 *
 * Owns the controller's registers and the bytes that wait to be read.
 * Everything here needs the machine's lock. Read chipset.c for the dispatch.
 */
#include <string.h>

#include "mkvm-run.h"

#define STATUS_PORT		0x64
#define STATUS_OUTPUT_FULL	0x01
#define STATUS_UNLOCKED		0x14		/* not locked; the self-test has passed */
#define MODE_INTERRUPT		0x01
#define MODE_DISABLED		0x10		/* the keyboard's clock is stopped */
#define OUTPUT_A20		0x02
#define OUTPUT_NO_RESET		0x01

enum {
	KBC_READ_MODE = 0x20,
	KBC_WRITE_MODE = 0x60,
	KBC_TEST_MOUSE = 0xa9,
	KBC_SELF_TEST = 0xaa,
	KBC_TEST_KEYBOARD = 0xab,
	KBC_DISABLE = 0xad,
	KBC_ENABLE = 0xae,
	KBC_READ_OUTPUT = 0xd0,
	KBC_WRITE_OUTPUT = 0xd1,
	KBC_LOOP_KEYBOARD = 0xd2,
	KBC_LOOP_MOUSE = 0xd3,
	KBC_TO_MOUSE = 0xd4,
	KBC_RESET = 0xfe,
};

enum { KEYBOARD_ECHO = 0xee, KEYBOARD_IDENTIFY = 0xf2, KEYBOARD_RESET = 0xff, KEYBOARD_ACK = 0xfa };

static struct {
	uint8_t command;		/* a command that awaits its data byte, or 0 */
	uint8_t mode;
	uint8_t output;			/* the value that port 0x60 reads */
	bool full;			/* output has not been read yet */
	uint8_t queue[16];		/* further bytes from the keyboard */
	unsigned int queued;
} state;

void keyboard_reset(void)
{
	memset(&state, 0, sizeof(state));
}

static void output(uint8_t value, bool interrupt)
{
	state.output = value;
	state.full = true;
	if (interrupt && (state.mode & MODE_INTERRUPT))
		machine_set_irq(KEYBOARD_GSI, true);
}

/* Outputs the keyboard's next byte, if the output is free and the clock runs. */
static void next_byte(void)
{
	uint8_t value = state.queue[0];

	if (state.full || !state.queued || (state.mode & MODE_DISABLED))
		return;
	memmove(state.queue, state.queue + 1, --state.queued);
	output(value, true);
}

/* Makes the keyboard send these bytes; it drops them if too many wait already. */
void keyboard_send(const uint8_t *bytes, size_t size)
{
	if (size > sizeof(state.queue) - state.queued)
		return;
	memcpy(state.queue + state.queued, bytes, size);
	state.queued += (unsigned int)size;
	next_byte();
}

/* Passes a byte to the keyboard, which acknowledges every byte, parameters included. */
static void keyboard_take(uint8_t value)
{
	static const uint8_t reset[] = { KEYBOARD_ACK, 0xaa };
	static const uint8_t identity[] = { KEYBOARD_ACK, 0xab, 0x41 };
	static const uint8_t ack = KEYBOARD_ACK, echo = KEYBOARD_ECHO;

	switch (value) {
	case KEYBOARD_RESET:
		state.queued = 0;
		keyboard_send(reset, sizeof(reset));
		break;
	case KEYBOARD_IDENTIFY:
		keyboard_send(identity, sizeof(identity));
		break;
	case KEYBOARD_ECHO:
		keyboard_send(&echo, 1);
		break;
	default:
		keyboard_send(&ack, 1);
	}
}

uint32_t keyboard_in(uint16_t port, unsigned int size)
{
	uint8_t value = state.output;

	if (port == STATUS_PORT)
		return STATUS_UNLOCKED | (state.full ? STATUS_OUTPUT_FULL : 0);
	state.full = false;
	machine_set_irq(KEYBOARD_GSI, false);
	next_byte();
	return value;
}

static void controller_command(uint8_t command)
{
	state.command = 0;
	switch (command) {
	case KBC_READ_MODE:
		output(state.mode, false);
		break;
	case KBC_SELF_TEST:
		output(0x55, false);
		break;
	case KBC_TEST_KEYBOARD:
		output(0x00, false);
		break;
	case KBC_TEST_MOUSE:
		output(0x01, false);		/* there is no mouse: its clock is stuck */
		break;
	case KBC_READ_OUTPUT:
		output(OUTPUT_NO_RESET | OUTPUT_A20, false);
		break;
	case KBC_DISABLE:
		state.mode |= MODE_DISABLED;
		break;
	case KBC_ENABLE:
		state.mode &= (uint8_t)~MODE_DISABLED;
		next_byte();
		break;
	case KBC_WRITE_MODE:
	case KBC_WRITE_OUTPUT:
	case KBC_LOOP_KEYBOARD:
	case KBC_LOOP_MOUSE:
	case KBC_TO_MOUSE:
		state.command = command;
		break;
	case KBC_RESET:
		machine_stop(true, 0, "reset through the keyboard controller");
		break;
	}
}

void keyboard_out(uint16_t port, unsigned int size, uint32_t value)
{
	uint8_t command = state.command;

	if (port == STATUS_PORT) {
		controller_command((uint8_t)value);
		return;
	}
	state.command = 0;
	switch (command) {
	case KBC_WRITE_MODE:
		state.mode = (uint8_t)value;
		next_byte();
		break;
	case KBC_WRITE_OUTPUT:
		if (!(value & OUTPUT_NO_RESET))
			machine_stop(true, 0, "reset through the keyboard controller");
		break;
	case KBC_LOOP_KEYBOARD:
		output((uint8_t)value, true);
		break;
	case KBC_LOOP_MOUSE:			/* as from the keyboard: there is no mouse */
		output((uint8_t)value, false);
		break;
	case KBC_TO_MOUSE:
		break;
	default:
		state.mode &= (uint8_t)~MODE_DISABLED;
		keyboard_take((uint8_t)value);
	}
}
