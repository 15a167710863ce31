#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# svg.py: one stretch of a recording as a picture for people.  Imported by `picture`.
#
# From above: sources of interrupts and pins, then for each vCPU the events that it takes, a
# bar that says what it does, and below it its time in SMM.  What is
# narrower than half a unit is merged: the state with the largest share has the place.
#
# State: none but the page.
# Read next: recording.py.

from html import escape

WIDTH, LEFT, RIGHT = 1180, 178, 16
BAR, THIN, GAP, GROUP = 24, 15, 5, 16
CELL = 0.5
CHAR = 5.9	# of the small text
STYLE = '''
  .page { fill: #ffffff } text { font: 11px "DejaVu Sans", Verdana, sans-serif; fill: #1c2733 }
  .title { font-size: 16px; font-weight: bold } .small { font-size: 10px }
  .dim { fill: #5b6876 } .loss { fill: #c22f2f }
  .grid { stroke: #dfe4e9; stroke-width: 1; fill: none } .band { fill: #f4f6f8 }
  .guest { fill: #2f7fc1 } .host { fill: #e08a1e } .user { fill: #a45cc0 } .asleep { fill: #cfd6dd }
  .smm { fill: #c22f2f } .pin { fill: #2f9e6e } .handler { fill: #2f9e6e } .event { fill: #2f9e6e }
  .raise, .msi, .resample { fill: #1c2733 } .merged { fill: #8c99a6 } .undelivered, .lost { fill: #c22f2f }
  .arrow { stroke: #1c2733; stroke-width: 1.2; fill: none; opacity: .75 } .head { fill: #1c2733 }
  .on { fill: #ffffff } .onsleep { fill: #33404d }
  @media (prefers-color-scheme: dark) {
    .page { fill: #12171d } text { fill: #e3e9ef } .dim { fill: #9aa7b4 } .loss { fill: #ff7b72 }
    .grid { stroke: #2b343e } .band { fill: #1a2129 } .asleep { fill: #3c4753 }
    .guest { fill: #4a97d8 } .host { fill: #d98a2b } .user { fill: #b577cf } .smm, .undelivered, .lost { fill: #f0655d }
    .raise, .msi, .resample, .head { fill: #e3e9ef } .arrow { stroke: #e3e9ef }
    .on { fill: #0d1116 } .onsleep { fill: #cdd6df }
  }'''
LEGEND = [('guest', 'in the guest'), ('host', 'in the kernel'), ('user', 'in userspace'),
          ('asleep', 'asleep (HLT, or waits for INIT or SIPI)'),
          ('smm', 'in SMM'), ('raise', 'raised, until all is done'), ('handler', 'pin high; event taken, to its EOI'),
          ('merged', 'raised while the same waited'), ('undelivered', 'raised, not delivered')]
TITLES = {'events': 'takes', 'SMM, wait for SIPI': 'SMM'}	# of a vCPU's lanes beside its bar


class NothingThere(Exception):
    """The wished stretch cannot be drawn; the text says why."""


def wanted(arrow, words):
    """Is the arrow what --around names?"""
    raising = arrow.raising
    for word in words:
        if word.upper() == raising.kind.upper() or word == str(arrow.number):
            return True
        if word.lower().startswith('0x') and raising.kind == 'interrupt' and word.lower() == raising.label():
            return True
    return False


def stretch(built, vm, options):
    """(begin, end) in ns: as told, else around the arrows that are asked for, else all of it."""
    words = [word for word in options.around.split(',') if word]
    begin, end = 0, built.end
    if words:
        arrows = [a for a in built.arrows if a.raising.piece.lane.vm is vm and wanted(a, words)][:options.first]
        if not arrows:
            raise NothingThere(f'nothing that arrived matches --around {options.around} in VM {vm.number}')
        begin = min(a.steps[0][0] for a in arrows)
        end = max(max(t, s.end if s.kind == 'smm' else t) for a in arrows for t, s, _ in a.steps)
        margin = max((end - begin) // 12, 20000)
        begin, end = max(begin - margin, 0), min(end + margin, built.end)
    begin = begin if options.begin is None else int(options.begin * 1e6)
    end = end if options.end is None else int(options.end * 1e6)
    if end <= begin:
        raise NothingThere('the stretch is empty: --to must be after --from')
    return begin, end


def chosen(built, options):
    """(VM, begin, end): the VM asked for, or the one that does most in the stretch."""
    if not built.vms:
        raise NothingThere('the recording has no VM')
    if options.vm is not None and options.vm not in built.vms:
        raise NothingThere(f'there is no VM {options.vm} in the recording; there are {", ".join(map(str, built.vms))}')
    most, choice, reason = 0, None, NothingThere('nothing happens in that stretch')
    for vm in built.vms.values() if options.vm is None else [built.vms[options.vm]]:
        try:
            begin, end = stretch(built, vm, options)
        except NothingThere as why:
            reason = why
            continue
        here = sum(piece.start < end and piece.end > begin for lane in vm.lanes.values() for piece in lane.slices)
        if here > most:
            most, choice = here, (vm, begin, end)
    if not choice:
        raise reason
    return choice


def time_unit(nanoseconds):
    """A step for the axis: (nanoseconds, name and size of the unit that its labels have)."""
    step = 1
    while nanoseconds / step > 12:
        step *= 2 if str(step)[0] in '15' else 2.5
    unit = ('ms', 10**6) if step >= 10**5 else ('µs', 10**3)
    return int(max(step, 1)), unit


class Page:
    """The picture as it grows."""

    def __init__(self, begin, end):
        self.begin, self.end, self.out, self.y = begin, end, [], 0
        self.scale = (WIDTH - LEFT - RIGHT) / (end - begin)

    def x(self, time):
        return round(LEFT + (min(max(time, self.begin), self.end) - self.begin) * self.scale, 1)

    def visible(self, pieces):
        return [piece for piece in pieces if piece.start < self.end and piece.end > self.begin]

    def put(self, text):
        self.out.append(text)

    def text(self, x, y, words, css='', anchor='start'):
        self.put(f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>')

    def rect(self, x, y, width, height, css, title=''):
        tip = f'<title>{escape(title)}</title>' if title else ''
        self.put(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{css}">{tip}</rect>')

    # ---- rows ----

    def bar(self, pieces, y):
        """What a vCPU does: one path for each kind, of runs of cells with the same majority."""
        cells = int((WIDTH - LEFT - RIGHT) / CELL)
        shares = [{} for _ in range(cells)]
        for piece in pieces:
            first, last = ((self.x_exact(t) - LEFT) / CELL for t in (piece.start, piece.end))
            for cell in range(int(first), min(int(last) + 1, cells)):
                share = min(last, cell + 1) - max(first, cell)
                shares[cell][piece.kind] = shares[cell].get(piece.kind, 0) + share
        kinds = [max(share, key=share.get) if share else None for share in shares] + [None]
        paths, start = {}, 0
        for cell in range(1, cells + 1):
            if kinds[cell] != kinds[start]:
                if kinds[start]:
                    width = (cell - start) * CELL
                    run = f'M{LEFT + start * CELL:g} {y}h{width:g}v{BAR}h-{width:g}z'
                    paths.setdefault(kinds[start], []).append(run)
                start = cell
        for kind, runs in paths.items():
            self.put(f'<path class="{kind}" d="{"".join(runs)}"/>')
        for piece in pieces:
            room = self.x(piece.end) - self.x(piece.start)
            if len(piece.name) * CHAR + 6 < room:
                css = 'small onsleep' if piece.kind == 'asleep' else 'small on'
                self.text(self.x(piece.start) + room / 2, y + 16, piece.name, css, 'middle')

    def x_exact(self, time):
        return LEFT + (min(max(time, self.begin), self.end) - self.begin) * self.scale

    def marks(self, pieces, y):
        """Thin slices and points; a label where there is room: inside, behind, before; a number for some together."""
        free, groups = LEFT, []
        for piece in sorted(pieces, key=lambda piece: piece.start):
            x = self.x(piece.start)
            width = max(self.x(piece.end) - x, 2)
            if groups and x - groups[-1][0] < 3 and groups[-1][3] is not None and groups[-1][2].kind == piece.kind:
                groups[-1][3].append(piece)
            else:
                groups.append([x, width, piece, [piece]])
        for i, (x, width, piece, together) in enumerate(groups):
            room = groups[i + 1][0] if i + 1 < len(groups) else WIDTH
            self.rect(x, y + 2, width, THIN - 4, piece.kind, '; '.join(self.tip(p) for p in together[:4]))
            words = piece.name + (f' ×{len(together)}' if len(together) > 1 else '')
            size = len(words) * CHAR + 6
            beside = x + width + 3
            if size < width:
                self.text(x + 4, y + 11, words, 'small on')
            elif beside + size < room:
                self.text(beside, y + 11, words, 'small')
            elif x - size > free:
                self.text(x - 4, y + 11, words, 'small', 'end')
            free = x + width

    @staticmethod
    def tip(piece):
        details = [f'{key} {", ".join(map(str, value)) if isinstance(value, list) else value}'
                   for key, value in piece.args.items()
                   if value not in (None, []) and key in ('id', 'outcome', 'waited_for', 'origin', 'thread')]
        return f'{piece.name} at {piece.start / 1e6:.3f} ms' + (f' ({"; ".join(details)})' if details else '')

    def arrow(self, x1, y1, x2, y2, title):
        bend = (y2 - y1) * 0.45
        self.put(f'<path class="arrow" marker-end="url(#head)" '
                 f'd="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}">'
                 f'<title>{escape(title)}</title></path>')


def layout(page, vm):
    """The rows that have something in the stretch: (name, kind, lane, pieces, y), and the height."""
    rows, y, before = [], 84, None
    for lane in sorted(vm.lanes.values(), key=lambda lane: lane.order):
        pieces = [piece for piece in page.visible(lane.slices) if piece.kind not in ('eoi', 'wait')]
        bar = lane.name.count(':') == 0 and lane.order[0] == 1
        if not pieces and not bar:
            continue
        group = lane.order[1] if lane.order[0] else -1
        if before is not None and group != before:
            y += GROUP
        before = group
        rows.append((lane, 'bar' if bar else 'marks', pieces, y))
        y += (BAR if bar else THIN) + GAP
    return rows, y


def axis(page, bottom):
    step, (unit, size) = time_unit(page.end - page.begin)
    time = -(-page.begin // step) * step
    while time <= page.end:
        x = page.x(time)
        page.put(f'<path class="grid" d="M{x:g} 76V{bottom:g}"/>')
        page.text(x, 70, f'{time / size:g} {unit}', 'small dim', 'middle')
        time += step


def draw_rows(page, rows):
    for lane, how, pieces, y in rows:
        height = BAR if how == 'bar' else THIN
        page.rect(LEFT, y, WIDTH - LEFT - RIGHT, height, 'band')
        page.text(LEFT - 8, y + (16 if how == 'bar' else 11), TITLES.get(lane.name.partition(': ')[2], lane.name),
                  '' if how == 'bar' else 'small dim', 'end')
    for lane, how, pieces, y in rows:
        if how == 'bar':
            page.bar(pieces, y)
        else:
            page.marks(pieces, y)


def draw_arrows(page, arrows, rows):
    """From the raising to the pin and to each event; those that fall together once."""
    place = {lane: (y, BAR if how == 'bar' else THIN) for lane, how, _, y in rows}
    drawn = set()
    for arrow in arrows:
        for (t1, s1, before), (t2, s2, what) in zip(arrow.steps, arrow.steps[1:]):
            if before == 'EOI' and arrow.raising.via:
                s1 = arrow.raising.via[0][1]	# a level is sent again by its pin
            if what == 'EOI' or s1.lane is s2.lane or s1.lane not in place or s2.lane not in place:
                continue
            if not (page.begin <= t1 <= page.end and page.begin <= t2 <= page.end):
                continue
            x1, x2 = page.x(t1), page.x(t2)
            key = s1.lane.order, s2.lane.order, round(x1 / 3), round(x2 / 3)
            if key not in drawn:
                drawn.add(key)
                page.arrow(x1, place[s1.lane][0] + THIN - 2, x2, place[s2.lane][0] + 2,
                           f'id {arrow.number}: {arrow.raising.label()}, {s1.name} to vCPU {arrow.vcpu} '
                           f'in {(t2 - t1) / 1e3:.0f} µs')


def legend(page, y):
    x = LEFT
    for css, words in LEGEND:
        width = 22 + len(words) * CHAR + 14
        if x + width > WIDTH:
            x, y = LEFT, y + 18
        page.rect(x, y, 14, 10, css)
        page.text(x + 19, y + 9, words, 'small')
        x += width
    page.put(f'<path class="arrow" marker-end="url(#head)" d="M{x:g} {y + 5}H{x + 20:g}"/>')
    page.text(x + 27, y + 9, 'leads to', 'small')
    return y + 26


def draw(read, built, options):
    """The SVG's text."""
    vm, begin, end = chosen(built, options)
    page = Page(begin, end)
    rows, bottom = layout(page, vm)
    axis(page, bottom)
    draw_rows(page, rows)
    draw_arrows(page, [a for a in built.arrows if a.raising.piece.lane.vm is vm], rows)
    height = legend(page, bottom + 12)
    title = options.title or f'VM {vm.number}: what its vCPUs do, and what interrupts them'
    page.text(16, 28, title, 'title')
    page.text(16, 46, f'{begin / 1e6:.3f} ms to {end / 1e6:.3f} ms after the first event; '
              f'{len(read.events)} events were recorded', 'small dim')
    if read.lost:
        page.text(WIDTH - RIGHT, 46, f'{read.lost} events were lost: something may be missing here', 'loss', 'end')
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img">\n'
            f'<title>{escape(title)}</title>\n'
            f'<!-- SPDX-License-Identifier: GPL-2.0; made by trace/picture -->\n<style>{STYLE}\n</style>\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto">'
            '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>\n'
            f'<rect class="page" width="{WIDTH}" height="{height}"/>\n')
    return head + '\n'.join(page.out) + '\n</svg>\n'
