import type { Command } from 'commander';
import * as z from 'zod';
import { remotePortal } from '../portal/client.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { readLogin, removeLogin } from './kit/login-file.ts';

/** `cloudap logout`: ends the session, and forgets it here also where the center cannot be reached. */
export default function logout(context: CliContext): Command {
  return command('logout', 'end the session of `cloudap login`', 'cloudap logout').action(
    action(context, async () => {
      const login = await readLogin(context.env);
      await removeLogin(context.env);
      if (login)
        await (await remotePortal(login)).json('DELETE', '/sessions/current', z.unknown()).catch(() => {});
      return EXIT_OK;
    }),
  );
}
