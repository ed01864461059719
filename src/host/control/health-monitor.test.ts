import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { newHealth, type HealthCheck, type HealthState } from "../store/health.ts";
import { monitorHealth, probeProcess, type ProbeResult } from "./health-monitor.ts";

const check: HealthCheck = { test: ["CMD", "true"], intervalMs: 10, timeoutMs: 1_000, retries: 2, startPeriodMs: 0 };

test("every probe is reported, with whether the status is another; none while the container stands still", async () => {
  const over = new AbortController();
  const results: ProbeResult[] = [{ exitCode: 1, output: "no" }, { exitCode: 0, output: "yes" }, { exitCode: 0, output: "" }, { exitCode: 1, output: "" }, { exitCode: -1, output: "late" }];
  const reports: [HealthState["status"], number, boolean][] = [];
  let looks = 0;
  const probe = mock.fn(async (): Promise<ProbeResult> => Promise.resolve(results.shift() ?? { exitCode: 0, output: "" }));
  await monitorHealth({
    check, startedAtUnixMs: 0, health: newHealth, awake: () => looks++ > 0, probe,
    report: ({ status, failingStreak }, changed) => {
      reports.push([status, failingStreak, changed]);
      if (results.length === 0) over.abort();
    },
  }, over.signal);
  assert.deepEqual(reports, [["starting", 1, false], ["healthy", 0, true], ["healthy", 0, false], ["healthy", 1, false], ["unhealthy", 2, true]]);
  assert.equal(probe.mock.callCount(), 5);
  assert.equal(looks, 6, "the first time it stood still");
});

test("a container that ends under a probe has no more health", async () => {
  const over = new AbortController();
  const report = mock.fn();
  await monitorHealth({ check, startedAtUnixMs: 0, health: newHealth, awake: () => true, probe: async () => { over.abort(); return Promise.resolve({ exitCode: 137, output: "" }); }, report }, over.signal);
  assert.equal(report.mock.callCount(), 0);
});

test("a check's process is the container's but for what it runs", () => {
  const first = { terminal: true, user: { uid: 0, gid: 0 }, args: ["server"], env: ["A=1"], cwd: "/srv" };
  assert.deepEqual(probeProcess({ ...check, test: ["CMD-SHELL", "exit 3"] }, first), { ...first, terminal: false, args: ["/bin/sh", "-c", "exit 3"] });
  assert.deepEqual(probeProcess({ ...check, test: ["CMD", "/probe", "-q"] }, first).args, ["/probe", "-q"]);
});
