# Sourced by each target, with its name in $target: what a test told it to do, then nothing.
# `faults` has lines TARGET ACTION [on=NODE]: sleep S, hang, fail, fail-times N, overlap N.
env >".env-$target"
[ -e faults ] || return 0
while read -r name action number where; do
	[ "$name" = "$target" ] || continue
	case "$number" in on=*) where=$number ;; esac
	[ -z "${where#on=}" ] || [ "${where#on=}" = "$NODE_NAME" ] || continue
	case $action in
	sleep) sleep "$number" ;;
	hang) sleep 1000 ;;
	fail)
		printf 'line %s of %s\n' 1 "$target" 2 "$target" 3 "$target" >&2
		exit 1
		;;
	overlap)
		echo >>".count-$target"
		[ "$(wc -l <".count-$target")" -gt "$number" ] || { echo "Pool overlaps"; exit 1; }
		;;
	fail-times)
		echo >>".count-$target"
		[ "$(wc -l <".count-$target")" -gt "$number" ] || exit 1
		;;
	esac
done <faults
