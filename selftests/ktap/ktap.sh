# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# ktap.sh: KTAP for the shell, to be sourced.
#
# State: ktap_number, ktap_failed.
# Read next: ktap.py, whose Reader reads it; ktap.h, the same for C.

ktap_number=0 ktap_failed=0
echo "KTAP version 1"

# result STATUS NAME: a test passed if the status is 0.
result() {
	ktap_number=$((ktap_number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $ktap_number $2"
	else
		echo "not ok $ktap_number $2"
		ktap_failed=1
	fi
}

# skip NAME WHY: a test cannot run here.
skip() {
	ktap_number=$((ktap_number + 1))
	echo "ok $ktap_number $1 # SKIP $2"
}

# finish: the plan, and the program's exit status.
finish() {
	echo "1..$ktap_number"
	[ $ktap_number -gt 0 ] && [ $ktap_failed -eq 0 ]
	exit
}
