import { readFileSync, readdirSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { parseKib } from "../../src/host/control/host-usage.ts";
import { savedMemoryName } from "../../src/host/hypervisor/guest-memory.ts";
import type { Accelerator } from "../../src/host/hypervisor/virtual-machine.ts";
import { listTemplates } from "../../src/host/template/template-store.ts";
import { TestVm } from "../../test/support/test-vm.ts";
import type { RunBench, RunFigure } from "../bench.ts";
import { exactly } from "../bench.ts";
import { privateMegabytes } from "../support/private-memory.ts";
import { BenchCommand } from "./support.ts";

const idleMs = 60_000;

/** What a QEMU has for itself alone, in megabytes. */
interface Own {
  /** Pages of the guest's memory that were written since the restore. */
  readonly guest: number;
  /** Code that the emulator has translated; none under KVM. */
  readonly translated: number;
  readonly rest: number;
}

function ownOf(pid: number): Own {
  const mappings = readFileSync(`/proc/${pid}/smaps`, "latin1").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const anonymous = (wanted: (mapping: string) => boolean): number => mappings.filter(wanted).reduce((sum, mapping) => sum + (parseKib(mapping, "Anonymous") ?? 0), 0) / 1024;
  const guest = anonymous((mapping) => mapping.includes(`/memfd:${savedMemoryName}`));
  const translated = anonymous((mapping) => /^\S+ rwxp/.test(mapping));
  return { guest, translated, rest: privateMegabytes(pid) - guest - translated };
}

/** CPU time of a process's living threads, in milliseconds; `/proc/PID/stat` counts hundredths of a second. */
function cpuMs(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, task) => sum + Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "latin1").split(" ")[0]) / 1e6, 0);
}

const bench: RunBench = {
  kind: "run",
  title: "memory that a sandbox dirties, and the CPU time it takes when it idles",
  pairs: 1,
  async run(): Promise<RunFigure[]> {
    const figures: RunFigure[] = [];
    const tell = (what: string, { guest, translated, rest }: Own): void => {
      for (const [part, value] of [["guest's pages", guest], ["translated code", translated], ["rest of QEMU", rest]] as const) figures.push({ title: `${what}: ${part}`, unit: "MB", limit: { atMost: Infinity }, samples: exactly(value) });
    };
    await using command = new BenchCommand();
    await command.time(["run", "-q", "--rm", "--network", "none", "--template", "guest", "busybox", "true"]);
    const [newest] = listTemplates(command.casemate.folders);
    if (newest === undefined) throw new Error("there is no template");
    const accelerator = newest.template.accelerator as Accelerator; // as its maker wrote it
    const bare = await TestVm.restore("dirty", { folders: command.casemate.folders, template: newest.template.key, accelerator });
    try {
      tell("restored", ownOf(bare.vm.identity.pid));
      (await bare.connect()).close();
      tell("agent has answered", ownOf(bare.vm.identity.pid));
    } finally {
      await bare.end();
    }

    await command.time(["run", "-q", "-d", "--network", "none", "--template", "guest", "--name", "dirty", "busybox", "sleep", "100000"]);
    const [{ Sandbox: { vmmPid: pid } }] = await command.json(["inspect", "dirty"]) as [{ readonly Sandbox: { readonly vmmPid: number } }]; // our own command's
    tell("container runs", ownOf(pid));
    for (const which of ["first", "second"]) {
      await command.time(["exec", "dirty", "true"]);
      tell(`after the ${which} exec`, ownOf(pid));
    }
    for (const minutes of [1, 2]) {
      const before = cpuMs(pid);
      await delay(idleMs);
      tell(`idle for ${minutes} min`, ownOf(pid));
      figures.push({ title: `CPU time of QEMU in minute ${minutes} of idling`, unit: "ms/s", limit: { atMost: Infinity }, samples: exactly((cpuMs(pid) - before) / (idleMs / 1000)) });
    }
    return figures;
  },
};
export default bench;
