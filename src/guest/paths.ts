import { RuntimeError } from "../shared/base/errors.ts";

/** Folders of the agent, all on the tmpfs /run (docs/agent.md draws them). */
export const paths = {
  /** Everything of ours; the only place where CopyFile writes and the host mounts. */
  run: "/run/casemate",
  /** crun's state (crun --root). */
  crun: "/run/casemate/crun",
  /** config.json and process files of each container. */
  bundles: "/run/casemate/bundles",
  /** hosts, hostname and resolv.conf that containers see in /etc, and what else tells who the guest is. */
  sandboxFiles: "/run/casemate/sandbox",
  cgroup: "/sys/fs/cgroup",
} as const;

/** Container and exec ids become file and cgroup names: the characters containerd allows, and no leading dot. */
const idPattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** @throws RuntimeError `invalid_argument`. */
export function requireId(kind: "container" | "exec", id: string): string {
  if (!idPattern.test(id)) throw new RuntimeError("invalid_argument", `${kind} id "${id.slice(0, 140)}": must be 1 to 128 letters, digits, "_", "." or "-", and start with a letter or digit`);
  return id;
}

/** An absolute path without `.`, `..`, empty parts or NUL. @throws RuntimeError `invalid_argument`. */
export function requireAbsolutePath(path: string, what: string): string {
  const parts = path.split("/").slice(1);
  const plain = path.startsWith("/") && !path.includes("\0") && parts.every((part, index) => (part !== "" || (index === 0 && parts.length === 1)) && part !== "." && part !== "..");
  if (!plain || path.length > 4095) throw new RuntimeError("invalid_argument", `${what} "${path.slice(0, 300)}": must be an absolute path without "." and ".." parts`);
  return path;
}
