import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isErrnoException } from "../../src/shared/base/errors.ts";
import { type Descendant, descendants } from "../../scripts/test-runner/descendants.ts";
import { readProcStat } from "../../src/shared/linux/proc.ts";

/** Everything on the host that a sandbox could leave behind: kind to full listing, one line each. */
export type HostListing = ReadonlyMap<string, ReadonlySet<string>>;

/** Where to look beside the places that every test shares. */
export interface ListingOptions {
  /** State folders of the test: everything in them is listed. */
  readonly folders: readonly string[];
  /**
   * True on a machine that does other work meanwhile: only processes below this one are listed (it
   * adopts orphans, so none of ours gets away), and only cgroups, sockets and temporary files with our names.
   */
  readonly shared: boolean;
}

/** How names of ours begin, in /tmp and among abstract sockets. */
const ourNames = /casemate|\bcm-/;

/** crun makes its folder whenever it is started, for `--version` too; it is the same for everybody on the machine. */
const crunFolder = "/run/crun";

/** Lists the host as it is now. */
export function listHost(options: ListingOptions): HostListing {
  const ours = (names: string[]): Set<string> => new Set(options.shared ? names.filter((name) => ourNames.test(name)) : names);
  return new Map<string, ReadonlySet<string>>([
    ["mount", new Set(mounts())],
    ["process", new Set(options.shared ? descendants().map(describeProcess) : processes())],
    ["loop device", new Set(loopDevices())],
    ["network link", new Set(networkLinks())],
    ["network namespace", new Set(readNames("/run/netns"))],
    ["cgroup", ours(cgroups())],
    ["unix socket", ours(unixSockets())],
    ["temporary file", ours(["/tmp", "/dev/shm", "/var/tmp", "/run"].flatMap((folder) => readNames(folder).map((name) => join(folder, name)).filter((path) => path !== crunFolder)))],
    ["state", new Set([...options.folders, "/var/lib/casemate", "/run/casemate"].flatMap((folder) => filesBelow(folder)))],
  ]);
}

/** Without the first fields: a mount's number changes when another is made and removed. */
function mounts(): string[] {
  return lines("/proc/self/mountinfo").map((line) => line.split(" ").slice(2).join(" "));
}

/** Live processes but this one and the kernel's own; a zombie is gone as far as we are concerned. */
function processes(): string[] {
  return readNames("/proc").flatMap((name) => {
    const pid = Number(name);
    const stat = Number.isInteger(pid) && pid !== process.pid ? readProcStat(pid) : undefined;
    // A kernel thread has no command line and descends from kthreadd (pid 2).
    if (stat === undefined || stat.state === "Z" || stat.state === "X" || pid === 2 || stat.parentPid === 2) return [];
    return [describeProcess({ pid, startTimeTicks: stat.startTimeTicks, command: readIfThere(`/proc/${name}/cmdline`).replaceAll("\0", " ").trim() })];
  });
}

function describeProcess({ pid, startTimeTicks, command }: Descendant): string {
  return `${pid} (started at tick ${startTimeTicks}) ${command.slice(0, 300)}`;
}

function loopDevices(): string[] {
  return readNames("/sys/block").filter((name) => name.startsWith("loop")).flatMap((name) => {
    const backing = readIfThere(`/sys/block/${name}/loop/backing_file`).trim();
    return backing === "" ? [] : [`/dev/${name} of ${backing}`];
  });
}

/** Of this process's network namespace, which /sys need not show. */
function networkLinks(): string[] {
  return lines("/proc/self/net/dev").slice(2).map((line) => line.slice(0, line.indexOf(":")).trim());
}

/** Folders of every cgroup hierarchy, version 1 or 2. */
function cgroups(): string[] {
  return lines("/proc/self/mountinfo")
    .filter((line) => / - cgroup2? /.test(line))
    .flatMap((line) => foldersBelow(line.split(" ")[4] ?? ""));
}

/** Sockets with a path or an abstract name. */
function unixSockets(): string[] {
  return lines("/proc/net/unix").slice(1).flatMap((line) => {
    const path = line.trim().split(/\s+/).slice(7).join(" ");
    return path === "" ? [] : [path];
  });
}

function foldersBelow(folder: string): string[] {
  return readEntries(folder).filter((entry) => entry.isDirectory()).flatMap((entry) => [join(folder, entry.name), ...foldersBelow(join(folder, entry.name))]);
}

function filesBelow(folder: string): string[] {
  return readEntries(folder).flatMap((entry) => [join(folder, entry.name), ...(entry.isDirectory() ? filesBelow(join(folder, entry.name)) : [])]);
}

function readNames(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}

/** Empty when the folder has gone while we were on the way to it. */
function readEntries(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "ENODEV")) return [];
    throw error;
  }
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (["ENOENT", "ESRCH", "ENXIO"].some((code) => isErrnoException(error, code))) return "";
    throw error;
  }
}

function lines(path: string): string[] {
  return readFileSync(path, "utf8").split("\n").filter((line) => line !== "");
}
