import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { RuntimeError } from "../../shared/base/errors.ts";
import { readLines, toSettings, type SettingsFlags } from "./run-settings.ts";

const folders = { data: "/data", run: "/run" };
const settings = (flags: SettingsFlags): object => toSettings(flags, folders).settings;
const refuses = (flags: SettingsFlags, reason: string): void => assert.throws(() => settings(flags), (error: unknown) => RuntimeError.is(error) && error.reason === reason, JSON.stringify(flags));

test("toSettings() without options says nothing", () => {
  assert.deepEqual(toSettings({}, folders), { settings: {}, mounts: [] });
});

const meanings: readonly (readonly [flags: SettingsFlags, meaning: object])[] = [
  [{ tmpfs: ["/run", "/tmp:size=64m,mode=700"] }, { tmpfs: [{ destination: "/run", options: [] }, { destination: "/tmp", options: ["size=64m", "mode=700"] }] }],
  [{ mount: ["type=tmpfs,target=/t,tmpfs-size=1m"] }, { tmpfs: [{ destination: "/t", options: ["size=1048576"] }] }],
  [{ ulimit: ["nofile=1024:2048", "core=0", "memlock=-1"] }, { ulimits: [{ name: "nofile", soft: 1024, hard: 2048 }, { name: "core", soft: 0, hard: 0 }, { name: "memlock", soft: -1, hard: -1 }] }],
  [{ capAdd: ["net_admin", "CAP_SYS_TIME"], capDrop: ["all"] }, { capAdd: ["CAP_NET_ADMIN", "CAP_SYS_TIME"], capDrop: ["ALL"] }],
  [{ securityOpt: ["no-new-privileges", "seccomp=unconfined"] }, { noNewPrivileges: true }],
  [{ addHost: ["db:10.0.0.1", "six:[::1]"] }, { hosts: [{ name: "db", address: "10.0.0.1" }, { name: "six", address: "::1" }] }],
  [{ dns: ["9.9.9.9"], dnsSearch: ["example.org"], dnsOption: ["ndots:2"] }, { dns: ["9.9.9.9"], dnsSearch: ["example.org"], dnsOptions: ["ndots:2"] }],
  [{ cpuShares: "512", cpusetCpus: "0-1,3" }, { cpuShares: 512, cpuset: "0-1,3" }],
  [{ memorySwap: "-1", memoryReservation: "1m", shmSize: "2m", pidsLimit: "100" }, { memorySwapBytes: -1, memoryReservationBytes: 1_048_576, shmBytes: 2_097_152, pidsLimit: 100 }],
  [{ groupAdd: ["10"], sysctl: ["kernel.msgmax=1"], annotation: ["a=b=c"] }, { groupAdd: [10], sysctls: { "kernel.msgmax": "1" }, annotations: { a: "b=c" } }],
  [{ logDriver: "json-file", logOpt: ["max-size=1m", "max-file=2"] }, { logging: { driver: "casemate", maxFileBytes: 1_048_576, maxFiles: 2 } }],
  [{ timeout: "1.5" }, { timeoutMs: 1500 }],
  [{ cloneCmd: "date > /new" }, { cloneCommand: "date > /new" }],
];

for (const [flags, meaning] of meanings) test(`toSettings() of ${JSON.stringify(flags)}`, () => assert.deepEqual(settings(flags), meaning));

test("toSettings() takes --mount for -v", () => {
  const { mounts } = toSettings({ mount: ["type=bind,src=files,dst=/f,readonly", "source=name,target=/v"] }, folders);
  const volumes = mounts.map((mount) => (mount.type === "volume" ? mount.volume : undefined));
  assert.deepEqual(volumes.map((volume) => [volume?.type, volume?.source === resolve("files"), volume?.name, volume?.destination, volume?.readOnly]), [["bind", true, "", "/f", true], ["volume", false, "name", "/v", false]]);
});

test("toSettings() refuses what cannot be, and what is wrong", () => {
  for (const flags of [{ securityOpt: ["seccomp=profile.json"] }, { securityOpt: ["apparmor=mine"] }, { sysctl: ["net.core.somaxconn=1"] }, { addHost: ["me:host-gateway"] }]) refuses(flags, "option_refused");
  for (const flags of [{ tmpfs: ["tmp"] }, { mount: ["type=npipe,target=/x"] }, { mount: ["source=/x"] }, { mount: ["type=bind,target=/x"] }, { mount: ["target=/x,what=1"] }, { ulimit: ["nofile"] }, { ulimit: ["nofile=5:1"] }, { ulimit: ["files=1"] }, { addHost: ["db"] }, { dns: ["one"] }, { cpusetCpus: "a" }, { cpuShares: "1" }, { groupAdd: ["wheel"] }, { logOpt: ["tag=x"] }, { annotation: ["x"] }]) refuses(flags, "bad_option");
});

test("readLines() passes over comments and empty lines", () => {
  const folder = mkdtempSync(join(tmpdir(), "casemate-lines-"));
  try {
    writeFileSync(join(folder, "env"), "# comment\n\nA=1\r\n  B=two words\nC\n");
    assert.deepEqual(readLines([join(folder, "env")], "--env-file"), ["A=1", "B=two words", "C"]);
    assert.throws(() => readLines([join(folder, "missing")], "--env-file"), (error: unknown) => RuntimeError.is(error, "invalid_argument") && error.reason === "bad_file");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
