import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import type { WaitOptions } from "../base/deadline.ts";
import { RuntimeError, isErrnoException } from "../base/errors.ts";
import { trackOwnChild } from "./own-children.ts";
import { identifyProcess, isAlive, signalProcess, type ProcessIdentity } from "./proc.ts";

/** How a process ended. Exactly one of the two is set. */
export interface ProcessExit {
  readonly exitCode: number | undefined;
  readonly signal: NodeJS.Signals | undefined;
}

/** Options of {@link runProcess}. */
export interface RunOptions extends WaitOptions {
  readonly cwd?: string;
  /** The whole environment; default: PATH, HOME, LANG and TMPDIR of this process. */
  readonly env?: NodeJS.ProcessEnv;
  /** Written to standard input, which is closed after it. Default: standard input is /dev/null. */
  readonly input?: string | Uint8Array;
  /** Most bytes kept of each of stdout and stderr; more is an error. Default 16 MiB. */
  readonly maxOutputBytes?: number;
  /** A descriptor that standard output goes to instead; it stays the caller's, and the result has none of it. */
  readonly stdout?: number;
  /** Called with each piece of stderr as it comes, for progress. */
  readonly onStderr?: (text: string) => void;
  /** Exit codes that are success. Default: 0. */
  readonly okExitCodes?: readonly number[];
}

/** What a finished process left. */
export interface RunResult {
  readonly exitCode: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Time between SIGTERM and SIGKILL; enough for tools that clean their temporary files. */
export const terminateGraceMs = 2_000;
/** How much of a failed tool's stderr goes into the error message. */
const stderrTailBytes = 2_000;

/** The environment given to helpers: nothing that changes how they behave, nothing secret. */
export function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = ["PATH", "HOME", "LANG", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
  return Object.fromEntries(kept.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])));
}

/**
 * Runs a program to its end in its own process group and returns what it printed.
 * @throws RuntimeError `not_found` (reason `tool_missing`) when there is no such program, `internal`
 *   with the end of stderr when it fails, `deadline_exceeded` or `canceled` after its group was ended.
 */
export async function runProcess(file: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const maxOutputBytes = options.maxOutputBytes ?? 16 * 1024 * 1024;
  const child = spawn(file, args, {
    cwd: options.cwd,
    env: options.env ?? cleanEnvironment(),
    detached: true,
    stdio: [options.input === undefined ? "ignore" : "pipe", options.stdout ?? "pipe", "pipe"],
  });
  trackOwnChild(child);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  let outputBytes = 0;
  let stop: RuntimeError | undefined;
  const end = (error: RuntimeError): void => {
    stop ??= error;
    void terminateGroup(child, terminateGraceMs); // its end is what the wait below sees
  };
  const collect = (into: Buffer[]) => (chunk: Buffer): void => {
    outputBytes += chunk.length;
    if (outputBytes > maxOutputBytes) end(new RuntimeError("resource_exhausted", `${file}: printed more than ${maxOutputBytes} bytes`));
    else into.push(chunk);
  };
  child.stdout?.on("data", collect(stdout));
  child.stderr?.on("data", collect(stderr));
  if (options.onStderr !== undefined) child.stderr?.on("data", (chunk: Buffer) => options.onStderr?.(chunk.toString()));
  child.stdin?.on("error", () => { /* the program need not read its input; its exit code says how it went */ });
  child.stdin?.end(options.input);
  const onAbort = (): void => end(new RuntimeError("canceled", `${file}: canceled`, { cause: options.signal?.reason }));
  if (options.signal?.aborted) onAbort();
  options.signal?.addEventListener("abort", onAbort, { once: true });
  const timer = options.timeoutMs === undefined || options.timeoutMs === Infinity ? undefined
    : setTimeout(() => end(new RuntimeError("deadline_exceeded", `${file}: not done within ${options.timeoutMs} ms`)), options.timeoutMs);
  try {
    const exit = await exitOf(child, file, "close");
    if (stop !== undefined) throw stop;
    const text = Buffer.concat(stderr).toString();
    if (exit.exitCode === undefined || !(options.okExitCodes ?? [0]).includes(exit.exitCode)) {
      throw new RuntimeError("internal", `${file}: ${describeExit(exit)}${text === "" ? "" : `: ${text.slice(-stderrTailBytes).trim()}`}`);
    }
    return { exitCode: exit.exitCode, stdout: Buffer.concat(stdout), stderr: text };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onAbort);
  }
}

/** A long-running child of ours, in its own process group. */
export interface ManagedProcess {
  readonly identity: ProcessIdentity;
  readonly child: ChildProcess;
  /** Resolves when the process has ended; never rejects. */
  readonly exited: Promise<ProcessExit>;
}

/** Options of {@link startProcess}. */
export interface StartOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Descriptors and streams as in node:child_process; no default on purpose. */
  readonly stdio: StdioOptions;
}

/** Starts a long-running child that may outlive this process. @throws RuntimeError `not_found` (reason `tool_missing`). */
export async function startProcess(file: string, args: readonly string[], options: StartOptions): Promise<ManagedProcess> {
  const child = spawn(file, args, { cwd: options.cwd, env: options.env ?? cleanEnvironment(), detached: true, stdio: options.stdio });
  trackOwnChild(child);
  const exited = exitOf(child, file, "exit");
  exited.catch(() => { /* a failed spawn is reported below; afterwards it cannot fail */ });
  if (child.pid === undefined) {
    await exited;
    throw new RuntimeError("internal", `start ${file}: no pid`);
  }
  // A child that has already ended is a zombie until libuv reaps it, so its stat is still there.
  const identity = identifyProcess(child.pid) ?? { pid: child.pid, startTimeTicks: -1 };
  return { identity, child, exited };
}

/** SIGTERM to the child's group, SIGKILL after the grace. Resolves when the child has ended. */
export async function terminateGroup(child: ChildProcess, graceMs: number): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  child.once("exit", () => resolve());
  signalGroup(child.pid, "SIGTERM");
  const timer = setTimeout(() => { if (child.pid !== undefined) signalGroup(child.pid, "SIGKILL"); }, graceMs);
  await ended;
  clearTimeout(timer);
}

/** Ends a process that need not be our child: SIGTERM (unless `graceMs` is 0), then SIGKILL, until it is gone. */
export async function terminateProcess(identity: ProcessIdentity, graceMs: number): Promise<void> {
  const pollMs = 10;
  if (graceMs > 0) {
    signalProcess(identity, "SIGTERM");
    for (const end = performance.now() + graceMs; isAlive(identity) && performance.now() < end;) await new Promise((next) => setTimeout(next, pollMs));
  }
  signalProcess(identity, "SIGKILL");
  // Uninterruptible sleep can hold a killed process for a while; the caller's step limit bounds this wait.
  while (isAlive(identity)) await new Promise((next) => setTimeout(next, pollMs));
}

/** `exit code 3` or `ended by SIGKILL`. */
export function describeExit(exit: ProcessExit): string {
  return exit.signal === undefined ? `exit code ${exit.exitCode ?? "unknown"}` : `ended by ${exit.signal}`;
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if (!isErrnoException(error, "ESRCH")) throw error;
  }
}

async function exitOf(child: ChildProcess, file: string, event: "close" | "exit"): Promise<ProcessExit> {
  return new Promise((resolve, reject) => {
    child.once("error", (error) => {
      const missing = isErrnoException(error, "ENOENT");
      reject(new RuntimeError(missing ? "not_found" : "internal", `start ${file}`, { cause: error, ...(missing && { reason: "tool_missing", hint: "run `casemate check` to see what is missing and how to install it" }) }));
    });
    child.once(event, (exitCode: number | null, signal: NodeJS.Signals | null) => resolve({ exitCode: exitCode ?? undefined, signal: signal ?? undefined }));
  });
}
