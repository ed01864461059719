import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { formatPublished, parsePublish, publishExposed } from "./publish.ts";

const one = (text: string) => parsePublish(text).map((spec) => [spec.protocol, spec.hostAddress, spec.hostPorts?.first, spec.hostPorts?.last, spec.containerPort]);

test("parsePublish() knows docker's forms", () => {
  const table: readonly [string, unknown[][]][] = [
    ["80", [["tcp", "", undefined, undefined, 80]]],
    ["8080:80", [["tcp", "", 8080, 8080, 80]]],
    ["8080:80/udp", [["udp", "", 8080, 8080, 80]]],
    ["8080:80/TCP", [["tcp", "", 8080, 8080, 80]]],
    ["127.0.0.1:8080:80", [["tcp", "127.0.0.1", 8080, 8080, 80]]],
    ["127.0.0.1::80", [["tcp", "127.0.0.1", undefined, undefined, 80]]],
    [":80", [["tcp", "", undefined, undefined, 80]]],
    ["0.0.0.0:8080:80", [["tcp", "", 8080, 8080, 80]]],
    ["[::1]:8080:80", [["tcp", "::1", 8080, 8080, 80]]],
    ["[::1]::80", [["tcp", "::1", undefined, undefined, 80]]],
    ["[::1]:80", [["tcp", "::1", undefined, undefined, 80]]],
    ["7000-7001:80-81", [["tcp", "", 7000, 7000, 80], ["tcp", "", 7001, 7001, 81]]],
    ["80-81", [["tcp", "", undefined, undefined, 80], ["tcp", "", undefined, undefined, 81]]],
    ["7000-7010:80", [["tcp", "", 7000, 7010, 80]]],
  ];
  for (const [text, expected] of table) assert.deepEqual(one(text), expected, text);
});

test("parsePublish() says what is wrong", () => {
  const table: readonly [string, RegExp][] = [
    ["", /container port is missing/],
    ["x", /"x" is not a number/],
    ["0", /outside 1 to 65535/],
    ["65536", /outside 1 to 65535/],
    ["80:", /container port is missing/],
    ["80/foo", /protocol is "foo"/],
    ["80/", /protocol is ""/],
    ["90-80", /runs backwards/],
    ["7000-7002:80-81", /3 host ports and 2 container ports/],
    ["localhost:80:80", /"localhost" is not an IP address/],
    ["::1:80:80", /brackets/],
    ["[fe80::1%eth0]:80:80", /not an IP address/],
    ["1-5000", /publishes 5000 ports/],
    ["-1:80", /host port "-1"/],
    ["80:1e2", /"1e2" is not a number/],
  ];
  for (const [text, message] of table) {
    assert.throws(() => parsePublish(text), (error) => RuntimeError.is(error, "invalid_argument") && message.test(error.message) && error.hint !== undefined, text);
  }
  assert.throws(() => parsePublish("80/sctp"), (error) => RuntimeError.is(error, "unimplemented"));
});

test("publishExposed() gives every exposed port a free host port", () => {
  assert.deepEqual(publishExposed(["80/tcp", "53/udp"]).map((spec) => [spec.protocol, spec.hostPorts, spec.containerPort]), [["tcp", undefined, 80], ["udp", undefined, 53]]);
  assert.throws(() => publishExposed(["1:2"]), (error) => RuntimeError.is(error, "invalid_argument"));
});

test("formatPublished() writes what ps shows", () => {
  assert.equal(formatPublished({ protocol: "tcp", hostAddress: "", hostPort: 8080, containerPort: 80 }), "0.0.0.0:8080->80/tcp");
  assert.equal(formatPublished({ protocol: "udp", hostAddress: "::1", hostPort: 53, containerPort: 53 }), "[::1]:53->53/udp");
});
