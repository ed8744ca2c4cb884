import * as z from 'zod';

const name = z.string().regex(/^[A-Za-z0-9._-]{1,15}$/, 'must be the name of a network interface');
const path = z.string().min(1).max(1_024);

/** `presence` of a CloudAP's configuration; docs/MOBILITY.md is the reference. */
export const presenceSchema = <A extends z.ZodType>(address: A) =>
  z.strictObject({
    hostapd: z
      .array(z.strictObject({ interface: name, control: path.default('/var/run/hostapd') }))
      .max(16)
      .default([]),
    dhcp: z.strictObject({ leases: path.optional() }).optional(),
    web: z
      .strictObject({
        listen: address,
        portal: z.boolean().default(true),
        mec: z
          .strictObject({
            secret: z.string().regex(/^[A-Za-z0-9_-]{16,128}$/, 'must be 16 to 128 of A-Z a-z 0-9 _ -'),
            accessPoints: z.array(z.string().max(64)).max(1_000).default([]),
          })
          .optional(),
      })
      .optional(),
  });
