import { chownSync, closeSync, fstatSync, mkdirSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../shared/base/deadline.ts";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import { Steps, type Step } from "../../shared/base/steps.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import { asUser, type HelperUser } from "../../shared/linux/drop-privileges.ts";
import { describeExit, startProcess, type ManagedProcess, type ProcessExit } from "../../shared/linux/run-process.ts";
import { socketPair } from "../../shared/linux/unix-socket.ts";
import { readOptional } from "../../shared/linux/read-optional.ts";
import type { PublishRequest, PublishedPort } from "../store/container-store.ts";
import type { Ledger, ResourceKind } from "../store/ledger.ts";
import { endTaggedProcesses, taggedEnvironment, type TaggedProcessRecord } from "../store/tagged-process.ts";
import { addressSlotKind, type AddressSlot, type SlotRange } from "./address-slot.ts";
import { choosePorts, portTaken } from "./free-ports.ts";
import { describeGuestNetwork, macAddress, networkWarnings, type GuestNetwork } from "./guest-network.ts";
import { readHostNetwork, type HostNetwork } from "./host-network.ts";
import { loopbackGuardKind } from "./loopback-guard.ts";
import { passtArgs, passtFiles } from "./passt-args.ts";

/** Longest time passt may take to bind its ports; it takes some 20 ms, a thousand ports 100 ms. */
const startTimeoutMs = 10_000;
/** passt ends at SIGTERM at once; it has nothing to put in order. */
const endGraceMs = 500;
/** Where the socket goes in the child: the first number after the standard streams. */
const childFd = 3;
/** passt prints little before its log takes over. */
const maxLogBytes = 64 * 1024;

/** What a sandbox's network is made from. */
export interface NetworkRequest {
  readonly sandboxId: string;
  /** The sandbox's run folder. */
  readonly sandboxFolder: string;
  /** The folder of all claims, the same for all sandboxes of a run folder. */
  readonly slotFolder: string;
  readonly range: SlotRange;
  /** Unprivileged user passt runs as; undefined: our own (not root). */
  readonly user: HelperUser | undefined;
  readonly ports: readonly PublishRequest[];
}

/** A sandbox's running network. */
export interface UserNetwork {
  /** For VirtualMachine.plugNic; the descriptor is closed by the undo. */
  readonly nic: { readonly nicId: string; readonly macAddress: string; readonly fd: number };
  readonly guest: GuestNetwork;
  /** The ports with the host ports they got. */
  readonly ports: readonly PublishedPort[];
  readonly warnings: readonly string[];
  /** Resolves when passt has ended, also after a stop; the guest is then without network. Never rejects. */
  readonly exited: Promise<ProcessExit>;
}

/** What the steps of a network's set-up make, each for those after it. */
interface NetworkBuild {
  readonly request: NetworkRequest;
  readonly host: HostNetwork;
  readonly ledger: Ledger;
  readonly undo: UndoStack;
  ports: readonly PublishedPort[];
  slot: AddressSlot | undefined;
  warnings: readonly string[];
  passt: Passt | undefined;
}

/** How a sandbox gets its network. */
export const networkSteps: readonly Step<NetworkBuild>[] = [
  { name: "choose ports", run: async (build) => { build.ports = await choosePorts(build.request.ports); } },
  { name: "claim addresses", run: claimAddresses },
  { name: "guard loopback", run: async (build) => { build.warnings = await guardLoopback(build.request, build.host, build.ledger, build.undo); } },
  { name: "start passt", run: startPasstFor },
];

/**
 * Gives a sandbox a network of its own: checks the ports, claims addresses, starts passt.
 * @throws RuntimeError `failed_precondition` (reason `port_taken`, `port_privileged` or `address_missing`) before anything starts.
 */
export async function startUserNetwork(request: NetworkRequest, ledger: Ledger, undo: UndoStack, steps = new Steps("set up network")): Promise<UserNetwork> {
  const build: NetworkBuild = { request, host: readHostNetwork(), ledger, undo, ports: [], slot: undefined, warnings: [], passt: undefined };
  await steps.runAll(networkSteps, build);
  const { host, ports, warnings, passt } = build;
  if (passt === undefined) throw new RuntimeError("internal", "passt was not started");
  const guest = describeGuestNetwork(request.sandboxId, slotOf(build), host);
  return { nic: { nicId: "net0", macAddress: guest.macAddress, fd: passt.fd }, guest, ports, warnings: [...networkWarnings(host), ...warnings], exited: passt.process.exited };
}

async function claimAddresses(build: NetworkBuild): Promise<void> {
  const { slotFolder: folder, sandboxId, range } = build.request;
  build.slot = await build.ledger.plan((plan) => plan(addressSlotKind, { folder, sandboxId, range })).take(build.undo);
}

async function startPasstFor(build: NetworkBuild): Promise<void> {
  const { request, host, ledger, undo, ports, warnings } = build;
  build.passt = await ledger.plan((plan) => plan(passtKind, { ...request, slot: slotOf(build), host, ports, guarded: warnings.length === 0 })).take(undo);
}

function slotOf({ slot }: NetworkBuild): AddressSlot {
  if (slot === undefined) throw new RuntimeError("internal", "no addresses are claimed");
  return slot;
}

async function guardLoopback({ sandboxId, user }: NetworkRequest, host: HostNetwork, ledger: Ledger, undo: UndoStack): Promise<string[]> {
  const missing = user === undefined ? "the packet filter needs root"
    : await ledger.plan((plan) => plan(loopbackGuardKind, { sandboxId, uid: user.uid, nameservers: host.nameservers })).take(undo);
  return missing === undefined ? [] : [`a hostile guest could reach services on this host's loopback addresses (${missing})`];
}

interface PasstSpec extends Omit<NetworkRequest, "ports"> {
  readonly ports: readonly PublishedPort[];
  readonly slot: AddressSlot;
  readonly host: HostNetwork;
  readonly guarded: boolean;
}

interface PasstRecord extends TaggedProcessRecord {
  readonly kind: "passt";
  /** passt's own folder with its log. */
  readonly folder: string;
}

interface Passt {
  /** QEMU's end of the link. */
  readonly fd: number;
  readonly process: ManagedProcess;
}

/** The record of a sandbox's passt before it runs. */
export function planPasst({ sandboxId, sandboxFolder }: Pick<NetworkRequest, "sandboxId" | "sandboxFolder">): PasstRecord {
  return { kind: "passt", name: "passt", token: `${sandboxId}/passt`, folder: join(sandboxFolder, "passt"), identity: undefined };
}

/** Our ends of running links, to be closed when they are given back; a later process has none. */
const heldEnds = new Map<string, { readonly fd: number; readonly inode: number }>();

/** The passt process of a sandbox. */
export const passtKind: ResourceKind<PasstSpec, PasstRecord, Passt> = {
  kind: "passt",
  plan: planPasst,
  act: async (record, spec, note) => {
    mkdirSync(record.folder, { recursive: true, mode: 0o700 });
    if (spec.user !== undefined) chownSync(record.folder, spec.user.uid, spec.user.gid);
    const [fd, theirs] = socketPair();
    heldEnds.set(record.token, { fd, inode: fstatSync(fd).ino });
    const process = await spawnPasst(record, spec, theirs);
    note({ ...record, identity: process.identity });
    await untilReady(process, record.folder);
    return { fd, process };
  },
  release: async (record) => {
    closeHeldEnd(record.token);
    await endTaggedProcesses(record, endGraceMs);
    rmSync(record.folder, { recursive: true, force: true });
  },
};

async function spawnPasst(record: PasstRecord, spec: PasstSpec, theirs: number): Promise<ManagedProcess> {
  const log = openSync(join(record.folder, "start.log"), "w", 0o600);
  try {
    const args = passtArgs({ fd: childFd, slot: spec.slot, gatewayMacAddress: macAddress(spec.sandboxId, "gateway"), host: spec.host, ports: spec.ports, guarded: spec.guarded });
    // Started as that user rather than told to change to it: some versions of passt bind no port below 1024 after a change.
    const command = asUser(spec.user, spec.ports.some(({ hostPort }) => hostPort < 1024) ? ["net_bind_service"] : [], { file: "passt", args });
    return await startProcess(command.file, command.args, { env: taggedEnvironment(record.token), cwd: record.folder, stdio: ["ignore", log, log, theirs] });
  } finally {
    closeSync(log);
    closeSync(theirs);
  }
}

/** passt writes its pid file when every port is bound. */
async function untilReady(process: ManagedProcess, folder: string): Promise<void> {
  let exit: ProcessExit | undefined;
  void process.exited.then((value) => { exit = value; }); // never rejects
  await eventually("start passt", () => {
    if (exit !== undefined) throw passtFailure(exit, folder);
    return readOptional(join(folder, passtFiles.pid)) === "" ? undefined : true;
  }, { timeoutMs: startTimeoutMs, intervalMs: 5 });
}

function passtFailure(exit: ProcessExit, folder: string): RuntimeError {
  const text = [join(folder, "start.log"), join(folder, passtFiles.log)].map((path) => readOptional(path).slice(-maxLogBytes)).join("\n");
  // A pre-opened log line starts with seconds and a level; syslog is not reached where there is none.
  const lines = text.split("\n").map((line) => line.replace(/^\s*[\d.]+:?\s*/, "").trim()).filter((line) => line !== "" && !/syslog|^No external routable/.test(line));
  const unbound = /Failed to bind (?:any )?port.*?'?-[tu]\s+(\S+?):\d+'/.exec(text);
  if (unbound?.[1] !== undefined) return portTaken(`publish host port "${unbound[1].replace("/", ":")}"`);
  return new RuntimeError("internal", `passt: ${describeExit(exit)}: ${lines.slice(-3).join("; ")}`);
}

function closeHeldEnd(token: string): void {
  const held = heldEnds.get(token);
  heldEnds.delete(token);
  if (held === undefined) return;
  try {
    // Whoever took the descriptor may have closed it, and its number may be another file's by now.
    if (fstatSync(held.fd).ino === held.inode) closeSync(held.fd);
  } catch (error) {
    if (!isErrnoException(error, "EBADF")) throw error;
  }
}
