# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # here, out, work, limit and allow_warn are the caller's
#
# common.sh: what lab and bochs share: refusals, the way out, what COMMAND is and the verdict.
#
# State: $work, $out, $limit and $allow_warn of the script that sources this.
# Read next: lab, bochs.

refuse() {
	echo "lab: $*" >&2
	exit 2
}

# Each argument is an option and its value: --cpus:2.
want_numbers() {
	local n
	for n in "$@"; do
		[[ ${n#*:} =~ ^[1-9][0-9]{0,6}$ ]] ||
			refuse "${n%%:*} wants a whole number above 0, not '${n#*:}'"
	done
}

want_tools() {
	local tool for=$1
	shift
	for tool in "$@"; do
		command -v "$tool" > /dev/null || refuse "$tool is not installed; run '$for'"
	done
}

# A directory for this run; $out is in it if nobody asked for it. The script defines cleanup, which
# removes it.
make_directories() {
	work=$(mktemp -d "/tmp/mkvm-$1.$$.XXXXXX") || exit 125
	[ -n "$out" ] || out=$work/out
	mkdir -p "$out" && out=$(realpath "$out") || refuse "cannot make the directory $out"
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
}

# The modules that $2... need, one path a line, in the order of loading. $1: the kernel's release;
# $root: where it is unpacked.
modules_for() {
	local release=$1
	shift
	PATH=$PATH:/usr/sbin:/sbin modprobe -d "$root/" -S "$release" --show-depends -a "$@" |
		sed -n 's/^insmod \([^ ]*\).*/\1/p'
	return "${PIPESTATUS[0]}"
}

# An initramfs of what lies below $1.
pack() {
	(cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet)
}

# Prints a shell script that runs COMMAND with the variables that the lab hands on.
command_script() {
	env | grep -E '^(TERM|LANG|LC_[A-Z]+|KERNEL|CI|MKVM_[A-Z_]+|V)=' | while IFS='=' read -r name value; do
		printf 'export %s=%q\n' "$name" "$value"
	done
	printf 'exec '
	printf '%q ' "$@"
	echo
}

# ---- the verdict ----

tail_of_console() {
	echo "lab: the end of the console log:" >&2
	tail -n "$1" "$out/console.log" 2> /dev/null | tr -d '\r' | sed 's/^/  /' >&2
}

# Ends with 124 if `timeout` ended the machine; $1: its status.
exit_if_timed_out() {
	[ "$1" -eq 124 ] || [ "$1" -eq 137 ] || return 0
	echo "lab: the time limit of $limit s was reached" >&2
	tail_of_console 15
	exit 124
}

# Ends with COMMAND's status, $1, or with 125 if the machine's kernel had something to complain about.
exit_with() {
	if [ -z "$allow_warn" ] && tac "$out/dmesg" | sed '/lab: dmesg is checked from here/,$d' | tac |
	   grep -E -A 25 -f "$here/bad-dmesg" > "$work/bad"; then
		echo "lab: dmesg has a warning (the command's exit status was $1):" >&2
		head -n 60 "$work/bad" | sed 's/^/  /' >&2
		exit 125
	fi
	exit "$1"
}
