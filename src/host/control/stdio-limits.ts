/** How far a sender of stdio may be ahead of the acknowledgement, on every hop (architecture: 256 KiB). */
export const stdioWindowBytes = 256 * 1024;
/** Most bytes of one message with stdio. */
export const stdioPieceBytes = 64 * 1024;
