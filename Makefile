# SPDX-License-Identifier: GPL-2.0
#
# The front door of mkvm; `make` alone prints what there is.
#
# All that is built for a kernel goes to build/<release>/, so that builds for
# several kernels live side by side and the source tree stays clean.
# Read next: kmod/Kbuild (the module), selftests/lab/lab (the machine that
# everything runs in), packages.txt (what must be installed).

ifndef KERNEL
KERNEL := $(shell tools/kernel-release --default)
endif
PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc)

ifneq ($(words $(CURDIR)),1)
$(error the kernel's build cannot work in a path with spaces: $(CURDIR))
endif

# With HOST=1 and for install the kernel is the one that runs.
ifeq ($(HOST),1)
override KERNEL := $(shell uname -r)
endif
ifeq ($(VENDOR),intel)
override KERNEL := intel
endif
RELEASE = $(shell tools/kernel-release $(KERNEL))
HEADERS = $(shell tools/kernel-release --root $(KERNEL))/lib/modules/$(RELEASE)/build
STAGE = $(CURDIR)/build/$(RELEASE)$(if $(MKVM_TEST_POINTS),-test-points)

.DEFAULT_GOAL := help
.PHONY: help setup modules launcher tests unit run test check bench trace-demo lint sparse deb install uninstall clean

help:
	@echo "mkvm: a small KVM for AMD and Intel, and its tests.  On Debian 12 and 13:"
	@echo
	@echo "  make run        install what is missing, build, and boot a 4-processor Linux guest on"
	@echo "                  mkvm in an emulated AMD machine, to a shell (exit it, or Ctrl-A x)"
	@echo "  make test       unit tests, kselftests, boots, traces, QEMU on the release's kernel, in their quick"
	@echo "                  form; ends with 'N passed, N failed, N skipped'"
	@echo "  make bench      instructions per exit and boot times, mkvm beside the kernel's kvm_amd;"
	@echo "                  VENDOR=intel: instructions beside kvm_intel's, in the emulated Intel machine"
	@echo "  make check      make lint, make test on kernels 6.1 and 6.12, kselftests on the newest and debug kernels"
	@echo "                  and in the emulated Intel machine, and tests that must fail: selftests/mutants"
	@echo "  make trace-demo SeaBIOS brings up 4 processors, recorded: a trace for Perfetto, and a picture"
	@echo
	@echo "  make setup      only install the packages of packages.txt (apt, sudo)"
	@echo "  make modules    only build build/<release>/kmod/mkvm.ko"
	@echo "  make launcher   only build userspace/mkvm-run and userspace/mkvm-top"
	@echo "  make tests      only build the kselftests, build/selftests/"
	@echo "  make unit       only the unit tests, without any machine"
	@echo "  make lint       warnings of gcc, clang and sparse; style; make sparse: sparse alone"
	@echo "  make install    module, launcher, mkvm-top, mkvm.h, man pages and udev rule for the running kernel"
	@echo "  make deb        Debian's packages, mkvm and mkvm-dkms, in build/deb/"
	@echo "  make uninstall  removes them;   make clean  removes everything built"
	@echo
	@echo "  KERNEL=6.12     use Debian's 6.12 kernel (default: the release's own, here $(KERNEL)); KERNEL=6.1,"
	@echo "                  7.3, newest or newest-rt: with setup, fetched and, if this release does not have"
	@echo "                  it, unpacked beside the system; KERNEL=debug: in the lab a kernel that checks"
	@echo "                  itself (KASAN, lockdep), built once from Debian's sources in 6 minutes;"
	@echo "                  KERNEL=intel, with setup and modules: for the emulated Intel machine"
	@echo "  HOST=1          with make run, as root: load the module into this machine's own kernel,"
	@echo "                  without the emulated machine (needs SVM)"
	@echo "  PREFIX=$(PREFIX), DESTDIR=  where make install puts things"

setup:
	@tools/setup $(KERNEL)

modules:
	@tools/stage '$(KERNEL)' '$(STAGE)'
	@$(MAKE) --no-print-directory -j$(JOBS) -C $(HEADERS) M=$(STAGE) modules

launcher:
	@$(MAKE) --no-print-directory -j$(JOBS) -C userspace

tests:
	@$(MAKE) --no-print-directory -j$(JOBS) -C selftests/kvm

unit:
	@$(MAKE) --no-print-directory -C selftests/unit check

run: setup
	@$(MAKE) --no-print-directory modules launcher KERNEL=$(KERNEL)
	@selftests/guest/run $(if $(filter 1,$(HOST)),--host) --kernel $(KERNEL)

test: setup
	@$(MAKE) --no-print-directory modules launcher tests KERNEL=$(KERNEL)
	@selftests/test --kernel $(KERNEL) $(TEST_ARGS)

check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test KERNEL=6.1 TEST_ARGS=--long
	@selftests/mutants/broken-test
	@$(MAKE) --no-print-directory test KERNEL=6.12 TEST_ARGS=--long
	@$(MAKE) --no-print-directory test KERNEL=newest TEST_ARGS=--kselftests
	@$(MAKE) --no-print-directory test KERNEL=debug TEST_ARGS=--kselftests
	@[ "$$(id -u)" = 0 ] || echo "check: debootstrap-test and deb-test are left out: a chroot needs root"
	@[ "$$(id -u)" != 0 ] || for suite in bookworm trixie; do \
		selftests/machine/debootstrap-test $$suite && selftests/machine/deb-test $$suite || exit 1; \
	done
	@$(MAKE) --no-print-directory test KERNEL=intel TEST_ARGS=--lab-only; \
		status=$$?; selftests/test --table && exit $$status

bench: setup
	@$(MAKE) --no-print-directory modules launcher KERNEL=$(KERNEL)
	@KERNEL=$(KERNEL) selftests/bench/bench $(BENCH_ARGS)

trace-demo: setup
	@$(MAKE) --no-print-directory modules launcher KERNEL=$(KERNEL)
	@selftests/lab/trace-demo --kernel $(KERNEL)

lint: setup
	@tools/lint $(KERNEL)
	@for kernel in $(filter-out $(KERNEL),6.1 6.12 newest) 6.1-rt 6.12-rt newest-rt; do \
		tools/setup $$kernel && echo "lint: on $$kernel:" && tools/lint $$kernel sparse clang || exit 1; \
	done

sparse:
	@tools/lint $(KERNEL) sparse

# Where DKMS is installed it keeps the module built for every kernel to come;
# packagers (DESTDIR) and machines without it get this kernel's module.
UPDATES = $(DESTDIR)/lib/modules/$(RELEASE)/updates
MAN = $(DESTDIR)$(PREFIX)/share/man/man1
RULES = $(DESTDIR)/usr/lib/udev/rules.d
DKMS = $(if $(DESTDIR),,$(shell command -v dkms))
DKMS_NAME = mkvm/$(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)

deb:
	@tools/deb

install uninstall: KERNEL := $(shell uname -r)
install:
	@$(MAKE) --no-print-directory launcher
ifneq ($(DKMS),)
	rm -rf build/dkms && mkdir -p build/dkms
	cp -r $(wildcard Kbuild dkms.conf COPYING kmod uapi) build/dkms
	! dkms status $(DKMS_NAME) | grep -q . || dkms remove $(DKMS_NAME) --all
	rm -rf /usr/src/$(subst /,-,$(DKMS_NAME))
	dkms install -k $(RELEASE) build/dkms
else
	@$(MAKE) --no-print-directory modules KERNEL=$(KERNEL)
	install -D -m 644 $(STAGE)/kmod/mkvm.ko $(UPDATES)/mkvm.ko
endif
	install -D -m 755 userspace/mkvm-run $(DESTDIR)$(PREFIX)/bin/mkvm-run
	install -D -m 755 userspace/mkvm-top $(DESTDIR)$(PREFIX)/bin/mkvm-top
	install -D -m 644 uapi/mkvm.h $(DESTDIR)$(PREFIX)/include/mkvm.h
	install -D -m 644 Documentation/mkvm-run.1 $(MAN)/mkvm-run.1
	install -D -m 644 Documentation/mkvm-top.1 $(MAN)/mkvm-top.1
	install -D -m 644 userspace/60-mkvm.rules $(RULES)/60-mkvm.rules
	$(if $(DESTDIR),,depmod $(RELEASE))
	$(if $(DESTDIR),,! command -v udevadm > /dev/null || udevadm control --reload 2> /dev/null || true)

uninstall:
	$(if $(DKMS),dkms remove $(DKMS_NAME) --all; rm -rf /usr/src/$(subst /,-,$(DKMS_NAME)))
	rm -f $(UPDATES)/mkvm.ko $(RULES)/60-mkvm.rules
	rm -f $(DESTDIR)$(PREFIX)/include/mkvm.h
	rm -f $(foreach name,mkvm-run mkvm-top,$(DESTDIR)$(PREFIX)/bin/$(name) $(MAN)/$(name).1)
	$(if $(DESTDIR),,depmod $(RELEASE))

clean:
	rm -rf build
	@$(MAKE) --no-print-directory -C userspace clean
