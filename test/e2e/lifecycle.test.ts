// A container's life, from create to rm, through every command that people use on the way.
// - create and start apart; start again; names and unique id prefixes; ps, wait, stop, kill, rm
// - logs whole, by their end, followed, with their times, and into a reader that leaves
// - a reboot of the host (the run folder is gone) and a VM that dies are told as they are
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { readProcStat } from "../../src/shared/linux/proc.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 60_000;

interface Inspected {
  readonly Id: string;
  readonly Name: string;
  readonly State: { readonly Status: string; readonly ExitCode: number; readonly Error: string; readonly StartedAt: string };
  readonly Sandbox: { readonly id: string; readonly ownerPid: number; readonly vmmPid: number };
}

interface Listed {
  readonly ID: string;
  readonly Names: string;
  readonly State: string;
  readonly Status: string;
  readonly Image: string;
  readonly Command: string;
}

/** What docker shows of a container for which nothing was said. */
const unsetLimits = {
  LogConfig: { Type: "json-file", Config: {} }, CapAdd: null, CapDrop: null, Dns: [], DnsOptions: [], DnsSearch: [], ExtraHosts: null, GroupAdd: null, SecurityOpt: null,
  ShmSize: 64 * 1024 ** 2, MemoryReservation: 0, MemorySwap: 0, CpuShares: 0, CpusetCpus: "", PidsLimit: null, Ulimits: null,
};

describe("a container's life", { skip }, () => {
  const casemate = useCasemate();
  const inspect = async (name: string): Promise<Inspected> => {
    const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
    assert.ok(found);
    return found;
  };
  const list = async (...args: string[]): Promise<Listed[]> => (await casemate.ok(["ps", "--format", "json", ...args])).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line) as Listed);

  test("create makes it, start -a runs it to its end, as often as wanted", async () => {
    const id = await casemate.ok(["create", "-q", "--name", "job", "-i", "busybox", "sh", "-c", "echo run >> /runs; cat /runs; cat; exit 5"]);
    assert.match(id, /^[0-9a-f]{64}$/);
    assert.deepEqual((await list("-a")).map(({ Names, State, Status, Image }) => ({ Names, State, Status, Image })), [{ Names: "job", State: "created", Status: "Created", Image: "busybox" }]);
    assert.deepEqual(await list(), [], "ps without -a shows what runs");
    const first = await casemate.run(["start", "-a", "-i", "-q", "job"], { input: "typed\n" });
    assert.deepEqual({ code: first.code, stdout: first.stdout, stderr: first.stderr }, { code: 5, stdout: "run\ntyped\n", stderr: "" });
    const { State: { Status: status, ExitCode: exitCode, StartedAt: startedAt } } = await inspect("job");
    assert.deepEqual({ status, exitCode }, { status: "exited", exitCode: 5 });
    assert.equal(await casemate.ok(["wait", "job"]), "5");
    const second = await casemate.run(["start", "-ai", "-q", id.slice(0, 6)], { input: "" });
    assert.deepEqual({ code: second.code, stdout: second.stdout }, { code: 5, stdout: "run\nrun\n" }, `its files are as it left them; ${second.stderr}`);
    assert.notEqual((await inspect("job")).State.StartedAt, startedAt);
    assert.equal(await casemate.ok(["logs", "job"]), "run\ntyped\nrun\nrun", "logs of both runs");
    assert.match((await list("-a"))[0]?.Status ?? "", /^Exited \(5\) .* ago$/);
  });

  test("a name is taken until its container is removed", async () => {
    const again = await casemate.run(["create", "-q", "--name", "job", "busybox"]);
    assert.equal(again.code, 125);
    assert.match(again.stderr, /name "job" is in use .*\nhint: remove it with "casemate rm job"/);
    assert.equal(await casemate.ok(["rm", "job"]), "job");
    assert.equal((await casemate.run(["inspect", "job"])).code, 1);
  });

  test("run -d prints the id; the container answers to its name and the beginning of its id", async () => {
    const id = await casemate.ok(["run", "-q", "-d", "--name", "web", "-i", "--label", "tier=front", "busybox", "sh", "-c",
      "trap 'echo asked; exit 3' TERM; trap 'echo hup' HUP; i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; echo to stderr >&2; while :; do sleep 0.1; done"]);
    assert.match(id, /^[0-9a-f]{64}$/);
    for (const name of ["web", id, id.slice(0, 12), id.slice(0, 3)]) assert.equal((await inspect(name)).Name, "/web", name);
    const [listed] = await list("--filter", "label=tier=front");
    assert.deepEqual({ ID: listed?.ID, Names: listed?.Names, State: listed?.State }, { ID: id.slice(0, 12), Names: "web", State: "running" });
    assert.match(listed?.Status ?? "", /^Up /);
    assert.match(await casemate.ok(["ps"]), new RegExp(`^CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES\n${id.slice(0, 12)} +busybox +"sh -c 'trap|${id.slice(0, 12)} +busybox`));
    assert.equal(await casemate.ok(["ps", "-q", "--no-trunc"]), id);
    const started = await casemate.run(["start", "web"]);
    assert.deepEqual({ code: started.code, stdout: started.stdout }, { code: 0, stdout: "web\n" }, "starting what runs is fine, as with docker");
  });

  test("inspect has docker's shape, and the sandbox beside it", async () => {
    const [found] = JSON.parse(await casemate.ok(["inspect", "web"])) as [Record<"State" | "HostConfig" | "Config" | "NetworkSettings" | "Sandbox", Record<string, unknown>> & Record<"Id" | "Created" | "Image" | "LogPath", string>];
    const { Id: id, Created: created, Image: imageId, LogPath: logPath, State: state, HostConfig: hostConfig, Config: config, NetworkSettings: network, Sandbox: sandbox, ...rest } = found;
    assert.match(created, /^20\d\d-.*Z$/);
    assert.deepEqual({ ...state, Pid: 0, StartedAt: "" }, { Status: "running", Running: true, Paused: false, Restarting: false, OOMKilled: false, Dead: false, Pid: 0, ExitCode: 0, Error: "", StartedAt: "", FinishedAt: "0001-01-01T00:00:00Z" });
    assert.deepEqual(hostConfig, { ...unsetLimits, Binds: [], NetworkMode: "user", PortBindings: {}, AutoRemove: false, Privileged: false, ReadonlyRootfs: false, Memory: 0, NanoCpus: 0, RestartPolicy: { Name: "no", MaximumRetryCount: 0 }, Runtime: "casemate" });
    const { Env: env, Cmd: command, Labels: labels, ...configRest } = config;
    assert.ok(Array.isArray(env) && env.some((entry) => String(entry).startsWith("PATH=")));
    assert.deepEqual((command as string[]).slice(0, 2), ["sh", "-c"]);
    assert.equal((labels as Record<string, string>)["tier"], "front");
    assert.deepEqual(configRest, { Hostname: id.slice(0, 12), User: "", AttachStdin: true, Tty: false, OpenStdin: true, Image: "busybox", WorkingDir: "", Entrypoint: null, StopSignal: "SIGTERM", StopTimeout: 10 });
    assert.match(String(network["IPAddress"]), /^10\.87\./);
    assert.deepEqual({ ...rest, Args: [] }, { Args: [], ResolvConfPath: "", RestartCount: 0, Name: "/web", Path: "sh", Driver: "overlay", Platform: "linux", Mounts: [] });
    assert.match(imageId, /^sha256:[0-9a-f]{64}$/);
    assert.ok(existsSync(logPath));
    const { ownerPid, vmmPid, accelerator, memoryBytes, startedBy, vcpus } = sandbox;
    assert.match(readFileSync(`/proc/${Number(vmmPid)}/cmdline`, "utf8"), /^\S*qemu-system/);
    assert.match(readFileSync(`/proc/${Number(ownerPid)}/cmdline`, "utf8"), /owner\.cjs/);
    assert.ok(["kvm", "tcg"].includes(String(accelerator)) && ["cold", "template"].includes(String(startedBy)), JSON.stringify(sandbox));
    assert.deepEqual([memoryBytes, vcpus], [1024 ** 3, 1]);
    const unknown = await casemate.run(["inspect", "web", "nobody"]);
    assert.equal(unknown.code, 1);
    assert.equal((JSON.parse(unknown.stdout) as unknown[]).length, 1, "what is found is shown");
    assert.match(unknown.stderr, /no such container or image: nobody/);
  });

  test("logs show all, the end, the times, and each stream where it belongs", async () => {
    await eventually("the container's output", async () => ((await casemate.run(["logs", "web"])).stderr === "to stderr\n" ? true : undefined), { timeoutMs });
    const lines = Array.from({ length: 100 }, (_, index) => `line ${index}\n`);
    const all = await casemate.run(["logs", "web"]);
    assert.deepEqual({ stdout: all.stdout, stderr: all.stderr }, { stdout: lines.join(""), stderr: "to stderr\n" });
    assert.equal((await casemate.run(["logs", "--tail", "3", "web"])).stdout, "line 98\nline 99\n", "the third is on stderr");
    assert.equal((await casemate.run(["logs", "--tail", "0", "web"])).stdout, "");
    assert.match((await casemate.run(["logs", "-t", "--tail", "2", "web"])).stdout, /^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line 99\n$/);
    assert.match((await casemate.run(["logs", "--tail", "x", "web"])).stderr, /--tail "x": must be a number/);
  });

  test("logs --vm shows what the guest's kernel and programs print, and says so when that is nothing", async () => {
    const { code, stdout, stderr } = await casemate.run(["logs", "--vm", "web"]);
    assert.equal(code, 0, stderr);
    // A host with too much to do may have given the kernel something to complain of.
    if (stdout === "") assert.match(stderr, /^casemate: nothing was printed since .* template; `casemate exec --vm web dmesg` shows/);
    assert.match(await casemate.ok(["exec", "--vm", "web", "dmesg"]), /Linux version/);
    await casemate.ok(["exec", "--vm", "web", "sh", "-c", "echo from the guest > /dev/console; echo '<3>from its kernel' > /dev/kmsg"]);
    await eventually("the guest's console", async () => (/from the guest[^]*from its kernel/.test(await casemate.ok(["logs", "--vm", "web"])) ? true : undefined), { timeoutMs });
  });

  test("logs -f ends with its reader", () => {
    // The container prints nothing more, and the command ends with its reader all the same.
    const headed = spawnSync("sh", ["-c", `"$@" 2>/dev/null | head -n 2`, "sh", ...casemate.commandLine(["logs", "-f", "web"])], { encoding: "utf8", timeout: timeoutMs });
    assert.deepEqual({ status: headed.status, stdout: headed.stdout, stderr: headed.stderr }, { status: 0, stdout: "line 0\nline 1\n", stderr: "" });
  });

  test("logs -f and wait end with the container; attach shows it live and passes signals on; kill sends any signal", async () => {
    const follow = casemate.run(["logs", "-f", "--tail", "1", "web"]);
    const waited = casemate.run(["wait", "web"]);
    const attach = casemate.start(["attach", "web"]);
    let attached = "";
    attach.stdout.on("data", (chunk: Buffer) => { attached += String(chunk); });
    const attachEnd = new Promise((resolve) => { attach.once("close", resolve); });
    assert.equal(await casemate.ok(["kill", "-s", "HUP", "web"]), "web");
    // The first HUP may have come before the attachment stood.
    await eventually("output on the attached client", async () => {
      if (attached.includes("hup")) return true;
      await casemate.ok(["kill", "--signal", "1", "web"]);
      return undefined;
    }, { timeoutMs, intervalMs: 500 });
    attach.kill("SIGTERM"); // the command passes it on
    assert.equal(await attachEnd, 3);
    assert.match(attached, /hup\nasked\n$/);
    const followed = await follow;
    assert.equal(followed.code, 0);
    assert.match(followed.stdout, /hup\nasked\n$/);
    assert.deepEqual({ code: (await waited).code, stdout: (await waited).stdout }, { code: 0, stdout: "3\n" });
    const late = await casemate.run(["attach", "web"]);
    assert.equal(late.code, 125);
    assert.match(late.stderr, /it is not running\nhint: start it with "casemate start web"/);
    assert.match((await casemate.run(["kill", "web"])).stderr, /is not running/);
    assert.match((await casemate.run(["exec", "web", "true"])).stderr, /is not running/);
    assert.equal(await casemate.ok(["stop", "web"]), "web", "stopping what does not run is fine");
  });

  test("stop kills after its time what does not listen; rm wants -f while it runs", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "deaf", "busybox", "sh", "-c", "trap '' TERM; echo started; while :; do sleep 0.2; done"]);
    const refused = await casemate.run(["rm", "deaf"]);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /it is running\nhint: stop it first, or force it with "casemate rm -f deaf"/);
    const { Sandbox: { vmmPid, ownerPid } } = await inspect("deaf");
    const began = performance.now();
    assert.equal(await casemate.ok(["stop", "-t", "1", "deaf"]), "deaf");
    assert.ok(performance.now() - began >= 1_000);
    assert.equal((await inspect("deaf")).State.ExitCode, 137);
    for (const pid of [vmmPid, ownerPid]) assert.equal(existsSync(`/proc/${pid}`), false, "its VM and owner are gone when stop returns");
    assert.equal(await casemate.ok(["rm", "deaf", "web"]), "deaf\nweb");
    assert.equal(await casemate.ok(["rm", "-f", "deaf"]), "deaf", "rm -f of nothing is fine");
    const gone = await casemate.run(["rm", "deaf"]);
    assert.deepEqual([gone.code, /no such container: deaf/.test(gone.stderr)], [1, true]);
  });

  test("after a reboot of the host ps -a says that it has ended, and it starts again", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "kept", "--network", "none", "busybox", "sh", "-c", "[ -e /seen ] && echo again || echo first; touch /seen; sync; sleep 1000"]);
    await eventually("its output", async () => ((await casemate.ok(["logs", "kept"])) === "first" ? true : undefined), { timeoutMs, intervalMs: 200 });
    const { Sandbox: sandbox } = await inspect("kept");
    const supervisor = readProcStat(sandbox.ownerPid)?.parentPid ?? assert.fail("no owner");
    // What a power cut does: every process ends at once, and the run folder, a tmpfs, is empty afterwards.
    for (const pid of [supervisor, sandbox.ownerPid, sandbox.vmmPid]) process.kill(pid, "SIGKILL");
    await eventually("the sandbox's processes to end", () => ([sandbox.ownerPid, sandbox.vmmPid].some((pid) => existsSync(`/proc/${pid}/exe`)) ? undefined : true), { timeoutMs });
    rmSync(casemate.folders.run, { recursive: true });
    const [listed] = await list("-a");
    assert.deepEqual({ Names: listed?.Names, State: listed?.State }, { Names: "kept", State: "exited" });
    assert.match(listed?.Status ?? "", /^Exited \(137\)/);
    assert.deepEqual(await list(), []);
    const { State: state } = await inspect("kept");
    assert.deepEqual({ Status: state.Status, ExitCode: state.ExitCode }, { Status: "exited", ExitCode: 137 });
    assert.notEqual(state.Error, "");
    assert.equal(await casemate.ok(["start", "-q", "kept"]), "kept");
    await eventually("its second output", async () => ((await casemate.ok(["logs", "--tail", "1", "kept"])) === "again" ? true : undefined), { timeoutMs, intervalMs: 200 });
    assert.equal(await casemate.ok(["rm", "-f", "kept"]), "kept");
    assert.equal(existsSync(casemate.sandbox(sandbox.id).folder), false);
  });
});
