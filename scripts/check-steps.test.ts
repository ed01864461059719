import assert from "node:assert/strict";
import { test } from "node:test";
import { stepProblems } from "./check-steps.ts";

const test1 = { path: "src/host/sandbox/failure-at-every-step.test.ts", text: "for (const { name } of makeTeaSteps) fail(name);" };
const realTest = { path: "test/integration/failures.test.ts", text: "failEach({ steps: makeTeaSteps });" };
const cases: readonly (readonly [text: string, problem: RegExp | undefined])[] = [
  ["export const makeTeaSteps: readonly Step<Tea>[] = [\n  { name: \"boil\", run: ({ vm }) => vm.plugDisk(kettle) },\n];", undefined],
  ["export const makeCoffeeSteps: readonly Step<Coffee>[] = [];", /^src\/host\/sandbox\/a\.ts: no test fails the steps of makeCoffeeSteps\n.*: test\/integration\/failures\.test\.ts does not fail the steps of makeCoffeeSteps$/],
  ["const partSteps: readonly Step<Tea>[] = [];", undefined],
  ["await steps.run(\"boil\", () => boil());", /:1: a step outside a list/],
  ["\nawait this.vm.plugDisk(kettle);", /:2: changes the guest or the VM outside a step/],
  ["await connection.guest.createContainer({});", /outside a step/],
  ["const start = () => agent.startContainer({ containerId }); // a step: startContainerSteps", undefined],
  ["await agent.statsContainer({ containerId });", undefined],
];

test("stepProblems() finds steps that no test can fail", () => {
  for (const [text, problem] of cases) {
    const problems = stepProblems([test1, realTest, { path: "src/host/sandbox/a.ts", text }]);
    if (problem === undefined) assert.deepEqual(problems, [], text);
    else assert.match(problems.join("\n"), problem, text);
  }
  assert.deepEqual(stepProblems([{ path: "src/host/sandbox/a.test.ts", text: "vm.plugDisk(kettle)" }, { path: "src/guest/a.ts", text: "vm.plugDisk(kettle)" }]), []);
});
