import type { StepTime } from "../../shared/protocol/gen/owner_pb.ts";

/** The steps of a start as a person wants to see them: when each began, how long it took, and what share of the whole that is as a bar. */
export function formatTimings(steps: readonly Pick<StepTime, "operation" | "step" | "startMicros" | "durationMicros" | "depth">[]): string {
  const ms = (micros: bigint): number => Number(micros) / 1000;
  const totalMs = Math.max(...steps.map(({ startMicros, durationMicros }) => ms(startMicros + durationMicros)), 0);
  const longest = Math.max(...steps.map(({ durationMicros }) => ms(durationMicros)), 1);
  const shown = ({ step, depth }: { readonly step: string; readonly depth: number }): string => `${"  ".repeat(depth)}${step}`;
  const width = Math.max(...steps.map((step) => shown(step).length), 0);
  const lines: string[] = [];
  let operation = "";
  for (const step of [...steps].sort((a, b) => Number(a.startMicros - b.startMicros) || a.depth - b.depth)) {
    if (step.operation !== operation) lines.push(step.operation);
    operation = step.operation;
    const durationMs = ms(step.durationMicros);
    lines.push(`  ${shown(step).padEnd(width)} ${`+${ms(step.startMicros).toFixed(0)}`.padStart(7)} ms ${durationMs.toFixed(1).padStart(8)} ms ${"#".repeat(Math.round(durationMs / longest * barWidth))}`.trimEnd());
  }
  return `${[...lines, `in all ${totalMs.toFixed(0)} ms`].join("\n")}\n`;
}

/** Of the longest step. */
const barWidth = 30;
