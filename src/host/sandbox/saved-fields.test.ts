// Every field of what makes up a sandbox survives its owner, or is marked as one that need not: the types
// are walked, so that a new field cannot be forgotten.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import ts from "typescript";
import { partShapes, recordShapes } from "../store/saved-records.ts";

const sourceFolder = join(import.meta.dirname, "..");

/** Where a new owner has a field from. `transient`: it begins anew, and why that is right. */
type Origin = `ledger: ${string}` | `agent: ${string}` | `vmm: ${string}` | `log: ${string}` | `config: ${string}` | `transient: ${string}`;

const fields: Readonly<Record<string, Readonly<Record<string, Origin>>>> = {
  "sandbox/sandbox.ts Sandbox": {
    config: "config: sandbox.json", vm: "ledger: vmm", guestKernel: "agent: Hello", warnings: "ledger: sandbox", addresses: "ledger: sandbox", ports: "ledger: sandbox",
    containers: "ledger: container", vmProcesses: "ledger: exec", timings: "transient: of the start; startMs is in the ledger", ended: "transient: a promise about the VM",
    "#context": "transient: the owner itself", "#connection": "transient: connected anew", "#clockSet": "transient: an owner that takes over finds it set", "#disks": "ledger: container", "#room": "vmm: size, and the containers' resources",
    "#shares": "ledger: share-mount", "#teardown": "ledger: all of it", "#queue": "transient: what was under way is finished or taken back", "#guard": "transient: about the VM",
    "#registered": "ledger: exec that the agent does not have", "#handled": "transient: the agent sends again what is not acknowledged", "#acknowledged": "agent: Hello",
    "#nextStreamId": "ledger: above every number that is used", "#stopping": "ledger: sandbox, phase", "#state": "vmm: query-status, and the ledger: sandbox, paused", "#leftGuest": "agent: ListProcesses",
    "#saved": "transient: a template is made without an owner", "#growing": "transient: the guest tells again what is not acknowledged", "#prepared": "config: sandbox.json", "#endReason": "transient: a new owner finds virtiofsd gone as well",
  },
  "sandbox/container.ts Container": {
    containerId: "ledger: container", bundle: "ledger: container", backing: "ledger: container", init: "ledger: container", execs: "ledger: exec", resources: "ledger: container",
    "#state": "agent: ListProcesses, and the end in the ledger", "#teardown": "ledger: container, disks and shares",
  },
  "sandbox/process.ts GuestProcess": {
    containerId: "ledger: container or exec", execId: "ledger: exec", terminal: "ledger: io", io: "ledger: io", "#state": "agent: ListProcesses", "#guestPid": "agent: ListProcesses",
    "#end": "ledger: end", "#ending": "transient: an end that is not recorded is told again", "#ended": "transient: a promise about the end",
  },
  "sandbox/process-io.ts ProcessIo": {
    "#streams": "ledger: streamId", "#log": "ledger: io, logPath", "#resume": "transient: how it was taken over", "#outputs": "agent: positions, and the log's end", "#clients": "transient: they come back by themselves",
    "#stdin": "agent: stdinReceived", "#stdinListeners": "transient: of clients", "#drained": "transient: a promise about the outputs", "#fds": "ledger: io, terminal",
    "#comeBack": "transient: a timer", "#progress": "transient: of a wait", "#closed": "ledger: end",
  },
  "sandbox/sandbox-room.ts SandboxRoom": { "#vm": "ledger: vmm", "#agent": "transient: connected anew", "#base": "config: sandbox.json", "#limits": "config: sandbox.json", "#claims": "ledger: container, resources", "#size": "vmm: vCPUs and requested memory", "#growthLimitBytes": "config: sandbox.json", "#extraBytes": "vmm: requested memory beyond what the containers' resources ask for" },
  "device/disk-pool.ts DiskPool": { "#vm": "ledger: vmm", "#disks": "ledger: container, disks", "#planned": "transient: written with the container's record", "#nextNumber": "ledger: above every number that is used" },
  "hypervisor/qemu/hot-plug.ts HotPlug": {
    "#qmp": "transient: connected anew", "#memoryMode": "config: sandbox.json", "#pluggableMemoryBytes": "config: sandbox.json", "#plugged": "vmm: qom-list", "#unplugging": "transient: asked for again", "#nextFdSet": "vmm: query-fdsets", "#fdSetsAtStart": "vmm: query-fdsets",
    "#vmEnded": "transient: about the VM",
  },
  "storage/shares/shares.ts FolderShares": { shareId: "transient: a constant", guestMountPoint: "transient: a constant", "#request": "config: the run folder", "#lost": "transient: a promise about virtiofsd", serving: "ledger: share-mount", "#exited": "ledger: virtiofsd", "#folders": "config: the run folder", "#ledger": "transient: the ledger itself", "#mounts": "ledger: share-mount" },
};

test("every field of a sandbox is saved, asked for, or marked as transient", () => {
  for (const [place, origins] of Object.entries(fields)) {
    const [path = "", name = ""] = place.split(" ");
    assert.deepEqual(classFields(path, name).toSorted(), Object.keys(origins).toSorted(), place);
  }
});

const records: Readonly<Record<string, string | undefined>> = { SandboxRecord: recordShapes["sandbox"], SavedContainer: recordShapes["container"], SavedExec: recordShapes["exec"], SavedIo: partShapes["io"], SavedEnd: partShapes["end"], SavedKeeping: partShapes["keeping"], ContainerBacking: partShapes["backing"] };

test("every field of a record is checked when it is read", () => {
  for (const [name, shape = ""] of Object.entries(records)) assert.deepEqual(interfaceFields(name).toSorted(), shape.split(", ").toSorted(), name);
});

function parse(path: string): ts.SourceFile {
  return ts.createSourceFile(path, readFileSync(join(sourceFolder, path), "utf8"), ts.ScriptTarget.Latest, true);
}

function classFields(path: string, name: string): string[] {
  const found = parse(path).statements.find((statement) => ts.isClassDeclaration(statement) && statement.name?.text === name);
  assert.ok(found !== undefined && ts.isClassDeclaration(found), `${path} has no class ${name}`);
  return found.members.filter(ts.isPropertyDeclaration).map((member) => member.name.getText());
}

/** Each field as a record's shape has it: name, whether it may be missing, kind of value. */
function interfaceFields(name: string): string[] {
  const found = parse("store/saved-records.ts").statements.find((statement) => ts.isInterfaceDeclaration(statement) && statement.name.text === name);
  assert.ok(found !== undefined && ts.isInterfaceDeclaration(found), `there is no interface ${name}`);
  return found.members.filter(ts.isPropertySignature).filter((member) => !["kind", "name"].includes(member.name.getText()))
    .map((member) => `${member.name.getText()}${member.questionToken === undefined ? "" : "?"} ${kindOf(member.type)}`);
}

function kindOf(type: ts.TypeNode | undefined): string {
  const text = type?.getText() ?? "";
  if (["string", "number", "boolean"].includes(text)) return text;
  if (text.startsWith("\"")) return "string"; // a union of words
  return text.startsWith("readonly ") ? "array" : "object";
}
