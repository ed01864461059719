import { noRestart } from "../../host/store/restart-policy.ts";
import type { ContainerRecord, PublishRequest } from "../../host/store/container-store.ts";
import type { OciResources } from "../../shared/oci/runtime-spec.ts";

const defaultShmBytes = 64 * 1024 * 1024;

/** docker's HostConfig of a container; `resources`: its limits as they are now. What docker shows as null when nothing was said is so here. */
export function describeHostConfig(record: ContainerRecord, resources: OciResources): object {
  const { settings = {} } = record;
  const policy = settings.restart ?? noRestart;
  return {
    Binds: record.volumes.map(({ source, name, destination, readOnly }) => `${name === "" ? source : name}:${destination}${readOnly ? ":ro" : ""}`),
    LogConfig: { Type: settings.logging?.driver === "none" ? "none" : "json-file", Config: {
      ...(settings.logging?.maxFileBytes !== undefined && { "max-size": String(settings.logging.maxFileBytes) }),
      ...(settings.logging?.maxFiles !== undefined && { "max-file": String(settings.logging.maxFiles) }),
    } },
    NetworkMode: record.network,
    PortBindings: byContainerPort(record.ports, describeRequest),
    RestartPolicy: { Name: policy.name, MaximumRetryCount: policy.maxRetries },
    AutoRemove: record.autoRemove,
    CapAdd: settings.capAdd ?? null,
    CapDrop: settings.capDrop ?? null,
    Dns: settings.dns ?? [],
    DnsOptions: settings.dnsOptions ?? [],
    DnsSearch: settings.dnsSearch ?? [],
    ExtraHosts: settings.hosts?.map(({ name, address }) => `${name}:${address}`) ?? null,
    GroupAdd: settings.groupAdd?.map(String) ?? null,
    Privileged: record.privileged,
    ReadonlyRootfs: record.readOnlyRootfs,
    SecurityOpt: settings.noNewPrivileges === true ? ["no-new-privileges"] : null,
    ...(settings.tmpfs && { Tmpfs: Object.fromEntries(settings.tmpfs.map(({ destination, options }) => [destination, options.join(",")])) }),
    ...(settings.sysctls && { Sysctls: settings.sysctls }),
    ShmSize: settings.shmBytes ?? defaultShmBytes,
    Memory: record.memoryBytes,
    MemoryReservation: resources.memory?.reservation ?? 0,
    MemorySwap: resources.memory?.swap ?? 0,
    NanoCpus: Math.round(record.cpus * 1e9),
    CpuShares: resources.cpu?.shares ?? 0,
    CpusetCpus: resources.cpu?.cpus ?? "",
    PidsLimit: resources.pids?.limit ?? null,
    Ulimits: settings.ulimits?.map(({ name, soft, hard }) => ({ Hard: hard, Name: name, Soft: soft })) ?? null,
    ...(record.init === "init" && { Init: true }),
    Runtime: "casemate",
  };
}

function describeRequest({ hostAddress, hostPorts }: PublishRequest): object {
  return { HostIp: hostAddress, HostPort: hostPorts === undefined ? "" : String(hostPorts.first) };
}

/** docker's shape: `80/tcp` to all the host ports that lead there. */
export function byContainerPort<Port extends { readonly containerPort: number; readonly protocol: string }>(ports: readonly Port[], toBinding: (port: Port) => object): Readonly<Record<string, object[]>> {
  const bindings: Record<string, object[]> = {};
  for (const port of ports) (bindings[`${port.containerPort}/${port.protocol}`] ??= []).push(toBinding(port));
  return bindings;
}
