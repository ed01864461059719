import { RuntimeError } from "../../shared/base/errors.ts";

/** modules.dep of a kernel: which module files need which others (depmod(8)). */
export class ModuleIndex {
  /** Path, relative to the module folder, by module name with `-` for `_`. */
  readonly #paths = new Map<string, string>();
  readonly #dependencies = new Map<string, readonly string[]>();
  readonly #builtIn: ReadonlySet<string>;

  constructor(modulesDep: string, modulesBuiltin: string) {
    for (const line of modulesDep.split("\n")) {
      const colon = line.indexOf(":");
      if (colon === -1) continue;
      const path = line.slice(0, colon);
      this.#paths.set(moduleName(path), path);
      this.#dependencies.set(path, line.slice(colon + 1).split(" ").filter((part) => part !== ""));
    }
    this.#builtIn = new Set(modulesBuiltin.split("\n").filter((line) => line !== "").map(moduleName));
  }

  /** Files of those modules and all they need, each after what it needs. Built-in ones need no file. @throws RuntimeError `not_found`. */
  resolve(names: readonly string[]): string[] {
    const ordered = new Set<string>();
    const visit = (path: string): void => {
      if (ordered.has(path)) return;
      for (const dependency of this.#dependencies.get(path) ?? []) visit(dependency);
      ordered.add(path);
    };
    for (const name of names) {
      const path = this.#paths.get(name.replaceAll("_", "-"));
      if (path !== undefined) visit(path);
      else if (!this.#builtIn.has(name.replaceAll("_", "-"))) throw new RuntimeError("not_found", `kernel module "${name}": the kernel has none of that name`, { reason: "kernel_module_missing", hint: "use Debian's full kernel (linux-image-amd64): the cloud kernel lacks some modules" });
    }
    return [...ordered];
  }
}

/** `kernel/fs/erofs/erofs.ko.xz` is `erofs`. */
function moduleName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1).replace(/\.ko(\.(xz|zst|gz))?$/, "").replaceAll("_", "-");
}
