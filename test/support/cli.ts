import { type ChildProcessByStdio, spawn } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { after, afterEach, before } from "node:test";
import { sandboxPaths, stateFolders, type StateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { keepEvidence } from "./evidence.ts";
import { type CleanOptions, type HostWatch, watchHost } from "./host-clean.ts";
import { endTemplateWork, shareTemplates } from "./templates.ts";

/** How one call of the command ended. */
export interface CliResult {
  /** As a shell shows it: 128 + number for a signal. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly stdoutBytes: Buffer;
}

/** Options of {@link Casemate.run}. */
export interface CliOptions {
  /** Written to standard input, which is closed after it. Default: /dev/null. */
  readonly input?: string | Uint8Array;
  /** Default {@link defaultTimeoutMs}; a call that takes longer is ended and fails the test. */
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
}

/** A cold boot under TCG on two busy cores takes 20 s; the rest is for what the container does. */
const defaultTimeoutMs = 120_000;
const launcher = join(import.meta.dirname, "../../bin/casemate");

/** The command as built, with state folders of its own. */
export class Casemate {
  readonly folders: StateFolders;
  readonly #template: string | undefined;

  /** `template`: what runs without `--template` start from; undefined: as any user's. */
  constructor(root: string, template?: "guest") {
    this.folders = stateFolders(root);
    this.#template = template;
  }

  /** Runs `casemate ARGS...` to its end. */
  async run(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
    const child = this.start(args, options);
    const collected = { stdout: collect(child.stdout), stderr: collect(child.stderr) };
    child.stdin.on("error", () => { /* a command need not read its input; its exit code says how it went */ });
    child.stdin.end(options.input);
    const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`casemate ${args.join(" ")}: not done within ${timeoutMs} ms; stdout so far: ${text(collected.stdout)}; stderr so far: ${text(collected.stderr)}`));
    }, timeoutMs);
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? 128 + (signalNumbers[signal ?? ""] ?? 0)));
    try {
      const code = await promise;
      return { code, stdout: text(collected.stdout), stderr: text(collected.stderr), stdoutBytes: Buffer.concat(collected.stdout) };
    } finally {
      clearTimeout(timer);
    }
  }

  /** As {@link run}, but any exit code except 0 fails the test. Returns stdout without the last newline. */
  async ok(args: readonly string[], options: CliOptions = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(args, options);
    if (code !== 0) throw new Error(`casemate ${args.join(" ")}: exit code ${code}: ${stderr}${stdout}`);
    return stdout.replace(/\n$/, "");
  }

  /** Starts a call whose pipes the test works with; the test ends it. */
  start(args: readonly string[], options: Pick<CliOptions, "env" | "cwd"> = {}): ChildProcessByStdio<Writable, Readable, Readable> {
    return spawn(launcher, this.arguments(args), { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, ...options.env }, cwd: options.cwd });
  }

  /** The command line, for a terminal (pty.ts) or another program. */
  commandLine(args: readonly string[]): readonly [file: string, ...args: string[]] {
    return [launcher, ...this.arguments(args)];
  }

  /** Files of one sandbox. */
  sandbox(sandboxId: string): ReturnType<typeof sandboxPaths> {
    return sandboxPaths(this.folders, sandboxId);
  }

  /** Removes every container, running or not. */
  async removeAll(): Promise<void> {
    const ids = (await this.ok(["ps", "-aq"])).split("\n").filter((id) => id !== "");
    if (ids.length > 0) await this.ok(["rm", "-f", ...ids]);
  }

  private arguments(args: readonly string[]): string[] {
    const command = args.findIndex((word) => !word.startsWith("-"));
    const startsOne = ["run", "create"].includes(args[command] ?? "") && !args.some((word) => word.startsWith("--template") || word === "--from-snapshot");
    const words = this.#template !== undefined && startsOne ? args.toSpliced(command + 1, 0, "--template", this.#template) : args;
    return ["--root", this.folders.data, ...words];
  }
}

/** Options of {@link useCasemate}. */
export interface UseOptions {
  /** What other programs do to the host meanwhile; see {@link CleanOptions}. */
  readonly ignore?: CleanOptions["ignore"];
  /** Start containers as users do, from templates with the container in them. Default: from one without. */
  readonly preparedTemplates?: boolean;
}

/**
 * For the top of a test file: state folders for all its tests, removed at the end with every container
 * in them; then the host must be as it was. A test that fails leaves its evidence in test-output.
 */
export function useCasemate(options: UseOptions = {}): Casemate {
  // The name is short because a unix socket's path has at most 107 bytes; others pass through to their files.
  const watch: HostWatch = watchHost(options);
  const root = mkdtempSync("/tmp/cm-");
  chmodSync(root, 0o711);
  // A second run of the same container would have a template made with it, in the background of the tests after it.
  const casemate = new Casemate(root, options.preparedTemplates === true ? undefined : "guest");
  before(() => shareGuest(root));
  afterEach((context) => {
    if ("passed" in context && context.passed === false) keepEvidence(casemate.folders, context.name);
  });
  after(async () => {
    try {
      await casemate.removeAll();
    } finally {
      await endTemplateWork(casemate.folders);
      await sandboxesEnd(casemate.folders);
      rmSync(root, { recursive: true, force: true });
    }
    await watch.assertHostClean();
  });
  return casemate;
}

/** Sandboxes end after the command that started them, and a share that is still mounted keeps the folder. */
async function sandboxesEnd({ run }: StateFolders): Promise<void> {
  const folder = join(run, "sandboxes");
  await eventually("the end of the sandboxes", () => (existsSync(folder) && readdirSync(folder).length > 0 ? undefined : true), { timeoutMs: 30_000 });
}

/** Guest images and templates take half a minute to make and are never changed: all tests use the machine's own. */
export function shareGuest(root: string): void {
  const { data } = stateFolders(undefined);
  mkdirSync(join(data, "guest"), { recursive: true, mode: 0o711 });
  symlinkSync(join(data, "guest"), join(root, "guest"));
  shareTemplates(root);
  // Trying KVM where it hangs takes 5 s.
  const accelerator = join(data, "accelerator.json");
  if (existsSync(accelerator)) copyFileSync(accelerator, join(root, "accelerator.json"));
}

const signalNumbers: Readonly<Record<string, number>> = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGPIPE: 13, SIGTERM: 15 };

function collect(stream: Readable): Buffer[] {
  const chunks: Buffer[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  return chunks;
}

function text(chunks: readonly Buffer[]): string {
  return Buffer.concat(chunks).toString();
}
