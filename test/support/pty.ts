import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import type { Socket } from "node:net";
import { eventually } from "../../src/shared/base/deadline.ts";
import { pollableStream } from "../../src/shared/linux/pollable-stream.ts";
import { openPseudoTerminal, setTerminalSize } from "../../src/shared/linux/pseudo-terminal.ts";

const O_RDWR = 2, O_NOCTTY = 0o400;

/** Options of {@link Pty.run}. */
export interface PtyOptions {
  readonly rows?: number;
  readonly columns?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
}

/** A program with a terminal of its own as its controlling terminal, as a user's shell would start it. */
export class Pty {
  readonly #master: number;
  readonly #slave: number;
  readonly #stream: Socket;
  readonly #child: ChildProcess;
  readonly #ended: Promise<number>;
  /** The program's side, e.g. `/dev/pts/3`. */
  readonly slavePath: string;
  #output = "";

  private constructor(master: number, slavePath: string, commandLine: readonly [string, ...string[]], options: PtyOptions) {
    this.#master = master;
    this.slavePath = slavePath;
    // Kept open, so that the terminal and its settings outlive the program and can be looked at.
    this.#slave = openSync(slavePath, O_RDWR | O_NOCTTY);
    this.resize(options.rows ?? 24, options.columns ?? 80);
    this.#stream = pollableStream(master);
    this.#stream.setEncoding("utf8").on("data", (text: string) => { this.#output += text; });
    this.#child = spawn("setsid", ["-c", "-w", ...commandLine], {
      stdio: [this.#slave, this.#slave, this.#slave],
      env: { ...process.env, TERM: "xterm", ...options.env },
      cwd: options.cwd,
    });
    this.#ended = new Promise((resolve, reject) => {
      this.#child.once("error", reject);
      this.#child.once("exit", (code, signal) => resolve(signal === null ? code ?? 0 : 128));
    });
    this.#ended.catch(() => { /* whoever waits for the exit gets it */ });
  }

  /** Starts a program on a new terminal. */
  static run(commandLine: readonly [string, ...string[]], options: PtyOptions = {}): Pty {
    const { master, slavePath } = openPseudoTerminal();
    return new Pty(master, slavePath, commandLine, options);
  }

  /** All that the terminal has shown, with its carriage returns. */
  get output(): string {
    return this.#output;
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** Types on the terminal; `\x03` is Ctrl-C. */
  type(text: string): void {
    this.#stream.write(text);
  }

  /** Changes the window's size; the program gets SIGWINCH. */
  resize(rows: number, columns: number): void {
    setTerminalSize(this.#master, rows, columns);
  }

  /** The terminal's settings as `stty -g` prints them: equal strings are equal settings. */
  settings(): string {
    return spawnSync("stty", ["-g", "-F", this.slavePath], { encoding: "utf8" }).stdout.trim();
  }

  /** Waits until the output from `from` on (default: all) matches; returns the match. */
  async waitFor(pattern: RegExp, options: { readonly timeoutMs: number; readonly from?: number }): Promise<RegExpExecArray> {
    try {
      return await eventually(`${String(pattern)} on the terminal`, () => pattern.exec(this.#output.slice(options.from ?? 0)) ?? undefined, options);
    } catch (error) {
      throw new Error(`the terminal never showed ${String(pattern)}; it shows ${JSON.stringify(this.#output)}`, { cause: error });
    }
  }

  /** Waits for the program's end and for all of its output; returns its exit code (128 after a signal). */
  async exit(options: { readonly timeoutMs: number }): Promise<number> {
    let code: number | undefined;
    const ended = this.#ended.then((value) => { code = value; });
    await eventually(`the end of ${this.#child.spawnargs.join(" ")}`, () => code, options);
    await ended;
    // What the program wrote comes before what we write after it.
    const marker = `<end ${process.hrtime.bigint()}>`;
    writeSync(this.#slave, marker);
    await this.waitFor(new RegExp(marker), options);
    this.#output = this.#output.replace(marker, "");
    return code ?? 0;
  }

  /** Closes the terminal, as closing its window does: the program gets SIGHUP. Ends it if it stays. */
  async [Symbol.asyncDispose](): Promise<void> {
    closeSync(this.#slave);
    this.#stream.on("error", () => { /* EIO: nobody has the other side open any more */ });
    this.#stream.destroy();
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 1_000);
    await this.#ended;
    clearTimeout(timer);
  }
}
