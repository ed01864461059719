import { call } from "../../shared/linux/libc.ts";

const CLOCK_REALTIME = 0;
const nanosPerSecond = 1_000_000_000n;
/** A guest that is further behind is set at once; slewing 0.5 s takes the kernel 17 minutes (500 ppm). */
const stepForwardNanos = nanosPerSecond / 2n;
/** adjtime(3) takes no more at once. */
const maxSlewMicros = 2_000_000_000n;

/** Sets the clock, in either direction: right after a boot or a restore, before anything of the user's runs. */
export function stepClock(unixNanos: bigint): void {
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(unixNanos / nanosPerSecond, 0);
  time.writeBigInt64LE(unixNanos % nanosPerSecond, 8);
  call("int clock_settime(int, void *)", CLOCK_REALTIME, time);
}

/**
 * Follows the host's clock while containers run: a guest that lags is set forward or sped up, one
 * that is ahead is slowed down and never set back, which programs do not expect.
 */
export function followClock(unixNanos: bigint): void {
  const offset = unixNanos - readClock();
  if (offset > stepForwardNanos) {
    stepClock(unixNanos);
    return;
  }
  const micros = offset / 1000n < -maxSlewMicros ? -maxSlewMicros : offset / 1000n;
  const delta = Buffer.alloc(16);
  // struct timeval of a negative time: both parts negative.
  delta.writeBigInt64LE(micros / 1_000_000n, 0);
  delta.writeBigInt64LE(micros % 1_000_000n, 8);
  call("int adjtime(void *, void *)", delta, null);
}

/** The kernel's clock now; performance.timeOrigin does not see a step. */
export function readClock(): bigint {
  const time = Buffer.alloc(16);
  call("int clock_gettime(int, void *)", CLOCK_REALTIME, time);
  return time.readBigInt64LE(0) * nanosPerSecond + time.readBigInt64LE(8);
}
