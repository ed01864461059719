import { RuntimeError } from "../../shared/base/errors.ts";
import { call } from "../../shared/linux/libc.ts";
import { randomDevice } from "../../shared/linux/random.ts";

/** random(4): RNDADDENTROPY takes a struct rand_pool_info; RNDRESEEDCRNG has no argument. */
const RNDADDENTROPY = 0x40085203, RNDRESEEDCRNG = 0x5207;
/** 256 bits seed the kernel's generator completely. */
const minBytes = 32;
const maxBytes = 4096;

/**
 * Mixes bytes from the host into the kernel's generator, credited, and reseeds it at once. Without
 * this two guests restored from one template would draw the same numbers.
 */
export function addEntropy(bytes: Uint8Array): void {
  if (bytes.length < minBytes || bytes.length > maxBytes) throw new RuntimeError("invalid_argument", `add entropy: ${bytes.length} bytes, must be ${minBytes} to ${maxBytes}`);
  const pool = Buffer.alloc(8 + bytes.length);
  pool.writeInt32LE(bytes.length * 8, 0);
  pool.writeInt32LE(bytes.length, 4);
  pool.set(bytes, 8);
  try {
    call("int ioctl(int, unsigned long, void *)", randomDevice(), RNDADDENTROPY, pool);
    call("int ioctl(int, unsigned long, void *)", randomDevice(), RNDRESEEDCRNG, null);
  } finally {
    pool.fill(0);
  }
}
