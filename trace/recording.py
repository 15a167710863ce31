#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# recording.py: reads a recording of the mkvm tracepoints and makes lanes, slices and
# arrows of it, which `picture` draws.  Imported only.
#
# A recording is text: tracefs' files trace and trace_pipe, or `perf script`.  Times are
# integers, nanoseconds since the first event; no two events have the same one.
#
# State: none but the objects.
# Read next: picture, Documentation/tracepoints.rst (what the events say).

import bisect
import re

LINE = re.compile(r'^\s*(.+?)[-\s]+(\d+)\s+(?:\(\s*\S+\)\s+)?\[(\d+)\]\s+(?:\S+\s+)?(\d+\.\d+):\s+'
                  r'(?:(\w+):)?(\w+):\s*(.*)$')	# task, pid, CPU, time, system, event, fields
FIELD = re.compile(r'(\w+)=(.*?)(?= \w+=|$)')
NUMBER = re.compile(r'-?\d+$|0x[0-9a-f]+$')
# The fields that each event has besides vm (kmod/explain/trace.h); WORDS are strings, all others numbers.
PIN, STEP, WORD = 'id pin high vector rte', 'vcpu id vector kind why into', 'vcpu id event before after how sipi'
CHANGE, BORDER = 'vcpu mp_state what by', 'vcpu rip reason code info1 info2 event'
ACCESS, EVENTS = 'vcpu address len write data by', 'vcpu word seen refused result'
CLASSES = {'id origin vcpu gsi address data': 'raise', 'id result': 'raised', 'parent id chip pin': 'route',
           PIN: 'pic_set ioapic_set pic_eoi ioapic_eoi resample',
           STEP: 'msi apic_accept coalesce block drop window_open inject reinject eoi',
           WORD: 'pend consume', EVENTS: 'events_get events_set', CHANGE: 'mp_state kick sleep wake',
           BORDER: 'enter exit user_exit smm_enter smm_leave', ACCESS: 'mmio pio page_fault'}
FIELDS = {name: fields.split() for fields, names in CLASSES.items() for name in names.split()}
WORDS = {'origin', 'chip', 'kind', 'why', 'how', 'mp_state', 'what', 'by', 'reason'}
ANY_VCPU = {'raise', 'msi', 'coalesce', 'block', 'drop'}	# their vcpu may be -1: none
APART = 4	# ns between two events that the recording has at the same time

SOURCES = {'irqfd': 'irqfds', 'irqfd-resample': 'irqfds', 'pit': 'PIT', 'ipi': 'IPIs', 'hypercall': 'IPIs',
           'lvt-timer': 'LAPIC timers', 'lvt-error': 'LAPIC errors',
           'lvt-lint0': 'LINT0'}	# by origin; all others are ioctls
ORDER = ['ioctls', 'irqfds', 'PIT', 'LAPIC timers', 'LAPIC errors', 'LINT0', 'IPIs', 'MSIs']
WAITS = {'UNINITIALIZED': 'waits for INIT', 'INIT_RECEIVED': 'waits for SIPI'}
# KVM_EXIT_* of <linux/kvm.h>
USER_EXITS = {2: 'port I/O', 3: 'debug', 5: 'HLT', 6: 'MMIO', 7: 'window', 8: 'shutdown', 9: 'failed entry',
              10: 'signal',
              17: 'internal error', 24: 'system event', 26: 'IOAPIC EOI', 29: 'RDMSR', 30: 'WRMSR'}


class Event:
    """One line of the recording."""

    def __init__(self, name, time, task, fields):
        self.name, self.time, self.task, self.fields = name, time, task, fields

    def __getattr__(self, field):
        try:
            return self.__dict__['fields'][field]
        except KeyError:
            raise AttributeError(field) from None

    def get(self, field, otherwise=None):
        return self.fields.get(field, otherwise)


class Recording:
    """The events of a text, in the order of their times, and what of it could not be used."""

    def __init__(self, lines):
        self.events, self.unknown, self.unread, self.lost = [], {}, 0, 0
        overwritten = told = 0
        for line in lines:
            line = line.rstrip('\n')
            if line.startswith('#'):
                overwritten = max(overwritten, self.overwritten(line))
                told = max(told, self.number(r'# lost events: (\d+)', line))
            elif line.strip():
                self.take(line)
        self.lost += max(overwritten, told)
        self.settle_times()

    @staticmethod
    def number(pattern, line):
        found = re.search(pattern, line)
        return int(found.group(1)) if found else 0

    @staticmethod
    def overwritten(line):
        found = re.search(r'entries-in-buffer/entries-written: (\d+)/(\d+)', line)
        return int(found.group(2)) - int(found.group(1)) if found else 0

    def take(self, line):
        lost = self.number(r'\[LOST (\d+) EVENTS\]', line) or self.number(r'(?i)\bLOST (\d+) events', line)
        match = LINE.match(line)
        if lost:
            self.lost += lost
        elif not match:
            self.unread += 1
        else:
            task, pid, _, time, system, name, rest = match.groups()
            if system not in (None, 'mkvm') or name not in FIELDS or ' vm=' not in f' {rest}':
                self.unknown[name] = self.unknown.get(name, 0) + 1
                return
            fields = self.fields(name, rest)
            if not fields:
                self.unread += 1
                return
            seconds, fraction = time.split('.')
            time = int(seconds) * 10**9 + int(fraction.ljust(9, '0')[:9])
            self.events.append(Event(name, time, f'{task}-{pid}', fields))

    @staticmethod
    def fields(name, text):
        """Those of an event by name; None: one is missing or is no number."""
        found = dict(FIELD.findall(text))
        for field in ['vm'] + FIELDS[name]:
            if field in WORDS or (field == 'event' and FIELDS[name] == FIELDS['pend']):
                if field not in found:
                    return None
            elif not NUMBER.match(found.get(field, '')):
                return None
            else:
                found[field] = int(found[field], 0)
        return found if found.get('vcpu', 0) >= 0 or name in ANY_VCPU else None

    def settle_times(self):
        self.events.sort(key=lambda event: event.time)
        first = self.events[0].time if self.events else 0
        last = -APART
        for event in self.events:
            event.time = last = max(event.time - first, last + APART)

    def complaints(self):
        """A sentence for each thing that the reader of a picture must know."""
        if self.lost:
            yield f'{self.lost} events were lost; record again with a larger --buffer'
        if self.unknown:
            names = ', '.join(f'{name} ({count})' for name, count in sorted(self.unknown.items()))
            yield f'events that are not known here were left out: {names}'
        if self.unread:
            yield f'lines that are no whole events were left out: {self.unread}'
        if not self.events:
            yield 'there is no event of the system mkvm in it'


class Slice:
    """Something that lasts; a point (end: None) until Lane.settle gives it a short time."""

    def __init__(self, start, kind, name, end=None, **args):
        self.start, self.end, self.kind, self.name, self.args = start, end, kind, name, args
        self.lane, self.point = None, False


class Lane:
    """Slices of one thing.  settle() puts those that would cross others on further rows."""

    def __init__(self, vm, name, order):
        self.vm, self.name, self.order, self.slices = vm, name, order, []
        self.rows = []

    def add(self, piece):
        piece.lane = self
        self.slices.append(piece)
        return piece

    def settle(self, end):
        """Ends all; afterwards the slices of a row nest or are apart."""
        boundaries = sorted({t for s in self.slices for t in (s.start, s.end) if t is not None})
        for piece in self.slices:
            if piece.end is None:
                after = bisect.bisect_right(boundaries, piece.start)
                limit = boundaries[after] if after < len(boundaries) else end
                piece.end, piece.point = max(piece.start + 2, min(piece.start + 500, limit)), True
        ends = []	# of each row: the ends of the slices that are open there
        for piece in sorted(self.slices, key=lambda s: (s.start, -s.end)):
            for row, stack in enumerate(ends):
                while stack and stack[-1] <= piece.start:
                    stack.pop()
                if not stack or piece.end <= stack[-1]:
                    break
            else:
                row, stack = len(ends), []
                ends.append(stack)
                self.rows.append([])
            stack.append(piece.end)
            self.rows[row].append(piece)


class Raising:
    """An interrupt, NMI, SMI, INIT or SIPI, from its raising on."""

    def __init__(self, piece):
        self.piece, self.outcomes, self.waited = piece, [], []
        self.vector, self.kind, self.parent, self.pin = None, 'interrupt', None, None
        self.via = []	# (time, slice) of pins and MSIs
        self.deliveries = {}	# by vCPU: (time, slice, 'inject' or 'EOI'), ...

    def label(self):
        return self.kind if self.vector is None or self.kind != 'interrupt' else f'0x{self.vector:x}'


class Arrow:
    """A way from a raising to one vCPU: steps are (time, slice, what)."""

    def __init__(self, raising, number, vcpu, steps):
        self.raising, self.number, self.vcpu, self.steps = raising, number, vcpu, steps


class Vcpu:
    """What is known of a vCPU while the events pass by."""

    def __init__(self, number, lane):
        self.number = number
        self.runs = lane(f'vCPU {number}', (1, number, 1))
        self.events = lane(f'vCPU {number}: events', (1, number, 0))
        self.modes = lane(f'vCPU {number}: SMM, wait for SIPI', (1, number, 2))
        self.now = self.mode = self.smm = None
        self.mp_state, self.handlers = '', []

    def switch(self, time, kind, name, **args):
        """From now on it does this."""
        if self.now:
            self.now.end = time
        self.now = self.runs.add(Slice(time, kind, name, **args))
        return self.now

    def switch_mode(self, time):
        name = f'SMM (id {self.smm})' if self.smm is not None else WAITS.get(self.mp_state)
        if self.mode and self.mode.name == name:
            return
        if self.mode:
            self.mode.end = time
        kind = 'smm' if self.smm is not None else 'wait'
        self.mode = self.modes.add(Slice(time, kind, name)) if name else None


class Vm:
    """A VM's lanes and vCPUs."""

    def __init__(self, number):
        self.number, self.lanes, self.vcpus, self.pins = number, {}, {}, {}

    def lane(self, name, order):
        if name not in self.lanes:
            self.lanes[name] = Lane(self, name, order)
        return self.lanes[name]

    def vcpu(self, number):
        if number not in self.vcpus:
            self.vcpus[number] = Vcpu(number, self.lane)
        return self.vcpus[number]

    def source(self, name):
        return self.lane(name, (0, ORDER.index(name), 0))


class Builder:
    """Takes one event after the other: on_<event>()."""

    def __init__(self, recording):
        self.vms, self.raisings = {}, {}
        self.end = recording.events[-1].time + 1000 if recording.events else 0
        for event in recording.events:
            vm = self.vms.setdefault(event.vm, Vm(event.vm))
            number = event.get('vcpu', -1)
            vcpu = vm.vcpu(number) if number >= 0 and event.name != 'raise' else None
            getattr(self, f'on_{event.name}')(event, vm, vcpu)
        self.arrows = list(self.finish())

    # ---- raising ----

    @staticmethod
    def icr(low, destination):
        """What a write to the ICR sends (AMD APM vol. 2, "Interprocessor Interrupts")."""
        kind = ('fixed', 'lowest', 'SMI', '?', 'NMI', 'INIT', 'SIPI', '?')[low >> 8 & 7]
        what = f'0x{low & 0xff:x}' if kind in ('fixed', 'lowest') else kind
        return f'{what} to ' + (f'0x{destination:x}', 'itself', 'all', 'all others')[low >> 18 & 3]

    def on_raise(self, event, vm, _):
        if event.gsi >= 0:
            name = f'{event.origin}, GSI {event.gsi}'
        elif event.origin in ('ipi', 'hypercall'):
            name = f'vCPU {event.vcpu}: {self.icr(event.data, event.address)}'
        else:
            name = event.origin + (f', vCPU {event.vcpu}' if event.vcpu >= 0 else '')
        piece = vm.source(SOURCES.get(event.origin, 'ioctls')).add(Slice(
            event.time, 'raise', name, id=event.id, thread=event.task, address=hex(event.address),
            data=hex(event.data)))
        self.raisings[event.id] = Raising(piece)

    def on_raised(self, event, _vm, _vcpu):
        raising = self.raisings.get(event.id)
        if raising and raising.piece.end is None:
            raising.piece.end = event.time
            raising.piece.args['result'] = event.result

    def on_route(self, event, _vm, _vcpu):
        parent = self.raisings.get(event.parent)
        if parent:
            child = self.raisings[event.id] = Raising(parent.piece)
            child.parent = parent

    def pin(self, event, vm, chip):
        """A slice while the pin is high."""
        key = chip, event.pin
        raising = self.raisings.get(event.id)
        if event.high and key not in vm.pins:
            vm.pins[key] = vm.lane(f'{chip} pin {event.pin}', (0, len(ORDER) + (chip == 'IOAPIC'), event.pin)).add(
                Slice(event.time, 'pin', 'high', id=event.id, vector=event.vector, rte=hex(event.rte)))
        elif not event.high and key in vm.pins:
            vm.pins.pop(key).end = event.time
        if event.high and raising:
            raising.via.append((event.time, vm.pins[key]))
            raising.pin = event.pin

    def on_ioapic_set(self, event, vm, _):
        self.pin(event, vm, 'IOAPIC')

    def on_pic_set(self, event, vm, _):
        self.pin(event, vm, 'PIC')

    def on_msi(self, event, vm, _):
        name = f'{event.kind} 0x{event.vector:x} to {event.why} 0x{event.into:x}'
        piece = vm.source('MSIs').add(Slice(event.time, 'msi', name, id=event.id))
        if event.id in self.raisings:
            self.raisings[event.id].via.append((event.time, piece))

    def on_resample(self, event, vm, _):
        vm.source('irqfds').add(Slice(event.time, 'resample', f'resample, GSI {event.pin}'))

    # ---- at the LAPIC ----

    def outcome(self, event, words):
        if event.id in self.raisings:
            self.raisings[event.id].outcomes.append(words)

    def on_apic_accept(self, event, _vm, vcpu):
        raising = self.raisings.get(event.id)
        if raising:
            fixed = event.kind in ('fixed', 'lowest')
            raising.vector, raising.kind = event.vector, 'interrupt' if fixed else event.kind
            raising.outcomes.append(f'waits at vCPU {vcpu.number}')

    def on_coalesce(self, event, _vm, _vcpu):
        self.outcome(event, f'merged into id {event.into}' if event.into else f'merged: the {event.kind} already waits')

    def on_block(self, event, vm, vcpu):
        if vcpu:
            self.in_kernel(event, vm, vcpu)
            if event.id in self.raisings and event.why not in self.raisings[event.id].waited:
                self.raisings[event.id].waited.append(event.why)
        else:
            self.outcome(event, f'{event.kind} {event.vector}: {event.why}')

    def on_drop(self, event, _vm, _vcpu):
        self.outcome(event, f'dropped: {event.why}')

    def step(self, event, vcpu, piece, what):
        if event.id in self.raisings and vcpu:
            self.raisings[event.id].deliveries.setdefault(vcpu.number, []).append((event.time, piece, what))

    def on_window_open(self, event, vm, vcpu):
        self.in_kernel(event, vm, vcpu)

    def on_inject(self, event, vm, vcpu):
        self.in_kernel(event, vm, vcpu)
        raising = self.raisings.get(event.id)
        if event.kind != 'interrupt':
            names = {'exception': f'exception {event.vector}', 'INT n': f'INT 0x{event.vector:x}'}
            piece = vcpu.events.add(Slice(event.time, 'event', names.get(event.kind, event.kind), id=event.id))
        else:
            # What is injected again has ended, even if it got no EOI.
            self.end_of(vcpu, event.time, lambda old: old.args['vector'] == event.vector)
            piece = vcpu.events.add(Slice(event.time, 'handler', f'0x{event.vector:x}', id=event.id,
                                          vector=event.vector))
            vcpu.handlers.append(piece)
            if raising:
                raising.vector = event.vector
                piece.args.update(origin=raising.piece.name, pin=raising.pin, waited_for=raising.waited)
        self.step(event, vcpu, piece, 'inject')

    def on_reinject(self, event, _vm, vcpu):
        for piece in vcpu.handlers[-1:]:
            piece.args['delivery_cut_off'] = piece.args.get('delivery_cut_off', 0) + 1

    @staticmethod
    def end_of(vcpu, time, which):
        """Takes the newest handler for which which() holds out of service, and returns it."""
        for piece in reversed(vcpu.handlers):
            if which(piece):
                piece.end = time
                vcpu.handlers.remove(piece)
                return piece
        return None

    def eoi(self, event, vcpu, which):
        piece = self.end_of(vcpu, event.time, which)
        if piece:
            end = vcpu.events.add(Slice(event.time - APART // 2, 'eoi', 'EOI', event.time, id=piece.args['id']))
            event.fields['id'] = piece.args['id']
            self.step(event, vcpu, end, 'EOI')
        return piece

    def on_eoi(self, event, _vm, vcpu):
        if not self.eoi(event, vcpu, lambda piece: piece.args['vector'] == event.vector):
            vcpu.events.add(Slice(event.time, 'event', f'EOI 0x{event.vector:x}', id=event.id))

    def on_pic_eoi(self, event, vm, _):
        for vcpu in vm.vcpus.values():
            if self.eoi(event, vcpu, lambda piece: piece.args.get('pin') == event.pin):
                break

    def on_ioapic_eoi(self, event, vm, _):
        if event.high:
            vm.lane(f'IOAPIC pin {event.pin}', (0, len(ORDER) + 1, event.pin)).add(
                Slice(event.time, 'event', 'still high at the EOI', id=event.id))

    # ---- the pending word ----

    def on_pend(self, event, _vm, vcpu):
        if event.id in self.raisings:
            self.raisings[event.id].kind = event.event
            self.raisings[event.id].outcomes.append(f'{event.event} waits at vCPU {vcpu.number}')

    def on_consume(self, event, vm, vcpu):
        if event.how != 'taken':
            vcpu.events.add(Slice(event.time, 'lost', f'{event.event} lost: {event.how}', id=event.id))
            self.outcome(event, f'{event.event} lost at vCPU {vcpu.number}: {event.how}')
            return
        self.in_kernel(event, vm, vcpu)
        if event.event == 'INIT':
            self.end_of_all(vcpu, event.time)
        if event.event in ('INIT', 'SIPI'):
            name = event.event + (f' to 0x{event.sipi << 12:x}' if event.event == 'SIPI' else '')
            self.step(event, vcpu, vcpu.events.add(Slice(event.time, 'event', name, id=event.id)), 'inject')

    @staticmethod
    def end_of_all(vcpu, time):
        for piece in vcpu.handlers:
            piece.end = time
        vcpu.handlers.clear()

    def on_events_get(self, event, vm, vcpu):
        pass

    def on_events_set(self, event, _vm, vcpu):
        if event.refused:
            vcpu.events.add(Slice(event.time, 'event', f'KVM_SET_VCPU_EVENTS may not clear 0x{event.refused:x}'))

    # ---- what a vCPU does ----

    def in_kernel(self, event, _vm, vcpu):
        """There is no event when KVM_RUN begins: the first that its thread has tells."""
        if vcpu and vcpu.now and vcpu.now.kind == 'user':
            vcpu.switch(event.time, 'host', 'host')

    def on_mp_state(self, event, _vm, vcpu):
        vcpu.mp_state = event.what
        vcpu.switch_mode(event.time)

    def on_kick(self, event, vm, vcpu):
        pass

    def on_sleep(self, event, _vm, vcpu):
        vcpu.mp_state = event.mp_state
        vcpu.switch_mode(event.time)
        vcpu.switch(event.time, 'asleep', WAITS.get(event.mp_state, f'asleep ({event.mp_state})'))

    def on_wake(self, event, _vm, vcpu):
        vcpu.switch(event.time, 'host', f'host, woken by {event.by}')

    def on_enter(self, event, _vm, vcpu):
        vcpu.switch(event.time, 'guest', 'guest', rip=hex(event.rip))

    def on_exit(self, event, _vm, vcpu):
        vcpu.switch(event.time, 'host', f'exit: {event.reason}', rip=hex(event.rip), info1=hex(event.info1),
                    info2=hex(event.info2))

    def on_user_exit(self, event, _vm, vcpu):
        vcpu.switch(event.time, 'user', f'userspace: {USER_EXITS.get(event.code, event.code)}', rip=hex(event.rip))

    def on_smm_enter(self, event, _vm, vcpu):
        vcpu.smm = event.info1
        vcpu.switch_mode(event.time)
        vcpu.mode.args.update(id=event.info1, rip=hex(event.rip), smbase=hex(event.code))
        event.fields['id'] = event.info1
        self.step(event, vcpu, vcpu.mode, 'inject')

    def on_smm_leave(self, event, _vm, vcpu):
        vcpu.smm = None
        vcpu.switch_mode(event.time)

    def access(self, event, what):
        vcpu = self.vms[event.vm].vcpu(event.vcpu)
        if vcpu.now and vcpu.now.kind in ('host', 'user'):
            words = f'{what} {"write" if event.write else "read"} 0x{event.address:x}'
            words += f', {event.len} bytes, 0x{event.data:x}, by {event.by}' if event.len else f', {event.by}'
            vcpu.now.args.setdefault('access', []).append(words)

    def on_mmio(self, event, _vm, _vcpu):
        self.access(event, 'MMIO')

    def on_pio(self, event, _vm, _vcpu):
        self.access(event, 'port')

    def on_page_fault(self, event, _vm, _vcpu):
        self.access(event, 'page fault')

    # ---- the end ----

    def arrows_of(self, number, raising):
        for vcpu, steps in raising.deliveries.items():
            way = [(raising.piece.start, raising.piece, 'raise')] + [(t, s, 'pin') for t, s in raising.via[:1]]
            yield Arrow(raising, number, vcpu, way + steps)

    def finish(self):
        """Ends what is open, tells of what did not arrive, and returns the arrows."""
        for vm in self.vms.values():
            for vcpu in vm.vcpus.values():
                for piece in [vcpu.now, vcpu.mode, *vcpu.handlers]:
                    if piece and piece.end is None:
                        piece.end = self.end
            for piece in vm.pins.values():
                piece.end = self.end
        arrived = {id((raising.parent or raising).piece) for raising in self.raisings.values() if raising.deliveries}
        for number, raising in self.raisings.items():
            yield from self.arrows_of(number, raising)
            piece = raising.piece
            if raising.outcomes:
                piece.args.setdefault('outcome', []).extend(raising.outcomes[-1:])
            if id(piece) not in arrived:
                piece.kind = 'merged' if ''.join(raising.outcomes[-1:]).startswith('merged') else 'undelivered'
        for vm in self.vms.values():
            vm.lanes = {name: lane for name, lane in vm.lanes.items() if lane.slices}
            for lane in vm.lanes.values():
                lane.settle(self.end)
