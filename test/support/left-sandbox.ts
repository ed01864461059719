import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packageNode, packageRoot } from "../../src/host/config/package-root.ts";
import { connectOwner, type OwnerClient } from "../../src/host/control/owner-client.ts";
import { ownerToken } from "../../src/host/control/start-owner.ts";
import { releaseLostSandbox } from "../../src/host/control/lost-sandbox.ts";
import type { SandboxConfig } from "../../src/host/sandbox/sandbox-config.ts";
import { Ledger } from "../../src/host/store/ledger.ts";
import { sandboxPaths, stateFolders } from "../../src/host/store/paths.ts";
import { creatingSandbox, type SandboxRecord, type SavedContainer } from "../../src/host/store/saved-records.ts";
import { findTaggedProcesses, type TaggedProcessRecord } from "../../src/host/store/tagged-process.ts";
import { signalProcess } from "../../src/shared/linux/proc.ts";
import { startProcess, type ManagedProcess } from "../../src/shared/linux/run-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { connectAgent } from "../../src/host/agent-client/agent-client.ts";
import { AgentDouble } from "./agent-double.ts";
import { QmpDouble } from "./qmp-double.ts";

/** Names in every {@link LeftSandbox}. */
export const sandboxId = "left", containerId = "c1";
/** The empty owner's sandbox gets as far as its network and fails for want of a kernel; by then it has answered. */
const noGuest = { kernelPath: "", initramfsPath: "", rootImagePath: "" } as const;
/** A new owner listens within this time on any machine. */
const startTimeoutMs = 30_000;
const pollMs = 2;

/** What stands for the VM. */
interface Doubles {
  readonly qmp: QmpDouble;
  readonly console: Server;
  readonly agent: AgentDouble;
  readonly vmm: ManagedProcess;
}

/**
 * A sandbox that was left without an owner, of which everything but the VM is real: there is a double on
 * each of its sockets, and owners are started on it. A process that sleeps stands for QEMU.
 */
export class LeftSandbox implements AsyncDisposable {
  readonly #root = mkdtempSync(join(tmpdir(), "casemate-adopt-"));
  readonly folders = stateFolders(this.#root);
  readonly paths = sandboxPaths(this.folders, sandboxId);
  #doubles: Doubles | undefined;

  get root(): string { return this.#root; }
  get agent(): AgentDouble { return this.#served.agent; }
  get qmp(): QmpDouble { return this.#served.qmp; }
  get vmm(): ManagedProcess { return this.#served.vmm; }

  /** `running`: with its VM and one running container; `empty`: with its VM alone; `new`: as a front end leaves it before the owner has done anything. */
  static async make(what: "running" | "empty" | "new"): Promise<LeftSandbox> {
    const left = new LeftSandbox();
    mkdirSync(left.paths.folder, { recursive: true });
    const config: SandboxConfig = {
      version: 1, sandboxId, folders: left.folders, hostname: sandboxId, accelerator: "tcg", ...noGuest, memoryBytes: 0, vcpuCount: 1, shares: false,
      network: what === "new" ? "user" : "none", ports: [], debug: false,
    };
    writeFileSync(left.paths.state, JSON.stringify(config));
    if (what !== "new") await left.#serveVm(what === "running");
    return left;
  }

  get #served(): Doubles {
    if (this.#doubles === undefined) throw new Error("this sandbox has no VM");
    return this.#doubles;
  }

  async #serveVm(withContainer: boolean): Promise<void> {
    const qmp = await QmpDouble.listen({ path: this.paths.qmpSocket });
    const console = createServer().listen(this.paths.consoleSocket);
    const agent = await AgentDouble.listen(this.paths);
    const vmm = await startProcess("sleep", ["1000"], { stdio: "ignore" });
    this.#doubles = { qmp, console, agent, vmm };
    const first = await connectAgent(this.paths, { timeoutMs: startTimeoutMs });
    await first.guest.refresh({ sandboxId, entropy: randomBytes(64) });
    if (withContainer) {
      await first.guest.createContainer({ containerId, stdio: { streamId: 1 } });
      await first.agent.startContainer({ containerId });
    }
    first.close();
    const container: SavedContainer = {
      kind: "container", name: containerId, bundle: "", streamId: 1, io: { terminal: false, stdin: false, holdOutput: false, logPath: "" }, disks: [], shares: [], resources: {},
      backing: { containerFolder: "", autoRemove: false, lastOneOut: false },
    };
    const sandbox: SandboxRecord = { ...creatingSandbox, phase: "running" };
    const record: TaggedProcessRecord = { kind: "vmm", name: "vmm", token: `${sandboxId}/vmm`, identity: vmm.identity };
    Ledger.open(this.paths.ledger).reserve([sandbox, record, ...(withContainer ? [container] : [])]);
  }

  /** The command line of an owner. */
  get ownerCommand(): readonly [file: string, ...args: string[]] {
    return [packageNode(), "--max-semi-space-size=1", join(packageRoot(), "dist/owner.cjs"), this.paths.folder];
  }

  /** Milliseconds from the start of an owner to its first answer to State; the owner is killed then. */
  async timeOwner(): Promise<number> {
    const began = performance.now();
    const [file, ...args] = this.ownerCommand;
    const owner = await startProcess(file, args, { stdio: ["ignore", "ignore", "ignore"], cwd: "/" });
    try {
      for (;;) {
        const answered = await this.#answersState();
        if (answered) return performance.now() - began;
        if (performance.now() - began > startTimeoutMs) throw new RuntimeError("deadline_exceeded", "the owner does not answer");
        await new Promise((resolve) => setTimeout(resolve, pollMs));
      }
    } finally {
      owner.child.kill("SIGKILL");
      await owner.exited;
    }
  }

  /** Kills every owner and supervisor of this sandbox. */
  killOwners(): void {
    for (const identity of findTaggedProcesses(ownerToken(sandboxId))) signalProcess(identity, "SIGKILL");
  }

  async #answersState(): Promise<boolean> {
    let client: OwnerClient;
    try {
      client = await connectOwner(this.folders, sandboxId, { revive: false });
    } catch {
      return false; // it does not listen yet
    }
    try {
      await client.task.state({ id: containerId });
      return true;
    } catch (error) {
      return RuntimeError.is(error) && error.reason === "not_ready"; // an answer too: there is nothing yet
    } finally {
      client.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Again until it is so: an owner may be just about to start.
    await eventually("the end of the owners", async () => {
      this.killOwners();
      return await releaseLostSandbox(this.folders, sandboxId) ? true : undefined;
    }, { timeoutMs: startTimeoutMs });
    this.#doubles?.vmm.child.kill("SIGKILL");
    await this.#doubles?.vmm.exited;
    await this.#doubles?.qmp[Symbol.asyncDispose]();
    this.#doubles?.console.close();
    this.#doubles?.agent.close();
    rmSync(this.#root, { recursive: true, force: true });
  }
}
