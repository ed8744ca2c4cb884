import { posix } from 'node:path';
import { fail } from './errors.ts';

/** `virtio-blk.ko.xz` and `virtio_blk` are the same module to the kernel. */
function moduleName(path: string): string {
  return posix
    .basename(path)
    .replace(/\.ko(\.(xz|zst|gz))?$/, '')
    .replaceAll('-', '_');
}

/**
 * Files to load, in this order, so that the named modules work; built-in ones need none.
 * `dependencies` and `builtin` are the texts of modules.dep(5) and modules.builtin of one kernel.
 * @throws GUEST_MODULE
 */
export function moduleClosure(
  dependencies: string,
  builtin: string,
  names: readonly string[],
): readonly string[] {
  const needs = new Map<string, readonly string[]>();
  const byName = new Map<string, string>();
  for (const line of dependencies.split('\n')) {
    const [path, rest] = line.split(/:(.*)/s);
    if (!path || rest === undefined) continue;
    needs.set(path, rest.trim().split(/\s+/).filter(Boolean));
    byName.set(moduleName(path), path);
  }
  const builtIn = new Set(builtin.split('\n').filter(Boolean).map(moduleName));
  const order: string[] = [];
  const visiting = new Set<string>();
  const add = (path: string) => {
    if (order.includes(path)) return;
    const below = needs.get(path);
    if (!below || visiting.has(path)) throw fail('GUEST_MODULE', `${path} in modules.dep`);
    visiting.add(path);
    for (const next of below.toReversed()) add(next);
    order.push(path);
  };
  for (const name of names) {
    const path = byName.get(moduleName(name));
    if (path) add(path);
    else if (!builtIn.has(moduleName(name))) throw fail('GUEST_MODULE', name);
  }
  return order;
}
