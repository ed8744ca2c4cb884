import { QMP_MAX_COMMAND_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import type { QmpCommand } from './messages.ts';

/**
 * One command as a line. What QEMU's parser would refuse is refused here: QEMU answers such a line without an id,
 * so that nobody would know whose fault it was.
 * @throws QMP_UNSENDABLE
 */
export function encodeCommand(command: QmpCommand): Buffer {
  const { execute, id } = command;
  const message = {
    [command.oob ? 'exec-oob' : 'execute']: execute,
    ...(command.arguments === undefined ? {} : { arguments: command.arguments }),
    id,
  };
  let text: string;
  try {
    text = JSON.stringify(message, checkValue);
  } catch (error) {
    throw fail('QMP_UNSENDABLE', `${execute}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
      fields: { command: execute },
    });
  }
  const line = Buffer.from(`${text}\r\n`, 'utf8');
  if (line.length > QMP_MAX_COMMAND_BYTES) {
    throw fail('QMP_UNSENDABLE', `${execute} has ${line.length} bytes`, {
      fields: { command: execute, limitBytes: QMP_MAX_COMMAND_BYTES },
    });
  }
  return line;
}

function checkValue(key: string, value: unknown): unknown {
  if (!key.isWellFormed()) throw new TypeError('a key is not well-formed Unicode');
  if (typeof value === 'string' && !value.isWellFormed()) {
    throw new TypeError(`'${key}' is not well-formed Unicode`);
  }
  if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`'${key}' is ${value}`);
  return value;
}
