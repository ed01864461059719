import { freemem, totalmem } from "node:os";
import { RuntimeError } from "../../shared/base/errors.ts";
import { mebibytes } from "../../shared/base/mebibytes.ts";
import type { ContainerSettings } from "../store/container-settings.ts";
import { defaultHealthCheck, type HealthCheck } from "../store/health.ts";
import type { ContainerVolume, PublishRequest } from "../store/container-store.ts";
import type { PodRecord } from "../store/pod-store.ts";
import type { RestartPolicy } from "../store/restart-policy.ts";

/** What a caller may say about a new container; docker's meanings. Undefined: the image's word, or docker's default. */
export interface ContainerOptions {
  readonly image: string;
  readonly command: readonly string[];
  readonly name?: string;
  readonly entrypoint?: string;
  /** `NAME=value`, or `NAME` to take this process's value. */
  readonly env?: readonly string[];
  readonly workingDir?: string;
  readonly user?: string;
  readonly hostname?: string;
  readonly terminal?: boolean;
  readonly openStdin?: boolean;
  readonly autoRemove?: boolean;
  readonly readOnlyRootfs?: boolean;
  readonly privileged?: boolean;
  readonly network?: "none" | "user";
  readonly ports?: readonly PublishRequest[];
  readonly publishAll?: boolean;
  readonly volumes?: readonly ContainerVolume[];
  readonly memoryBytes?: number;
  readonly cpus?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly stopSignal?: string;
  readonly stopTimeoutMs?: number;
  readonly coldBoot?: boolean;
  /** Start from a template without a container in it, and make none with one. Default false. */
  readonly guestTemplate?: boolean;
  /** Id of its sandbox, if its owner was started ahead. */
  readonly sandboxId?: string | undefined;
  /** Put the container into this pod's sandbox. */
  readonly pod?: PodRecord;
  /** `init`: a first process that collects orphans. `idle`: one that does nothing, instead of the command. */
  readonly init?: "init" | "idle";
  readonly settings?: ContainerSettings;
  /** How its health is asked for, instead of or beside what the image says; `none`: not at all. */
  readonly health?: Partial<HealthCheck> | "none";
}

/** Least memory a container can be given: docker's limit. */
export const minMemoryBytes = 6 * 1024 * 1024;

/** Refuses what this host cannot give. @throws RuntimeError `invalid_argument` or `resource_exhausted`, naming the option. */
export function checkResources(options: Pick<ContainerOptions, "memoryBytes" | "cpus">, host = { memoryBytes: totalmem(), freeBytes: freemem(), cpus: navigator.hardwareConcurrency }): void {
  const { memoryBytes = 0, cpus = 0 } = options;
  if (memoryBytes !== 0 && memoryBytes < minMemoryBytes) throw new RuntimeError("invalid_argument", `memory limit of ${memoryBytes} bytes: must be at least 6 MiB`, { reason: "memory_too_small", hint: "raise --memory" });
  if (memoryBytes > host.memoryBytes) throw new RuntimeError("resource_exhausted", `memory limit of ${mebibytes(memoryBytes)} MiB: the host has ${mebibytes(host.memoryBytes)} MiB`, { reason: "memory_too_large", hint: "lower --memory" });
  if (cpus < 0 || !Number.isFinite(cpus)) throw new RuntimeError("invalid_argument", `cpus ${cpus}: must be a positive number`, { reason: "bad_cpus", hint: "for example --cpus 1.5" });
  if (cpus > host.cpus) throw new RuntimeError("invalid_argument", `cpus ${cpus}: the host has ${host.cpus}`, { reason: "too_many_cpus", hint: "lower --cpus" });
}

/** The check of a container, from the image's and the caller's words; docker's rule. */
export function resolveHealthCheck(image: Partial<HealthCheck> | undefined, own: ContainerOptions["health"]): HealthCheck | undefined {
  if (own === "none") return undefined;
  const { test = [], ...rest } = { ...defaultHealthCheck, ...image, ...own };
  return test.length === 0 || test[0] === "NONE" ? undefined : { test, ...rest };
}

/** @throws RuntimeError `invalid_argument` where a container cannot be started again by itself. */
export function checkRestartPolicy(restart: RestartPolicy | undefined, { autoRemove = false, pod }: { readonly autoRemove?: boolean | undefined; readonly pod?: unknown }): void {
  if (restart === undefined || restart.name === "no") return;
  if (autoRemove) throw new RuntimeError("invalid_argument", "--restart and --rm exclude each other", { reason: "option_refused", hint: "a container that is removed at its end cannot be started again" });
  if (pod !== undefined) throw new RuntimeError("unimplemented", "--restart for a container of a pod", { reason: "option_refused", hint: "give it a sandbox of its own, or start it again with casemate start" });
}

/** `NAME=value` for each entry; a bare NAME takes the caller's value and is left out when the caller has none. */
export function resolveEnv(entries: readonly string[], own: NodeJS.ProcessEnv): string[] {
  return entries.flatMap((entry) => {
    if (entry === "" || entry.startsWith("=")) throw new RuntimeError("invalid_argument", `environment variable "${entry}": has no name`, { reason: "bad_env", hint: "write -e NAME=value" });
    if (entry.includes("=")) return [entry];
    const value = own[entry];
    return value === undefined ? [] : [`${entry}=${value}`];
  });
}

/** Later entries win over earlier ones of the same name; the order of first appearance stays. */
export function mergeEnv(...lists: readonly (readonly string[])[]): string[] {
  const values = new Map<string, string>();
  for (const entry of lists.flat()) values.set(entry.slice(0, entry.indexOf("=")), entry);
  return [...values.values()];
}
