import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventually } from "../../src/shared/base/deadline.ts";
import { RuntimeError } from "../../src/shared/base/errors.ts";
import { runProcess, startProcess, terminateGroup, type ManagedProcess } from "../../src/shared/linux/run-process.ts";

const startTimeoutMs = 60_000;
/** Debian's, by path: another docker may come first in PATH, and prints what its own release does. */
export const dockerProgram = "/usr/bin/docker";
const daemonProgram = "/usr/sbin/dockerd";

/** Debian's dockerd for the length of a run: its own folders and socket, no network of its own making. */
export class DockerDaemon implements AsyncDisposable {
  readonly host: string;
  readonly #folder: string;
  readonly #process: ManagedProcess;

  private constructor(folder: string, host: string, process: ManagedProcess) {
    this.#folder = folder;
    this.host = host;
    this.#process = process;
  }

  /** @throws RuntimeError `not_found` (reason `tool_missing`) without docker.io. */
  static async start(folder: string): Promise<DockerDaemon> {
    mkdirSync(folder, { recursive: true });
    const host = `unix://${join(folder, "docker.sock")}`;
    const config = join(folder, "daemon.json");
    writeFileSync(config, "{}");
    const process = await startProcess(daemonProgram, [
      "--config-file", config, "--host", host, "--data-root", join(folder, "data"), "--exec-root", join(folder, "exec"), "--pidfile", join(folder, "docker.pid"),
      "--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false", "--log-level=error",
    ], { stdio: ["ignore", "ignore", "ignore"] });
    const daemon = new DockerDaemon(folder, host, process);
    try {
      await eventually("wait for dockerd", async () => {
        const { exitCode } = await runProcess(dockerProgram, ["--host", host, "version"], { okExitCodes: [0, 1], timeoutMs: startTimeoutMs });
        return exitCode === 0 ? true : undefined;
      }, { timeoutMs: startTimeoutMs, intervalMs: 200 });
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw RuntimeError.wrap(error, "start dockerd");
    }
    return daemon;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await terminateGroup(this.#process.child, 15_000);
    // It leaves its network namespace and, when it is in a hurry, file systems mounted.
    const mounts = readFileSync("/proc/self/mounts", "latin1").split("\n").map((line) => line.split(" ")[1] ?? "").filter((path) => path.startsWith(`${this.#folder}/`));
    for (const path of mounts.reverse()) await runProcess("umount", ["--lazy", path], { okExitCodes: [0, 32] });
  }
}
