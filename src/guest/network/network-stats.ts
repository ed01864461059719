import { readFileSync } from "node:fs";
import { create } from "@bufbuild/protobuf";
import { isErrnoException } from "../../shared/base/errors.ts";
import { NetworkStatsSchema, type NetworkStats } from "../../shared/protocol/gen/agent/agent_pb.ts";

/** Counters of the interfaces that a process sees; none when it is gone. */
export function readNetworkStats(pid: number): NetworkStats[] {
  try {
    return parseNetDev(readFileSync(`/proc/${pid}/net/dev`, "latin1"));
  } catch (error) {
    if (isErrnoException(error, "ENOENT") || isErrnoException(error, "EINVAL") || isErrnoException(error, "ESRCH")) return [];
    throw error;
  }
}

/** Parses /proc/net/dev: after two lines of heading, `name: 8 counters of receiving, 8 of sending`. Loopback is left out. */
export function parseNetDev(text: string): NetworkStats[] {
  return text.split("\n").slice(2).flatMap((line) => {
    const [name = "", counters = ""] = line.split(/:\s*/, 2);
    const [rxBytes, rxPackets, rxErrors, rxDropped, , , , , txBytes, txPackets, txErrors, txDropped] = counters.trim().split(/\s+/).map((value) => (/^\d+$/.test(value) ? BigInt(value) : 0n));
    if (name.trim() === "" || name.trim() === "lo") return [];
    return [create(NetworkStatsSchema, { name: name.trim(), rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped })];
  });
}
