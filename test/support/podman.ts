import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type RunResult, runProcess } from "../../src/shared/linux/run-process.ts";

/** Far above what a step with images of some megabytes takes. */
const timeoutMs = 60_000;

/**
 * Podman, the reference that fields and behaviour are compared with, with everything it keeps in one
 * folder: its storage, and what it else leaves in the machine's run folder and shared memory for good
 * (/run/libpod, and its locks in /dev/shm/libpod_lock).
 */
export class Podman {
  readonly #folder: string;
  readonly #env: NodeJS.ProcessEnv;
  readonly #storage: readonly string[];

  private constructor(folder: string) {
    this.#folder = folder;
    this.#storage = ["--root", join(folder, "storage"), "--runroot", join(folder, "run"), "--storage-driver", "overlay"];
    this.#env = { ...process.env, CONTAINERS_CONF: join(folder, "containers.conf") };
  }

  /** With an empty storage in a new folder below the given one, which the test removes after {@link close}. */
  static in(parent: string): Podman {
    const folder = join(parent, "podman");
    mkdirSync(join(folder, "tmp"), { recursive: true });
    writeFileSync(join(folder, "containers.conf"), [
      "[engine]", 'lock_type = "file"', 'events_logger = "file"', 'cgroup_manager = "cgroupfs"', `tmp_dir = "${join(folder, "tmp")}"`, "",
    ].join("\n"));
    return new Podman(folder);
  }

  /** Runs `podman ARGS...`; returns what it printed, without the last newline. */
  async ok(...args: readonly string[]): Promise<string> {
    return (await this.run(args)).stdout.toString().trim();
  }

  /** Runs `podman ARGS...`, which may end with one of the given codes. */
  async run(args: readonly string[], okExitCodes: readonly number[] = [0]): Promise<RunResult> {
    return runProcess("podman", [...this.#storage, ...args], { timeoutMs, env: this.#env, okExitCodes });
  }

  /** What {@link run} runs, for a test that starts it itself. */
  commandLine(...args: readonly string[]): { readonly file: string; readonly args: string[]; readonly env: NodeJS.ProcessEnv } {
    return { file: "podman", args: [...this.#storage, ...args], env: this.#env };
  }

  /** Runs a container, `podman run ARGS...`, with limits that may be set everywhere: its own default raises them. */
  async runContainer(args: readonly string[], okExitCodes?: readonly number[]): Promise<RunResult> {
    return this.inCgroups(["podman", ...this.#storage, "run", "--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", ...args], okExitCodes);
  }

  /** Runs a program that uses crun, which refuses a host with cgroups of both versions: it is shown those of version 2 alone. */
  async inCgroups(command: readonly string[], okExitCodes: readonly number[] = [0]): Promise<RunResult> {
    const hybrid = !existsSync("/sys/fs/cgroup/cgroup.controllers");
    const around = hybrid ? ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh"] : [];
    const [file = "", ...args] = [...around, ...command];
    return runProcess(file, args, { timeoutMs, env: this.#env, okExitCodes });
  }

  /** What skopeo and casemate call an image of this storage. */
  reference(name: string): string {
    return `containers-storage:[overlay@${join(this.#folder, "storage")}+${join(this.#folder, "run")}]${name}`;
  }

  /** Removes images and containers, and the mount that an overlay storage keeps. */
  async close(): Promise<void> {
    await this.ok("rm", "--all", "--force");
    await this.ok("rmi", "--all", "--force");
    await runProcess("umount", [join(this.#folder, "storage/overlay")], { okExitCodes: [0, 1, 32] });
  }
}
