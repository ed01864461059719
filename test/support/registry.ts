import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, openSync, closeSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "../../src/shared/base/deadline.ts";

/** It listens within a second; the rest is for a loaded machine. */
const startTimeoutMs = 30_000;

/** Debian's docker-registry on the loopback, with a folder of its own. */
export class Registry {
  /** `127.0.0.1:PORT`, as images are named after. */
  readonly address: string;
  readonly #child: ChildProcess;
  readonly #folder: string;

  private constructor(address: string, child: ChildProcess, folder: string) {
    this.address = address;
    this.#child = child;
    this.#folder = folder;
  }

  static async start(): Promise<Registry> {
    const folder = mkdtempSync(join(tmpdir(), "cm-registry-"));
    const address = `127.0.0.1:${await freePort()}`;
    const config = join(folder, "config.yml");
    writeFileSync(config, JSON.stringify({ // JSON is YAML
      version: 0.1, log: { level: "warn", accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: join(folder, "data") }, delete: { enabled: true } },
      http: { addr: address },
    }));
    const log = openSync(join(folder, "log"), "w");
    const child = spawn("docker-registry", ["serve", config], { stdio: ["ignore", log, log] });
    closeSync(log);
    const registry = new Registry(address, child, folder);
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
      return (await fetch(`http://${this.address}/v2/`)).ok ? true : undefined;
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

/** A port nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("a TCP server without a port");
  return address.port;
}
