import { forkSandbox } from "../../src/host/containers/clone-sandbox.ts";
import { removeContainer } from "../../src/host/containers/end-container.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { median, medianSlope } from "../pairs.ts";
import { privateMegabytes } from "../support/private-memory.ts";
import { BenchCommand } from "./support.ts";

/** Forks of forks. The end-to-end test has fewer of them. */
const links = 20;

const bench: RunBench = {
  kind: "run",
  title: `a chain of ${links} forks`,
  pairs: links,
  async run(count): Promise<RunFigure[]> {
    await using command = new BenchCommand();
    const { casemate } = command;
    const { folders } = casemate;
    const store = new ContainerStore(folders);
    const shell = (name: string, script: string): Promise<string> => casemate.ok(["exec", name, "sh", "-c", script]);
    let record = store.find(await casemate.ok(["run", "-q", "-d", "--network", "none", "--name", "link0", "busybox", "sleep", "100000"]));
    const costs: { readonly link: number; readonly wholeMs: number; readonly pauseMs: number; readonly megabytes: number }[] = [];
    for (let link = 1; link <= count; link++) {
      // On its disk and in its memory.
      await shell(record.name, `echo ${link} >> /links; echo ${link} >> /dev/shm/links`);
      const began = performance.now();
      const { containers: [child], pauseMs } = await forkSandbox(folders, record, { count: 1, name: `link${link}`, debug: false });
      const wholeMs = performance.now() - began;
      if (child === undefined) throw new Error(`link ${link}: no copy`);
      await removeContainer(folders, record, { force: true });
      record = child;
      const [{ Sandbox }] = JSON.parse(await casemate.ok(["inspect", record.name])) as [{ readonly Sandbox: { readonly vmmPid: number } }];
      costs.push({ link, wholeMs, pauseMs, megabytes: privateMegabytes(Sandbox.vmmPid) });
    }
    const expected = Array.from({ length: count }, (_, index) => String(index + 1)).join("\n");
    for (const file of ["/links", "/dev/shm/links"]) if (await shell(record.name, `cat ${file}`) !== expected) throw new Error(`the last of ${count} forks has another ${file}`);
    const figure = (title: string, unit: string, samples: RunFigure["samples"]): RunFigure => ({ title, unit, limit: { atMost: Infinity }, samples });
    return [
      figure(`a link of a chain of ${count} forks, from the call to its owner's word`, "ms", exactly(Math.round(median(costs.map(({ wholeMs }) => wholeMs))))),
      figure("the same, for each further link", "ms", medianSlope(costs.map(({ link, wholeMs }) => [link, wholeMs] as const))),
      figure("the parent's pause, for each further link", "ms", medianSlope(costs.map(({ link, pauseMs }) => [link, pauseMs] as const))),
      figure("private memory of a copy's QEMU, for each further link", "MB", medianSlope(costs.map(({ link, megabytes }) => [link, megabytes] as const))),
    ];
  },
};
export default bench;
