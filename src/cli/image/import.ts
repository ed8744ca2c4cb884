import { basename } from 'node:path';
import { Option, type Command } from 'commander';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB } from '../../site/constants.ts';
import { action, command, withSite, wholeNumber, type CliContext, type SiteOptions } from '../kit/command.ts';
import { imageView, openStore } from '../kit/image-store.ts';
import { withInterrupt } from '../kit/interrupt.ts';
import { formatBytes, printJson } from '../kit/output.ts';
import { bar, ProgressLine } from '../kit/progress.ts';

interface Options extends SiteOptions {
  name?: string;
  format?: 'raw' | 'qcow2';
  flatten?: boolean;
  kernel?: string;
  initrd?: string;
  append?: string;
  memory?: number;
  cpus?: number;
  display?: 'vga' | 'none';
  input?: 'tablet' | 'none';
  json?: boolean;
}

export default function importImage(context: CliContext): Command {
  const cmd = command(
    'import',
    'take a bootable qcow2 or raw disk into the site’s store, checked and addressed by its content',
    'cloudap image import debian.qcow2 --name debian --memory 1024 --site-config center/site.yaml',
  );
  return withSite(cmd)
    .argument('<disk>', 'qcow2 or raw file')
    .option('--name <name>', 'name of the image (default: the file’s)')
    .addOption(
      new Option('--format <format>', 'what the file is, instead of looking').choices(['raw', 'qcow2']),
    )
    .option('--flatten', 'take in what its backing files hold; only for files that you trust')
    .option('--kernel <file>', 'boot this kernel instead of the disk’s boot sector')
    .option('--initrd <file>', 'initial RAM disk for that kernel')
    .option('--append <text>', 'command line for that kernel')
    .option(
      '--memory <mib>',
      'memory of its VMs in MiB, unless they say otherwise (default: 512)',
      wholeNumber('--memory', MEMORY_MIN_MIB, MEMORY_MAX_MIB),
    )
    .option(
      '--cpus <n>',
      'CPUs of its VMs, unless they say otherwise (default: 1)',
      wholeNumber('--cpus', 1, CPUS_MAX),
    )
    .addOption(new Option('--display <display>', 'screen of its VMs (default: vga)').choices(['vga', 'none']))
    .addOption(
      new Option('--input <input>', 'pointer of its VMs (default: tablet)').choices(['tablet', 'none']),
    )
    .action(
      action(context, async (disk: string, options: Options) => {
        const { store } = await openStore(options);
        const progress = new ProgressLine(context.output);
        const { memory, cpus, display, input } = options;
        const source = {
          name: options.name ?? nameOf(disk),
          disk: { path: disk, format: options.format, flatten: options.flatten },
          kernel: options.kernel,
          initrd: options.initrd,
          commandLine: options.append,
          defaults: {
            ...(memory === undefined ? {} : { memoryMiB: memory }),
            ...(cpus === undefined ? {} : { cpus }),
            ...(display === undefined ? {} : { display }),
            ...(input === undefined ? {} : { input }),
          },
        };
        const image = await withInterrupt((signal) =>
          store.add(source, {
            signal,
            onProgress: ({ step, doneBytes, totalBytes }) =>
              progress.update(
                `${source.name}: ${step} ${bar(doneBytes / Math.max(1, totalBytes))} ${formatBytes(doneBytes)}`,
              ),
          }),
        ).finally(() => progress.clear());
        if (options.json) printJson(context.output, imageView(image));
        else context.output.out(`${image.manifest.name} ${image.manifest.digest}\n`);
      }),
    );
}

/** `debian-12.qcow2` -> `debian-12`. */
const nameOf = (path: string): string => basename(path).replace(/\.(qcow2|raw|img)$/, '');
