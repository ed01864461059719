import { spawn } from "node:child_process";
import { once } from "node:events";
import { freemem } from "node:os";
import { readFileSync } from "node:fs";
import { adoptOrphans, descendants } from "../../scripts/test-runner/descendants.ts";
import type { RunBench, RunFigure } from "../bench.ts";
import { exactly } from "../bench.ts";
import type { TestVm } from "../../test/support/test-vm.ts";
import { privateMegabytes } from "../support/private-memory.ts";
import { BareTemplate, BenchCommand, untilPrepared } from "./support.ts";

/** `--pairs 5` for fewer. */
const sandboxCount = 40;
const atOnce = 8;
/** So many say what a sandbox costs whose container was not in its template. */
const withoutContainerCount = 8;
/** One takes 60 to 110 MiB under emulation; the machine must not swap. */
const neededBytesEach = 8 * 1024 ** 3 / 40;
/** An owner gives back what its last work left 12 s after it. */
const settleMs = 20_000;
/** Nothing in it differs from container to container, so all but the first come from a template that holds it. */
const idle = ["run", "-q", "-d", "--network", "none", "busybox", "sleep", "100000"];

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
    const bareMegabytes = await bareVmMegabytes() + await bareServerMegabytes();
    await untilPrepared(command, idle);
    await command.casemate.removeAll();
    const oneMs = await command.time(idle);
    const allMs = oneMs + await startAll(command, idle, count - 1);
    const each = await settledMegabytesEach(count);
    await command.casemate.removeAll();
    await startAll(command, [...idle.slice(0, 1), "--template", "guest", ...idle.slice(1)], withoutContainerCount);
    const eachWithout = await settledMegabytesEach(withoutContainerCount);
    return [
      { title: `private memory of each of ${count} idle sandboxes ÷ (bare restored QEMU + bare Node server)`, unit: "", limit: { atMost: 1.5 }, samples: exactly(each / bareMegabytes) },
      { title: "private memory of each, alone", unit: "MB", limit: { atMost: Infinity }, samples: exactly(each) },
      { title: "private memory of bare restored QEMU and bare Node server", unit: "MB", limit: { atMost: Infinity }, samples: exactly(bareMegabytes) },
      { title: `private memory of each of ${withoutContainerCount} from a template without the container`, unit: "MB", limit: { atMost: Infinity }, samples: exactly(eachWithout) },
      { title: `${count} sandboxes, ${atOnce} at a time ÷ ${count} × one`, unit: "", limit: { atMost: 0.8 }, samples: exactly(allMs / (count * oneMs)) },
    ];
  },
};
export default bench;

/** Milliseconds that so many take, some at once. */
async function startAll(command: BenchCommand, args: readonly string[], count: number): Promise<number> {
  const began = performance.now();
  let waiting = count;
  await Promise.all(Array.from({ length: atOnce }, async () => { while (waiting-- > 0) await command.time(args); }));
  return performance.now() - began;
}

async function settledMegabytesEach(count: number): Promise<number> {
  await new Promise((resolve) => { setTimeout(resolve, settleMs); });
  return privateOfAll() / count;
}

/** Of one of two: what they share is nobody's own, as with many. */
async function bareVmMegabytes(): Promise<number> {
  await using bare = await BareTemplate.make();
  const vms: TestVm[] = [];
  try {
    for (const name of ["bare1", "bare2"]) vms.push(await bare.start(name));
    return privateMegabytes(vms[0]?.vm.identity.pid ?? 0);
  } finally {
    for (const vm of vms) await vm.end();
  }
}

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
