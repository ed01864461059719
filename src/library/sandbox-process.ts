import { PassThrough, type Writable } from "node:stream";
import { RuntimeError } from "../shared/base/errors.ts";
import type { CallOptions, Command, SpawnOptions } from "./options.ts";
import { ProcessOutput } from "./process-output.ts";
import type { ProcessExit } from "./run-result.ts";

/** A process as the connection starts it. */
export interface RunningProcess {
  readonly exit: Promise<ProcessExit>;
  kill(signal: NodeJS.Signals | number): Promise<void>;
  /** SIGKILL to it and everything it has started. */
  killTree(): Promise<void>;
  resize(size: { readonly rows: number; readonly columns: number }): void;
}

/** The ends of its streams. */
export interface ProcessStreams {
  readonly stdin: PassThrough | undefined;
  readonly stdout: ProcessOutput;
  readonly stderr: ProcessOutput;
}

/** What starts a process. */
export type StartProcess = (command: Command, options: SpawnOptions, streams: ProcessStreams) => Promise<RunningProcess>;

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

  /** @internal */
  constructor(start: StartProcess, command: Command, options: SpawnOptions) {
    this.#stdin = options.stdin === "pipe" || (options.pty ?? false) !== false ? new PassThrough({ highWaterMark: inputBufferBytes }) : undefined;
    this.#running = start(command, options, { stdin: this.#stdin, stdout: this.stdout, stderr: this.stderr });
    this.started = this.#running.then(() => undefined);
    this.#exit = this.#running.then(async (running) => limited(running, options), (error: unknown) => {
      for (const stream of [this.stdout, this.stderr]) stream.end();
      throw error;
    });
    // Whoever wants to know asks wait() or started.
    for (const promise of [this.started, this.#exit]) promise.catch(() => undefined);
  }

  /** Input of the process; ending it is the process's end of file. @throws RuntimeError `failed_precondition` without `stdin: "pipe"` or `pty`. */
  get stdin(): Writable {
    if (this.#stdin === undefined) throw new RuntimeError("failed_precondition", "write to a process's input: it was started without", { reason: "no_stdin", hint: "spawn it with stdin: \"pipe\"" });
    return this.#stdin;
  }

  /** Resolves when the process has ended; its output may still be read then. Rejects when the sandbox ended first, or the options' time was over. */
  async wait(): Promise<ProcessExit> {
    return this.#exit;
  }

  /** Sends a signal to the process; default SIGTERM. One that has ended is fine. */
  async kill(signal: NodeJS.Signals | number = "SIGTERM"): Promise<void> {
    await (await this.#running).kill(signal);
  }

  /** Ends the process and everything it has started, at once. */
  async killTree(): Promise<void> {
    await (await this.#running).killTree();
  }

  /** Tells the process that its terminal has changed its size. */
  async resize(size: { readonly rows: number; readonly columns: number }): Promise<void> {
    (await this.#running).resize(size);
  }

  /** Ends the process and everything it has started, if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running.then((running) => running.killTree(), () => undefined);
  }
}

/** The exit, unless the options end the wait; then the process and everything it has started are killed first. */
async function limited(running: RunningProcess, { signal, timeoutMs }: CallOptions): Promise<ProcessExit> {
  if (signal === undefined && timeoutMs === undefined) return running.exit;
  const over = Promise.withResolvers<never>();
  const timer = timeoutMs === undefined || timeoutMs === Infinity ? undefined
    : setTimeout(() => over.reject(new RuntimeError("deadline_exceeded", `the process did not end within ${timeoutMs} ms`)), timeoutMs);
  const onAbort = (): void => over.reject(new RuntimeError("canceled", "the process was given up", { cause: signal?.reason }));
  signal?.addEventListener("abort", onAbort, { once: true });
  if (signal?.aborted === true) onAbort();
  try {
    return await Promise.race([running.exit, over.promise]);
  } catch (error) {
    await running.killTree();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}
