import type { Health } from "../../shared/protocol/gen/agent/health_pb.ts";
import { HealthCheckResponse_ServingStatus as ServingStatus } from "../../shared/protocol/gen/agent/health_pb.ts";
import type { ServiceImplementation } from "../../shared/ttrpc/server.ts";
import { agentVersion } from "../version.ts";

/** grpc.Health: that it answers is the answer. */
export const healthService: ServiceImplementation<typeof Health> = {
  check: () => ({ status: ServingStatus.SERVING }),
  version: () => ({ grpcVersion: "", agentVersion }),
};
