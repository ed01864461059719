import { lstatSync, mkdirSync, statSync } from "node:fs";
import { join, resolve as resolvePath, normalize } from "node:path";
import { RuntimeError, isErrnoException } from "../../../shared/base/errors.ts";
import { kernelRandomBytes } from "../../../shared/linux/random.ts";
import type { ContainerVolume } from "../../store/container-store.ts";
import { volumeFolder, type StateFolders } from "../../store/paths.ts";

/** What a volume option is read against. */
export interface VolumeContext {
  /** Folder that relative sources start from. */
  readonly cwd: string;
  /** Named volumes are kept below the data folder. */
  readonly folders: StateFolders;
}

/** docker's names for local volumes. */
const volumeName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,254}$/;
/** Options without meaning here: SELinux labels (nothing on the host's side is confined by the container's), macOS hints, defaults. */
const ignoredOptions = new Set(["z", "Z", "consistent", "cached", "delegated", "private", "rprivate", "bind", "rbind", "nocopy"]);
const propagationOptions = new Set(["shared", "rshared", "slave", "rslave"]);

/**
 * Parses docker's `-v`: `SOURCE:DESTINATION[:OPTIONS]`, or a destination alone for an anonymous volume.
 * A source with a leading `/` or `.` is a path of the host, anything else the name of a volume.
 * @throws RuntimeError `invalid_argument` that names the bad part; `unimplemented` for mount propagation.
 */
export function parseVolume(text: string, { cwd, folders }: VolumeContext): ContainerVolume {
  const fail = (why: string): never => {
    throw new RuntimeError("invalid_argument", `volume "${text}": ${why}`, { reason: "bad_volume", hint: "write -v SOURCE:DESTINATION[:ro], for example -v ./files:/srv:ro" });
  };
  const parts = text.split(":");
  if (parts.length > 3) fail("too many colons; paths with a colon cannot be given");
  const [source, destination, options] = parts.length === 1 ? [undefined, parts[0], undefined] : parts;
  if (text.includes("\0")) fail("has a NUL byte");
  if (destination === undefined || !destination.startsWith("/")) fail(`the path in the container is "${destination ?? ""}", it must be absolute`);
  const inContainer = normalize(destination ?? "").replace(/(.)\/+$/, "$1");
  if (inContainer === "/") fail("the path in the container must not be /");
  const readOnly = parseOptions(options, text, fail);
  if (source === undefined) return namedVolume(kernelRandomBytes(32).toString("hex"), inContainer, readOnly, folders);
  if (source === "") fail("the source is empty");
  if (source.startsWith("/") || /^\.{1,2}(\/|$)/.test(source)) return { type: "bind", source: resolvePath(cwd, source), name: "", destination: inContainer, readOnly };
  if (!volumeName.test(source)) fail(`"${source}" is not a volume's name (letters, digits, "_.-", from two on); a path starts with / or ./`);
  return namedVolume(source, inContainer, readOnly, folders);
}

/**
 * Makes sure the source is there: a missing folder is made as docker makes it, empty and owned by us.
 * @throws RuntimeError `failed_precondition` (reason `bad_source`) when it is neither folder nor file.
 */
export function prepareVolumeSource({ source, type }: ContainerVolume): void {
  const step = `prepare ${type === "volume" ? "volume" : "mount source"} "${source}"`;
  try {
    const stat = statSync(source);
    if (!stat.isDirectory() && !stat.isFile()) throw badSource(source);
  } catch (error) {
    if (isErrnoException(error, "ENOTDIR")) throw new RuntimeError("failed_precondition", `${step}: a part of the path is a file`, { cause: error, reason: "bad_source", hint: "check the path" });
    if (!isErrnoException(error, "ENOENT")) throw RuntimeError.wrap(error, step);
    if (isDanglingLink(source)) throw new RuntimeError("failed_precondition", `${step}: is a symbolic link to nothing`, { cause: error, reason: "bad_source", hint: "make what it points to, or share another folder" });
    try {
      mkdirSync(source, { recursive: true, mode: 0o755 });
    } catch (failure) {
      throw new RuntimeError("failed_precondition", `${step}: make the missing folder`, { cause: failure, reason: "bad_source", hint: "make the folder yourself, or share another one" });
    }
  }
}

/** The error for a source that cannot be shared with a VM. */
export function badSource(source: string): RuntimeError {
  return new RuntimeError("failed_precondition", `share "${source}": is neither a folder nor a regular file`, { reason: "bad_source", hint: "share a folder or a file; sockets and devices of the host do not work in a VM" });
}

type Fail = (why: string) => never;

function parseOptions(options: string | undefined, text: string, fail: Fail): boolean {
  const access: boolean[] = [];
  for (const option of options === undefined || options === "" ? [] : options.split(",")) {
    if (option === "ro" || option === "rw") access.push(option === "ro");
    else if (propagationOptions.has(option)) throw new RuntimeError("unimplemented", `volume "${text}": mounts do not propagate between a VM and the host ("${option}")`, { reason: "bad_volume", hint: "leave the option out; what is mounted below the source at the start is shared" });
    else if (!ignoredOptions.has(option)) fail(`unknown option "${option}"`);
  }
  if (access.length > 1) fail("ro and rw may be given once in all");
  return access[0] ?? false;
}

function namedVolume(name: string, destination: string, readOnly: boolean, folders: StateFolders): ContainerVolume {
  return { type: "volume", source: join(volumeFolder(folders, name), "_data"), name, destination, readOnly };
}

function isDanglingLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}
