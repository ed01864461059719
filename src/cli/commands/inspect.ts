import type { Command } from "commander";
import { RuntimeError } from "../../shared/base/errors.ts";
import { ContainerStore, type ContainerRecord, type ContainerStatus, hasProcesses } from "../../host/store/container-store.ts";
import type { HealthCheck, HealthState } from "../../host/store/health.ts";
import { containerPaths, sandboxPaths, type StateFolders } from "../../host/store/paths.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { noRestart } from "../../host/store/restart-policy.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { formatObjects, parseFormat } from "../format/format-option.ts";
import { formatTime } from "../format/time.ts";
import { exitWith, reportError } from "../exit.ts";

export function define(command: Command): void {
  command
    .argument("<container...>", "names or ids")
    .option("-f, --format <format>", "\"json\", or a template such as '{{.State.Status}}'")
    .addHelpText("after", "\nExample:\n  casemate inspect web | jq '.[0].Sandbox'")
    .action(async (names: readonly string[], flags: { readonly format?: string }) => {
      const format = parseFormat(flags.format ?? "json");
      const folders = foldersOf(command);
      const store = new ContainerStore(folders);
      const found: object[] = [];
      let failed = false;
      for (const name of names) {
        try {
          const record = store.find(name);
          found.push(await describe(folders, record, readPresentStatus(store, record)));
        } catch (error) {
          reportError(error, globalOptions(command).debug ?? false);
          failed = true;
        }
      }
      process.stdout.write(formatObjects(found, format));
      await exitWith(failed ? 1 : 0);
    });
}

/** What docker's inspect says of the same container, and the sandbox it is in. */
async function describe(folders: StateFolders, record: ContainerRecord, status: ContainerStatus): Promise<object> {
  const running = hasProcesses(status.status);
  const policy = record.settings?.restart ?? noRestart;
  const paths = containerPaths(folders, record.containerId);
  const [path, ...args] = [...record.entrypoint, ...record.command];
  return {
    Id: record.containerId,
    Created: formatTime(record.createdAtUnixMs),
    Path: path ?? "",
    Args: args,
    State: {
      Status: status.status,
      Running: running || status.status === "restarting",
      Paused: status.status === "paused",
      Restarting: status.status === "restarting",
      OOMKilled: status.oomKilled,
      Dead: false,
      Pid: running ? status.guestPid : 0,
      ExitCode: status.exitCode,
      Error: status.error,
      StartedAt: formatTime(status.startedAtUnixMs),
      FinishedAt: formatTime(status.finishedAtUnixMs),
      ...(status.health && { Health: describeHealth(status.health, running) }),
    },
    Image: record.imageId,
    ResolvConfPath: "",
    LogPath: paths.log,
    Name: `/${record.name}`,
    RestartCount: status.restart?.count ?? 0,
    Driver: "overlay",
    Platform: "linux",
    HostConfig: {
      Binds: record.volumes.map(({ source, name, destination, readOnly }) => `${name === "" ? source : name}:${destination}${readOnly ? ":ro" : ""}`),
      NetworkMode: record.network,
      PortBindings: byContainerPort(record.ports, (port) => ({ HostIp: port.hostAddress, HostPort: port.hostPorts === undefined ? "" : String(port.hostPorts.first) })),
      RestartPolicy: { Name: policy.name, MaximumRetryCount: policy.maxRetries },
      AutoRemove: record.autoRemove,
      Privileged: record.privileged,
      ReadonlyRootfs: record.readOnlyRootfs,
      Memory: record.memoryBytes,
      NanoCpus: Math.round(record.cpus * 1e9),
      Runtime: "casemate",
    },
    Mounts: record.volumes.map((volume) => ({
      Type: volume.type,
      ...(volume.name !== "" && { Name: volume.name }),
      Source: volume.source,
      Destination: volume.destination,
      Mode: volume.readOnly ? "ro" : "",
      RW: !volume.readOnly,
      Propagation: "rprivate",
    })),
    Config: {
      Hostname: record.hostname,
      User: record.user,
      AttachStdin: record.openStdin,
      Tty: record.terminal,
      OpenStdin: record.openStdin,
      Env: record.env,
      Cmd: record.command,
      Image: record.image,
      WorkingDir: record.workingDir,
      Entrypoint: record.entrypoint.length === 0 ? null : record.entrypoint,
      Labels: record.labels,
      ...(record.settings?.health && { Healthcheck: describeCheck(record.settings.health) }),
      StopSignal: record.stopSignal,
      StopTimeout: record.stopTimeoutMs / 1000,
    },
    NetworkSettings: {
      IPAddress: running ? status.ipAddress : "",
      Ports: running ? byContainerPort(status.ports, (port) => ({ HostIp: port.hostAddress === "" ? "0.0.0.0" : port.hostAddress, HostPort: String(port.hostPort) })) : {},
    },
    Sandbox: running ? await describeSandbox(folders, record) : { id: record.sandboxId, ownerPid: 0, vmmPid: 0, state: "stopped" },
  };
}

/** Of a container that has ended docker tells the last probes, and that it is unhealthy. */
function describeHealth({ status, failingStreak, log }: HealthState, running: boolean): object {
  return {
    Status: running ? status : "unhealthy",
    FailingStreak: failingStreak,
    Log: log.map(({ startUnixMs, endUnixMs, exitCode, output }) => ({ Start: formatTime(startUnixMs), End: formatTime(endUnixMs), ExitCode: exitCode, Output: output })),
  };
}

/** docker's times are in nanoseconds. */
function describeCheck({ test, intervalMs, timeoutMs, retries, startPeriodMs }: HealthCheck): object {
  return { Test: test, Interval: intervalMs * 1e6, Timeout: timeoutMs * 1e6, StartPeriod: startPeriodMs * 1e6, Retries: retries };
}

/** docker's shape: `80/tcp` to all the host ports that lead there. */
function byContainerPort<Port extends { readonly containerPort: number; readonly protocol: string }>(ports: readonly Port[], toBinding: (port: Port) => object): Readonly<Record<string, object[]>> {
  const bindings: Record<string, object[]> = {};
  for (const port of ports) (bindings[`${port.containerPort}/${port.protocol}`] ??= []).push(toBinding(port));
  return bindings;
}

/** What the owner says of the sandbox. */
async function describeSandbox(folders: StateFolders, record: ContainerRecord): Promise<object> {
  // Loaded for running containers alone: it brings the wire protocol with it.
  const { withOwner } = await import("../../host/containers/end-container.ts");
  try {
    const sandbox = await withOwner(folders, record, async ({ owner }) => owner.inspect({}));
    return {
      id: sandbox.sandboxId,
      ownerPid: sandbox.ownerPid,
      vmmPid: sandbox.vmmPid,
      accelerator: sandbox.accelerator,
      memoryBytes: Number(sandbox.memoryBytes),
      vcpus: sandbox.vcpuCount,
      startedBy: sandbox.startedBy,
      bootMs: Number(sandbox.bootMs),
      kernel: sandbox.guestKernel,
      state: sandbox.state,
      folder: sandboxPaths(folders, record.sandboxId).folder,
    };
  } catch (error) {
    if (!RuntimeError.is(error, "unavailable")) throw error;
    return { id: record.sandboxId, ownerPid: 0, vmmPid: 0, state: "stopped" }; // it ended while we looked
  }
}
