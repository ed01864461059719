// Rules that keep every step of every operation open to injected failures (docs/conventions.md, "Steps").
import type { TextFile } from "./check-files.ts";

/** The tests that enumerate the lists, and fail each step: with doubles or with parts of a sandbox, and in whole sandboxes. */
const enumeratingTests = ["src/host/sandbox/failure-at-every-step.test.ts", "src/host/sandbox/adopt-sandbox.test.ts", "test/integration/network.test.ts"];
const realTest = "test/integration/failures.test.ts";
/** A take-over changes nothing of the sandbox that a real one could leave. */
const withoutReal = ["adoptSandboxSteps"];
/** Calls that change the guest or the VM; each belongs to a step. */
const changingCall = /\b(?:guest\.(?:hello|refresh|createContainer|exec|addStorages|removeStorages)|agent\.(?:startContainer|updateContainer|onlineCPUMem|updateInterface|updateRoutes|createSandbox)|vm\.(?:plug\w+|growVcpus|resizeMemory)|drivers\.\w+|disks\.take)\(/;
/** Where such calls are: a file with a list of steps, or one that only such lists use. */
const usedBySteps = ["src/host/sandbox/guest-network.ts", "src/host/sandbox/sandbox-room.ts"];

/** Steps that tests cannot fail, one line each. */
export function stepProblems(files: readonly TextFile[]): string[] {
  const textOf = (paths: readonly string[]): string => files.filter(({ path }) => paths.includes(path)).map(({ text }) => text).join("\n");
  const tests = textOf(enumeratingTests), real = textOf([realTest]);
  return files.filter(({ path }) => /^src\/host\/(sandbox|network)\/.*\.ts$/.test(path) && !path.endsWith(".test.ts")).flatMap(({ path, text }) => {
    const lists = [...text.matchAll(/^(export )?const (\w+): readonly Step</gm)].map(([, exported, name = ""]) => ({ name, exported: exported !== undefined }));
    const isIn = (name: string, text: string): boolean => new RegExp(`\\b${name}\\b`).test(text);
    const unlisted = lists.filter(({ exported }) => exported).flatMap(({ name }) => [
      ...(isIn(name, tests) ? [] : [`${path}: no test fails the steps of ${name}`]),
      ...(isIn(name, real) || withoutReal.includes(name) ? [] : [`${path}: ${realTest} does not fail the steps of ${name}`]),
    ]);
    const spelled = text.split("\n").flatMap((line, index) => (/\bsteps\.run\(/.test(line) ? [`${path}:${index + 1}: a step outside a list: ${line.trim().slice(0, 80)}`] : []));
    const outside = lists.length > 0 || usedBySteps.includes(path) ? [] : text.split("\n").flatMap((line, index) => (changingCall.test(line) && !isInjected(line) ? [`${path}:${index + 1}: changes the guest or the VM outside a step: ${line.trim().slice(0, 80)}`] : []));
    return [...unlisted, ...spelled, ...outside];
  });
}

/** Handed to a step as what it does. */
function isInjected(line: string): boolean {
  return /\/\/ a step:/.test(line);
}
