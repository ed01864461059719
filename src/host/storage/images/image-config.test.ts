import assert from "node:assert/strict";
import { test } from "node:test";
import { RuntimeError } from "../../../shared/base/errors.ts";
import { parseImageConfig, parseImageManifest } from "./image-config.ts";

const digest = `sha256:${"0f".repeat(32)}`;

test("parseImageConfig() reads all fields", () => {
  const config = parseImageConfig(JSON.stringify({
    architecture: "amd64", os: "linux", created: "2024-01-02T03:04:05Z", rootfs: { type: "layers", diff_ids: [digest] },
    config: {
      Entrypoint: ["/e"], Cmd: ["a", "b"], Env: ["A=1"], WorkingDir: "/w", User: "u:g", StopSignal: "SIGINT",
      ExposedPorts: { "80/tcp": {}, "53/udp": {} }, Volumes: { "/v": {} }, Labels: { l: "1", __proto__x: "2" },
    },
  }));
  assert.deepEqual(config, {
    entrypoint: ["/e"], cmd: ["a", "b"], env: ["A=1"], workingDir: "/w", user: "u:g", stopSignal: "SIGINT",
    exposedPorts: ["80/tcp", "53/udp"], volumes: ["/v"], labels: { l: "1", __proto__x: "2" },
    architecture: "amd64", os: "linux", created: "2024-01-02T03:04:05Z", diffIds: [digest],
  });
});

test("parseImageConfig() takes absent and null fields as empty", () => {
  const empty = { entrypoint: [], cmd: [], env: [], workingDir: "", user: "", stopSignal: "", exposedPorts: [], volumes: [], labels: {}, architecture: "", os: "", created: "", diffIds: [] };
  assert.deepEqual(parseImageConfig("{}"), empty);
  assert.deepEqual(parseImageConfig(JSON.stringify({ config: null, rootfs: null, created: null })), empty);
  assert.deepEqual(parseImageConfig(JSON.stringify({ config: { Cmd: null, User: null, Labels: null, Volumes: null, ExposedPorts: null } })), empty);
});

const badConfigs: readonly (readonly [string, RegExp])[] = [
  ["", /config is not JSON/],
  ["{", /config is not JSON/],
  ["null", /config must be an object/],
  ["[]", /config must be an object/],
  ['{"config":1}', /config\.config must be an object/],
  ['{"rootfs":[]}', /config\.rootfs must be an object/],
  ['{"rootfs":{"diff_ids":"x"}}', /diff_ids must be a list of strings/],
  ['{"os":1}', /os must be a string/],
  ['{"created":{}}', /created must be a string/],
  ['{"config":{"Cmd":"sh"}}', /Cmd must be a list of strings/],
  ['{"config":{"Entrypoint":[1]}}', /Entrypoint must be a list of strings/],
  ['{"config":{"Env":{"A":"1"}}}', /Env must be a list of strings/],
  ['{"config":{"WorkingDir":[]}}', /WorkingDir must be a string/],
  ['{"config":{"User":0}}', /User must be a string/],
  ['{"config":{"StopSignal":15}}', /StopSignal must be a string/],
  ['{"config":{"ExposedPorts":["80"]}}', /ExposedPorts must be an object/],
  ['{"config":{"Volumes":"x"}}', /Volumes must be an object/],
  ['{"config":{"Labels":{"a":1}}}', /Labels must be a string/],
];

for (const [text, message] of badConfigs) {
  test(`parseImageConfig() refuses ${JSON.stringify(text)}`, () => assertCorrupt(() => parseImageConfig(text), message));
}

test("parseImageManifest() reads config and layers", () => {
  const text = JSON.stringify({ schemaVersion: 2, config: { digest, size: 2 }, layers: [{ digest, size: 3, mediaType: "x" }] });
  assert.deepEqual(parseImageManifest(text), { config: { digest, sizeBytes: 2 }, layers: [{ digest, sizeBytes: 3 }] });
});

const badManifests: readonly (readonly [string, RegExp])[] = [
  ["x", /manifest is not JSON/],
  ["7", /manifest must be an object/],
  [JSON.stringify({ config: { digest, size: 1 } }), /manifest\.layers must be a list/],
  [JSON.stringify({ layers: [] }), /manifest\.config must be an object/],
  [JSON.stringify({ config: { digest: "sha256:../../x", size: 1 }, layers: [] }), /manifest\.config\.digest must be sha256/],
  [JSON.stringify({ config: { digest, size: "1" }, layers: [] }), /manifest\.config\.size must be a number/],
  [JSON.stringify({ config: { digest, size: 1 }, layers: [null] }), /manifest\.layers\[0\] must be an object/],
  [JSON.stringify({ config: { digest, size: 1 }, layers: [{ digest, size: -1 }] }), /manifest\.layers\[0\]\.size must be a number/],
];

for (const [text, message] of badManifests) {
  test(`parseImageManifest() refuses ${text.slice(0, 80)}`, () => assertCorrupt(() => parseImageManifest(text), message));
}

function assertCorrupt(parse: () => unknown, message: RegExp): void {
  assert.throws(parse, (error) => {
    assert.ok(RuntimeError.is(error, "data_loss"));
    assert.equal(error.reason, "image_corrupt");
    assert.match(error.message, message);
    return true;
  });
}
