/** A handler after its types have been left behind. */
type AnyHandler = (...given: unknown[]) => unknown;

/** Calls that change processes and have not been answered yet, whoever made them: their host may have died meanwhile. */
export class CallsUnderWay {
  readonly #calls = new Set<Promise<unknown>>();

  /** The same implementation, with the calls of those methods counted while they run. */
  track<T extends object>(implementation: T, methods: readonly (keyof T & string)[]): T {
    const tracked: Record<string, AnyHandler> = {};
    for (const name of methods) tracked[name] = this.#counted(implementation[name] as AnyHandler); // methods are functions
    return { ...implementation, ...tracked };
  }

  /** Whether any is under way. */
  get some(): boolean {
    return this.#calls.size > 0;
  }

  /** Resolves when every call that is under way now has been answered, or after the time. */
  async settled(timeoutMs: number): Promise<void> {
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    await Promise.race([Promise.allSettled([...this.#calls]), late]);
    clearTimeout(timer);
  }

  #counted(handler: AnyHandler): AnyHandler {
    return async (...given) => {
      const call = Promise.resolve(handler(...given));
      this.#calls.add(call);
      try {
        return await call;
      } finally {
        this.#calls.delete(call);
      }
    };
  }
}
