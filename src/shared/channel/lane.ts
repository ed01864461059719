// What the host and the guest agree on about lanes: ports that carry the bytes of one file, and nothing else (docs/wire-channel.md).

/** Most bytes of one read or write by a lane: some milliseconds of moving, which is much beside the call for it. */
export const maxLanePieceBytes = 4 * 1024 * 1024;

/** The port's name in the guest. */
export function lanePortName(laneId: number): string {
  return `casemate.lane.${laneId}`;
}
