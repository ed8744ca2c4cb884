/** A Unix socket, or TCP (for tests and diagnosis: nothing is encrypted). */
export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

export function describeAddress(address: NbdAddress): string {
  return 'path' in address ? address.path : `${address.host}:${address.port}`;
}
