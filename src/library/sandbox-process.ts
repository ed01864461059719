import { PassThrough, type Writable } from "node:stream";
import { orAbandon } from "../shared/base/deadline.ts";
import { RuntimeError } from "../shared/base/errors.ts";
import type { CallOptions, Command, SpawnOptions } from "./options.ts";
import { ProcessOutput } from "./process-output.ts";
import type { ProcessExit } from "./run-result.ts";

/** @internal A process as the connection starts it. */
export interface RunningProcess {
  readonly exit: Promise<ProcessExit>;
  kill(signal: NodeJS.Signals | number): Promise<void>;
  /** SIGKILL to it and everything it has started. */
  killTree(): Promise<void>;
  resize(size: { readonly rows: number; readonly columns: number }): void;
}

/** @internal The ends of its streams. */
export interface ProcessStreams {
  readonly stdin: PassThrough | undefined;
  readonly stdout: ProcessOutput;
  readonly stderr: ProcessOutput;
}

/** @internal What starts a process. */
export type StartProcess = (command: Command, options: SpawnOptions, streams: ProcessStreams) => Promise<RunningProcess>;

/** A kill takes a moment; an owner that does not answer in this time does not hold up whoever reached a limit. */
const killTimeoutMs = 5_000;
/** Input that waits for the process to read; then the writer waits. */
const inputBufferBytes = 256 * 1024;

/**
 * A process in a sandbox. It is usable at once; what goes wrong with its start rejects {@link started}
 * and {@link wait}.
 *
 * @example
 * const cat = sandbox.spawn(["cat"], { stdin: "pipe" });
 * cat.stdin.end("hello\n");
 * console.log(await cat.stdout.text(), await cat.wait());
 */
export class SandboxProcess implements AsyncDisposable {
  readonly stdout = new ProcessOutput();
  /** Empty for a process with a terminal. */
  readonly stderr = new ProcessOutput();
  /** Rejects when the process could not be started, e.g. with reason `executable_not_found`. */
  readonly started: Promise<void>;
  readonly #stdin: PassThrough | undefined;
  readonly #running: Promise<RunningProcess>;
  readonly #exit: Promise<ProcessExit>;
  #present: RunningProcess | undefined;

  /** @internal */
  constructor(start: StartProcess, command: Command, options: SpawnOptions) {
    this.#stdin = options.stdin === "pipe" || (options.pty ?? false) !== false ? new PassThrough({ highWaterMark: inputBufferBytes }) : undefined;
    const givenUp = options.signal?.aborted === true;
    this.#running = givenUp ? Promise.reject(new RuntimeError("canceled", "start a process: canceled", { cause: options.signal?.reason }))
      : start(command, options, { stdin: this.#stdin, stdout: this.stdout, stderr: this.stderr });
    this.#exit = this.#untilExit(options);
    this.started = Promise.race([this.#running, this.#exit]).then(() => undefined);
    // Whoever wants to know asks wait() or started.
    for (const promise of [this.started, this.#exit]) promise.catch(() => undefined);
  }

  /** The exit, unless the options end the wait first; then the process and everything it has started are killed. */
  async #untilExit(options: CallOptions): Promise<ProcessExit> {
    const exit = this.#running.then((running) => {
      this.#present = running;
      return running.exit;
    });
    try {
      return await orAbandon(exit, "wait for the process", options);
    } catch (error) {
      // One whose start is under way is killed when it runs; nobody waits for that.
      if (RuntimeError.is(error, "deadline_exceeded") || RuntimeError.is(error, "canceled")) await this.#end(this.#present === undefined ? 0 : killTimeoutMs);
      if (this.#present === undefined) for (const stream of [this.stdout, this.stderr]) stream.end();
      throw error;
    }
  }

  /** Input of the process; ending it is the process's end of file. @throws RuntimeError `failed_precondition` without `stdin: "pipe"` or `pty`. */
  get stdin(): Writable {
    if (this.#stdin === undefined) throw new RuntimeError("failed_precondition", "write to a process's input: it was started without", { reason: "no_stdin", hint: "spawn it with stdin: \"pipe\"" });
    return this.#stdin;
  }

  /**
   * Resolves when the process has ended; its output may still be read then. Rejects when the sandbox ended
   * first, or the time of {@link SpawnOptions} was over. Limits given here end the wait, not the process.
   *
   * @example
   * const { exitCode, signal } = await process.wait();
   */
  async wait(options: CallOptions = {}): Promise<ProcessExit> {
    return orAbandon(this.#exit, "wait for the process", options);
  }

  /**
   * Sends a signal to the process; default SIGTERM. One that has ended is fine.
   *
   * @example
   * await process.kill("SIGINT");
   */
  async kill(signal: NodeJS.Signals | number = "SIGTERM", options: CallOptions = {}): Promise<void> {
    await orAbandon(this.#running.then((running) => running.kill(signal)), "send a signal", options);
  }

  /**
   * Ends the process and everything it has started, at once.
   *
   * @example
   * await process.killTree();
   */
  async killTree(options: CallOptions = {}): Promise<void> {
    await orAbandon(this.#running.then((running) => running.killTree()), "kill a process", options);
  }

  /**
   * Tells the process that its terminal has changed its size.
   *
   * @example
   * await shell.resize({ rows: 50, columns: 132 });
   */
  async resize(size: { readonly rows: number; readonly columns: number }): Promise<void> {
    (await this.#running).resize(size);
  }

  /** Ends the process and everything it has started, if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end(killTimeoutMs);
  }

  async #end(waitMs: number): Promise<void> {
    try {
      await this.killTree({ timeoutMs: waitMs });
    } catch {
      // It never started, or ends with its sandbox at the latest.
    }
  }
}
