import type { Command } from "commander";
import { formatPublished } from "../../host/network/publish.ts";
import { readContainerSize, type ContainerSize } from "../../host/store/container-size.ts";
import { ContainerStore, type ContainerRecord, type ContainerStatus, hasProcesses, isActive } from "../../host/store/container-store.ts";
import type { HealthState } from "../../host/store/health.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { collect, foldersOf } from "../command.ts";
import { fitsLabel, fitsPattern, parseFilter, type Filter } from "../format/filter.ts";
import { formatHelp, formatRows, parseFormat } from "../format/format-option.ts";
import { formatSize } from "../format/size.ts";
import { formatTable } from "../format/table.ts";
import { formatAgo, formatDuration, formatTime } from "../format/time.ts";

interface Flags {
  readonly all?: boolean;
  readonly latest?: boolean;
  readonly last?: number;
  readonly quiet?: boolean;
  readonly size?: boolean;
  readonly trunc: boolean;
  readonly format?: string;
  readonly filter?: readonly string[];
}

interface Row {
  readonly record: ContainerRecord;
  readonly size: ContainerSize;
  readonly status: ContainerStatus;
}

export function define(command: Command): void {
  command
    .option("-a, --all", "also those that do not run")
    .option("-n, --last <number>", "so many of the newest, also those that do not run", parseCount)
    .option("-l, --latest", "the newest, also if it does not run")
    .option("-q, --quiet", "ids alone")
    .option("-s, --size", "what they take of the disk: the writable layer, and with their image")
    .option("--no-trunc", "whole ids and commands")
    .option("-f, --filter <key=value>", "only those that fit: name, id, status, exited, label, ancestor, health, volume, network; before or since another", collect)
    .option("--format <format>", formatHelp)
    .addHelpText("after", "\nExamples:\n  casemate ps -a\n  casemate ps -q --filter status=exited\n  casemate ps --format json | jq -r .Names")
    .action((flags: Flags) => {
      const store = new ContainerStore(foldersOf(command));
      const filters = (flags.filter ?? []).map((text) => parseFilter(text, filterKeys));
      const byStatus = filters.some(({ key }) => key === "status");
      const count = flags.latest === true ? 1 : flags.last;
      const rows = store.list().toReversed().map((record) => ({ record, status: readPresentStatus(store, record), size: readContainerSize(store.folders, record) }))
        .filter(({ status }) => flags.all === true || count !== undefined || byStatus || isActive(status.status))
        .filter((row) => filters.every((filter) => matches(store, row, filter)));
      process.stdout.write(format(rows.slice(0, count), flags));
    });
}

function parseCount(text: string): number {
  if (!/^\d+$/.test(text)) throw new RuntimeError("invalid_argument", `--last "${text}": must be a number`, { reason: "bad_option" });
  return Number(text);
}

function format(rows: readonly Row[], flags: Flags): string {
  const id = (record: ContainerRecord): string => idOf(record, flags.trunc);
  if (flags.quiet === true) return rows.map(({ record }) => `${id(record)}\n`).join("");
  const size = <T>(value: T): T[] => (flags.size === true ? [value] : []);
  return formatRows(rows.map((row) => toJson(row, flags.trunc)), parseFormat(flags.format ?? "table"), () => formatTable(
    ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES", ...size("SIZE")],
    rows.map(({ record, status, size: bytes }) => [id(record), record.image, commandOf(record, flags.trunc), formatAgo(record.createdAtUnixMs), describeStatus(status), portsOf(status), record.name, ...size(describeSize(bytes))]),
    flags.trunc ? undefined : Infinity,
  ), { ID: "CONTAINER ID", RunningFor: "CREATED" });
}

function idOf({ containerId }: ContainerRecord, truncate: boolean): string {
  return truncate ? containerId.slice(0, 12) : containerId;
}

function toJson({ record, status, size }: Row, truncate: boolean): object {
  return {
    ID: idOf(record, truncate),
    Image: record.image,
    Command: commandOf(record, truncate),
    CreatedAt: formatTime(record.createdAtUnixMs),
    RunningFor: formatAgo(record.createdAtUnixMs),
    State: status.status,
    Status: describeStatus(status),
    Ports: portsOf(status),
    Names: record.name,
    LocalVolumes: String(record.volumes.filter(({ type }) => type === "volume").length),
    Mounts: record.volumes.map(({ name, source }) => (name === "" ? source : name)).join(","),
    Networks: record.network,
    Size: describeSize(size),
    Labels: Object.entries(record.labels).map(([name, value]) => `${name}=${value}`).join(","),
  };
}

function describeSize({ layerBytes, imageBytes }: ContainerSize): string {
  return `${formatSize(layerBytes)} (virtual ${formatSize(layerBytes + imageBytes)})`;
}

/** Longest command shown. */
const maxCommandLength = 20;

function commandOf(record: ContainerRecord, truncate: boolean): string {
  const command = [...record.entrypoint, ...record.command].join(" ");
  return `"${truncate && command.length > maxCommandLength ? `${command.slice(0, maxCommandLength - 1)}…` : command}"`;
}

function describeStatus(status: ContainerStatus): string {
  switch (status.status) {
    case "created": return "Created";
    case "running": return `Up ${formatDuration(Date.now() - status.startedAtUnixMs)}${describeHealth(status.health)}`;
    case "paused": return `Up ${formatDuration(Date.now() - status.startedAtUnixMs)} (Paused)`;
    case "restarting": return `Restarting (${status.exitCode}) ${formatAgo(status.finishedAtUnixMs)}`;
    case "exited": return `Exited (${status.exitCode})${status.finishedAtUnixMs === 0 ? "" : ` ${formatAgo(status.finishedAtUnixMs)}`}`;
  }
}

function describeHealth(health: HealthState | undefined): string {
  if (health === undefined) return "";
  return health.status === "starting" ? " (health: starting)" : ` (${health.status})`;
}

function portsOf(status: ContainerStatus): string {
  return hasProcesses(status.status) ? status.ports.map(formatPublished).join(", ") : "";
}

const filterKeys = ["name", "id", "status", "exited", "label", "ancestor", "health", "volume", "network", "before", "since"];

function matches(store: ContainerStore, { record, status }: Row, { key, value }: Filter): boolean {
  if (key === "name") return fitsPattern(record.name, value);
  if (key === "exited") return status.status === "exited" && String(status.exitCode) === value;
  if (key === "volume") return record.volumes.some(({ name, source, destination }) => [name, source, destination].includes(value));
  if (key === "network") return record.network === value;
  if (key === "before") return record.createdAtUnixMs < store.find(value).createdAtUnixMs;
  if (key === "since") return record.createdAtUnixMs > store.find(value).createdAtUnixMs;
  if (key === "id") return record.containerId.startsWith(value);
  if (key === "status") return status.status === value;
  if (key === "health") return (status.status === "running" ? status.health?.status ?? "none" : "none") === value;
  if (key === "ancestor") return record.image === value || record.imageId.slice(7).startsWith(value);
  return fitsLabel(record.labels, value);
}
