// docker-table.ts [--write] [FILTER...]: runs the commands of docs/docker.md beside Debian's docker and prints
// what is the same. --write puts the table into the page instead. A filter is a part of a command; the rows that
// its row needs are run too.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { stateFolders } from "../src/host/store/paths.ts";
import { RuntimeError } from "../src/shared/base/errors.ts";
import { releaseTemplateMemory } from "../src/host/template/template-memory.ts";
import { runProcess } from "../src/shared/linux/run-process.ts";
import { cases, files, image, scenes, type Case } from "./docker-table/cases.ts";
import { problemOf, type Outcome } from "./docker-table/compare.ts";
import { DockerDaemon, dockerProgram } from "./docker-table/docker-daemon.ts";
import { withTable, written } from "./docker-table/document.ts";

const root = join(import.meta.dirname, "..");
const page = join(root, "docs/docker.md");
const casemate = join(root, "bin/casemate");
const commandTimeoutMs = 120_000;
/** As timeout(1) has it. */
const timedOutExitCode = 124;
/** What must be the same at least. */
const leastSame = 45;
const anyExitCode = Array.from({ length: 256 }, (_, code) => code);

/** One of the two programs, with state of its own. */
type Side = (command: readonly string[], input?: string) => Promise<Outcome>;

async function main(args: readonly string[]): Promise<void> {
  if (args.includes("--write")) {
    writeFileSync(page, withTable(readFileSync(page, "utf8")));
    return;
  }
  const wanted = (one: Case): boolean => args.length === 0 || args.some((filter) => written(one).includes(filter));
  if (!cases.some(wanted)) throw new Error(`no command of the table has ${args.join(" or ")} in it`);
  // Short, because a unix socket's path has at most 107 bytes.
  const folder = mkdtempSync("/tmp/cm-dt-");
  try {
    await using daemon = await DockerDaemon.start(join(folder, "docker"));
    process.exitCode = await compareAll(folder, daemon, wanted);
  } finally {
    const state = ["--root", join(folder, "state")];
    const { stdout } = await runProcess(casemate, [...state, "ps", "-aq"], { okExitCodes: anyExitCode, timeoutMs: commandTimeoutMs });
    const left = stdout.toString().split("\n").filter((id) => id !== "");
    if (left.length > 0) await runProcess(casemate, [...state, "rm", "-f", ...left], { okExitCodes: anyExitCode, timeoutMs: commandTimeoutMs });
    await runProcess(casemate, [...state, "prune", "-af"], { okExitCodes: anyExitCode, timeoutMs: commandTimeoutMs });
    await releaseTemplateMemory(stateFolders(join(folder, "state")));
    rmSync(folder, { recursive: true, force: true });
  }
}

async function compareAll(folder: string, daemon: DockerDaemon, wanted: (one: Case) => boolean): Promise<number> {
  const docker = side(dockerProgram, ["--host", daemon.host], join(folder, "docker-files"));
  const own = side(casemate, ["--root", join(folder, "state")], join(folder, "casemate-files"));
  await prepare(folder, docker, own);
  let same = 0, wrong = 0;
  for (const one of scenes.flatMap((scene) => scene.slice(0, scene.findLastIndex(wanted) + 1))) {
    const problem = problemOf(one, one.verdict === "refused" ? { exitCode: 0, stdout: "", stderr: "" } : await docker(one.command, one.input), await own(one.command, one.input));
    if (problem !== "") wrong++;
    else if (wanted(one) && one.verdict === "same") same++;
    console.log(`${problem === "" ? (wanted(one) ? one.verdict : "set-up").padEnd(8) : "WRONG   "} ${written(one)}${problem === "" ? "" : `\n         ${problem}`}`);
  }
  console.log(`${same} same, ${cases.length} commands, ${wrong} not as docs/docker.md says`);
  return wrong > 0 || (cases.every(wanted) && same < leastSame) ? 1 : 0;
}

/** Both get the same image and the same files. */
async function prepare(folder: string, docker: Side, own: Side): Promise<void> {
  const state = join(folder, "state");
  mkdirSync(state, { mode: 0o711 });
  symlinkSync(join(stateFolders(undefined).data, "guest"), join(state, "guest"));
  for (const name of ["docker-files", "casemate-files"]) {
    for (const [path, content] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name, path)), { recursive: true });
      writeFileSync(join(folder, name, path), content);
    }
  }
  const archive = join(folder, "image.tar");
  // The first run makes the embedded image; its output goes nowhere.
  for (const command of [["run", "-q", "--rm", "busybox", "true"], ["tag", "busybox", image], ["rmi", "busybox"], ["save", "-o", archive, image]]) require0(await own(command), command);
  require0(await docker(["load", "-q", "-i", archive]), ["load"]);
}

function require0({ exitCode, stderr }: Outcome, command: Case["command"]): void {
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr}`);
}

function side(program: string, options: readonly string[], filesFolder: string): Side {
  return async (command, input) => {
    const args = command.map((word) => word.replaceAll("FILES", filesFolder));
    try {
      const { exitCode, stdout, stderr } = await runProcess(program, [...options, ...args], { okExitCodes: anyExitCode, timeoutMs: commandTimeoutMs, ...(input !== undefined && { input }) });
      return { exitCode, stdout: stdout.toString().replaceAll(filesFolder, "FILES"), stderr };
    } catch (error) {
      if (!RuntimeError.is(error, "deadline_exceeded")) throw error;
      return { exitCode: timedOutExitCode, stdout: "", stderr: `not done within ${commandTimeoutMs} ms` }; // one row's failure; the others are still of interest
    }
  };
}

await main(process.argv.slice(2));
