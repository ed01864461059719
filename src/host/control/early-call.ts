import type { StateFolders } from "../store/paths.ts";
import { connectOwner, type OwnerClient } from "./owner-client.ts";

/** A connection to an owner, and a call that was made over it. */
interface MadeCall {
  readonly client: OwnerClient;
  readonly answer: Promise<void>;
}

/** A call that is made while the sandbox still starts, so that its owner need not wait for it. It is ended with its connection unless somebody takes it. */
export class EarlyCall implements Disposable {
  readonly #folders: StateFolders;
  readonly #sandboxId: string;
  readonly #call: (client: OwnerClient) => Promise<void>;
  #made: Promise<MadeCall> | undefined;

  constructor(folders: StateFolders, sandboxId: string, call: (client: OwnerClient) => Promise<void>) {
    this.#folders = folders;
    this.#sandboxId = sandboxId;
    this.#call = call;
  }

  /** Makes the call to the owner that is there now; one that was made before was another's, who has died. */
  make(): void {
    this[Symbol.dispose]();
    this.#made = connectOwner(this.#folders, this.#sandboxId, { revive: false }).then((client) => {
      const answer = this.#call(client);
      answer.catch(() => { /* told to whoever takes it */ });
      return { client, answer };
    });
    this.#made.catch(() => { /* without a connection there is nothing to take */ });
  }

  /** Hands the connection over, with the answer to come; undefined when there is none. */
  async take(): Promise<MadeCall | undefined> {
    const made = this.#made;
    this.#made = undefined;
    return made?.catch(() => undefined);
  }

  [Symbol.dispose](): void {
    void this.#made?.then(({ client }) => client.close(), () => undefined);
    this.#made = undefined;
  }
}
