/** Where the master of a new process's terminal comes from. */
export interface TerminalSource extends Disposable {
  /** The master's descriptor, which is the caller's from then on. Once, after the process exists. */
  takeMaster(): number;
}
