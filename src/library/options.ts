/**
 * What calls that may take long have in common.
 *
 * @example
 * const options: CallOptions = { timeoutMs: 5_000, signal: AbortSignal.timeout(60_000) };
 * await sandbox.files.read("/etc/hosts", options);
 */
export interface CallOptions {
  /** Gives the call up; its promise rejects with code `canceled`. */
  readonly signal?: AbortSignal;
  /** Milliseconds until it rejects with code `deadline_exceeded`; default: none. */
  readonly timeoutMs?: number;
}

/**
 * Where sandboxes are looked for.
 *
 * @example
 * for (const { name } of await Sandbox.list({ root: "/srv/sandboxes" })) console.log(name);
 */
export interface PlaceOptions {
  /** Folder that holds all state; default: the `casemate` command's, the system's for root, yours otherwise. */
  readonly root?: string;
}

/**
 * A command: a program with its arguments, or a line for the sandbox's `/bin/sh -c`.
 *
 * @example
 * const commands: Command[] = [["echo", "$HOME as it stands"], "echo $HOME | tr a-z A-Z"];
 * for (const command of commands) await sandbox.run(command);
 */
export type Command = readonly string[] | string;

/**
 * Options of {@link Sandbox.create}.
 *
 * @example
 * await Sandbox.create({ image: "busybox", memoryMiB: 256, network: "none", timeoutMs: 60_000 });
 */
export interface SandboxOptions extends PlaceOptions {
  /** Image to run in, e.g. `busybox` or `docker.io/library/node:24`; fetched if it is not here. */
  readonly image: string;
  /** Name to find it by; default: one made up. */
  readonly name?: string;
  /**
   * First process of the sandbox, which ends with it; its output is kept for {@link Sandbox.logs}.
   * Default: one that does nothing, so that the sandbox is there for {@link Sandbox.run}.
   */
  readonly command?: Command;
  /** Environment of every process, over the image's. */
  readonly env?: Readonly<Record<string, string>>;
  /** User of every process, by name or number, optionally `:group`; default: the image's. */
  readonly user?: string;
  /** Working directory of every process; default: the image's. */
  readonly cwd?: string;
  readonly hostname?: string;
  /** Most memory its processes may use; default: no limit but the VM's. */
  readonly memoryMiB?: number;
  /** Most CPUs its processes may use, e.g. 0.5; default: one vCPU's worth. */
  readonly cpus?: number;
  /** `none`: no network at all. `user` (default): outgoing connections, and the ports named below. */
  readonly network?: "none" | "user";
  /**
   * Ports of the sandbox to reach from this machine: a number for a free port of 127.0.0.1 (see
   * {@link Sandbox.url}), or docker's `[ip:]host:container[/udp]`.
   */
  readonly ports?: readonly (number | string)[];
  /** Host folders and named volumes to show: docker's `source:destination[:ro]`. */
  readonly volumes?: readonly string[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly readOnly?: boolean;
  /** All rights in the sandbox's own guest; never on the host. */
  readonly privileged?: boolean;
  /** Runs in every copy made of the sandbox ({@link Sandbox.fork}, {@link Sandbox.restore}), which is ready when it has succeeded. A line for `/bin/sh -c`. */
  readonly cloneCommand?: string;
  /** The sandbox is ended that many milliseconds after its start, whoever uses it; default: no limit. */
  readonly timeoutMs?: number;
  /** The sandbox is ended when for that many milliseconds nothing has run in it and no file was worked on; default: no limit. */
  readonly idleTimeoutMs?: number;
  /** Let the sandbox live on when this program ends; see {@link Sandbox.detach}. Default: false. */
  readonly detached?: boolean;
  /** Boot the VM instead of restoring a saved one. Slow; for comparison. */
  readonly coldBoot?: boolean;
  /** Longest start, without the wait for room on the machine; default: 3 minutes. */
  readonly startTimeoutMs?: number;
  /** Gives the start up and leaves nothing behind. */
  readonly signal?: AbortSignal;
  /** Told what is being done, e.g. `waiting for room: 3 before this one`. */
  readonly onProgress?: (what: string) => void;
}

/**
 * Options of {@link Sandbox.load}.
 *
 * @example
 * await using web = await Sandbox.load("web", { lease: true });
 */
export interface LoadOptions extends PlaceOptions, CallOptions {
  /** Hold a lease from now on, as the program that created a sandbox does: it ends with this program. Default: false. */
  readonly lease?: boolean;
}

/**
 * Options of {@link Sandbox.restore} and {@link Sandbox.fork}.
 *
 * @example
 * await using again = await Sandbox.restore("warm", { name: "again", timeoutMs: 30_000 });
 */
export interface CloneOptions extends PlaceOptions, CallOptions {
  /** Name of the copy; several get a number behind it. Default: made up. */
  readonly name?: string;
  /** Let it live on when this program ends. Default: false. */
  readonly detached?: boolean;
}

/**
 * Options of {@link Sandbox.spawn}.
 *
 * @example
 * const sort = sandbox.spawn(["sort"], { stdin: "pipe", env: { LC_ALL: "C" }, user: "nobody", timeoutMs: 10_000 });
 * sort.stdin.end("b\na\n");
 */
export interface SpawnOptions extends CallOptions {
  /** Over the sandbox's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  readonly user?: string;
  /** All rights in the guest. */
  readonly privileged?: boolean;
  /** `pipe`: {@link SandboxProcess.stdin} can be written to. Default: the process reads end of file. */
  readonly stdin?: "pipe" | "ignore";
  /** Give the process a terminal of that size: its stdin is open, its output all comes as stdout. */
  readonly pty?: boolean | { readonly rows: number; readonly columns: number };
}

/**
 * Options of {@link Sandbox.run}.
 *
 * @example
 * await sandbox.run(["tr", "a-z", "A-Z"], { stdin: "loud", cwd: "/tmp", timeoutMs: 5_000, maxOutputBytes: 1024 * 1024 });
 */
export interface RunOptions extends Omit<SpawnOptions, "stdin" | "pty"> {
  /** Input of the process. Default: none. */
  readonly stdin?: string | Uint8Array | AsyncIterable<string | Uint8Array>;
  /** Most bytes of stdout and stderr together; the process that prints more is killed and the call rejects with `resource_exhausted`. Default: 64 MiB. */
  readonly maxOutputBytes?: number;
}
