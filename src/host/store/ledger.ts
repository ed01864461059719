import { readFileSync } from "node:fs";
import { RuntimeError, isErrnoException } from "../../shared/base/errors.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import { writeFileAtomic } from "../../shared/linux/atomic-file.ts";

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

const version = 1;
interface LedgerFile { readonly version: number; readonly records: readonly ResourceRecord[] }

/**
 * The list of host resources one sandbox holds, on disk before they are taken (architecture section
 * 7). Written by the sandbox's owner only.
 */
export class Ledger {
  readonly #path: string;
  #records: ResourceRecord[];

  private constructor(path: string, records: ResourceRecord[]) {
    this.#path = path;
    this.#records = records;
  }

  /** Opens a sandbox's ledger; a missing file is an empty ledger. @throws RuntimeError `data_loss` when it cannot be read as one. */
  static open(path: string): Ledger {
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      if (isErrnoException(error, "ENOENT")) return new Ledger(path, []);
      throw RuntimeError.wrap(error, `read ledger "${path}"`);
    }
    return new Ledger(path, parseLedger(text, path));
  }

  get records(): readonly ResourceRecord[] {
    return this.#records;
  }

  /** Plans the resources of one transition and writes all their names at once, before any is taken. */
  plan<T>(build: (plan: <S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>, spec: S) => PlannedResource<H>) => T): T {
    const added: ResourceRecord[] = [];
    const result = build((kind, spec) => {
      const record = kind.plan(spec);
      if ([...this.#records, ...added].some((other) => sameResource(other, record))) throw new RuntimeError("already_exists", `plan ${record.kind} "${record.name}": the sandbox holds one already`);
      added.push(record);
      return this.#planned(kind, spec, record);
    });
    this.#records = [...this.#records, ...added];
    this.#save();
    return result;
  }

  /** Gives back everything on the list, last taken first, each failure collected; records of what failed stay. */
  async releaseAll(releasers: readonly ResourceReleaser[]): Promise<unknown[]> {
    const failures: unknown[] = [];
    for (const record of this.#records.toReversed()) {
      const releaser = releasers.find((candidate) => candidate.kind === record.kind);
      try {
        if (releaser === undefined) throw new RuntimeError("unimplemented", `release ${record.kind} "${record.name}": unknown kind of resource`);
        await releaser.release(record);
        this.#strike(record);
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
      this.#strike(record);
    };
    return {
      take: async (undo) => {
        undo.add(`${record.kind} "${record.name}"`, release);
        return kind.act(record, spec, (precise) => {
          this.#records = this.#records.map((other) => (sameResource(other, record) ? precise : other));
          record = precise;
          this.#save();
        });
      },
      release,
    };
  }

  #strike(record: ResourceRecord): void {
    this.#records = this.#records.filter((other) => !sameResource(other, record));
    this.#save();
  }

  #save(): void {
    const file: LedgerFile = { version, records: this.#records };
    writeFileAtomic(this.#path, JSON.stringify(file, undefined, 1));
  }
}

/** A kind's releaser. The cast is sound: a record is only ever handed to the kind that planned it. */
export function releaserOf<S, R extends ResourceRecord, H>(kind: ResourceKind<S, R, H>): ResourceReleaser {
  return { kind: kind.kind, release: (record) => kind.release(record as R) };
}

function sameResource(a: ResourceRecord, b: ResourceRecord): boolean {
  return a.kind === b.kind && a.name === b.name;
}

function parseLedger(text: string, path: string): ResourceRecord[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RuntimeError("data_loss", `read ledger "${path}"`, { cause: error });
  }
  const file = value as Partial<LedgerFile> | null; // each field is checked below
  if (file?.version !== version) throw new RuntimeError("failed_precondition", `read ledger "${path}": version ${String(file?.version)}, this program knows ${version}`);
  const records: unknown = file.records;
  if (!Array.isArray(records) || !records.every(isResourceRecord)) throw new RuntimeError("data_loss", `read ledger "${path}": not a list of records`);
  return records;
}

function isResourceRecord(value: unknown): value is ResourceRecord {
  return typeof value === "object" && value !== null && "kind" in value && typeof value.kind === "string" && "name" in value && typeof value.name === "string";
}
