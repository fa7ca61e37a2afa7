#!/bin/sh
# Sourced first by every target, under `set -eu`, with $target set: acts out the lines of the file
# `faults` that name the target, and appends "TARGET START END" to $STANDIN_TIMINGS at the end.
# shellcheck disable=SC2154  # target comes from the Makefile

now() { date +%s.%3N; }

started=$(now)
finish() { printf '%s %s %s\n' "$target" "$started" "$(now)" >>"$STANDIN_TIMINGS"; }
if [ -n "${STANDIN_TIMINGS:-}" ]; then trap finish EXIT; fi

# Runs a command so that a signal to this shell ends the command, too, and is noticed at once.
run() {
	"$@" </dev/null &
	child=$!
	trap 'kill "$child" 2>/dev/null; exit 143' HUP INT TERM
	status=0
	wait "$child" || status=$?
	trap - HUP INT TERM
	return "$status"
}

told_to_fail() {
	for line in 1 2 3; do echo >&2 "stand-in: $target was told to fail ($line)"; done
	exit 1
}

# Fails the first $1 times; the times so far are in .count-TARGET.
fail_times() {
	count=$(cat ".count-$target" 2>/dev/null || echo 0)
	if [ "$count" -lt "$1" ]; then
		echo "$((count + 1))" >".count-$target"
		told_to_fail
	fi
}

# act ACTION [ARGUMENT] [on=NODE_NAME]
act() {
	for node in "$@"; do :; done # the last word
	case $node in on=*) [ "$node" = "on=$NODE_NAME" ] || return 0 ;; esac
	case $1 in
	sleep) run sleep "$2" ;;
	hang) run sleep 1000 ;;
	fail) told_to_fail ;;
	fail-times) fail_times "$2" ;;
	*) echo >&2 "stand-in: no such fault: $*" && exit 1 ;;
	esac
}

if [ -e faults ]; then
	while read -r name action || [ -n "$name" ]; do
		# shellcheck disable=SC2086  # the words of the action
		if [ "$name" = "$target" ]; then act $action; fi
	done <faults
fi
