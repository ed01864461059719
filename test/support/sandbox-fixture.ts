import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectAgent } from "../../src/host/agent-client/agent-client.ts";
import type { VmExit } from "../../src/host/hypervisor/virtual-machine.ts";
import type { SandboxDrivers, SandboxShares } from "../../src/host/sandbox/drivers.ts";
import type { SandboxConfig } from "../../src/host/sandbox/sandbox-config.ts";
import type { ProcessEnd } from "../../src/host/sandbox/process.ts";
import { Sandbox, type SandboxEvent } from "../../src/host/sandbox/sandbox.ts";
import type { StepHook, StepObserver } from "../../src/shared/base/steps.ts";
import { Ledger, releaserOf, type ResourceKind, type ResourceRecord } from "../../src/host/store/ledger.ts";
import { sandboxPaths, stateFolders } from "../../src/host/store/paths.ts";
import { savedRecordReleasers, savedSandbox } from "../../src/host/store/saved-records.ts";
import { silentLogger, type Logger } from "../../src/shared/base/log.ts";
import { AgentDouble } from "./agent-double.ts";
import { VmDouble } from "./vm-double.ts";

interface FileRecord extends ResourceRecord { readonly kind: "test"; readonly path: string }

const heldPrefix = "held-";

/** A resource of the host that can be counted: a file that is there while it is held. */
const fileKind: ResourceKind<{ readonly name: string; readonly folder: string }, FileRecord, string> = {
  kind: "test",
  plan: ({ name, folder }) => ({ kind: "test", name, path: join(folder, `${heldPrefix}${name}`) }),
  act: async (record) => {
    writeFileSync(record.path, "");
    return record.path;
  },
  release: async (record) => rmSync(record.path, { force: true }),
};

/** Options of {@link SandboxFixture.open}. */
export interface SandboxFixtureOptions {
  /** False: the guest never answers a greeting. Default true. */
  readonly agentGreets?: boolean;
}

/** A sandbox's surroundings: drivers that take countable resources, a VM without a guest, an agent on real sockets. */
export class SandboxFixture {
  readonly folder: string;
  /** Tests may change it before they create. */
  config: SandboxConfig;
  /** Of the present owner. */
  ledger: Ledger;
  readonly agent: AgentDouble;
  readonly vm = new VmDouble();
  /** The VM of a config that names a template; the same agent answers for it. */
  readonly restoredVm = new VmDouble("template");
  /** Resolved, nobody serves the shares any more. */
  readonly sharesExit = Promise.withResolvers<void>();
  readonly events: SandboxEvent[] = [];
  readonly recorded: { readonly containerId: string; readonly end: ProcessEnd }[] = [];
  hook: StepHook | undefined;
  observer: StepObserver | undefined;
  log: Logger = silentLogger;

  private constructor(folder: string, config: SandboxConfig, agent: AgentDouble) {
    this.folder = folder;
    this.config = config;
    this.agent = agent;
    this.ledger = Ledger.open(sandboxPaths(config.folders, config.sandboxId).ledger);
    agent.onPowerOff = () => this.endVm("powered_off");
    void this.vm.exited.then(() => agent.close());
  }

  static async open(options: SandboxFixtureOptions = {}): Promise<SandboxFixture> {
    const folder = mkdtempSync(join(tmpdir(), "casemate-sandbox-"));
    const config: SandboxConfig = {
      version: 1, sandboxId: "s1", folders: stateFolders(folder), hostname: "s1", accelerator: "tcg", kernelPath: "", initramfsPath: "", rootImagePath: "",
      memoryBytes: 2048 * 1024 * 1024, vcpuCount: 2, shares: true, network: "user", ports: [], debug: false,
    };
    const paths = sandboxPaths(config.folders, config.sandboxId);
    mkdirSync(paths.folder, { recursive: true });
    return new SandboxFixture(folder, config, await AgentDouble.listen(paths, { greets: options.agentGreets ?? true }));
  }

  /** What the sandbox holds now: files of resources, records of them, plugged devices other than with a VM that has ended. */
  get held(): string[] {
    const files = readdirSync(this.folder).filter((name) => name.startsWith(heldPrefix)).map((name) => name.slice(heldPrefix.length));
    return [...this.ledger.records.map(({ name }) => name).filter((name) => files.includes(name)), ...files.filter((name) => !this.ledger.records.some((record) => record.name === name)), ...this.ledger.records.map(({ name }) => `record ${name}`)];
  }

  create(timeoutMs = 10_000): Promise<Sandbox> {
    return Sandbox.create(this.config, this.#context(this.ledger), { timeoutMs });
  }

  /** A new owner takes over, from the ledger as it is on disk. */
  async adopt(timeoutMs = 10_000): Promise<Sandbox> {
    this.ledger = Ledger.open(sandboxPaths(this.config.folders, this.config.sandboxId).ledger);
    const record = savedSandbox(this.ledger);
    if (record === undefined) throw new Error("the ledger has no sandbox");
    return Sandbox.adopt(this.config, this.#context(this.ledger), record, { timeoutMs });
  }

  /** The VM ends, and its sockets with it. */
  endVm(reason: VmExit["reason"], consoleTail?: string): void {
    this.vm.end(reason, consoleTail);
  }

  [Symbol.dispose](): void {
    this.vm.end("died");
    this.agent.close();
    rmSync(this.folder, { recursive: true, force: true });
  }

  #context(ledger: Ledger): Parameters<typeof Sandbox.create>[1] {
    return {
      drivers: this.#drivers(), ledger, log: this.log, hook: (...step) => this.hook?.(...step), ...(this.observer !== undefined && { observer: this.observer }),
      onEvent: (event) => this.events.push(event),
      recordEnd: ({ containerId }, end) => this.recorded.push({ containerId, end }),
    };
  }

  #drivers(): SandboxDrivers {
    const take = (name: string, ledger: Ledger, undo: Parameters<SandboxDrivers["bootVm"]>[3]): Promise<string> => ledger.plan((plan) => plan(fileKind, { name, folder: this.folder })).take(undo);
    const { folder } = this;
    const shares = (ledger: Ledger, serving: boolean): SandboxShares => ({
      shareId: "share",
      guestMountPoint: "/run/share",
      serving,
      lost: this.sharesExit.promise,
      async serve(undo) {
        await take("shares", ledger, undo);
        this.serving = true;
        return { shareId: "share", tag: "share", fd: -1 };
      },
      async withdraw() {
        this.serving = false;
        await ledger.held(fileKind, fileKind.plan({ name: "shares", folder })).release();
      },
      add: async (name, _source, _readOnly, undo) => {
        await take(`share ${name}`, ledger, undo);
        return `/run/share/${name}`;
      },
      plan: (name) => fileKind.plan({ name: `share ${name}`, folder: this.folder }),
      remove: async (name) => ledger.held(fileKind, fileKind.plan({ name: `share ${name}`, folder: this.folder })).release(),
    });
    return {
      claimUser: async (_config, ledger, undo) => {
        await take("user", ledger, undo);
        return { uid: 1, gid: 1 };
      },
      shares: (_config, ledger) => shares(ledger, false),
      startNetwork: async (_config, _user, ledger, undo) => {
        await take("network", ledger, undo);
        return { nic: { nicId: "net0", macAddress: "02:00:00:00:00:01", fd: -1 }, guest: { interfaceName: "eth0", macAddress: "02:00:00:00:00:01", mtu: 1500, addresses: ["10.0.0.2/24"], routes: [], nameservers: [], searchDomains: [] }, ports: [], warnings: [] };
      },
      bootVm: async (_config, _user, ledger, undo) => {
        await take("vm", ledger, undo);
        undo.add("VM", () => this.vm.kill());
        return this.vm;
      },
      restoreVm: async ({ ledger, undo }) => {
        await take("restored vm", ledger, undo);
        undo.add("restored VM", () => this.restoredVm.kill());
        return this.restoredVm;
      },
      restoreTimeoutMs: () => 10_000,
      connectAgent: (config, wait) => connectAgent(sandboxPaths(config.folders, config.sandboxId), wait),
      planned: () => ["user", "shares", "network"].map((name) => fileKind.plan({ name, folder: this.folder })),
      adoptVm: async () => ({ vm: this.vm, paused: this.vm.paused, size: { memoryBytes: this.config.memoryBytes, vcpuCount: this.config.vcpuCount }, disks: this.vm.disks }),
      adoptShares: (_config, ledger) => shares(ledger, ledger.records.some(({ kind, name }) => kind === "test" && name.startsWith("share "))),
      releaseAll: async (ledger) => {
        await this.vm.kill();
        return ledger.releaseAll([releaserOf(fileKind), ...savedRecordReleasers]);
      },
    };
  }
}
