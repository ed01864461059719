import { Option, type Command } from "commander";
import { readFileSync } from "node:fs";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciResources, OciSpec } from "../../shared/oci/runtime-spec.ts";
import { readContainerSize, type ContainerSize } from "../../host/store/container-size.ts";
import { ContainerStore, type ContainerRecord, type ContainerStatus, hasProcesses } from "../../host/store/container-store.ts";
import type { HealthCheck, HealthState } from "../../host/store/health.ts";
import { containerPaths, sandboxPaths, type StateFolders } from "../../host/store/paths.ts";
import { readPresentStatus } from "../../host/store/present-status.ts";
import { foldersOf, globalOptions } from "../command.ts";
import { formatObjects, parseFormat } from "../format/format-option.ts";
import { formatTime } from "../format/time.ts";
import { exitWith, reportError } from "../exit.ts";
import { byContainerPort, describeHostConfig } from "./inspect-host-config.ts";

/** What an object can be. */
type ObjectType = "container" | "image";

export function define(command: Command): void {
  command
    .argument("<name...>", "names or ids of containers or images")
    .option("-f, --format <format>", "\"json\", or a template such as '{{.State.Status}}'")
    .option("-s, --size", "with what containers take of the disk")
    .addOption(new Option("--type <type>", "look for these alone").choices(["container", "image"]))
    .addHelpText("after", "\nExample:\n  casemate inspect web | jq '.[0].Sandbox'")
    .action(async (names: readonly string[], flags: { readonly format?: string; readonly size?: boolean; readonly type?: ObjectType }) => {
      const format = parseFormat(flags.format ?? "json");
      const found: object[] = [];
      let failed = false;
      for (const name of names) {
        try {
          found.push(await find(foldersOf(command), name, flags.type ?? (command.parent?.name() === "container" ? "container" : undefined), flags.size ?? false));
        } catch (error) {
          reportError(error, globalOptions(command).debug ?? false);
          failed = true;
        }
      }
      process.stdout.write(formatObjects(found, format));
      await exitWith(failed ? 1 : 0);
    });
}

/** A container of that name, or else an image, as docker has it. */
async function find(folders: StateFolders, name: string, type: ObjectType | undefined, size: boolean): Promise<object> {
  const store = new ContainerStore(folders);
  try {
    if (type === "image") return await findImage(folders, name);
    const record = store.find(name);
    return await describe(folders, record, readPresentStatus(store, record), size ? readContainerSize(folders, record) : undefined);
  } catch (error) {
    if (type !== undefined || !RuntimeError.is(error, "not_found") || error.reason !== "container_not_found") throw error;
  }
  try {
    return await findImage(folders, name);
  } catch (error) {
    if (!RuntimeError.is(error, "not_found")) throw error;
    throw new RuntimeError("not_found", `no such container or image: ${name}`, { reason: "container_not_found", hint: "`casemate ps -a` and `casemate images` list what there is" });
  }
}

/** Loaded for images alone. */
async function findImage(folders: StateFolders, name: string): Promise<object> {
  const { inspectImage } = await import("./image-inspect.ts");
  return inspectImage(folders, name);
}

/** What docker's inspect says of the same container, and the sandbox it is in. */
async function describe(folders: StateFolders, record: ContainerRecord, status: ContainerStatus, size: ContainerSize | undefined): Promise<object> {
  const running = hasProcesses(status.status);
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
    HostConfig: describeHostConfig(record, readLimits(paths.spec)),
    ...(size && { SizeRw: size.layerBytes, SizeRootFs: size.layerBytes + size.imageBytes }),
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

/** A container's limits, which may have changed since it was made. */
function readLimits(specPath: string): OciResources {
  return (JSON.parse(readFileSync(specPath, "utf8")) as OciSpec).linux?.resources ?? {}; // written by buildSpec()
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
