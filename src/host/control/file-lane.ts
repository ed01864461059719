import { randomInt } from "node:crypto";
import { closeSync, rmSync } from "node:fs";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { lanePortName } from "../../shared/channel/lane.ts";
import { listenUnix } from "../../shared/linux/unix-socket.ts";
import type { VirtualMachine } from "../hypervisor/virtual-machine.ts";

/** A lane by which nothing has moved for that long is taken from its holder when somebody else wants it. */
const idleMs = 250;
const plugTimeoutMs = 10_000;
const maxLaneId = 0xffff_ffff;

interface Loan {
  /** Moves that the guest is at. */
  moves: number;
  movedAtMs: number;
  readonly end: () => void;
  readonly ended: Promise<void>;
}

/** What is needed of a VM. */
type Vm = Pick<VirtualMachine, "plugPort" | "unplug">;

/**
 * The one lane of a sandbox (docs/wire-channel.md): a virtio-serial port that is plugged for one file,
 * whose bytes go from the holder's socket through QEMU to the guest without passing this process, and
 * unplugged when its holder has done, is gone, or has to give it up.
 */
export class FileLane {
  readonly #log: Logger;
  #loan: Loan | undefined;
  #withheld = 0;
  readonly #unplugging = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * Lends the lane until `inputs` end or it is taken back; says once how to reach it.
   * @throws RuntimeError `resource_exhausted` (reason `lane_busy`).
   */
  async *lend(vm: Vm, socketPath: string, inputs: AsyncIterable<unknown>): AsyncGenerator<{ readonly laneId: number; readonly socketPath: string }> {
    if (this.#loan !== undefined && this.#loan.moves === 0 && performance.now() - this.#loan.movedAtMs > idleMs) await this.withdraw();
    if (this.#loan !== undefined || this.#withheld > 0) throw new RuntimeError("resource_exhausted", "the sandbox's lane is in use", { reason: "lane_busy" });
    const given = Promise.withResolvers<void>(), ended = Promise.withResolvers<void>();
    this.#loan = { moves: 0, movedAtMs: performance.now(), end: () => given.resolve(), ended: ended.promise };
    const laneId = randomInt(1, maxLaneId);
    const portId = `lane-${laneId}`;
    try {
      await plug(vm, portId, lanePortName(laneId), socketPath);
      yield { laneId, socketPath };
      await Promise.race([given.promise, endOf(inputs)]);
    } finally {
      rmSync(socketPath, { force: true });
      this.#unplug(vm, portId);
      this.#loan = undefined;
      ended.resolve();
    }
  }

  /** The guest moves bytes by the lane until the returned function is called. */
  moving(): () => void {
    const loan = this.#loan;
    if (loan === undefined) return () => undefined;
    loan.moves++;
    return () => {
      loan.moves--;
      loan.movedAtMs = performance.now();
    };
  }

  /** Takes the lane from its holder, who goes on by messages. */
  async withdraw(): Promise<void> {
    this.#loan?.end();
    await this.#loan?.ended;
    await Promise.all(this.#unplugging);
  }

  /** The guest has lost the port when QEMU answers; that QEMU has let go of all that belongs to it takes 60 ms more, for which nobody need wait. */
  #unplug(vm: Vm, portId: string): void {
    const unplugged = vm.unplug(portId).catch((error: unknown) => this.#log.error("a lane was not unplugged", { error: describeError(error) })).finally(() => this.#unplugging.delete(unplugged));
    this.#unplugging.add(unplugged);
  }

  /** Does something while there is no lane: a VM that is saved must not have one. */
  async withhold<T>(work: () => Promise<T>): Promise<T> {
    this.#withheld++;
    try {
      await this.withdraw();
      return await work();
    } finally {
      this.#withheld--;
    }
  }
}

async function plug(vm: Vm, portId: string, name: string, socketPath: string): Promise<void> {
  const umask = process.umask(0o177);
  let fd: number;
  try {
    fd = listenUnix(socketPath);
  } finally {
    process.umask(umask);
  }
  try {
    await vm.plugPort({ portId, name, fd }, { timeoutMs: plugTimeoutMs });
  } finally {
    closeSync(fd); // QEMU has its own copy
  }
}

/** Also when the caller is gone. */
async function endOf(inputs: AsyncIterable<unknown>): Promise<void> {
  try {
    for await (const input of inputs) void input;
  } catch {
    // Its connection is lost.
  }
}
