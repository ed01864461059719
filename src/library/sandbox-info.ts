import { ContainerStore, type ContainerRecord } from "../host/store/container-store.ts";
import { stateFolders, type StateFolders } from "../host/store/paths.ts";
import { readPresentStatus } from "../host/store/present-status.ts";
import type { PlaceOptions } from "./options.ts";

/**
 * What is known of a sandbox without asking it.
 *
 * @example
 * const running = (await Sandbox.list()).filter(({ status, labels }: SandboxInfo) => status === "running" && labels["job"] === "build");
 */
export interface SandboxInfo {
  /** 64 hexadecimal digits; `casemate ps` shows the first 12. */
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly status: "created" | "running" | "paused" | "restarting" | "exited";
  readonly createdAt: Date;
  readonly labels: Readonly<Record<string, string>>;
  /** Ports as they were published. */
  readonly ports: readonly { readonly protocol: "tcp" | "udp"; readonly hostAddress: string; readonly hostPort: number; readonly port: number }[];
}

/** @internal Of one sandbox, as of now. */
export function describeSandbox(folders: StateFolders, record: ContainerRecord): SandboxInfo {
  const { status, ports } = readPresentStatus(new ContainerStore(folders), record);
  return {
    id: record.containerId,
    name: record.name,
    image: record.image,
    status,
    createdAt: new Date(record.createdAtUnixMs),
    labels: record.labels,
    ports: ports.map(({ protocol, hostAddress, hostPort, containerPort }) => ({ protocol, hostAddress: hostAddress === "" ? "127.0.0.1" : hostAddress, hostPort, port: containerPort })),
  };
}

/** @internal Of all, whoever made them. */
export function listSandboxes(options: PlaceOptions): SandboxInfo[] {
  const folders = stateFolders(options.root);
  return new ContainerStore(folders).list().map((record) => describeSandbox(folders, record));
}
