import { RuntimeError } from "../../shared/base/errors.ts";
import type { Step, Steps } from "../../shared/base/steps.ts";
import { withUndo } from "../../shared/base/undo.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { GuestProcess } from "./process.ts";

const SIGKILL = 9;
/** A guest that is well signals within milliseconds. */
const killTimeoutMs = 5_000;

/**
 * The start of a process in the guest. When the guest did not say no, but the start failed all the
 * same, the process may run: it is killed, so that nothing runs that its caller believes has failed.
 */
export class ProcessStart {
  readonly #connection: AgentClient;
  readonly #process: GuestProcess;
  readonly #start: () => Promise<unknown>;
  #mayRun = false;

  constructor(connection: AgentClient, process: GuestProcess, start: () => Promise<unknown>) {
    this.#connection = connection;
    this.#process = process;
    this.#start = start;
  }

  async run(list: readonly Step<ProcessStart>[], steps: Steps): Promise<void> {
    await withUndo(async (undo) => {
      undo.add("process in the guest", () => this.#kill());
      await steps.runAll(list, this);
      undo.move();
    });
  }

  async start(): Promise<void> {
    this.#mayRun = true;
    try {
      await this.#start();
    } catch (error) {
      this.#mayRun = RuntimeError.is(error, "deadline_exceeded") || RuntimeError.is(error, "canceled");
      throw error;
    }
  }

  async #kill(): Promise<void> {
    if (!this.#mayRun) return;
    const { containerId, execId } = this.#process;
    try {
      await this.#connection.agent.signalProcess({ containerId, execId, signal: SIGKILL }, { timeoutMs: killTimeoutMs });
    } catch (error) {
      // Ended by itself, or gone with its guest.
      if (!RuntimeError.is(error, "not_found") && !RuntimeError.is(error, "unavailable")) throw error;
    }
  }
}

/** How a container's first process comes to run. */
export const startContainerSteps: readonly Step<ProcessStart>[] = [{ name: "start container in the guest", run: (start) => start.start() }];

/** How a further process comes to run. */
export const execSteps: readonly Step<ProcessStart>[] = [{ name: "start process in the guest", run: (start) => start.start() }];
