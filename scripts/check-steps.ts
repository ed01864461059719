// Rules that keep every step of every operation open to injected failures (docs/conventions.md, "Steps").
import type { TextFile } from "./check-files.ts";

/** The tests that enumerate the lists, and fail each step. */
const enumeratingTests = ["src/host/sandbox/failure-at-every-step.test.ts", "src/host/sandbox/adopt-sandbox.test.ts", "test/support/network-probe.ts", "test/integration/network.test.ts"];
/** Calls that change the guest or the VM; each belongs to a step. */
const changingCall = /\b(?:guest\.(?:hello|refresh|createContainer|exec|addStorages|removeStorages)|agent\.(?:startContainer|updateContainer|onlineCPUMem|updateInterface|updateRoutes|createSandbox)|vm\.(?:plug\w+|growVcpus|resizeMemory)|drivers\.\w+|disks\.take)\(/;
/** Where such calls are: a file with a list of steps, or one that only such lists use. */
const usedBySteps = ["src/host/sandbox/guest-network.ts", "src/host/sandbox/sandbox-room.ts"];

/** Steps that tests cannot fail, one line each. */
export function stepProblems(files: readonly TextFile[]): string[] {
  const tests = files.filter(({ path }) => enumeratingTests.includes(path)).map(({ text }) => text).join("\n");
  return files.filter(({ path }) => /^src\/host\/(sandbox|network)\/.*\.ts$/.test(path) && !path.endsWith(".test.ts")).flatMap(({ path, text }) => {
    const lists = [...text.matchAll(/^(export )?const (\w+): readonly Step</gm)].map(([, exported, name = ""]) => ({ name, exported: exported !== undefined }));
    const unlisted = lists.filter(({ exported, name }) => exported && !new RegExp(`\\b${name}\\b`).test(tests)).map(({ name }) => `${path}: no test fails the steps of ${name}`);
    const spelled = text.split("\n").flatMap((line, index) => (/\bsteps\.run\(/.test(line) ? [`${path}:${index + 1}: a step outside a list: ${line.trim().slice(0, 80)}`] : []));
    const outside = lists.length > 0 || usedBySteps.includes(path) ? [] : text.split("\n").flatMap((line, index) => (changingCall.test(line) && !isInjected(line) ? [`${path}:${index + 1}: changes the guest or the VM outside a step: ${line.trim().slice(0, 80)}`] : []));
    return [...unlisted, ...spelled, ...outside];
  });
}

/** Handed to a step as what it does. */
function isInjected(line: string): boolean {
  return /\/\/ a step:/.test(line);
}
