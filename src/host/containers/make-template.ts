import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { Logger } from "../../shared/base/log.ts";
import { flockExclusive } from "../../shared/linux/flock.ts";
import { createMemoryFile } from "../../shared/linux/memfd.ts";
import { drivers } from "../assemble.ts";
import { releaseHeld } from "../control/lost-sandbox.ts";
import { removeSandboxFolder } from "../control/sweep.ts";
import type { GuestImage } from "../guest-image/guest-image.ts";
import { savedMemoryName } from "../hypervisor/guest-memory.ts";
import { nothingPlugged, type Accelerator, type DevicesAtStart } from "../hypervisor/virtual-machine.ts";
import type { ContainerRequest } from "../sandbox/container.ts";
import type { ProcessEnd } from "../sandbox/process.ts";
import { bootMemoryBytes, type SandboxConfig } from "../sandbox/sandbox-config.ts";
import { Sandbox } from "../sandbox/sandbox.ts";
import { ensureImage } from "../storage/images/pull.ts";
import { ensureWritableLayer } from "../storage/writable-layer.ts";
import { type ContainerRecord, processUser } from "../store/container-store.ts";
import { Ledger } from "../store/ledger.ts";
import { sandboxPaths, templatePaths, type StateFolders } from "../store/paths.ts";
import { holdTemplateMemory, releaseTemplateMemory } from "../template/template-memory.ts";
import { pruneTemplates, publishTemplate, readTemplate, type PreparedContainer, type Template } from "../template/template-store.ts";
import { buildSpec } from "./build-spec.ts";
import { describeContainer } from "./create-container.ts";
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
/** How often the paths of a container and of an exec are taken before a VM is saved, and how often its guest is met: what V8 learns of them it learns from the first calls. */
const warmUpRounds = 3, rehearsals = 6;

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
        await sandbox.saveTemplate(stateFd, { timeoutMs: makeTimeoutMs, rehearsals });
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
  const container = await sandbox.createContainer({ ...containerRequest(record, layerPath, { stdin, holdOutput: true }), containerId: preparedId, readAhead: true }, { timeoutMs: makeTimeoutMs });
  return { containerId: preparedId, guestPid: container.init.guestPid, streamId: firstStreamId, layerDiskId: sandbox.diskId(layerPath), imageDigest: record.imageDigest, title: [record.image, ...record.entrypoint, ...record.command].join(" ") };
}

function containerRequest(record: ContainerRecord, layerPath: string, io: { readonly stdin: boolean; readonly holdOutput: boolean }): ContainerRequest {
  return {
    containerId: record.containerId, bundle: "", spec: buildSpec(record), user: processUser(record), createCwd: true, guestEtcFiles: true, init: record.init, forExecs: record.init === "idle",
    io: { terminal: record.terminal, log: undefined, ...io }, terminalSize: undefined,
    rootfs: [...record.rootfs.map(({ path, fsType }) => ({ type: fsType, source: path, options: ["ro"] })), { type: "ext4", source: layerPath, options: ["rw"] }],
  };
}

/**
 * Takes the whole path of containers, with and without a terminal, and of execs, so that whatever it reads
 * from the root image and compiles is in the memory that is saved. The image is the embedded one: what
 * is warm is the guest, not the image.
 */
async function warmUp(sandbox: Sandbox, folders: StateFolders, folder: string): Promise<void> {
  const image = await ensureImage(folders, "busybox");
  const layerPath = join(folder, "warm-up.ext4");
  await ensureWritableLayer(folders, layerPath);
  for (let round = 0; round < warmUpRounds; round++) {
    const terminal = round % 2 === 1;
    await warmUpRun(sandbox, containerRequest(describeContainer({ image: "busybox", command: ["true"], terminal }, image, "warm-up"), layerPath, { stdin: terminal, holdOutput: false }));
    await warmUpExecs(sandbox, containerRequest(describeContainer({ image: "busybox", command: [], init: "idle" }, image, "warm-up"), layerPath, { stdin: false, holdOutput: false }));
  }
  // What a sandbox is asked besides; it leaves nothing behind.
  await sandbox.agent.agent.createSandbox({}, { timeoutMs: makeTimeoutMs });
}

async function warmUpRun(sandbox: Sandbox, request: ContainerRequest): Promise<void> {
  const wait = { timeoutMs: makeTimeoutMs };
  const { init } = await sandbox.createContainer(request, wait);
  await sandbox.startContainer(request.containerId, wait);
  requireSuccess(await init.wait(wait));
  await sandbox.deleteContainer(request.containerId, wait);
}

async function warmUpExecs(sandbox: Sandbox, request: ContainerRequest): Promise<void> {
  const wait = { timeoutMs: makeTimeoutMs };
  const { containerId, spec } = request;
  const { init } = await sandbox.createContainer(request, wait);
  await sandbox.startContainer(containerId, wait);
  for (const ownCgroup of [true, false]) {
    const execId = `warm-up-${ownCgroup}`;
    const exec = sandbox.registerExec({ containerId, execId, process: { ...spec.process, args: ["true"] }, user: request.user, io: request.io, terminalSize: undefined, autoRemove: true, ownCgroup });
    await sandbox.startExec(containerId, execId, wait);
    requireSuccess(await exec.wait(wait));
  }
  await sandbox.kill(containerId, "", constants.signals.SIGKILL, true, wait);
  await init.wait(wait);
  await sandbox.deleteContainer(containerId, wait);
}

function requireSuccess({ exitStatus }: ProcessEnd): void {
  if (exitStatus !== 0) throw new RuntimeError("internal", `warm up: exit status ${exitStatus}`);
}
