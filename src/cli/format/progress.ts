/** Frames of the spinner, and the time one is shown, in milliseconds. */
const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const frameMs = 100;

/**
 * Tells what takes long, on standard error: one line that changes on a terminal, a line for each step
 * without one. Nothing at all when told to be quiet.
 */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #quiet: boolean;
  #what = "";
  #frame = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: { readonly quiet?: boolean; readonly stream?: NodeJS.WriteStream } = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#quiet = options.quiet ?? false;
  }

  /** Says what is being done now. */
  readonly step = (what: string): void => {
    if (this.#quiet || what === this.#what) return;
    this.#what = what;
    if (!this.#stream.isTTY) {
      this.#stream.write(`casemate: ${what} ...\n`);
      return;
    }
    this.#draw();
    this.#timer ??= setInterval(() => this.#draw(), frameMs);
    this.#timer.unref();
  };

  /** Clears the line; the next output of the program begins where it began. */
  readonly done = (): void => {
    clearInterval(this.#timer);
    if (this.#timer !== undefined) this.#stream.write("\r\x1b[K");
    this.#timer = undefined;
    this.#what = "";
  };

  #draw(): void {
    this.#frame = (this.#frame + 1) % frames.length;
    this.#stream.write(`\r\x1b[K${frames[this.#frame] ?? ""} ${this.#what}`);
  }
}
