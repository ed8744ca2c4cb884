import { DISK_DEVICE, NODE } from './block-nodes.ts';
import { fail } from './errors.ts';
import type { QemuMonitor } from './monitor.ts';
import type { CommandOptions } from './qmp-session.ts';
import { blockGraphSchema } from './schemas.ts';

/** One image of a disk's chain. */
export interface ChainNode {
  readonly name: string;
  readonly driver: string;
  readonly readOnly: boolean;
  readonly virtualBytes: number | undefined;
  /** The protocol node under it. */
  readonly file: { readonly name: string; readonly driver: string; readonly filename: string } | undefined;
  /** QEMU 10 tells it: false while the image belongs to another QEMU. */
  readonly active: boolean | undefined;
}

/**
 * Where a VM's disk stands between "just arrived" and "at home" (pictures in block-nodes.ts):
 *
 *     arriving   top -> cow (over NBD) -> base      after the switch
 *     pivoted    top -> cow (local file) -> base    after pivotToLocal
 *     home       cow (local file) -> base           after commitTop, and of every VM that was started here
 */
export type ChainStage = 'none' | 'arriving' | 'pivoted' | 'home';

export interface DiskChain {
  readonly stage: ChainStage;
  /** From the guest's side down to the base. */
  readonly nodes: readonly ChainNode[];
  /** Nodes that hang nowhere: left over from a step that was interrupted. */
  readonly loose: readonly string[];
}

/** Nodes that a running block job puts between the device and its image. */
const FILTERS = new Set(['mirror_top', 'commit_top', 'copy-before-write']);

/**
 * The disk as it is: walks QEMU's own graph, so that it holds after a crash of whoever changed it too.
 * @throws QEMU_CHAIN_UNEXPECTED for a shape that CloudAP does not make
 */
export async function describeChain(qmp: QemuMonitor, options?: CommandOptions): Promise<DiskChain> {
  // The only query of QEMU 7.2 that tells edges; the others tell file names.
  const graph = await qmp.query(blockGraphSchema, 'x-debug-query-block-graph', undefined, options);
  const named = new Map(
    (await qmp.queryNamedBlockNodes(options)).map((node) => [node['node-name'], node] as const),
  );
  const nameOf = new Map(graph.nodes.map((node) => [node.id, node.name] as const));
  const childOf = (parent: number, edge: string): number | undefined =>
    graph.edges.find((e) => e.parent === parent && e.name === edge)?.child;
  const info = (id: number | undefined) => named.get(nameOf.get(id ?? -1) ?? '');

  const device = graph.nodes.find((n) => n.type === 'block-backend' && n.name.includes(`/${DISK_DEVICE}/`));
  const nodes: ChainNode[] = [];
  const inChain = new Set<string>();
  let id = device && childOf(device.id, 'root');
  while (id !== undefined) {
    const node = info(id);
    if (!node) break;
    const below = childOf(id, 'backing');
    inChain.add(node['node-name']);
    if (!FILTERS.has(node.drv)) {
      const file = info(childOf(id, 'file'));
      if (file) inChain.add(file['node-name']);
      nodes.push({
        name: node['node-name'],
        driver: node.drv,
        readOnly: node.ro,
        virtualBytes: node.image?.['virtual-size'],
        file: file && { name: file['node-name'], driver: file.drv, filename: file.file },
        active: node.active,
      });
    }
    id = below ?? (FILTERS.has(node.drv) ? childOf(id, 'file') : undefined);
  }
  const loose = [...named.keys()].filter((name) => !inChain.has(name));
  const stage = stageOf(nodes);
  if (stage) return { stage, nodes, loose };
  throw fail(
    'QEMU_CHAIN_UNEXPECTED',
    nodes.map((n) => `${n.name}(${n.file?.name ?? n.driver})`).join(' -> '),
    {
      fields: { nodes, loose },
    },
  );
}

function stageOf(nodes: readonly ChainNode[]): ChainStage | undefined {
  if (nodes.length === 0) return 'none';
  const shape = nodes.map((n) => `${n.name}/${n.file?.name ?? ''}`).filter((n) => n !== BASE);
  switch (shape.join(' ')) {
    case COW:
      return 'home';
    case `${TOP} ${NODE.cow}/${NODE.cowNbd}`:
      return 'arriving';
    case `${TOP} ${COW}`:
      return 'pivoted';
    default:
      return undefined;
  }
}

const BASE = `${NODE.base}/${NODE.baseFile}`;
const COW = `${NODE.cow}/${NODE.cowFile}`;
const TOP = `${NODE.top}/${NODE.topFile}`;
