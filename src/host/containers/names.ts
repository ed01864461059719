import { kernelRandomBytes } from "../../shared/linux/random.ts";

const adjectives = ["amber", "brave", "calm", "clever", "eager", "fair", "gentle", "glad", "keen", "kind", "lively", "lucid", "mellow", "neat", "nimble", "patient", "proud", "quick", "quiet", "ready", "sharp", "shiny", "snug", "steady", "sunny", "tidy", "warm", "wise", "witty", "zesty"];
const nouns = ["anvil", "badger", "beacon", "birch", "brook", "cedar", "comet", "coral", "crane", "ember", "falcon", "fern", "finch", "harbor", "heron", "island", "lantern", "maple", "meadow", "otter", "pebble", "pine", "quartz", "raven", "reef", "river", "sparrow", "summit", "thistle", "willow"];

/** A container id: 64 hexadecimal digits, as docker's. */
export function newContainerId(): string {
  return kernelRandomBytes(32).toString("hex");
}

/** The host name of a container whose user gave none, as docker's. */
export function defaultHostname(containerId: string): string {
  return containerId.slice(0, 12);
}

/** A sandbox id: short enough for socket paths. */
export function newSandboxId(): string {
  return kernelRandomBytes(8).toString("hex");
}

/** A name for a container whose user gave none, e.g. `calm_otter42`. */
export function newContainerName(): string {
  const below = (count: number): number => kernelRandomBytes(4).readUInt32LE(0) % count;
  const pick = (words: readonly string[]): string => words[below(words.length)] ?? "casemate";
  return `${pick(adjectives)}_${pick(nouns)}${below(100)}`;
}
