export { GuestMap, type ReadL2 } from './guest-map.ts';
export { parseQcow2Header, type Qcow2Header } from './header.ts';
export {
  type ByteExtent,
  type ClusterEntry,
  fixedExtents,
  l2Extents,
  mergeExtents,
  parseL1,
  parseL2Entry,
  subclusterKind,
} from './tables.ts';
