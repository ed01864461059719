import { Option, type Command } from "commander";
import { EventReader, type EventEntry } from "../../host/store/event-file.ts";
import { collect, foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { parseFilter, type Filter } from "../format/filter.ts";
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
    .option("-f, --filter <key=value>", "only events with this container (name or id), event or sandbox", collect)
    .addOption(new Option("--format <format>", "\"json\": one object a line").choices(["json"]))
    .addHelpText("after", "\nExamples:\n  casemate events --filter event=die\n  casemate events --since 1h --until 0s --format json")
    .action(events);
}

async function events(flags: Flags, command: Command): Promise<void> {
  const now = Date.now();
  const sinceNanos = BigInt(flags.since === undefined ? now : parseMoment(flags.since, "--since", now)) * 1_000_000n;
  const untilMs = flags.until === undefined ? Infinity : parseMoment(flags.until, "--until", now);
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
      if (nanos >= sinceNanos && (untilMs === Infinity || nanos <= BigInt(untilMs) * 1_000_000n) && matches(event, filters)) process.stdout.write(`${flags.format === "json" ? toJson(event) : toText(event)}\n`);
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

function toJson(event: EventEntry): string {
  const { unixNanos, containerId, execId, sandboxId, attributes } = event;
  const nanos = BigInt(unixNanos);
  return JSON.stringify({
    Type: containerId === "" ? "sandbox" : "container",
    Action: nameOf(event),
    Actor: { ID: containerId === "" ? sandboxId : containerId, Attributes: { ...attributes, ...(execId !== "" && { execID: execId }), sandbox: sandboxId } },
    time: Number(nanos / 1_000_000_000n),
    timeNano: Number(nanos),
  });
}

function formatNanos(nanos: bigint): string {
  return `${new Date(Number(nanos / 1_000_000n)).toISOString().slice(0, -1)}${String(nanos % 1_000_000n).padStart(6, "0")}Z`;
}

const filterKeys = ["container", "event", "sandbox"];

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
  if (key === "sandbox") return sandboxId === value;
  return value !== "" && (containerId.startsWith(value) || attributes["name"] === value);
}
