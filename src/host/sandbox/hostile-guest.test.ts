// A guest that lies, says it twice, too late, to nobody, or not at all: an error of its own sandbox, within
// the time of the call, and nothing of another sandbox or of the owner.
import assert from "node:assert/strict";
import { test } from "node:test";
import { orAbandon } from "../../shared/base/deadline.ts";
import { RuntimeError, describeError } from "../../shared/base/errors.ts";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, execRequest } from "../../../test/support/sandbox-requests.ts";
import { EventOrder } from "../agent-client/event-order.ts";
import { checkReply, clean, cleanGuestError } from "../agent-client/check-reply.ts";
import type { Sandbox } from "./sandbox.ts";

const within = { timeoutMs: 5_000 };
const isBadReply = (error: unknown): boolean => RuntimeError.is(error, "data_loss") && error.reason === "bad_reply";
const start = async (sandbox: Sandbox, containerId = "c1"): Promise<void> => {
  await sandbox.createContainer(containerRequest(containerId), within);
  await sandbox.startContainer(containerId, within);
};

/** Answers no agent gives, and the call that gets them. */
const lies: readonly (readonly [what: string, method: string, answer: object, call: (sandbox: Sandbox) => Promise<unknown>])[] = [
  ["pid 0", "createContainer", { pid: 0 }, (sandbox) => sandbox.createContainer(containerRequest("c1"), within)],
  ["a pid above Linux's largest", "createContainer", { pid: 4_194_305 }, (sandbox) => sandbox.createContainer(containerRequest("c1"), within)],
  ["pid 0 of an exec", "exec", { pid: 0 }, async (sandbox) => {
    await start(sandbox);
    sandbox.registerExec(execRequest("c1", "e1"));
    await sandbox.startExec("c1", "e1", within);
  }],
  ["a statistic's name of 5000 characters", "statsContainer", { cgroupStats: { memoryStats: { stats: { ["x".repeat(5000)]: 1n } } } }, async (sandbox) => {
    await start(sandbox);
    await sandbox.stats("c1", within);
  }],
  ["20000 interfaces", "statsContainer", { networkStats: Array.from({ length: 20_000 }, () => ({ name: "eth0" })) }, async (sandbox) => {
    await start(sandbox);
    await sandbox.stats("c1", within);
  }],
];

for (const [what, method, answer, call] of lies) {
  test(`a guest that answers ${what} fails that call by name, and the sandbox gives everything back`, async () => {
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    fixture.agent.lies.set(method, answer);
    await assert.rejects(call(sandbox), isBadReply);
    fixture.agent.lies.clear();
    await start(sandbox, "c9"); // it goes on for who is content with it
    await sandbox.stop(0);
    assert.deepEqual(fixture.held, []);
  });
}

test("a greeting with names of megabytes is refused and leaves nothing", async () => {
  using fixture = await SandboxFixture.open();
  fixture.agent.lies.set("hello", { protocolVersion: 1, kernelRelease: "6".repeat(1_000_000) });
  await assert.rejects(fixture.create(), isBadReply);
  assert.deepEqual(fixture.held, []);
});

test("exits that come twice, of processes that do not exist, or with absurd times change nothing", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await start(sandbox);
  for (const [containerId, execId] of [["nobody", ""], ["c1", "nothing"], ["", "x"]] as const) fixture.agent.appendEvent({ case: "exit", value: { containerId, execId, exitStatus: 1 } });
  fixture.agent.appendEvent({ case: "oom", value: { containerId: "nobody" } });
  fixture.agent.exit("c1", "", 7);
  for (let again = 0; again < 50; again++) fixture.agent.appendEvent({ case: "exit", value: { containerId: "c1", execId: "", exitStatus: 99, exitedAtUnixNanos: -(2n ** 62n) } });
  const end = await sandbox.container("c1").init.wait(within);
  assert.equal(end.exitStatus, 7);
  assert.ok(Math.abs(Number(end.exitedAtUnixNanos / 1_000_000n) - Date.now()) < 60_000);
  assert.equal(fixture.recorded.length, 1);
  assert.equal(fixture.events.filter(({ action }) => action === "die").length, 1);
  await sandbox.stop(0);
});

test("an exit with a status no process has ends that sandbox only", async () => {
  using fixture = await SandboxFixture.open();
  using other = await SandboxFixture.open();
  const [sandbox, bystander] = await Promise.all([fixture.create(), other.create()]);
  await Promise.all([start(sandbox), start(bystander)]);
  fixture.agent.appendEvent({ case: "exit", value: { containerId: "c1", execId: "", exitStatus: 70_000 } });
  await orAbandon(sandbox.ended, "the end", within);
  assert.deepEqual([(await sandbox.container("c1").init.wait(within)).exitStatus, bystander.state], [137, "running"]);
  assert.equal((await bystander.stats("c1", within)).networkStats.length, 0);
  await Promise.all([sandbox.stop(), bystander.stop()]);
  assert.deepEqual([fixture.held, other.held], [[], []]);
});

for (const [what, tamper] of Object.entries({
  doubles: (packet: Buffer): Buffer[] => [packet, packet],
  loses: (): Buffer[] => [],
  garbles: (packet: Buffer): Buffer[] => [Buffer.from(packet.map((byte, index) => (index > 4 && index < packet.length - 8 ? byte ^ 0x5a : byte)))],
})) {
  test(`a guest that ${what} what it sends holds nobody, and its sandbox ends clean`, async () => {
    using fixture = await SandboxFixture.open();
    const sandbox = await fixture.create();
    await start(sandbox);
    fixture.agent.tamper = tamper;
    const creating = assert.rejects(sandbox.createContainer(containerRequest("c2"), { timeoutMs: 100 }), (error) => RuntimeError.is(error));
    const began = performance.now();
    await sandbox.stop(200);
    await creating;
    assert.ok(performance.now() - began < 2_500);
    assert.deepEqual([sandbox.state, fixture.held], ["stopped", []]);
  });
}

test("D18: a silent guest costs each call its time, and a stop its own", async () => {
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  await start(sandbox);
  for (const method of ["statsContainer", "pauseContainer", "signalProcess", "powerOff"]) fixture.agent.hang(method);
  const short = { timeoutMs: 50 };
  const outcomes = await Promise.allSettled([sandbox.stats("c1", short), sandbox.pause("c1", short), sandbox.kill("c1", "", 15, false, short)]);
  assert.deepEqual(outcomes.map((outcome) => (outcome.status === "rejected" && RuntimeError.is(outcome.reason) ? outcome.reason.code : outcome.status)), ["deadline_exceeded", "deadline_exceeded", "deadline_exceeded"]);
  assert.deepEqual([sandbox.container("c1").state, sandbox.container("c1").resources], ["running", {}]);
  await sandbox.stop(100);
  assert.deepEqual(fixture.held, []);
});

test("EventOrder takes each number once and knows a gap", () => {
  const order = new EventOrder(3n);
  assert.deepEqual([3n, 4n, 4n, 1n, 5n].map((sequence) => order.accept(sequence)), [false, true, false, false, true]);
  assert.throws(() => order.accept(7n), isBadReply);
});

test("what a guest says is bounded and cannot steer a terminal", () => {
  assert.equal(clean("a\tb\nc\u001b[31mred\u0007\u009b"), "a\tb\nc\uFFFD[31mred\uFFFD\uFFFD");
  assert.ok(clean("x".repeat(1_000_000)).length < 4_100);
  const error = cleanGuestError(new RuntimeError("not_found", "no \u001b]0;title", { reason: "Not A Word", hint: "h".repeat(10_000) }));
  assert.deepEqual([error.code, describeError(error), error.reason, (error.hint ?? "").length < 4_100], ["not_found", "no \uFFFD]0;title", undefined, true]);
  const plain = new RuntimeError("not_found", "no such user", { reason: "user_not_found" });
  assert.equal(cleanGuestError(plain), plain);
  assert.throws(() => checkReply("x", { a: { b: { c: { d: { e: { f: { g: { h: { i: {} } } } } } } } } }), isBadReply);
});
