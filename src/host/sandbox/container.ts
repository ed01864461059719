import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Step, Steps } from "../../shared/base/steps.ts";
import type { WaitOptions } from "../../shared/base/deadline.ts";
import { withUndo, type UndoStack } from "../../shared/base/undo.ts";
import type { StorageSchema } from "../../shared/protocol/gen/agent/agent_pb.ts";
import type { OciMount, OciResources, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { nextState, requireState, type ContainerOperation, type ContainerState } from "./container-state.ts";
import type { DiskPool, HeldDisk } from "../device/disk-pool.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { SandboxShares } from "./drivers.ts";
import type { PreparedClone } from "./sandbox-config.ts";
import type { SandboxRoom } from "./sandbox-room.ts";
import { guestPaths, hostMounts, sharesPid, toGuestSpec, type InitKind } from "./guest-spec.ts";
import { GuestProcess } from "./process.ts";
import { ProcessIo, saveIo, type ProcessIoOptions } from "./process-io.ts";
import type { Ledger } from "../store/ledger.ts";
import type { ContainerBacking, SavedContainer } from "../store/saved-records.ts";

/** One layer of a container's root file system, as containerd's Task API describes mounts. */
export interface RootfsMount {
  /** `erofs`, `squashfs` (read-only images, lowest last), `ext4` (the writable layer), `bind` (a folder of the host). */
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** What a container is made of. */
export interface ContainerRequest {
  readonly containerId: string;
  readonly bundle: string;
  readonly spec: RunnableSpec;
  readonly rootfs: readonly RootfsMount[];
  /** docker's USER syntax, resolved in the guest; empty: what the spec says. */
  readonly user: string;
  readonly createCwd: boolean;
  /** It is made to be saved and used by execs, and its process does nothing: what can be is done ahead. */
  readonly forExecs?: boolean;
  /** It is made to be saved before its start: what that reads is read ahead. */
  readonly readAhead?: boolean;
  readonly guestEtcFiles: boolean;
  /** A first process of ours before the spec's, or instead of it; default: none. */
  readonly init?: InitKind;
  readonly io: ProcessIoOptions;
  readonly terminalSize: { readonly rows: number; readonly columns: number } | undefined;
  /** What the owner does with it beyond running it; default: nothing. */
  readonly backing?: ContainerBacking;
}

/** What a container uses of its sandbox. */
export interface ContainerContext {
  readonly connection: AgentClient;
  readonly ledger: Ledger;
  readonly room: SandboxRoom;
  readonly disks: DiskPool;
  /** Undefined when the sandbox was made without shares. */
  readonly shares: SandboxShares | undefined;
  nextStreamId(): number;
  /** Where in the guest the PID namespace is that containers share; undefined: the next one makes it. */
  sharedPidNamespace(): string | undefined;
  /** Removes the container from the guest, whatever it is doing there; "not there" is success. */
  removeFromGuest(containerId: string): Promise<void>;
}

/** One container: its processes, and what it holds of the sandbox. */
export class Container {
  readonly containerId: string;
  readonly bundle: string;
  readonly backing: ContainerBacking;
  readonly init: GuestProcess;
  readonly execs = new Map<string, GuestProcess>();
  /** Its limits now: those of the spec, and what was changed since. */
  resources: OciResources;
  #state: ContainerState = "created";
  /** Gives back disks and shares; runs once, when the container is deleted. */
  readonly #teardown: UndoStack;

  private constructor(saved: Pick<SavedContainer, "name" | "bundle" | "backing" | "resources">, init: GuestProcess, teardown: UndoStack) {
    this.containerId = saved.name;
    this.bundle = saved.bundle;
    this.backing = saved.backing;
    this.init = init;
    this.resources = saved.resources;
    this.#teardown = teardown;
  }

  /**
   * Plugs and shares what the container needs and makes it in the guest; its process waits for start.
   * `prepared`: it waits there already, with everything plugged.
   */
  static async create(request: ContainerRequest, context: ContainerContext, steps: Steps, prepared?: PreparedProcess): Promise<Container> {
    return withUndo(async (undo) => {
      const build = new ContainerBuild(request, context, undo, prepared);
      await steps.runAll(createContainerSteps, build);
      return new Container(build.saved, build.init, undo.move());
    });
  }

  /** A container from the time of an earlier owner; `teardown` gives back what it holds. */
  static restore(saved: SavedContainer, init: GuestProcess, state: ContainerState, teardown: UndoStack): Container {
    const container = new Container(saved, init, teardown);
    container.#state = state;
    return container;
  }

  get state(): ContainerState { return this.#state; }

  require(operation: ContainerOperation): void {
    requireState(this.containerId, operation, this.#state);
  }

  moveTo(state: ContainerState): void {
    this.#state = nextState(this.containerId, this.#state, state);
  }

  /** @throws RuntimeError `not_found` (reason `process_not_found`). */
  process(execId: string): GuestProcess {
    const process = execId === "" ? this.init : this.execs.get(execId);
    if (process === undefined) throw new RuntimeError("not_found", `process "${execId}" does not exist in container "${this.containerId}"`, { reason: "process_not_found" });
    return process;
  }

  get processes(): GuestProcess[] {
    return [this.init, ...this.execs.values()];
  }

  /** Gives back what the container held of the sandbox. Returns failures; never throws. */
  async release(): Promise<unknown[]> {
    return this.#teardown.run();
  }
}

/** What waits in the guest of a container that was made before the VM was saved. */
export type PreparedProcess = Pick<PreparedClone, "streamId" | "guestPid">;

interface RootDisks {
  readonly lower: readonly { readonly disk: HeldDisk; readonly fsType: string }[];
  readonly upper: HeldDisk | undefined;
}

/** What the steps of a container's creation make, each for those after it. */
export class ContainerBuild {
  readonly request: ContainerRequest;
  readonly context: ContainerContext;
  readonly undo: UndoStack;
  readonly prepared: PreparedProcess | undefined;
  disks: RootDisks = { lower: [], upper: undefined };
  sources = new Map<OciMount, string>();
  rootShare: string | undefined;
  /** What a new owner would need of it; on disk before anything else is done. */
  readonly saved: SavedContainer;
  #init: GuestProcess | undefined;

  constructor(request: ContainerRequest, context: ContainerContext, undo: UndoStack, prepared: PreparedProcess | undefined) {
    this.request = request;
    this.context = context;
    this.undo = undo;
    this.prepared = prepared;
    this.saved = planContainer(request, context, prepared?.streamId ?? context.nextStreamId());
  }

  get init(): GuestProcess {
    if (this.#init === undefined) throw new RuntimeError("internal", "a step needs what a later one makes");
    return this.#init;
  }
  set init(init: GuestProcess) { this.#init = init; }
}

/** How a container comes to be in its sandbox; the reverse is its end. */
export const createContainerSteps: readonly Step<ContainerBuild>[] = [
  { name: "write the plan", run: writePlan },
  { name: "make room", run: ({ request: { containerId, spec }, context, undo }, wait) => context.room.claim(containerId, spec.linux?.resources ?? {}, undo, wait) },
  { name: "plug disks", run: async (build, wait) => { build.disks = await plugDisks(build, wait); } },
  { name: "share host folders", run: async (build) => { build.sources = await shareHostMounts(build); } },
  { name: "share root file system", run: async (build) => { build.rootShare = await shareRootfs(build); } },
  { name: "create container in the guest", run: (build, wait) => (build.prepared === undefined ? createInGuest(build, wait) : takeOver(build, build.prepared, wait)) },
];

const imageFileSystems = ["erofs", "squashfs"];
const noBacking: ContainerBacking = { containerFolder: "", autoRemove: false, lastOneOut: false };

function planContainer(request: ContainerRequest, context: ContainerContext, streamId: number): SavedContainer {
  return {
    kind: "container",
    name: request.containerId,
    bundle: request.bundle,
    streamId,
    io: saveIo(request.io),
    disks: request.rootfs.filter(({ type }) => type !== "bind").map(({ source: path }) => ({ path, diskId: context.disks.plan(path) })),
    shares: shareNames(request),
    resources: request.spec.linux?.resources ?? {},
    backing: request.backing ?? noBacking,
  };
}

/** What of the host a container is to be shown, by the names in the share. */
export function shareNames(request: ContainerRequest): string[] {
  return [...hostMounts(request.spec).map((_mount, index) => mountShareName(request.containerId, index)), ...(rootFolder(request) === undefined ? [] : [rootShareName(request.containerId)])];
}

function writePlan({ saved, context, undo }: ContainerBuild): void {
  const records = [saved, ...saved.shares.map((name) => requireShares(context, name).plan(name))];
  undo.add("record", () => context.ledger.strike(...records));
  context.ledger.reserve(records);
}

async function plugDisks({ request, context, undo }: ContainerBuild, wait: WaitOptions): Promise<RootDisks> {
  const take = async (mount: RootfsMount, readOnly: boolean): Promise<HeldDisk> => {
    const disk = await context.disks.take({ path: mount.source, format: "raw", readOnly }, wait);
    undo.add(`disk "${mount.source}"`, () => context.disks.release(mount.source));
    return disk;
  };
  const images = request.rootfs.filter(({ type }) => imageFileSystems.includes(type));
  const writable = request.rootfs.find(({ type }) => type === "ext4");
  // Side by side: each plug waits for the guest's bus scan. All are waited for, so that the undo knows of each.
  const taken = await Promise.allSettled([...images.map((mount) => take(mount, true)), ...(writable === undefined ? [] : [take(writable, false)])]);
  const failed = taken.find((result) => result.status === "rejected");
  if (failed !== undefined) throw RuntimeError.wrap(failed.reason, "");
  const disks = taken.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  return { lower: images.flatMap((mount, index) => (disks[index] === undefined ? [] : [{ disk: disks[index], fsType: mount.type }])), upper: writable === undefined ? undefined : disks.at(-1) };
}

async function shareHostMounts({ request, context, undo }: ContainerBuild): Promise<Map<OciMount, string>> {
  const sources = new Map<OciMount, string>();
  for (const [index, { mount, source, readOnly }] of hostMounts(request.spec).entries()) {
    sources.set(mount, await requireShares(context, source).add(mountShareName(request.containerId, index), source, readOnly, undo));
  }
  return sources;
}

/** A root file system that is a folder of the host goes over the share. Undefined when it is on disks. */
async function shareRootfs({ request, context, undo }: ContainerBuild): Promise<string | undefined> {
  const folder = rootFolder(request);
  if (folder === undefined) return undefined;
  return requireShares(context, folder.source).add(rootShareName(request.containerId), folder.source, folder.options.includes("ro"), undo);
}

function rootFolder(request: ContainerRequest): RootfsMount | undefined {
  return request.rootfs.find(({ type }) => type === "bind");
}

function mountShareName(containerId: string, index: number): string {
  return `${containerId}-${index}`;
}

function rootShareName(containerId: string): string {
  return `${containerId}-rootfs`;
}

async function createInGuest(build: ContainerBuild, wait: WaitOptions): Promise<void> {
  const { request, context, undo, saved: { streamId } } = build;
  const { containerId, io: { terminal, stdin }, terminalSize } = request;
  openInit(build);
  const { storages, rootPath } = rootStorages(containerId, build.disks, build.rootShare);
  const spec = toGuestSpec(request.spec, { rootPath, guestSources: build.sources, etcFiles: request.guestEtcFiles, init: request.init ?? "none", ...(sharesPid(request.spec) && { pidNamespace: context.sharedPidNamespace() }) });
  undo.add("container in the guest", () => context.removeFromGuest(containerId));
  const { pid } = await context.connection.guest.createContainer({
    containerId,
    specJson: Buffer.from(JSON.stringify(spec)),
    storages,
    stdio: { streamId, terminal, stdin, ...(terminalSize && { terminalSize: { ...terminalSize } }) },
    user: request.user,
    createCwd: request.createCwd,
    forExecs: request.forExecs ?? false,
    readAhead: request.readAhead ?? false,
  }, wait);
  build.init.created(pid);
}

/** The process of a container that was made before the VM was saved. */
async function takeOver(build: ContainerBuild, prepared: PreparedProcess, wait: WaitOptions): Promise<void> {
  const { request: { containerId, io: { terminal }, terminalSize }, context, undo } = build;
  openInit(build);
  undo.add("container in the guest", () => context.removeFromGuest(containerId));
  build.init.created(prepared.guestPid);
  if (terminal && terminalSize !== undefined) await context.connection.agent.ttyWinResize({ containerId, row: terminalSize.rows, column: terminalSize.columns }, wait);
}

function openInit(build: ContainerBuild): void {
  const { request: { containerId, io: options }, context, undo, saved: { streamId } } = build;
  const io = new ProcessIo(context.connection.streams(streamId), options);
  undo.add("stdio", () => io.close());
  build.init = new GuestProcess({ containerId, execId: "", terminal: options.terminal }, io);
}

function requireShares(context: ContainerContext, source: string): SandboxShares {
  if (context.shares === undefined) throw new RuntimeError("failed_precondition", `share "${source}": this sandbox was made without shares, and a VM's kind of memory cannot change later`, { reason: "no_shares", hint: "copy the files with casemate cp; a copy of a pod shows folders again when it was stopped and started" });
  return context.shares;
}

/** A mount in the guest, as the protocol has it. */
type Storage = MessageInitShape<typeof StorageSchema> & { readonly mountPoint: string };

/** The guest's mounts for a root file system: images below, the writable layer on top, or one share. */
function rootStorages(containerId: string, disks: RootDisks, rootShare: string | undefined): { storages: Storage[]; rootPath: string } {
  if (rootShare !== undefined) return { storages: [], rootPath: rootShare };
  const folder = guestPaths.container(containerId);
  const scsi = (disk: HeldDisk, fsType: string, mountPoint: string, options: string[]): Storage => ({ driver: "scsi", driverOptions: [`serial=${disk.diskId}`], source: disk.scsiAddress, fstype: fsType, mountPoint, options });
  const lower = disks.lower.map(({ disk, fsType }) => scsi(disk, fsType, guestPaths.image(disk.diskId), ["ro"]));
  const rootPath = `${folder}/rootfs`;
  if (disks.upper === undefined) {
    const [only] = lower;
    if (only === undefined || lower.length > 1) throw new RuntimeError("invalid_argument", `container "${containerId}": its root file system has ${lower.length} images and no writable layer`);
    return { storages: [only], rootPath: only.mountPoint };
  }
  const upper = scsi(disks.upper, "ext4", `${folder}/rw`, ["rw", "noatime"]);
  if (lower.length === 0) return { storages: [upper], rootPath: upper.mountPoint };
  const overlay: Storage = {
    driver: "overlayfs",
    source: "overlay",
    fstype: "overlay",
    mountPoint: rootPath,
    options: [`lowerdir=${lower.map(({ mountPoint }) => mountPoint).join(":")}`, `upperdir=${folder}/rw/upper`, `workdir=${folder}/rw/work`],
  };
  return { storages: [...lower, upper, overlay], rootPath };
}
