import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { RuntimeError } from "../../shared/base/errors.ts";
import { VmDouble } from "../../../test/support/vm-double.ts";
import { raceDeath } from "./vm-death.ts";

test("a guarded step ends with its own result, or with the VM, before and after its death", async () => {
  const vm = new VmDouble();
  const guard = raceDeath(vm);
  assert.equal(await guard(Promise.resolve(1)), 1);
  await assert.rejects(guard(Promise.reject(new Error("its own"))), /its own/);
  const hanging = guard(new Promise(() => undefined));
  vm.end("died", "last words");
  const died = (error: unknown): boolean => RuntimeError.is(error, "unavailable") && error.reason === "vmm_died" && error.message.includes("last words");
  await assert.rejects(hanging, died);
  await assert.rejects(guard(new Promise(() => undefined)), died);
  await assert.rejects(guard(Promise.reject(new RuntimeError("unavailable", "connection lost"))), died);
});

test("a guard of a VM that lives keeps nothing of the steps that are over", async () => {
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void; // what the flag exposes
  const guard = raceDeath(new VmDouble());
  const results = await Promise.all(Array.from({ length: 10 }, async () => new WeakRef(await guard(Promise.resolve({})))));
  await new Promise((resolve) => { setImmediate(resolve); }); // a WeakRef keeps its target to the end of the turn
  collectGarbage();
  assert.deepEqual(results.filter((result) => result.deref() !== undefined), []);
});
