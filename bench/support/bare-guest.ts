import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ensureGuestImage } from "../../src/host/guest-image/guest-image.ts";
import { encodeCpio } from "../../src/host/guest-image/cpio.ts";
import { stateFolders } from "../../src/host/store/paths.ts";
import { eventually } from "../../src/shared/base/deadline.ts";
import { TestVm } from "../../test/support/test-vm.ts";

/**
 * The init of a guest without an agent. It says on the console when it begins, when the root image is
 * mounted and when one cold Node has come and gone; then it moves bytes through the bare data port as
 * it is told on the control port.
 */
const init = `#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
exec >/dev/ttyS0 2>&1
echo bare-guest: init
while read -r module; do $bb insmod /modules/$module; done </modules/order
while [ ! -b /dev/vda ]; do $bb usleep 2000; done
$bb mount -t erofs -o ro /dev/vda /root
for name in dev proc sys; do $bb mount --bind /$name /root/$name; done
echo bare-guest: mounted
$bb chroot /root /usr/bin/node -e 0
echo bare-guest: node
$bb chroot /root /usr/bin/busybox modprobe virtio_console
while :; do
	for port in /sys/class/virtio-ports/*; do
		case $($bb cat $port/name) in
			casemate.control) control=/dev/\${port##*/} ;;
			casemate.data) data=/dev/\${port##*/} ;;
		esac
	done
	[ -c "$control" ] && [ -c "$data" ] && break
	$bb usleep 2000
done
exec 3<>$control
echo bare-guest: ports
while :; do
	read -r what count file <&3 || { $bb usleep 2000; continue; }
	case $what in
		out) $bb dd if=$file of=$data bs=32k count=$count; echo given >&3 ;;
		ping) echo pong >&3 ;;
		in) $bb dd if=$data of=$file bs=32k iflag=fullblock count=$count; echo taken >&3 ;;
	esac
done
`;

const blockBytes = 32 * 1024;
/** A file of the guest's root, which is a tmpfs. */
export const storedFile = "/stored";
const bootTimeoutMs = 60_000;

/** When the guest said what, in milliseconds after QEMU was started. */
export interface BareBoot {
  readonly initMs: number;
  /** How long the cold Node took. */
  readonly nodeMs: number;
}

/** The same VM as a sandbox's, from the same kernel, images and arguments, with another /init. */
export class BareGuest implements AsyncDisposable {
  readonly #vm: TestVm;
  readonly #initramfs: string;
  readonly boot: BareBoot;
  #data: Socket | undefined;
  #control: Socket | undefined;

  private constructor(vm: TestVm, initramfs: string, boot: BareBoot) {
    this.#vm = vm;
    this.#initramfs = initramfs;
    this.boot = boot;
  }

  /** `memoryFd`: a file to use as its memory, for one that is to be saved. */
  static async start(memoryFd?: number): Promise<BareGuest> {
    const { initramfsPath } = await ensureGuestImage(stateFolders(undefined));
    const initramfs = join(tmpdir(), `bare-guest-${process.pid}.cpio`);
    // The kernel unpacks one archive after the other: the later /init takes the place of the first.
    writeFileSync(initramfs, Buffer.concat([readFileSync(initramfsPath), encodeCpio([{ path: "init", type: "file", mode: 0o755, content: Buffer.from(init) }])]), { mode: 0o644 });
    const began = performance.now();
    const vm = await TestVm.boot("bare", { initramfsPath: initramfs }, memoryFd);
    const said = async (what: string): Promise<number> => eventually(`bare guest: ${what}`, () => (readFileSync(vm.paths.console, "latin1").includes(`bare-guest: ${what}`) ? performance.now() - began : undefined), { timeoutMs: bootTimeoutMs, intervalMs: 3 });
    try {
      const initMs = await said("init");
      const mountedMs = await said("mounted");
      return new BareGuest(vm, initramfs, { initMs, nodeMs: await said("node") - mountedMs });
    } catch (error) {
      await vm.end();
      rmSync(initramfs);
      throw error;
    }
  }

  get vm(): TestVm {
    return this.#vm;
  }

  /** Megabytes a second from dd in the guest, which makes them up or reads them from a file, to a reader here. */
  async outMBps(bytes: number, file = "/dev/zero"): Promise<number> {
    const { control, data } = await this.#connect();
    let received = 0;
    const done = new Promise<void>((resolve) => {
      const count = (chunk: Buffer): void => {
        received += chunk.length;
        if (received < bytes) return;
        data.off("data", count);
        resolve();
      };
      data.on("data", count);
    });
    const began = performance.now();
    const given = once(control, "data");
    control.write(`out ${bytes / blockBytes} ${file}\n`);
    await done;
    const took = performance.now() - began;
    await given; // what arrives in the guest before dd has closed the port is dropped with it
    return bytes / 1e3 / took;
  }

  /** Megabytes a second from a writer here to dd in the guest, which throws them away or writes them to a file. */
  async inMBps(bytes: number, file = "/dev/null"): Promise<number> {
    const { control, data } = await this.#connect();
    const block = Buffer.alloc(blockBytes);
    const began = performance.now();
    control.write(`in ${bytes / blockBytes} ${file}\n`);
    for (let sent = 0; sent < bytes; sent += blockBytes) if (!data.write(block)) await once(data, "drain");
    await once(control, "data");
    return bytes / 1e3 / (performance.now() - began);
  }

  async #connect(): Promise<{ readonly control: Socket; readonly data: Socket }> {
    if (this.#control !== undefined && this.#data !== undefined) return { control: this.#control, data: this.#data };
    const control = this.#control = await open(this.#vm.paths.controlSocket);
    const data = this.#data = await open(this.#vm.paths.dataSocket);
    // QEMU drops what a guest writes to a port whose connection it has not accepted yet; once it has passed a block on, it has.
    const taken = once(control, "data");
    control.write("in 1 /dev/null\n");
    data.write(Buffer.alloc(blockBytes));
    await taken;
    return { control, data };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#control?.destroy();
    this.#data?.destroy();
    await this.#vm.end();
    rmSync(this.#initramfs);
  }
}

/** Connects to a port of the guest. */
export async function open(path: string): Promise<Socket> {
  const socket = connect({ path });
  await once(socket, "connect");
  return socket;
}
