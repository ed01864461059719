/** What the first argument of a command names; the script asks for the names there are now. */
const containerCommands = ["attach", "cp", "exec", "fork", "inspect", "kill", "logs", "pause", "port", "rename", "restart", "rm", "start", "stats", "stop", "top", "unpause", "update", "wait"];
const imageCommands = ["create", "rmi", "run", "save", "tag"];

/**
 * A script that completes commands, their options, and the names of containers and images. Options are read
 * from the command's own help, so that the script never knows less than the program.
 */
export function bashCompletion(commands: readonly string[]): string {
  return `# bash completion for casemate; made by \`casemate completion bash\`
_casemate() {
	local word=\${COMP_WORDS[COMP_CWORD]} command= member= index
	COMPREPLY=()
	for ((index = 1; index < COMP_CWORD; index++)); do
		case \${COMP_WORDS[index]} in
		--root) ((index++)) ;;
		-*) ;;
		*) [ -n "$command" ] && { member=\${COMP_WORDS[index]}; break; }; command=\${COMP_WORDS[index]} ;;
		esac
	done
	if [ -z "$command" ]; then
		COMPREPLY=($(compgen -W "${commands.join(" ")} --root --debug --help --version" -- "$word"))
		return
	fi
	# docker's longer names: the member decides.
	case $command in
	image | container | system | pod | setup | snapshot | template)
		if [ -z "$member" ]; then
			COMPREPLY=($(compgen -W "$(casemate "$command" --help 2>/dev/null | sed -n 's/^  \\([a-z][a-z-]*\\)[ |].*/\\1/p')" -- "$word"))
			return
		fi
		[[ $word == -* ]] && { COMPREPLY=($(compgen -W "$(casemate "$command" "$member" --help 2>/dev/null | sed '/^Examples*:/,$d' | grep -oE -- '--[a-z][a-z-]*')" -- "$word")); return; }
		case $command in image) command=rmi ;; *) command=rm ;; esac
		;;
	esac
	if [[ $word == -* ]]; then
		COMPREPLY=($(compgen -W "$(casemate "$command" --help 2>/dev/null | sed '/^Examples*:/,$d' | grep -oE -- '--[a-z][a-z-]*')" -- "$word"))
		return
	fi
	case $command in
	${containerCommands.join(" | ")})
		COMPREPLY=($(compgen -W "$(casemate ps -a --format '{{.Names}}' 2>/dev/null)" -- "$word")) ;;
	${imageCommands.join(" | ")})
		COMPREPLY=($(compgen -W "busybox $(casemate images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)" -- "$word"))
		# A colon ends a word for bash: what stands before it is not to be repeated.
		[[ $word == *:* ]] && COMPREPLY=("\${COMPREPLY[@]#"\${word%"\${word##*:}"}"}") ;;
	esac
	[ "$command" != cp ] || COMPREPLY+=($(compgen -f -- "$word"))
}
complete -F _casemate casemate
`;
}
