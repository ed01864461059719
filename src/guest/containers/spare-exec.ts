import { create } from "@bufbuild/protobuf";
import { rmSync } from "node:fs";
import { eventually } from "../../shared/base/deadline.ts";
import { call } from "../../shared/linux/libc.ts";
import { readProcStat } from "../../shared/linux/proc.ts";
import { StdioSchema, type ExecRequest } from "../../shared/protocol/gen/casemate_pb.ts";
import { makeCgroup } from "../cgroup/cgroup-tree.ts";
import { feedFifo } from "../linux/fifo.ts";
import { bundleFile, type Container } from "./container.ts";
import type { Crun, WaitingExec } from "./crun.ts";
import { ProcessStdio } from "./process-stdio.ts";
import type { StdioPort } from "./stdio-port.ts";

/** Of its files, in place of an exec's name. */
export const spareName = "spare";
/** An empty pipe takes as much at once, whether or not crun reads yet. */
const maxProcessBytes = 60 * 1024;
/** From its start until crun waits: half a second, when nothing of it was in memory. */
const readyTimeoutMs = 5_000;

/**
 * A crun that is ready to start an exec and waits for its process object, which it reads from a FIFO. A
 * container that is saved to be used by execs has one: it costs a start nothing, and takes a quarter off the
 * time of the first exec, much of which an emulated guest spends on loading crun.
 */
export class SpareExec {
  readonly cgroup: string;
  readonly stdio: ProcessStdio;
  readonly crun: WaitingExec;
  readonly #fifo: string;
  #over = false;
  #usedBy: string | undefined;

  private constructor(container: Pick<Container, "name" | "cgroup">, crun: Crun, port: StdioPort) {
    const { madeAs } = container.name;
    const file = (kind: string): string => bundleFile(madeAs, `${spareName}.${kind}`);
    this.#fifo = file("json");
    call("int mkfifo(const char *, unsigned int)", this.#fifo, 0o600);
    this.cgroup = makeCgroup(`${container.cgroup}/${spareName}`);
    this.stdio = ProcessStdio.prepare(create(StdioSchema, {}), port, undefined);
    this.crun = crun.execLater(madeAs, this.#fifo, { stdio: this.stdio.childStdio, consoleSocketPath: undefined, pidFile: file("pid"), logFile: file("log"), cgroup: `/${spareName}` });
  }

  /** Resolves when it waits. */
  static async make(container: Pick<Container, "name" | "cgroup">, crun: Crun, port: StdioPort): Promise<SpareExec> {
    const spare = new SpareExec(container, crun, port);
    try {
      // What still loads is in state R or D (proc(5)).
      await eventually("a spare exec", () => readProcStat(spare.crun.pid)?.state === "S" || undefined, { timeoutMs: readyTimeoutMs, intervalMs: 5 });
      return spare;
    } catch (error) {
      await spare.drop();
      throw error;
    }
  }

  /** Gives it the process, if it is for one of this kind and still there. */
  take({ execId, stdio, ownCgroup }: ExecRequest, processJson: string): boolean {
    const bytes = Buffer.from(processJson);
    if (this.#over || !ownCgroup || stdio === undefined || stdio.terminal || stdio.stdin || bytes.length > maxProcessBytes) return false;
    if (!feedFifo(this.#fifo, bytes)) return false;
    this.stdio.belongTo(stdio);
    this.#over = true;
    this.#usedBy = execId;
    return true;
  }

  /** The exec that has it. */
  get usedBy(): string | undefined { return this.#usedBy; }

  /** Ends one that nobody has taken. */
  async drop(): Promise<void> {
    if (this.#over) return;
    this.#over = true;
    await this.crun.kill();
    this.stdio.abandon();
    rmSync(this.#fifo, { force: true });
  }
}
