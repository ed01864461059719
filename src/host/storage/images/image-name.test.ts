import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { formatImageName, localCandidates, parseImageName, shortRepository } from "./image-name.ts";

const digest = `sha256:${"a1".repeat(32)}`;

/** As written, in full, as `images` shows the repository. */
const good: readonly (readonly [string, string, string])[] = [
  ["busybox", "docker.io/library/busybox:latest", "busybox"],
  ["busybox:1.36", "docker.io/library/busybox:1.36", "busybox"],
  ["docker:dind", "docker.io/library/docker:dind", "docker"],
  ["user/app", "docker.io/user/app:latest", "user/app"],
  ["library/alpine", "docker.io/library/alpine:latest", "alpine"],
  ["library/a/b", "docker.io/library/a/b:latest", "library/a/b"],
  ["docker.io/alpine", "docker.io/library/alpine:latest", "alpine"],
  ["index.docker.io/alpine:3", "docker.io/library/alpine:3", "alpine"],
  ["index.docker.io/user/app", "docker.io/user/app:latest", "user/app"],
  ["localhost/mine", "localhost/mine:latest", "localhost/mine"],
  ["localhost:5000/mine:v1", "localhost:5000/mine:v1", "localhost:5000/mine"],
  ["127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c"],
  ["[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"],
  ["ghcr.io/owner/name", "ghcr.io/owner/name:latest", "ghcr.io/owner/name"],
  ["MyHost/app", "MyHost/app:latest", "MyHost/app"],
  ["a__b/c--d", "docker.io/a__b/c--d:latest", "a__b/c--d"],
  [`alpine@${digest}`, `docker.io/library/alpine@${digest}`, "alpine"],
  [`alpine:3@${digest}`, `docker.io/library/alpine:3@${digest}`, "alpine"],
  [`${"a".repeat(237)}:${"t".repeat(128)}`, `docker.io/library/${"a".repeat(237)}:${"t".repeat(128)}`, "a".repeat(237)],
  [`quay.io/${"a".repeat(64)}`, `quay.io/${"a".repeat(64)}:latest`, `quay.io/${"a".repeat(64)}`],
];

for (const [text, full, short] of good) {
  test(`parseImageName() completes ${text.slice(0, 60)}`, () => {
    const name = parseImageName(text);
    assert.equal(formatImageName(name), full);
    assert.equal(shortRepository(name), short);
    assert.equal(formatImageName(parseImageName(full)), full, "a whole name stays what it is");
  });
}

const bad: readonly (readonly [string, RegExp])[] = [
  ["", /has no name/],
  [":tag", /has no name/],
  ["localhost:5000/", /has no name/],
  [`@${digest}`, /has no name/],
  ["Busybox", /must be lower case/],
  ["user/App", /must be lower case/],
  ["a//b", /only lower case letters and digits/],
  ["/a", /only lower case letters and digits/],
  ["a/", /only lower case letters and digits/],
  ["-a", /only lower case letters and digits/],
  ["a___b", /only lower case letters and digits/],
  ["a..b", /only lower case letters and digits/],
  ["../etc", /only lower case letters and digits|bad registry/],
  ["a b", /only lower case letters and digits/],
  ["a\n", /only lower case letters and digits/],
  ["é", /only lower case letters and digits/],
  ["a:b:c", /only lower case letters and digits/],
  ["busybox:", /bad tag ""/],
  ["busybox:-x", /bad tag "-x"/],
  ["busybox:a b", /bad tag "a b"/],
  [`busybox:${"t".repeat(129)}`, /bad tag/],
  ["busybox@", /its digest must be sha256: and 64/],
  ["busybox@sha256:12", /its digest must be sha256: and 64/],
  [`busybox@${digest.toUpperCase()}`, /its digest must be sha256: and 64/],
  ["busybox@sha512:00", /its digest must be sha256: and 64/],
  ["host..x/app", /bad registry "host\.\.x"/],
  ["-host.x/app", /bad registry "-host\.x"/],
  ["host:port/app", /bad registry "host:port"/],
  ["host:123456/app", /bad registry "host:123456"/],
  ["https://ghcr.io/a", /has a scheme, but is no URL/],
  ["a".repeat(238), /longer than 255 characters/],
  ["a".repeat(64), /looks like an image id/],
];

for (const [text, message] of bad) {
  test(`parseImageName() refuses ${JSON.stringify(text.slice(0, 60))}`, () => {
    assert.throws(() => parseImageName(text), (error) => {
      assert.ok(RuntimeError.is(error, "invalid_argument"));
      assert.equal(error.reason, "bad_image_name");
      assert.match(error.message, message);
      assert.ok(error.message.includes(`"${text}"`), "the message has the name");
      assert.match(error.hint ?? "", /docker\.io\/library\/alpine/);
      return true;
    });
  });
}

test("localCandidates() tries docker's name first, then one made here, and that only for short names", () => {
  assert.deepEqual(localCandidates("mine"), ["docker.io/library/mine:latest", "localhost/mine:latest"]);
  assert.deepEqual(localCandidates("mine:2"), ["docker.io/library/mine:2", "localhost/mine:2"]);
  assert.deepEqual(localCandidates("a/mine"), ["docker.io/a/mine:latest"]);
});
