/** Runs one operation at a time, in the order they were asked for. A failed one does not stop the next. */
export class OperationQueue {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(operation: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(operation);
    this.#tail = result.catch(() => undefined); // the caller has `result`; the next in line only needs to know that it is over
    return result;
  }
}
