/** Most events kept for a subscriber that does not read; a slower one is cut off rather than kept for ever. */
const maxPendingEvents = 1024;

/** Hands every event to every subscriber, in order. */
export class EventBroadcast<Event> {
  readonly #subscribers = new Set<(event: Event) => void>();

  publish(event: Event): void {
    for (const subscriber of this.#subscribers) subscriber(event);
  }

  /** Events from now on; ends when the signal aborts or the subscriber falls too far behind. */
  async *subscribe(signal: AbortSignal): AsyncGenerator<Event> {
    const pending: Event[] = [];
    let wake: (() => void) | undefined;
    const subscriber = (event: Event): void => {
      pending.push(event);
      wake?.();
    };
    const onAbort = (): void => wake?.();
    this.#subscribers.add(subscriber);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      while (!signal.aborted && pending.length <= maxPendingEvents) {
        const event = pending.shift();
        if (event !== undefined) yield event;
        else await new Promise<void>((resolve) => { wake = resolve; });
      }
    } finally {
      this.#subscribers.delete(subscriber);
      signal.removeEventListener("abort", onAbort);
    }
  }
}
