import { create } from "@bufbuild/protobuf";
import { AnySchema, anyPack, type Any } from "@bufbuild/protobuf/wkt";
import { buildExecProcess } from "../../src/host/containers/build-spec.ts";
import { createContainer } from "../../src/host/containers/create-container.ts";
import type { OwnerClient } from "../../src/host/control/owner-client.ts";
import { ensureImage } from "../../src/host/storage/images/pull.ts";
import { ensureWritableLayer } from "../../src/host/storage/writable-layer.ts";
import type { ContainerRecord } from "../../src/host/store/container-store.ts";
import { containerPaths, type StateFolders } from "../../src/host/store/paths.ts";
import { CreateOptionsSchema, ExecSpecSchema } from "../../src/shared/protocol/gen/owner_pb.ts";

/** A container of busybox as a front end leaves it on disk: nothing of it is in the sandbox yet. */
export async function makeTaskContainer(folders: StateFolders, sandboxId: string, command: readonly string[]): Promise<ContainerRecord> {
  const image = await ensureImage(folders, "busybox");
  const record = { ...createContainer(folders, { image: "busybox", command }, image), sandboxId };
  await ensureWritableLayer(folders, containerPaths(folders, record.containerId).disk);
  return record;
}

/** The call of the Task API that makes it in the sandbox. */
export function createRequest(record: ContainerRecord, folders: StateFolders): Parameters<OwnerClient["task"]["create"]>[0] {
  const { folder, disk } = containerPaths(folders, record.containerId);
  return {
    id: record.containerId,
    bundle: folder,
    rootfs: [...record.rootfs.map(({ path, fsType }) => ({ type: fsType, source: path, options: ["ro"] })), { type: "ext4", source: disk, options: ["rw"] }],
    options: anyPack(CreateOptionsSchema, create(CreateOptionsSchema, { containerFolder: folder, guestEtcFiles: true })),
  };
}

/** What the Task API's exec of a command is told. */
export function execSpec(record: ContainerRecord, args: readonly string[], options: { readonly holdOutput?: boolean; readonly autoRemove?: boolean } = {}): Any {
  const process = buildExecProcess(record, { args, env: [], terminal: false, privileged: false, workingDir: undefined });
  return anyPack(ExecSpecSchema, create(ExecSpecSchema, { processJson: Buffer.from(JSON.stringify(process)), ...options }));
}

/** A value of the Task API that is JSON, such as limits. */
export function jsonAny(value: object): Any {
  return create(AnySchema, { typeUrl: "json", value: Buffer.from(JSON.stringify(value)) });
}
