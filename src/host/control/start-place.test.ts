import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { RuntimeError } from "../../shared/base/errors.ts";
import { stateFolders, type StateFolders } from "../store/paths.ts";
import { StartPlace } from "./start-place.ts";

const never = new AbortController().signal;
let folders: StateFolders;

beforeEach(() => { folders = stateFolders(mkdtempSync(join(tmpdir(), "casemate-places-"))); });
afterEach(() => rmSync(folders.data, { recursive: true }));

const takeAll = (): Promise<StartPlace[]> => Promise.all(Array.from({ length: availableParallelism() }, () => StartPlace.take(folders, never)));
const turns = (): string[] => readdirSync(join(folders.run, "starts")).filter((name) => name.startsWith("turn-"));

test("as many at once as there are CPUs; the others in the order of their coming, also when one ahead of them died", async () => {
  const places = await takeAll();
  // A file that nobody holds is what a waiter leaves that was killed.
  writeFileSync(join(folders.run, "starts/turn-00000000000000000000-1"), "");
  const order: string[] = [];
  const wait = async (name: string): Promise<StartPlace> => {
    const place = await StartPlace.take(folders, never);
    order.push(name);
    return place;
  };
  const first = wait("first"), second = wait("second");
  await delay(100);
  assert.deepEqual([order, turns().length], [[], 2]);
  places[0]?.leave();
  places.push(await first);
  assert.deepEqual(order, ["first"]);
  for (const place of places) place.leave();
  (await second).leave();
  assert.deepEqual([order, turns()], [["first", "second"], []]);
});

test("who is the next goes without a place when none comes free, and takes none from those who have one", async () => {
  const places = await takeAll();
  const without = await StartPlace.take(folders, never, 50);
  without.leave();
  await assert.rejects(StartPlace.take(folders, AbortSignal.timeout(100)), (error) => RuntimeError.is(error, "canceled"));
  assert.deepEqual(turns(), []);
  for (const place of places) place.leave();
});
