import type { OciResources } from "../../shared/oci/runtime-spec.ts";

/**
 * The limits of a container after a change: what the change names wins, the rest stays as it was. A
 * quota or period of 0 names nothing, and neither does an empty list of CPUs; -1 takes a limit away.
 */
export function mergeResources(before: OciResources, change: OciResources): OciResources {
  const { cpu, memory, pids, blockIO, hugepageLimits, unified } = change;
  return {
    ...before,
    ...(cpu !== undefined && { cpu: { ...before.cpu, ...named(cpu, (value) => value !== 0 && value !== "") } }),
    ...(memory !== undefined && { memory: { ...before.memory, ...named(memory) } }),
    ...(pids !== undefined && { pids: { ...before.pids, ...pids } }),
    ...(blockIO !== undefined && { blockIO: { ...before.blockIO, ...named(blockIO) } }),
    ...(hugepageLimits !== undefined && { hugepageLimits: [...(before.hugepageLimits ?? []).filter(({ pageSize }) => !hugepageLimits.some((limit) => limit.pageSize === pageSize)), ...hugepageLimits] }),
    ...(unified !== undefined && { unified: { ...before.unified, ...unified } }),
  };
}

/** What undoes a change in the guest: the values before it, or for what had none the kernel's defaults. */
export function inverseOf(before: OciResources, change: OciResources): OciResources {
  const { cpu, memory, pids, blockIO } = change;
  return {
    ...(cpu !== undefined && { cpu: inverse(cpu, before.cpu ?? {}, { shares: 1024, quota: -1, period: 100_000 }) }),
    ...(memory !== undefined && { memory: inverse(memory, before.memory ?? {}, { limit: -1, swap: -1, reservation: -1 }) }),
    ...(pids !== undefined && { pids: before.pids ?? { limit: -1 } }),
    ...(blockIO !== undefined && { blockIO: inverse(blockIO, before.blockIO ?? {}, { weight: 100 }) }),
  };
}

function named<T extends object>(values: T, isNamed: (value: unknown) => boolean = () => true): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined && value !== null && isNamed(value))) as Partial<T>; // some of its own entries
}

function inverse<T extends object>(change: T, before: Partial<T>, defaults: Partial<T>): Partial<T> {
  const values = { ...defaults, ...before };
  return Object.fromEntries(Object.keys(change).filter((key) => key in values).map((key) => [key, values[key as keyof T]])) as Partial<T>; // keys of T, with T's values
}
