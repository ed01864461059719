import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { RuntimeError } from "../../shared/base/errors.ts";

/** A container's id in a file of its own, docker's --cidfile: claimed before the container is made. */
export class CidFile {
  readonly #path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** Undefined when no file is wanted. @throws RuntimeError `already_exists`: somebody else's container may be in it. */
  static claim(path: string | undefined): CidFile | undefined {
    if (path === undefined) return undefined;
    try {
      return new CidFile(path, openSync(path, "wx", 0o644));
    } catch (error) {
      throw RuntimeError.wrap(error, `write container id file "${path}"`);
    }
  }

  write(containerId: string): void {
    writeSync(this.#fd, containerId);
    closeSync(this.#fd);
  }

  /** No container was made. */
  discard(): void {
    closeSync(this.#fd);
    rmSync(this.#path, { force: true });
  }
}
