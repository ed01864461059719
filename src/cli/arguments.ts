/** The first argument that is neither an option of the program nor its value: the command, if it is one. */
export function firstArgument(args: readonly string[]): string | undefined {
  return args.find((argument, index) => !argument.startsWith("-") && args[index - 1] !== "--root");
}

/** What `--root` says before the command, as the parser will find it. */
export function rootArgument(args: readonly string[]): string | undefined {
  const before = args.slice(0, args.indexOf(firstArgument(args) ?? ""));
  const at = before.findLastIndex((argument) => argument === "--root" || argument.startsWith("--root="));
  const argument = before[at];
  return argument === "--root" ? args[at + 1] : argument?.slice("--root=".length);
}
