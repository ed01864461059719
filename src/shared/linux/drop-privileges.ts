/** The user a helper runs as. Undefined where this program is not root: then the helper is whoever we are. */
export interface HelperUser {
  readonly uid: number;
  readonly gid: number;
}

/** A program with its arguments. */
export interface CommandLine {
  readonly file: string;
  readonly args: readonly string[];
}

/**
 * The command line that starts a program as an unprivileged user, with no capability but the named
 * ones, and no way to gain any. setpriv(1) executes the program itself, so its pid is the child's.
 */
export function asUser(user: HelperUser | undefined, capabilities: readonly string[], command: CommandLine): CommandLine {
  if (user === undefined) return command;
  const set = ["-all", ...capabilities.map((name) => `+${name}`)].join(",");
  return {
    file: "setpriv",
    args: [
      `--reuid=${user.uid}`, `--regid=${user.gid}`, "--clear-groups", "--no-new-privs",
      `--inh-caps=${set}`, `--ambient-caps=${set}`, `--bounding-set=${set}`,
      "--", command.file, ...command.args,
    ],
  };
}
