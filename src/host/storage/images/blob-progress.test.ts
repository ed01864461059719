import assert from "node:assert/strict";
import { writeSync } from "node:fs";
import { test } from "node:test";
import { SkopeoScreen, watchBlobs, type BlobProgress } from "./blob-progress.ts";

/** What skopeo 1.9.3 drew while it copied three blobs, of which one was there. */
const drawn = "Getting image source signatures\r\n"
  + "Copying blob 8c9793ee1aac [================================] 195.5KiB / 195.5KiB\r\nCopying blob cd29f2b367d3 [==>--------------------------------] 7.4MiB / 76.3MiB\r\nCopying blob cfa0f764013d .                                        \r\n"
  + "\x1b[3A\x1b[JCopying blob 8c9793ee1aac done  \r\nCopying blob cd29f2b367d3 [===========>----------------------] 26.8MiB / 76.3MiB\r\nCopying blob cfa0f764013d skipped: already exists  \r\n"
  + "\x1b[3A\x1b[JCopying blob 8c9793ee1aac done  \r\nCopying blob cd29f2b367d3 done  \r\nCopying blob cfa0f764013d skipped: already exists  \r\n"
  + "Copying config 8a426b068d [====================================] 344.0b / 344.0b\r\n\x1b[1A\x1b[JCopying config 8a426b068d done  \r\nWriting manifest to image destination\r\nStoring signatures\r\n";
const small: BlobProgress = { id: "8c9793ee1aac", state: "copied", doneBytes: 200_192, totalBytes: 200_192 };
const large: BlobProgress = { id: "cd29f2b367d3", state: "copied", doneBytes: 80_006_349, totalBytes: 80_006_349 };
const here: BlobProgress = { id: "cfa0f764013d", state: "here", doneBytes: 0, totalBytes: undefined };

test("SkopeoScreen reads sizes and states, in whatever pieces they come", () => {
  for (const size of [1, 7, 100, drawn.length]) {
    const screen = new SkopeoScreen();
    const states = new Set<string>();
    for (let at = 0; at < drawn.length; at += size) {
      if (!screen.feed(drawn.slice(at, at + size))) continue;
      states.add(screen.blobs.map(({ state, doneBytes }) => `${state} ${doneBytes}`).join(", "));
    }
    assert.deepEqual(screen.blobs, [small, large, here]);
    if (size > 1) continue;
    assert.ok(states.has("copying 200192, copying 7759462"));
    assert.ok(states.has("copied 200192, copying 28101837, here 0"));
  }
});

test("SkopeoScreen says nothing of what it does not understand", () => {
  const screen = new SkopeoScreen();
  assert.equal(screen.feed("Copying blob\r\nblob 8c9793ee1aac done\r\n\x1b[5A\x00\xff\r\nCopying config 8c9793ee1aac done\r\n"), false);
  assert.deepEqual(screen.blobs, []);
});

test("watchBlobs gives a terminal and tells of the last line too", async () => {
  const seen: string[] = [];
  const result = await watchBlobs((blobs) => seen.push(blobs.map(({ state }) => state).join()), async (stdout) => {
    writeSync(stdout ?? assert.fail("no terminal"), "Copying blob 8c9793ee1aac [=>-] 1.0KiB / 2.0KiB\nCopying blob 8c9793ee1aac done  \n");
    return "result";
  });
  assert.equal(result, "result");
  assert.equal(seen.at(-1), "copied");
  await assert.rejects(watchBlobs(() => undefined, async () => { throw new Error("failed"); }), /failed/);
});
