# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# ktap.sh: run test programs that speak KTAP and keep account of each result.
# Sourced by `test` (on the host) and by run-selftests (in the lab).
#
# State: the file $ktap_results, a line for each test:
#   ok|not ok|skip <tab> program <tab> test <tab> reason

# shellcheck disable=SC2154 # the caller sets ktap_results

# ktap_result RESULT PROGRAM TEST REASON
ktap_result() {
	printf '%s\t%s\t%s\t%s\n' "$@" >> "$ktap_results"
}

# ktap_show FILE COMMAND...: run COMMAND, its output indented, and as it is in FILE.
ktap_show() {
	local file=$1
	shift
	"$@" < /dev/null 2>&1 | tee "$file" | sed 's/^/    /'
	return "${PIPESTATUS[0]}"
}

# ktap_retry COMMAND...: once more where the status is the lab's 123: it was the
# emulator that crashed.
ktap_retry() {
	"$@"
	local status=$?
	[ $status -eq 123 ] || return $status
	echo "# QEMU crashed, or its machine did not boot; once more"
	"$@"
}

# ktap_run PROGRAM LIMIT COMMAND...: run COMMAND for at most LIMIT seconds, show
# its output and account for its tests.  A program that crashes, hangs, prints no
# plan or another number of results than planned has a failure of its own.  Exit
# status 123 is the lab's: the emulator crashed, and the program runs once more.
ktap_run() {
	local program=$1 limit=$2 output status started=$SECONDS
	shift 2
	output=$(mktemp) || return 1
	echo "# $program"
	ktap_retry ktap_show "$output" timeout -k 5 "$limit" "$@"
	status=$?
	awk -v program="$program" -v status="$status" -v limit="$limit" '
		function result(what, test, reason) {
			printf "%s\t%s\t%s\t%s\n", what, program, test, reason
			failed += what == "not ok"
		}
		/^1\.\.[0-9]+/ {
			planned = 1
			plan = substr($1, 4) + 0
			if (plan == 0 && sub(/.*# *SKIP */, ""))
				result("skip", "all", $0)
		}
		/^(not )?ok( |$)/ {
			what = /^not/ ? "not ok" : "ok"
			count++
			reason = ""
			if (match($0, /# *SKIP */)) {
				what = what == "ok" ? "skip" : what
				reason = substr($0, RSTART + RLENGTH)
				$0 = substr($0, 1, RSTART - 1)
			}
			sub(/^(not )?ok */, "")
			sub(/^[0-9]+ *(- )?/, "")
			sub(/ *$/, "")
			result(what, $0, reason)
		}
		END {
			if (status == 124 || status == 137)
				result("not ok", "ends", "it was stopped at its limit of " limit " s")
			else if (status > 128)
				result("not ok", "ends", "it was killed by signal " status - 128)
			else if (!planned)
				result("not ok", "plan", "no plan (1..N) in its output; exit status " status)
			else if (plan != count)
				result("not ok", "plan", plan " tests planned, " count + 0 " results; exit status " status)
			else if (status != 0 && !failed)
				result("not ok", "ends", "exit status " status " with no test failed")
		}' "$output" >> "$ktap_results"
	rm -f "$output"
	echo "# $program took $((SECONDS - started)) s"
}

# ktap_summary: what failed and what was skipped, then the totals as last line.
# Fails when a test failed or none passed.
ktap_summary() {
	awk -F '\t' '
		{ n[$1]++ }
		$1 == "not ok" { failures = failures sprintf("  %s: %s%s\n", $2, $3, $4 == "" ? "" : ": " $4) }
		$1 == "skip" { skips = skips sprintf("  %s: %s: %s\n", $2, $3, $4 == "" ? "no reason given" : $4) }
		END {
			if (skips != "")
				printf "Skipped:\n%s", skips
			if (failures != "")
				printf "Failed:\n%s", failures
			printf "%d passed, %d failed, %d skipped\n", n["ok"], n["not ok"], n["skip"]
			exit n["not ok"] > 0 || !n["ok"]
		}' "$ktap_results"
}
