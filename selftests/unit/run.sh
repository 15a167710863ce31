#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# run.sh - run the unit test programs given as arguments; one KTAP stream, in
# which each program is a test with subtests. The totals of the subtests come
# last. Exit status 1 when anything failed, or nothing ran.

export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"

out=$(mktemp) || exit 2
all=$(mktemp) || exit 2
trap 'rm -f "$out" "$all"' EXIT

echo "KTAP version 1"
echo "1..$#"
n=0
bad=0
for bin; do
	n=$((n + 1))
	"$bin" >"$out" 2>&1
	status=$?
	sed 's/^/    /' "$out"
	cat "$out" >>"$all"
	if [ $status -eq 0 ]; then
		echo "ok $n ${bin##*/}"
	else
		echo "not ok $n ${bin##*/} # exit status $status"
		# a program that died did not count itself
		grep -q '^not ok' "$out" || bad=$((bad + 1))
	fi
done

skip=$(grep -c '^ok .* # SKIP' "$all")
pass=$(($(grep -c '^ok ' "$all") - skip))
fail=$(($(grep -c '^not ok ' "$all") + bad))
echo "# Totals: pass:$pass fail:$fail xfail:0 xpass:0 skip:$skip error:0"
[ $fail -eq 0 ] && [ $pass -gt 0 ]
