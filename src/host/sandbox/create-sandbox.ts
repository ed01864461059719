import type { WaitOptions } from "../../shared/base/deadline.ts";
import { made, type Step, type StepGuard, type Steps } from "../../shared/base/steps.ts";
import type { UndoStack } from "../../shared/base/undo.ts";
import type { HelloResponse } from "../../shared/protocol/gen/casemate_pb.ts";
import type { AgentClient } from "../agent-client/agent-client.ts";
import type { ShareSpec, VirtualMachine } from "../hypervisor/virtual-machine.ts";
import type { Ledger } from "../store/ledger.ts";
import { creatingSandbox, savedRecords } from "../store/saved-records.ts";
import type { SandboxUser } from "../store/sandbox-user.ts";
import type { SandboxDrivers, SandboxNetwork, SandboxShares } from "./drivers.ts";
import { bootMemoryBytes, type SandboxConfig } from "./sandbox-config.ts";
import { mountShare, plugShare, startVirtiofsd } from "./share-steps.ts";
import { raceDeath } from "./vm-death.ts";

/** Version of casemate.v1.Guest that this host speaks (docs/compatibility.md). */
export const guestProtocolVersion = 1;

/** What a sandbox is made with. */
export interface SandboxSurroundings {
  readonly drivers: SandboxDrivers;
  readonly ledger: Ledger;
  /** A file to use as the guest's memory, shared with us; for a VM that is to be saved. */
  readonly memoryFd?: number;
}

/** Ends a step with the VM, as soon as there is one. */
export class LateGuard {
  #guard: StepGuard | undefined;

  set(guard: StepGuard | undefined): void { this.#guard = guard; }
  readonly run: StepGuard = (work) => this.#guard?.(work) ?? work;
}

/** What the steps of a sandbox's creation make, each for those after it. */
export class SandboxBuild {
  readonly config: SandboxConfig;
  readonly surroundings: SandboxSurroundings;
  readonly steps: Steps;
  /** Where the present step registers how it is undone. */
  undo: UndoStack;
  user: SandboxUser | undefined;
  readonly shares: SandboxShares | undefined;
  shareDevice: ShareSpec | undefined;
  network: SandboxNetwork | undefined;
  /** Resolves when the guest's clock is right; a container can be made meanwhile. */
  clockSet: Promise<void> = Promise.resolve();
  readonly #guard: LateGuard;
  #vm: VirtualMachine | undefined;
  #connection: AgentClient | undefined;
  #hello: HelloResponse | undefined;

  constructor(config: SandboxConfig, surroundings: SandboxSurroundings, undo: UndoStack, steps: Steps, guard: LateGuard) {
    this.config = config;
    this.surroundings = surroundings;
    this.shares = config.shares ? surroundings.drivers.shares(config, surroundings.ledger) : undefined; // a step: startVirtiofsd is the first that does something
    this.undo = undo;
    this.steps = steps;
    this.#guard = guard;
  }

  get vm(): VirtualMachine { return made(this.#vm); }
  set vm(vm: VirtualMachine) {
    this.#vm = vm;
    this.#guard.set(raceDeath(vm, this.shares));
  }

  /** A VM that is given up; another one follows. */
  dropVm(): void {
    this.#vm = undefined;
    this.#guard.set(undefined);
  }

  get connection(): AgentClient { return made(this.#connection); }
  set connection(connection: AgentClient) { this.#connection = connection; }
  get hello(): HelloResponse { return made(this.#hello); }
  set hello(hello: HelloResponse) { this.#hello = hello; }
}

/** First what the VM will need of the host. Then the guest is started: start-guest.ts. */
export const takeHostSteps: readonly Step<SandboxBuild>[] = [
  { name: "write the plan", run: writePlan },
  { name: "claim user", run: async (build) => { build.user = await build.surroundings.drivers.claimUser(build.config, build.surroundings.ledger, build.undo); } },
  startVirtiofsd,
  { name: "start network", when: ({ config }) => config.network !== "none", run: async (build) => { build.network = await build.surroundings.drivers.startNetwork(build.config, build.user, build.surroundings.ledger, build.undo, build.steps); } },
];

/** What was saved while it lived has its size and its devices; only its addresses are new. */
const isNew = ({ config }: SandboxBuild): boolean => config.clone === undefined;

/** Last, the guest gets its size, its network and its share. */
export const equipGuestSteps: readonly Step<SandboxBuild>[] = [
  { name: "grow memory", when: (build) => isNew(build) && build.config.memoryBytes > bootMemoryBytes, run: ({ vm, config }, wait) => vm.resizeMemory(config.memoryBytes - bootMemoryBytes, wait) },
  { name: "grow vCPUs", when: (build) => isNew(build) && build.config.vcpuCount > 1, run: ({ vm, config }, wait) => vm.growVcpus(config.vcpuCount, wait) },
  { name: "bring vCPUs online", when: (build) => isNew(build) && build.config.vcpuCount > 1, run: ({ connection, config }, wait) => connection.agent.onlineCPUMem({ nbCpus: config.vcpuCount, cpuOnly: true }, wait) },
  { name: "plug NIC", when: (build) => isNew(build) && build.network !== undefined, run: ({ vm, network }, wait) => vm.plugNic(made(network).nic, wait) },
  // Without a network the guest has nothing but the name it got with its identity.
  { name: "configure network", when: ({ network }) => network !== undefined, run: configureNetwork },
  plugShare,
  mountShare,
];

/** All names at once, before anything is taken. Struck last: what could not be given back stays in the ledger. */
function writePlan({ config, surroundings: { drivers, ledger }, undo }: SandboxBuild): void {
  const planned = drivers.planned(config);
  undo.add("record", () => ledger.strike(creatingSandbox, ...savedRecords(ledger), ...planned.filter((record) => ledger.isReserved(record))));
  ledger.reserve([creatingSandbox, ...planned, ...config.clone?.records ?? []]);
}

/** Loaded while the guest wakes, with the protocol's descriptors. */
async function configureNetwork({ connection, config, network }: SandboxBuild, wait: WaitOptions): Promise<void> {
  const { configureGuestNetwork } = await import("./guest-network.ts");
  await configureGuestNetwork(connection, config, network?.guest, wait);
}
