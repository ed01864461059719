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
/** "One" is the mean of these, which are gone before the others start. */
const aloneCount = 10;
/** One takes 60 to 110 MiB under emulation; the machine must not swap. */
const neededBytesEach = 8 * 1024 ** 3 / 40;
/** An owner gives back what its last work left 12 s after it. */
const settleMs = 20_000;
/** A restored guest goes on with what it was at for a moment. */
const bareSettleMs = 3_000;
/** A figure that is only told. */
const stated = { atMost: Infinity };
/** Nothing in it differs from container to container, so all but the first can come from a template that holds it. */
const idle = ["run", "-q", "-d", "--network", "none", "busybox", "sleep", "100000"];
/** From a template without it. */
const idleMadeAnew = [...idle.slice(0, 1), "--template", "guest", ...idle.slice(1)];

/** Private memory of everything that a sandbox brought to life: VMM, owner, supervisor. */
function privateOfAll(): number {
  return descendants().filter(({ command }) => /qemu-system|owner\.cjs|owner-supervisor/.test(command)).reduce((sum, { pid }) => sum + privateMegabytes(pid), 0);
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
    await command.time(idleMadeAnew); // what is there only after a first start
    await command.casemate.removeAll();
    const madeAnew = await startMany(command, idleMadeAnew, count);
    await untilPrepared(command, idle);
    await command.casemate.removeAll();
    const prepared = await startMany(command, idle, count);
    const title = `of each of ${count} idle sandboxes`;
    return [
      { title: `private memory ${title} ÷ (bare restored QEMU + bare Node server)`, unit: "", limit: { atMost: 1.5 }, samples: exactly(prepared.megabytesEach / bareMegabytes) },
      { title: `private memory ${title}`, unit: "MB", limit: stated, samples: exactly(prepared.megabytesEach) },
      { title: `private memory ${title} from a template without the container`, unit: "MB", limit: stated, samples: exactly(madeAnew.megabytesEach) },
      { title: "private memory of bare restored QEMU and bare Node server", unit: "MB", limit: stated, samples: exactly(bareMegabytes) },
      { title: `${count} sandboxes from a template without the container, ${atOnce} at a time ÷ ${count} × one`, unit: "", limit: { atMost: 0.8 }, samples: exactly(madeAnew.ratio) },
      { title: `${count} sandboxes from a template with it, ${atOnce} at a time ÷ ${count} × one`, unit: "", limit: stated, samples: exactly(prepared.ratio) },
    ];
  },
};
export default bench;

/** Starts some one by one, then as many as are wanted, some at once; all have gone when it returns. */
async function startMany(command: BenchCommand, args: readonly string[], count: number): Promise<{ readonly ratio: number; readonly megabytesEach: number }> {
  const alone: number[] = [];
  while (alone.length < aloneCount) alone.push(await command.time(args));
  await command.casemate.removeAll();
  const oneMs = alone.reduce((sum, each) => sum + each, 0) / aloneCount;
  const began = performance.now();
  let waiting = count;
  await Promise.all(Array.from({ length: atOnce }, async () => { while (waiting-- > 0) await command.time(args); }));
  const eachMs = (performance.now() - began) / count;
  await new Promise((resolve) => { setTimeout(resolve, settleMs); });
  const megabytesEach = privateOfAll() / count;
  await command.casemate.removeAll();
  return { ratio: eachMs / oneMs, megabytesEach };
}

/** The mean of some that are there together: what they share is nobody's own, as with many. */
async function bareVmMegabytes(): Promise<number> {
  await using bare = await BareTemplate.make();
  const vms: TestVm[] = [];
  try {
    for (const name of ["bare1", "bare2", "bare3"]) vms.push(await bare.start(name));
    await new Promise((resolve) => { setTimeout(resolve, bareSettleMs); });
    return vms.reduce((sum, { vm }) => sum + privateMegabytes(vm.identity.pid), 0) / vms.length;
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
