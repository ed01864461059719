import { readFileSync } from "node:fs";
import { RuntimeError } from "../../shared/base/errors.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import type { OciResources, RunnableSpec } from "../../shared/oci/runtime-spec.ts";
import { mergeResources } from "../sandbox/container-resources.ts";
import { parseCpuset } from "../sandbox/sandbox-size.ts";
import { ContainerStore, type ContainerRecord } from "../store/container-store.ts";
import { containerPaths, type StateFolders } from "../store/paths.ts";
import { readPresentStatus } from "../store/present-status.ts";
import type { RestartPolicy } from "../store/restart-policy.ts";
import { checkResources, checkRestartPolicy } from "./container-options.ts";
import { withOwner } from "./end-container.ts";

/**
 * Changes a container's limits, now if it runs and for its next starts. What is on disk changes first,
 * and back again when the guest refuses.
 * @throws RuntimeError `invalid_argument`, `resource_exhausted` (reasons `memory_too_large`, `too_many_cpus`, ...).
 */
export async function updateContainer(folders: StateFolders, record: ContainerRecord, change: OciResources): Promise<void> {
  checkChange(change);
  const paths = containerPaths(folders, record.containerId);
  const before = { record: readFileSync(paths.record), spec: readFileSync(paths.spec) };
  const spec = JSON.parse(before.spec.toString()) as RunnableSpec; // written by buildSpec()
  const resources = mergeResources(spec.linux?.resources ?? {}, change);
  writeFileAtomic(paths.spec, JSON.stringify({ ...spec, linux: { ...spec.linux, resources } }, undefined, 1));
  writeFileAtomic(paths.record, JSON.stringify({ ...record, ...recordLimits(resources) }, undefined, 1));
  try {
    const { status } = readPresentStatus(new ContainerStore(folders), record);
    if (status !== "running" && status !== "paused") return;
    await withOwner(folders, record, async ({ task }) => task.update({ id: record.containerId, resources: { typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", value: Buffer.from(JSON.stringify(change)) } }));
  } catch (error) {
    writeFileAtomic(paths.spec, before.spec);
    writeFileAtomic(paths.record, before.record);
    throw error;
  }
}

/** Changes what follows a container's end, from its next one on. @throws RuntimeError `invalid_argument`. */
export function updateRestartPolicy(folders: StateFolders, record: ContainerRecord, restart: RestartPolicy): void {
  checkRestartPolicy(restart, record);
  new ContainerStore(folders).change(record.containerId, { settings: { ...record.settings, restart } });
}

function checkChange({ memory, cpu }: OciResources): void {
  checkResources({
    ...(memory?.limit !== undefined && memory.limit > 0 && { memoryBytes: memory.limit }),
    ...(cpu?.quota !== undefined && cpu.quota > 0 && { cpus: cpu.quota / (cpu.period ?? 100_000) }),
  });
  parseCpuset(cpu?.cpus ?? "");
  if (memory?.swap !== undefined && memory.swap > 0 && memory.limit !== undefined && memory.swap < memory.limit) throw new RuntimeError("invalid_argument", "memory and swap together must be at least the memory", { reason: "bad_swap", hint: "raise --memory-swap, or give -1 for no limit" });
}

/** The limits that decide how large a sandbox is made for the container. */
function recordLimits({ memory, cpu }: OciResources): Pick<ContainerRecord, "memoryBytes" | "cpus"> {
  return {
    memoryBytes: Math.max(0, memory?.limit ?? 0),
    cpus: cpu?.quota !== undefined && cpu.quota > 0 && cpu.period !== undefined && cpu.period > 0 ? cpu.quota / cpu.period : 0,
  };
}
