import { RuntimeError } from "../../shared/base/errors.ts";
import { publishExposed } from "../network/publish.ts";
import type { ImageConfig } from "../storage/images/image-config.ts";
import { ContainerStore, type ContainerRecord } from "../store/container-store.ts";
import type { StateFolders } from "../store/paths.ts";
import { buildSpec } from "./build-spec.ts";
import { checkResources, checkRestartPolicy, mergeEnv, resolveEnv, resolveHealthCheck, type ContainerOptions } from "./container-options.ts";
import { defaultHostname, newContainerId, newContainerName, newSandboxId } from "./names.ts";

/** An image as a container needs it. */
export interface ContainerImage {
  readonly id: string;
  readonly manifestDigest: string;
  readonly config: ImageConfig;
  readonly rootfs: { readonly path: string; readonly fsType: string };
}

/** docker's time between the stop signal and SIGKILL. */
const defaultStopTimeoutMs = 10_000;
/** How often a made-up name may collide before we give up. */
const nameTries = 10;

/** Makes a container on disk; nothing runs yet. The name is claimed here. */
export function createContainer(folders: StateFolders, options: ContainerOptions, image: ContainerImage): ContainerRecord {
  checkResources(options);
  checkRestartPolicy(options.settings?.restart, options);
  if (options.pod !== undefined && (options.ports?.length ?? 0) > 0) throw new RuntimeError("invalid_argument", "a pod's ports are published by the pod", { reason: "option_refused", hint: "give -p to casemate pod create" });
  const store = new ContainerStore(folders);
  for (let tries = 1; ; tries++) {
    const record = describeContainer(options, image, options.name ?? newContainerName());
    try {
      store.create(record, buildSpec(record, options.pod));
      return record;
    } catch (error) {
      if (options.name !== undefined || tries >= nameTries || !(RuntimeError.is(error) && error.reason === "name_taken")) throw error;
    }
  }
}

/** What would be made of the options; nothing is written down. */
export function describeContainer(options: ContainerOptions, image: ContainerImage, name: string): ContainerRecord {
  const { config } = image;
  const containerId = newContainerId();
  // docker: an entrypoint of the caller's own drops the image's command.
  const entrypoint = options.entrypoint === undefined ? config.entrypoint : options.entrypoint === "" ? [] : [options.entrypoint];
  const command = options.command.length > 0 || options.entrypoint !== undefined ? options.command : config.cmd;
  if (entrypoint.length + command.length === 0 && options.init !== "idle") throw new RuntimeError("invalid_argument", `image "${options.image}" names no command`, { reason: "no_command", hint: "give a command after the image" });
  const network = options.pod?.network ?? options.network ?? "user";
  const ports = [...options.ports ?? [], ...(options.publishAll ? publishExposed(config.exposedPorts) : [])];
  if (network === "none" && ports.length > 0) throw new RuntimeError("invalid_argument", "ports cannot be published with --network none", { reason: "no_network", hint: "leave out --network none or -p" });
  const health = options.init === "idle" ? undefined : resolveHealthCheck(config.healthcheck, options.health);
  const settings = { ...options.settings, ...(health && { health }) };
  return {
    version: 1,
    containerId,
    sandboxId: options.pod?.sandboxId ?? options.sandboxId ?? newSandboxId(),
    name,
    createdAtUnixMs: Date.now(),
    image: options.image,
    imageId: image.id,
    imageDigest: image.manifestDigest,
    rootfs: [image.rootfs],
    command,
    entrypoint,
    env: mergeEnv(config.env, resolveEnv(options.env ?? [], process.env)),
    workingDir: options.workingDir ?? config.workingDir,
    user: options.user ?? config.user,
    hostname: options.hostname ?? defaultHostname(containerId),
    terminal: options.terminal ?? false,
    openStdin: options.openStdin ?? false,
    autoRemove: options.autoRemove ?? false,
    readOnlyRootfs: options.readOnlyRootfs ?? false,
    privileged: options.privileged ?? false,
    network,
    ports,
    volumes: options.volumes ?? [],
    memoryBytes: options.memoryBytes ?? 0,
    cpus: options.cpus ?? 0,
    stopSignal: options.stopSignal ?? (config.stopSignal === "" ? "SIGTERM" : config.stopSignal),
    stopTimeoutMs: options.stopTimeoutMs ?? defaultStopTimeoutMs,
    labels: { ...config.labels, ...options.labels },
    coldBoot: options.coldBoot ?? false,
    guestTemplate: options.guestTemplate ?? false,
    ...(options.pod !== undefined && { pod: options.pod.name }),
    ...(options.init !== undefined && { init: options.init }),
    ...(Object.keys(settings).length > 0 && { settings }),
  };
}
