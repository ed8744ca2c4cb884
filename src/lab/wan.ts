/** What lies between the two sites of a lab. */
export type LabSide = 'center' | 'ap';

export interface HostPort {
  host: string;
  port: number;
}

export interface WanBytes {
  towardsCenter: number;
  towardsAp: number;
}

/**
 * A WAN between the Cloud center and the CloudAP of a lab. Everything that goes from one side to the other, ours or
 * another program's under comparison, goes through the same one.
 */
export interface Wan extends AsyncDisposable {
  /** Where programs of a side must listen to be reached by the other side. */
  listenHost(side: LabSide): string;
  /** A port that is free there. */
  freePort(side: LabSide): Promise<number>;
  /** What the other side dials to come out at that port of this side. */
  reach(side: LabSide, port: number): Promise<HostPort>;
  /** Put in front of a program's command line to run it at a side. */
  readonly prefix: Readonly<Record<LabSide, readonly string[]>>;
  /** All bytes that have entered the link so far. */
  bytes(): Promise<WanBytes>;
  /** `cut`, `restore`, `drop`, `rate 50`, `stats`: see link/emulator-main.ts. */
  command(line: string): Promise<unknown>;
}
