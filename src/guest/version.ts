/** Set by the bundler from package.json (esbuild's `define`); a run from the sources has no version. */
declare const CASEMATE_VERSION: string | undefined;

export const agentVersion: string = typeof CASEMATE_VERSION === "string" ? CASEMATE_VERSION : "0.0.0-source";

/** Version of casemate.v1.Guest that this agent speaks (docs/compatibility.md). */
export const guestProtocolVersion = 1;
