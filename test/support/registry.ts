import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, openSync, closeSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "../../src/shared/base/deadline.ts";

/** It listens within a second; the rest is for a loaded machine. */
const startTimeoutMs = 30_000;

/** How a registry is to be; default: open to all, by plain HTTP. */
export interface RegistryOptions {
  /** Default 127.0.0.1, whose registries need no certificate. */
  readonly host?: string;
  readonly tls?: { readonly certificate: string; readonly key: string };
  /** Line of htpasswd(1) with a bcrypt hash. */
  readonly htpasswd?: string;
}

/** Debian's docker-registry on the loopback, with a folder of its own. */
export class Registry {
  /** `127.0.0.1:PORT`, as images are named after. */
  readonly address: string;
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #tls: boolean;

  private constructor(address: string, child: ChildProcess, folder: string, tls: boolean) {
    this.#tls = tls;
    this.address = address;
    this.#child = child;
    this.#folder = folder;
  }

  static async start(options: RegistryOptions = {}): Promise<Registry> {
    const folder = mkdtempSync(join(tmpdir(), "cm-registry-"));
    const address = `${options.host ?? "127.0.0.1"}:${await freePort()}`;
    if (options.htpasswd !== undefined) writeFileSync(join(folder, "htpasswd"), `${options.htpasswd}\n`);
    const config = join(folder, "config.yml");
    writeFileSync(config, JSON.stringify({ // JSON is YAML
      version: 0.1, log: { level: "warn", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: join(folder, "data") }, delete: { enabled: true } },
      http: { addr: address, ...(options.tls && { tls: options.tls }) },
      ...(options.htpasswd !== undefined && { auth: { htpasswd: { realm: "test", path: join(folder, "htpasswd") } } }),
    }));
    const log = openSync(join(folder, "log"), "w");
    const child = spawn("docker-registry", ["serve", config], { stdio: ["ignore", log, log] });
    closeSync(log);
    const registry = new Registry(address, child, folder, options.tls !== undefined);
    try {
      await eventually("docker-registry to answer", () => registry.#answers(), { timeoutMs: startTimeoutMs, intervalMs: 100 });
    } catch (error) {
      await registry[Symbol.asyncDispose]();
      throw error;
    }
    return registry;
  }

  /** Where the registry keeps its blobs, for tests that damage one. */
  get blobsFolder(): string {
    return join(this.#folder, "data/docker/registry/v2/blobs");
  }

  async #answers(): Promise<true | undefined> {
    if (this.#child.exitCode !== null) throw new Error(`docker-registry ended with exit code ${this.#child.exitCode}`);
    try {
      if (this.#tls) return (await connects(this.address)) ? true : undefined;
      return [200, 401].includes((await fetch(`http://${this.address}/v2/`)).status) ? true : undefined;
    } catch {
      return undefined; // not listening yet; the caller's limit ends this
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null && this.#child.pid !== undefined) {
      const ended = new Promise((resolve) => this.#child.once("exit", resolve));
      this.#child.kill("SIGKILL");
      await ended;
    }
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Whether somebody listens there. */
async function connects(address: string): Promise<boolean> {
  const [host, port] = address.split(":");
  const socket = connect({ host, port: Number(port) });
  try {
    await once(socket, "connect");
    return true;
  } finally {
    socket.destroy();
  }
}

/** A port nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("a TCP server without a port");
  return address.port;
}
