import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxFixture } from "../../../test/support/sandbox-fixture.ts";
import { containerRequest, plainSpec } from "../../../test/support/sandbox-requests.ts";
import { RuntimeError } from "../../shared/base/errors.ts";
import { toGuestSpec } from "./guest-spec.ts";

const within = { timeoutMs: 5_000 };

test("2.6 OCI hooks, 2.6 Guest hooks: hooks in the container reach the guest as they are, those of the host are refused before anything is taken", async () => {
  const startContainer = [{ path: "/bin/true", args: ["true"], timeout: 5 }];
  const spec = { ...plainSpec, hooks: { startContainer, prestart: [], poststop: [] } };
  assert.deepEqual(toGuestSpec(spec, { rootPath: "/r", guestSources: new Map(), etcFiles: false, init: "none" }).hooks?.["startContainer"], startContainer);
  using fixture = await SandboxFixture.open();
  const sandbox = await fixture.create();
  const before = fixture.held;
  for (const kind of ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]) {
    const request = containerRequest("c1", { ...plainSpec, hooks: { startContainer, [kind]: startContainer } });
    await assert.rejects(sandbox.createContainer(request, within), (error) => RuntimeError.is(error, "unimplemented") && error.reason === "host_hooks" && error.message.includes(`"${kind}"`));
    assert.deepEqual(fixture.held, before);
  }
  await sandbox.createContainer(containerRequest("c1", spec), within);
  await sandbox.stop(0);
  assert.deepEqual(fixture.held, []);
});

test("D16: no annotation changes anything but what the container says of itself", async () => {
  const annotations = { "io.katacontainers.config.hypervisor.default_memory": "8192", "io.katacontainers.config.runtime.sandbox_cgroup_only": "true", "io.katacontainers.config.agent.kernel_modules": "x", "io.casemate.memory": "8g" };
  using plain = await SandboxFixture.open();
  using annotated = await SandboxFixture.open();
  const seen = [];
  for (const [fixture, spec] of [[plain, plainSpec], [annotated, { ...plainSpec, annotations }]] as const) {
    const sandbox = await fixture.create();
    await sandbox.createContainer(containerRequest("c1", spec), within);
    seen.push([fixture.held, [...fixture.vm.plugged], fixture.vm.pluggedMemoryBytes, fixture.agent.calls]);
    await sandbox.stop(0);
  }
  assert.deepEqual(seen[1], seen[0]);
  assert.deepEqual(toGuestSpec({ ...plainSpec, annotations }, { rootPath: "/r", guestSources: new Map(), etcFiles: false, init: "none" }).annotations, annotations);
});
