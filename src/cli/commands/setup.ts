import type { Command } from "commander";
import { existsSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { packageRoot } from "../../host/config/package-root.ts";
import { formatUnit, installUnit, removeUnit, unitFolder, unitName } from "../../host/config/systemd-unit.ts";
import { isRootful } from "../../host/store/paths.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { runProcess } from "../../shared/linux/run-process.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { exitCodes, exitWith, reportError } from "../exit.ts";

interface SystemdFlags {
  readonly print?: boolean;
  readonly remove?: boolean;
  readonly unitDir?: string;
}

export function define(setup: Command): void {
  setup.enablePositionalOptions();
  setup.addHelpText("after", "\nExamples:\n  casemate setup systemd                  containers with --restart come back after a reboot\n  casemate setup systemd --print          what that would write");
  setup.command("systemd").description("start containers with a restart policy when this machine starts").exitOverride()
    .option("--print", "print the unit and write nothing")
    .option("--remove", "take the unit away")
    .option("--unit-dir <folder>", "where to write it; default: systemd's folder for root, yours otherwise")
    .action((flags: SystemdFlags) => setUpSystemd(flags, setup));
  setup.command("start", { hidden: true }).description("start what is to run after a reboot; for the unit").exitOverride().action(() => forBoot(setup, "start"));
  setup.command("stop", { hidden: true }).description("stop all that runs before a shutdown; for the unit").exitOverride().action(() => forBoot(setup, "stop"));
}

async function setUpSystemd(flags: SystemdFlags, setup: Command): Promise<void> {
  if (flags.print === true && flags.remove === true) throw new RuntimeError("invalid_argument", "--print and --remove exclude each other", { reason: "bad_option" });
  const user = !isRootful();
  const { root } = globalOptions(setup);
  const unit = { command: [join(packageRoot(), "bin/casemate"), ...(root === undefined ? [] : ["--root", foldersOf(setup).data])], user };
  const folder = flags.unitDir ?? unitFolder(user);
  if (flags.print === true) {
    process.stdout.write(formatUnit(unit));
    return;
  }
  if (flags.remove === true) process.stdout.write(removeUnit(folder, user) ? `removed ${join(folder, unitName)}\n` : `there is no ${join(folder, unitName)}\n`);
  else process.stdout.write(`wrote ${installUnit(folder, unit)}\n`);
  // In another folder it is for another machine.
  if (flags.unitDir !== undefined) return;
  if (existsSync("/run/systemd/system")) await runProcess("systemctl", [...(user ? ["--user"] : []), "daemon-reload"], { timeoutMs: reloadTimeoutMs });
  if (user && flags.remove !== true && !existsSync(join("/var/lib/systemd/linger", userInfo().username))) process.stdout.write(`it runs while you are logged in; to start with the machine: loginctl enable-linger ${userInfo().username}\n`);
}

const reloadTimeoutMs = 30_000;

async function forBoot(setup: Command, what: "start" | "stop"): Promise<void> {
  const { startBootContainers, stopForShutdown } = await import("../../host/containers/boot-containers.ts");
  const folders = foldersOf(setup), debug = globalOptions(setup).debug ?? false;
  let failed = false;
  const report = ({ name }: { readonly name: string }, error: unknown): void => {
    if (error === undefined) return void process.stdout.write(`${name}\n`);
    reportError(error, debug);
    failed = true;
  };
  await (what === "start" ? startBootContainers(folders, debug, report) : stopForShutdown(folders, report));
  await exitWith(failed ? exitCodes.someFailed : 0);
}
