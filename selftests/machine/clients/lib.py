# SPDX-License-Identifier: GPL-2.0
#
# lib.py: what the tests of QEMU share: the guest's initramfs, a QEMU with a guest in
# it, and the running of tests in KTAP.
#
# State: QEMU processes, each with a QMP socket under /tmp, ended with their test; the
# initramfs, made once in /tmp/initramfs.
# Read next: the files beside this one, one subject each; guest, the guest's side.

import functools, json, os, re, select, socket, subprocess, sys, time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, f'{HERE}/../../ktap')
import ktap  # noqa: E402
from ktap import Failed, Skipped  # noqa: E402

RELEASE = os.uname().release
if not os.path.exists(f'/boot/vmlinuz-{RELEASE}'):  # the lab's kernel is not an installed one
    RELEASE = subprocess.run(['tools/kernel-release'], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
KERNEL = f'/boot/vmlinuz-{RELEASE}'
# A loaded host is slow: these only end what has come to a stop.
LIMIT = int(os.environ.get('MKVM_GUEST_LIMIT', 300))
OLD_QEMU = 'build/qemu-7.2/usr'
# -microvm: Debian's smaller programs, which have KVM alone and no machine but microvm.
QEMUS = {'10.0': 'qemu-system-x86_64', '10.0-i386': 'qemu-system-i386', '10.0-microvm': 'qemu-system-x86_64-microvm',
         '7.2': f'{OLD_QEMU}/bin/qemu-system-x86_64', '7.2-microvm': f'{OLD_QEMU}/bin/qemu-system-x86_64-microvm'}
MODULES = ('virtio_pci virtio_blk virtio_net virtio_balloon ahci ata_piix sd_mod e1000 xhci_pci usbhid hid_generic '
           'evdev button efivarfs').split()


TESTS = []


def test(function=None, long=False):
    """A test; with long=True one of `qemu-test --all` only."""
    if function is None:
        return functools.partial(test, long=long)
    TESTS.append((function, long))
    return function


def check(truth, words):
    if not truth:
        raise Failed(words)


def module_is(name):
    """The hypervisor under /dev/kvm: mkvm or kvm_amd."""
    return os.path.isdir(f'/sys/module/{name}')


def until(condition, what, limit=LIMIT):
    """Waits for condition() to be true, and returns what it returned."""
    end = time.monotonic() + limit
    while not (result := condition()):
        check(time.monotonic() < end, f'{what}: not within {limit} s')
        time.sleep(0.05)
    return result


@functools.cache
def tsc_khz():
    log = subprocess.run(['dmesg'], capture_output=True, text=True, check=True).stdout
    return re.findall(r'tsc: Detected ([0-9.]+) MHz', log)[-1].replace('.', '')


def sh(script, **more):
    done = subprocess.run(['sh', '-ec', script], capture_output=True, text=True, **more)
    check(done.returncode == 0, f'{script!r}: {done.stderr[-300:]}')
    return done.stdout


@functools.cache
def initramfs():
    """guest-init's initramfs, made by `run`, and behind it modules and the guest's part of the tests."""
    sh(f'''
        mkdir -p /tmp/guest/bin && cd /tmp/guest
        modprobe -S {RELEASE} --show-depends -a {' '.join(MODULES)} | sed -n 's/^insmod //p' | sort -u |
        while read -r path; do
            mkdir -p ".${{path%/*}}"
            case $path in
            *.xz) xz -dc "$path" > ".${{path%.xz}}" ;;
            *) cp "$path" ".$path" ;;
            esac
        done
        cp /lib/modules/{RELEASE}/modules.builtin lib/modules/{RELEASE}
        depmod -b . {RELEASE} 2> /tmp/depmod
        cp {HERE}/guest bin/guest
        find . | cpio -o -H newc -R 0:0 --quiet > /tmp/guest.cpio
    ''')
    sh('cat build/lab/guest-initramfs /tmp/guest.cpio > /tmp/initramfs')
    return '/tmp/initramfs'


def connection(path):
    """To a socket, or None while nobody listens: the file is there a little earlier."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(path)
    except OSError:
        link.close()
        return None
    return link


class Qemu:
    """One QEMU with a guest: its serial port's output so far, and QMP.

    boot: 'linux' (Debian's kernel and a shell on the serial port), or None.  append: more of its command line.
    """
    number = 0
    running = []

    def __init__(self, *words, machine='q35', cpus=2, cpu='host', version='10.0', memory=256, boot='linux', append='',
                 reboot=False):
        Qemu.number += 1
        path = f'/tmp/qemu-test.{os.getpid()}.{Qemu.number}'
        binary = QEMUS[version]
        old = binary.startswith(OLD_QEMU)
        if old and not os.path.exists(binary):
            raise Skipped(f'QEMU {version} is not under build/: tools/old-qemu fetches it')
        self.errors = open(path + '.err', 'w+')
        line = [binary, '-M', f'{machine},accel=kvm', '-smp', str(cpus), '-m', str(memory), '-nodefaults',
                '-display', 'none', '-serial', 'stdio', '-qmp', f'unix:{path},server=on,wait=off']
        line += ['-cpu', cpu] if cpu else []
        line += [] if reboot else ['-no-reboot']
        line += ['-L', f'{OLD_QEMU}/share/qemu', '-L', '/usr/share/seabios'] if old else []
        if boot == 'linux':
            line += ['-kernel', KERNEL, '-initrd', initramfs(), '-append', self.kernel_line(append)]
        self.process = subprocess.Popen(line + list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors)
        Qemu.running.append(self)
        self.output = b''
        os.set_blocking(self.process.stdout.fileno(), False)
        link = until(lambda: connection(path) or self.process.poll() is not None, 'QMP')
        check(self.process.poll() is None, self.why())
        self.events = []
        self.greet(link)

    def greet(self, link):
        try:
            self.qmp = link.makefile('rw')
            self.qmp.readline()
            self.command('qmp_capabilities')
        except (OSError, Failed) as reason:
            self.quit()
            raise Failed(f'{reason}; {self.why()}') from reason

    @staticmethod
    def kernel_line(append=''):
        # Without a paravirtual clock, and where exits are slow, Linux cannot measure its TSC.
        return f'console=ttyS0 panic=-1 quiet tsc_early_khz={tsc_khz()} tsc=reliable {append}'

    def why(self):
        self.errors.seek(0)
        return f'QEMU said: {self.errors.read()[-300:]!r}; the guest: {self.output[-300:]!r}'

    def has_ended(self, name):
        self.process.wait(LIMIT)
        raise Failed(f'{name}: QEMU has ended with status {self.process.returncode}; {self.why()}')

    def command(self, name, **arguments):
        try:
            self.qmp.write(json.dumps({'execute': name, 'arguments': arguments}) + '\n')
            self.qmp.flush()
        except BrokenPipeError:
            self.has_ended(name)
        while True:
            line = self.qmp.readline()
            if not line:
                self.has_ended(name)
            answer = json.loads(line)
            check('error' not in answer, f'{name}: {answer.get("error")}')
            if 'return' in answer:
                return answer['return']
            self.events.append(answer.get('event'))

    def monitor(self, line):
        return self.command('human-monitor-command', **{'command-line': line})

    def status(self):
        return self.command('query-status')['status']

    def read(self):
        if select.select([self.process.stdout], [], [], 0.1)[0]:
            self.output += self.process.stdout.read() or b''

    def wait_for(self, words, start=0, limit=LIMIT):
        """Until the guest has said words, after start bytes of output; the position behind them."""
        words = words.encode() if isinstance(words, str) else words
        end = time.monotonic() + limit
        while (at := self.output.find(words, start)) < 0:
            self.read()
            ended = self.process.poll() is not None
            if ended:
                self.read()
            check(words in self.output[start:] or not ended and time.monotonic() < end, f'no {words!r}; {self.why()}')
        return at + len(words)

    def send(self, line):
        self.process.stdin.write(line.encode() + b'\n')
        self.process.stdin.flush()

    def shell(self, script):
        """Runs a line in the guest's shell, which must succeed; what it printed."""
        start = len(self.output)
        # The line's echo has neither of these words with what follows it.
        self.send(f'echo "begin" $$; {script}; echo "status" $?.')
        at = self.wait_for(b'status ', self.wait_for(b'begin ', start))
        self.wait_for(b'guest#', at)
        said = self.output[start:at].replace(b'\r', b'').split(b'begin ')[-1].split(b'\n', 1)[-1]
        said = said.rsplit(b'status ', 1)[0].decode()
        status = self.output[at:].split(b'.')[0]
        check(status == b'0', f'{script!r} in the guest: status {status.decode()}: {said}')
        return said

    def up(self, cpus=None):
        """Until the guest's shell is there, with so many processors."""
        self.wait_for(b'with %d processors.' % cpus if cpus else b'processors.')
        self.wait_for(b'guest#')

    def load(self, disk=''):
        """The guest's self-check starts: see guest."""
        self.send(f'guest load {disk}')
        self.wait_for(b'.', self.wait_for('beat 1 '))

    def beats(self):
        """Every whole beat in the output: (number, counts)."""
        bad = re.search(rb'BAD.*|.*(?:Oops|BUG:|Kernel panic|soft lockup).*', self.output)
        check(not bad, f'the guest says {bad and bad[0]}')
        found = re.findall(rb'beat (\d+) ([\d ]+)\.', self.output)
        return [(int(number), [int(count) for count in counts.split()]) for number, counts in found]

    def go_on(self, beats=3):
        """Until so many more beats have come, and every processor has done work."""
        number, counts = self.beats()[-1]
        while self.beats()[-1][0] < number + beats or not all(a < b for a, b in zip(counts, self.beats()[-1][1])):
            self.wait_for(b'.', self.wait_for(b'beat %d ' % (self.beats()[-1][0] + 1)))

    def check_beats(self):
        """No beat is missing and none came twice."""
        numbers = [number for number, _ in self.beats()]
        check(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f'the guest counted {numbers}')

    def power_off(self):
        self.send('exit')
        self.process.wait(LIMIT)

    def quit(self):
        self.process.kill()
        self.process.wait()


def quit_all():
    for guest in Qemu.running:
        guest.quit()
    Qemu.running.clear()


def main():
    names = [word for word in sys.argv[1:] if word != '--all']
    return ktap.run([(function.__name__, function) for function, long in TESTS
                     if function.__name__ in names or not names and ('--all' in sys.argv or not long)], quit_all)
