import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError } from "../../shared/base/errors.ts";
import { MetricsSchema } from "../../shared/protocol/gen/containerd/metrics_pb.ts";
import type { StatsResponse } from "../../shared/protocol/gen/owner_pb.ts";
import { requireRunning, withOwner } from "../../host/containers/end-container.ts";
import { ContainerStore, type ContainerRecord, hasProcesses } from "../../host/store/container-store.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { cpuPercent, hostLine, statsLine, type CpuSample, type StatsLine } from "../format/stats.ts";
import { formatHelp, formatRows, parseFormat } from "../format/format-option.ts";
import { formatTable } from "../format/table.ts";

interface Flags {
  readonly all?: boolean;
  readonly stream: boolean;
  readonly trunc: boolean;
  readonly format: string;
}

/** Between two looks; CPU is what was used in between. */
const intervalMs = 1_000;
const header = ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
/** Cursor to the top left, and clear what is below. */
const clearScreen = "\x1b[H\x1b[J";

export function define(command: Command): void {
  command
    .argument("[container...]", "names or ids; default: all that run")
    .option("-a, --all", "also those that do not run")
    .option("--no-stream", "show one table and end")
    .option("--no-trunc", "whole ids")
    .option("--format <format>", formatHelp, "table")
    .addHelpText("after", "\nUnder each sandbox's containers is what it costs the host: QEMU with the guest's memory, and the processes beside it.\n\"own\" is memory that nobody else maps; \"shared\" is the sandbox's share of what several map, such as its template's.\n\nExamples:\n  casemate stats\n  casemate stats --no-stream --format json web")
    .action(async (names: readonly string[], flags: Flags) => {
      const folders = foldersOf(command);
      const store = new ContainerStore(folders);
      const named = names.map((name) => store.find(name));
      for (const record of named) requireRunning(folders, record, "statistics of");
      const chosen = (): ContainerRecord[] => (named.length > 0 ? named : store.list()).filter((record) => flags.all === true || isRunning(store, record));
      const samples = new Samples();
      await samples.look(store, chosen());
      for (;;) {
        await delay(intervalMs);
        const text = render(await samples.look(store, chosen()), flags);
        process.stdout.write(flags.stream && process.stdout.isTTY && flags.format === "table" ? clearScreen + text : text);
        if (!flags.stream) break;
      }
      await exitWith(0);
    });
}

function isRunning(store: ContainerStore, record: ContainerRecord): boolean {
  return hasProcesses(readPresentStatus(store, record).status);
}

/** One sandbox and its containers at one moment. */
interface Group {
  readonly lines: readonly StatsLine[];
  readonly host: ReturnType<typeof hostLine> | undefined;
}

/** Remembers CPU times from one look to the next. */
class Samples {
  #cpu = new Map<string, CpuSample>();

  async look(store: ContainerStore, records: readonly ContainerRecord[]): Promise<Group[]> {
    const now = new Map<string, CpuSample>();
    const bySandbox = Map.groupBy(records, ({ sandboxId }) => sandboxId);
    const groups = await Promise.all([...bySandbox].map(async ([sandboxId, members]) => {
      const response = await readStats(store, members);
      return response === undefined ? { lines: members.map(idleLine), host: undefined } : this.#group(sandboxId, members, response, now);
    }));
    this.#cpu = now;
    return groups;
  }

  #group(sandboxId: string, members: readonly ContainerRecord[], response: StatsResponse, now: Map<string, CpuSample>): Group {
    const percent = (key: string, cpuNanos: bigint): number => {
      const sample = { cpuNanos, atNanos: response.readAtNanos };
      now.set(key, sample);
      return cpuPercent(this.#cpu.get(key), sample);
    };
    const lines = members.map((record) => {
      const found = response.containers.find(({ containerId }) => containerId === record.containerId);
      const metrics = found?.metrics === undefined ? undefined : anyUnpack(found.metrics, MetricsSchema);
      return metrics === undefined ? idleLine(record) : statsLine({ id: record.containerId, name: record.name }, metrics, percent(record.containerId, (metrics.cpu?.usageUsec ?? 0n) * 1000n), response.memoryBytes);
    });
    return { lines, host: hostLine(sandboxId, response.hostProcesses, memoize(({ pid, cpuNanos }) => percent(`${sandboxId}/${pid}`, cpuNanos))) };
  }
}

/** Asks the owner; undefined when the sandbox has ended meanwhile, or stands still. */
async function readStats(store: ContainerStore, members: readonly ContainerRecord[]): Promise<StatsResponse | undefined> {
  const [first] = members;
  if (first === undefined || !members.some((record) => isRunning(store, record))) return undefined;
  try {
    return await withOwner(store.folders, first, async ({ owner }) => owner.stats({ containerIds: members.map(({ containerId }) => containerId) }));
  } catch (error) {
    if (RuntimeError.is(error, "unavailable") || (RuntimeError.is(error) && error.reason === "sandbox_paused")) return undefined;
    throw error;
  }
}

/** Each process is asked for twice, for the sum and for its own figure. */
function memoize<T extends object>(work: (value: T) => number): (value: T) => number {
  const known = new Map<T, number>();
  return (value) => {
    const result = known.get(value) ?? work(value);
    known.set(value, result);
    return result;
  };
}

function idleLine({ containerId, name }: ContainerRecord): StatsLine {
  return { Container: containerId, ID: containerId, Name: name, CPUPerc: "--", MemUsage: "-- / --", MemPerc: "--", NetIO: "--", BlockIO: "--", PIDs: "--" };
}

function render(groups: readonly Group[], flags: Flags): string {
  const id = (line: StatsLine): string => (flags.trunc ? line.ID.slice(0, 12) : line.ID);
  const objects = groups.flatMap(({ lines, host }) => lines.map((line) => ({ ...line, ID: id(line), Container: id(line), ...(host !== undefined && { Sandbox: host }) })));
  const rows = groups.flatMap(({ lines, host }) => [
    ...lines.map((line) => [id(line), line.Name, line.CPUPerc, line.MemUsage, line.MemPerc, line.NetIO, line.BlockIO, line.PIDs]),
    ...(host === undefined ? [] : [["  on the host", `sandbox ${host.Sandbox.slice(0, 12)}`, host.CPUPerc, `${host.PrivateMem} own, ${host.SharedMem} shared`, "", "", "", host.Processes.map(({ Name, MemUsage }) => `${Name} ${MemUsage}`).join(", ")]]),
  ]);
  return formatRows(objects, parseFormat(flags.format), () => formatTable(header, rows), { ID: "CONTAINER ID", CPUPerc: "CPU %", MemUsage: "MEM USAGE / LIMIT", MemPerc: "MEM %", NetIO: "NET I/O", BlockIO: "BLOCK I/O" });
}
