import { fail } from './errors.ts';

/** X11 keysyms of keys that have no character (RFC 6143, 7.5.4). */
export const KEYS = {
  Backspace: 0xff08,
  Tab: 0xff09,
  Enter: 0xff0d,
  Escape: 0xff1b,
  Home: 0xff50,
  Left: 0xff51,
  Up: 0xff52,
  Right: 0xff53,
  Down: 0xff54,
  PageUp: 0xff55,
  PageDown: 0xff56,
  End: 0xff57,
  Insert: 0xff63,
  Delete: 0xffff,
  F11: 0xffc8,
  F12: 0xffc9,
  Shift: 0xffe1,
  Control: 0xffe3,
  Alt: 0xffe9,
} as const;
export type KeyName = keyof typeof KEYS;

/** On a US keyboard; QEMU translates keysyms to key positions with its `en-us` map and does not press Shift itself. */
const SHIFTED = /[A-Z~!@#$%^&*()_+{}|:"<>?]/;

/** The keysym of a character, and whether Shift must be held. @throws RFB_KEY */
export function keyOf(character: string): { readonly keysym: number; readonly shift: boolean } {
  if (character === '\n') return { keysym: KEYS.Enter, shift: false };
  if (character === '\t') return { keysym: KEYS.Tab, shift: false };
  if (!/^[ -~]$/.test(character)) throw fail('RFB_KEY', JSON.stringify(character));
  return { keysym: character.charCodeAt(0), shift: SHIFTED.test(character) };
}
