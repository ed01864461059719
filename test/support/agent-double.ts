import type { MessageInitShape } from "@bufbuild/protobuf";
import { createServer, type Server, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { EventLog } from "../../src/guest/events.ts";
import { timePart } from "../../src/shared/base/call-parts.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { PacketLink, linkAsDuplex } from "../../src/shared/channel/link.ts";
import { PacketParser, encodeHelloAnswer } from "../../src/shared/channel/packet.ts";
import { StdioMux, type StreamSender } from "../../src/shared/channel/stdio-mux.ts";
import { AgentService, type StatsContainerResponseSchema } from "../../src/shared/protocol/gen/agent/agent_pb.ts";
import type { LinuxResources } from "../../src/shared/protocol/gen/agent/oci_pb.ts";
import { Guest, type GuestProcessSchema, type Stdio } from "../../src/shared/protocol/gen/casemate_pb.ts";
import { TtrpcServer } from "../../src/shared/ttrpc/server.ts";

/** A process in the guest. */
interface DoubleProcess {
  readonly pid: number;
  readonly streamId: number;
  readonly outputs: readonly StreamSender[];
  state: "created" | "running" | "paused" | "stopped";
}

/** Where the agent's ports are on the host. */
interface PortSockets { readonly controlSocket: string; readonly dataSocket: string }

/**
 * A guest's agent on the two sockets of its VM: real greetings, packets, calls, events and streams, and
 * containers with states, whose processes do nothing until {@link exit} ends them. Refuses what the
 * agent refuses: a second container of that id, an exec where nothing runs, removing what runs.
 */
export class AgentDouble {
  /** Calls received, in order: `createContainer c1`. */
  readonly calls: string[] = [];
  /** Mount points of the guest itself. */
  readonly mounted = new Set<string>();
  /** Mount points of each container. */
  readonly #storages = new Map<string, readonly string[]>();
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #mux = new StdioMux();
  readonly #events = new EventLog();
  readonly #processes = new Map<string, DoubleProcess>();
  readonly #failing = new Map<string, RuntimeError>();
  readonly #hanging = new Set<string>();
  readonly #delays = new Map<string, number>();
  #busy: Promise<void> | undefined;
  #sandboxId = "";
  /** What happens when the guest is told to power off; the VM's end, usually. */
  onPowerOff: () => void = () => undefined;
  /** What every container's statistics are. */
  stats: MessageInitShape<typeof StatsContainerResponseSchema> = {};
  /** Resources that containers were updated to. */
  readonly updates: (LinuxResources | undefined)[] = [];
  /** What becomes of a packet on its way to the host: other bytes, several, none. */
  tamper: (packet: Buffer) => Buffer[] = (packet) => [packet];
  /** Answers such a call with that instead of doing anything. */
  readonly lies = new Map<string, object>();
  /** False: processes survive every signal. */
  obeysSignals = true;
  /** What it says every call was spent on, to a host that asks; undefined: nothing. */
  part: string | undefined;

  /** Serves the ports of a VM that is up. */
  static async listen(sockets: PortSockets, options: { readonly greets?: boolean } = {}): Promise<AgentDouble> {
    const double = new AgentDouble();
    const server = new TtrpcServer();
    server.addService(AgentService, double.#lying(double.#agentService()));
    server.addService(Guest, double.#lying(double.#guestService()));
    const greets = options.greets ?? true;
    await double.#listen(sockets.controlSocket, greets, (link) => { server.serve(linkAsDuplex(link)).catch(() => { /* the host has gone */ }); });
    await double.#listen(sockets.dataSocket, greets, (link) => double.#mux.attach(link));
    return double;
  }

  /** Containers that exist. */
  get containers(): string[] {
    return [...this.#processes.keys()].filter((key) => key.endsWith("/")).map((key) => key.slice(0, -1));
  }

  /** What runs and is mounted now; containers that have ended count until they are removed. */
  get held(): string[] {
    const processes = [...this.#processes].filter(([key, { state }]) => key.endsWith("/") || state === "running").map(([key, { state }]) => `${key} ${state}`);
    return [...processes, ...[...this.#storages.values()].flat()].toSorted();
  }

  /** Fails the next such call. */
  fail(method: string, error = new RuntimeError("internal", "refused by the test")): void {
    this.#failing.set(method, error);
  }

  /** Answers such calls again, those that come from now on. */
  answer(method: string): void {
    this.#hanging.delete(method);
  }

  /** Never answers such a call, from now on. */
  hang(method: string): void {
    this.#hanging.add(method);
  }

  /** Does what such a call asks for only after that time, from now on; calls that come meanwhile wait for it, as the agent makes them. */
  delay(method: string, delayMs: number): void {
    this.#delays.set(method, delayMs);
  }

  /** Output of a process, on stdout. */
  async print(containerId: string, execId: string, text: string): Promise<void> {
    await this.#process(containerId, execId).outputs[0]?.write(Buffer.from(text));
  }

  /** A process ends by itself; `keepOutput` leaves its streams without an end, as a guest that lies would. */
  exit(containerId: string, execId: string, exitStatus: number, options: { readonly keepOutput?: boolean } = {}): void {
    const process = this.#process(containerId, execId);
    process.state = "stopped";
    if (options.keepOutput !== true) for (const output of process.outputs) output.end();
    this.#events.append({ case: "exit", value: { containerId, execId, exitStatus, exitedAtUnixNanos: 1n } });
  }

  /** The VM is gone: both ports close, and nobody listens any more. */
  close(): void {
    for (const server of this.#servers) server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #listen(path: string, greets: boolean, onSession: (link: PacketLink) => void): Promise<void> {
    const server = createServer((socket) => {
      this.#sockets.add(socket);
      const parser = PacketParser.forGuest();
      let link: PacketLink | undefined;
      socket.on("error", () => { /* the host has gone; close follows */ });
      socket.on("drain", () => link?.drained());
      socket.on("close", () => {
        link?.close();
        this.#sockets.delete(socket);
      });
      socket.on("data", (chunk: Buffer) => {
        for (const found of greets ? parser.push(chunk) : []) {
          if (found.type === "packet") link?.deliver(found.payload);
          else link?.close();
          if (found.type !== "session") continue;
          socket.write(encodeHelloAnswer(found.sessionId));
          link = new PacketLink({ write: (packet) => this.tamper(Buffer.from(packet)).every((bytes) => socket.write(bytes)) }, found.sessionId);
          onSession(link);
        }
      });
    });
    this.#servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, resolve);
    });
  }

  /** Notes the call, and does what the test asked for instead of answering. */
  async #called(method: string, what = ""): Promise<void> {
    if (this.part !== undefined) await timePart(this.part, async () => undefined);
    this.calls.push(what === "" ? method : `${method} ${what}`);
    const failure = this.#failing.get(method);
    this.#failing.delete(method);
    if (failure !== undefined) throw failure;
    const delayMs = this.#delays.get(method);
    if (delayMs !== undefined) this.#busy = delay(delayMs);
    await this.#busy;
    if (this.#hanging.has(method)) await new Promise(() => { /* for ever */ });
  }

  /** The methods, each with its lie before it. */
  #lying<T extends object>(service: T): T {
    const methods = Object.entries(service) as [string, (...args: readonly unknown[]) => unknown][]; // a service is methods
    return Object.fromEntries(methods.map(([name, method]) => [name, (...args: readonly unknown[]) => this.lies.get(name) ?? method(...args)])) as T; // the same names
  }

  /** Puts an event into the log as it is. */
  appendEvent(kind: Parameters<EventLog["append"]>[0]): void {
    this.#events.append(kind);
  }

  #process(containerId: string, execId: string): DoubleProcess {
    const process = this.#processes.get(`${containerId}/${execId}`);
    if (process === undefined) throw new RuntimeError("not_found", `process "${execId}" of container "${containerId}"`);
    return process;
  }

  async #move(method: string, containerId: string, from: DoubleProcess["state"], to: DoubleProcess["state"]): Promise<void> {
    await this.#called(method, containerId);
    const process = this.#process(containerId, "");
    if (process.state !== from) throw new RuntimeError("failed_precondition", `${method} "${containerId}": it is ${process.state}`);
    process.state = to;
  }

  #start(containerId: string, execId: string, stdio: Stdio | undefined, state: DoubleProcess["state"]): { pid: number } {
    const fds = stdio?.terminal === true ? [1] : [1, 2];
    const outputs = stdio === undefined ? [] : fds.map((fd) => this.#mux.openSender(stdio.streamId, fd));
    const pid = 101 + this.#processes.size;
    this.#processes.set(`${containerId}/${execId}`, { pid, streamId: stdio?.streamId ?? 0, outputs, state });
    return { pid };
  }

  #agentService() {
    return {
      startContainer: async ({ containerId }: { containerId: string }) => {
        await this.#called("startContainer", containerId);
        const process = this.#process(containerId, "");
        if (process.state !== "created") throw new RuntimeError("failed_precondition", `start container "${containerId}": it is ${process.state}`);
        process.state = "running";
        return {};
      },
      removeContainer: async ({ containerId }: { containerId: string }) => {
        await this.#called("removeContainer", containerId);
        const { state } = this.#process(containerId, "");
        if (state === "running" || state === "paused") throw new RuntimeError("failed_precondition", `remove container "${containerId}": it is ${state}`);
        this.#storages.delete(containerId);
        for (const key of [...this.#processes.keys()]) if (key.startsWith(`${containerId}/`)) this.#processes.delete(key);
        return {};
      },
      signalProcess: async ({ containerId, execId, signal }: { containerId: string; execId: string; signal: number }) => {
        await this.#called("signalProcess", `${containerId}/${execId} ${signal}`);
        if (this.#process(containerId, execId).state === "stopped") throw new RuntimeError("not_found", "process already finished", { reason: "process_finished" });
        if (this.obeysSignals) this.exit(containerId, execId, 128 + signal);
        return {};
      },
      pauseContainer: async ({ containerId }: { containerId: string }) => { await this.#move("pauseContainer", containerId, "running", "paused"); return {}; },
      resumeContainer: async ({ containerId }: { containerId: string }) => { await this.#move("resumeContainer", containerId, "paused", "running"); return {}; },
      ttyWinResize: async ({ containerId, execId }: { containerId: string; execId: string }) => {
        await this.#called("ttyWinResize", `${containerId}/${execId}`);
        this.#process(containerId, execId);
        return {};
      },
      updateContainer: async ({ containerId, resources }: { containerId: string; resources?: LinuxResources | undefined }) => {
        await this.#called("updateContainer", containerId);
        if (this.#process(containerId, "").state === "stopped") throw new RuntimeError("failed_precondition", `update container "${containerId}": it is stopped`);
        this.updates.push(resources);
        return {};
      },
      statsContainer: async ({ containerId }: { containerId: string }) => {
        await this.#called("statsContainer", containerId);
        this.#process(containerId, "");
        return this.stats;
      },
      setGuestDateTime: async () => { await this.#called("setGuestDateTime"); return {}; },
      updateInterface: async () => { await this.#called("updateInterface"); return {}; },
      updateRoutes: async () => { await this.#called("updateRoutes"); return {}; },
      createSandbox: async () => { await this.#called("createSandbox"); return {}; },
      onlineCPUMem: async () => { await this.#called("onlineCPUMem"); return {}; },
    };
  }

  #guestService() {
    return {
      hello: async () => { await this.#called("hello"); return { protocolVersion: 1, kernelRelease: "6.1.0-double", sandboxId: this.#sandboxId, lastEventSequence: this.#events.lastSequence, acknowledgedEventSequence: this.#events.acknowledgedSequence }; },
      refresh: async ({ sandboxId, entropy }: { sandboxId: string; entropy: Uint8Array }) => {
        await this.#called("refresh");
        if (entropy.length > 0) this.#sandboxId = sandboxId;
        return { unixNanos: BigInt(Date.now()) * 1_000_000n };
      },
      listProcesses: async () => {
        await this.#called("listProcesses");
        return { processes: [...this.#processes].map(([key, process]) => describe(key, process)) };
      },
      createContainer: async ({ containerId, stdio, storages }: { containerId: string; stdio?: Stdio | undefined; storages: readonly { mountPoint: string }[] }) => {
        await this.#called("createContainer", containerId);
        if (this.#processes.has(`${containerId}/`)) throw new RuntimeError("already_exists", `container "${containerId}" exists already`, { reason: "container_exists" });
        this.#storages.set(containerId, storages.map(({ mountPoint }) => mountPoint));
        return this.#start(containerId, "", stdio, "created");
      },
      exec: async ({ containerId, execId, stdio }: { containerId: string; execId: string; stdio?: Stdio | undefined }) => {
        await this.#called("exec", `${containerId}/${execId}`);
        if (containerId !== "" && !["created", "running"].includes(this.#process(containerId, "").state)) throw new RuntimeError("failed_precondition", `exec in container "${containerId}": it is not running`);
        return this.#start(containerId, execId, stdio, "running");
      },
      events: ({ afterSequence }: { afterSequence: bigint }, { signal }: { signal: AbortSignal }) => this.#events.follow(afterSequence, signal),
      acknowledgeEvents: async ({ upToSequence }: { upToSequence: bigint }) => {
        await this.#called("acknowledgeEvents", String(upToSequence));
        this.#events.acknowledge(upToSequence);
        return {};
      },
      addStorages: async ({ storages }: { storages: readonly { mountPoint: string }[] }) => {
        await this.#called("addStorages");
        for (const { mountPoint } of storages) this.mounted.add(mountPoint);
        return {};
      },
      removeStorages: async ({ mountPoints }: { mountPoints: readonly string[] }) => {
        await this.#called("removeStorages");
        for (const mountPoint of mountPoints) this.mounted.delete(mountPoint);
        return {};
      },
      powerOff: async () => {
        await this.#called("powerOff");
        setTimeout(() => this.onPowerOff(), 5); // after the answer, as the agent does it
        return {};
      },
    };
  }
}

function describe(key: string, { pid, streamId, outputs, state }: DoubleProcess): MessageInitShape<typeof GuestProcessSchema> {
  const [containerId = "", execId = ""] = key.split("/");
  return { containerId, execId, pid, streamId, status: state, stdoutAcknowledged: BigInt(outputs[0]?.acknowledged ?? 0), stderrAcknowledged: BigInt(outputs[1]?.acknowledged ?? 0) };
}
