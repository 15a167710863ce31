/* SPDX-License-Identifier: GPL-2.0 */
/*
 * trace.h - the tracepoints of system "mkvm".
 *
 * Fields that several events have: vm, the VM's number; vcpu, a vCPU's APIC id, -1: no vCPU is
 * concerned; id, the interrupt, NMI, SMI, INIT or SIPI that the event is about
 * (explain/provenance.c), 0: none, or one raised before tracing began. Words are strings, so
 * that scripts need no tables. Documentation/tracepoints.rst is generated from this file: the
 * comment before an event is its description there.
 *
 * State: none. Read next: explain/provenance.c.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mkvm

#if !defined(MKVM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define MKVM_TRACE_H

#include <linux/string.h>
#include <linux/tracepoint.h>

#include "hw_ops.h"

#define WORD(name)	__array(char, name, 16)
#define SET(name)	(__entry->name = (name))
#define SET_WORD(name)	strscpy_pad(__entry->name, name, sizeof(__entry->name))
#define SET_VCPU	(__entry->vm = vcpu->vm->nr, __entry->vcpu = vcpu->id)

/* Each enabled event counts as a user of mkvm_trace_key. */
#define EVENT_OF(class, name, proto, args) \
	DEFINE_EVENT_FN(class, name, PARAMS(proto), PARAMS(args), mkvm_trace_reg, mkvm_trace_unreg)

/* ---- raising ---- */

/*
 * An interrupt, NMI, SMI, INIT or SIPI comes into being and gets its id. origin: who
 * raised it. gsi: -1 where none is concerned; vcpu: the sender of an IPI, the owner of
 * an LVT entry, or the target. address, data: of an MSI; of an IPI its destination and
 * ICR; of an LVT entry its offset and value; else data is the vector or pin.
 */
TRACE_EVENT_FN(raise,
	TP_PROTO(u32 vm, u32 id, const char *origin, int vcpu, int gsi, u64 address, u32 data),
	TP_ARGS(vm, id, origin, vcpu, gsi, address, data),
	TP_STRUCT__entry(__field(u32, vm) __field(u32, id) WORD(origin) __field(int, vcpu)
			 __field(int, gsi) __field(u64, address) __field(u32, data)),
	TP_fast_assign(SET(vm); SET(id); SET_WORD(origin); SET(vcpu); SET(gsi); SET(address); SET(data);),
	TP_printk("vm=%u id=%u origin=%s vcpu=%d gsi=%d address=0x%llx data=0x%x", __entry->vm, __entry->id,
		  __entry->origin, __entry->vcpu, __entry->gsi, __entry->address, __entry->data),
	mkvm_trace_reg, mkvm_trace_unreg);

/* Everything that raising id caused is done. result: what KVM_IRQ_LINE_STATUS reports. */
TRACE_EVENT_FN(raised,
	TP_PROTO(u32 vm, u32 id, int result),
	TP_ARGS(vm, id, result),
	TP_STRUCT__entry(__field(u32, vm) __field(u32, id) __field(int, result)),
	TP_fast_assign(SET(vm); SET(id); SET(result);),
	TP_printk("vm=%u id=%u result=%d", __entry->vm, __entry->id, __entry->result),
	mkvm_trace_reg, mkvm_trace_unreg);

/*
 * The GSI that parent raised leads to a pin or to an MSI; this branch gets its own id. chip:
 * PIC, IOAPIC, MSI.
 */
TRACE_EVENT_FN(route,
	TP_PROTO(u32 vm, u32 parent, u32 id, const char *chip, int pin),
	TP_ARGS(vm, parent, id, chip, pin),
	TP_STRUCT__entry(__field(u32, vm) __field(u32, parent) __field(u32, id) WORD(chip) __field(int, pin)),
	TP_fast_assign(SET(vm); SET(parent); SET(id); SET_WORD(chip); SET(pin);),
	TP_printk("vm=%u parent=%u id=%u chip=%s pin=%d", __entry->vm, __entry->parent, __entry->id,
		  __entry->chip, __entry->pin),
	mkvm_trace_reg, mkvm_trace_unreg);

DECLARE_EVENT_CLASS(pin,
	TP_PROTO(u32 vm, u32 id, int pin, bool high, u64 rte),
	TP_ARGS(vm, id, pin, high, rte),
	TP_STRUCT__entry(__field(u32, vm) __field(u32, id) __field(int, pin) __field(int, high)
			 __field(int, vector) __field(u64, rte)),
	TP_fast_assign(SET(vm); SET(id); SET(pin); SET(high); __entry->vector = rte & 0xff; SET(rte);),
	TP_printk("vm=%u id=%u pin=%d high=%d vector=0x%x rte=0x%llx", __entry->vm, __entry->id, __entry->pin,
		  __entry->high, __entry->vector, __entry->rte));

#define PIN_EVENT(name) \
	EVENT_OF(pin, name, TP_PROTO(u32 vm, u32 id, int pin, bool high, u64 rte), TP_ARGS(vm, id, pin, high, rte))

/* A source drives a pin of the PIC pair (0 to 15) high or low. vector and rte are 0. */
PIN_EVENT(pic_set);
/* A source drives a pin of the IOAPIC high or low. rte: its redirection entry, with remote-IRR. */
PIN_EVENT(ioapic_set);
/*
 * The service of a pin of the PIC pair has ended, by EOI or automatically. high: whether the
 * line is still high.
 */
PIN_EVENT(pic_eoi);
/*
 * The EOI of vector reaches a pin of the IOAPIC that waits for it. high: whether the line is
 * still high.
 */
PIN_EVENT(ioapic_eoi);
/* A resamplefd of a GSI is signalled, whose device may raise it again. pin: the GSI. */
PIN_EVENT(resample);

/* ---- at the LAPIC and into the guest ---- */

DECLARE_EVENT_CLASS(step,
	TP_PROTO(u32 vm, int vcpu, u32 id, int vector, const char *kind, const char *why, u32 into),
	TP_ARGS(vm, vcpu, id, vector, kind, why, into),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u32, id) __field(int, vector) WORD(kind)
			 WORD(why) __field(u32, into)),
	TP_fast_assign(SET(vm); SET(vcpu); SET(id); SET(vector); SET_WORD(kind); SET_WORD(why); SET(into);),
	TP_printk("vm=%u vcpu=%d id=%u vector=0x%x kind=%s why=%s into=%u", __entry->vm, __entry->vcpu,
		  __entry->id, __entry->vector, __entry->kind, __entry->why, __entry->into));

#define STEP_EVENT(name) \
	EVENT_OF(step, name, \
		 TP_PROTO(u32 vm, int vcpu, u32 id, int vector, const char *kind, const char *why, u32 into), \
		 TP_ARGS(vm, vcpu, id, vector, kind, why, into))

/*
 * An MSI was decoded. vector, kind: as in apic_accept; into: its destination; why: physical,
 * logical.
 */
STEP_EVENT(msi);
/*
 * A LAPIC accepts a message: a vector for IRR (kind fixed, lowest), or NMI, SMI, INIT, SIPI.
 * why: edge, level.
 */
STEP_EVENT(apic_accept);
/*
 * id merges with into, because the same vector or event is already pending, or the same pin
 * (vector is its number) is already high.
 */
STEP_EVENT(coalesce);
/*
 * id is pending and cannot be injected now; there is one event for each reason. why: IF=0, shadow,
 * TPR, PPR, event (another one is in delivery), SMM, wait-for-SIPI, NMI-mask, debugger; at a pin
 * (vector is its number): masked, remote-IRR.
 */
STEP_EVENT(block);
/* id is lost. why: no target (no LAPIC is addressed), APIC off, vector < 16. */
STEP_EVENT(drop);
/* The guest will exit as soon as id can be injected. kind: interrupt, NMI. */
STEP_EVENT(window_open);
/*
 * The next entry injects the event. kind: interrupt, NMI, exception, INT n; id: only of the
 * first two.
 */
STEP_EVENT(inject);
/*
 * An exit interrupted its delivery, or userspace restored it: it is injected again. The
 * handler has not run.
 */
STEP_EVENT(reinject);
/* The guest's EOI ends the vector that was in service. */
STEP_EVENT(eoi);

/* ---- the pending word ---- */

DECLARE_EVENT_CLASS(pending_word,
	TP_PROTO(const struct mkvm_vcpu *vcpu, u32 id, const char *event, u32 before, u32 after, const char *how),
	TP_ARGS(vcpu, id, event, before, after, how),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u32, id) WORD(event) __field(u32, before)
			 __field(u32, after) WORD(how) __field(int, sipi)),
	TP_fast_assign(SET_VCPU; SET(id); SET_WORD(event); SET(before); SET(after); SET_WORD(how);
		       __entry->sipi = vcpu->sipi_vector;),
	TP_printk("vm=%u vcpu=%d id=%u event=%s before=0x%x after=0x%x how=%s sipi=0x%x", __entry->vm,
		  __entry->vcpu, __entry->id, __entry->event, __entry->before, __entry->after, __entry->how,
		  __entry->sipi));

#define WORD_EVENT(name) \
	EVENT_OF(pending_word, name, \
		 TP_PROTO(const struct mkvm_vcpu *vcpu, u32 id, const char *event, u32 before, u32 after, \
			  const char *how), TP_ARGS(vcpu, id, event, before, after, how))

/*
 * An INIT, SIPI (to page sipi), NMI or SMI enters the pending word. how: posted, set-events,
 * set-mp-state.
 */
WORD_EVENT(pend);
/*
 * It leaves the pending word. how: taken; or, without effect, by-INIT, not-waiting (a SIPI), in-SMM
 * (a SIPI), merged (a second NMI, with the first), set-events.
 */
WORD_EVENT(consume);

DECLARE_EVENT_CLASS(events,
	TP_PROTO(const struct mkvm_vcpu *vcpu, u32 seen, u32 refused, int result),
	TP_ARGS(vcpu, seen, refused, result),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u32, word) __field(u32, seen)
			 __field(u32, refused) __field(int, result)),
	TP_fast_assign(SET_VCPU; __entry->word = vcpu->pending; SET(seen); SET(refused); SET(result);),
	TP_printk("vm=%u vcpu=%d word=0x%x seen=0x%x refused=0x%x result=%d", __entry->vm, __entry->vcpu,
		  __entry->word, __entry->seen, __entry->refused, __entry->result));

#define EVENTS_EVENT(name) \
	EVENT_OF(events, name, TP_PROTO(const struct mkvm_vcpu *vcpu, u32 seen, u32 refused, int result), \
		 TP_ARGS(vcpu, seen, refused, result))

/*
 * KVM_GET_VCPU_EVENTS reports events. word: the pending word; seen: the bits that userspace
 * sees.
 */
EVENTS_EVENT(events_get);
/*
 * KVM_SET_VCPU_EVENTS is done. seen: bits that userspace sets; refused: unseen bits that it
 * may not clear.
 */
EVENTS_EVENT(events_set);

/* ---- what a vCPU does ---- */

DECLARE_EVENT_CLASS(vcpu_change,
	TP_PROTO(const struct mkvm_vcpu *vcpu, const char *what, const char *by),
	TP_ARGS(vcpu, what, by),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) WORD(mp_state) WORD(what) WORD(by)),
	TP_fast_assign(SET_VCPU; strscpy_pad(__entry->mp_state, mkvm_mp_state_name(vcpu->mp_state), 16);
		       SET_WORD(what); SET_WORD(by);),
	TP_printk("vm=%u vcpu=%d mp_state=%s what=%s by=%s", __entry->vm, __entry->vcpu, __entry->mp_state,
		  __entry->what, __entry->by));

#define VCPU_EVENT(name) \
	EVENT_OF(vcpu_change, name, TP_PROTO(const struct mkvm_vcpu *vcpu, const char *what, const char *by), \
		 TP_ARGS(vcpu, what, by))

/* A vCPU changes from mp_state to what. by: INIT, SIPI, HLT, wake, SMI, ioctl. */
VCPU_EVENT(mp_state);
/*
 * A thread kicks the vCPU. what: ipi, it leaves the guest; wake, it slept; none, it will look
 * anyway.
 */
VCPU_EVENT(kick);
/* The vCPU's thread goes to sleep. */
VCPU_EVENT(sleep);
/* The thread is awake again. by: event, signal, work (of the thread, not of the vCPU). */
VCPU_EVENT(wake);

DECLARE_EVENT_CLASS(border,
	TP_PROTO(const struct mkvm_vcpu *vcpu, const char *reason, u64 code, u64 info1, u64 info2, u32 event),
	TP_ARGS(vcpu, reason, code, info1, info2, event),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u64, rip) WORD(reason) __field(u64, code)
			 __field(u64, info1) __field(u64, info2) __field(u32, event)),
	TP_fast_assign(SET_VCPU; __entry->rip = vcpu->rip; SET_WORD(reason); SET(code); SET(info1); SET(info2);
		       SET(event);),
	TP_printk("vm=%u vcpu=%d rip=0x%llx reason=%s code=0x%llx info1=0x%llx info2=0x%llx event=0x%x",
		  __entry->vm, __entry->vcpu, __entry->rip, __entry->reason, __entry->code, __entry->info1,
		  __entry->info2, __entry->event));

#define BORDER_EVENT(name) \
	EVENT_OF(border, name, \
		 TP_PROTO(const struct mkvm_vcpu *vcpu, const char *reason, u64 code, u64 info1, u64 info2, \
			  u32 event), TP_ARGS(vcpu, reason, code, info1, info2, event))

/* The guest is entered. event: the vector in delivery plus 0x80000000, or 0. */
BORDER_EVENT(enter);
/*
 * The guest exits. code, info1, info2: the vendor's; event: the one whose delivery was
 * interrupted (EXITINTINFO).
 */
BORDER_EVENT(exit);
/* KVM_RUN returns. code: kvm_run's exit_reason (KVM_EXIT_*); info1: the ioctl's return value. */
BORDER_EVENT(user_exit);
/* An SMI is taken at rip. info1: its id; code: SMBASE. */
BORDER_EVENT(smm_enter);
/* RSM: the guest continues at rip. info1: the SMI's id; code: SMBASE as the handler left it. */
BORDER_EVENT(smm_leave);

DECLARE_EVENT_CLASS(access,
	TP_PROTO(const struct mkvm_vcpu *vcpu, u64 address, int len, bool write, u64 data, const char *by),
	TP_ARGS(vcpu, address, len, write, data, by),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u64, address) __field(int, len)
			 __field(int, write) __field(u64, data) WORD(by)),
	TP_fast_assign(SET_VCPU; SET(address); SET(len); SET(write); SET(data); SET_WORD(by);),
	TP_printk("vm=%u vcpu=%d address=0x%llx len=%d write=%d data=0x%llx by=%s", __entry->vm, __entry->vcpu,
		  __entry->address, __entry->len, __entry->write, __entry->data, __entry->by));

#define ACCESS_EVENT(name) \
	EVENT_OF(access, name, \
		 TP_PROTO(const struct mkvm_vcpu *vcpu, u64 address, int len, bool write, u64 data, const char *by), \
		 TP_ARGS(vcpu, address, len, write, data, by))

/*
 * An access to an address that is not memory. by: kernel, after the access; user, before userspace
 * answers. len 0: a doorbell (KVM_IOEVENTFD) of any length and data, whose instruction was not decoded.
 */
ACCESS_EVENT(mmio);
/* An access to a port; of a string instruction the last element. by: as in mmio. */
ACCESS_EVENT(pio);
/*
 * The guest accesses an address without a suitable second-level mapping. by: fetch, data, walk
 * (of page tables).
 */
ACCESS_EVENT(page_fault);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH explain
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
