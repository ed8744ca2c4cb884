import type { TemplateManifest } from '../../content/templates/manifest.ts';
import { failTemplate } from '../errors.ts';
import { compareVersions } from '../migrate/checks.ts';
import type { BaseImage, ImageBackend, QemuFacts } from '../ports.ts';

/**
 * Whether VMs can go on from a template at this site; its base image. QEMU itself checks every flag of the CPU model.
 * @throws TEMPLATE_NO_IMAGE, TEMPLATE_ACCELERATOR, TEMPLATE_QEMU_TOO_OLD, TEMPLATE_MACHINE, IMAGE_CORRUPT
 */
export async function requireUsable(
  manifest: TemplateManifest,
  facts: QemuFacts,
  images: ImageBackend,
): Promise<BaseImage> {
  const { name, accelerator, qemuVersion, machine } = manifest;
  if (accelerator !== facts.accelerator) {
    throw failTemplate(
      'TEMPLATE_ACCELERATOR',
      `${name} is for ${accelerator}, this site has ${facts.accelerator}`,
    );
  }
  if (compareVersions(facts.version, qemuVersion) < 0) {
    throw failTemplate(
      'TEMPLATE_QEMU_TOO_OLD',
      `${name} is of QEMU ${qemuVersion}, this is ${facts.version}`,
      {
        fields: { template: qemuVersion, site: facts.version },
      },
    );
  }
  const { machineType, cpuModel } = machine;
  const unknown = !facts.machineTypes.has(machineType)
    ? machineType
    : facts.cpuModels.has(cpuModel.split(',')[0] ?? '')
      ? undefined
      : cpuModel;
  if (unknown !== undefined) {
    throw failTemplate('TEMPLATE_MACHINE', `${unknown} on QEMU ${facts.version}`, {
      fields: { machineType, cpuModel },
    });
  }
  const image = await images.find(manifest.image);
  if (!image || image.virtualBytes !== machine.diskBytes) {
    throw failTemplate('TEMPLATE_NO_IMAGE', `${name} is based on ${manifest.image.slice(0, 16)}`, {
      fields: { image: manifest.image },
    });
  }
  return image;
}
