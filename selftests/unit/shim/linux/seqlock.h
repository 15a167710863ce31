/* SPDX-License-Identifier: GPL-2.0 */
/* seqlock.h - userspace stand-in for sequence counters, which work between threads. State: none. */
#ifndef SHIM_SEQLOCK_H
#define SHIM_SEQLOCK_H

typedef struct { unsigned int sequence; } seqcount_t;

#define seqcount_init(s)	((void)((s)->sequence = 0))
#define write_seqcount_begin(s)	((void)__atomic_fetch_add(&(s)->sequence, 1, __ATOMIC_SEQ_CST))
#define write_seqcount_end(s)	((void)__atomic_fetch_add(&(s)->sequence, 1, __ATOMIC_SEQ_CST))

static inline unsigned int read_seqcount_begin(const seqcount_t *s)
{
	unsigned int sequence;

	do {
		sequence = __atomic_load_n(&s->sequence, __ATOMIC_SEQ_CST);
	} while (sequence & 1);
	return sequence;
}

static inline int read_seqcount_retry(const seqcount_t *s, unsigned int start)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return __atomic_load_n(&s->sequence, __ATOMIC_SEQ_CST) != start;
}

#endif
