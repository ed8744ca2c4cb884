import { randomBytes } from 'node:crypto';
import * as z from 'zod';

/** A site's id stands in certificates, paths and messages. */
export const siteIdSchema = z
  .string()
  .regex(/^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$/, 'must be 1 to 32 of a-z, 0-9 and -, beginning with a letter');

/** A VM's id is unique among all sites and never reused; its name is for people and unique per site. */
export const vmIdSchema = z.string().regex(/^vm-[0-9a-f]{12}$/);

export const vmNameSchema = z
  .string()
  .regex(
    /^[a-z0-9][a-z0-9._-]{0,62}$/,
    'must be 1 to 63 of a-z, 0-9 and . _ -, beginning with a letter or digit',
  );

/** Also the route of the data link, and a part of socket paths: short. */
export const migrationIdSchema = z.string().regex(/^mig-[0-9a-f]{12}$/);

/** As a migration's. */
export const pushIdSchema = z.string().regex(/^psh-[0-9a-f]{12}$/);

export const newVmId = (): string => `vm-${randomBytes(6).toString('hex')}`;
export const newMigrationId = (): string => `mig-${randomBytes(6).toString('hex')}`;
export const newPushId = (): string => `psh-${randomBytes(6).toString('hex')}`;
