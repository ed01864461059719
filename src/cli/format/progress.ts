import type { BlobProgress } from "../../host/storage/images/blob-progress.ts";
import { BlobBars } from "./blob-bars.ts";
import { formatSize } from "./size.ts";

/** Frames of the spinner, and the time one is shown, in milliseconds. */
const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const frameMs = 100;
/** Of a terminal that does not tell its size. */
const defaultColumns = 80, defaultRows = 24;

/**
 * Tells what takes long, on standard error: lines that change on a terminal, a line for each step and
 * each blob of an image without one. Nothing at all when told to be quiet.
 */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #quiet: boolean;
  #what = "";
  #frame = 0;
  #timer: NodeJS.Timeout | undefined;
  #bars = new BlobBars(0);
  /** Blobs that a line has told of. */
  #told = new Set<string>();
  /** Lines below the first that are on the terminal now. */
  #linesBelow = 0;

  constructor(options: { readonly quiet?: boolean; readonly stream?: NodeJS.WriteStream } = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#quiet = options.quiet ?? false;
  }

  /** Says what is being done now. */
  readonly step = (what: string): void => {
    if (this.#quiet || what === this.#what) return;
    this.#what = what;
    this.#bars = new BlobBars(performance.now());
    this.#told = new Set();
    if (!this.#stream.isTTY) {
      this.#stream.write(`casemate: ${what} ...\n`);
      return;
    }
    this.#draw();
    this.#timer ??= setInterval(() => this.#draw(), frameMs);
    this.#timer.unref();
  };

  /** Says how far the blobs of an image are, as a part of the step. */
  readonly blobs = (blobs: readonly BlobProgress[]): void => {
    if (this.#quiet) return;
    if (this.#stream.isTTY) {
      this.#bars.update(blobs, performance.now());
      return;
    }
    for (const { id, state, doneBytes } of blobs) {
      if ((state !== "copied" && state !== "here") || this.#told.has(id)) continue;
      this.#told.add(id);
      this.#stream.write(`casemate: blob ${id}: ${state === "here" ? "here already" : `copied${doneBytes === 0 ? "" : `, ${formatSize(doneBytes)}`}`}\n`);
    }
  };

  /** Clears its lines; the next output of the program begins where they began. */
  readonly done = (): void => {
    clearInterval(this.#timer);
    if (this.#timer !== undefined) this.#stream.write(this.#clear());
    this.#timer = undefined;
    this.#what = "";
  };

  #draw(): void {
    this.#frame = (this.#frame + 1) % frames.length;
    const { columns = defaultColumns, rows = defaultRows } = this.#stream;
    const nowMs = performance.now();
    const summary = this.#bars.summary(nowMs);
    // A line that is wider than the terminal would become two, and what is cleared would not be what was drawn.
    const first = `${frames[this.#frame] ?? ""} ${this.#what}${summary === "" ? "" : `: ${summary}`}`.slice(0, columns - 1);
    const below = this.#bars.lines(nowMs, { columns, colours: mayColour() }).slice(0, rows - 2);
    this.#stream.write(`${this.#clear()}${[first, ...below].join("\n")}`);
    this.#linesBelow = below.length;
  }

  /** What takes the lines away that are drawn. */
  #clear(): string {
    const up = this.#linesBelow === 0 ? "" : `\x1b[${this.#linesBelow}A`;
    this.#linesBelow = 0;
    return `\r${up}\x1b[J`;
  }
}

/** The terminal's word, and that of https://no-color.org. */
function mayColour(): boolean {
  return process.env["TERM"] !== "dumb" && (process.env["NO_COLOR"] ?? "") === "";
}
