import { ContainerFileClient } from "../host/containers/container-file-client.ts";
import { untilSandboxGone, withOwner } from "../host/containers/end-container.ts";
import { ContainerStore, type ContainerRecord, hasProcesses } from "../host/store/container-store.ts";
import { readPresentStatus } from "../host/store/present-status.ts";
import { RuntimeError } from "../shared/base/errors.ts";
import { bootContainer, type LaunchOptions } from "./launch.ts";

/**
 * Works on a container's files. One that does not run gets its VM for the time of the work, and in it
 * everything but its process; afterwards it is what it was.
 */
export async function withContainerFiles<T>(record: ContainerRecord, launch: LaunchOptions, work: (files: ContainerFileClient) => Promise<T>): Promise<T> {
  const { folders } = launch;
  const store = new ContainerStore(folders);
  const before = readPresentStatus(store, record);
  if (hasProcesses(before.status)) return withOwner(folders, record, async ({ owner }) => work(new ContainerFileClient(async () => owner, record.containerId)));
  if (before.status === "restarting") throw new RuntimeError("failed_precondition", `files of container "${record.name}": it is restarting`, { reason: "container_not_running", hint: "wait until it runs, or stop it" });
  // Its end here is the end of the copy, at which nothing is to be removed.
  const kept: ContainerRecord = { ...record, autoRemove: false, network: "none", ports: [] };
  const { client } = await bootContainer(kept, launch, { stdin: false }, {});
  try {
    return await work(new ContainerFileClient(async () => client.owner, record.containerId));
  } finally {
    // Politely: what was written must reach the disk. The owner may be gone before its answer is here.
    await client.owner.stop({ timeoutMs: stopTimeoutMs }).catch((error: unknown) => { if (!RuntimeError.is(error, "unavailable")) throw error; });
    client.close();
    await untilSandboxGone(folders, record.sandboxId);
    store.writeStatus(record.containerId, before);
  }
}

const stopTimeoutMs = 10_000;
