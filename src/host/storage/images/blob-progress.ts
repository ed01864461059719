import { closeSync, constants, openSync } from "node:fs";
import { openPseudoTerminal, setTerminalSize } from "../../../shared/linux/pseudo-terminal.ts";
import { pollableStream } from "../../../shared/linux/pollable-stream.ts";

/** How far the copying of one blob of an image is. */
export interface BlobProgress {
  /** The first digits of its digest. */
  readonly id: string;
  readonly state: "waiting" | "copying" | "copied" | "here";
  readonly doneBytes: number;
  /** Undefined: not known, or not yet. */
  readonly totalBytes: number | undefined;
}

/** `Copying blob 3085c0633e3a [==>---] 26.8MiB / 76.3MiB`, `... done`, `... skipped: already exists`; before a blob's turn a dot. */
const blobLine = /^Copying blob ([0-9a-f]{10,64}) (?:.*\s([\d.]+)(b|[KMGT]iB) \/ ([\d.]+)(b|[KMGT]iB)|(done)|(skipped: already exists)|.*)\s*$/;
const controlSequence = /\x1b\[[\d;]*[A-Za-z]/g;

/** What skopeo's screen says. Text that is not understood changes nothing. */
export class SkopeoScreen {
  readonly #blobs = new Map<string, BlobProgress>();
  #rest = "";

  /** The blobs in the order in which they began. */
  get blobs(): readonly BlobProgress[] {
    return [...this.#blobs.values()];
  }

  /** Takes more of what skopeo has drawn. True when a blob has changed. */
  feed(text: string): boolean {
    const lines = (this.#rest + text).replaceAll(controlSequence, "").split("\r\n");
    this.#rest = lines.pop() ?? "";
    return lines.filter((line) => this.#line(line)).length > 0;
  }

  #line(line: string): boolean {
    const match = blobLine.exec(line);
    if (match === null) return false;
    const [, id = "", done, doneUnit, total, totalUnit, copied, here] = match;
    const before = this.#blobs.get(id) ?? { id, state: "waiting", doneBytes: 0, totalBytes: undefined };
    const after: BlobProgress = done !== undefined ? { id, state: "copying", doneBytes: bytes(done, doneUnit), totalBytes: bytes(total, totalUnit) }
      : copied !== undefined ? { ...before, state: "copied", doneBytes: before.totalBytes ?? before.doneBytes }
        : here !== undefined ? { ...before, state: "here" }
          : before;
    this.#blobs.set(id, after);
    return after !== before && (after.state !== before.state || after.doneBytes !== before.doneBytes);
  }
}

function bytes(value: string | undefined, unit: string | undefined): number {
  return Math.round(Number(value) * 1024 ** "bKMGT".indexOf(unit?.[0] ?? "b"));
}

/** Tall enough for every layer an image may have: what does not fit is not drawn. */
const screenRows = 500, screenColumns = 100;
/** Time for the last of what skopeo has drawn, which is there already when it has ended. */
const drainMs = 1_000;

/**
 * Runs work with a terminal for skopeo's standard output: on a terminal alone does it say how much of
 * each blob is there. Where there are no terminals, the work gets none.
 */
export async function watchBlobs<T>(onBlobs: (blobs: readonly BlobProgress[]) => void, work: (stdout: number | undefined) => Promise<T>): Promise<T> {
  let terminal;
  try {
    terminal = openPseudoTerminal();
  } catch {
    return work(undefined); // without /dev/pts, an image can be pulled all the same
  }
  setTerminalSize(terminal.master, screenRows, screenColumns);
  const slave = openSync(terminal.slavePath, constants.O_RDWR | constants.O_NOCTTY);
  const screen = new SkopeoScreen();
  const stream = pollableStream(terminal.master).setEncoding("utf8");
  stream.on("data", (text: string) => { if (screen.feed(text)) onBlobs(screen.blobs); });
  stream.on("error", () => { /* EIO: skopeo has ended, and with it the terminal's other side */ });
  const drained = new Promise<void>((resolve) => { stream.once("close", () => resolve()); });
  try {
    return await work(slave);
  } finally {
    closeSync(slave);
    const timer = setTimeout(() => stream.destroy(), drainMs);
    await drained;
    clearTimeout(timer);
  }
}
