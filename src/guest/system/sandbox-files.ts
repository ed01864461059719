import { constants, fstatSync, ftruncateSync, mkdirSync, openSync, readSync, writeSync } from "node:fs";
import { call } from "../../shared/linux/libc.ts";
import { mountFlag, mountNow } from "../linux/mount.ts";
import { paths } from "../paths.ts";

/** Drawn by the kernel when it is read first, and then the same in every copy of a guest; ours changes with each identity. */
const kernelBootId = "/proc/sys/kernel/random/boot_id";

const loopbackHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/** Who the guest is: its name, addresses and resolvers, in the kernel and in the files that containers see in /etc. */
export class SandboxFiles {
  #hostname = "casemate";
  #addresses: readonly string[] = [];
  #sandboxId = "";
  #generation = 0;
  /** Has another UUID each time it is read. */
  readonly #uuids = openSync("/proc/sys/kernel/random/uuid", constants.O_RDONLY);
  readonly #files = new Map<string, { readonly fd: number; content: string }>();

  /** Empty in a template. */
  get sandboxId(): string { return this.#sandboxId; }

  setSandboxId(sandboxId: string): void {
    this.#sandboxId = sandboxId;
  }

  setHostname(hostname: string): void {
    if (hostname === "") return;
    this.#hostname = hostname;
    const name = Buffer.from(hostname);
    call("int sethostname(void *, unsigned long)", name, name.length);
    this.#write("hostname", `${hostname}\n`);
    this.#writeHosts();
  }

  /** IP addresses of the guest, which its name stands for. */
  setAddresses(addresses: readonly string[]): void {
    this.#addresses = addresses;
    this.#writeHosts();
  }

  /** Lines of resolv.conf(5). */
  setDns(lines: readonly string[]): void {
    this.#write("resolv.conf", resolvConf(lines));
  }

  /** machine-id(5). */
  setMachineId(machineId: string): void {
    this.#write("machine-id", `${machineId}\n`);
  }

  /** Draws another boot id, a random UUID as the kernel's is; after the kernel has got new randomness. */
  newBootId(): void {
    const line = Buffer.alloc(37);
    readSync(this.#uuids, line, 0, line.length, 0);
    this.#write("boot-id", line.toString("latin1"));
  }

  /** Shows our boot id in the guest itself. Containers have that mount bound into their own /proc: read-only from the start, because crun copies it once more before it would make it so. */
  mountBootId(): void {
    const { BIND, REMOUNT, RDONLY, NOSUID, NODEV, NOEXEC } = mountFlag;
    const mount = { source: `${paths.sandboxFiles}/boot-id`, target: kernelBootId, fsType: "", data: "" };
    mountNow({ ...mount, flags: BIND });
    mountNow({ ...mount, flags: BIND | REMOUNT | RDONLY | NOSUID | NODEV | NOEXEC });
  }

  /** Counts how often this guest was given a new identity: programs that keep random numbers or ids of their own can watch the file, or map it. */
  nextGeneration(): void {
    this.#generation++;
    this.#write("generation", `${this.#generation}\n`);
  }

  /** Makes all of them. Later each is written in place: a container has them bind-mounted. */
  make(): void {
    mkdirSync(paths.sandboxFiles, { recursive: true });
    this.#write("hostname", `${this.#hostname}\n`);
    this.#writeHosts();
    this.setDns([]);
    this.#write("generation", `${this.#generation}\n`);
    this.newBootId();
  }

  #writeHosts(): void {
    this.#write("hosts", hostsFile(this.#hostname, this.#addresses));
  }

  /** Nothing is done for what was written last; no file is empty for a moment, which would kill who has mapped it. */
  #write(name: string, content: string): void {
    const file = this.#file(name);
    if (content === file.content) return;
    const length = writeSync(file.fd, content, 0);
    if (fstatSync(file.fd).size > length) ftruncateSync(file.fd, length); // a container can have written to it too
    file.content = content;
  }

  /** They stay open: opening them is most of what writing costs an emulated guest. */
  #file(name: string): { readonly fd: number; content: string } {
    let file = this.#files.get(name);
    if (file === undefined) this.#files.set(name, file = { fd: openSync(`${paths.sandboxFiles}/${name}`, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o644), content: "" });
    return file;
  }
}

/** hosts(5) as docker writes it. */
export function hostsFile(hostname: string, addresses: readonly string[]): string {
  if (addresses.length === 0) return loopbackHosts;
  const short = hostname.split(".")[0] ?? hostname;
  const names = short === hostname ? hostname : `${hostname} ${short}`;
  return loopbackHosts + addresses.map((address) => `${address}\t${names}\n`).join("");
}

/** resolv.conf(5); an entry may be a whole line or an address. */
export function resolvConf(entries: readonly string[]): string {
  return entries.map((entry) => `${entry.includes(" ") ? entry : `nameserver ${entry}`}\n`).join("");
}
