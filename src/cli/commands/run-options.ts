import { type Command, Option } from "commander";
import { resolve } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import type { ContainerOptions } from "../../host/containers/container-options.ts";
import { signalNumber } from "../../host/containers/end-container.ts";
import { parsePublish } from "../../host/network/publish.ts";
import { parseVolume } from "../../host/storage/shares/parse-volume.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { collect } from "../command.ts";
import type { LaunchOptions } from "../launch.ts";
import { parseSize } from "../format/size.ts";
import { defineHealth, toHealthOptions, type HealthFlags } from "./health-options.ts";
import { defineSettings, readLines, toSettings, type SettingsFlags } from "./run-settings.ts";

/** What the parser leaves of the options that `run` and `create` share. */
export interface RunFlags extends SettingsFlags, HealthFlags {
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly rm?: boolean;
  readonly name?: string;
  readonly env?: readonly string[];
  readonly workdir?: string;
  readonly user?: string;
  readonly entrypoint?: string;
  readonly volume?: readonly string[];
  readonly readOnly?: boolean;
  readonly privileged?: boolean;
  readonly publish?: readonly string[];
  readonly publishAll?: boolean;
  readonly network?: string;
  readonly net?: string;
  readonly cpus?: string;
  readonly cpuPeriod?: string;
  readonly cpuQuota?: string;
  readonly memory?: string;
  readonly hostname?: string;
  readonly label?: readonly string[];
  readonly stopSignal?: string;
  readonly stopTimeout?: string;
  readonly template?: string;
  readonly pull?: string;
  readonly platform?: string;
  readonly cidfile?: string;
  readonly quiet?: boolean;
}

/** docker options that cannot mean anything here, with what to use instead; refused rather than ignored. */
const refused: Readonly<Record<string, string>> = {
  "--link <name>": "containers in different VMs do not share a network: publish a port with -p and connect to it",
  "--network-alias <name>": "there are no named networks: publish a port with -p",
  "--ip <address>": "a sandbox gets its address by itself: publish a port with -p",
  "--pid <mode>": "a container cannot see the host's processes from inside its VM; `casemate exec --vm` shows the guest's",
  "--ipc <mode>": "a container cannot share the host's IPC from inside its VM",
  "--uts <mode>": "a container cannot share the host's names from inside its VM; use --hostname",
  "--userns <mode>": "the VM is the boundary; use -u for another user",
  "--device <device>": "host devices cannot be given to a VM yet",
  "--gpus <gpus>": "host devices cannot be given to a VM yet",
  "--volumes-from <container>": "name the volumes with -v",
  "--cgroup-parent <path>": "the container's cgroup is in the guest",
  "--isolation <mode>": "every container has a VM of its own",
  "--runtime <name>": "every container has a VM of its own",
  "--ip6 <address>": "a sandbox gets its address by itself: publish a port with -p",
  "--mac-address <address>": "a sandbox gets its address by itself",
  "--domainname <name>": "use --hostname with the whole name",
  "-a, --attach <stream>": "run shows both streams unless -d is given; give it input with -i",
  "--expose <port>": "a port is reachable when it is published: -p",
  "--oom-score-adj <number>": "the kernel that runs out of memory is the container's own; raise --memory",
  "--memory-swappiness <percent>": "a VM has no swap",
  "--device-read-iops <limit>": "disks of a VM have no limits yet",
  "--device-write-iops <limit>": "disks of a VM have no limits yet",
  "--cgroupns <mode>": "a container always has a cgroup namespace of its own, in its guest",
  "--device-cgroup-rule <rule>": "host devices cannot be given to a VM yet",
  "--device-read-bps <limit>": "disks of a VM have no limits yet",
  "--device-write-bps <limit>": "disks of a VM have no limits yet",
  "--blkio-weight <weight>": "a container does not share its VM's disks with another",
  "--storage-opt <option>": "the writable layer grows as it is needed",
  "--volume-driver <driver>": "volumes are folders of this machine: -v",
  "--oom-kill-disable": "a guest without memory could not be reached any more; raise --memory",
  "--cpuset-mems <list>": "a VM has one memory node",
  "--disable-content-trust": "digests are always checked; signatures by skopeo's policy.json",
};

/** Defines the options of `run` and `create`; only `run` can do without an image. */
export function defineRunOptions(command: Command, imageArgument: "<image>" | "[image]" = "<image>"): Command {
  command
    .argument(imageArgument, "image to run, e.g. busybox or docker.io/library/alpine:3")
    .argument("[command...]", "command and arguments; default: the image's")
    .passThroughOptions()
    .option("-i, --interactive", "keep standard input open")
    .option("-t, --tty", "give the container a terminal")
    .option("--rm", "remove the container when it has ended")
    .option("--name <name>", "name of the container; default: one made up")
    .option("-e, --env <name=value>", "set an environment variable; NAME alone takes yours", collect)
    .option("-w, --workdir <dir>", "working directory in the container")
    .option("-u, --user <user[:group]>", "user by name or number")
    .option("--entrypoint <program>", "run this instead of the image's entrypoint; \"\" for none")
    .option("-v, --volume <host:container[:ro]>", "show a host folder, file or named volume to the container", collect)
    .option("--read-only", "make the root file system read-only")
    .option("--privileged", "give the container all rights in its guest (never on the host)")
    .option("-p, --publish <[ip:]host:container[/udp]>", "make a port of the container reachable on the host", collect)
    .option("-P, --publish-all", "publish every port the image exposes on a free host port")
    .option("--network <mode>", "\"user\" (default: outgoing connections and published ports) or \"none\"")
    .addOption(new Option("--net <mode>", "docker's shorter name").hideHelp())
    .option("--cpus <number>", "most CPUs the container may use, e.g. 1.5")
    .addOption(new Option("--cpu-quota <microseconds>", "CPU time in each period").hideHelp())
    .addOption(new Option("--cpu-period <microseconds>", "length of a period; default: 100000").hideHelp())
    .option("-m, --memory <size>", "most memory the container may use, e.g. 512m or 2g")
    .option("-h, --hostname <name>", "host name; default: the container's short id")
    .option("-l, --label <name=value>", "set a label", collect)
    .option("--stop-signal <signal>", "signal that asks the container to end; default: the image's, or SIGTERM")
    .option("--stop-timeout <seconds>", "time between that signal and SIGKILL; default: 10")
    .addOption(new Option("--template <mode>", "what the VM starts from: \"auto\" (default) a saved VM, with the container in it when it was run before; \"guest\" a saved VM without one; \"off\" boot cold").choices(["auto", "guest", "off"]))
    .option("--pull <when>", "fetch the image: missing (default), always or never")
    .option("--platform <platform>", "only this machine's can run, e.g. linux/amd64")
    .option("--cidfile <file>", "write the container's id to a new file")
    .option("-q, --quiet", "print no notes about the VM")
    .helpOption("--help", "show this help");
  defineSettings(command);
  defineHealth(command);
  for (const flags of Object.keys(refused)) command.addOption(new Option(flags).hideHelp());
  return command;
}

/** What the options mean. @throws RuntimeError `invalid_argument` naming the option. */
export function toContainerOptions(image: string, command: readonly string[], flags: RunFlags, folders: StateFolders): ContainerOptions {
  refuseOptions(flags);
  requirePlatform(flags.platform);
  const { settings, mounts } = toSettings(flags, folders);
  return {
    image,
    command,
    settings,
    ...toHealthOptions(flags),
    ...(flags.init === true && { init: "init" as const }),
    env: [...readLines(flags.envFile ?? [], "--env-file"), ...flags.env ?? []],
    terminal: flags.tty ?? false,
    openStdin: flags.interactive ?? false,
    autoRemove: flags.rm ?? false,
    readOnlyRootfs: flags.readOnly ?? false,
    privileged: flags.privileged ?? false,
    publishAll: flags.publishAll ?? false,
    network: toNetwork(flags.network ?? flags.net),
    ports: (flags.publish ?? []).flatMap((text) => parsePublish(text)),
    volumes: [...(flags.volume ?? []).map((text) => parseVolume(text, { cwd: resolve("."), folders })), ...mounts.flatMap((mount) => (mount.type === "volume" ? [mount.volume] : []))],
    labels: Object.fromEntries([...readLines(flags.labelFile ?? [], "--label-file"), ...flags.label ?? []].map(splitLabel)),
    coldBoot: flags.template === "off",
    guestTemplate: flags.template === "guest",
    ...(flags.name !== undefined && { name: flags.name }),
    ...(flags.workdir !== undefined && { workingDir: toWorkingDir(flags.workdir) }),
    ...(flags.user !== undefined && { user: flags.user }),
    ...(flags.entrypoint !== undefined && { entrypoint: flags.entrypoint }),
    ...(flags.hostname !== undefined && { hostname: toHostname(flags.hostname) }),
    ...toCpus(flags),
    ...(flags.memory !== undefined && { memoryBytes: parseSize(flags.memory, "--memory") }),
    ...(flags.stopSignal !== undefined && { stopSignal: checkedSignal(flags.stopSignal) }),
    ...(flags.stopTimeout !== undefined && { stopTimeoutMs: toNumber(flags.stopTimeout, "--stop-timeout") * 1_000 }),
  };
}

/** How the container is made on disk. @throws RuntimeError `invalid_argument`. */
export function creation({ pull = "missing", cidfile }: RunFlags): Pick<LaunchOptions, "pull" | "cidFile"> {
  if (pull !== "missing" && pull !== "always" && pull !== "never") throw new RuntimeError("invalid_argument", `--pull "${pull}": must be missing, always or never`, { reason: "bad_option" });
  return { pull, cidFile: cidfile };
}

/** A VM has this machine's kind of CPU. @throws RuntimeError `unimplemented` (reason `option_refused`). */
export function requirePlatform(platform: string | undefined): void {
  const own = process.arch === "arm64" ? "arm64" : "amd64";
  if (platform === undefined || platform === "linux" || platform.startsWith(`linux/${own}`)) return;
  throw new RuntimeError("unimplemented", `--platform "${platform}": only linux/${own} can run here`, { reason: "option_refused", hint: "use an image of this machine's kind" });
}

function refuseOptions(flags: object): void {
  for (const [definition, instead] of Object.entries(refused)) {
    const option = new Option(definition);
    if (option.attributeName() in flags) throw new RuntimeError("unimplemented", `option ${option.long ?? definition} is not supported`, { reason: "option_refused", hint: instead });
  }
}

function toNetwork(mode: string | undefined): "none" | "user" {
  if (mode === undefined || mode === "user" || mode === "none") return mode ?? "user";
  const instead = mode === "host" ? "a VM has no part in the host's network: publish ports with -p" : "there are no named networks: use --network user and publish ports with -p";
  throw new RuntimeError("invalid_argument", `network "${mode}": must be "user" or "none"`, { reason: "bad_network", hint: instead });
}

/** @throws RuntimeError `invalid_argument` for a relative path. */
export function toWorkingDir(path: string): string {
  if (!path.startsWith("/")) throw new RuntimeError("invalid_argument", `working directory "${path}": must be an absolute path`, { reason: "bad_workdir", hint: "write -w /path" });
  return path;
}

function toHostname(name: string): string {
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9-.]{0,62})$/.test(name)) throw new RuntimeError("invalid_argument", `host name "${name}": only letters, digits, "-" and ".", at most 63`, { reason: "bad_hostname" });
  return name;
}

/** @throws RuntimeError `invalid_argument`: at once, not when the container is to be stopped. */
function checkedSignal(name: string): string {
  signalNumber(name);
  return name;
}

/** docker's older options say the same as `--cpus`. */
function toCpus({ cpus, cpuQuota, cpuPeriod }: RunFlags): { readonly cpus?: number } {
  if (cpus !== undefined && (cpuQuota ?? cpuPeriod) !== undefined) throw new RuntimeError("invalid_argument", "--cpus says what --cpu-quota and --cpu-period say", { reason: "bad_cpus", hint: "give one or the other" });
  if (cpus !== undefined) return { cpus: toNumber(cpus, "--cpus") };
  const quota = toNumber(cpuQuota ?? "0", "--cpu-quota");
  return quota === 0 ? {} : { cpus: quota / (toNumber(cpuPeriod ?? "0", "--cpu-period") || 100_000) };
}

/** For commands that start a sandbox. */
export const startTimeoutOption = ["--start-timeout <seconds>", "longest start of the VM, up to its agent's answer; default: 120"] as const;

/** @throws RuntimeError `invalid_argument`. Undefined: the default. */
export function toStartTimeoutMs(text: string | undefined): number | undefined {
  return text === undefined ? undefined : toNumber(text, "--start-timeout") * 1_000;
}

function toNumber(text: string, option: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) throw new RuntimeError("invalid_argument", `${option} "${text}": must be a number`, { reason: "bad_number" });
  return value;
}

function splitLabel(label: string): [string, string] {
  const equals = label.indexOf("=");
  return equals === -1 ? [label, ""] : [label.slice(0, equals), label.slice(equals + 1)];
}
