import assert from "node:assert/strict";
import { test } from "node:test";
import { parsePsOptions } from "./ps-options.ts";

const ours = "USER PID PPID TTY STAT CMD";
const cases: readonly (readonly [words: string, headings: string])[] = [
  ["", ours], ["-ef", ours], ["-e -f", ours], ["ax", ours],
  ["aux", "USER PID VSZ RSS TTY STAT COMMAND"], ["-aux", "USER PID VSZ RSS TTY STAT COMMAND"], ["auxww", "USER PID VSZ RSS TTY STAT COMMAND"],
  ["-o pid,cmd", "PID CMD"], ["-eo pid,comm,args", "PID COMMAND COMMAND"], ["-opid -o rss", "PID RSS"], ["o ni,euser", "NI USER"], ["--format pid", "PID"], ["-e --format=tname,s", "TTY STAT"],
];

for (const [words, headings] of cases) {
  test(`parsePsOptions() makes columns of "${words}"`, () => {
    assert.equal(parsePsOptions(words.split(" ").filter((word) => word !== "")).map(({ heading }) => heading).join(" "), headings);
  });
}

test("parsePsOptions() says which columns there are, and what cannot be", () => {
  for (const [words, message] of [[["-o", "pid,pcpu"], /no column "pcpu", only user, .*, cmd$/], [["--sort", "rss"], /option "--sort" is not understood/], [["-C", "sh"], /"-C"/], [["-o"], /no column ""/], [["-o", "pid=ID"], /no column "pid=ID"/]] as const) {
    assert.throws(() => parsePsOptions(words), (error: Error & { reason?: string; hint?: string }) => error.reason === "bad_ps_option" && message.test(error.message) && /exec CONTAINER ps/.test(error.hint ?? ""), words.join(" "));
  }
});
