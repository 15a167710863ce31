# SPDX-License-Identifier: GPL-2.0
#
# ktap.py: KTAP for Python: Reader, the one parser of what test programs print, and run(),
# which runs a Python program's own tests.
#
# State: none.
# Read next: ../test, which sums up with Reader; ktap.h, the same for C.

import re
import sys
import time
import traceback


class Failed(Exception):
    """A test's expectation did not hold."""


class Skipped(Exception):
    """A test cannot run here; the words say what is missing."""


class Reader:
    """Reads one program's output line by line. results: (ok|not ok|skip, test, reason, notes)."""

    def __init__(self):
        self.results, self.plan, self.notes = [], None, []

    def add(self, what, test, reason=''):
        self.results.append((what, test, reason, self.notes))
        self.notes = []

    def feed(self, line):
        line = line.rstrip('\n')
        plan = re.match(r'1\.\.(\d+)(?:\s*# *SKIP *(.*))?', line)
        result = re.match(r'(ok|not ok)(?: +\d+)?(?: +- )? *(.*?)(?: *# *SKIP *(.*))?$', line)
        if plan:
            self.plan = int(plan[1])
            if self.plan == 0 and plan[2] is not None:
                self.add('skip', 'all', plan[2])
        elif result and re.match(r'(not )?ok( |$)', line):
            skipped = result[1] == 'ok' and result[3] is not None
            self.add('skip' if skipped else result[1], result[2], result[3] or '')
        elif not line.startswith('KTAP version'):
            self.notes.append(line)

    def finish(self, status, limit):
        """A program that crashes, hangs, prints no plan or breaks it has a failure of its own."""
        count = sum(test != 'all' or what != 'skip' for what, test, _, _ in self.results)
        if status in (124, 137, -9):
            self.add('not ok', 'ends', f'it was stopped at its limit of {limit} s')
        elif status > 128 or status < 0:
            self.add('not ok', 'ends', f'it was killed by signal {status - 128 if status > 0 else -status}')
        elif self.plan is None:
            self.add('not ok', 'plan', f'no plan (1..N) in its output; exit status {status}')
        elif self.plan != count:
            self.add('not ok', 'plan', f'{self.plan} tests planned, {count} results; exit status {status}')
        elif status and not any(what == 'not ok' for what, *_ in self.results):
            self.add('not ok', 'ends', f'exit status {status} with no test failed')
        return self.results


def totals(results):
    """The line that ends every run."""
    count = [sum(result[0] == what for result in results) for what in ('ok', 'not ok', 'skip')]
    return '{} passed, {} failed, {} skipped'.format(*count)


def run(tests, after=None):
    """Runs (name, function) one after the other; prints KTAP; the program's exit status.

    A function fails by any exception, and skips by Skipped. after() is called behind each test.
    """
    count = {'ok': 0, 'not ok': 0, 'skip': 0}
    print(f'KTAP version 1\n1..{len(tests)}', flush=True)
    for number, (name, function) in enumerate(tests, 1):
        begin, verdict, skip = time.monotonic(), 'ok', ''
        try:
            function()
        except Skipped as reason:
            skip = f' # SKIP {reason}'
        except Exception as reason:  # whatever it is, the other tests are to run
            verdict = 'not ok'
            if not isinstance(reason, Failed):
                print(re.sub('^', '# ', traceback.format_exc().rstrip(), flags=re.M))
            print(re.sub('^', '# ', f'{type(reason).__name__}: {reason}', flags=re.M))
        finally:
            if after:
                after()
        count['skip' if skip else verdict] += 1
        print(f'# took {time.monotonic() - begin:.0f} s\n{verdict} {number} {name}{skip}', flush=True)
    print(f'# Totals: pass:{count["ok"]} fail:{count["not ok"]} skip:{count["skip"]}')
    sys.stdout.flush()
    return int(count['not ok'] > 0 or not tests)
