/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sync.h - userspace stand-ins for locks, RCU, SRCU and irq_work. The tests
 * are single-threaded, so these do not exclude anybody: they check. Taking a
 * lock twice, releasing one that is free, sleeping under one, reading an RCU
 * pointer outside a reader: each ends the test.
 *
 * State: shim_locks_held (raw and plain spinlocks), shim_rcu_depth, the queue
 * of objects that wait for a grace period, the queue of irq_work.
 */
#ifndef SHIM_SYNC_H
#define SHIM_SYNC_H

#include "base.h"

static __maybe_unused int shim_locks_held;	/* spinlocks held now */
static __maybe_unused int shim_irqs_off;	/* depth of "interrupts off" */
static __maybe_unused int shim_rcu_depth;
static __maybe_unused int shim_in_hardirq;

#define shim_check(cond, what)	do { if (!(cond)) shim_die(__FILE__, __LINE__, what); } while (0)
#define shim_may_sleep(what)	\
	shim_check(!shim_locks_held && !shim_irqs_off && !shim_rcu_depth && !shim_in_hardirq, what)

struct shim_lock {
	int held;
	int irqs_off;		/* taken with interrupts off, released likewise */
};

typedef struct shim_lock raw_spinlock_t;
typedef struct shim_lock spinlock_t;
struct lock_class_key { int unused; };

#define DEFINE_RAW_SPINLOCK(x)	raw_spinlock_t x = { 0 }
#define DEFINE_SPINLOCK(x)	spinlock_t x = { 0 }
#define raw_spin_lock_init(l)	((void)(*(l) = (struct shim_lock){ 0 }))
#define lockdep_assert_held(l)	shim_check((l)->held, "lock not held: " #l)
#define lockdep_is_held(l)	((l)->held)

static inline void shim_lock(struct shim_lock *l, int irqs_off)
{
	shim_check(!l->held, "lock taken twice");
	l->held = 1;
	l->irqs_off = irqs_off;
	shim_locks_held++;
	shim_irqs_off += irqs_off;
}

static inline void shim_unlock(struct shim_lock *l, int irqs_off)
{
	shim_check(l->held, "lock released that is not held");
	shim_check(l->irqs_off == irqs_off, "lock and unlock disagree about interrupts");
	l->held = 0;
	shim_locks_held--;
	shim_irqs_off -= irqs_off;
}

static inline bool shim_trylock(struct shim_lock *l)
{
	if (l->held)
		return false;
	shim_lock(l, 0);
	return true;
}

#define raw_spin_lock(l)			shim_lock(l, 0)
#define raw_spin_unlock(l)			shim_unlock(l, 0)
#define raw_spin_trylock(l)			shim_trylock(l)
#define raw_spin_lock_irq(l)			shim_lock(l, 1)
#define raw_spin_unlock_irq(l)			shim_unlock(l, 1)
#define raw_spin_lock_irqsave(l, flags)		((flags) = 0, shim_lock(l, 1))
#define raw_spin_unlock_irqrestore(l, flags)	((void)(flags), shim_unlock(l, 1))
#define spin_lock_init				raw_spin_lock_init
#define spin_lock				raw_spin_lock
#define spin_unlock				raw_spin_unlock
#define spin_lock_irq				raw_spin_lock_irq
#define spin_unlock_irq				raw_spin_unlock_irq
#define spin_lock_irqsave			raw_spin_lock_irqsave
#define spin_unlock_irqrestore			raw_spin_unlock_irqrestore
#define local_irq_save(flags)			((flags) = 0, shim_irqs_off++)
#define local_irq_restore(flags)		((void)(flags), shim_irqs_off--)
#define preempt_disable()			barrier()
#define preempt_enable()			barrier()

struct mutex {
	int held;
};

#define DEFINE_MUTEX(x)		struct mutex x = { 0 }
#define mutex_init(m)		((void)((m)->held = 0))
#define mutex_destroy(m)	((void)(m))

static inline void mutex_lock(struct mutex *m)
{
	shim_may_sleep("mutex taken where sleeping is not allowed");
	shim_check(!m->held, "mutex taken twice");
	m->held = 1;
}

static inline void mutex_unlock(struct mutex *m)
{
	shim_check(m->held, "mutex released that is not held");
	m->held = 0;
}

/* RCU: what kfree_rcu() was given is freed by the next grace period */
static __maybe_unused struct rcu_head *shim_rcu_waiting;

static inline void rcu_read_lock(void) { shim_rcu_depth++; }
static inline void rcu_read_unlock(void) { shim_check(shim_rcu_depth-- > 0, "rcu_read_unlock without lock"); }

static inline void shim_kfree_rcu(struct rcu_head *head, void *object)
{
	head->object = object;
	head->next = shim_rcu_waiting;
	shim_rcu_waiting = head;
}

static inline void synchronize_rcu(void)
{
	shim_may_sleep("synchronize_rcu where sleeping is not allowed");
	while (shim_rcu_waiting) {
		struct rcu_head *head = shim_rcu_waiting;

		shim_rcu_waiting = head->next;
		free(head->object);
	}
}

#define synchronize_rcu_expedited()	synchronize_rcu()
#define rcu_barrier()			synchronize_rcu()
#define kfree_rcu(p, member)		shim_kfree_rcu(&(p)->member, p)
#define kvfree_rcu(p, member)		kfree_rcu(p, member)
#define rcu_access_pointer(p)		READ_ONCE(p)
#define rcu_assign_pointer(p, v)	smp_store_release(&(p), v)
#define RCU_INIT_POINTER(p, v)		WRITE_ONCE(p, v)
#define rcu_dereference(p) \
	({ shim_check(shim_rcu_depth, "rcu_dereference outside a reader"); READ_ONCE(p); })
#define rcu_dereference_check(p, c) \
	({ shim_check(shim_rcu_depth || (c), "rcu_dereference outside a reader"); READ_ONCE(p); })
#define rcu_dereference_protected(p, c) \
	({ shim_check(c, "rcu_dereference_protected without " #c); (p); })
#define rcu_replace_pointer(p, v, c) \
	({ __typeof__(p) shim_old = rcu_dereference_protected(p, c); rcu_assign_pointer(p, v); shim_old; })

struct srcu_struct {
	int depth;
};

static inline int init_srcu_struct(struct srcu_struct *s) { s->depth = 0; return 0; }
static inline void cleanup_srcu_struct(struct srcu_struct *s) { shim_check(!s->depth, "SRCU reader left"); }
static inline int srcu_read_lock(struct srcu_struct *s) { return s->depth++; }
static inline void srcu_read_unlock(struct srcu_struct *s, int idx) { s->depth--; shim_check(s->depth == idx, "SRCU readers unbalanced"); }
static inline void synchronize_srcu(struct srcu_struct *s) { shim_may_sleep("synchronize_srcu where sleeping is not allowed"); shim_check(!s->depth, "synchronize_srcu inside a reader"); }
#define synchronize_srcu_expedited(s)	synchronize_srcu(s)
#define srcu_dereference(p, s)		({ shim_check((s)->depth, "srcu_dereference outside a reader"); READ_ONCE(p); })

/* irq_work: queued work runs when the test says so, as a hard interrupt */
struct irq_work {
	void (*func)(struct irq_work *work);
	struct irq_work *next;
	bool queued;
};

static __maybe_unused struct irq_work *shim_irq_works;

static inline void init_irq_work(struct irq_work *w, void (*func)(struct irq_work *))
{
	*w = (struct irq_work){ .func = func };
}

static inline bool irq_work_queue(struct irq_work *w)
{
	if (w->queued)
		return false;
	w->queued = true;
	w->next = shim_irq_works;
	shim_irq_works = w;
	return true;
}

static inline void shim_run_irq_work(void)
{
	shim_check(!shim_locks_held, "irq_work would run under a lock");
	while (shim_irq_works) {
		struct irq_work *w = shim_irq_works;

		shim_irq_works = w->next;
		w->queued = false;
		shim_in_hardirq++;
		w->func(w);
		shim_in_hardirq--;
	}
}

static inline void irq_work_sync(struct irq_work *w)
{
	shim_may_sleep("irq_work_sync where sleeping is not allowed");
	if (w->queued)
		shim_run_irq_work();
}

#endif
