import { create } from "@bufbuild/protobuf";
import { withUndo, type UndoStack } from "../../shared/base/undo.ts";
import { StorageSchema, type Storage } from "../../shared/protocol/gen/agent/agent_pb.ts";
import type { OciMount, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { nextState, requireState, type ContainerOperation, type ContainerState } from "./container-state.ts";
import type { DiskPool, HeldDisk } from "../device/disk-pool.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { SandboxShares } from "./drivers.ts";
import { guestPaths, hostMounts, toGuestSpec, type InitKind } from "./guest-spec.ts";
import { GuestProcess } from "./process.ts";
import { ProcessIo, type ProcessIoOptions } from "./process-io.ts";
import type { Steps } from "./steps.ts";

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
  readonly guestEtcFiles: boolean;
  /** A first process of ours before the spec's, or instead of it; default: none. */
  readonly init?: InitKind;
  readonly io: ProcessIoOptions;
  readonly terminalSize: { readonly rows: number; readonly columns: number } | undefined;
}

/** What a container uses of its sandbox. */
export interface ContainerContext {
  readonly connection: AgentClient;
  readonly disks: DiskPool;
  /** Undefined when the sandbox was made without shares. */
  readonly shares: SandboxShares | undefined;
  nextStreamId(): number;
}

/** One container: its processes, and what it holds of the sandbox. */
export class Container {
  readonly containerId: string;
  readonly bundle: string;
  readonly spec: RunnableSpec;
  readonly init: GuestProcess;
  readonly execs = new Map<string, GuestProcess>();
  #state: ContainerState = "created";
  /** Gives back disks and shares; runs once, when the container is deleted. */
  readonly #teardown: UndoStack;

  private constructor(request: ContainerRequest, init: GuestProcess, teardown: UndoStack) {
    this.containerId = request.containerId;
    this.bundle = request.bundle;
    this.spec = request.spec;
    this.init = init;
    this.#teardown = teardown;
  }

  /** Plugs and shares what the container needs and makes it in the guest; its process waits for start. */
  static async create(request: ContainerRequest, context: ContainerContext, steps: Steps): Promise<Container> {
    return withUndo(async (undo) => {
      const disks = await steps.run("plug disks", () => plugDisks(request, context, undo, steps));
      const sources = await steps.run("share host folders", () => shareHostMounts(request, context, undo));
      const rootShare = await steps.run("share root file system", () => shareRootfs(request, context, undo));
      const streamId = context.nextStreamId();
      const io = new ProcessIo(context.connection.streams(streamId), request.io);
      undo.add("stdio", () => io.close());
      const init = new GuestProcess({ containerId: request.containerId, execId: "", terminal: request.io.terminal }, io);
      const { storages, rootPath } = rootStorages(request.containerId, disks, rootShare);
      const spec = toGuestSpec(request.spec, { rootPath, guestSources: sources, etcFiles: request.guestEtcFiles, init: request.init ?? "none" });
      const { pid } = await steps.run("create container in the guest", () => context.connection.guest.createContainer({
        containerId: request.containerId,
        specJson: Buffer.from(JSON.stringify(spec)),
        storages,
        stdio: { streamId, terminal: request.io.terminal, stdin: request.io.stdin, ...(request.terminalSize && { terminalSize: { ...request.terminalSize } }) },
        user: request.user,
        createCwd: request.createCwd,
      }, steps.wait));
      init.created(pid);
      return new Container(request, init, undo.move());
    });
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

interface RootDisks {
  readonly lower: readonly { readonly disk: HeldDisk; readonly fsType: string }[];
  readonly upper: HeldDisk | undefined;
}

const imageFileSystems = ["erofs", "squashfs"];

async function plugDisks(request: ContainerRequest, context: ContainerContext, undo: UndoStack, steps: Steps): Promise<RootDisks> {
  const take = async (mount: RootfsMount, readOnly: boolean): Promise<HeldDisk> => {
    const disk = await context.disks.take({ path: mount.source, format: "raw", readOnly }, steps.wait);
    undo.add(`disk "${mount.source}"`, () => context.disks.release(mount.source));
    return disk;
  };
  const images = request.rootfs.filter(({ type }) => imageFileSystems.includes(type));
  const writable = request.rootfs.find(({ type }) => type === "ext4");
  // Side by side: each plug waits for the guest's bus scan.
  const [upper, ...lower] = await Promise.all([
    writable === undefined ? undefined : take(writable, false),
    ...images.map(async (mount) => ({ disk: await take(mount, true), fsType: mount.type })),
  ]);
  return { lower, upper };
}

async function shareHostMounts(request: ContainerRequest, context: ContainerContext, undo: UndoStack): Promise<Map<OciMount, string>> {
  const sources = new Map<OciMount, string>();
  for (const [index, { mount, source, readOnly }] of hostMounts(request.spec).entries()) {
    sources.set(mount, await requireShares(context, source).add(`${request.containerId}-${index}`, source, readOnly, undo));
  }
  return sources;
}

/** A root file system that is a folder of the host goes over the share. Undefined when it is on disks. */
async function shareRootfs(request: ContainerRequest, context: ContainerContext, undo: UndoStack): Promise<string | undefined> {
  const folder = request.rootfs.find(({ type }) => type === "bind");
  if (folder === undefined) return undefined;
  return requireShares(context, folder.source).add(`${request.containerId}-rootfs`, folder.source, folder.options.includes("ro"), undo);
}

function requireShares(context: ContainerContext, source: string): SandboxShares {
  if (context.shares === undefined) throw new RuntimeError("failed_precondition", `share "${source}": this sandbox was made without shares, and a VM's kind of memory cannot change later`, { reason: "no_shares" });
  return context.shares;
}

/** The guest's mounts for a root file system: images below, the writable layer on top, or one share. */
function rootStorages(containerId: string, disks: RootDisks, rootShare: string | undefined): { storages: Storage[]; rootPath: string } {
  if (rootShare !== undefined) return { storages: [], rootPath: rootShare };
  const folder = guestPaths.container(containerId);
  const scsi = (disk: HeldDisk, fsType: string, mountPoint: string, options: string[]): Storage => create(StorageSchema, { driver: "scsi", source: disk.scsiAddress, fstype: fsType, mountPoint, options });
  const lower = disks.lower.map(({ disk, fsType }) => scsi(disk, fsType, guestPaths.image(disk.diskId), ["ro"]));
  const rootPath = `${folder}/rootfs`;
  if (disks.upper === undefined) {
    const [only] = lower;
    if (only === undefined || lower.length > 1) throw new RuntimeError("invalid_argument", `container "${containerId}": its root file system has ${lower.length} images and no writable layer`);
    return { storages: [only], rootPath: only.mountPoint };
  }
  const upper = scsi(disks.upper, "ext4", `${folder}/rw`, ["rw", "noatime"]);
  if (lower.length === 0) return { storages: [upper], rootPath: upper.mountPoint };
  const overlay = create(StorageSchema, {
    driver: "overlayfs",
    source: "overlay",
    fstype: "overlay",
    mountPoint: rootPath,
    options: [`lowerdir=${lower.map(({ mountPoint }) => mountPoint).join(":")}`, `upperdir=${folder}/rw/upper`, `workdir=${folder}/rw/work`],
  });
  return { storages: [...lower, upper, overlay], rootPath };
}
