import type { ContainerVolume } from "./container-store.ts";
import type { HealthCheck } from "./health.ts";
import type { RestartPolicy } from "./restart-policy.ts";

/** A file system in memory that a container sees. */
export interface TmpfsMount {
  readonly destination: string;
  /** As mount(8): `size=64m`, `mode=700`, `noexec`, ... */
  readonly options: readonly string[];
}

/** setrlimit(2) by docker's name, e.g. `nofile`. */
export interface Ulimit {
  readonly name: string;
  readonly soft: number;
  readonly hard: number;
}

/** What docker's less common options say about a container; what is absent has docker's default. */
export interface ContainerSettings {
  readonly tmpfs?: readonly TmpfsMount[];
  readonly ulimits?: readonly Ulimit[];
  /** Names with `CAP_`, or `ALL`. */
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  readonly noNewPrivileges?: boolean;
  /** Lines of hosts(5): address, name. */
  readonly hosts?: readonly { readonly address: string; readonly name: string }[];
  readonly dns?: readonly string[];
  readonly dnsSearch?: readonly string[];
  readonly dnsOptions?: readonly string[];
  readonly cpuShares?: number;
  /** As in cgroup's cpuset.cpus, of the VM's CPUs. */
  readonly cpuset?: string;
  /** Memory and swap together; -1: no limit. */
  readonly memorySwapBytes?: number;
  readonly memoryReservationBytes?: number;
  /** -1: no limit. */
  readonly pidsLimit?: number;
  readonly shmBytes?: number;
  /** Numbers of groups. */
  readonly groupAdd?: readonly number[];
  readonly sysctls?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly logging?: { readonly driver: "casemate" | "none"; readonly maxFileBytes?: number; readonly maxFiles?: number };
  /** For `/bin/sh -c` in every copy that `fork` or a snapshot makes of the container; the copy is usable when it has succeeded. */
  readonly cloneCommand?: string;
  /** Ends the container that long after its start. */
  readonly timeoutMs?: number;
  /** What follows its end. */
  readonly restart?: RestartPolicy;
  /** How its health is asked for; undefined: not at all. */
  readonly health?: HealthCheck;
}

/** What `--mount` says: like `-v`, or a file system in memory. */
export type MountRequest = { readonly type: "volume"; readonly volume: ContainerVolume } | { readonly type: "tmpfs"; readonly tmpfs: TmpfsMount };
