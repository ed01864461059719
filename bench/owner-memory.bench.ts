import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { RunBench } from "./bench.ts";
import { BenchSandbox } from "./support/bench-sandbox.ts";
import { privateMegabytes } from "./support/private-memory.ts";

const execs = 50;
const idleMs = 60_000;
const stdioBytes = 1024 ** 3;

/** What a Node program takes that does nothing but listen on a unix socket. */
class BareServer {
  readonly #child: ChildProcess;
  readonly #socket: string;

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child;
    this.#socket = socket;
  }

  static async start(index: number): Promise<BareServer> {
    const socket = join(tmpdir(), `bare-server-${process.pid}-${index}.sock`);
    const child = spawn(process.execPath, ["-e", `require("node:net").createServer(() => {}).listen(${JSON.stringify(socket)}, () => console.log("up"))`], { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    return new BareServer(child, socket);
  }

  get megabytes(): number {
    if (this.#child.pid === undefined) throw new Error("the bare server did not start");
    return privateMegabytes(this.#child.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await once(this.#child, "exit");
    rmSync(this.#socket, { force: true });
  }
}

async function printMuch(sandbox: BenchSandbox): Promise<void> {
  const nowhere = openSync("/dev/null", "w");
  try {
    await sandbox.exec(["dd", "if=/dev/zero", "bs=32k", `count=${stdioBytes / 32 / 1024}`], { stdout: nowhere });
  } finally {
    closeSync(nowhere);
  }
}

const bench: RunBench = {
  kind: "run",
  title: "private memory of an owner ÷ a bare Node unix-socket server",
  pairs: 5,
  async run(pairs) {
    await using stack = new AsyncDisposableStack();
    const servers: BareServer[] = [];
    const sandboxes: BenchSandbox[] = [];
    for (let index = 0; index < pairs; index++) {
      servers.push(stack.use(await BareServer.start(index)));
      const sandbox = stack.use(await BenchSandbox.start());
      sandboxes.push(sandbox);
      for (let exec = 0; exec < execs; exec++) await sandbox.exec(["true"]);
    }
    await delay(idleMs);
    const idle = { as: sandboxes.map(({ ownerPid }) => privateMegabytes(ownerPid)), bs: servers.map(({ megabytes }) => megabytes) };
    const busy: { as: number[]; bs: number[] } = { as: [], bs: [] };
    for (const [index, sandbox] of sandboxes.entries()) {
      await printMuch(sandbox);
      busy.as.push(privateMegabytes(sandbox.ownerPid));
      busy.bs.push(servers[index]?.megabytes ?? NaN);
    }
    return [
      { title: `private memory of an owner, idle for ${idleMs / 1000} s after ${execs} execs ÷ a bare Node unix-socket server`, unit: "MiB", limit: { atMost: 2.5 }, samples: idle },
      { title: "private memory of an owner after 1 GiB of stdout ÷ a bare Node unix-socket server", unit: "MiB", limit: { atMost: 4 }, samples: busy },
    ];
  },
};
export default bench;
