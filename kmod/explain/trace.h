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

/* All is done that the raising of id set off; result is what KVM_IRQ_LINE_STATUS reports. */
TRACE_EVENT_FN(raised,
	TP_PROTO(u32 vm, u32 id, int result),
	TP_ARGS(vm, id, result),
	TP_STRUCT__entry(__field(u32, vm) __field(u32, id) __field(int, result)),
	TP_fast_assign(SET(vm); SET(id); SET(result);),
	TP_printk("vm=%u id=%u result=%d", __entry->vm, __entry->id, __entry->result),
	mkvm_trace_reg, mkvm_trace_unreg);

/* The GSI that parent raised leads to a pin, or to an MSI: from here on that branch is id. chip: PIC, IOAPIC, MSI. */
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

/* A source drives a pin of the PIC pair (0 to 15) high or low. vector, rte: 0. */
PIN_EVENT(pic_set);
/* A source drives a pin of the IOAPIC high or low; its entry is rte, with remote-IRR. */
PIN_EVENT(ioapic_set);
/* The service of a pin of the PIC pair has ended, by EOI or automatically. high: the line still is. */
PIN_EVENT(pic_eoi);
/* The EOI of vector reaches a pin of the IOAPIC that waits for it. high: the line still is. */
PIN_EVENT(ioapic_eoi);
/* A resamplefd of GSI pin is signalled: its device may raise it again. */
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

/* An MSI was decoded: its vector and its kind, as apic_accept; into: its destination; why: physical, logical. */
STEP_EVENT(msi);
/* A LAPIC takes a message: a vector into IRR (kind fixed, lowest), or kind NMI, SMI, INIT, SIPI. why: edge, level. */
STEP_EVENT(apic_accept);
/* id does not wait on its own: the same vector, pin (vector is its number) or event already does, as into. */
STEP_EVENT(coalesce);
/*
 * id waits and cannot go in now. Once for each reason why: IF=0, shadow, TPR, PPR, event
 * (another one is in delivery), SMM, wait-for-SIPI, NMI-mask, debugger; and at a pin (vector
 * is its number): masked, remote-IRR.
 */
STEP_EVENT(block);
/* id is lost. why: no target (no LAPIC is addressed), APIC off, vector < 16. */
STEP_EVENT(drop);
/* The guest will be left as soon as id could go in. kind: interrupt, NMI. */
STEP_EVENT(window_open);
/* The event goes into the guest at the next entry. kind: interrupt, NMI, exception, INT n; id: of the first two. */
STEP_EVENT(inject);
/* Its delivery was cut off by an exit, or userspace restored it: it goes in again. The handler has not run. */
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

/* An INIT, SIPI (to page sipi), NMI or SMI gets into the pending word. how: posted, set-events, set-mp-state. */
WORD_EVENT(pend);
/*
 * It leaves the word. how: taken; or without effect: by-INIT, not-waiting (a SIPI), in-SMM (a SIPI),
 * merged (a second NMI, with the first), set-events.
 */
WORD_EVENT(consume);

DECLARE_EVENT_CLASS(events,
	TP_PROTO(const struct mkvm_vcpu *vcpu, u32 told, u32 refused, int result),
	TP_ARGS(vcpu, told, refused, result),
	TP_STRUCT__entry(__field(u32, vm) __field(int, vcpu) __field(u32, word) __field(u32, told)
			 __field(u32, refused) __field(int, result)),
	TP_fast_assign(SET_VCPU; __entry->word = vcpu->pending; SET(told); SET(refused); SET(result);),
	TP_printk("vm=%u vcpu=%d word=0x%x told=0x%x refused=0x%x result=%d", __entry->vm, __entry->vcpu,
		  __entry->word, __entry->told, __entry->refused, __entry->result));

#define EVENTS_EVENT(name) \
	EVENT_OF(events, name, TP_PROTO(const struct mkvm_vcpu *vcpu, u32 told, u32 refused, int result), \
		 TP_ARGS(vcpu, told, refused, result))

/* KVM_GET_VCPU_EVENTS. word: the pending word; told: its bits that userspace gets to see. */
EVENTS_EVENT(events_get);
/* KVM_SET_VCPU_EVENTS is done. told: bits that userspace wants set; refused: those it may not clear, being unseen. */
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

/* A vCPU goes from mp_state to what. by: INIT, SIPI, HLT, wake, SMI, ioctl. */
VCPU_EVENT(mp_state);
/* Somebody wants the vCPU to look. what: ipi, it leaves the guest; wake, it slept; none, it will look anyway. */
VCPU_EVENT(kick);
/* The vCPU's thread goes to sleep. */
VCPU_EVENT(sleep);
/* It is awake again. by: event, signal, work (of its thread, not of the vCPU). */
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

/* Into the guest. event: the vector in delivery, plus 0x80000000, or 0. */
BORDER_EVENT(enter);
/* Out of the guest. code, info1, info2: the vendor's; event: the one whose delivery was cut off (EXITINTINFO). */
BORDER_EVENT(exit);
/* KVM_RUN returns. code: kvm_run's exit_reason (KVM_EXIT_*); info1: what the ioctl returns. */
BORDER_EVENT(user_exit);
/* An SMI, info1 its id, is taken at rip; code: SMBASE. */
BORDER_EVENT(smm_enter);
/* RSM: the guest goes on at rip; info1, code: as above, SMBASE as the handler left it. */
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
 * An access to what is not memory. by: kernel, when it is done; user, before userspace answers. len 0: a
 * doorbell (KVM_IOEVENTFD) of any length and data, whose instruction nobody has looked at.
 */
ACCESS_EVENT(mmio);
/* The same for a port; of a string instruction the last element. */
ACCESS_EVENT(pio);
/* The guest touches an address that has no (such) second-level mapping. by: fetch, data, walk (of its page tables). */
ACCESS_EVENT(page_fault);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH explain
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
