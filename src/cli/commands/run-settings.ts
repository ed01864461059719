// docker's less common options of `run` and `create`: what they mean here, and why some are refused.
import { Option, type Command } from "commander";
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { resolve } from "node:path";
import { RuntimeError } from "../../shared/base/errors.ts";
import { parseVolume } from "../../host/storage/shares/parse-volume.ts";
import type { ContainerSettings, MountRequest, TmpfsMount, Ulimit } from "../../host/store/container-settings.ts";
import type { StateFolders } from "../../host/store/paths.ts";
import { noRestart, type RestartPolicy } from "../../host/store/restart-policy.ts";
import { collect } from "../command.ts";
import { parseSize } from "../format/size.ts";
import { parseSeconds } from "../format/time.ts";

/** What the parser leaves of these options. */
export interface SettingsFlags {
  readonly envFile?: readonly string[];
  readonly labelFile?: readonly string[];
  readonly tmpfs?: readonly string[];
  readonly mount?: readonly string[];
  readonly ulimit?: readonly string[];
  readonly capAdd?: readonly string[];
  readonly capDrop?: readonly string[];
  readonly securityOpt?: readonly string[];
  readonly init?: boolean;
  readonly addHost?: readonly string[];
  readonly dns?: readonly string[];
  readonly dnsSearch?: readonly string[];
  readonly dnsOption?: readonly string[];
  readonly dnsOpt?: readonly string[];
  readonly cpuShares?: string;
  readonly cpusetCpus?: string;
  readonly memorySwap?: string;
  readonly memoryReservation?: string;
  readonly pidsLimit?: string;
  readonly shmSize?: string;
  readonly groupAdd?: readonly string[];
  readonly sysctl?: readonly string[];
  readonly annotation?: readonly string[];
  readonly logDriver?: string;
  readonly logOpt?: readonly string[];
  readonly timeout?: string;
  readonly cloneCmd?: string;
  readonly restart?: string;
}

/** Defines them. */
export function defineSettings(command: Command): Command {
  return command
    .option("--env-file <file>", "set environment variables from a file of NAME=value lines", collect)
    .option("--label-file <file>", "set labels from a file of NAME=value lines", collect)
    .option("--tmpfs <path[:options]>", "mount a file system in memory", collect)
    .option("--mount <key=value,...>", "show a host folder, a named volume or memory: type=bind|volume|tmpfs,source=...,target=...[,readonly]", collect)
    .option("--ulimit <name=soft[:hard]>", "set a limit of the process, e.g. nofile=1024", collect)
    .option("--cap-add <capability>", "give the container a right in its guest; ALL for all", collect)
    .option("--cap-drop <capability>", "take a right from it; ALL for all", collect)
    .option("--security-opt <option>", "no-new-privileges", collect)
    .option("--init", "a first process that passes signals on and collects orphans")
    .option("--add-host <name:address>", "add a line to /etc/hosts", collect)
    .option("--dns <address>", "resolver to use instead of the machine's", collect)
    .option("--dns-search <domain>", "domain to look names up in", collect)
    .option("--dns-option <option>", "option of resolv.conf", collect)
    .addOption(new Option("--dns-opt <option>", "docker's older name").argParser(collect).hideHelp())
    .option("-c, --cpu-shares <number>", "weight against other containers of the same VM; 1024 is everybody's")
    .option("--cpuset-cpus <list>", "CPUs of the VM it may use, e.g. 0-1")
    .option("--memory-swap <size>", "most memory and swap together; -1 for no limit")
    .option("--memory-reservation <size>", "memory it is left with when others need some")
    .option("--pids-limit <number>", "most processes; -1 for no limit")
    .option("--shm-size <size>", "size of /dev/shm; default: 64m")
    .option("--group-add <gid>", "a further group of the process, by number", collect)
    .option("--sysctl <name=value>", "set a kernel parameter of the container", collect)
    .option("--annotation <name=value>", "set an annotation of the OCI configuration", collect)
    .addOption(new Option("--log-driver <driver>", "where its output is kept").choices(["casemate", "json-file", "local", "none"]))
    .option("--log-opt <name=value>", "max-size and max-file of the log", collect)
    .option("--restart <policy>", "what follows its end: no (default), on-failure[:times], always or unless-stopped")
    .option("--clone-cmd <command>", "run this in the container's shell in every copy made by fork or --from-snapshot, before the copy is ready")
    .option("--timeout <seconds>", "end the container that long after its start");
}

/** What they mean. @throws RuntimeError `invalid_argument` or `unimplemented` naming the option. */
export function toSettings(flags: SettingsFlags, folders: StateFolders): { readonly settings: ContainerSettings; readonly mounts: readonly MountRequest[] } {
  const restart = flags.restart === undefined ? noRestart : parseRestartPolicy(flags.restart);
  const mounts = (flags.mount ?? []).map((text) => parseMount(text, folders));
  const tmpfs = [...(flags.tmpfs ?? []).map(parseTmpfs), ...mounts.flatMap((mount) => (mount.type === "tmpfs" ? [mount.tmpfs] : []))];
  const logging = toLogging(flags);
  const settings: ContainerSettings = {
    ...optional("tmpfs", tmpfs),
    ...optional("ulimits", (flags.ulimit ?? []).map(parseUlimit)),
    ...optional("capAdd", (flags.capAdd ?? []).map(parseCapability)),
    ...optional("capDrop", (flags.capDrop ?? []).map(parseCapability)),
    ...toSecurity(flags.securityOpt ?? []),
    ...optional("hosts", (flags.addHost ?? []).map(parseHost)),
    ...optional("dns", (flags.dns ?? []).map(parseAddress)),
    ...optional("dnsSearch", flags.dnsSearch ?? []),
    ...optional("dnsOptions", [...flags.dnsOption ?? [], ...flags.dnsOpt ?? []]),
    ...(flags.cpuShares !== undefined && { cpuShares: parseWhole(flags.cpuShares, "--cpu-shares", 2) }),
    ...(flags.cpusetCpus !== undefined && { cpuset: parseCpuset(flags.cpusetCpus) }),
    ...(flags.memorySwap !== undefined && { memorySwapBytes: flags.memorySwap === "-1" ? -1 : parseSize(flags.memorySwap, "--memory-swap") }),
    ...(flags.memoryReservation !== undefined && { memoryReservationBytes: parseSize(flags.memoryReservation, "--memory-reservation") }),
    ...(flags.pidsLimit !== undefined && { pidsLimit: parseWhole(flags.pidsLimit, "--pids-limit", -1) }),
    ...(flags.shmSize !== undefined && { shmBytes: parseSize(flags.shmSize, "--shm-size") }),
    ...optional("groupAdd", (flags.groupAdd ?? []).map((text) => parseWhole(text, "--group-add", 0))),
    ...(flags.sysctl !== undefined && { sysctls: Object.fromEntries(flags.sysctl.map(parseSysctl)) }),
    ...(flags.annotation !== undefined && { annotations: Object.fromEntries(flags.annotation.map((text) => splitPair(text, "--annotation"))) }),
    ...(logging && { logging }),
    ...(restart.name !== "no" && { restart }),
    ...(flags.cloneCmd !== undefined && { cloneCommand: flags.cloneCmd }),
    ...(flags.timeout !== undefined && { timeoutMs: parseSeconds(flags.timeout, "--timeout") }),
  };
  return { settings, mounts };
}

/** docker's words for what follows the end of a container. @throws RuntimeError `invalid_argument`. */
export function parseRestartPolicy(text: string): RestartPolicy {
  const [, name, times] = /^(no|on-failure|always|unless-stopped)(?::(\d+))?$/.exec(text) ?? [];
  if (name === undefined) throw bad("--restart", text, "must be no, on-failure[:times], always or unless-stopped");
  if (times !== undefined && name !== "on-failure") throw bad("--restart", text, "only on-failure takes a number of times");
  return { name: name as RestartPolicy["name"], maxRetries: Number(times ?? 0) }; // one of the words of the expression
}

/** Lines of `--env-file` and `--label-file`: empty ones and comments are passed over, docker's way. */
export function readLines(files: readonly string[], option: string): string[] {
  return files.flatMap((file) => {
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      throw new RuntimeError("invalid_argument", `${option} "${file}"`, { reason: "bad_file", cause: error, hint: "name a file that can be read" });
    }
    return text.split(/\r?\n/).map((line) => line.trimStart()).filter((line) => line !== "" && !line.startsWith("#"));
  });
}

const bad = (option: string, text: string, why: string, hint?: string): RuntimeError => new RuntimeError("invalid_argument", `${option} "${text}": ${why}`, { reason: "bad_option", ...(hint !== undefined && { hint }) });

function optional<K extends string, T>(key: K, values: readonly T[]): { readonly [P in K]?: readonly T[] } {
  return values.length === 0 ? {} : { [key]: values } as { readonly [P in K]: readonly T[] }; // the key is the one given
}

function splitPair(text: string, option: string): [string, string] {
  const equals = text.indexOf("=");
  if (equals < 1) throw bad(option, text, "must be NAME=value");
  return [text.slice(0, equals), text.slice(equals + 1)];
}

function parseWhole(text: string, option: string, least: number): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || !Number.isSafeInteger(value) || value < least) throw bad(option, text, `must be a whole number from ${least} on`, option === "--group-add" ? "names of groups are not looked up: give the number" : undefined);
  return value;
}

function parseTmpfs(text: string): TmpfsMount {
  const colon = text.indexOf(":");
  const destination = colon === -1 ? text : text.slice(0, colon);
  if (!destination.startsWith("/")) throw bad("--tmpfs", text, "the path must be absolute");
  return { destination, options: colon === -1 ? [] : text.slice(colon + 1).split(",").filter((option) => option !== "") };
}

/** docker's --mount. */
function parseMount(text: string, folders: StateFolders): MountRequest {
  const pairs = new Map(text.split(",").map((part): [string, string] => (part.includes("=") ? [part.slice(0, part.indexOf("=")).toLowerCase(), part.slice(part.indexOf("=") + 1)] : [part.toLowerCase(), "true"])));
  const known = new Set(["type", "source", "src", "target", "dst", "destination", "readonly", "ro", "tmpfs-size", "tmpfs-mode", "bind-propagation", "volume-nocopy", "consistency"]);
  const unknown = [...pairs.keys()].find((key) => !known.has(key));
  if (unknown !== undefined) throw bad("--mount", text, `"${unknown}" is not known`);
  const type = pairs.get("type") ?? "volume";
  const source = pairs.get("source") ?? pairs.get("src");
  const target = pairs.get("target") ?? pairs.get("dst") ?? pairs.get("destination");
  if (target === undefined || !target.startsWith("/")) throw bad("--mount", text, "needs target=/absolute/path");
  const readOnly = ["true", "1"].includes(pairs.get("readonly") ?? pairs.get("ro") ?? "false");
  if (type === "tmpfs") {
    const size = pairs.get("tmpfs-size"), mode = pairs.get("tmpfs-mode");
    return { type: "tmpfs", tmpfs: { destination: target, options: [...(size === undefined ? [] : [`size=${parseSize(size, "--mount tmpfs-size")}`]), ...(mode === undefined ? [] : [`mode=${mode}`])] } };
  }
  if (type !== "bind" && type !== "volume") throw bad("--mount", text, "type must be bind, volume or tmpfs");
  if (type === "bind" && source === undefined) throw bad("--mount", text, "a bind mount needs source=");
  const from = type === "bind" ? resolve(source ?? "") : source;
  return { type: "volume", volume: parseVolume([...(from === undefined ? [] : [from]), target, ...(readOnly && from !== undefined ? ["ro"] : [])].join(":"), { cwd: resolve("."), folders }) };
}

const ulimitNames = new Set(["core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"]);

function parseUlimit(text: string): Ulimit {
  const match = /^([a-z]+)=(-?\d+)(?::(-?\d+))?$/.exec(text);
  const [, name = "", softText = "", hardText] = match ?? [];
  if (match === null || !ulimitNames.has(name)) throw bad("--ulimit", text, `must be name=soft[:hard] with a name of ${[...ulimitNames].join(", ")}`);
  const soft = Number(softText), hard = Number(hardText ?? softText);
  if (hard !== -1 && (soft === -1 || soft > hard)) throw bad("--ulimit", text, "the soft limit is above the hard one");
  return { name, soft, hard };
}

function parseCapability(text: string): string {
  const name = text.toUpperCase();
  if (!/^(CAP_)?[A-Z_]+$/.test(name)) throw bad("--cap-add or --cap-drop", text, "no such capability");
  return name === "ALL" || name.startsWith("CAP_") ? name : `CAP_${name}`;
}

function toSecurity(options: readonly string[]): Pick<ContainerSettings, "noNewPrivileges"> {
  let noNewPrivileges: boolean | undefined;
  for (const option of options) {
    const [, name = option, value = "true"] = /^([^=:]+)[=:](.*)$/.exec(option) ?? [];
    if (name === "no-new-privileges") noNewPrivileges = value === "true";
    // No filter is on by default: the VM is the boundary, so "unconfined" is how it is anyway.
    else if ((name === "seccomp" || name === "apparmor") && value === "unconfined") continue;
    else if (name === "label" && value === "disable") continue;
    else throw new RuntimeError("unimplemented", `--security-opt "${option}" is not supported`, { reason: "option_refused", hint: "the VM is the boundary: no-new-privileges, and \"unconfined\" for seccomp and apparmor, are all that can be said" });
  }
  return noNewPrivileges === undefined ? {} : { noNewPrivileges };
}

function parseHost(text: string): { readonly address: string; readonly name: string } {
  const separator = text.search(/[:=]/);
  const name = text.slice(0, Math.max(0, separator));
  const address = text.slice(separator + 1).replace(/^\[(.*)\]$/, "$1");
  if (address === "host-gateway") throw new RuntimeError("unimplemented", `--add-host "${text}": the machine's own services cannot be reached from a sandbox`, { reason: "option_refused", hint: "let the service listen on an address of the network" });
  if (name === "" || /\s/.test(name) || isIP(address) === 0) throw bad("--add-host", text, "must be name:address");
  return { name, address };
}

function parseAddress(text: string): string {
  if (isIP(text) === 0) throw bad("--dns", text, "must be an IP address");
  return text;
}

function parseCpuset(text: string): string {
  if (!/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(text)) throw bad("--cpuset-cpus", text, "must be a list of numbers, e.g. 0-1,3");
  return text;
}

function parseSysctl(text: string): [string, string] {
  const [name, value] = splitPair(text, "--sysctl");
  if (name.startsWith("net.")) throw new RuntimeError("unimplemented", `--sysctl "${text}": the network is the guest's, not the container's`, { reason: "option_refused", hint: "set it in the guest: casemate exec --vm NAME busybox sysctl -w NAME=VALUE" });
  return [name, value];
}

function toLogging({ logDriver, logOpt = [] }: SettingsFlags): ContainerSettings["logging"] {
  if (logDriver === undefined && logOpt.length === 0) return undefined;
  const options = new Map(logOpt.map((text) => splitPair(text, "--log-opt")));
  const unknown = [...options.keys()].find((key) => key !== "max-size" && key !== "max-file");
  if (unknown !== undefined) throw bad("--log-opt", unknown, "must be max-size or max-file");
  const size = options.get("max-size"), files = options.get("max-file");
  return {
    driver: logDriver === "none" ? "none" : "casemate",
    ...(size !== undefined && { maxFileBytes: parseSize(size, "--log-opt max-size") }),
    ...(files !== undefined && { maxFiles: parseWhole(files, "--log-opt max-file", 1) }),
  };
}
