/** One stanza of Debian's control syntax (deb822(5)): lower-case field names; folded lines are kept with their breaks. */
export type Stanza = ReadonlyMap<string, string>;

/** Stanzas of a text; comment lines are dropped and what is not a field is ignored. */
export function parseStanzas(text: string): readonly Stanza[] {
  const stanzas: Map<string, string>[] = [];
  let current = new Map<string, string>();
  let last: string | undefined;
  for (const line of `${text}\n\n`.split('\n')) {
    if (line.startsWith('#')) continue;
    if (line.trim() === '') {
      if (current.size > 0) stanzas.push(current);
      current = new Map();
      last = undefined;
    } else if (/^[ \t]/.test(line)) {
      if (last !== undefined) current.set(last, `${current.get(last) ?? ''}\n${line}`);
    } else {
      const field = /^([A-Za-z0-9-]+):[ \t]*(.*)$/.exec(line);
      if (!field) continue;
      last = (field[1] ?? '').toLowerCase();
      current.set(last, (field[2] ?? '').trimEnd());
    }
  }
  return stanzas;
}

/** The words of a field that is a list. */
export function words(value: string | undefined): readonly string[] {
  return (value ?? '').split(/\s+/).filter((word) => word !== '');
}
