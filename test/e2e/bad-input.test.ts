// Everything that users and machines get wrong, in one table: what is called, how it ends, within which
// time, and the next step that the message names. After each the host is as it was before.
import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { findTaggedProcesses } from "../../src/host/store/tagged-process.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import type { ErrorCode } from "../../src/shared/base/errors.ts";
import { signalProcess, type ProcessIdentity } from "../../src/shared/linux/proc.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { Casemate, shareGuest, useCasemate, type CliResult } from "../support/cli.ts";
import { plantGuest, type GuestVariant } from "../support/guest-variant.ts";
import { watchHost } from "../support/host-clean.ts";
import { pushLayout, randomLayer, writeOciLayout } from "../support/image-fixture.ts";
import { Registry, freePort } from "../support/registry.ts";
import { requires } from "../support/requires.ts";
import { endTemplateWork } from "../support/templates.ts";

/** A row of the table. */
interface BadInput {
  readonly case: string;
  /** `REGISTRY` and `PORT` stand for the test's own. */
  readonly command: readonly string[];
  readonly exitCode: number;
  /** What --debug prints of the error; none for the option parser's own messages. */
  readonly code?: ErrorCode;
  readonly reason?: string;
  /** Most seconds until the command has ended. */
  readonly limitS: number;
  /** In what is printed: what to do next. Undefined: it works all the same. */
  readonly nextStep?: RegExp;
  /** Makes the circumstances, runs the command in them, and takes them back. */
  readonly under?: (run: (options?: RunIn) => Promise<CliResult>) => Promise<CliResult>;
}

/** Where a row's command runs; default: with the state of the whole file. */
interface RunIn {
  readonly casemate?: Casemate;
  readonly env?: NodeJS.ProcessEnv;
}

const run = ["run", "--rm", "-q", "--network", "none"];
const coldRun = [...run, "--template", "off"];
/** A boot under emulation, twice: the machine is busy. */
const bootS = 60;

const table: readonly BadInput[] = [
  { case: "unknown image", command: [...run, "REGISTRY/test/nothing:v1"], exitCode: 125, code: "not_found", reason: "image_not_found", limitS: 10, nextStep: /check the name; `casemate images` lists/ },
  { case: "no registry", command: [...run, "127.0.0.1:1/test/nothing:v1"], exitCode: 125, code: "unavailable", reason: "registry_unavailable", limitS: 20, nextStep: /check the name and the network/ },
  { case: "bad image name", command: [...run, "UPPER/case"], exitCode: 125, code: "invalid_argument", reason: "bad_image_name", limitS: 5, nextStep: /write \[REGISTRY\/\]NAME\[:TAG\]/ },
  { case: "corrupt image layer", command: [...run, "REGISTRY/test/damaged:v1"], exitCode: 125, code: "data_loss", reason: "image_corrupt", limitS: 20, nextStep: /try again, or pull by another tag/ },
  { case: "no such user", command: [...run, "-u", "nobody-here", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "user_not_found", limitS: bootS, nextStep: /name a user of the image, or give a number/ },
  { case: "no such user, exec", command: ["exec", "-u", "nobody-here", "base", "true"], exitCode: 125, code: "invalid_argument", reason: "user_not_found", limitS: 10, nextStep: /name a user of the image, or give a number/ },
  { case: "working directory is a file", command: [...run, "-w", "/bin/busybox", "busybox", "true"], exitCode: 126, code: "not_found", reason: "cwd_not_found", limitS: bootS, nextStep: /name a working directory that exists/ },
  { case: "no such working directory, exec", command: ["exec", "-w", "/nowhere", "base", "true"], exitCode: 126, code: "not_found", reason: "cwd_not_found", limitS: 10, nextStep: /name a working directory that exists/ },
  { case: "relative working directory", command: [...run, "-w", "here", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "bad_workdir", limitS: 5, nextStep: /write -w \/path/ },
  { case: "mount source is a device", command: [...run, "-v", "/dev/null:/x", "busybox", "true"], exitCode: 125, code: "failed_precondition", reason: "bad_source", limitS: 10, nextStep: /share a folder or a file/ },
  { case: "mount source below a file", command: [...run, "-v", "/etc/passwd/below:/x", "busybox", "true"], exitCode: 125, code: "failed_precondition", reason: "bad_source", limitS: 10, nextStep: /check the path/ },
  { case: "port out of range", command: [...run, "-p", "99999:80", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "bad_port", limitS: 5, nextStep: /for example -p 127\.0\.0\.1:8080:80/ },
  { case: "port is no number", command: [...run, "-p", "eighty:80", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "bad_port", limitS: 5, nextStep: /for example -p 127\.0\.0\.1:8080:80/ },
  { case: "port without a network", command: [...run, "-p", "80:80", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "no_network", limitS: 5, nextStep: /leave out --network none or -p/ },
  { case: "port is taken", command: ["run", "--rm", "-q", "-p", "127.0.0.1:PORT:80", "busybox", "true"], exitCode: 125, code: "failed_precondition", reason: "port_taken", limitS: 10, nextStep: /another|choose|ss -/, under: withTakenPort },
  { case: "duplicate name", command: [...run, "--name", "base", "busybox", "true"], exitCode: 125, code: "already_exists", reason: "name_taken", limitS: 5, nextStep: /remove it with "casemate rm base" or choose another name/ },
  { case: "memory too small", command: [...run, "-m", "1m", "busybox", "true"], exitCode: 125, code: "invalid_argument", reason: "memory_too_small", limitS: 5, nextStep: /raise --memory/ },
  { case: "memory larger than the host", command: [...run, "-m", "100t", "busybox", "true"], exitCode: 125, code: "resource_exhausted", reason: "memory_too_large", limitS: 5, nextStep: /lower --memory/ },
  { case: "unknown option", command: ["run", "--nmae", "x", "busybox", "true"], exitCode: 125, limitS: 5, nextStep: /did you mean --name\?/ },
  { case: "unknown command", command: ["rnu", "busybox", "true"], exitCode: 125, limitS: 5, nextStep: /did you mean run\?/ },
  { case: "option that cannot be", command: [...run, "--link", "other", "busybox", "true"], exitCode: 125, code: "unimplemented", reason: "option_refused", limitS: 5, nextStep: /publish a port with -p/ },
  { case: "guest kernel missing", command: [...coldRun, "busybox", "true"], exitCode: 125, code: "failed_precondition", reason: "kernel_missing", limitS: 20, nextStep: /run `apt-get update`/, under: withoutKernel },
  { case: "guest kernel corrupt", command: [...coldRun, "--start-timeout", "10", "busybox", "true"], exitCode: 125, code: "data_loss", reason: "guest_image_corrupt", limitS: 30, nextStep: /remove ".*"; it is made again by the next run/, under: (go) => withGuest({ corruptKernel: true }, go) },
  { case: "agent that never answers", command: [...coldRun, "--start-timeout", "10", "busybox", "true"], exitCode: 125, code: "deadline_exceeded", reason: "agent_silent", limitS: 30, nextStep: /give it more time with --start-timeout/, under: (go) => withGuest({ init: "echo nobody here\nexec /bin/busybox sleep 100000" }, go) },
  { case: "console flood instead of a start", command: [...coldRun, "--start-timeout", "10", "busybox", "true"], exitCode: 125, code: "deadline_exceeded", reason: "agent_silent", limitS: 30, nextStep: /give it more time with --start-timeout/, under: floodConsole },
  { case: "guest that gives up", command: [...coldRun, "busybox", "true"], exitCode: 125, code: "unavailable", reason: "vmm_died", limitS: bootS, nextStep: /casemate check/, under: (go) => withGuest({ init: "echo out of luck\nexec /bin/busybox poweroff -f" }, go) },
  { case: "QEMU killed during start", command: [...coldRun, "busybox", "true"], exitCode: 125, code: "unavailable", reason: "vmm_died", limitS: 20, nextStep: /casemate check/, under: (go) => killing("vmm", go) },
  // Another owner goes on where the first one was.
  { case: "owner killed during start", command: [...coldRun, "busybox", "true"], exitCode: 0, limitS: bootS, under: (go) => killing("owner", go) },
  { case: "socket path too long", command: ["run", "--rm", "-q", "-v", "/etc/hostname:/name:ro", "busybox", "cat", "/name"], exitCode: 0, limitS: bootS, under: inLongFolder },
  { case: "data folder full before the image", command: [...run, "busybox", "true"], exitCode: 125, code: "resource_exhausted", reason: "disk_full", limitS: 20, nextStep: /free some space/, under: (go) => withSmallDisk("empty", go) },
  { case: "data folder full after the image", command: [...run, "busybox", "true"], exitCode: 125, code: "resource_exhausted", reason: "disk_full", limitS: 20, nextStep: /free some space/, under: (go) => withSmallDisk("with image", go) },
];

const skip = requires("root", "docker-registry");
let registry: Registry;
// Registered before the state folders' own end, which looks at the whole host.
after(() => registry[Symbol.asyncDispose]());
const casemate = useCasemate();

before(async () => {
  if (skip !== false) return;
  registry = await Registry.start();
  await pushDamaged();
  await casemate.ok(["run", "-d", "-q", "--network", "none", "--name", "base", "busybox", "sleep", "100000"]);
}, { timeout: 180_000 });

for (const row of table) {
  test(row.case, { skip, timeout: 240_000 }, async () => {
    const { assertHostClean } = watchHost({ folders: [casemate.folders.data], ignore: isHistory });
    let tookMs = 0;
    const go = async ({ casemate: own = casemate, env }: RunIn = {}): Promise<CliResult> => {
      const began = performance.now();
      const args = row.command.map((word) => word.replace("REGISTRY", registry.address).replace("PORT", String(takenPort)));
      try {
        return await own.run(["--debug", ...args], { timeoutMs: (row.limitS + bootS) * 1_000, ...(env && { env }) });
      } finally {
        tookMs = performance.now() - began;
      }
    };
    const { code, stdout, stderr } = await (row.under ?? ((plain) => plain()))(go);
    const said = `${stdout}${stderr}`;
    assert.equal(code, row.exitCode, said);
    if (row.code !== undefined) assert.ok(stderr.includes(`[${row.code}, ${row.reason ?? ""}]`), said);
    if (row.nextStep === undefined) assert.equal(stderr, "");
    else assert.match(stderr, row.nextStep);
    assert.ok(tookMs < row.limitS * 1_000, `took ${Math.round(tookMs)} ms`);
    await assertHostClean();
  });
}

test("Ctrl-C during start", { skip, timeout: 120_000 }, async () => {
  const { assertHostClean } = watchHost({ folders: [casemate.folders.data], ignore: isHistory });
  const started = nextStart();
  const child = casemate.start([...coldRun, "busybox", "true"]);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  await started();
  child.kill("SIGINT");
  assert.equal(await ended, 130);
  await assertHostClean();
});

/** What happened can still be read for an hour. */
function isHistory(kind: string, line: string): boolean {
  return kind === "state" && line.includes("/run/events/");
}

/** An image whose layer changed in the registry after it was pushed. */
async function pushDamaged(): Promise<void> {
  const layer = randomLayer("file", 100_000);
  await using folder = temporaryFolder();
  writeOciLayout(join(folder.path, "layout"), [layer]);
  await pushLayout(join(folder.path, "layout"), `${registry.address}/test/damaged:v1`);
  const blob = readdirSync(registry.blobsFolder, { recursive: true, encoding: "utf8" }).map((name) => join(registry.blobsFolder, name)).find((path) => path.endsWith("/data") && statSync(path).size === layer.blob.length);
  assert.ok(blob !== undefined);
  writeFileSync(blob, layer.blob.map((byte, index) => (index === 50_000 ? byte ^ 0xff : byte)));
}

let takenPort = 0;

async function withTakenPort(go: () => Promise<CliResult>): Promise<CliResult> {
  takenPort = await freePort();
  const server = createServer().listen(takenPort, "127.0.0.1");
  try {
    return await go();
  } finally {
    server.close();
  }
}

/** A state folder of its own, gone afterwards. */
function temporaryFolder(): { readonly path: string } & AsyncDisposable {
  const path = mkdtempSync("/tmp/cm-");
  chmodSync(path, 0o711);
  return { path, [Symbol.asyncDispose]: async () => {
    await settled(new Casemate(path));
    rmSync(path, { recursive: true, force: true });
  } };
}

/** Sandboxes end after the command that started them, and the memory of their template is kept for the next. */
async function settled({ folders }: Casemate): Promise<void> {
  await eventually("the end of the sandboxes", () => (namesIn(join(folders.run, "sandboxes")).length === 0 ? true : undefined), { timeoutMs: 10_000 });
  await endTemplateWork(folders);
}

function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}

async function withGuest(variant: GuestVariant, go: (options: RunIn) => Promise<CliResult>, meanwhile?: (own: Casemate) => void): Promise<CliResult> {
  await using folder = temporaryFolder();
  const own = new Casemate(folder.path);
  await plantGuest(own.folders, variant);
  meanwhile?.(own);
  return await go({ casemate: own });
}

/** The console's file stays small, however much comes. */
async function floodConsole(go: (options: RunIn) => Promise<CliResult>): Promise<CliResult> {
  let largest = 0;
  let watch: NodeJS.Timeout | undefined;
  const result = await withGuest({ init: "exec /bin/busybox yes there is no end to this" }, go, (own) => {
    watch = setInterval(() => {
      const sandboxes = join(own.folders.run, "sandboxes");
      for (const sandboxId of namesIn(sandboxes)) {
        const bytes = namesIn(join(sandboxes, sandboxId)).filter((name) => name.startsWith("console.log")).map((name) => statSync(join(sandboxes, sandboxId, name), { throwIfNoEntry: false })?.size ?? 0);
        largest = Math.max(largest, bytes.reduce((sum, size) => sum + size, 0));
      }
    }, 50);
  });
  clearInterval(watch);
  assert.ok(largest > 0 && largest < 1.2 * 1024 * 1024, `the console's files grew to ${largest} bytes`);
  assert.ok(result.stderr.length < 10_000, "the end of the console is enough");
  assert.match(result.stderr, /there is no end to this/);
  return result;
}

/** No kernel in the cache, and apt that has no lists. */
async function withoutKernel(go: (options: RunIn) => Promise<CliResult>): Promise<CliResult> {
  await using folder = temporaryFolder();
  await using programs = temporaryFolder();
  writeFileSync(join(programs.path, "apt-cache"), "#!/bin/sh\necho 'E: No packages found' >&2\nexit 100\n", { mode: 0o755 });
  return await go({ casemate: new Casemate(folder.path), env: { PATH: `${programs.path}:${process.env["PATH"] ?? ""}` } });
}

/** Kills one process of a sandbox as soon as its VM has begun to boot. */
async function killing(who: "owner" | "vmm", go: () => Promise<CliResult>): Promise<CliResult> {
  const started = nextStart();
  const result = go();
  result.catch(() => { /* awaited below, unless the wait before it fails */ });
  signalProcess((await started())[who], "SIGKILL");
  return await result;
}

/** Waits for a sandbox that is not there yet, until its VM boots. */
function nextStart(): () => Promise<Readonly<Record<"owner" | "vmm", ProcessIdentity>>> {
  const sandboxes = join(casemate.folders.run, "sandboxes");
  const before = new Set(namesIn(sandboxes));
  return () => eventually("the start of a VM", () => {
    const sandboxId = namesIn(sandboxes).find((name) => !before.has(name) && !name.startsWith("."));
    if (sandboxId === undefined) return undefined;
    const [vmm] = findTaggedProcesses(`${sandboxId}/vmm`);
    const owner = ownerOf(sandboxId);
    return vmm === undefined || owner === undefined ? undefined : { owner, vmm };
  }, { timeoutMs: 20_000 });
}

/** The owner itself; its supervisor, a shell, has its name too. */
function ownerOf(sandboxId: string): ProcessIdentity | undefined {
  return findTaggedProcesses(`${sandboxId}/owner`).find(({ pid }) => readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[0]?.endsWith("/node"));
}

async function inLongFolder(go: (options: RunIn) => Promise<CliResult>): Promise<CliResult> {
  await using folder = temporaryFolder();
  const long = join(folder.path, "long".repeat(20), "longer".repeat(10));
  mkdirSync(long, { recursive: true, mode: 0o711 });
  shareGuest(long);
  const own = new Casemate(long);
  const result = await go({ casemate: own });
  assert.equal(result.stdout, readFileSync("/etc/hostname", "utf8"));
  await settled(own);
  return result;
}

/** A data folder on a disk of its own, with hardly a byte left. */
async function withSmallDisk(state: "empty" | "with image", go: (options: RunIn) => Promise<CliResult>): Promise<CliResult> {
  await using folder = temporaryFolder();
  const disk = join(folder.path, "disk");
  mkdirSync(disk);
  await runProcess("mount", ["-t", "tmpfs", "-o", `size=${state === "empty" ? "256k" : "64m"},mode=711`, "tmpfs", disk]);
  try {
    shareGuest(disk);
    const own = new Casemate(disk);
    if (state === "with image") {
      await own.ok(["create", "--rm", "--name", "first", "busybox", "true"]);
      await own.ok(["rm", "first"]);
      await runProcess("dd", ["if=/dev/zero", `of=${join(disk, "filler")}`, "bs=4k"], { okExitCodes: [0, 1] });
    }
    const result = await go({ casemate: own });
    assert.deepEqual(namesIn(own.folders.data + "/containers"), []);
    assert.deepEqual(namesIn(own.folders.data + "/names"), []);
    await settled(own);
    return result;
  } finally {
    await runProcess("umount", [disk]);
  }
}
