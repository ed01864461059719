import { readFile, rm } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { startProcess, terminateGroup, type ManagedProcess, type ProcessExit } from "../../shared/linux/run-process.ts";
import { crunFailure } from "./crun-errors.ts";
import { spawnUnprotected } from "./oom-score.ts";

/** A crun that takes longer hangs: its longest step, under emulation and with a cold cache, is about 2 s. */
const crunTimeoutMs = 30_000;
/** More of a log is not read. */
const maxLogBytes = 64 * 1024;

/** What a new process gets as descriptors 0, 1 and 2. */
export type ChildStdio = readonly [number | "ignore", number | "ignore", number | "ignore"];

/** How crun starts a process. */
export interface StartFiles {
  /** The program the process runs; for messages alone. */
  readonly program: string;
  readonly stdio: ChildStdio;
  readonly consoleSocketPath: string | undefined;
  readonly pidFile: string;
  /** crun's messages, and those of the process until its program runs. */
  readonly logFile: string;
}

/** Where crun is and keeps its state. */
export interface CrunOptions {
  readonly file: string;
  readonly root: string;
  /** Further global options; tests run it without cgroups. */
  readonly globalArgs?: readonly string[];
}

/** Drives crun(1): one call is one run of the program, with a time limit. */
export class Crun {
  readonly #options: CrunOptions;

  constructor(options: CrunOptions) {
    this.#options = options;
  }

  /** Makes a container from the bundle; its process waits for {@link start}. Returns the process's pid. */
  async create(containerId: string, bundle: string, files: StartFiles): Promise<number> {
    await this.#run(`create container ${shown(containerId)} for program "${files.program}"`, files.logFile, files.stdio, [
      "create", "--bundle", bundle, ...startArgs(files), containerId,
    ]);
    return readPidFile(files.pidFile);
  }

  /** Starts a further process from an OCI `process` object in a file, in a cgroup below the container's if one is named. Returns its pid. */
  async exec(containerId: string, processFile: string, files: StartFiles & { readonly cgroup?: string | undefined }): Promise<number> {
    await this.#run(`exec "${files.program}" in container ${shown(containerId)}`, files.logFile, files.stdio, [
      "exec", "--detach", "--process", processFile, ...(files.cgroup === undefined ? [] : ["--cgroup", files.cgroup]), ...startArgs(files), containerId,
    ]);
    return readPidFile(files.pidFile);
  }

  async start(containerId: string, logFile: string): Promise<void> {
    await this.#run(`start container ${shown(containerId)}`, logFile, noStdio, ["start", containerId]);
  }

  /** Removes crun's state and the cgroup; `force` kills what still runs. */
  async delete(containerId: string, logFile: string, force: boolean): Promise<void> {
    await this.#run(`delete container ${shown(containerId)}`, logFile, noStdio, ["delete", ...(force ? ["--force"] : []), containerId]);
  }

  async update(containerId: string, logFile: string, resourcesFile: string): Promise<void> {
    await this.#run(`update container ${shown(containerId)}`, logFile, noStdio, ["update", "--resources", resourcesFile, containerId]);
  }

  async pause(containerId: string, logFile: string): Promise<void> {
    await this.#run(`pause container ${shown(containerId)}`, logFile, noStdio, ["pause", containerId]);
  }

  async resume(containerId: string, logFile: string): Promise<void> {
    await this.#run(`resume container ${shown(containerId)}`, logFile, noStdio, ["resume", containerId]);
  }

  async #run(step: string, logFile: string, stdio: ChildStdio, command: readonly string[]): Promise<void> {
    await rm(logFile, { force: true });
    const { file, root, globalArgs = [] } = this.#options;
    const child = await spawnUnprotected(() => startProcess(file, ["--root", root, "--log", logFile, ...globalArgs, ...command], { env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" }, stdio: [...stdio] }));
    const exit = await endOf(child, step);
    if (exit.exitCode !== 0) throw crunFailure(step, await readLog(logFile));
  }
}

/** An id as people are shown it. */
function shown(containerId: string): string {
  return `"${containerId.slice(0, 12)}"`;
}

const noStdio: ChildStdio = ["ignore", "ignore", "ignore"];

function startArgs({ consoleSocketPath, pidFile }: StartFiles): string[] {
  return ["--pid-file", pidFile, ...(consoleSocketPath === undefined ? [] : ["--console-socket", consoleSocketPath])];
}

async function endOf(process: ManagedProcess, step: string): Promise<ProcessExit> {
  const limit = new AbortController();
  const late = delay(crunTimeoutMs, "late" as const, { signal: limit.signal }).catch(() => "late" as const);
  const exit = await Promise.race([process.exited, late]);
  limit.abort();
  if (exit !== "late") return exit;
  await terminateGroup(process.child, 0);
  throw new RuntimeError("deadline_exceeded", `${step}: crun did not end within ${crunTimeoutMs} ms`);
}

/** The log of a crun or of a process it started; empty when it wrote none. */
export async function readLog(logFile: string): Promise<string> {
  try {
    return (await readFile(logFile, "utf8")).slice(-maxLogBytes);
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return "";
    throw error;
  }
}

async function readPidFile(path: string): Promise<number> {
  const pid = Number((await readFile(path, "latin1")).trim());
  if (!Number.isSafeInteger(pid) || pid <= 1) throw new RuntimeError("internal", `read "${path}": crun left no pid`);
  return pid;
}
