// SPDX-License-Identifier: GPL-2.0
/*
 * Implements the first serial port: a 16550A UART at 0x3f8 on GSI 4. Its
 * registers are described in the PC16550D data sheet and <linux/serial_reg.h>.
 *
 * The line has no speed: a byte that the guest writes leaves at once while the
 * output ring has room. While it has none, the transmitter reports "not empty",
 * so a slow reader slows the guest down and no output is lost. Input is read
 * only while the guest raises RTS, so input that is typed or piped before the
 * guest is ready waits. Input arrives in bursts of one FIFO; the next burst
 * comes after the guest has emptied the FIFO. In between the interrupt line
 * falls, on which an edge-triggered input and a driver that bounds its work
 * depend.
 *
 * Owns the UART's registers and both rings; everything here needs the
 * machine's lock. Read terminal.c for the other end of the rings.
 */
#include <linux/serial_reg.h>
#include <string.h>

#include "mkvm-run.h"

#define PORT			0x3f8
#define FIFO_SIZE		16
#define INPUT_SIZE		4096u	/* powers of two */
#define OUTPUT_SIZE		65536u
#define MSR_CONNECTED		(UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS)
#define MSR_LINES		0xf0

/* head and tail run freely; their difference is the number of bytes. */
static uint8_t input[INPUT_SIZE];
static uint32_t input_head, input_tail;
static uint8_t output[OUTPUT_SIZE];
static uint32_t output_head, output_tail;

static struct {
	uint8_t ier;
	uint8_t fcr;
	uint8_t lcr;
	uint8_t mcr;
	uint8_t scratch;
	uint8_t msr_lines;	/* their last state, to find changes */
	uint8_t msr_delta;
	uint8_t errors;		/* LSR error bits, cleared when read */
	uint8_t divisor[2];
	bool thre_pending;	/* the "transmitter empty" interrupt */
	bool irq_level;
	bool output_seen;
	unsigned int in_fifo;		/* bytes of the input ring that are in the FIFO */
	uint8_t loop[FIFO_SIZE];	/* the receiver in loopback mode */
	unsigned int loop_count;
} uart;

/* Is there less room than for a whole FIFO, which "transmitter empty" promises? */
static bool output_full(void)
{
	return output_head - output_tail > OUTPUT_SIZE - FIFO_SIZE;
}

/* Returns the number of bytes that the guest can read now. */
static unsigned int received(void)
{
	return uart.mcr & UART_MCR_LOOP ? uart.loop_count : uart.in_fifo;
}

static unsigned int fifo_size(void)
{
	return uart.fcr & UART_FCR_ENABLE_FIFO ? FIFO_SIZE : 1;
}

static unsigned int trigger_level(void)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	if (!(uart.fcr & UART_FCR_ENABLE_FIFO))
		return 1;
	return levels[UART_FCR_R_TRIG_BITS(uart.fcr)];
}

/* Returns the identification of the highest-priority interrupt, without the FIFO bits. */
static uint8_t interrupt_id(void)
{
	if ((uart.ier & UART_IER_RLSI) && uart.errors)
		return UART_IIR_RLSI;
	if ((uart.ier & UART_IER_RDI) && received() >= trigger_level())
		return UART_IIR_RDI;
	if ((uart.ier & UART_IER_RDI) && received())
		return UART_IIR_RX_TIMEOUT;
	if ((uart.ier & UART_IER_THRI) && uart.thre_pending)
		return UART_IIR_THRI;
	if ((uart.ier & UART_IER_MSI) && uart.msr_delta)
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

/* Updates the interrupt line. A PC gates it with OUT2, which loopback disconnects. */
static void update_irq(void)
{
	bool connected = (uart.mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) ==
			 UART_MCR_OUT2;
	bool level = connected && interrupt_id() != UART_IIR_NO_INT;

	if (level == uart.irq_level)
		return;
	uart.irq_level = level;
	machine_set_irq(SERIAL_GSI, level);
}

static uint8_t modem_lines(void)
{
	uint8_t lines = 0;

	if (!(uart.mcr & UART_MCR_LOOP))
		return MSR_CONNECTED;
	if (uart.mcr & UART_MCR_RTS)
		lines |= UART_MSR_CTS;
	if (uart.mcr & UART_MCR_DTR)
		lines |= UART_MSR_DSR;
	if (uart.mcr & UART_MCR_OUT1)
		lines |= UART_MSR_RI;
	if (uart.mcr & UART_MCR_OUT2)
		lines |= UART_MSR_DCD;
	return lines;
}

static void update_modem_lines(void)
{
	uint8_t lines = modem_lines();
	uint8_t changed = lines ^ uart.msr_lines;

	/* The delta bits are four positions below the lines; that of RI reports a falling edge. */
	if (lines & UART_MSR_RI)
		changed &= (uint8_t)~UART_MSR_RI;
	uart.msr_delta |= changed >> 4;
	uart.msr_lines = lines;
}

void serial_reset(void)
{
	memset(&uart, 0, sizeof(uart));
	uart.msr_lines = MSR_CONNECTED;
	uart.divisor[0] = 12;
	uart.thre_pending = true;
}

static void transmit(uint8_t byte)
{
	uart.thre_pending = false;
	if (uart.mcr & UART_MCR_LOOP) {
		if (uart.loop_count < fifo_size())
			uart.loop[uart.loop_count++] = byte;
		else
			uart.errors |= UART_LSR_OE;
		uart.thre_pending = true;
		return;
	}
	/* A guest that ignores the status overwrites the register. */
	if (output_head - output_tail == OUTPUT_SIZE)
		return;
	if (fwcfg_kernel_loaded() && !uart.output_seen) {
		uart.output_seen = true;
		stage("kernel: first byte on the serial port");
	}
	output[output_head++ % OUTPUT_SIZE] = byte;
	if (output_head - output_tail == 1)
		machine_wake();
	uart.thre_pending = !output_full();
}

static uint8_t receive(void)
{
	uint8_t byte;

	if (!received())
		return 0;
	if (uart.mcr & UART_MCR_LOOP) {
		byte = uart.loop[0];
		uart.loop_count--;
		memmove(uart.loop, uart.loop + 1, uart.loop_count);
		return byte;
	}
	byte = input[input_tail++ % INPUT_SIZE];
	if (!--uart.in_fifo)
		machine_wake();
	return byte;
}

static uint8_t line_status(void)
{
	uint8_t lsr = uart.errors;

	if (received())
		lsr |= UART_LSR_DR;
	if (!output_full() || (uart.mcr & UART_MCR_LOOP))
		lsr |= UART_LSR_THRE | UART_LSR_TEMT;
	uart.errors = 0;
	return lsr;
}

static uint8_t read_interrupt_id(void)
{
	uint8_t id = interrupt_id();

	if (id == UART_IIR_THRI)
		uart.thre_pending = false;
	if (uart.fcr & UART_FCR_ENABLE_FIFO)
		id |= 0xc0;
	return id;
}

static uint8_t read_modem_status(void)
{
	uint8_t msr = uart.msr_lines | uart.msr_delta;

	uart.msr_delta = 0;
	return msr;
}

uint32_t serial_in(uint16_t port, unsigned int size)
{
	bool dlab = uart.lcr & UART_LCR_DLAB;
	uint8_t value = 0xff;

	switch (port - PORT) {
	case UART_RX:
		value = dlab ? uart.divisor[0] : receive();
		break;
	case UART_IER:
		value = dlab ? uart.divisor[1] : uart.ier;
		break;
	case UART_IIR:
		value = read_interrupt_id();
		break;
	case UART_LCR:
		value = uart.lcr;
		break;
	case UART_MCR:
		value = uart.mcr;
		break;
	case UART_LSR:
		value = line_status();
		break;
	case UART_MSR:
		value = read_modem_status();
		break;
	case UART_SCR:
		value = uart.scratch;
		break;
	}
	update_irq();
	return value;
}

static void write_interrupt_enable(uint8_t value)
{
	/* Enabling the transmitter's interrupt raises it if the transmitter is empty. */
	if ((value & ~uart.ier & UART_IER_THRI) && !output_full())
		uart.thre_pending = true;
	uart.ier = value & 0x0f;
}

static void write_fifo_control(uint8_t value)
{
	/* Enabling or disabling the FIFOs empties them. */
	if ((value & UART_FCR_CLEAR_RCVR) ||
	    ((value ^ uart.fcr) & UART_FCR_ENABLE_FIFO))
		uart.loop_count = 0;
	uart.fcr = value & UART_FCR_ENABLE_FIFO ?
		   value & (UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK) : 0;
}

static void write_modem_control(uint8_t value)
{
	if (!(value & UART_MCR_LOOP))
		uart.loop_count = 0;
	uart.mcr = value & (UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_OUT1 |
			    UART_MCR_RTS | UART_MCR_DTR);
	update_modem_lines();
	if (value & UART_MCR_RTS)
		machine_wake();
}

void serial_out(uint16_t port, unsigned int size, uint32_t value)
{
	bool dlab = uart.lcr & UART_LCR_DLAB;
	uint8_t byte = (uint8_t)value;

	switch (port - PORT) {
	case UART_TX:
		if (dlab)
			uart.divisor[0] = byte;
		else
			transmit(byte);
		break;
	case UART_IER:
		if (dlab)
			uart.divisor[1] = byte;
		else
			write_interrupt_enable(byte);
		break;
	case UART_FCR:
		write_fifo_control(byte);
		break;
	case UART_LCR:
		uart.lcr = byte;
		break;
	case UART_MCR:
		write_modem_control(byte);
		break;
	case UART_SCR:
		uart.scratch = byte;
		break;
	}
	update_irq();
}

/*
 * Fills the receiver if it is empty and the guest accepts input. Returns the
 * number of bytes that serial_input() accepts now.
 */
size_t serial_input_room(void)
{
	unsigned int waiting = input_head - input_tail;

	if (!uart.in_fifo && waiting && (uart.mcr & UART_MCR_RTS)) {
		uart.in_fifo = fifo_size() < waiting ? fifo_size() : waiting;
		update_irq();
	}
	return INPUT_SIZE - waiting;
}

/* Adds input. @size is at most the last result of serial_input_room(). */
void serial_input(const uint8_t *data, size_t size)
{
	while (size--)
		input[input_head++ % INPUT_SIZE] = *data++;
}

/* Copies up to @size bytes of pending output and returns their number. */
size_t serial_output_peek(uint8_t *data, size_t size)
{
	size_t waiting = output_head - output_tail;
	size_t n;

	if (size > waiting)
		size = waiting;
	for (n = 0; n < size; n++)
		data[n] = output[(output_tail + n) % OUTPUT_SIZE];
	return size;
}

/* Removes @size bytes of output that serial_output_peek() returned and that were written. */
void serial_output_done(size_t size)
{
	bool was_full = output_full();

	output_tail += (uint32_t)size;
	if (was_full && !output_full()) {
		uart.thre_pending = true;
		update_irq();
	}
}
