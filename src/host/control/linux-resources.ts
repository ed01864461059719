import type { MessageInitShape } from "@bufbuild/protobuf";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";
import type { LinuxResourcesSchema } from "../../shared/protocol/gen/agent/oci_pb.ts";

/** OCI's resources in the agent protocol's message; what is absent stays 0 or empty, which means "leave alone". */
export function toLinuxResources(resources: OciResources): MessageInitShape<typeof LinuxResourcesSchema> {
  const { memory, cpu, pids } = resources;
  return {
    ...(memory && { Memory: { Limit: BigInt(memory.limit ?? 0), Reservation: BigInt(memory.reservation ?? 0), Swap: BigInt(memory.swap ?? 0) } }),
    ...(cpu && { CPU: { Shares: BigInt(cpu.shares ?? 0), Quota: BigInt(cpu.quota ?? 0), Period: BigInt(cpu.period ?? 0), Cpus: cpu.cpus ?? "", Mems: cpu.mems ?? "" } }),
    ...(pids && { Pids: { Limit: BigInt(pids.limit) } }),
  };
}
