import { accessSync, constants, existsSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { isRootful } from "../../src/host/store/paths.ts";

/** What a machine may lack. Each answers undefined when it is there, else what is missing. */
const probes = {
  root: () => (isRootful() ? undefined : `uid ${process.geteuid?.()} is not root of the machine`),
  // Whether it works is another matter: only a boot tells.
  kvm: () => (isWritable("/dev/kvm") ? undefined : "/dev/kvm cannot be opened"),
  "cgroup-v2": () => (existsSync("/sys/fs/cgroup/cgroup.controllers") ? undefined : "the host has cgroups of version 1"),
  podman: () => tool("podman"),
  containerd: () => tool("containerd"),
  "docker-registry": () => tool("docker-registry"),
  umoci: () => tool("umoci"),
  "ipv6-uplink": () => (spawnSync("ip", ["-6", "route", "show", "default"]).stdout.length > 0 ? undefined : "the host has no IPv6 default route"),
} as const;

export type Requirement = keyof typeof probes;

/**
 * The only way to skip a test: `test("...", { skip: requires("kvm") }, ...)`. Continuous integration
 * accepts a skip only if test/allowed-skips.json lists the file and the requirement.
 */
export function requires(...requirements: readonly Requirement[]): string | false {
  for (const requirement of requirements) {
    const missing = probes[requirement]();
    if (missing !== undefined) return `requires ${requirement}: ${missing}`;
  }
  return false;
}

function tool(name: string): string | undefined {
  const found = (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(`${folder}/${name}`));
  return found ? undefined : `${name} is not installed`;
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false; // whatever the reason, a program could not open it either
  }
}
