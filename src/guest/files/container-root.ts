import { closeSync, constants, openSync, statSync } from "node:fs";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { Container } from "../containers/container.ts";
import { openBeneath } from "../linux/resolve-beneath.ts";

/** Linux's flags that Node does not name; O_DIRECTORY and O_NOFOLLOW differ between CPUs, so those are Node's. */
const O_CLOEXEC = 0o2000000, O_PATH = 0o10000000;
const { O_DIRECTORY, O_NOFOLLOW } = constants;
const maxPathBytes = 4095;
const slash = 0x2f;

/** The last part of a path and the folder it is in, opened. */
export interface Place extends Disposable {
  /** A path that leads to the last part without passing any link of the container's; the part itself may be one. */
  readonly path: Buffer;
}

/**
 * The file system as a container's processes see it, with everything mounted in it. What a path leads
 * to is always beneath the container's root, whatever links its processes make, also while we look.
 */
export class ContainerRoot implements Disposable {
  /** Whose new files are: the container's first process. */
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly #fd: number;

  private constructor(fd: number, owner: ContainerRoot["owner"]) {
    this.#fd = fd;
    this.owner = { uid: owner.uid, gid: owner.gid };
  }

  /** A folder as the root; what is made in it is the given user's. */
  static at(folder: string, owner: ContainerRoot["owner"]): ContainerRoot {
    return new ContainerRoot(openSync(folder, O_PATH | O_DIRECTORY | O_CLOEXEC), owner);
  }

  /** @throws RuntimeError `failed_precondition` (reason `container_not_running`): a file system is mounted only while its container is there. */
  static of({ init, containerId }: Container): ContainerRoot {
    if (init.reaped) throw new RuntimeError("failed_precondition", `files of container "${containerId}": it has ended`, { reason: "container_not_running" });
    const folder = `/proc/${init.pid}`;
    try {
      return ContainerRoot.at(`${folder}/root`, statSync(folder));
    } catch (error) {
      throw RuntimeError.wrap(error, `open the root of container "${containerId}"`);
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** Opens what the path leads to; `mode` for a file that is made. The caller closes it. */
  open(path: Uint8Array, flags: number, mode?: number): number {
    return openBeneath(this.#fd, requirePath(path), flags | O_CLOEXEC, mode);
  }

  /** Opens what the path leads to, only to look at it; a link itself unless it is to be followed. */
  look(path: Uint8Array, followLink: boolean): number {
    return this.open(path, O_PATH | (followLink ? 0 : O_NOFOLLOW));
  }

  /** The folder a path's last part is in. @throws RuntimeError `invalid_argument` for the root and for a last part of "." or "..". */
  place(path: Uint8Array): Place {
    const parts = splitPath(requirePath(path));
    const name = parts.pop();
    if (name === undefined || [".", ".."].includes(name.toString("latin1"))) throw new RuntimeError("invalid_argument", `path "${Buffer.from(path).toString()}": must end with a name`);
    const folder = Buffer.concat(parts.flatMap((part) => [Buffer.from("/"), part]));
    const fd = this.open(folder.length === 0 ? Buffer.from("/") : folder, O_PATH | O_DIRECTORY);
    return { path: beneath(fd, name), [Symbol.dispose]: () => closeSync(fd) };
  }
}

/** The path of a name in an opened folder. */
export function beneath(folderFd: number, name: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${folderFd}/`), name]);
}

/** Parts of a path, without empty ones. */
export function splitPath(path: Uint8Array): Buffer[] {
  const parts: Buffer[] = [];
  const bytes = Buffer.from(path);
  for (let start = 0; start <= bytes.length;) {
    const end = bytes.indexOf(slash, start) === -1 ? bytes.length : bytes.indexOf(slash, start);
    if (end > start) parts.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return parts;
}

function requirePath(path: Uint8Array): Uint8Array {
  if (path[0] === slash && path.length <= maxPathBytes && !path.includes(0)) return path;
  throw new RuntimeError("invalid_argument", `path "${Buffer.from(path).toString().slice(0, 300)}": must be absolute, at most ${maxPathBytes} bytes`);
}
