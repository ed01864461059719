import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { VmDouble } from "../../../test/support/vm-double.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { silentLogger } from "../../shared/base/log.ts";
import { PushQueue } from "../../shared/base/push-queue.ts";
import { FileLane } from "./file-lane.ts";

const folder = mkdtempSync(join(tmpdir(), "casemate-file-lane-"));
after(() => rmSync(folder, { recursive: true }));
const socketPath = join(folder, "lane.sock");
const busy = (error: unknown): boolean => RuntimeError.is(error, "resource_exhausted") && error.reason === "lane_busy";

/** Somebody who has asked for the lane. */
class Holder {
  readonly inputs = new PushQueue<unknown>();
  readonly #answers: AsyncGenerator<{ readonly laneId: number; readonly socketPath: string }>;

  constructor(lane: FileLane, vm: VmDouble) {
    this.#answers = lane.lend(vm, socketPath, this.inputs);
  }

  async lent(): Promise<number> {
    const { value } = await this.#answers.next() as IteratorYieldResult<{ readonly laneId: number; readonly socketPath: string }>; // it has not ended
    assert.equal(value.socketPath, socketPath);
    return value.laneId;
  }

  /** Resolves when the holder has lost it. */
  async over(): Promise<void> {
    assert.equal((await this.#answers.next()).done, true);
  }
}

test("a lane is plugged for its holder alone, and gone when the holder ends its call", async () => {
  const lane = new FileLane(silentLogger), vm = new VmDouble();
  const first = new Holder(lane, vm), second = new Holder(lane, vm);
  const laneId = await first.lent();
  assert.deepEqual([...vm.plugged], [`lane-${laneId}`]);
  assert.equal(statSync(socketPath).mode & 0o777, 0o600);
  await assert.rejects(second.lent(), busy);
  first.inputs.end();
  await first.over();
  await lane.withdraw();
  assert.deepEqual([[...vm.plugged], existsSync(socketPath)], [[], false]);
  const third = new Holder(lane, vm);
  assert.notEqual(await third.lent(), laneId);
  third.inputs.end();
  await third.over();
});

test("while a VM is saved there is no lane: the holder loses it, and nobody gets one", async () => {
  const lane = new FileLane(silentLogger), vm = new VmDouble();
  const holder = new Holder(lane, vm);
  await holder.lent();
  const over = holder.over();
  await lane.withhold(async () => {
    assert.deepEqual([...vm.plugged], []);
    await assert.rejects(new Holder(lane, vm).lent(), busy);
  });
  await over;
  const next = new Holder(lane, vm);
  await next.lent();
  next.inputs.end();
  await next.over();
});

test("a lane by which nothing moves goes to whoever asks, one by which something does stays", async (context) => {
  let nowMs = 1_000;
  context.mock.method(performance, "now", () => nowMs);
  const lane = new FileLane(silentLogger), vm = new VmDouble();
  const first = new Holder(lane, vm);
  await first.lent();
  const moved = lane.moving();
  nowMs += 10_000;
  await assert.rejects(new Holder(lane, vm).lent(), busy);
  moved();
  await assert.rejects(new Holder(lane, vm).lent(), busy);
  nowMs += 251;
  const over = first.over();
  const second = new Holder(lane, vm);
  const laneId = await second.lent();
  await over;
  assert.deepEqual([...vm.plugged], [`lane-${laneId}`]);
  second.inputs.end();
  await second.over();
});

test("a lane that cannot be plugged leaves nothing, and may be asked for again", async () => {
  const lane = new FileLane(silentLogger), vm = new VmDouble();
  vm.plugPort = async () => { throw new RuntimeError("internal", "refused by the test"); };
  await assert.rejects(new Holder(lane, vm).lent(), (error) => RuntimeError.is(error, "internal"));
  assert.equal(existsSync(socketPath), false);
  await assert.rejects(new Holder(lane, vm).lent(), (error) => RuntimeError.is(error, "internal"));
});
