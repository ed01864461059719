import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { containerPaths } from "../../src/host/store/paths.ts";
import type { RunnableSpec } from "../../src/shared/oci/runtime-spec.ts";
import { Casemate, shareGuest } from "../../test/support/cli.ts";
import { endTemplateWork } from "../../test/support/templates.ts";

/** What `casemate inspect` says, as far as benches need it. */
interface Inspected {
  readonly Id: string;
  readonly Sandbox: { readonly ownerPid: number };
}

const name = "bench";

/** State folders of their own with the machine's guest image and templates, which take half a minute to make and never change. */
export function makeBenchRoot(): string {
  const root = mkdtempSync("/tmp/cb-");
  chmodSync(root, 0o711); // QEMU's user passes through
  shareGuest(root);
  return root;
}

/** A container that sleeps in a sandbox with an owner, made by the command as a user would. */
export class BenchSandbox implements AsyncDisposable {
  readonly casemate: Casemate;
  readonly ownerPid: number;
  readonly containerId: string;
  readonly #root: string;

  private constructor(casemate: Casemate, root: string, inspected: Inspected) {
    this.casemate = casemate;
    this.#root = root;
    this.ownerPid = inspected.Sandbox.ownerPid;
    this.containerId = inspected.Id;
  }

  static async start(): Promise<BenchSandbox> {
    const root = makeBenchRoot();
    const casemate = new Casemate(root);
    try {
      await casemate.ok(["run", "-q", "-d", "--name", name, "busybox", "sleep", "1000000"]);
      const [inspected] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[]; // our own command's
      if (inspected === undefined) throw new Error("inspect says nothing");
      return new BenchSandbox(casemate, root, inspected);
    } catch (error) {
      await giveBack(casemate, root);
      throw error;
    }
  }

  /** Runs a command in the container as `casemate exec` does; milliseconds of the whole. stdin and stdout are descriptors of ours. */
  async exec(command: readonly string[], stdio: { readonly stdin?: number | "pipe"; readonly stdout?: number } = {}): Promise<number> {
    const [file, ...args] = this.casemate.commandLine(["exec", ...(stdio.stdin === undefined ? [] : ["-i"]), name, ...command]);
    const began = performance.now();
    const child = spawn(file, args, { stdio: [stdio.stdin ?? "ignore", stdio.stdout ?? "ignore", "pipe"] });
    let messages = "";
    child.stderr?.on("data", (chunk: Buffer) => { messages += chunk.toString(); });
    const code = await new Promise((resolve) => child.once("close", resolve));
    if (code !== 0) throw new Error(`exec ${command.join(" ")}: exit code ${String(code)}: ${messages}`);
    return performance.now() - began;
  }

  /** Runs a shell script in the guest itself and returns what it printed. */
  async inGuest(script: string, input?: string): Promise<string> {
    return this.casemate.ok(["exec", "--vm", ...(input === undefined ? [] : ["-i"]), name, "sh", "-c", script], input === undefined ? {} : { input });
  }

  /** Milliseconds that crun takes for the same exec of `true`, by the guest's own clock; the mean of so many, because that clock ticks in 10 ms. */
  async crunExecMs(count: number): Promise<number> {
    return crunExecMs((script, input) => this.inGuest(script, input), readSpec(containerPaths(this.casemate.folders, this.containerId).spec), this.containerId, count);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await giveBack(this.casemate, this.#root);
  }
}

async function giveBack(casemate: Casemate, root: string): Promise<void> {
  try {
    await casemate.removeAll();
  } finally {
    await endTemplateWork(casemate.folders);
    rmSync(root, { recursive: true, force: true });
  }
}

/** The bundle's config.json. */
export function readSpec(path: string): RunnableSpec {
  return JSON.parse(readFileSync(path, "utf8")) as RunnableSpec; // written by our own front end
}

/** Times `crun exec` of `true` in a shell of the guest: the same program, process and container as the agent's, without agent and channel. */
export async function crunExecMs(inGuest: (script: string, input?: string) => Promise<string>, spec: RunnableSpec, containerId: string, count: number): Promise<number> {
  const file = "/run/bench-exec.json";
  await inGuest(`cat >${file}`, JSON.stringify({ ...spec.process, args: ["true"], terminal: false }));
  const script = `read before _ </proc/uptime; i=0; while [ $i -lt ${count} ]; do crun --root /run/casemate/crun exec --process ${file} ${containerId} || exit; i=$((i + 1)); done; read after _ </proc/uptime; echo $before $after`;
  const [before = NaN, after = NaN] = (await inGuest(script)).split(" ").map(Number);
  return (after - before) * 1000 / count;
}
