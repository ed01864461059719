// Health checks, as a user of docker knows them.
// - starting, healthy, unhealthy: in inspect, ps, its filter and the events; the next owner goes on with it
// - a probe that takes too long is ended with all it has started
// - an image's HEALTHCHECK, changed by options and left out; also of an image in docker's format
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { eventually } from "../../src/shared/base/deadline.ts";
import { useCasemate } from "../support/cli.ts";
import { writeDockerArchive } from "../support/image-fixture.ts";
import { tarBytes } from "../support/memory-archive.ts";
import { requires } from "../support/requires.ts";

const skip = requires("root");
const timeoutMs = 90_000;

interface Inspected {
  readonly State: { readonly Health?: { readonly Status: string; readonly FailingStreak: number; readonly Log: readonly { readonly ExitCode: number; readonly Output: string }[] } };
  readonly Config: { readonly Healthcheck?: { readonly Test: readonly string[]; readonly Interval: number; readonly Retries: number } };
  readonly Sandbox: { readonly ownerPid: number };
}

describe("health checks", { skip }, () => {
  const casemate = useCasemate();
  const inspect = async (name: string): Promise<Inspected> => {
    const [found] = JSON.parse(await casemate.ok(["inspect", name])) as Inspected[];
    assert.ok(found);
    return found;
  };
  const untilHealth = async (name: string, wanted: string): Promise<Inspected> => eventually(`"${name}" to be ${wanted}`, async () => {
    const found = await inspect(name);
    return found.State.Health?.Status === wanted ? found : undefined;
  }, { timeoutMs });

  test("starting, healthy, unhealthy, and the same after the death of the owner", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "web", "-e", "WHERE=/ok", "-w", "/tmp", "--health-cmd", "pwd; cat $WHERE", "--health-interval", "300ms", "--health-retries", "2", "--health-start-period", "1h", "busybox", "sleep", "1000"]);
    assert.equal((await inspect("web")).State.Health?.Status, "starting");
    assert.match(await casemate.ok(["ps", "--format", "{{.Status}}"]), /\(health: starting\)$/);
    await casemate.ok(["exec", "web", "sh", "-c", "echo fine >/ok"]);
    const { State: { Health: health }, Config: { Healthcheck: check } } = await untilHealth("web", "healthy");
    assert.deepEqual([health?.FailingStreak, health?.Log.at(-1)?.Output, health?.Log.at(-1)?.ExitCode], [0, "/tmp\nfine\n", 0]);
    assert.deepEqual([check?.Test, check?.Interval, check?.Retries], [["CMD-SHELL", "pwd; cat $WHERE"], 300_000_000, 2]);
    assert.match(await casemate.ok(["ps", "--filter", "health=healthy", "--format", "{{.Names}} {{.Status}}"]), /^web Up .* \(healthy\)$/);
    assert.equal(await casemate.ok(["ps", "-q", "--filter", "health=unhealthy"]), "");
    process.kill((await inspect("web")).Sandbox.ownerPid, "SIGKILL");
    await casemate.ok(["exec", "web", "rm", "/ok"]);
    const sick = await untilHealth("web", "unhealthy");
    assert.ok((sick.State.Health?.FailingStreak ?? 0) >= 2);
    assert.ok((sick.State.Health?.Log.length ?? 9) <= 5);
    const events = (await casemate.ok(["events", "--since", "10m", "--until", "0s", "--filter", "event=health_status"])).split("\n");
    assert.deepEqual(events.map((line) => /container (health_status: \w+) /.exec(line)?.[1]), ["health_status: healthy", "health_status: unhealthy"]);
    await casemate.ok(["rm", "-f", "web"]);
  });

  test("a probe that takes too long is a failure, and ended with all it has started", async () => {
    await casemate.ok(["run", "-q", "-d", "--name", "slow", "--health-cmd", "sleep 4321 & sleep 4321", "--health-interval", "100ms", "--health-timeout", "1s", "--health-retries", "1", "busybox", "sleep", "1000"]);
    const { State: { Health: health } } = await untilHealth("slow", "unhealthy");
    assert.deepEqual([health?.Log[0]?.ExitCode, health?.Log[0]?.Output], [-1, "Health check exceeded timeout (1s)"]);
    const left = async (): Promise<number> => (await casemate.ok(["top", "slow"])).match(/sleep 4321/g)?.length ?? 0;
    assert.ok(await left() <= 3, "those of one probe at most");
    await casemate.ok(["rm", "-f", "slow"]);
  });

  test("the image's own check, also in docker's format; changed, and left out", async () => {
    const folder = mkdtempSync("/tmp/cm-health-");
    try {
      const archive = join(folder, "image.tar");
      writeDockerArchive(archive, "local/checked:1", [tarBytes([{ path: "note", type: "file", content: "x" }])], { Cmd: ["/note"], Healthcheck: { Test: ["CMD", "/probe"], Interval: 7_000_000_000, Retries: 4 } });
      await casemate.ok(["load", "-q", "-i", archive]);
      const made = async (...options: string[]): Promise<Inspected["Config"]["Healthcheck"]> => {
        const id = await casemate.ok(["create", "-q", ...options, "local/checked:1"]);
        return (await inspect(id)).Config.Healthcheck;
      };
      const own = await made();
      assert.deepEqual([own?.Test, own?.Interval, own?.Retries], [["CMD", "/probe"], 7_000_000_000, 4]);
      const changed = await made("--health-cmd", "true", "--health-retries", "9");
      assert.deepEqual([changed?.Test, changed?.Interval, changed?.Retries], [["CMD-SHELL", "true"], 7_000_000_000, 9]);
      assert.equal(await made("--no-healthcheck"), undefined);
      assert.match(await casemate.ok(["image", "inspect", "--format", "{{json .Config.Healthcheck}}", "local/checked:1"]), /"\/probe"/);
      const refused = await casemate.run(["create", "--no-healthcheck", "--health-cmd", "true", "local/checked:1"]);
      assert.deepEqual([refused.code, /exclude each other/.test(refused.stderr)], [125, true]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
