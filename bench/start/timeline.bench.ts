import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { exactly, type RunBench, type RunFigure } from "../bench.ts";
import { median } from "../pairs.ts";
import { BenchCommand, runTrue, untilPrepared } from "./support.ts";
import { drawTimelines, type Timeline, type TimelineStep } from "./timeline-chart.ts";

const chart = join(process.env["CASEMATE_TEST_OUTPUT"] ?? join(import.meta.dirname, "../../docs"), "start.svg");
/** In these the host does little but wait for the guest. */
const guestSteps = ["connect to the agent", "greet and refresh the guest", "create container in the guest", "start container in the guest"];
/** They hold those of the owner, which are shown themselves. */
const outerSteps = ["start the owner, which starts the sandbox", "let the owner make the container", "attach, and let the owner start the container"];
/** Shorter steps are left out of the chart. */
const leastMs = 1;

/** What one run printed of its steps, by their names in the order they began, and how long the whole command took. */
interface Run { readonly totalMs: number; readonly steps: ReadonlyMap<string, Pick<TimelineStep, "startMs" | "durationMs">> }

async function runOnce(command: BenchCommand, args: readonly string[]): Promise<Run> {
  const [file, ...rest] = command.casemate.commandLine(args);
  const began = performance.now();
  const child = spawn(file, rest, { stdio: ["ignore", "ignore", "pipe"] });
  let printed = "";
  child.stderr.on("data", (chunk: Buffer) => { printed += chunk.toString(); });
  const [code] = await once(child, "close") as [number]; // child_process's "close"
  const totalMs = performance.now() - began;
  if (code !== 0) throw new Error(`casemate ${args.join(" ")}: exit code ${code}: ${printed}`);
  const steps = new Map<string, Pick<TimelineStep, "startMs" | "durationMs">>();
  for (const [, name = "", start, duration] of printed.matchAll(/^ {2}(\S.*?) +\+(\d+) ms +([\d.]+) ms/gm)) {
    // The same name a second time is of another operation.
    steps.set(steps.has(name) ? `${name} (container)` : name, { startMs: Number(start), durationMs: Number(duration) });
  }
  return { totalMs, steps };
}

/** The medians of some runs. */
async function timeline(command: BenchCommand, title: string, args: readonly string[], count: number): Promise<Timeline> {
  await runOnce(command, args);
  const runs: Run[] = [];
  for (let index = 0; index < count; index++) runs.push(await runOnce(command, args));
  const middle = (pick: (run: Run) => number | undefined): number => median(runs.flatMap((run) => pick(run) ?? []));
  const totalMs = middle((run) => run.totalMs);
  const step = (name: string): TimelineStep => ({ label: name, where: guestSteps.includes(name) ? "guest" : "host", startMs: middle((run) => run.steps.get(name)?.startMs), durationMs: middle((run) => run.steps.get(name)?.durationMs) });
  const all = [...runs[0]?.steps.keys() ?? []].map(step).sort((a, b) => a.startMs - b.startMs);
  const outer = all.filter(({ label }) => outerSteps.includes(label));
  const first = all.find(({ startMs }) => startMs > (outer[0]?.startMs ?? 0)), end = outer.at(-1);
  const startedMs = (end?.startMs ?? 0) + (end?.durationMs ?? 0);
  const made: TimelineStep[] = [
    { label: "the owner's program loads", where: "host", startMs: outer[0]?.startMs ?? 0, durationMs: (first?.startMs ?? 0) - (outer[0]?.startMs ?? 0) },
    { label: "the process runs, ends; the command ends", where: "guest", startMs: startedMs, durationMs: totalMs - startedMs },
  ];
  const shown = all.filter(({ label, durationMs }) => !outerSteps.includes(label) && durationMs >= leastMs);
  return { title, totalMs, steps: [...shown, ...made].sort((a, b) => a.startMs - b.startMs) };
}

const bench: RunBench = {
  kind: "run",
  title: "what the time of a start goes to",
  pairs: 10,
  async run(count): Promise<RunFigure[]> {
    await using command = new BenchCommand();
    const prepared = [...runTrue, "busybox", "true"];
    await untilPrepared(command, prepared);
    const timelines = [
      await timeline(command, "casemate run busybox true, from a template", [...runTrue, "--timings", "--template", "guest", "busybox", "true"], count),
      await timeline(command, "the same, from a template with the container in it", [...runTrue, "--timings", "busybox", "true"], count),
    ];
    writeFileSync(chart, drawTimelines(timelines));
    return timelines.flatMap(({ title, totalMs, steps }): RunFigure[] => [
      { title, unit: "ms", limit: { atMost: Infinity }, samples: exactly(Math.round(totalMs)) },
      ...steps.toSorted((a, b) => b.durationMs - a.durationMs).slice(0, 8).map(({ label, durationMs }): RunFigure => ({ title: `  ${label}`, unit: "ms", limit: { atMost: Infinity }, samples: exactly(Math.round(durationMs)) })),
    ]);
  },
};
export default bench;
