import { appendFileSync, closeSync, existsSync, fstatSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, renameSync, rmSync, statSync, watch } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../shared/base/errors.ts";
import { sandboxPaths, type StateFolders } from "./paths.ts";

/** One state change, a line of JSON in the sandbox's event file (docs/files.md). */
export interface EventEntry {
  readonly version: 1;
  /** Nanoseconds, decimal. */
  readonly unixNanos: string;
  /** `create`, `start`, `die`, `oom`, `pause`, `unpause`, `exec_create`, `exec_start`, `exec_die`, `health_status`, `destroy`. */
  readonly action: string;
  readonly sandboxId: string;
  /** Empty: the sandbox itself. */
  readonly containerId: string;
  readonly execId: string;
  readonly attributes: Readonly<Record<string, string>>;
}

/** A sandbox that makes events without end fills two files of this size and no more. */
const maxFileBytes = 1024 * 1024;
/** How long the events of a sandbox that is gone can still be read. */
const keepMs = 60 * 60_000;
const suffix = ".jsonl";
/** The kernel may merge or drop notices of a busy folder: it is looked at this often in any case. */
const lookMs = 1_000;

/** Where the event files of all sandboxes are; readers watch the folder. */
export function eventFolder(folders: StateFolders): string {
  return join(folders.run, "events");
}

/** Appends the events of one sandbox. Not fsynced: they tell of changes, and are no part of the state. */
export class EventFile {
  readonly #path: string;
  readonly #sandboxId: string;

  private constructor(path: string, sandboxId: string) {
    this.#path = path;
    this.#sandboxId = sandboxId;
  }

  /** Opens a sandbox's file, and removes those of sandboxes that have long been gone. */
  static open(folders: StateFolders, sandboxId: string): EventFile {
    const folder = eventFolder(folders);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    prune(folders, folder);
    return new EventFile(join(folder, `${sandboxId}${suffix}`), sandboxId);
  }

  append(event: Omit<EventEntry, "version" | "sandboxId">): void {
    const line = `${JSON.stringify({ version: 1, sandboxId: this.#sandboxId, ...event } satisfies EventEntry)}\n`;
    if ((statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0) + line.length > maxFileBytes) renameSync(this.#path, `${this.#path}.1`);
    appendFileSync(this.#path, line, { mode: 0o600 });
  }

  /** True when such an event is in the file. */
  has(wanted: (event: EventEntry) => boolean): boolean {
    return existsSync(this.#path) && parseLines(readFileSync(this.#path, "utf8")).some(wanted);
  }
}

/** Reads the events of all sandboxes: what there is, then what comes. */
export class EventReader {
  readonly #folder: string;
  readonly #positions = new Map<string, { readonly inode: number; readonly bytes: number }>();

  constructor(folders: StateFolders) {
    this.#folder = eventFolder(folders);
    mkdirSync(this.#folder, { recursive: true, mode: 0o700 });
  }

  /** Events that came since the last call, oldest first; the first call gives all there are. */
  read(): EventEntry[] {
    const names = readdirSync(this.#folder).filter((name) => name.endsWith(suffix));
    const found = names.flatMap((name) => this.#readFile(join(this.#folder, name)));
    return found.sort((a, b) => (BigInt(a.unixNanos) < BigInt(b.unixNanos) ? -1 : 1));
  }

  /** Resolves when there may be something new, or the signal aborts. */
  async changed(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const watcher = watch(this.#folder, () => resolve());
    watcher.on("error", () => resolve());
    const timer = setTimeout(resolve, lookMs);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    clearTimeout(timer);
    watcher.close();
  }

  #readFile(path: string): EventEntry[] {
    let fd: number;
    try {
      fd = openSync(path, "r");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return []; // removed since the folder was listed
      throw error;
    }
    try {
      const { ino, size } = fstatSync(fd);
      const known = this.#positions.get(path);
      const from = known?.inode === ino ? known.bytes : 0;
      const bytes = Buffer.alloc(Math.max(0, size - from));
      const length = readSync(fd, bytes, 0, bytes.length, from);
      // A line that is being written is left for the next time.
      const whole = bytes.subarray(0, bytes.lastIndexOf(10, length - 1) + 1);
      this.#positions.set(path, { inode: ino, bytes: from + whole.length });
      return parseLines(whole.toString());
    } finally {
      closeSync(fd);
    }
  }
}

function parseLines(text: string): EventEntry[] {
  return text.split("\n").filter((line) => line !== "").flatMap((line) => {
    try {
      const entry = JSON.parse(line) as EventEntry; // written by append() alone
      return entry.version === 1 ? [entry] : [];
    } catch {
      return []; // an owner died while it wrote the line
    }
  });
}

function prune(folders: StateFolders, folder: string): void {
  for (const name of readdirSync(folder)) {
    const sandboxId = name.replace(/\.jsonl(\.1)?$/, "");
    const stat = statSync(join(folder, name), { throwIfNoEntry: false });
    if (stat !== undefined && Date.now() - stat.mtimeMs > keepMs && !existsSync(sandboxPaths(folders, sandboxId).folder)) rmSync(join(folder, name), { force: true });
  }
}
