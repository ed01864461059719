import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { OciMount, RunnableSpec } from "../../shared/oci/runtime-spec.ts";

/** A mount whose source is a file or folder of the host. */
export interface HostMount {
  readonly mount: OciMount;
  readonly source: string;
  readonly readOnly: boolean;
}

/** Guest folders, fixed here and in docs/agent.md. */
export const guestPaths = {
  container: (containerId: string) => `/run/casemate/containers/${containerId}`,
  image: (key: string) => `/run/casemate/images/${key}`,
  sandboxFiles: "/run/casemate/sandbox",
} as const;

/** `init`: docker's tini starts the spec's process. `idle`: it starts one that does nothing, instead of the spec's. */
export type InitKind = "none" | "init" | "idle";

/** Where a container sees programs of the guest: below /dev, which is a tmpfs, so that no image is changed. */
const initPath = "/dev/casemate/init", idlePath = "/dev/casemate/sleep";
const programMount = (destination: string, source: string): OciMount => ({ destination, type: "bind", source, options: ["bind", "rprivate", "ro", "nosuid"] });

/** In a spec, the path of the PID namespace that containers of one sandbox share; which one that is shows when they are made. */
export const sharedPidNamespace = "casemate:shared";
/** A bind mount there means the sandbox's own, which all containers that ask for it share. */
const shmPath = "/dev/shm";

/** Files the agent writes for the sandbox, which containers see in /etc as docker's do. */
const etcFiles = ["hosts", "hostname", "resolv.conf"] as const;
/** Where a container sees the number that tells of a clone (docs/templates.md): in /dev, which is not part of its root file system. */
const generationFile = "/dev/casemate/generation";
/** The kernel's would be the same in every copy of a container that has read it; the agent mounts a file of its own over the guest's. */
const bootIdFile = "/proc/sys/kernel/random/boot_id";

/** Splits off the mounts that need the host: bind mounts, except of what the guest has by itself. */
export function hostMounts(spec: RunnableSpec): HostMount[] {
  return (spec.mounts ?? []).filter(isHostMount).map((mount) => ({ mount, source: mount.source ?? "", readOnly: mount.options?.includes("ro") ?? false }));
}

/**
 * The spec as the guest's crun gets it: host sources replaced by guest paths, root set, namespaces
 * of the host forgotten (a path of the host means nothing in the guest, and the network namespace is
 * the guest's own).
 */
export function toGuestSpec(spec: RunnableSpec, guest: {
  readonly rootPath: string;
  readonly guestSources: ReadonlyMap<OciMount, string>;
  readonly etcFiles: boolean;
  readonly init: InitKind;
  /** The PID namespace to join; undefined: one of its own, which others may join. */
  readonly pidNamespace?: string | undefined;
}): RunnableSpec {
  const mounts = (spec.mounts ?? []).map((mount) => {
    const source = isBind(mount) && mount.destination === shmPath ? shmPath : guest.guestSources.get(mount);
    return source === undefined ? mount : { ...mount, type: "bind", source };
  });
  const missing = guest.etcFiles ? etcFiles.filter((name) => !mounts.some(({ destination }) => destination === `/etc/${name}` || destination === "/etc")) : [];
  const namespaces = (spec.linux?.namespaces ?? []).filter(({ type }) => type !== "network" && type !== "time")
    .map(({ type }) => (type === "pid" && guest.pidNamespace !== undefined ? { type, path: guest.pidNamespace } : { type }));
  return {
    ...spec,
    process: withInit(spec.process, guest.init),
    root: { ...spec.root, path: guest.rootPath },
    // Before the user's own mounts, so that a volume on /etc/hosts wins.
    mounts: [...missing.map((name) => sandboxFile(name, `/etc/${name}`, "rw")), ...mounts, ...initMounts(guest.init), ...(guest.etcFiles ? [sandboxFile("generation", generationFile, "ro"), ...bootIdMounts(mounts)] : [])],
    linux: { ...spec.linux, namespaces },
  };
}

/** A hook that runs in the container, as crun runs it in the guest; all others run on the host (config.md of the runtime spec, "POSIX-platform Hooks"). */
const guestHook = "startContainer";

/**
 * The hooks of the host are run by whoever has the caller's namespaces, before or after it calls us.
 * @throws RuntimeError `unimplemented` (reason `host_hooks`).
 */
export function refuseHostHooks({ hooks = {} }: RunnableSpec): void {
  const [first] = Object.entries(hooks).filter(([name, list]) => name !== guestHook && list.length > 0);
  if (first !== undefined) throw new RuntimeError("unimplemented", `hooks of kind "${first[0]}" run on the host, which this version does not do`, { reason: "host_hooks", hint: `take them out of config.json, or make them ${guestHook} hooks, which run in the container` });
}

/** A file that the agent writes for the sandbox. */
function sandboxFile(name: string, destination: string, access: "ro" | "rw"): OciMount {
  return { destination, type: "bind", source: `${guestPaths.sandboxFiles}/${name}`, options: ["bind", "rprivate", access] };
}

/** Only where the container has a /proc of its own kind. */
function bootIdMounts(mounts: readonly OciMount[]): OciMount[] {
  return mounts.some(({ destination, type }) => destination === "/proc" && type === "proc") ? [{ destination: bootIdFile, type: "bind", source: bootIdFile, options: ["bind", "rprivate", "ro"] }] : [];
}

function withInit(process: RunnableSpec["process"], init: InitKind): RunnableSpec["process"] {
  if (init === "none") return process;
  return { ...process, args: [initPath, "--", ...(init === "idle" ? [idlePath, "infinity"] : process.args)] };
}

/** After /dev itself is mounted. busybox decides by the name it is called by what it does. */
function initMounts(init: InitKind): OciMount[] {
  if (init === "none") return [];
  return [programMount(initPath, "/usr/bin/tini-static"), ...(init === "idle" ? [programMount(idlePath, "/usr/bin/busybox")] : [])];
}

function isBind({ type, options = [] }: OciMount): boolean {
  return type === "bind" || options.includes("bind") || options.includes("rbind");
}

/** True for a container that shares one PID namespace with others of its sandbox. */
export function sharesPid(spec: RunnableSpec): boolean {
  return (spec.linux?.namespaces ?? []).some(({ type, path }) => type === "pid" && path === sharedPidNamespace);
}

/** The same for a container that was made earlier, from its bundle; one without a bundle shares nothing. */
export function bundleSharesPid(bundle: string): boolean {
  const spec = readBundle(bundle);
  return spec !== undefined && sharesPid(spec);
}

/** Where a container that was made earlier shows what is the host's, from its bundle. */
export function bundleHostMounts(bundle: string): string[] {
  const spec = readBundle(bundle);
  return spec === undefined ? [] : hostMounts(spec).map(({ mount }) => mount.destination);
}

function readBundle(bundle: string): RunnableSpec | undefined {
  try {
    return JSON.parse(readFileSync(join(bundle, "config.json"), "utf8")) as RunnableSpec; // it was checked when the container was made
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) return undefined;
    throw RuntimeError.wrap(error, `read the spec in "${bundle}"`);
  }
}

function isHostMount(mount: OciMount): boolean {
  const { source = "", destination } = mount;
  if (!isBind(mount) || source === "") return false;
  // /proc and /sys are the guest's; /dev/shm is made in the guest; a device node's guest twin is used.
  if (/^\/(proc|sys)(\/|$)/.test(source) || destination === shmPath) return false;
  return !isHostDevice(source);
}

function isHostDevice(path: string): boolean {
  if (path !== "/dev" && !path.startsWith("/dev/")) return false;
  try {
    const stat = statSync(path);
    return path === "/dev" || stat.isCharacterDevice() || stat.isBlockDevice();
  } catch (error) {
    if (isErrnoException(error, "ENOENT")) throw new RuntimeError("not_found", `mount source "${path}" does not exist`, { reason: "mount_source_not_found", cause: error });
    throw RuntimeError.wrap(error, `look at mount source "${path}"`);
  }
}
