import { expect, it } from 'vitest';
import { parseStanzas } from './deb822.ts';
import { parseOneLine, suiteSources } from './sources.ts';

const modern = `# comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://vendor.example/apt
Suites: stable
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
`;

it('keeps the suite, its updates and its security updates of deb822 sources', () => {
  expect(suiteSources(parseStanzas(modern), 'bookworm')).toBe(`Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`);
});

it('reads one-line sources with their options', () => {
  const lines = `
deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://mirror.example/debian trixie main contrib # why
deb-src http://mirror.example/debian trixie main
  deb http://security.example/debian-security trixie-security main
deb http://vendor.example/ ./
`;
  expect(suiteSources(parseOneLine(lines), 'trixie')).toBe(`Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main contrib
Signed-By: /k.gpg
Trusted: yes

Types: deb
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main
`);
});

it('keeps a key that is written into the stanza', () => {
  const key = 'Types: deb\nURIs: u\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n';
  expect(suiteSources(parseStanzas(key), 's')).toContain('Signed-By: \n -----BEGIN\n .\n abc\n');
});

it('finds nothing where there is nothing', () => {
  expect(suiteSources(parseStanzas(''), 'bookworm')).toBe('');
  expect(suiteSources(parseOneLine('# deb http://x y z'), 'y')).toBe('');
});
