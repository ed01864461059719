import type { TestEvent } from "node:test/reporters";

/** What the runner needs to know of one finished test; one JSON object a line. */
export interface TestOutcome {
  readonly name: string;
  readonly file: string;
  readonly outcome: "passed" | "failed" | "skipped" | "todo";
  /** Why it was skipped; empty when no reason was given. */
  readonly reason: string;
}

/** The last line: without it the process ended before its tests, for example by process.exit(0), and none of what came before counts as all. */
export const endLine = "end";

/** A reporter for node:test (`--test-reporter`): one line of JSON for each test that ended. */
export default async function* reportEvents(source: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const event of source) {
    const outcome = outcomeOf(event);
    if (outcome !== undefined) yield JSON.stringify(outcome) + "\n";
  }
  yield `${endLine}\n`;
}

function outcomeOf(event: TestEvent): TestOutcome | undefined {
  if (event.type !== "test:pass" && event.type !== "test:fail") return undefined;
  const { name, file = "", skip, todo, details } = event.data;
  const marked = (mark: string | boolean | undefined): boolean => mark !== undefined && mark !== false;
  if (marked(skip)) return { name, file, outcome: "skipped", reason: typeof skip === "string" ? skip : "" };
  if (marked(todo)) return { name, file, outcome: "todo", reason: "" };
  if (event.type === "test:pass") return details.type === "suite" ? undefined : { name, file, outcome: "passed", reason: "" };
  return failedByItsParts(event.data.details.error) ? undefined : { name, file, outcome: "failed", reason: "" };
}

/** A suite, or a test with subtests, that failed only because one of its parts did: that part is counted. */
function failedByItsParts(error: unknown): boolean {
  return error instanceof Error && "failureType" in error && error.failureType === "subtestsFailed";
}
