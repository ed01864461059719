// The heavy half of the library, loaded by the first call that needs it.
import { resolve } from "node:path";
import { createContainer } from "../host/containers/create-container.ts";
import type { ContainerOptions } from "../host/containers/container-options.ts";
import { requireRunning } from "../host/containers/end-container.ts";
import { prepareHost } from "../host/containers/prepare-host.ts";
import { prepareContainer } from "../host/containers/start-container.ts";
import { parsePublish } from "../host/network/publish.ts";
import { bootMemoryBytes } from "../host/sandbox/sandbox-config.ts";
import { ensureImage } from "../host/storage/images/pull.ts";
import { parseVolume } from "../host/storage/shares/parse-volume.ts";
import { removeWithVolumes } from "../host/store/anonymous-volumes.ts";
import { ContainerStore, type ContainerRecord } from "../host/store/container-store.ts";
import { stateFolders, type StateFolders } from "../host/store/paths.ts";
import { SandboxConnection, commandLine } from "./connection.ts";
import type { LoadOptions, SandboxOptions } from "./options.ts";
import { StartQueue } from "./start-queue.ts";

export { describeSandbox, listSandboxes } from "./sandbox-info.ts";
export { readLogs } from "./logs.ts";
export { killSandbox, stopSandbox } from "./end-sandbox.ts";
export { toStats } from "./stats.ts";
export { dropSnapshot, forkSandboxes, restoreSandbox, snapshotInfos, snapshotSandbox } from "./snapshots.ts";

const defaultStartTimeoutMs = 180_000;
const mebibyte = 1024 * 1024;
/** Memory of the VMM and the owner, and what the guest has touched when a container has started. */
const startBytes = bootMemoryBytes + 64 * mebibyte;
/** One for the program: all its sandboxes share the machine. */
const queue = new StartQueue();

/** Makes a sandbox and starts it; when a step fails nothing is left. */
export async function createSandbox(options: SandboxOptions): Promise<SandboxConnection> {
  const folders = stateFolders(options.root);
  const onProgress = changesOnly(options.onProgress);
  const wait = options.signal === undefined ? {} : { signal: options.signal };
  const wanted = toContainerOptions(options, folders);
  return queue.run(Math.max(startBytes, (options.memoryMiB ?? 0) * mebibyte), { signal: options.signal, onProgress }, async () => {
    const image = await ensureImage(folders, options.image, { ...wait, onProgress });
    const record = createContainer(folders, wanted, image);
    try {
      return await start(folders, record, options, onProgress);
    } catch (error) {
      removeWithVolumes(new ContainerStore(folders), record);
      throw error;
    }
  });
}

async function start(folders: StateFolders, record: ContainerRecord, options: SandboxOptions, onProgress: (what: string) => void): Promise<SandboxConnection> {
  const { setup } = await prepareHost(folders, { debug: false, coldBoot: options.coldBoot ?? false, onProgress });
  const { timeoutMs = 0, idleTimeoutMs = 0, startTimeoutMs = defaultStartTimeoutMs, signal } = options;
  const wait = { timeoutMs: startTimeoutMs, ...(signal && { signal }) };
  onProgress("starting the sandbox");
  let connection: SandboxConnection | undefined;
  try {
    const { client } = await prepareContainer(record, setup, { stdin: false }, {
      ...wait,
      // Before anything of the user's runs: whatever happens to this program from here on, the sandbox has a keeper.
      onConnected: async () => {
        connection = await SandboxConnection.open(folders, record, { lease: !(options.detached ?? false) });
        await connection.limit({ totalMs: timeoutMs, idleMs: idleTimeoutMs });
      },
    });
    try {
      await client.task.start({ id: record.containerId }, wait);
    } catch (error) {
      await client.owner.stop({ timeoutMs: 0 }).catch(() => undefined); // the first error is what the caller needs
      throw error;
    } finally {
      client.close();
    }
  } catch (error) {
    connection?.close();
    throw error;
  }
  return connection as SandboxConnection; // prepareContainer has called onConnected
}

/** Connects to a sandbox that runs already. */
export async function loadSandbox(nameOrId: string, options: LoadOptions): Promise<SandboxConnection> {
  const folders = stateFolders(options.root);
  const record = new ContainerStore(folders).find(nameOrId);
  requireRunning(folders, record, "load");
  const { lease = false, signal, timeoutMs } = options;
  return SandboxConnection.open(folders, record, { lease, signal, timeoutMs });
}

/** Long steps say again and again what they are doing. */
function changesOnly(report: ((what: string) => void) | undefined): (what: string) => void {
  let last = "";
  return (what) => {
    if (what !== last) report?.(what);
    last = what;
  };
}

function toContainerOptions(options: SandboxOptions, folders: StateFolders): ContainerOptions {
  const { image, command, name, env = {}, user, cwd, hostname, memoryMiB, cpus, network, ports = [], volumes = [], labels = {}, readOnly, privileged, coldBoot, cloneCommand } = options;
  return {
    image,
    // An entrypoint of the image is for its own command; here the caller says what runs, or nothing does.
    command: command === undefined ? [] : commandLine(command),
    entrypoint: "",
    init: command === undefined ? "idle" : "init",
    autoRemove: true,
    env: Object.entries(env).map(([variable, value]) => `${variable}=${value}`),
    ports: ports.flatMap((port) => (typeof port === "number" ? parsePublish(`127.0.0.1::${port}`) : parsePublish(port))),
    volumes: volumes.map((volume) => parseVolume(volume, { cwd: resolve("."), folders })),
    labels,
    ...(name !== undefined && { name }),
    ...(user !== undefined && { user }),
    ...(cwd !== undefined && { workingDir: cwd }),
    ...(hostname !== undefined && { hostname }),
    ...(memoryMiB !== undefined && { memoryBytes: memoryMiB * mebibyte }),
    ...(cpus !== undefined && { cpus }),
    ...(network !== undefined && { network }),
    ...(readOnly !== undefined && { readOnlyRootfs: readOnly }),
    ...(privileged !== undefined && { privileged }),
    ...(coldBoot !== undefined && { coldBoot }),
    ...(cloneCommand !== undefined && { settings: { cloneCommand } }),
  };
}
