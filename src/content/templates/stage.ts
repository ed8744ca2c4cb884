import { stageFolder } from '../images/folders.ts';
import type { Template, TemplateStore } from './store.ts';

/** Puts a template of one store into another on this machine, whole or not at all. @throws what the file system says */
export async function stageTemplate(template: Template, store: TemplateStore): Promise<Template> {
  const { digest } = template.manifest;
  const present = await store.find(digest);
  if (present) return present;
  await stageFolder(template.folder, store.folder);
  return store.get(digest);
}
