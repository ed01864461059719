import { mkdirSync, writeFileSync } from "node:fs";
import { paths } from "../paths.ts";

const loopbackHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/** Who the guest is: its name, addresses and resolvers, in the kernel and in the files that containers see in /etc. */
export class SandboxFiles {
  #hostname = "casemate";
  #addresses: readonly string[] = [];
  #dns: readonly string[] = [];
  #sandboxId = "";
  #generation = 0;

  /** Empty in a template. */
  get sandboxId(): string { return this.#sandboxId; }

  setSandboxId(sandboxId: string): void {
    this.#sandboxId = sandboxId;
  }

  setHostname(hostname: string): void {
    if (hostname === "") return;
    this.#hostname = hostname;
    writeFileSync("/proc/sys/kernel/hostname", hostname);
    this.write();
  }

  /** IP addresses of the guest, which its name stands for. */
  setAddresses(addresses: readonly string[]): void {
    this.#addresses = addresses;
    this.write();
  }

  /** Lines of resolv.conf(5). */
  setDns(lines: readonly string[]): void {
    this.#dns = lines;
    this.write();
  }

  /** machine-id(5). */
  setMachineId(machineId: string): void {
    this.#file("machine-id", `${machineId}\n`);
  }

  /** Counts how often this guest was given a new identity: programs that keep random numbers or ids of their own can watch the file. */
  nextGeneration(): void {
    this.#generation++;
    this.#file("generation", `${this.#generation}\n`);
  }

  /** Written in place: a container has them bind-mounted. */
  write(): void {
    mkdirSync(paths.sandboxFiles, { recursive: true });
    this.#file("hostname", `${this.#hostname}\n`);
    this.#file("hosts", hostsFile(this.#hostname, this.#addresses));
    this.#file("resolv.conf", resolvConf(this.#dns));
    this.#file("generation", `${this.#generation}\n`);
  }

  #file(name: string, content: string): void {
    writeFileSync(`${paths.sandboxFiles}/${name}`, content, { mode: 0o644 });
  }
}

/** hosts(5) as docker writes it. */
export function hostsFile(hostname: string, addresses: readonly string[]): string {
  const short = hostname.split(".")[0] ?? hostname;
  const names = short === hostname ? hostname : `${hostname} ${short}`;
  return loopbackHosts + addresses.map((address) => `${address}\t${names}\n`).join("");
}

/** resolv.conf(5); an entry may be a whole line or an address. */
export function resolvConf(entries: readonly string[]): string {
  return entries.map((entry) => `${entry.includes(" ") ? entry : `nameserver ${entry}`}\n`).join("");
}
