/** What one run of the tests may cost. A run that goes above is a failed run, so that nobody gets used to it. */
export const limits = {
  /** One integration or end-to-end file. Under TCG a VM takes 10 s to boot; a file has one VM, rarely more. */
  fileMs: 10 * 60_000,
  /** Everything in the lab guest, its boot included, again if a guest hangs. It takes some 3 minutes. */
  labMs: 12 * 60_000,
  /** All unit tests together; they take milliseconds each. */
  unitMs: 3 * 60_000,
  /** The whole run on two cores, set-up and build not counted. */
  totalMs: 38 * 60_000,
  /** VMs started by the whole run, most of them from a template, which takes 1 to 2 s. */
  vmCount: 330,
} as const;
