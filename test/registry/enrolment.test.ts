import { connect as connectTls } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../src/lab/free-port.ts';
import { errorCode } from '../../src/base/errors.ts';
import {
  certificateFacts,
  generateCa,
  issueSiteCertificate,
  requestCertificate,
} from '../../src/link/pki.ts';
import { enrol, renew } from '../../src/registry/enrol.ts';
import { serveEnrolment } from '../../src/registry/server.ts';
import { decodeToken, encodeToken } from '../../src/registry/token.ts';
import { renewIfDue, renewOwn } from '../../src/registry/renewal.ts';
import { loadTls } from '../../src/site/tls.ts';
import { filesIn, RegistryLab } from '../kit/registryLab.ts';
import { silent } from '../kit/nats.ts';

const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
let lab: RegistryLab;
beforeAll(async () => {
  lab = await RegistryLab.start({ requestsPerMinute: 10_000 });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

describe('a token', () => {
  test('lets one node in: with a key of its own, a certificate of the center’s CA, and the control plane', async () => {
    const { material, answer } = await lab.enrol('ap1-h1', 'ap1');
    expect(certificateFacts(material.cert)).toMatchObject({ site: 'ap1-h1' });
    expect(answer).toMatchObject({ node: 'ap1-h1', role: 'host', site: 'ap1', center: 'center' });
    const connection = await lab.connect('ap1-h1');
    await connection.flush();
    await connection.close();
    expect(await lab.registry.nodes()).toContainEqual(
      expect.objectContaining({ node: 'ap1-h1', site: 'ap1', revokedAtMs: null }),
    );
    expect((await lab.plane.buckets.sites.get('ap1'))?.value).toMatchObject({ tier: 'ap' });
  });

  test('is good once: another key is refused, the same key gets its answer again', async () => {
    const { id, secret } = decodeToken(await lab.token('ap2', 'ap2', 'agent'));
    const { request } = await requestCertificate('ap2');
    const [first, again] = [
      await lab.registry.enrol({ id, secret }, request),
      await lab.registry.enrol({ id, secret }, request),
    ];
    expect(certificateFacts(first.cert).site).toBe(certificateFacts(again.cert).site);
    const replayed = await requestCertificate('ap2');
    expect(await codeOf(lab.registry.enrol({ id, secret }, replayed.request))).toBe('ENROL_TOKEN_USED');
  });

  test('of ten that use one at once, one gets it', async () => {
    const { id, secret } = decodeToken(await lab.token('ap3-h1', 'ap3'));
    const results = await Promise.all(
      Array.from({ length: 10 }, async () =>
        codeOf(lab.registry.enrol({ id, secret }, (await requestCertificate('ap3-h1')).request)),
      ),
    );
    expect(results.filter((code) => code === 'none')).toHaveLength(1);
    expect(new Set(results)).toEqual(new Set(['none', 'ENROL_TOKEN_USED']));
  });

  test('expires, is removed, and has a secret', async () => {
    const token = decodeToken(await lab.token('ap4', 'ap4', 'agent', 60_000));
    lab.clock.aheadMs = 61_000;
    expect(await codeOf(enrol(token, lab.address))).toBe('ENROL_TOKEN_EXPIRED');
    lab.clock.aheadMs = 0;
    const secret = 'A'.repeat(43);
    expect(await codeOf(enrol({ ...token, secret }, lab.address))).toBe('ENROL_TOKEN_UNKNOWN');
    await lab.registry.removeToken(token.id);
    expect(await codeOf(enrol(token, lab.address))).toBe('ENROL_TOKEN_UNKNOWN');
    expect(JSON.stringify(await lab.registry.tokens())).not.toContain('secret');
  });

  test('is for its node only', async () => {
    const { id, secret } = decodeToken(await lab.token('ap5-h1', 'ap5'));
    const { request } = await requestCertificate('center');
    expect(await codeOf(lab.registry.enrol({ id, secret }, request))).toBe('LINK_PKI');
    expect(await codeOf(lab.token('center', 'ap5'))).toBe('NODE_IS_CENTER');
    expect(await codeOf(lab.token('x', 'center', 'agent'))).toBe('NODE_IS_CENTER');
  });

  test.each([
    '',
    'cloudap-enrol-',
    'cloudap-enrol-e30',
    'x'.repeat(10_000),
    `cloudap-enrol-${'A'.repeat(5_000)}`,
  ])('is not %j', (text) => {
    expect(() => decodeToken(text)).toThrow(expect.objectContaining({ code: 'ENROL_TOKEN' }));
  });

  test('reads as it was written', async () => {
    const token = decodeToken(` ${await lab.token('ap6', 'ap6', 'agent')}\n`);
    expect(decodeToken(encodeToken(token))).toEqual(token);
  });
});

describe('the enrolment service', () => {
  test('is known by the CA in the token: another center’s is refused before the secret is sent', async () => {
    const other = await generateCa();
    const tls = await issueSiteCertificate(other, 'center');
    const listen = { host: '127.0.0.1', port: await freePort() };
    const asked: string[] = [];
    const registry = Object.create(lab.registry, {
      caCertificate: { value: other.cert },
      refused: { value: () => {} },
      enrol: {
        value: ({ secret }: { secret: string }) => Promise.reject(new Error(String(asked.push(secret)))),
      },
    }) as typeof lab.registry;
    const impostor = await serveEnrolment({
      registry,
      listen,
      tls,
      center: 'center',
      servers: ['127.0.0.1:1'],
    });
    const token = decodeToken(await lab.token('ap7', 'ap7', 'agent'));
    expect(await codeOf(enrol(token, listen))).toBe('ENROL_WRONG_CENTER');
    await impostor.close();
    // with the right CA's text, but without its key
    const forged = Object.create(registry, { caCertificate: { value: lab.ca.cert } }) as typeof registry;
    const second = await serveEnrolment({
      registry: forged,
      listen,
      tls,
      center: 'center',
      servers: ['127.0.0.1:1'],
    });
    expect(await codeOf(enrol(token, listen))).toBe('ENROL_WRONG_CENTER');
    await second.close();
    expect(asked).toEqual([]);
    expect(await codeOf(enrol(token, listen))).toBe('ENROL_UNREACHABLE');
  });

  const post = async (body: string, path = '/v1/enrol'): Promise<{ status: number; text: string }> => {
    const { host, port } = lab.address;
    const socket = connectTls({ host, port, rejectUnauthorized: false });
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
    let text = '';
    socket.on('error', () => {});
    for await (const piece of socket) text += String(piece);
    return { status: Number(text.split(' ')[1]), text };
  };

  test.each([
    ['no JSON', '{', 400],
    ['another shape', '{"id":1}', 400],
    [
      'more than it says',
      JSON.stringify({ id: 'a'.repeat(16), secret: 'a'.repeat(43), request: 'x', more: 1 }),
      400,
    ],
    ['too long', 'x'.repeat(100_000), 413],
    [
      'a request that is none',
      JSON.stringify({ id: '0'.repeat(16), secret: 'a'.repeat(43), request: 'x' }),
      403,
    ],
  ])('refuses a body that is %s, with a code', async (_what, body, status) => {
    const answer = await post(body);
    expect(answer.status).toBe(status);
    expect(answer.text).toMatch(/"code":"[A-Z_]+"/);
    expect(answer.text).toMatch(/"remedy":"[^"]+"/);
  });

  test('answers other paths with a code, and renews for nobody without a certificate', async () => {
    expect((await post('{}', '/v1/other')).text).toContain('ENROL_BAD_REQUEST');
    const { request } = await requestCertificate('ap1-h1');
    expect((await post(JSON.stringify({ request }), '/v1/renew')).text).toContain('NODE_REVOKED');
  });

  test('lets an address ask only so often', async () => {
    await using few = await RegistryLab.start({ requestsPerMinute: 3 });
    const token = decodeToken(await few.token('ap1', 'ap1', 'agent'));
    const bad = { ...token, secret: 'A'.repeat(43) };
    const codes: string[] = [];
    for (let i = 0; i < 3; i += 1) codes.push(await codeOf(enrol(bad, few.address)));
    // each attempt asks for the CA first
    expect(codes).toEqual(['ENROL_TOKEN_UNKNOWN', 'ENROL_TOO_MANY', 'ENROL_TOO_MANY']);
  });
});

describe('renewal', () => {
  test('gives a new key and certificate; the one before is good until the next', async () => {
    const first = await lab.enrol('ap8-h1', 'ap8');
    const center = { id: 'center', address: lab.address };
    const second = await renew('ap8-h1', first.material, center);
    expect(second.material.key).not.toBe(first.material.key);
    const third = await renew('ap8-h1', second.material, center);
    expect(await codeOf(renew('ap8-h1', first.material, center))).toBe('NODE_REVOKED');
    const node = (await lab.registry.nodes()).find((one) => one.node === 'ap8-h1');
    expect(node?.certificates.map(({ serial }) => serial)).toEqual(
      [third, second].map(({ material }) => certificateFacts(material.cert).serial),
    );
  });

  test('is for the node that shows the certificate, and not after it was revoked', async () => {
    const { material } = await lab.enrol('ap9-h1', 'ap9');
    const center = { id: 'center', address: lab.address };
    expect(await codeOf(renew('ap8-h1', material, center))).toBe('LINK_PKI');
    await lab.registry.revoke({ site: 'ap9' });
    expect(await codeOf(renew('ap9-h1', material, center))).toBe('NODE_REVOKED');
  });

  test('comes when two thirds of a certificate’s life have passed, and leaves a pair that is good', async () => {
    await lab.enrol('ap10-h1', 'ap10');
    const files = filesIn(lab.dir.file('ap10-h1'));
    const renewed: string[] = [];
    const options = {
      node: 'ap10-h1',
      files,
      center: { id: 'center', address: lab.address },
      log: silent,
      signal: new AbortController().signal,
      onRenewed: ({ cert }: { cert: string }) => renewed.push(cert),
    };
    const day = 24 * 60 * 60 * 1000;
    expect(await renewIfDue({ ...options, now: () => Date.now() + 59 * day })).toBe(false);
    expect(await renewIfDue({ ...options, now: () => Date.now() + 61 * day })).toBe(true);
    const { cert } = await loadTls(files, 'ap10-h1');
    expect(renewed).toEqual([cert]);
    await (await lab.connect('ap10-h1')).close();
    expect(await renewOwn('center', filesIn(lab.dir.file('center')), lab.ca)).toBe(false);
  });
});
