import { Command, CommanderError, type OutputConfiguration } from "commander";
import { packageVersion } from "../host/config/package-root.ts";
import { firstArgument } from "./arguments.ts";
import type { CommandModule } from "./command.ts";
import { groups, memberAliases as aliases } from "./commands/groups.ts";
import { defineRefused, isRefused } from "./commands/refused.ts";
import { exitCodes, exitWith, reportError } from "./exit.ts";

/** Every command: a line for the help, and how to load it. */
const commands: Readonly<Record<string, { readonly summary: string; readonly load: () => Promise<CommandModule> }>> = {
  run: { summary: "make and start a container in a VM of its own", load: () => import("./commands/run.ts") },
  create: { summary: "make a container without starting it", load: () => import("./commands/create.ts") },
  start: { summary: "start containers that were made or have exited", load: () => import("./commands/start.ts") },
  exec: { summary: "run a command in a running container", load: () => import("./commands/exec.ts") },
  attach: { summary: "connect this terminal with a running container", load: () => import("./commands/attach.ts") },
  ps: { summary: "list containers", load: () => import("./commands/ps.ts") },
  inspect: { summary: "show everything about containers or images", load: () => import("./commands/inspect.ts") },
  logs: { summary: "show what a container has printed", load: () => import("./commands/logs.ts") },
  events: { summary: "show what happens to containers, as it happens", load: () => import("./commands/events.ts") },
  stop: { summary: "stop containers, politely first", load: () => import("./commands/stop.ts") },
  kill: { summary: "send a signal to containers", load: () => import("./commands/kill.ts") },
  pause: { summary: "make containers stand still", load: () => import("./commands/pause.ts") },
  unpause: { summary: "let paused containers go on", load: () => import("./commands/unpause.ts") },
  update: { summary: "change the limits of containers", load: () => import("./commands/update.ts") },
  stats: { summary: "show what containers and their sandboxes use", load: () => import("./commands/stats.ts") },
  top: { summary: "show the processes of a container", load: () => import("./commands/top.ts") },
  rm: { summary: "remove containers", load: () => import("./commands/rm.ts") },
  wait: { summary: "wait for containers to end and print their exit codes", load: () => import("./commands/wait.ts") },
  cp: { summary: "copy files between a container and this machine", load: () => import("./commands/cp.ts") },
  port: { summary: "show where a container's ports are published", load: () => import("./commands/port.ts") },
  rename: { summary: "give a container another name", load: () => import("./commands/rename.ts") },
  restart: { summary: "stop containers and start them again", load: () => import("./commands/restart.ts") },
  prune: { summary: "remove containers that do not run, and images that nothing needs", load: () => import("./commands/prune.ts") },
  pod: { summary: "run several containers in one VM", load: () => import("./commands/pod.ts") },
  fork: { summary: "make live copies of a running container", load: () => import("./commands/fork.ts") },
  snapshot: { summary: "save running containers, and see what was saved", load: () => import("./commands/snapshot.ts") },
  template: { summary: "see and remove the saved VMs that containers start from", load: () => import("./commands/template.ts") },
  pull: { summary: "fetch an image", load: () => import("./commands/pull.ts") },
  images: { summary: "list images", load: () => import("./commands/images.ts") },
  rmi: { summary: "remove images", load: () => import("./commands/rmi.ts") },
  tag: { summary: "give an image one more name", load: () => import("./commands/tag.ts") },
  save: { summary: "write images as an archive", load: () => import("./commands/save.ts") },
  load: { summary: "take the images of an archive in", load: () => import("./commands/load.ts") },
  login: { summary: "keep a password for a registry", load: () => import("./commands/login.ts") },
  logout: { summary: "forget the password of a registry", load: () => import("./commands/logout.ts") },
  build: { summary: "say how to build images", load: () => import("./commands/build.ts") },
  check: { summary: "say what this machine can do", load: () => import("./commands/check.ts") },
  completion: { summary: "print a script that completes commands and names in a shell", load: () => import("./commands/completion.ts") },
  setup: { summary: "have containers start again with this machine", load: () => import("./commands/setup.ts") },
  version: { summary: "show versions", load: () => import("./commands/version.ts") },
};

const examples = `
Examples:
  casemate run --rm -it busybox                 a shell in a VM of its own
  casemate run -d --name web -p 8080:80 busybox httpd -f -p 80
  casemate exec -it web sh                      look inside
  casemate rm -f web                            and throw it away

Exit codes are those of docker run: the command's own, 125 when casemate failed, 126 not
executable, 127 not found, 128+n ended by signal n.`;

/** The member of a group that was called for. */
function memberOf(groupName: string, args: readonly string[]): string | undefined {
  return args.slice(args.indexOf(groupName) + 1).find((argument) => !argument.startsWith("-"));
}

/** Adds a group with the member that was called for, or with all for the help. */
async function defineGroup(program: Command, groupName: string, args: readonly string[] | undefined): Promise<void> {
  const { summary, members } = groups[groupName] ?? { summary: "", members: {} };
  const command = program.command(groupName).description(summary).enablePositionalOptions().configureOutput(mistakeOutput(`casemate ${groupName}`)).exitOverride();
  command.addHelpText("after", `\nExample:\n  casemate ${groupName} ${Object.keys(members)[0] ?? ""} --help`);
  if (args === undefined) return;
  const wanted = memberOf(groupName, args);
  // `image push` is refused as `push` is.
  if (wanted !== undefined && !(wanted in members) && isRefused(wanted)) defineRefused(command.command(wanted, { hidden: true }).exitOverride(), wanted);
  for (const [name, load] of Object.entries(members)) {
    const member = command.command(name).aliases(aliases[name] ?? []).configureOutput(mistakeOutput(`casemate ${groupName} ${name}`)).exitOverride();
    if (wanted === undefined || !(wanted in members) || name === wanted) (await load()).define(member);
  }
}

/** Words a mistake on the command line as our other errors are: one line that says what, one that says what to do. */
function mistakeOutput(commandLine: string): OutputConfiguration {
  return {
    outputError: (text, write) => {
      const [, message = "", guess] = /^error: ([^]*?)\n(?:\((Did you mean [^]*)\)\n)?$/.exec(text) ?? [undefined, text.trim()];
      write(`casemate: ${message}\nhint: ${guess === undefined ? "" : `${guess.replace("Did", "did")} `}see \`${commandLine} --help\`\n`);
    },
  };
}

/** The program with one command loaded and the others known by name, for help and for spelling. */
async function buildProgram(args: readonly string[]): Promise<Command> {
  const name = firstArgument(args);
  const program = new Command("casemate")
    .description("Runs containers inside lightweight virtual machines.")
    .enablePositionalOptions()
    .option("--root <dir>", "keep all state below this folder (default: the system's for root, yours otherwise)")
    .option("-D, --debug", "print the whole chain of causes of an error")
    .version(`casemate version ${packageVersion()}`, "-v, --version", "show the version")
    .configureOutput(mistakeOutput("casemate"))
    .exitOverride()
    .addHelpText("after", examples);
  // Without a command (help, a slip of the pen) every command is loaded, and the parser says what is wrong.
  if (name !== undefined && isRefused(name)) defineRefused(program.command(name, { hidden: true }).exitOverride(), name);
  const loadAll = name === undefined || !(name in commands || name in groups || isRefused(name));
  for (const [commandName, { summary, load }] of Object.entries(commands)) {
    const command = program.command(commandName).description(summary).configureOutput(mistakeOutput(`casemate ${commandName}`)).exitOverride();
    if (loadAll || commandName === name) (await load()).define(command);
  }
  for (const groupName of Object.keys(groups)) await defineGroup(program, groupName, loadAll || groupName === name ? args : undefined);
  return program;
}

/** Does what the arguments say, and ends the program when that fails. */
export async function runProgram(args: readonly string[]): Promise<void> {
  try {
    const program = await buildProgram(args);
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help and version end with 0; bad options with docker's 125.
      await exitWith(error.exitCode === 0 ? 0 : exitCodes.casemateFailed);
    }
    reportError(error, args.includes("--debug") || args.includes("-D"));
    await exitWith(exitCodes.casemateFailed);
  }
}
