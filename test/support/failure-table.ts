/** The ways a step fails. */
export const failureKinds = ["error before", "error after", "time-out", "late answer", "guest reset", "VMM death"] as const;
export type FailureKind = typeof failureKinds[number];

/** What came of each step failing in each way, as a table for people. */
export class FailureTable {
  readonly #rows = new Map<string, Map<FailureKind, string>>();

  /** `result`: one word. */
  note(operation: string, step: string, kind: FailureKind, result: "clean" | "boots cold" | "no VM" | "FAILED"): void {
    const row = `${operation} | ${step}`;
    const cells = this.#rows.get(row) ?? new Map<FailureKind, string>();
    this.#rows.set(row, cells.set(kind, result));
  }

  /** Markdown, with the totals below it. A cell that was not tried is empty. */
  format(): string {
    const cells = [...this.#rows.values()].flatMap((row) => [...row.values()]);
    const count = (...results: string[]): number => cells.filter((cell) => results.includes(cell)).length;
    return [
      `| operation | step | ${failureKinds.join(" | ")} |`,
      `|---|---|${failureKinds.map(() => "---|").join("")}`,
      ...[...this.#rows].map(([row, results]) => `| ${row} | ${failureKinds.map((kind) => results.get(kind) ?? "").join(" | ")} |`),
      "",
      `${this.#rows.size} steps × ${failureKinds.length} kinds: ${count("clean", "boots cold", "FAILED")} failures, ${count("FAILED")} of them left something or told something else; ${count("no VM")} are before there is a VM`,
    ].join("\n");
  }
}
