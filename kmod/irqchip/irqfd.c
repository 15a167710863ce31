// SPDX-License-Identifier: GPL-2.0
/*
 * irqfd.c - interrupts from eventfds (KVM_IRQFD), and eventfds that are signalled at the end of
 * an interrupt.
 *
 * A write to the eventfd runs irqfd_wake, which raises the GSI at once: no route needs to
 * sleep, and each is looked up when it is used, so there is no copy that a change of routing
 * would have to update. A plain irqfd pulses the GSI. An irqfd with a resamplefd drives its GSI
 * high (MKVM_SOURCE_RESAMPLE). When the guest ends that interrupt, the GSI goes low, and then
 * every resamplefd of it is signalled: a device that still needs service raises it again.
 * Whatever lowers that source signals all resamplefds afterwards, so no device that shares a
 * GSI is forgotten.
 *
 * State: vm->irqchip.irqfds and vm->irqchip.resamplers, changed under vm->irqchip.lock. A closed
 * eventfd is reported to irqfd_wake, which may not sleep: vm->irqchip.irqfd_reap frees it.
 *
 * Read next: routing.c, then mkvm_ioapic_eoi in ioapic.c.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "mkvm.h"
#include "internal.h"
#include "compat.h"

struct mkvm_irqfd {
	struct mkvm *vm;			/* (c) */
	u32 gsi;				/* (c) */
	struct eventfd_ctx *eventfd;		/* (c) */
	struct eventfd_ctx *resamplefd;		/* (c) or NULL */
	wait_queue_entry_t wait;		/* (c) in the eventfd's queue */
	poll_table poll;			/* (q) used while wait is added to the queue */
	bool refused;				/* (q) the queue has another irqfd already */
	bool closed;			/* (a) irqfd_wake sets it: nobody can signal any more */
	struct list_head link;			/* (q) in vm->irqchip.irqfds */
	struct list_head resample_link;		/* (r) and (q) in vm->irqchip.resamplers */
};

static void irqfd_raise(struct mkvm_irqfd *irqfd)
{
	if (irqfd->resamplefd)
		mkvm_set_irq(irqfd->vm, MKVM_SOURCE_RESAMPLE, irqfd->gsi, 1);
	else
		mkvm_set_irq(irqfd->vm, MKVM_SOURCE_IRQFD, irqfd->gsi, MKVM_PULSE);
}

/* The eventfd was signalled or closed. Context: its queue's lock held, interrupts off. */
static int irqfd_wake(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct mkvm_irqfd *irqfd = container_of(wait, struct mkvm_irqfd, wait);
	__poll_t events = key_to_poll(key);
	u64 count;

	if (irqfd->closed)
		return 0;
	if (events & EPOLLHUP) {
		WRITE_ONCE(irqfd->closed, true);
		schedule_work(&irqfd->vm->irqchip.irqfd_reap);
	}
	if (!(events & EPOLLIN))
		return 0;
	eventfd_ctx_do_read(irqfd->eventfd, &count);
	irqfd_raise(irqfd);
	return 1;	/* the signal is consumed: no later entry in the queue needs to wake */
}

/*
 * Whether the queue has an irqfd, of this VM or another. An irqfd consumes the signal, so a second
 * one of the same eventfd would never wake, or from then on the first one would not. Newer kernels
 * do not allow a second one in the queue, either.
 */
static bool has_taker(const wait_queue_head_t *queue)
{
	const wait_queue_entry_t *wait;

	list_for_each_entry(wait, &queue->head, entry)
		if (wait->flags & WQ_FLAG_PRIORITY)
			return true;
	return false;
}

/*
 * Adds the irqfd to the eventfd's queue and to the lists in one step. Context: vm->irqchip.lock
 * held.
 */
static void irqfd_enqueue(struct file *file, wait_queue_head_t *queue, poll_table *poll)
{
	struct mkvm_irqfd *irqfd = container_of(poll, struct mkvm_irqfd, poll);
	unsigned long flags;

	lockdep_assert_held(&irqfd->vm->irqchip.lock);
	spin_lock_irqsave(&queue->lock, flags);
	irqfd->refused = has_taker(queue);
	if (!irqfd->refused) {
		list_add_tail(&irqfd->link, &irqfd->vm->irqchip.irqfds);
		if (irqfd->resamplefd)
			list_add_tail_rcu(&irqfd->resample_link, &irqfd->vm->irqchip.resamplers);
		irqfd->wait.flags |= WQ_FLAG_EXCLUSIVE | WQ_FLAG_PRIORITY;
		__add_wait_queue(queue, &irqfd->wait);
	}
	spin_unlock_irqrestore(&queue->lock, flags);
}

/*
 * Resamples all irqfds, or those whose GSI leads to the pin: first it lowers each GSI, then it
 * signals each resamplefd.
 */
static void resample(struct mkvm *vm, bool all, unsigned int chip, unsigned int pin)
{
	struct mkvm_irqfd *irqfd;

	rcu_read_lock();
	list_for_each_entry_rcu(irqfd, &vm->irqchip.resamplers, resample_link)
		if (all || mkvm_gsi_has_pin(vm, irqfd->gsi, chip, pin))
			mkvm_set_irq(vm, MKVM_SOURCE_RESAMPLE, irqfd->gsi, 0);
	list_for_each_entry_rcu(irqfd, &vm->irqchip.resamplers, resample_link)
		if ((all || mkvm_gsi_has_pin(vm, irqfd->gsi, chip, pin)) &&
		    !READ_ONCE(irqfd->closed)) {
			mkvm_trace(resample, vm, irqfd->gsi);
			mkvm_eventfd_signal(irqfd->resamplefd);
		}
	rcu_read_unlock();
}

/*
 * mkvm_irq_acked - the guest has ended the interrupt of a pin
 * @chip, @pin: as in a route; the slave's pins count from 0
 *
 * Context: any, without locks of interrupt controllers: a device that is signalled here may raise
 * the same pin before this returns.
 */
void mkvm_irq_acked(struct mkvm *vm, unsigned int chip, unsigned int pin)
{
	if (!list_empty(&vm->irqchip.resamplers))
		resample(vm, false, chip, pin);
}

/*
 * mkvm_irqfd_rerouted - the routing table was replaced
 * @old: the previous table, by which nobody raises interrupts any more
 *
 * The pins that irqfds raised by it go low; a device that still needs service raises its interrupt
 * by the new table. Context: vm->irqchip.lock held.
 */
void mkvm_irqfd_rerouted(struct mkvm *vm, const struct mkvm_routing *old)
{
	struct mkvm_irqfd *irqfd;

	lockdep_assert_held(&vm->irqchip.lock);
	list_for_each_entry(irqfd, &vm->irqchip.resamplers, resample_link)
		mkvm_set_irq_by(vm, old, MKVM_SOURCE_RESAMPLE, irqfd->gsi, 0);
	resample(vm, true, 0, 0);
}

/* Frees an irqfd. Afterwards it raises nothing. Context: vm->irqchip.lock held; may sleep. */
static void irqfd_free(struct mkvm_irqfd *irqfd)
{
	struct mkvm *vm = irqfd->vm;
	u64 count;

	eventfd_ctx_remove_wait_queue(irqfd->eventfd, &irqfd->wait, &count);
	list_del(&irqfd->link);
	if (irqfd->resamplefd) {
		list_del_rcu(&irqfd->resample_link);
		synchronize_rcu_expedited();
		/* The pins that it held go low; other irqfds of its GSI may raise them again. */
		mkvm_set_irq(vm, MKVM_SOURCE_RESAMPLE, irqfd->gsi, 0);
		resample(vm, true, 0, 0);
		eventfd_ctx_put(irqfd->resamplefd);
	}
	eventfd_ctx_put(irqfd->eventfd);
	kfree(irqfd);
}

static void irqfd_reap(struct work_struct *work)
{
	struct mkvm *vm = container_of(work, struct mkvm, irqchip.irqfd_reap);
	struct mkvm_irqfd *irqfd, *next;

	mutex_lock(&vm->irqchip.lock);
	list_for_each_entry_safe(irqfd, next, &vm->irqchip.irqfds, link)
		if (READ_ONCE(irqfd->closed))
			irqfd_free(irqfd);
	mutex_unlock(&vm->irqchip.lock);
}

static int irqfd_deassign(struct mkvm *vm, const struct kvm_irqfd *arg)
{
	struct eventfd_ctx *eventfd = eventfd_ctx_fdget(arg->fd);
	struct mkvm_irqfd *irqfd, *next;

	if (IS_ERR(eventfd))
		return PTR_ERR(eventfd);
	mutex_lock(&vm->irqchip.lock);
	list_for_each_entry_safe(irqfd, next, &vm->irqchip.irqfds, link)
		if (irqfd->eventfd == eventfd && irqfd->gsi == arg->gsi)
			irqfd_free(irqfd);
	mutex_unlock(&vm->irqchip.lock);
	eventfd_ctx_put(eventfd);
	return 0;
}

/* A signal from before the call raises the interrupt as well. */
static int irqfd_add(struct mkvm_irqfd *irqfd, struct file *file)
{
	__poll_t events;

	init_waitqueue_func_entry(&irqfd->wait, irqfd_wake);
	init_poll_funcptr(&irqfd->poll, irqfd_enqueue);
	events = vfs_poll(file, &irqfd->poll);
	if (irqfd->refused)
		return -EBUSY;
	if (events & EPOLLIN)
		irqfd_raise(irqfd);
	return 0;
}

static int irqfd_assign(struct mkvm *vm, const struct kvm_irqfd *arg, struct file *file)
{
	struct mkvm_irqfd *irqfd = kzalloc(sizeof(*irqfd), GFP_KERNEL_ACCOUNT);
	int r;

	if (!irqfd)
		return -ENOMEM;
	irqfd->vm = vm;
	irqfd->gsi = arg->gsi;
	irqfd->eventfd = eventfd_ctx_fileget(file);
	if (arg->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		irqfd->resamplefd = eventfd_ctx_fdget(arg->resamplefd);
		if (IS_ERR(irqfd->resamplefd)) {
			r = PTR_ERR(irqfd->resamplefd);
			goto out;
		}
	}
	mutex_lock(&vm->irqchip.lock);
	r = irqfd_add(irqfd, file);
	mutex_unlock(&vm->irqchip.lock);
	if (!r)
		return 0;
	if (irqfd->resamplefd)
		eventfd_ctx_put(irqfd->resamplefd);
out:
	eventfd_ctx_put(irqfd->eventfd);
	kfree(irqfd);
	return r;
}

/*
 * mkvm_irqfd_ioctl - KVM_IRQFD
 *
 * Removing an irqfd that does not exist is no error, as in Linux KVM. Context: may sleep; takes
 * vm->irqchip.lock. Return: -EINVAL if there are no interrupt controllers, or for unknown flags,
 * nonzero padding, a GSI out of range or a file that is no eventfd; -EBADF; -EBUSY if the eventfd
 * is an irqfd already, of this VM or another; -ENOMEM.
 */
int mkvm_irqfd_ioctl(struct mkvm *vm, const struct kvm_irqfd *arg)
{
	struct file *file;
	int r;

	if ((arg->flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE)) ||
	    memchr_inv(arg->pad, 0, sizeof(arg->pad)))
		return -EINVAL;
	if (!mkvm_irqchip_in_kernel(vm) || arg->gsi >= MKVM_NR_GSI)
		return -EINVAL;
	if ((arg->flags & KVM_IRQFD_FLAG_RESAMPLE) && !vm->irqchip.ioapic)
		return -EINVAL;		/* the pins, and their EOIs, are userspace's */
	if (arg->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return irqfd_deassign(vm, arg);
	file = eventfd_fget(arg->fd);
	if (IS_ERR(file))
		return PTR_ERR(file);
	r = irqfd_assign(vm, arg, file);
	fput(file);
	return r;
}

/* mkvm_irqfd_init - initialises the lists of a new VM. */
void mkvm_irqfd_init(struct mkvm *vm)
{
	INIT_LIST_HEAD(&vm->irqchip.irqfds);
	INIT_LIST_HEAD(&vm->irqchip.resamplers);
	INIT_WORK(&vm->irqchip.irqfd_reap, irqfd_reap);
}

/*
 * mkvm_irqfd_destroy - frees all irqfds
 *
 * Context: nobody has the VM any more; the interrupt controllers still exist. May sleep.
 */
void mkvm_irqfd_destroy(struct mkvm *vm)
{
	struct mkvm_irqfd *irqfd, *next;

	mutex_lock(&vm->irqchip.lock);
	list_for_each_entry_safe(irqfd, next, &vm->irqchip.irqfds, link)
		irqfd_free(irqfd);
	mutex_unlock(&vm->irqchip.lock);
	cancel_work_sync(&vm->irqchip.irqfd_reap);
}
