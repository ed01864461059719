import { createHash, randomBytes } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import type { OciProcess, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { drivers } from "../assemble.ts";
import { releaseHeld } from "../control/lost-sandbox.ts";
import { removeSandboxFolder } from "../control/sweep.ts";
import type { GuestImage } from "../guest-image/guest-image.ts";
import { savedMemoryName } from "../hypervisor/guest-memory.ts";
import { nothingPlugged, type Accelerator, type DevicesAtStart } from "../hypervisor/virtual-machine.ts";
import type { ProcessIoOptions } from "../sandbox/process-io.ts";
import { bootMemoryBytes, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { Sandbox } from "../sandbox/sandbox.ts";
import { ensureImage } from "../storage/images/pull.ts";
import { ensureWritableLayer } from "../storage/writable-layer.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import { Ledger } from "../store/ledger.ts";
import { sandboxPaths, templatePaths, type StateFolders } from "../store/paths.ts";
import { holdTemplateMemory, releaseTemplateMemory } from "../template/template-memory.ts";
import { pruneTemplates, publishTemplate, readTemplate, type PreparedContainer, type Template } from "../template/template-store.ts";
import { buildSpec } from "./build-spec.ts";
import { removeOldGuestImages } from "./old-guest-images.ts";

/** What to make a template of. */
export interface TemplateRequest {
  readonly folders: StateFolders;
  readonly key: string;
  readonly guestImage: GuestImage;
  readonly accelerator: Accelerator;
  /** A container to make in the VM before it is saved; the VM itself comes from a template without one. */
  readonly prepare?: { readonly baseKey: string; readonly record: ContainerRecord; readonly stdin: boolean };
}

/** Name of a prepared container in the saved guest. */
const preparedId = "prepared";

/** A cold boot takes 5 to 20 s, warming up as long again. */
const makeTimeoutMs = 180_000;
/** A sandbox numbers its streams from 1 on. */
const firstStreamId = 1;
/** In the warm-up container. */
const execRounds = 2;

/**
 * Boots a VM, warms it up and saves it. Returns undefined when another process is making the same
 * template. Leaves nothing but the template, whole, or nothing at all.
 */
export async function makeTemplate(request: TemplateRequest, log: Logger, onProgress: (what: string) => void): Promise<Template | undefined> {
  const { folders, key } = request;
  const { makerLock } = templatePaths(folders, key);
  mkdirSync(join(makerLock, ".."), { recursive: true, mode: 0o700 });
  const lock = flockExclusive(makerLock);
  if (lock === undefined) return undefined;
  try {
    return readTemplate(folders, key) ?? await make(request, log, onProgress);
  } finally {
    closeSync(lock);
  }
}

async function make(request: TemplateRequest, log: Logger, onProgress: (what: string) => void): Promise<Template> {
  const { folders, key, guestImage, accelerator } = request;
  const began = performance.now();
  const config = sandboxConfig(request);
  const paths = sandboxPaths(folders, config.sandboxId);
  // We hold the lock: what is there is of a maker that died.
  if (existsSync(paths.folder)) await releaseHeld(folders, config.sandboxId);
  mkdirSync(paths.folder, { recursive: true, mode: 0o711 });
  const memoryFd = createMemoryFile(savedMemoryName, bootMemoryBytes);
  try {
    onProgress("booting");
    const sandbox = await Sandbox.create(config, { drivers, ledger: Ledger.open(paths.ledger), log, memoryFd, onEvent: () => undefined, recordEnd: () => undefined }, { timeoutMs: makeTimeoutMs });
    const statePath = join(paths.folder, "state"), layerPath = join(paths.folder, "layer.ext4");
    let prepared: PreparedContainer | undefined;
    let plugged = nothingPlugged;
    try {
      if (request.prepare === undefined) {
        onProgress("warming up");
        await warmUp(sandbox, folders, paths.folder);
      } else {
        onProgress("making the container");
        prepared = await prepareContainer(sandbox, request.prepare, folders, layerPath);
      }
      onProgress("saving");
      plugged = await devicesOf(sandbox, [...request.prepare?.record.rootfs.map(({ path }) => path) ?? [], layerPath]);
      const stateFd = openSync(statePath, "wx", 0o600);
      try {
        await sandbox.saveTemplate(stateFd, { timeoutMs: makeTimeoutMs });
      } finally {
        closeSync(stateFd);
      }
    } finally {
      await sandbox.stop(0);
    }
    // Before anybody can find the template: then nobody reads it from disk, and what comes with it is all there.
    await holdTemplateMemory(folders, key, memoryFd);
    const template = await publishTemplate(folders, {
      key, accelerator, kernelRelease: guestImage.kernelRelease, guestImageId: guestImage.id, memoryBytes: bootMemoryBytes, madeInMs: Math.round(performance.now() - began), memoryFd, statePath,
      plugged, ...(prepared !== undefined && { prepared, layerPath }),
    }).catch(async (error: unknown) => {
      await releaseTemplateMemory(folders, key);
      throw error;
    });
    for (const gone of pruneTemplates(folders)) log.info("template removed, it was not used for long", { template: gone });
    removeOldGuestImages(folders, log);
    return template;
  } finally {
    closeSync(memoryFd);
    removeSandboxFolder(paths.folder);
  }
}

function sandboxConfig({ folders, key, guestImage, accelerator, prepare }: TemplateRequest): SandboxConfig {
  return {
    version: 1, sandboxId: makerSandboxId(folders, key), folders, hostname: "casemate", accelerator,
    kernelPath: guestImage.kernelPath, initramfsPath: guestImage.initramfsPath, rootImagePath: guestImage.rootImagePath,
    memoryBytes: bootMemoryBytes, vcpuCount: 1, shares: false, network: "none", ports: [], pristine: true, template: prepare?.baseKey, debug: false,
  };
}

/** The same each time, so that the next maker finds what a killed one left; another one for other folders, whose makers work on the same template at the same time. */
function makerSandboxId(folders: StateFolders, key: string): string {
  return `template-${createHash("sha256").update(`${folders.run}\0${key}`).digest("hex").slice(0, 12)}`;
}

/** What the VM has plugged; the disks are those of these files. */
async function devicesOf(sandbox: Sandbox, paths: readonly string[]): Promise<DevicesAtStart> {
  const plugged = await sandbox.vm.describePlugged();
  const pathOf = new Map(paths.map((path) => [sandbox.diskId(path), path]));
  return { ...plugged, disks: plugged.disks.flatMap((disk) => { const path = pathOf.get(disk.diskId); return path === undefined ? [] : [{ ...disk, path }]; }) };
}

/** Makes the container that waits in the template for its start. */
async function prepareContainer(sandbox: Sandbox, { record, stdin }: NonNullable<TemplateRequest["prepare"]>, folders: StateFolders, layerPath: string): Promise<PreparedContainer> {
  await ensureWritableLayer(folders, layerPath);
  const container = await sandbox.createContainer({
    containerId: preparedId, bundle: "", spec: buildSpec(record), user: record.user, createCwd: true, guestEtcFiles: true, init: record.init, forExecs: record.init === "idle",
    io: { terminal: record.terminal, stdin, log: undefined, holdOutput: true }, terminalSize: undefined,
    rootfs: [...record.rootfs.map(({ path, fsType }) => ({ type: fsType, source: path, options: ["ro"] })), { type: "ext4", source: layerPath, options: ["rw"] }],
  }, { timeoutMs: makeTimeoutMs });
  return { containerId: preparedId, guestPid: container.init.guestPid, streamId: firstStreamId, layerDiskId: sandbox.diskId(layerPath), imageDigest: record.imageDigest, title: [record.image, ...record.entrypoint, ...record.command].join(" ") };
}

/**
 * Takes the whole path of a container once (plug, mount, crun's create, start, exec, delete), so that
 * whatever it reads from the root image and compiles is in the memory that is saved. The image is the
 * embedded one: what is warm is the guest, not the image.
 */
async function warmUp(sandbox: Sandbox, folders: StateFolders, folder: string): Promise<void> {
  const image = await ensureImage(folders, "busybox");
  const disk = join(folder, "warm-up.ext4");
  await ensureWritableLayer(folders, disk);
  const wait = { timeoutMs: makeTimeoutMs };
  const containerId = "warm-up";
  const io: ProcessIoOptions = { terminal: false, stdin: false, log: undefined, holdOutput: false };
  const container = await sandbox.createContainer({
    containerId, bundle: folder, spec: warmUpSpec(), user: "", createCwd: true, guestEtcFiles: true, forExecs: true, io, terminalSize: undefined,
    rootfs: [{ type: image.rootfs.fsType, source: image.rootfs.path, options: ["ro"] }, { type: "ext4", source: disk, options: ["rw"] }],
  }, wait);
  await sandbox.startContainer(containerId, wait);
  for (let round = 0; round < execRounds; round++) {
    const execId = `warm-up-${round}`;
    const exec = sandbox.registerExec({ containerId, execId, process: processOf(["true"]), user: "", io, terminalSize: undefined, autoRemove: true, ownCgroup: round === 0 });
    await sandbox.startExec(containerId, execId, wait);
    const { exitStatus } = await exec.wait(wait);
    if (exitStatus !== 0) throw new RuntimeError("internal", `warm up: exit status ${exitStatus}`);
  }
  await sandbox.kill(containerId, "", 9, true, wait);
  await container.init.wait(wait);
  await sandbox.deleteContainer(containerId, wait);
  // What every clone is asked first; it leaves no identity behind.
  await sandbox.agent.guest.refresh({ entropy: randomBytes(64), unixNanos: BigInt(Date.now()) * 1_000_000n }, wait);
  await sandbox.agent.agent.createSandbox({}, wait);
}

function processOf(args: string[]): OciProcess {
  return { user: { uid: 0, gid: 0 }, args, cwd: "/", env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] };
}

function warmUpSpec(): RunnableSpec {
  return {
    ociVersion: "1.0.2",
    process: processOf(["sleep", "3600"]),
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc" },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755"] },
      { destination: "/dev/pts", type: "devpts", source: "devpts", options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
      { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", "ro"] },
      { destination: "/sys/fs/cgroup", type: "cgroup", source: "cgroup", options: ["nosuid", "noexec", "nodev", "ro"] },
    ],
    linux: { namespaces: ["pid", "ipc", "uts", "mount", "cgroup"].map((type) => ({ type })) },
  };
}
