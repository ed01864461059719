import type { StepTime } from "../../shared/protocol/gen/owner_pb.ts";

/** The steps of a start as a person wants to see them: when each began, how long it took, and what share of the whole that is as a bar. */
export function formatTimings(steps: readonly Pick<StepTime, "operation" | "step" | "startMicros" | "durationMicros">[]): string {
  const ms = (micros: bigint): number => Number(micros) / 1000;
  const totalMs = Math.max(...steps.map(({ startMicros, durationMicros }) => ms(startMicros + durationMicros)), 0);
  const longest = Math.max(...steps.map(({ durationMicros }) => ms(durationMicros)), 1);
  const width = Math.max(...steps.map(({ step }) => step.length), 0);
  const lines: string[] = [];
  let operation = "";
  for (const step of [...steps].sort((a, b) => Number(a.startMicros - b.startMicros))) {
    if (step.operation !== operation) lines.push(step.operation);
    operation = step.operation;
    const durationMs = ms(step.durationMicros);
    lines.push(`  ${step.step.padEnd(width)} ${`+${ms(step.startMicros).toFixed(0)}`.padStart(7)} ms ${durationMs.toFixed(1).padStart(8)} ms ${"#".repeat(Math.round(durationMs / longest * barWidth))}`.trimEnd());
  }
  return `${[...lines, `in all ${totalMs.toFixed(0)} ms`].join("\n")}\n`;
}

/** Of the longest step. */
const barWidth = 30;
