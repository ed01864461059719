import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import { updateContainer, updateRestartPolicy } from "../../host/containers/update-container.ts";
import { ContainerStore } from "../../host/store/container-store.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { parseSize } from "../format/size.ts";
import { forEach } from "./each.ts";
import { parseRestartPolicy } from "./run-settings.ts";

interface Flags {
  readonly memory?: string;
  readonly memorySwap?: string;
  readonly memoryReservation?: string;
  readonly cpus?: string;
  readonly cpuQuota?: string;
  readonly cpuPeriod?: string;
  readonly cpuShares?: string;
  readonly cpusetCpus?: string;
  readonly cpusetMems?: string;
  readonly pidsLimit?: string;
  readonly blkioWeight?: string;
  readonly restart?: string;
}

/** docker's period for --cpus, microseconds. */
const defaultPeriodMicros = 100_000;

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-m, --memory <size>", "most memory the container may use; the VM grows with it")
    .option("--memory-swap <size>", "most memory and swap together; -1 for no limit")
    .option("--memory-reservation <size>", "memory it keeps when the guest is short of it")
    .option("--cpus <number>", "most CPUs the container may use")
    .option("--cpu-quota <microseconds>", "CPU time in each period; -1 for no limit")
    .option("--cpu-period <microseconds>", "length of a period")
    .option("-c, --cpu-shares <number>", "its weight beside the other containers of its sandbox")
    .option("--cpuset-cpus <list>", "the guest's CPUs it may use, e.g. 0-1")
    .option("--cpuset-mems <list>", "the guest's memory nodes it may use")
    .option("--pids-limit <number>", "most processes; -1 for no limit")
    .option("--blkio-weight <number>", "its weight at the disks, 10 to 1000")
    .option("--restart <policy>", "what follows its end: no, on-failure[:times], always or unless-stopped")
    .addHelpText("after", "\nExamples:\n  casemate update -m 2g --cpus 2 web\n  casemate update --pids-limit 100 web db")
    .action(async (names: readonly string[], flags: Flags) => {
      const folders = foldersOf(command);
      const change = toResources(flags);
      const restart = flags.restart === undefined ? undefined : parseRestartPolicy(flags.restart);
      if (Object.keys(change).length === 0 && restart === undefined) throw new RuntimeError("invalid_argument", "update needs a limit to change", { reason: "nothing_to_update", hint: "for example casemate update -m 2g web" });
      await forEach(names, globalOptions(command).debug ?? false, async (name) => {
        const record = new ContainerStore(folders).find(name);
        if (restart !== undefined) updateRestartPolicy(folders, record, restart);
        if (Object.keys(change).length > 0) await updateContainer(folders, new ContainerStore(folders).find(name), change);
        process.stdout.write(`${name}\n`);
      });
    });
}

function toResources(flags: Flags): OciResources {
  if (flags.cpus !== undefined && (flags.cpuQuota ?? flags.cpuPeriod) !== undefined) throw new RuntimeError("invalid_argument", "--cpus says what --cpu-quota and --cpu-period say", { reason: "bad_cpus", hint: "give one or the other" });
  const memory = present({ limit: size(flags.memory, "--memory"), swap: size(flags.memorySwap, "--memory-swap"), reservation: size(flags.memoryReservation, "--memory-reservation") });
  const cpus = number(flags.cpus, "--cpus");
  const cpu = present({
    quota: cpus === undefined ? number(flags.cpuQuota, "--cpu-quota") : Math.round(cpus * defaultPeriodMicros),
    period: cpus === undefined ? number(flags.cpuPeriod, "--cpu-period") : defaultPeriodMicros,
    shares: number(flags.cpuShares, "--cpu-shares"),
    cpus: flags.cpusetCpus,
    mems: flags.cpusetMems,
  });
  const pids = number(flags.pidsLimit, "--pids-limit"), weight = number(flags.blkioWeight, "--blkio-weight");
  return {
    ...(memory !== undefined && { memory }),
    ...(cpu !== undefined && { cpu }),
    ...(pids !== undefined && { pids: { limit: pids } }),
    ...(weight !== undefined && { blockIO: { weight } }),
  };
}

/** What was given of it; undefined when nothing was. */
function present<T extends object>(values: { readonly [K in keyof T]: T[K] | undefined }): T | undefined {
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  return given.length === 0 ? undefined : Object.fromEntries(given) as T; // some of its own entries, all of T's optional
}

function size(text: string | undefined, option: string): number | undefined {
  return text === undefined ? undefined : text === "-1" ? -1 : parseSize(text, option);
}

function number(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < -1) throw new RuntimeError("invalid_argument", `${option} "${text}": must be a number`, { reason: "bad_number" });
  return value;
}
