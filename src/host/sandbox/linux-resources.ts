import type { MessageInitShape } from "@bufbuild/protobuf";
import type { OciResources, OciThrottle } from "../../shared/oci/runtime-spec.ts";
import type { LinuxResourcesSchema } from "../../shared/protocol/gen/agent/oci_pb.ts";

/** OCI's resources in the agent protocol's message; what is absent stays 0 or empty, which means "leave alone". */
export function toLinuxResources(resources: OciResources): MessageInitShape<typeof LinuxResourcesSchema> {
  const { memory, cpu, pids, blockIO: io, hugepageLimits } = resources;
  return {
    ...(memory && { Memory: { Limit: BigInt(memory.limit ?? 0), Reservation: BigInt(memory.reservation ?? 0), Swap: BigInt(memory.swap ?? 0) } }),
    ...(cpu && { CPU: { Shares: BigInt(cpu.shares ?? 0), Quota: BigInt(cpu.quota ?? 0), Period: BigInt(cpu.period ?? 0), Cpus: cpu.cpus ?? "", Mems: cpu.mems ?? "" } }),
    ...(pids && { Pids: { Limit: BigInt(pids.limit) } }),
    ...(io && {
      BlockIO: {
        Weight: io.weight ?? 0,
        LeafWeight: io.leafWeight ?? 0,
        WeightDevice: (io.weightDevice ?? []).map(({ major, minor, weight, leafWeight }) => ({ Major: BigInt(major), Minor: BigInt(minor), Weight: weight ?? 0, LeafWeight: leafWeight ?? 0 })),
        ThrottleReadBpsDevice: throttles(io.throttleReadBpsDevice),
        ThrottleWriteBpsDevice: throttles(io.throttleWriteBpsDevice),
        ThrottleReadIOPSDevice: throttles(io.throttleReadIOPSDevice),
        ThrottleWriteIOPSDevice: throttles(io.throttleWriteIOPSDevice),
      },
    }),
    ...(hugepageLimits && { HugepageLimits: hugepageLimits.map(({ pageSize, limit }) => ({ Pagesize: pageSize, Limit: BigInt(limit) })) }),
  };
}

function throttles(devices: readonly OciThrottle[] = []): { Major: bigint; Minor: bigint; Rate: bigint }[] {
  return devices.map(({ major, minor, rate }) => ({ Major: BigInt(major), Minor: BigInt(minor), Rate: BigInt(rate) }));
}
