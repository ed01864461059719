import { RuntimeError } from "../../shared/base/errors.ts";
import type { OciProcess, OciResources } from "../../shared/oci/runtime-spec.ts";
import type { PublishedPort } from "./container-store.ts";
import type { Ledger, ResourceReleaser, ResourceRecord } from "./ledger.ts";

// What a new owner needs to take a sandbox over, as records in its ledger beside those of host
// resources: one file, one lock, one write for each transition. docs/files.md draws them; what is not
// here is asked of the VMM and of the agent.

/** The sandbox itself; the first record of its ledger. */
export interface SandboxRecord extends ResourceRecord {
  readonly kind: "sandbox";
  readonly name: "sandbox";
  /** `creating`: a new owner gives everything back. `stopping`: it finishes the stop. */
  readonly phase: "creating" | "running" | "stopping";
  readonly addresses: readonly string[];
  readonly ports: readonly PublishedPort[];
  readonly warnings: readonly string[];
  readonly startedBy: "cold" | "template";
  /** Milliseconds that the start took. */
  readonly startMs: number;
  /** Undefined: nobody has limited how long it is kept. */
  readonly keeping?: SavedKeeping;
  /** Somebody has paused it; an owner that takes it over lets it go on for a moment, and may die then. */
  readonly paused?: boolean;
}

/** How long a sandbox is to be kept. */
export interface SavedKeeping {
  /** A program holds a lease: the sandbox ends with it. */
  readonly leased: boolean;
  /** 0: never. */
  readonly totalUntilUnixMs: number;
  /** 0: no limit. */
  readonly idleMs: number;
}

/** The record of a sandbox that is being made. */
export const creatingSandbox: SandboxRecord = { kind: "sandbox", name: "sandbox", phase: "creating", addresses: [], ports: [], warnings: [], startedBy: "cold", startMs: 0 };

/** How a process's stdio is kept; the positions are the agent's and the log's. */
export interface SavedIo {
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly holdOutput: boolean;
  /** Empty: no log. */
  readonly logPath: string;
  /** Of a process that went on from a saved one: where its output begins here, in bytes. What came before is in the log of the sandbox that was saved. */
  readonly stdoutFrom?: number;
  readonly stderrFrom?: number;
}

/** The end of a process, written before it is acknowledged to the agent. */
export interface SavedEnd {
  readonly exitStatus: number;
  /** Decimal, since JSON's numbers end at 2^53. */
  readonly exitedAtUnixNanos: string;
  readonly oomKilled: boolean;
  readonly signal?: number;
  readonly reason: string;
}

/** What the owner does with a container beyond running it. */
export interface ContainerBacking {
  /** Where status.json and the log are; empty: nothing is kept. */
  readonly containerFolder: string;
  readonly autoRemove: boolean;
  /** The sandbox ends with this container. */
  readonly lastOneOut: boolean;
  /** It is killed that long after its start; undefined: never. */
  readonly timeoutMs?: number;
}

/** A container, from before its first step until it is deleted. */
export interface SavedContainer extends ResourceRecord {
  readonly kind: "container";
  readonly bundle: string;
  readonly streamId: number;
  readonly io: SavedIo;
  readonly disks: readonly { readonly path: string; readonly diskId: string }[];
  /** Names below the sandbox's share. */
  readonly shares: readonly string[];
  readonly resources: OciResources;
  readonly backing: ContainerBacking;
  readonly end?: SavedEnd;
}

/** A further process, from its registration until it is forgotten. The name is `CONTAINER/EXEC`. */
export interface SavedExec extends ResourceRecord {
  readonly kind: "exec";
  /** Empty: the guest itself. */
  readonly containerId: string;
  readonly execId: string;
  readonly streamId: number;
  readonly io: SavedIo;
  readonly process: OciProcess;
  readonly user: string;
  readonly terminalSize?: { readonly rows: number; readonly columns: number };
  readonly autoRemove: boolean;
  readonly ownCgroup: boolean;
  readonly end?: SavedEnd;
}

const savedKinds = ["sandbox", "container", "exec"];

/** The records of a ledger that are no host resources. */
export function savedRecords(ledger: Ledger): ResourceRecord[] {
  return ledger.records.filter(({ kind }) => savedKinds.includes(kind));
}

/** They hold nothing of the host: what they describe goes with the VM. */
export const savedRecordReleasers: readonly ResourceReleaser[] = savedKinds.map((kind) => ({ kind, release: async () => { /* nothing */ } }));

/** Field names and what each must be, for checking what is on disk. A `?` behind the name: it may be missing. */
export const recordShapes: Readonly<Record<string, string>> = {
  sandbox: "phase string, addresses array, ports array, warnings array, startedBy string, startMs number, keeping? object, paused? boolean",
  container: "bundle string, streamId number, io object, disks array, shares array, resources object, backing object, end? object",
  exec: "containerId string, execId string, streamId number, io object, process object, user string, terminalSize? object, autoRemove boolean, ownCgroup boolean, end? object",
};

/** The same for fields that are objects of ours. */
export const partShapes: Readonly<Record<string, string>> = {
  io: "terminal boolean, stdin boolean, holdOutput boolean, logPath string, stdoutFrom? number, stderrFrom? number",
  end: "exitStatus number, exitedAtUnixNanos string, oomKilled boolean, signal? number, reason string",
  keeping: "leased boolean, totalUntilUnixMs number, idleMs number",
  backing: "containerFolder string, autoRemove boolean, lastOneOut boolean, timeoutMs? number",
};

/** The sandbox's record; undefined before there is one. @throws RuntimeError `data_loss`. */
export function savedSandbox(ledger: Ledger): SandboxRecord | undefined {
  const [record] = savedOf(ledger, "sandbox");
  return record as SandboxRecord | undefined; // its shape was checked
}

/** @throws RuntimeError `data_loss`. */
export function savedContainers(ledger: Ledger): SavedContainer[] {
  return savedOf(ledger, "container") as SavedContainer[]; // as above
}

/** @throws RuntimeError `data_loss`. */
export function savedExecs(ledger: Ledger): SavedExec[] {
  return savedOf(ledger, "exec") as SavedExec[]; // as above
}

/** The name of an exec's record. */
export function execRecordName(containerId: string, execId: string): string {
  return `${containerId}/${execId}`;
}

function savedOf(ledger: Ledger, kind: string): ResourceRecord[] {
  const records = ledger.records.filter((record) => record.kind === kind);
  for (const record of records) requireShape(record, recordShapes[kind] ?? "", `${kind} "${record.name}"`);
  return records;
}

function requireShape(value: object, shape: string, what: string): void {
  const fields = new Map<string, unknown>(Object.entries(value));
  for (const [key = "", wanted] of shape.split(", ").map((line) => line.split(" "))) {
    const name = key.replace(/\?$/, "");
    const field = fields.get(name);
    if (field === undefined && key.endsWith("?")) continue;
    const found = Array.isArray(field) ? "array" : field === null ? "null" : typeof field;
    if (found !== wanted) throw new RuntimeError("data_loss", `read the record of ${what}: "${name}" is ${found}, must be ${wanted}`);
    const part = partShapes[name];
    if (part !== undefined && typeof field === "object" && field !== null) requireShape(field, part, `${what}, ${name}`);
  }
}
