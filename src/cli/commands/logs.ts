import type { Command } from "commander";
import { createReadStream, existsSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { readerIsGone } from "../../shared/linux/poll.ts";
import { LogFollower, readContainerLog, type LogRecord } from "../../host/store/container-log.ts";
import { ContainerStore, type ContainerRecord, isActive } from "../../host/store/container-store.ts";
import { containerPaths, sandboxPaths, type StateFolders } from "../../host/store/paths.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { foldersOf } from "../command.ts";
import { exitWith } from "../exit.ts";
import { parseMoment } from "../format/time.ts";

interface Flags {
  readonly follow?: boolean;
  readonly tail?: string;
  readonly timestamps?: boolean;
  readonly vm?: boolean;
  readonly since?: string;
  readonly until?: string;
}

/** How often a growing log is looked at. */
const pollMs = 50;

export function define(command: Command): void {
  command
    .argument("<container>", "name or id")
    .option("-f, --follow", "go on until the container ends")
    .option("-n, --tail <lines>", "only the last lines; \"all\": everything")
    .option("-t, --timestamps", "begin each line with the time it was printed")
    .option("--since <time>", "only what was printed since then: a date, seconds since 1970, or a time ago such as 10m")
    .option("--until <time>", "only what was printed before that time")
    .option("--vm", "show the guest's console instead")
    .addHelpText("after", "\nExamples:\n  casemate logs -f --tail 20 web\n  casemate logs --since 10m web\n  casemate logs --vm web                 what the guest's kernel and agent say")
    .action(async (name: string, flags: Flags) => {
      const folders = foldersOf(command);
      const record = new ContainerStore(folders).find(name);
      try {
        await (flags.vm === true ? showConsole(folders, record) : showLog(folders, record, flags));
      } catch (error) {
        if (!isErrnoException(error, "EPIPE")) throw error; // whoever read our output has seen enough
      }
      await exitWith(0);
    });
}

async function showConsole(folders: StateFolders, record: ContainerRecord): Promise<void> {
  const { console: path } = sandboxPaths(folders, record.sandboxId);
  if (!existsSync(path)) throw new RuntimeError("failed_precondition", `container "${record.name}" has no VM now, and so no console`, { reason: "container_not_running" });
  const console = createReadStream(path);
  await pipeline(console, process.stdout, { end: false });
  // A VM from a template booted, and printed, when that was made; since then its kernel prints only what is worse than a warning.
  if (console.bytesRead === 0) process.stderr.write(`casemate: nothing was printed since the VM was restored from its template; \`casemate exec --vm ${record.name} dmesg\` shows the kernel's log from its boot on\n`);
}

async function showLog(folders: StateFolders, record: ContainerRecord, flags: Flags): Promise<void> {
  const { log } = containerPaths(folders, record.containerId);
  const store = new ContainerStore(folders);
  const printer = new LogPrinter(flags.timestamps ?? false);
  const position = new LogPosition();
  const lines = parseTail(flags.tail);
  const times = parseTimes(flags);
  const output = outputOf(readContainerLog(log), position, times);
  for (const entry of lines === undefined ? output : lastLines(output, lines)) await printer.print(entry);
  if (flags.follow !== true) return;
  const follower = new LogFollower(log);
  try {
    for (let running = true; running;) {
      // Looked at before reading: what was printed before the end is then read after it.
      const { status } = readPresentStatus(store, record);
      running = BigInt(Date.now()) * 1_000_000n <= times.untilNanos && isActive(status) && store.read(record.containerId) !== undefined;
      // The follower begins with a file that was read already.
      for (const entry of outputOf(follower.poll(), position, times)) await printer.print(entry);
      // A container that prints nothing more would never let us find out by writing.
      if (readerIsGone(process.stdout.fd)) return;
      if (running) await delay(pollMs);
    }
  } finally {
    follower.close();
  }
}

/** How far a log has been read: the run of the container, and in it the end of each stream. */
class LogPosition {
  #newestRun = 0n;
  /** The run of the records that are being read; behind the newest one when a file is read again. */
  #run = 0n;
  readonly #ends = new Map<number, number>();

  /** True for a record with output that was not read before. */
  passes({ fd, offset, unixNanos, bytes }: LogRecord): boolean {
    if (fd === 0) {
      this.#run = unixNanos;
      if (unixNanos > this.#newestRun) this.#ends.clear();
      if (unixNanos > this.#newestRun) this.#newestRun = unixNanos;
      return false;
    }
    if (this.#run !== this.#newestRun || offset < (this.#ends.get(fd) ?? 0)) return false;
    this.#ends.set(fd, offset + bytes.length);
    return true;
  }
}

/** Writes records to the stream they came from, and waits for whoever reads them. */
class LogPrinter {
  readonly #timestamps: boolean;
  /** Streams whose last line has not ended yet. */
  readonly #open = new Set<number>();

  constructor(timestamps: boolean) {
    this.#timestamps = timestamps;
  }

  async print({ fd, bytes, unixNanos }: LogRecord): Promise<void> {
    const stream = fd === 2 ? process.stderr : process.stdout;
    const output = this.#timestamps ? this.#stamp(fd, bytes, unixNanos) : bytes;
    await new Promise<void>((resolve, reject) => { stream.write(output, (error) => (error ? reject(error) : resolve())); });
  }

  #stamp(fd: number, bytes: Uint8Array, unixNanos: bigint): Uint8Array {
    const stamp = `${new Date(Number(unixNanos / 1_000_000n)).toISOString().slice(0, -1)}${String(unixNanos % 1_000_000n).padStart(6, "0")}Z `;
    const text = Buffer.from(bytes).toString("latin1");
    const stamped = (this.#open.has(fd) ? "" : stamp) + text.replace(/\n(?=[^])/g, `\n${stamp}`);
    if (text.endsWith("\n")) this.#open.delete(fd);
    else this.#open.add(fd);
    return Buffer.from(stamped, "latin1");
  }
}

function parseTail(text: string | undefined): number | undefined {
  if (text === undefined || text === "all") return undefined;
  if (!/^\d+$/.test(text)) throw new RuntimeError("invalid_argument", `--tail "${text}": must be a number of lines, or "all"`, { reason: "bad_number" });
  return Number(text);
}

/** When what is shown was printed, in nanoseconds since 1970. */
interface Times {
  readonly sinceNanos: bigint;
  readonly untilNanos: bigint;
}

function parseTimes({ since, until }: Flags): Times {
  const nanos = (text: string, option: string): bigint => BigInt(parseMoment(text, option)) * 1_000_000n;
  return { sinceNanos: since === undefined ? 0n : nanos(since, "--since"), untilNanos: until === undefined ? BigInt(Number.MAX_SAFE_INTEGER) * 1_000_000n : nanos(until, "--until") };
}

/** The records of that time with output that was not read before. */
function* outputOf(records: Iterable<LogRecord>, position: LogPosition, { sinceNanos, untilNanos }: Times): Generator<LogRecord> {
  for (const record of records) if (position.passes(record) && record.unixNanos >= sinceNanos && record.unixNanos <= untilNanos) yield record;
}

/** The records that hold the last lines of both streams together, the first one cut. */
function lastLines(records: Iterable<LogRecord>, lines: number): LogRecord[] {
  const kept: LogRecord[] = [];
  let newlines = 0;
  const countOf = ({ bytes }: LogRecord): number => bytes.reduce((count, byte) => count + (byte === 10 ? 1 : 0), 0);
  for (const record of records) {
    kept.push(record);
    newlines += countOf(record);
    // One newline more than lines: the one that ends the line before.
    for (let first = kept[0]; first !== undefined && kept.length > 1 && newlines - countOf(first) > lines; first = kept[0]) {
      newlines -= countOf(first);
      kept.shift();
    }
  }
  const [first, ...rest] = kept;
  if (first === undefined || lines === 0) return [];
  const endsOpen = kept.at(-1)?.bytes.at(-1) !== 10;
  let excess = newlines - lines + (endsOpen ? 1 : 0);
  let at = 0;
  while (excess > 0) {
    at = first.bytes.indexOf(10, at) + 1;
    excess--;
  }
  return [{ ...first, offset: first.offset + at, bytes: first.bytes.subarray(at) }, ...rest];
}
