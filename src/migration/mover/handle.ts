import type { MoverStatus } from './config.ts';

/** An agent's view of a mover process, started or adopted; the mover goes on when its agent does not. */
export interface MoverHandle extends AsyncDisposable {
  readonly pid: number;
  /** The last status seen. */
  readonly status: MoverStatus | undefined;
  onStatus(listener: (status: MoverStatus) => void): () => void;
  /** Asks the mover to give up; before the switch only. @throws MOVER_TOO_LATE */
  cancel(reason: string): Promise<void>;
  /** Tells the target's mover that its QEMU runs: from here on the source may switch. */
  qemuStarted(): Promise<void>;
  /**
   * Asks the source's mover to give a lost target up after the switch and to let the VM go on here, as it was when it
   * was stopped. @throws MOVER_TOO_LATE, MOVER_TARGET_ALIVE, MOVER_QEMU_SOURCE
   */
  takeBack(): Promise<void>;
  /** Resolves with the last status when the process has ended, however it ended. */
  readonly exited: Promise<MoverStatus | undefined>;
  /** Ends the process at once (SIGKILL by pid) and waits for its end. */
  kill(): Promise<void>;
}
