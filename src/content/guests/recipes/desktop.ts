import type { DebianRecipe } from '../recipe.ts';

const MIB = 1024 * 1024;
const TAIL_BYTES = 64 * MIB;
const SCREEN = { width: 1024, height: 768 };

/** X with the VESA driver (the cloud kernel has no DRM), a window manager without frames, one application. */
export function desktop(options: {
  readonly name: string;
  readonly title: string;
  /** What the application needs on top. */
  readonly packages: readonly string[];
  /** Size of the root file system; mke2fs fails when the packages outgrow it. */
  readonly filesystemMiB: number;
  /** The command that is run, and run again when it ends. */
  readonly application: string;
  readonly focus: { readonly x: number; readonly y: number };
  readonly kernelOptions: string;
}): DebianRecipe {
  const offsetBytes = options.filesystemMiB * MIB;
  const workload = `wl.ctl=/dev/ttyS1 wl.dev=/dev/vda wl.off=${options.filesystemMiB}M wl.zero=1 wl.ram=32M`;
  return {
    kind: 'debian',
    name: options.name,
    title: options.title,
    modules: ['virtio_pci', 'virtio_blk', 'virtio_input', 'evdev'],
    applets: ['sh', 'mount', 'insmod', 'switch_root', 'cat', 'echo'],
    init: 'disk-init.sh',
    commandLine: [
      options.kernelOptions,
      `guest.app=${options.application} guest.screen=${SCREEN.width}x${SCREEN.height}`,
      workload,
    ].join(' '),
    defaults: { memoryMiB: 512, cpus: 1, display: 'vga', input: 'tablet' },
    guest: {
      screen: SCREEN,
      focus: options.focus,
      ready: { litPercent: 50, updatePixels: 50_000, quietMs: 3000 },
      bootMarks: ['GUEST root', 'GUEST init', 'GUEST x-up', 'GUEST app-start'],
      workload: { serialPort: 1, offsetBytes, lengthBytes: TAIL_BYTES },
    },
    assets: ['disk-init.sh', 'guest-init.sh', 'workload.c'],
    packages: [
      'usr-is-merged',
      'busybox-static',
      'xserver-xorg-core',
      'xserver-xorg-input-evdev',
      'xserver-xorg-video-vesa',
      'matchbox-window-manager',
      'fonts-liberation2',
      ...options.packages,
    ],
    filesystemBytes: offsetBytes,
    tailBytes: TAIL_BYTES,
    install: [
      { asset: 'guest-init.sh', path: 'usr/sbin/guest-init', mode: 0o755 },
      { asset: 'workload', path: 'usr/local/bin/workload', mode: 0o755 },
    ],
  };
}
