import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { EventReader, type EventEntry } from "../../host/store/event-file.ts";
import { collect, foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { parseFilter, type Filter } from "../format/filter.ts";
import { formatRows, parseFormat, type Format } from "../format/format-option.ts";
import { parseMoment } from "../format/time.ts";

interface Flags {
  readonly since?: string;
  readonly until?: string;
  readonly filter?: readonly string[];
  readonly format?: string;
}

export function define(command: Command): void {
  command
    .option("--since <time>", "begin with what happened since then: a date, seconds since 1970, or a time ago such as 10m")
    .option("--until <time>", "end at that time; one in the past prints what there was and ends")
    .option("-f, --filter <key=value>", "only events with this container (name or id), image, event, type or sandbox", collect)
    .option("--format <format>", "\"json\": one object a line; or a template such as '{{.Action}} {{.Actor.ID}}'")
    .addHelpText("after", "\nExamples:\n  casemate events --filter event=die\n  casemate events --since 1h --until 0s --format json")
    .action(events);
}

async function events(flags: Flags, command: Command): Promise<void> {
  const now = Date.now();
  const sinceNanos = BigInt(flags.since === undefined ? now : parseMoment(flags.since, "--since", now)) * 1_000_000n;
  const untilMs = flags.until === undefined ? Infinity : parseMoment(flags.until, "--until", now);
  const format = flags.format === undefined ? undefined : parseFormat(flags.format);
  if (format?.type === "table") throw new RuntimeError("invalid_argument", `--format "${flags.format ?? ""}": events make no table`, { reason: "bad_format", hint: "use json, or a template without the word table" });
  const filters = (flags.filter ?? []).map((text) => parseFilter(text, filterKeys));
  const reader = new EventReader(foldersOf(command));
  const over = new AbortController();
  // Ended by a signal it has done what it was asked for.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => over.abort());
  if (untilMs !== Infinity) setTimeout(() => over.abort(), Math.min(Math.max(0, untilMs - now), maxTimerMs));
  process.stdout.on("error", () => over.abort()); // whoever reads has gone
  for (let last = false; !last;) {
    last = over.signal.aborted || untilMs <= now;
    for (const event of reader.read()) {
      const nanos = BigInt(event.unixNanos);
      if (nanos >= sinceNanos && (untilMs === Infinity || nanos <= BigInt(untilMs) * 1_000_000n) && matches(event, filters)) process.stdout.write(written(event, format));
    }
    if (!last) await reader.changed(over.signal);
  }
  await exitWith(0);
}

/** Longest delay setTimeout keeps. */
const maxTimerMs = 2_147_483_647;

/** docker's name of an action has what became of it: `health_status: healthy`. */
function nameOf({ action, attributes }: EventEntry): string {
  return action === "health_status" ? `${action}: ${attributes[action] ?? ""}` : action;
}

/** As docker words it: time, type, action, id, attributes. */
function toText(event: EventEntry): string {
  const { unixNanos, containerId, execId, sandboxId, attributes } = event;
  const action = nameOf(event);
  const details = { ...attributes, ...(execId !== "" && { execID: execId }), sandbox: sandboxId };
  const subject = containerId === "" ? `sandbox ${action} ${sandboxId}` : `container ${action} ${containerId}`;
  return `${formatNanos(BigInt(unixNanos))} ${subject} (${Object.entries(details).map(([key, value]) => `${key}=${value}`).join(", ")})`;
}

function written(event: EventEntry, format: Format | undefined): string {
  const text = (): string => `${toText(event)}\n`;
  return format === undefined ? text() : formatRows([toJson(event)], format, text);
}

function typeOf({ containerId }: EventEntry): "sandbox" | "container" {
  return containerId === "" ? "sandbox" : "container";
}

function toJson(event: EventEntry): object {
  const { unixNanos, containerId, execId, sandboxId, attributes } = event;
  const nanos = BigInt(unixNanos);
  return {
    Type: typeOf(event),
    Action: nameOf(event),
    Actor: { ID: containerId === "" ? sandboxId : containerId, Attributes: { ...attributes, ...(execId !== "" && { execID: execId }), sandbox: sandboxId } },
    time: Number(nanos / 1_000_000_000n),
    timeNano: Number(nanos),
  };
}

function formatNanos(nanos: bigint): string {
  return `${new Date(Number(nanos / 1_000_000n)).toISOString().slice(0, -1)}${String(nanos % 1_000_000n).padStart(6, "0")}Z`;
}

const filterKeys = ["container", "event", "image", "sandbox", "type"];

/** Filters of one kind are alternatives, those of different kinds must all fit, as docker has it. */
function matches(event: EventEntry, filters: readonly Filter[]): boolean {
  return filterKeys.every((key) => {
    const wanted = filters.filter((filter) => filter.key === key).map(({ value }) => value);
    return wanted.length === 0 || wanted.some((value) => fits(event, key, value));
  });
}

function fits(event: EventEntry, key: string, value: string): boolean {
  const { action, containerId, sandboxId, attributes } = event;
  if (key === "event") return action === value || nameOf(event) === value;
  if (key === "image") return attributes["image"] === value;
  if (key === "type") return typeOf(event) === value;
  if (key === "sandbox") return sandboxId === value;
  return value !== "" && (containerId.startsWith(value) || attributes["name"] === value);
}
