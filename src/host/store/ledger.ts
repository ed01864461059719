import { readFileSync } from "node:fs";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";
import { readBootId } from "./host-facts.ts";
import { newerVersion } from "./state-file.ts";

/** What the ledger knows of one host resource: enough to give it back, by a process that knows nothing else. JSON. */
export interface ResourceRecord {
  readonly kind: string;
  /** Unique among the records of one kind in one sandbox. */
  readonly name: string;
}

/**
 * A kind of host resource. `plan` decides every name and path without touching anything; `act` takes
 * the resource; `release` gives it back, knows only the record, and takes "already gone" for success.
 */
export interface ResourceKind<Spec, Record extends ResourceRecord, Held> {
  readonly kind: Record["kind"];
  /** A crash of the host takes the resource along: its record need not survive that. */
  readonly volatile?: boolean;
  plan(spec: Spec): Record;
  /** `note` replaces the record by a more precise one (a pid, say) without waiting for the disk. */
  act(record: Record, spec: Spec, note: (record: Record) => void): Promise<Held>;
  release(record: Record): Promise<void>;
}

/** A resource whose names are on disk and which can now be taken. */
export interface PlannedResource<Held> {
  /** Registers the undo, then acts. */
  take(undo: UndoStack): Promise<Held>;
  /** Gives the resource back and strikes the record. */
  release(): Promise<void>;
}

/** Gives back records of one kind; what is kept of a {@link ResourceKind} for cleaning after a crash. */
export interface ResourceReleaser {
  readonly kind: string;
  release(record: ResourceRecord): Promise<void>;
}

const version = 2;
/** Version 1 has no `bootId`, and no records but those of resources. */
const oldestVersion = 1;
interface LedgerFile { readonly version: number; readonly bootId?: string; readonly records: readonly ResourceRecord[] }

/**
 * What one sandbox holds and has become, on disk before it is acted on (architecture section 7): host
 * resources, and the records a new owner needs to take the sandbox over (saved-records.ts). Written by
 * the sandbox's owner only. docs/files.md draws the file.
 */
export class Ledger {
  readonly #path: string;
  /** Boot of the host in which the records were made; empty: not known. */
  readonly bootId: string;
  #records: readonly ResourceRecord[];
  /** Records that are on disk and whose resources nobody has asked for yet. */
  readonly #reserved = new Set<string>();

  private constructor(path: string, bootId: string, records: readonly ResourceRecord[]) {
    this.#path = path;
    this.bootId = bootId;
    this.#records = records;
  }

  /**
   * Opens a sandbox's ledger; a missing file is an empty ledger.
   * @throws RuntimeError `data_loss` when it cannot be read as one, `failed_precondition` (reason `newer_version`).
   */
  static open(path: string): Ledger {
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return new Ledger(path, readBootId(), []);
      throw RuntimeError.wrap(error, `read ledger "${path}"`);
    }
    const { bootId = "", records } = parseLedger(text, path);
    return new Ledger(path, bootId, records);
  }

  get records(): readonly ResourceRecord[] {
    return this.#records;
  }

  /** The record of that kind and name; its kind says what it is. */
  find(kind: string, name: string): ResourceRecord | undefined {
    return this.#records.find((record) => record.kind === kind && record.name === name);
  }

  /**
   * Writes the records of one transition at once, before any of it is acted on: one durable write,
   * however many resources are planned from them later.
   */
  reserve(records: readonly ResourceRecord[]): void {
    for (const record of records) this.#requireNew(record);
    for (const record of records) this.#reserved.add(keyOf(record));
    this.#put(records, true);
  }

  /** True while a record is on disk and nobody has asked for its resource yet. */
  isReserved(record: ResourceRecord): boolean {
    return this.#reserved.has(keyOf(record));
  }

  /** Plans the resources of one transition and writes all their names at once, before any is taken. Names that are reserved are on disk already. */
  plan<T>(build: (plan: <S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>, spec: S) => PlannedResource<H>) => T): T {
    const added: ResourceRecord[] = [];
    let durable = false;
    const result = build((kind, spec) => {
      const record = kind.plan(spec);
      if (!this.#reserved.delete(keyOf(record))) {
        if (added.some((other) => keyOf(other) === keyOf(record))) throw alreadyHeld(record);
        this.#requireNew(record);
        added.push(record);
        durable ||= kind.volatile !== true;
      }
      return this.#planned(kind, spec, record);
    });
    if (added.length > 0) this.#put(added, durable);
    return result;
  }

  /** A resource that an earlier owner has taken, to be given back by this one. */
  held<S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>, record: R): Pick<PlannedResource<H>, "release"> {
    return { release: async () => { await kind.release(record); this.strike(record); } };
  }

  /** Puts a record in the place of the one with its kind and name. `durable`: on disk when this returns, whatever happens to the host. */
  note(record: ResourceRecord, { durable = false }: { readonly durable?: boolean } = {}): void {
    this.#put([record], durable);
  }

  /** Forgets records; one that is not there is fine. */
  strike(...records: readonly Pick<ResourceRecord, "kind" | "name">[]): void {
    const keys = new Set(records.map(keyOf));
    const kept = this.#records.filter((record) => !keys.has(keyOf(record)));
    for (const key of keys) this.#reserved.delete(key);
    if (kept.length === this.#records.length) return;
    this.#records = kept;
    this.#save(false); // a record that comes back is released once more, which is harmless
  }

  /** Gives back everything on the list, last taken first, each failure collected; records of what failed stay. */
  async releaseAll(releasers: readonly ResourceReleaser[]): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const record of this.#records.toReversed()) {
      const releaser = releasers.find((candidate) => candidate.kind === record.kind);
      try {
        if (releaser === undefined) throw new RuntimeError("unimplemented", `release ${record.kind} "${record.name}": unknown kind of resource`);
        await releaser.release(record);
        this.strike(record);
      } catch (error) {
        failures.push(RuntimeError.wrap(error, `release ${record.kind} "${record.name}"`));
      }
    }
    return failures;
  }

  #planned<S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>, spec: S, planned: R): PlannedResource<H> {
    let record = planned;
    const release = async (): Promise<void> => {
      await kind.release(record);
      this.strike(record);
    };
    return {
      take: async (undo) => {
        undo.add(`${record.kind} "${record.name}"`, release);
        return kind.act(record, spec, (precise) => {
          record = precise;
          this.note(precise);
        });
      },
      release,
    };
  }

  #requireNew(record: ResourceRecord): void {
    if (this.find(record.kind, record.name) !== undefined) throw alreadyHeld(record);
  }

  #put(records: readonly ResourceRecord[], durable: boolean): void {
    const put = new Map(records.map((record) => [keyOf(record), record]));
    const replaced = this.#records.map((record) => {
      const newer = put.get(keyOf(record));
      put.delete(keyOf(record));
      return newer ?? record;
    });
    this.#records = [...replaced, ...put.values()];
    this.#save(durable);
  }

  #save(durable: boolean): void {
    const file: LedgerFile = { version, bootId: this.bootId, records: this.#records };
    writeFileAtomic(this.#path, JSON.stringify(file, undefined, 1), 0o600, { durable });
  }
}

function alreadyHeld(record: ResourceRecord): RuntimeError {
  return new RuntimeError("already_exists", `plan ${record.kind} "${record.name}": the sandbox holds one already`);
}

/** A kind's releaser. The cast is sound: a record is only ever handed to the kind that planned it. */
export function releaserOf<S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>): ResourceReleaser {
  return { kind: kind.kind, release: (record) => kind.release(record as R) };
}

function keyOf({ kind, name }: Pick<ResourceRecord, "kind" | "name">): string {
  return `${kind} ${name}`;
}

function parseLedger(text: string, path: string): LedgerFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RuntimeError("data_loss", `read ledger "${path}"`, { cause: error });
  }
  const file = value as Partial<LedgerFile> | null; // each field is checked below
  if (typeof file?.version !== "number") throw new RuntimeError("data_loss", `read ledger "${path}": has no version`);
  if (file.version > version) throw newerVersion(`read ledger "${path}"`, file.version, version);
  const records: unknown = file.records;
  if (file.version < oldestVersion || !Array.isArray(records) || !records.every(isResourceRecord)) throw new RuntimeError("data_loss", `read ledger "${path}": not a list of records`);
  return { version: file.version, ...(typeof file.bootId === "string" && { bootId: file.bootId }), records };
}

function isResourceRecord(value: unknown): value is ResourceRecord {
  return typeof value === "object" && value !== null && "kind" in value && typeof value.kind === "string" && "name" in value && typeof value.name === "string";
}
