import { spawn } from "node:child_process";
import { once } from "node:events";
import { freemem } from "node:os";
import { readFileSync } from "node:fs";
import { adoptOrphans, descendants } from "../../scripts/test-runner/descendants.ts";
import type { RunBench, RunFigure } from "../bench.ts";
import { exactly } from "../bench.ts";
import { privateMegabytes } from "../support/private-memory.ts";
import { BareTemplate, BenchCommand } from "./support.ts";

/** `--pairs 5` for fewer. */
const sandboxCount = 40;
const atOnce = 8;
/** One takes some 130 MiB under emulation; the machine must not swap. */
const neededBytesEach = 8 * 1024 ** 3 / 40;
const settleMs = 5_000;

/** Private memory of everything that a sandbox brought to life: VMM, owner, supervisor. */
function privateOfAll(): number {
  return descendants().filter(({ command }) => /qemu-system|owner\.js|owner-supervisor/.test(command)).reduce((sum, { pid }) => sum + privateMegabytes(pid), 0);
}

const bench: RunBench = {
  kind: "run",
  title: "idle sandboxes",
  pairs: sandboxCount,
  async run(count): Promise<RunFigure[]> {
    const neededBytes = count * neededBytesEach;
    if (freemem() < neededBytes && availableBytes() < neededBytes) throw new Error(`less than ${(neededBytes / 1024 ** 3).toFixed(1)} GiB are free`);
    adoptOrphans();
    await using stack = new AsyncDisposableStack();
    const command = stack.use(new BenchCommand());
    const bare = stack.use(await BareTemplate.make());
    const bareVm = await bare.start();
    const bareMegabytes = privateMegabytes(bareVm.vm.identity.pid) + await bareServerMegabytes();
    await bareVm.end();
    const args = (index: number): string[] => ["run", "-q", "-d", "--network", "none", "--template", "guest", "--name", `idle${index}`, "busybox", "sleep", "100000"];
    const oneMs = await command.time(args(0));
    const began = performance.now();
    const waiting = Array.from({ length: count - 1 }, (_, index) => index + 1);
    await Promise.all(Array.from({ length: atOnce }, async () => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await command.time(args(next));
    }));
    const allMs = performance.now() - began + oneMs;
    await new Promise((resolve) => { setTimeout(resolve, settleMs); });
    const each = privateOfAll() / count;
    return [
      { title: `private memory of each of ${count} idle sandboxes ÷ (bare restored QEMU + bare Node server)`, unit: "MB", limit: { atMost: 1.5 }, samples: exactly(each / bareMegabytes) },
      { title: "private memory of each, alone", unit: "MB", limit: { atMost: Infinity }, samples: exactly(each) },
      { title: `${count} sandboxes, ${atOnce} at a time ÷ ${count} × one`, unit: "", limit: { atMost: 0.8 }, samples: exactly(allMs / (count * oneMs)) },
    ];
  },
};
export default bench;

/** A Node that does nothing but listen on a unix socket. */
async function bareServerMegabytes(): Promise<number> {
  const server = spawn(process.execPath, ["-e", 'require("net").createServer().listen("\\0bench-bare", () => console.log("up"))'], { stdio: ["ignore", "pipe", "inherit"] });
  await once(server.stdout, "data");
  const megabytes = privateMegabytes(server.pid ?? 0);
  server.kill();
  return megabytes;
}

function availableBytes(): number {
  return Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "latin1"))?.[1] ?? 0) * 1024;
}
