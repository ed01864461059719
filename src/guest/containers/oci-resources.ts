import type { LinuxResources, LinuxThrottleDevice } from "../../shared/protocol/gen/agent/oci_pb.ts";

/**
 * The protocol's resources as OCI's `linux.resources`, which `crun update` reads. The message cannot
 * tell 0 from absent; 0 means "leave alone", as Kata has it.
 */
export function toOciResources(resources: LinuxResources): object {
  const { Memory: memory, CPU: cpu, Pids: pids, BlockIO: io, HugepageLimits: huge } = resources;
  return dropEmpty({
    memory: memory && dropEmpty({ limit: amount(memory.Limit), reservation: amount(memory.Reservation), swap: amount(memory.Swap) }),
    cpu: cpu && dropEmpty({ shares: amount(cpu.Shares), quota: amount(cpu.Quota), period: amount(cpu.Period), cpus: cpu.Cpus, mems: cpu.Mems }),
    pids: pids && dropEmpty({ limit: amount(pids.Limit) }),
    blockIO: io && dropEmpty({
      weight: io.Weight,
      leafWeight: io.LeafWeight,
      weightDevice: list(io.WeightDevice.map(({ Major, Minor, Weight, LeafWeight }) => ({ major: Number(Major), minor: Number(Minor), weight: Weight, leafWeight: LeafWeight }))),
      throttleReadBpsDevice: throttles(io.ThrottleReadBpsDevice),
      throttleWriteBpsDevice: throttles(io.ThrottleWriteBpsDevice),
      throttleReadIOPSDevice: throttles(io.ThrottleReadIOPSDevice),
      throttleWriteIOPSDevice: throttles(io.ThrottleWriteIOPSDevice),
    }),
    hugepageLimits: huge.length === 0 ? undefined : huge.map(({ Pagesize, Limit }) => ({ pageSize: Pagesize, limit: Number(Limit) })),
  });
}

function throttles(devices: readonly LinuxThrottleDevice[]): object[] | undefined {
  return list(devices.map(({ Major, Minor, Rate }) => ({ major: Number(Major), minor: Number(Minor), rate: amount(Rate) })));
}

function list<T>(items: readonly T[]): T[] | undefined {
  return items.length === 0 ? undefined : [...items];
}

/** Limits above 2^53 mean "none" everywhere; JSON's numbers end there. */
function amount(value: bigint): number {
  const largest = BigInt(Number.MAX_SAFE_INTEGER);
  return Number(value > largest ? largest : value);
}

function dropEmpty(object: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== 0 && value !== "" && !isEmptyObject(value)));
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}
