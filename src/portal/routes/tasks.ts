import * as z from 'zod';
import type { App, Portal } from '../portal.ts';
import { owns, type Principal } from '../auth/principal.ts';
import { API_PREFIX, TASK_WAIT_MAX_MS } from '../constants.ts';
import { failPortal } from '../errors.ts';
import { taskIdSchema, taskViewSchema } from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';
import type { TaskView } from '../tasks.ts';

const params = z.strictObject({ id: taskIdSchema });

export function taskRoutes(app: App, { tasks }: Portal): void {
  const own = (principal: Principal, task: TaskView): TaskView => {
    if (!owns(principal, task.user)) throw failPortal('TASK_UNKNOWN', task.id);
    return task;
  };
  app.get(
    `${API_PREFIX}/tasks`,
    {
      config: { allow: 'user' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(taskViewSchema) } },
    },
    ({ principal, query }) =>
      page(
        tasks.list().filter(({ user }) => owns(principal, user)),
        ({ id }) => id,
        query,
      ),
  );
  app.get(
    `${API_PREFIX}/tasks/:id`,
    {
      config: { allow: 'user' },
      schema: {
        description: '`waitMs`: answer when it has ended, or after that time.',
        params,
        querystring: z.strictObject({
          waitMs: z.coerce.number().int().min(0).max(TASK_WAIT_MAX_MS).default(0),
        }),
        response: { 200: taskViewSchema },
      },
    },
    async (request) => {
      const { id } = request.params;
      own(request.principal, tasks.get(id));
      const gone = new AbortController();
      request.raw.once('close', () => gone.abort());
      return tasks.wait(id, request.query.waitMs, gone.signal);
    },
  );
  app.delete(
    `${API_PREFIX}/tasks/:id`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'Aborts it where that is still possible.',
        params,
        response: { 200: taskViewSchema },
      },
    },
    ({ principal, params: { id } }) => {
      own(principal, tasks.get(id));
      return tasks.abort(id);
    },
  );
}
