// Restart policies, as a user of docker knows them.
// - on-failure with a number of times: so many restarts, then it has ended
// - always: after the death of its VM, and when the owner dies with it; stop ends it, also in the pause before a restart
// - update changes the policy; what cannot be is refused
// - after a reboot (the run folder is gone) what `casemate setup systemd` has run starts what is due, and no other: what the
//   user stopped comes back with always, and stays down with unless-stopped
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { ContainerStore } from "../../src/host/store/container-store.ts";
import { readProcStat } from "../../src/shared/linux/proc.ts";
import { runProcess } from "../../src/shared/linux/run-process.ts";
import { useCasemate } from "../support/cli.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 90_000;

interface Inspected {
  readonly RestartCount: number;
  readonly State: { readonly Status: string; readonly Restarting: boolean; readonly ExitCode: number; readonly StartedAt: string };
  readonly HostConfig: { readonly RestartPolicy: { readonly Name: string; readonly MaximumRetryCount: number } };
  readonly Sandbox: { readonly ownerPid: number; readonly vmmPid: number };
}

describe("restart policies", { skip }, () => {
  const casemate = useCasemate();
  const inspect = async (name: string): Promise<Inspected> => {
    const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
    assert.ok(found);
    return found;
  };
  const until = async (name: string, what: string, fits: (found: Inspected) => boolean): Promise<Inspected> => eventually(what, async () => {
    const found = await inspect(name);
    return fits(found) ? found : undefined;
  }, { timeoutMs });

  test("on-failure:2 runs it three times, and keeps its files", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "job", "--restart", "on-failure:2", "--add-host", "db:10.1.2.3", "busybox", "sh", "-c", "echo run >>/runs; grep -c db /etc/hosts; exit 3"]);
    const { RestartCount, State: { ExitCode }, HostConfig: { RestartPolicy } } = await until("job", "the last end", ({ State: { Status }, RestartCount: count }) => Status === "exited" && count === 2);
    assert.deepEqual({ RestartCount, ExitCode, RestartPolicy }, { RestartCount: 2, ExitCode: 3, RestartPolicy: { Name: "on-failure", MaximumRetryCount: 2 } });
    assert.equal(await casemate.ok(["logs", "job"]), "1\n1\n1");
    const actions = (await casemate.ok(["events", "--since", "10m", "--until", "0s", "--filter", "container=job", "--format", "json"])).split("\n").map((line) => (JSON.parse(line) as { Action: string }).Action);
    assert.deepEqual(actions.filter((action) => ["start", "die"].includes(action)), ["start", "die", "start", "die", "start", "die"]);
    assert.equal((await casemate.ok(["cp", "job:/runs", "-"])).match(/run\n/g)?.length, 3);
  });

  test("always: its VM's death and its owner's are no end; stop is", async () => {
    const id = await casemate.ok(["run", "-q", "-d", "--name", "loop", "--restart", "always", "busybox", "sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.1; done"]);
    const first = await inspect("loop");
    process.kill(first.Sandbox.vmmPid, "SIGKILL");
    const second = await until("loop", "the first restart", ({ State, RestartCount, Sandbox }) => RestartCount === 1 && State.Status === "running" && Sandbox.vmmPid > 0);
    assert.notEqual(second.Sandbox.vmmPid, first.Sandbox.vmmPid);
    // Its owner and its VM at once: the next owner finds neither, and starts it all the same.
    process.kill(second.Sandbox.ownerPid, "SIGKILL");
    process.kill(second.Sandbox.vmmPid, "SIGKILL");
    await until("loop", "the second restart", ({ State, RestartCount, Sandbox }) => RestartCount === 2 && State.Status === "running" && Sandbox.ownerPid > 0);
    // As after ten restarts: the next pause is a minute.
    const store = new ContainerStore(casemate.folders);
    store.writeStatus(id, { ...store.readStatus(id), restart: { count: 10, delayMs: 51_200, atUnixMs: 1 } });
    await casemate.ok(["exec", "loop", "kill", "-USR1", "1"]);
    await until("loop", "its pause", ({ State: { Restarting }, RestartCount }) => Restarting && RestartCount === 11);
    assert.match(await casemate.ok(["ps", "--filter", "name=loop", "--format", "{{.State}} {{.Status}}"]), /^restarting Restarting \(7\) .* ago$/);
    for (const command of [["exec", "loop", "true"], ["rm", "loop"], ["cp", "loop:/etc/passwd", "-"]]) {
      const refused = await casemate.run(command);
      assert.notEqual(refused.code, 0, command[0]);
      assert.match(refused.stderr, /restarting/, command[0]);
    }
    await casemate.ok(["stop", "loop"]);
    assert.equal((await inspect("loop")).State.Status, "exited");
    await casemate.ok(["update", "--restart", "unless-stopped", "loop"]);
    assert.deepEqual((await inspect("loop")).HostConfig.RestartPolicy, { Name: "unless-stopped", MaximumRetryCount: 0 });
  });

  test("what cannot be is refused", async () => {
    for (const [args, message] of [
      [["--restart", "always", "--rm"], /--restart and --rm exclude each other/],
      [["--restart", "sometimes"], /must be no, on-failure\[:times\], always or unless-stopped/],
      [["--restart", "always:3"], /only on-failure takes a number/],
    ] as const) {
      const refused = await casemate.run(["run", "-q", ...args, "busybox", "true"]);
      assert.equal(refused.code, 125, args.join(" "));
      assert.match(refused.stderr, message);
    }
  });

  test("after a reboot the unit's command starts what is due", async () => {
    await casemate.ok(["start", "-q", "loop"]);
    assert.equal((await inspect("loop")).RestartCount, 0, "counted anew");
    await casemate.ok(["create", "-q", "--name", "never", "--restart", "always", "busybox", "sleep", "1000"]);
    // docker's rule: whoever was stopped comes back with always, and stays down with unless-stopped.
    for (const policy of ["always", "unless-stopped"]) await casemate.ok(["run", "-q", "-d", "--name", `stopped-${policy}`, "--restart", policy, "busybox", "sleep", "1000"]);
    await casemate.ok(["stop", "-t", "0", "stopped-always", "stopped-unless-stopped"]);
    const { Sandbox: { ownerPid, vmmPid } } = await inspect("loop");
    const supervisor = readProcStat(ownerPid)?.parentPid ?? assert.fail("no owner");
    // What a power cut does: every process ends at once, and the run folder, a tmpfs, is empty afterwards.
    for (const pid of [supervisor, ownerPid, vmmPid]) process.kill(pid, "SIGKILL");
    await eventually("the sandbox's processes to end", () => ([ownerPid, vmmPid].some((pid) => existsSync(`/proc/${pid}/exe`)) ? undefined : true), { timeoutMs });
    rmSync(casemate.folders.run, { recursive: true });
    const folder = mkdtempSync("/tmp/cm-unit-");
    try {
      const written = await casemate.ok(["setup", "systemd", "--unit-dir", folder]);
      assert.equal(written, `wrote ${join(folder, "casemate.service")}`);
      const unit = readFileSync(join(folder, "casemate.service"), "utf8");
      assert.equal(await casemate.ok(["setup", "systemd", "--print"]), unit.trimEnd());
      await runProcess("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", join(folder, "casemate.service")]);
      const commands = new Map([...unit.matchAll(/^(ExecStart|ExecStop)=(.*)$/gm)].map(([, key = "", line = ""]) => [key, line.split(" ")]));
      const call = async (key: string): Promise<string> => {
        const [file = "", ...args] = commands.get(key) ?? [];
        return (await runProcess(file, args, { env: process.env })).stdout.toString();
      };
      assert.equal(await call("ExecStart"), "loop\nstopped-always\n", "neither what has ended or was to stay down, nor what never ran");
      assert.deepEqual(await Promise.all(["loop", "stopped-always", "stopped-unless-stopped"].map(async (name) => (await inspect(name)).State.Status)), ["running", "running", "exited"]);
      assert.equal(await call("ExecStart"), "", "what runs is left alone");
      assert.deepEqual((await call("ExecStop")).trimEnd().split("\n").sort(), ["loop", "stopped-always"]);
      assert.equal((await inspect("loop")).State.Status, "exited");
      assert.equal(new ContainerStore(casemate.folders).find("loop").stopRequested, false, "a shutdown is no stop");
      assert.equal(await casemate.ok(["setup", "systemd", "--remove", "--unit-dir", folder]), `removed ${join(folder, "casemate.service")}`);
      assert.equal(existsSync(join(folder, "multi-user.target.wants/casemate.service")), false);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
