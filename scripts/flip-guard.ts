// Loaded before a test by `node --import`: the guards of a container's states are loaded with one of them
// turned round, which FLIP names as OPERATION:STATE. The test must fail.
import { registerHooks } from "node:module";
import { flipGuard } from "./parity/flips.ts";

const [operation = "", state = ""] = (process.env["FLIP"] ?? "").split(":");
registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (!url.endsWith("/src/host/sandbox/container-state.ts") || loaded.source === undefined || loaded.source === null) return loaded;
    const source = typeof loaded.source === "string" ? loaded.source : Buffer.from(loaded.source as Uint8Array).toString(); // Node's loader reads files as bytes
    return { ...loaded, source: flipGuard(source, operation, state) };
  },
});
