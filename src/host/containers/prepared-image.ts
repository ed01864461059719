import { createHash } from "node:crypto";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import { bootMemoryBytes, sandboxMemoryBytes, type PreparedClone } from "../sandbox/sandbox-config.ts";
import type { ContainerRecord } from "../store/container-store.ts";
import { containerPaths, templatePaths } from "../store/paths.ts";
import { storageError } from "../store/storage-error.ts";
import { copyPreparedLayer, readTemplate, setTemplateAside } from "../template/template-store.ts";
import { buildSpec } from "./build-spec.ts";
import { startMaker } from "./ensure-template.ts";
import type { TemplateRequest } from "./make-template.ts";
import type { HostSetup } from "./start-container.ts";

/** A container that can be made before it is asked for, and the template it would be made in. */
interface PreparableContainer {
  readonly key: string;
  readonly baseKey: string;
}

/** Raise it when what is in a prepared template changes in a way that the key does not show. */
const format = 3;

/**
 * What a start of this container could go on from: a template with the very same container waiting in
 * it. Everything that the container's making fixes is in the key; name, id, host name, network, ports,
 * size of the VM and what becomes of the container afterwards are given after the restore. Undefined
 * for a container that needs the host while it is made (volumes) or more memory than a VM boots with,
 * and for one that has run before.
 */
export function preparable(record: ContainerRecord, setup: HostSetup, stdin: boolean): PreparableContainer | undefined {
  const { template: baseKey, folders } = setup;
  if (baseKey === undefined || record.guestTemplate === true || record.volumes.length > 0 || sandboxMemoryBytes(record.memoryBytes) > bootMemoryBytes || existsSync(containerPaths(folders, record.containerId).disk)) return undefined;
  const { rootfs, user, terminal, init } = record;
  const facts = JSON.stringify([format, baseKey, rootfs, user, terminal, init, stdin, buildSpec(record)]);
  return { key: createHash("sha256").update(facts).digest("hex").slice(0, 32), baseKey };
}

/** Gives the container its copy of the prepared one's writable layer. Undefined when there is no such template, or a damaged one, which is set aside. */
export async function takePrepared(record: ContainerRecord, setup: HostSetup, { key }: PreparableContainer): Promise<PreparedClone | undefined> {
  const template = readTemplate(setup.folders, key);
  if (template?.prepared === undefined) return undefined;
  const { prepared, plugged } = template;
  const { disk } = containerPaths(setup.folders, record.containerId);
  try {
    await copyPreparedLayer(setup.folders, template, disk);
  } catch (error) {
    if (!RuntimeError.is(error, "data_loss")) throw storageError(error, `make writable layer "${disk}"`);
    setTemplateAside(setup.folders, key);
    return undefined;
  }
  return { preparedId: prepared.containerId, containerId: record.containerId, guestPid: prepared.guestPid, streamId: prepared.streamId, disks: plugged.disks.map(({ diskId, lun, path }) => ({ diskId, lun, path: diskId === prepared.layerDiskId ? disk : path })) };
}

/** Remembers that such a container was started; when one was before, a template with it is made in the background. */
export async function notePreparable(record: ContainerRecord, setup: HostSetup, stdin: boolean, container: PreparableContainer): Promise<void> {
  const { seen } = templatePaths(setup.folders, container.key);
  if (existsSync(seen)) return startMaker(prepareRequest(record, setup, stdin, container));
  mkdirSync(dirname(seen), { recursive: true, mode: 0o700 });
  writeFileSync(seen, "", { mode: 0o600 });
}

/** What to ask a maker for. */
export function prepareRequest(record: ContainerRecord, { folders, guestImage, accelerator }: HostSetup, stdin: boolean, { key, baseKey }: PreparableContainer): TemplateRequest {
  return { folders, key, guestImage, accelerator, prepare: { baseKey, record, stdin } };
}
