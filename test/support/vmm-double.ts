import { closeSync, existsSync } from "node:fs";

/** A command that QEMU refuses: its class and text. */
export class QmpFailure extends Error {
  readonly errorClass: string;

  constructor(text: string, errorClass = "GenericError") {
    super(text);
    this.errorClass = errorClass;
  }
}

type Arguments = Readonly<Record<string, unknown>>;
interface Device { readonly driver: string; readonly bus: string; readonly uses: string | undefined; readonly lun: unknown; readonly mac: unknown; readonly tag: unknown; readonly nr: unknown; unplugging: boolean }
interface FdSet { readonly fd: number; removed: boolean; users: number }
interface Command {
  /** Type of each argument; a name with "?" may be missing. Undefined: the command checks its arguments itself. */
  readonly parameters: Readonly<Record<string, "string" | "integer" | "object" | "any">> | undefined;
  readonly run: (given: Arguments, takeFd: () => number | undefined) => unknown;
}

/** Which bus a device model goes on, and which argument names the back end it uses. */
const models: Readonly<Record<string, { readonly busType: string; readonly backend: string; readonly property: string }>> = {
  "scsi-hd": { busType: "SCSI", backend: "drive", property: "scsi-hd" },
  "virtio-net-pci": { busType: "PCIE", backend: "netdev", property: "virtio-net-device" },
  "vhost-user-fs-pci": { busType: "PCIE", backend: "chardev", property: "vhost-user-fs-device" },
  virtserialport: { busType: "virtio-serial-bus", backend: "chardev", property: "virtserialport" },
};
/** Kinds of bus by the names that buses have here. */
const busTypes: readonly (readonly [RegExp, string])[] = [[/^scsi\d+\.0$/, "SCSI"], [/^port[0-3]$/, "PCIE"], [/^serial0\.0$/, "virtio-serial-bus"]];
const knownProperties = ["driver", "id", "bus", "channel", "scsi-id", "lun", "drive", "serial", "netdev", "mac", "chardev", "tag", "queue-size", "nr", "name"];

/**
 * What is behind QEMU's monitor: descriptors, block nodes, back ends and devices, with QEMU 7.2's rules
 * about them and its texts when one is broken. The machine has a SCSI and a serial controller and root ports; a
 * device goes at once, as with a guest that lets go.
 */
export class VmmDouble {
  readonly #emit: (event: string, data?: unknown) => void;
  readonly #namedFds = new Map<string, number>();
  readonly #fdSets = new Map<number, FdSet>();
  readonly #nodes = new Map<string, number | undefined>();
  readonly #netdevs = new Set<string>();
  readonly #chardevs = new Set<string>();
  readonly #devices = new Map<string, Device>();
  #running = true;
  #requestedMemory: unknown = 0;
  /** False: device_del is answered, and the guest keeps the device. */
  guestLetsGo = true;

  constructor(emit: (event: string, data?: unknown) => void) {
    this.#emit = emit;
  }

  /** Runs a command. @throws QmpFailure as QEMU answers. */
  execute(name: string, given: Arguments, takeFd: () => number | undefined): unknown {
    const command = this.#commands[name];
    if (command === undefined) throw new QmpFailure(`The command ${name} has not been found`, "CommandNotFound");
    if (command.parameters !== undefined) checkParameters(given, command.parameters);
    return command.run(given, takeFd) ?? {};
  }

  /** Everything that is open or plugged, by name: empty when all was taken back. */
  get held(): string[] {
    return [
      ...[...this.#namedFds.keys()].map((name) => `fd ${name}`), ...[...this.#fdSets.keys()].map((id) => `fdset ${id}`), ...[...this.#nodes.keys()].map((name) => `node ${name}`),
      ...[...this.#netdevs].map((id) => `netdev ${id}`), ...[...this.#chardevs].map((id) => `chardev ${id}`), ...[...this.#devices.keys()].map((id) => `device ${id}`),
    ];
  }

  /** The descriptor that getfd stored under that name. */
  namedFd(name: string): number | undefined {
    return this.#namedFds.get(name);
  }

  get requestedMemory(): unknown { return this.#requestedMemory; }

  /** The guest lets go of a device it kept. */
  letGo(id: string): void {
    this.#removeDevice(id);
  }

  close(): void {
    for (const fd of [...this.#namedFds.values(), ...[...this.#fdSets.values()].map((set) => set.fd)]) closeSync(fd);
    this.#namedFds.clear();
    this.#fdSets.clear();
  }

  readonly #commands: Readonly<Record<string, Command>> = {
    "query-status": { parameters: {}, run: () => ({ status: this.#running ? "running" : "paused", singlestep: false, running: this.#running }) },
    stop: { parameters: {}, run: () => this.#setRunning(false, "STOP") },
    cont: { parameters: {}, run: () => this.#setRunning(true, "RESUME") },
    quit: { parameters: {}, run: () => this.#emit("SHUTDOWN", { guest: false, reason: "host-qmp-quit" }) },
    "query-fdsets": { parameters: {}, run: () => [...this.#fdSets].map(([id, { fd }]) => ({ fds: [{ fd }], "fdset-id": id })) },
    getfd: { parameters: { fdname: "string" }, run: ({ fdname }, takeFd) => this.#getFd(textOf(fdname), takeFd()) },
    closefd: { parameters: { fdname: "string" }, run: ({ fdname }) => closeSync(this.#takeNamedFd(textOf(fdname), "not found")) },
    "add-fd": { parameters: { "fdset-id": "integer" }, run: (given, takeFd) => this.#addFd(Number(given["fdset-id"]), takeFd()) },
    "remove-fd": { parameters: { "fdset-id": "integer" }, run: (given) => this.#removeFd(Number(given["fdset-id"])) },
    "blockdev-add": { parameters: undefined, run: (given) => this.#addNode(given) },
    "blockdev-del": { parameters: { "node-name": "string" }, run: (given) => this.#deleteNode(textOf(given["node-name"])) },
    netdev_add: { parameters: undefined, run: (given) => this.#addNetdev(given) },
    netdev_del: { parameters: { id: "string" }, run: ({ id }) => { if (!this.#netdevs.delete(textOf(id))) throw new QmpFailure(`Device '${textOf(id)}' not found`, "DeviceNotFound"); } },
    "chardev-add": { parameters: { id: "string", backend: "object" }, run: ({ id, backend }) => this.#addChardev(textOf(id), backend as Arguments) }, // an object, as checked
    "chardev-remove": { parameters: { id: "string" }, run: ({ id }) => this.#removeChardev(textOf(id)) },
    device_add: { parameters: undefined, run: (given) => this.#addDevice(given) },
    device_del: { parameters: { id: "string" }, run: ({ id }) => this.#deleteDevice(textOf(id)) },
    "qom-list": { parameters: { path: "string" }, run: ({ path }) => this.#listObjects(textOf(path)) },
    "qom-get": { parameters: { path: "string", property: "string" }, run: ({ path, property }) => this.#getProperty(textOf(path), textOf(property)) },
    "query-named-block-nodes": { parameters: undefined, run: () => [...this.#nodes.keys()].map((name) => ({ "node-name": name })) },
    "query-chardev": { parameters: {}, run: () => [...this.#chardevs].map((label) => ({ label, filename: "unix:", "frontend-open": true })) },
    "query-hotpluggable-cpus": { parameters: {}, run: () => [{ type: "max-x86_64-cpu", props: {} }, { type: "max-x86_64-cpu", props: {}, "qom-path": "/machine/unattached/device[0]" }] },
    "qom-set": { parameters: { path: "string", property: "string", value: "any" }, run: ({ path, property, value }) => this.#setProperty(textOf(path), textOf(property), value) },
  };

  #setRunning(running: boolean, event: string): void {
    if (this.#running !== running) this.#emit(event);
    this.#running = running;
    this.#sweepFdSets();
  }

  #getFd(name: string, fd: number | undefined): void {
    if (fd === undefined) throw new QmpFailure("No file descriptor supplied via SCM_RIGHTS");
    if (/^\d/.test(name)) {
      closeSync(fd);
      throw new QmpFailure("Parameter 'fdname' expects a name not starting with a digit");
    }
    const old = this.#namedFds.get(name);
    if (old !== undefined) closeSync(old);
    this.#namedFds.set(name, fd);
  }

  #takeNamedFd(name: string, failure: string): number {
    const fd = this.#namedFds.get(name);
    if (fd === undefined) throw new QmpFailure(`File descriptor named '${name}' ${failure}`);
    this.#namedFds.delete(name);
    return fd;
  }

  #addFd(id: number, fd: number | undefined): unknown {
    if (fd === undefined) throw new QmpFailure("No file descriptor supplied via SCM_RIGHTS");
    if (id < 0) {
      closeSync(fd);
      throw new QmpFailure("Parameter 'fdset-id' expects a non-negative value");
    }
    this.#fdSets.set(id, { fd, removed: false, users: 0 });
    return { fd, "fdset-id": id };
  }

  #removeFd(id: number): void {
    const set = this.#fdSets.get(id);
    if (set === undefined) throw new QmpFailure(`File descriptor named 'fdset-id:${id}' not found`);
    set.removed = true;
    this.#sweepFdSets();
  }

  /** QEMU forgets a removed descriptor only while the guest runs, and keeps the set while a node has a copy. */
  #sweepFdSets(): void {
    for (const [id, set] of this.#fdSets) {
      if (!set.removed || set.users > 0 || !this.#running) continue;
      closeSync(set.fd);
      this.#fdSets.delete(id);
    }
  }

  #addNode(given: Arguments): void {
    const { driver, file, "node-name": name } = given;
    if (driver === undefined) throw missing("driver");
    if (driver !== "raw" && driver !== "qcow2") throw new QmpFailure(`Parameter 'driver' does not accept value '${textOf(driver)}'`);
    if (file === undefined) throw missing("file");
    const filename = (file as Arguments)["filename"];
    if (filename === undefined) throw missing("file.filename");
    const unexpected = Object.keys(given).find((key) => !["driver", "node-name", "read-only", "discard", "file"].includes(key));
    if (unexpected !== undefined) throw new QmpFailure(`Parameter '${unexpected}' is unexpected`);
    if (name === undefined) throw new QmpFailure("'node-name' must be specified for the root node");
    const setId = this.#openFile(textOf(filename));
    const release = (): void => { if (setId !== undefined) this.#useFdSet(setId, -1); };
    if (!/^[a-zA-Z][\w.-]{0,30}$/.test(textOf(name))) {
      release();
      throw new QmpFailure(`Invalid node-name: '${textOf(name)}'`);
    }
    if (this.#nodes.has(textOf(name))) {
      release();
      throw new QmpFailure(`Duplicate nodes with node-name='${textOf(name)}'`);
    }
    this.#nodes.set(textOf(name), setId);
  }

  #openFile(filename: string): number | undefined {
    const id = /^\/dev\/fdset\/(\d+)$/.exec(filename)?.[1];
    if (id === undefined) {
      if (!existsSync(filename)) throw new QmpFailure(`Could not open '${filename}': No such file or directory`);
      return undefined;
    }
    if (!this.#fdSets.has(Number(id))) throw new QmpFailure(`Could not dup FD for ${filename} flags 2: No such file or directory`);
    this.#useFdSet(Number(id), 1);
    return Number(id);
  }

  #useFdSet(id: number, change: number): void {
    const set = this.#fdSets.get(id);
    if (set !== undefined) set.users += change;
    this.#sweepFdSets();
  }

  #deleteNode(name: string): void {
    if (!this.#nodes.has(name)) throw new QmpFailure(`Failed to find node with node-name='${name}'`);
    if ([...this.#devices.values()].some(({ uses }) => uses === name)) throw new QmpFailure(`Node ${name} is in use`);
    const setId = this.#nodes.get(name);
    this.#nodes.delete(name);
    if (setId !== undefined) this.#useFdSet(setId, -1);
  }

  #addNetdev({ type, id, fd }: Arguments): void {
    if (id === undefined) throw missing("id");
    if (type === undefined) throw missing("type");
    if (type !== "socket") throw new QmpFailure(`Parameter 'type' does not accept value '${textOf(type)}'`);
    if (this.#netdevs.has(textOf(id))) throw new QmpFailure(`Duplicate ID '${textOf(id)}'`);
    closeSync(this.#takeNamedFd(textOf(fd), "has not been found"));
    this.#netdevs.add(textOf(id));
  }

  #addChardev(id: string, backend: Arguments): void {
    if (backend["type"] !== "socket") throw new QmpFailure(`Parameter 'type' does not accept value '${textOf(backend["type"])}'`);
    if (this.#chardevs.has(id)) throw new QmpFailure(`Chardev with id '${id}' already exists`);
    const { addr } = backend["data"] as { readonly addr: { readonly data: { readonly str: string } } }; // our only use of it
    try {
      closeSync(this.#takeNamedFd(addr.data.str, "has not been found"));
    } catch (error) {
      throw new QmpFailure(`Failed to add chardev '${id}': ${error instanceof QmpFailure ? error.message : ""}`);
    }
    this.#chardevs.add(id);
  }

  #removeChardev(id: string): void {
    if (!this.#chardevs.has(id)) throw new QmpFailure(`Chardev '${id}' not found`);
    if ([...this.#devices.values()].some(({ uses }) => uses === id)) throw new QmpFailure(`Chardev '${id}' is busy`);
    this.#chardevs.delete(id);
  }

  #addDevice(given: Arguments): void {
    const { driver, id, bus } = given;
    if (driver === undefined) throw missing("driver");
    const model = models[textOf(driver)];
    if (model === undefined) throw new QmpFailure(`'${textOf(driver)}' is not a valid device model name`);
    if (typeof id !== "string" || !/^[a-zA-Z][\w.-]*$/.test(id)) throw new QmpFailure("Parameter 'id' expects an identifier");
    const busType = busTypes.find(([pattern]) => pattern.test(textOf(bus)))?.[1];
    if (busType === undefined) throw new QmpFailure(`Bus '${textOf(bus)}' not found`);
    if (busType !== model.busType) throw new QmpFailure(`Device '${textOf(driver)}' can't go on ${busType} bus`);
    if (this.#devices.has(id)) throw new QmpFailure(`Duplicate device ID '${id}'`);
    this.#checkProperties(given, model);
    const uses = textOf(given[model.backend]);
    if (model.busType === "SCSI") this.#checkLun(given["lun"]);
    const { nr } = given;
    if (nr !== undefined && [...this.#devices.values()].some((other) => other.nr === nr)) throw new QmpFailure(`virtio-serial-bus: A port already exists at id ${textOf(nr)}`);
    this.#devices.set(id, { driver: textOf(driver), bus: textOf(bus), uses, lun: given["lun"], mac: given["mac"], tag: given["tag"], nr, unplugging: false });
  }

  #checkProperties(given: Arguments, model: { readonly backend: string; readonly property: string }): void {
    const unknown = Object.keys(given).find((key) => !knownProperties.includes(key));
    if (unknown !== undefined) throw new QmpFailure(`Property '${textOf(given["driver"])}.${unknown}' not found`);
    const backend = given[model.backend];
    if (backend === undefined) throw new QmpFailure(`${model.backend} property not set`);
    const backends: ReadonlySet<string> | ReadonlyMap<string, unknown> = { drive: this.#nodes, netdev: this.#netdevs, chardev: this.#chardevs }[model.backend] ?? this.#nodes;
    if (!backends.has(textOf(backend))) throw new QmpFailure(`Property '${model.property}.${model.backend}' can't find value '${textOf(backend)}'`);
    if (model.backend !== "drive" && [...this.#devices.values()].some(({ uses }) => uses === backend)) throw new QmpFailure(`Property '${model.property}.${model.backend}' can't take value '${textOf(backend)}'${model.backend === "chardev" ? `: Device '${textOf(backend)}' is in use` : ", it's in use"}`);
    if (given["mac"] !== undefined && !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(textOf(given["mac"]))) throw new QmpFailure(`Property '${model.property}.mac' doesn't take value '${textOf(given["mac"])}'`);
    if (given["lun"] !== undefined && typeof given["lun"] !== "number") throw new QmpFailure("Parameter 'lun' expects integer");
  }

  #checkLun(lun: unknown): void {
    const other = [...this.#devices].find(([, device]) => device.driver === "scsi-hd" && device.lun === lun);
    if (other !== undefined) throw new QmpFailure(`lun already used by '${other[0]}'`);
  }

  #deleteDevice(id: string): void {
    const device = this.#devices.get(id);
    if (device === undefined) throw new QmpFailure(`Device '${id}' not found`, "DeviceNotFound");
    if (device.unplugging) throw new QmpFailure(`Device ${id} is already in the process of unplug`);
    device.unplugging = device.driver !== "scsi-hd";
    // After the answer, as in QEMU: the back end is still in use for a while.
    if (this.guestLetsGo) setTimeout(() => this.#removeDevice(id), 5);
  }

  #removeDevice(id: string): void {
    if (this.#devices.delete(id)) this.#emit("DEVICE_DELETED", { device: id, path: `/machine/peripheral/${id}` });
  }

  #listObjects(path: string): unknown {
    if (path !== "/machine/peripheral") throw new QmpFailure(`Device '${path}' not found`, "DeviceNotFound");
    const fixed = [["scsi0", "virtio-scsi-pci"], ["port0", "pcie-root-port"], ["vmem0", "virtio-mem-pci"]];
    const devices = [...fixed, ...[...this.#devices].map(([id, { driver }]) => [id, driver])];
    return [{ name: "type", type: "string" }, ...devices.map(([name, type]) => ({ name, type: `child<${type}>` }))];
  }

  #getProperty(path: string, property: string): unknown {
    // A guest that takes what it is offered, at once.
    if (path === "/machine/peripheral/vmem0" && (property === "requested-size" || property === "size")) return this.#requestedMemory;
    if (path === "/machine/peripheral/vmem0") throw new QmpFailure(`Property 'virtio-mem-pci.${property}' not found`);
    const device = this.#devices.get(path.replace(/^\/machine\/peripheral\//, ""));
    if (device === undefined) throw new QmpFailure(`Device '${path}' not found`, "DeviceNotFound");
    if (property === "lun" && device.driver === "scsi-hd") return device.lun;
    if (property === "mac" && device.driver === "virtio-net-pci") return device.mac ?? "52:54:00:12:34:56";
    if (property === "tag" && device.driver === "vhost-user-fs-pci") return device.tag ?? "";
    if (property === "parent_bus") return `/machine/peripheral/${device.bus.replace(/\.0$/, "")}/${device.bus}`;
    throw new QmpFailure(`Property '${device.driver}.${property}' not found`);
  }

  #setProperty(path: string, property: string, value: unknown): void {
    if (path !== "/machine/peripheral/vmem0") throw new QmpFailure(`Device '${path}' not found`, "DeviceNotFound");
    if (property !== "requested-size") throw new QmpFailure(`Property 'virtio-mem-pci.${property}' not found`);
    this.#requestedMemory = value;
  }
}

/** A value of JSON as part of a message or a name. */
function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function missing(name: string): QmpFailure {
  return new QmpFailure(`Parameter '${name}' is missing`);
}

/** As QEMU's visitor does it: each parameter in order is there and of its type, then nothing is left over. */
function checkParameters(given: Arguments, parameters: NonNullable<Command["parameters"]>): void {
  for (const [name, type] of Object.entries(parameters)) {
    const value = given[name];
    if (value === undefined) throw missing(name);
    const fits = { string: typeof value === "string", integer: Number.isInteger(value), object: typeof value === "object" && value !== null, any: true }[type];
    if (!fits) throw new QmpFailure(`Invalid parameter type for '${name}', expected: ${type}`);
  }
  const unexpected = Object.keys(given).find((name) => !(name in parameters));
  if (unexpected !== undefined) throw new QmpFailure(`Parameter '${unexpected}' is unexpected`);
}
