import { readFileSync, rmSync } from "node:fs";
import { timePart } from "../../shared/base/call-parts.ts";
import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { SyscallError } from "../../shared/linux/libc.ts";
import { readOptional } from "../../shared/linux/read-optional.ts";
import { feedFifo } from "../linux/fifo.ts";
import { spawnProgram } from "../linux/spawn-program.ts";
import type { ProcessStatus, Reaper } from "../reaper.ts";
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

/** How crun starts a further process. */
export interface ExecFiles extends Omit<StartFiles, "program"> {
  /** Below the container's. */
  readonly cgroup?: string | undefined;
}

/** A crun that waits for the process object of an exec. */
export interface WaitingExec {
  readonly pid: number;
  /** After it has got the object, of a process that runs this program. Returns the process's pid. */
  readonly finish: (program: string) => Promise<number>;
  /** One that has ended is no error. */
  readonly kill: () => Promise<void>;
}

/** A crun that runs. */
interface Launched {
  readonly pid: number;
  readonly ended: Promise<ProcessStatus>;
}

/** Where crun is and keeps its state. */
export interface CrunOptions {
  readonly file: string;
  readonly root: string;
  /** Waits for each crun's end, as for that of the processes it leaves. */
  readonly reaper: Reaper;
}

/**
 * Drives crun(1): one call is one run of the program, with a time limit. Its files are on a tmpfs,
 * where a call at once takes a tenth of a trip through the thread pool on the guest's one CPU.
 */
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
  async exec(containerId: string, processFile: string, files: ExecFiles & Pick<StartFiles, "program">): Promise<number> {
    await this.#run(execStep(containerId, files.program), files.logFile, files.stdio, execArgs(containerId, processFile, files));
    return readPidFile(files.pidFile);
  }

  /** As {@link exec}, of a process that is not known yet: crun comes as far as opening the file, a FIFO, for which it waits. */
  execLater(containerId: string, processFifo: string, files: ExecFiles): WaitingExec {
    const launched = this.#launch(execStep(containerId, ""), files.logFile, files.stdio, execArgs(containerId, processFifo, files));
    let over = false;
    void launched.ended.then(() => { over = true; }); // never rejects
    return {
      pid: launched.pid,
      finish: async (program) => {
        await timePart("crun exec", () => finish(execStep(containerId, program), files.logFile, launched));
        return readPidFile(files.pidFile);
      },
      kill: async () => {
        if (!over) process.kill(launched.pid, "SIGKILL"); // not reaped, so the pid is still its own
        await launched.ended;
      },
    };
  }

  /**
   * Lets a container's process run its program. crun's own `start` does no more for a container without
   * poststart hooks, and none with any comes here; but it is a program with a dozen libraries to load,
   * a fifth of a start from a prepared template under emulation. It is left to tell what is wrong.
   */
  async start(containerId: string, logFile: string): Promise<void> {
    if (feedFifo(`${this.#options.root}/${containerId}/exec.fifo`, Buffer.alloc(1))) return;
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
    await timePart(`crun ${command[0] ?? ""}`, () => finish(step, logFile, this.#launch(step, logFile, stdio, command)));
  }

  #launch(step: string, logFile: string, stdio: ChildStdio, command: readonly string[]): Launched {
    rmSync(logFile, { force: true });
    const pid = spawnUnprotected(() => this.#spawn(step, ["--log", logFile, ...command], stdio));
    return { pid, ended: this.#options.reaper.claim(pid) };
  }

  #spawn(step: string, args: readonly string[], stdio: ChildStdio): number {
    const { file, root } = this.#options;
    try {
      return spawnProgram(file, ["--root", root, ...args], { env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], stdio });
    } catch (error) {
      throw new RuntimeError(error instanceof SyscallError && error.code === "ENOENT" ? "not_found" : "internal", `${step}: start ${file}`, { cause: error });
    }
  }
}

/** An id as people are shown it. */
function shown(containerId: string): string {
  return `"${containerId.slice(0, 12)}"`;
}

const noStdio: ChildStdio = ["ignore", "ignore", "ignore"];

function startArgs({ consoleSocketPath, pidFile }: ExecFiles): string[] {
  return ["--pid-file", pidFile, ...(consoleSocketPath === undefined ? [] : ["--console-socket", consoleSocketPath])];
}

function execStep(containerId: string, program: string): string {
  return `exec "${program}" in container ${shown(containerId)}`;
}

function execArgs(containerId: string, processFile: string, files: ExecFiles): string[] {
  return ["exec", "--detach", "--process", processFile, ...(files.cgroup === undefined ? [] : ["--cgroup", files.cgroup]), ...startArgs(files), containerId];
}

async function finish(step: string, logFile: string, launched: Launched): Promise<void> {
  const status = await endOf(launched, step);
  if (status.exitStatus !== 0) throw crunFailure(step, readLog(logFile));
}

async function endOf({ pid, ended }: Launched, step: string): Promise<ProcessStatus> {
  try {
    return await orAbandon(ended, step, { timeoutMs: crunTimeoutMs });
  } catch (error) {
    if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
    process.kill(-pid, "SIGKILL"); // its group: it leads its session
    await ended;
    throw new RuntimeError("deadline_exceeded", `${step}: crun did not end within ${crunTimeoutMs} ms`);
  }
}

/** The log of a crun or of a process it started; empty when it wrote none. */
export function readLog(logFile: string): string {
  return readOptional(logFile).slice(-maxLogBytes);
}

function readPidFile(path: string): number {
  const pid = Number(readFileSync(path, "latin1").trim());
  if (!Number.isSafeInteger(pid) || pid <= 1) throw new RuntimeError("internal", `read "${path}": crun left no pid`);
  return pid;
}
