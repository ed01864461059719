# Sourced by the scripts beside it: runs long steps and shows how they go.
# On a terminal one line with the elapsed time; elsewhere one plain line at the start and one at the end.

# step TEXT COMMAND...: runs the command with its output in a file, which is shown only if it fails.
step() {
	step_text=$1
	shift
	step_log=$(mktemp "${TMPDIR:-/tmp}/casemate-step.XXXXXX")
	step_began=$(date +%s)
	if [ -t 1 ] && [ -z "${CI:-}" ]; then
		step_on_terminal "$@"
	else
		echo "$step_text ..."
		step_code=0
		"$@" </dev/null >"$step_log" 2>&1 || step_code=$?
	fi
	step_seconds=$(($(date +%s) - step_began))
	if [ "$step_code" -ne 0 ]; then
		echo "$step_text: failed after $step_seconds s; the end of its output:" >&2
		tail -n 40 "$step_log" >&2
		rm -f "$step_log"
		exit "$step_code"
	fi
	echo "$step_text: done ($step_seconds s)"
	rm -f "$step_log"
}

# The command is waited for in the foreground of this shell, so that Ctrl-C reaches it as usual.
step_on_terminal() {
	(
		elapsed=0
		while :; do
			case $((elapsed % 4)) in 0) mark='|' ;; 1) mark='/' ;; 2) mark='-' ;; *) mark='\' ;; esac
			# The last line of the output tells what the step is at; control characters would move the cursor.
			last=$(tail -n 1 "$step_log" 2>/dev/null | tr -d '\000-\037\177' | cut -c1-50)
			printf '\r\033[K%s %s (%s s) %s' "$mark" "$step_text" "$elapsed" "$last"
			sleep 1
			elapsed=$((elapsed + 1))
		done
	) &
	step_spinner=$!
	trap 'kill "$step_spinner" 2>/dev/null; printf "\r\033[K"; exit 130' INT TERM
	step_code=0
	"$@" </dev/null >"$step_log" 2>&1 || step_code=$?
	trap - INT TERM
	kill "$step_spinner" 2>/dev/null || :
	wait "$step_spinner" 2>/dev/null || :
	printf '\r\033[K'
}
