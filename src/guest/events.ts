import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { RuntimeError } from "../shared/base/errors.ts";
import { EventSchema, type Event } from "../shared/protocol/gen/casemate_pb.ts";

/** New processes are refused when the host lets this many events wait; each holds about 300 bytes. */
const maxWaiting = 10_000;

/** What an event is about, as the protocol's `oneof` takes it. */
export type EventKind = NonNullable<MessageInitShape<typeof EventSchema>["kind"]>;

/**
 * Exits and OOM kills in the order they happened, numbered from 1 without gaps, kept until the host
 * has acknowledged them: an owner that died and came back gets what it missed.
 */
export class EventLog {
  #events: Event[] = [];
  #lastSequence = 0n;
  #acknowledged = 0n;
  readonly #listeners = new Set<() => void>();

  get lastSequence(): bigint { return this.#lastSequence; }
  get acknowledgedSequence(): bigint { return this.#acknowledged; }

  append(kind: EventKind): Event {
    this.#lastSequence++;
    const event = create(EventSchema, { sequence: this.#lastSequence, kind });
    this.#events.push(event);
    for (const listener of this.#listeners) listener();
    return event;
  }

  /** Forgets the events up to that number; larger than the last one is an error of the host. */
  acknowledge(upTo: bigint): void {
    if (upTo > this.#lastSequence) throw new RuntimeError("out_of_range", `acknowledge events up to ${upTo}: the last one is ${this.#lastSequence}`);
    if (upTo <= this.#acknowledged) return;
    this.#acknowledged = upTo;
    this.#events = this.#events.filter(({ sequence }) => sequence > upTo);
  }

  /** @throws RuntimeError `resource_exhausted` when nobody takes the events. */
  requireRoom(): void {
    if (this.#events.length >= maxWaiting) throw new RuntimeError("resource_exhausted", `${this.#events.length} events wait to be acknowledged`, { hint: "acknowledge events before starting more processes" });
  }

  /** Events after that number, then new ones as they come, until the signal. */
  async *follow(after: bigint, signal: AbortSignal): AsyncGenerator<Event> {
    let last = after;
    let wake: (() => void) | undefined;
    const notify = (): void => wake?.();
    this.#listeners.add(notify);
    signal.addEventListener("abort", notify);
    try {
      while (!signal.aborted) {
        const next = this.#events.find(({ sequence }) => sequence > last);
        if (next === undefined) {
          await new Promise<void>((resolve) => { wake = resolve; });
        } else {
          last = next.sequence;
          yield next;
        }
      }
    } finally {
      this.#listeners.delete(notify);
      signal.removeEventListener("abort", notify);
    }
  }
}
