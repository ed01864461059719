// What the host and the guest agree on about lanes: ports that carry the bytes of one file, and nothing else (docs/wire-channel.md).

/** Most bytes of one read or write by a lane. A call costs an emulated guest as much as moving half a megabyte. */
export const maxLanePieceBytes = 128 * 1024 * 1024;

/** The port's name in the guest. */
export function lanePortName(laneId: number): string {
  return `casemate.lane.${laneId}`;
}
