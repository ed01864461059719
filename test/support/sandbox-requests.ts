import type { ContainerRequest } from "../../src/host/sandbox/container.ts";
import type { ExecRequest } from "../../src/host/sandbox/sandbox.ts";
import type { RunnableSpec } from "../../src/shared/oci/runtime-spec.ts";

/** A spec with one host folder. */
export const plainSpec: RunnableSpec = {
  ociVersion: "1.0.2",
  process: { user: { uid: 0, gid: 0 }, args: ["true"], cwd: "/" },
  root: { path: "rootfs" },
  mounts: [{ destination: "/w", type: "bind", source: "/", options: ["rbind"] }],
};

/** A container with an image, a writable layer and a host folder, for {@link SandboxFixture}. */
export function containerRequest(containerId: string, spec: RunnableSpec = plainSpec): ContainerRequest {
  return {
    containerId, bundle: "/nowhere", spec, user: "", createCwd: false, guestEtcFiles: false, terminalSize: undefined,
    rootfs: [{ type: "erofs", source: `/images/${containerId}`, options: ["ro"] }, { type: "ext4", source: `/disks/${containerId}`, options: ["rw"] }],
    io: { terminal: false, stdin: true, log: undefined, holdOutput: false },
  };
}

/** A further process. */
export function execRequest(containerId: string, execId: string): ExecRequest {
  return {
    containerId, execId, process: { user: { uid: 0, gid: 0 }, args: ["true"], cwd: "/" }, user: "", terminalSize: undefined, autoRemove: false,
    io: { terminal: false, stdin: false, log: undefined, holdOutput: false },
  };
}
