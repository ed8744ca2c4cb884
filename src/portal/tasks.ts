import { randomBytes } from 'node:crypto';
import { abortable } from '../base/async.ts';
import { asCloudapError, type CloudapError } from '../base/errors.ts';
import { TASKS_KEPT } from './constants.ts';
import { failPortal } from './errors.ts';

export type TaskState = 'running' | 'succeeded' | 'failed' | 'aborted';

export interface TaskView {
  readonly id: string;
  readonly kind: string;
  readonly user: string;
  readonly state: TaskState;
  /** What it does now, for people. */
  readonly progress: string;
  readonly startedAtMs: number;
  readonly endedAtMs: number | null;
  readonly result: unknown;
  readonly error: ReturnType<CloudapError['toJSON']> | null;
}

interface Task {
  view: TaskView;
  readonly abort: AbortController;
  readonly ended: Promise<void>;
}

/** Work that takes longer than a request should: asked for once, by an id that the caller may choose, then looked at, waited for, aborted. */
export class Tasks {
  readonly #tasks = new Map<string, Task>();

  static newId(): string {
    return `task-${randomBytes(6).toString('hex')}`;
  }

  /** The same id again is the same task. */
  start(
    options: { id: string; kind: string; user: string },
    work: (progress: (text: string) => void, signal: AbortSignal) => Promise<unknown>,
  ): TaskView {
    const { id, kind, user } = options;
    const before = this.#tasks.get(id);
    if (before) return before.view;
    const abort = new AbortController();
    const { promise, resolve } = Promise.withResolvers<void>();
    const view: TaskView = {
      id,
      kind,
      user,
      state: 'running',
      progress: '',
      startedAtMs: Date.now(),
      endedAtMs: null,
      result: null,
      error: null,
    };
    const task: Task = { view, abort, ended: promise };
    this.#tasks.set(id, task);
    this.#forget();
    const end = (change: Partial<TaskView>): void => {
      task.view = { ...task.view, ...change, endedAtMs: Date.now() };
      resolve();
    };
    work((progress) => (task.view = { ...task.view, progress }), abort.signal).then(
      (result) => end({ state: 'succeeded', result }),
      (error: unknown) =>
        end({ state: abort.signal.aborted ? 'aborted' : 'failed', error: asCloudapError(error).toJSON() }),
    );
    return task.view;
  }

  #forget(): void {
    for (const [id, { view }] of this.#tasks) {
      if (this.#tasks.size <= TASKS_KEPT) return;
      if (view.endedAtMs !== null) this.#tasks.delete(id);
    }
  }

  list(): TaskView[] {
    return [...this.#tasks.values()].map(({ view }) => view);
  }

  /** @throws TASK_UNKNOWN */
  get(id: string): TaskView {
    return this.#find(id).view;
  }

  /** Its state when it has ended, or after that time. @throws TASK_UNKNOWN */
  async wait(id: string, waitMs: number, signal: AbortSignal): Promise<TaskView> {
    const task = this.#find(id);
    const limit = AbortSignal.any([signal, AbortSignal.timeout(waitMs)]);
    await abortable(task.ended, limit).catch(() => {});
    return task.view;
  }

  /** @throws TASK_UNKNOWN, TASK_NOT_ABORTABLE */
  abort(id: string): TaskView {
    const task = this.#find(id);
    if (task.view.endedAtMs !== null) throw failPortal('TASK_NOT_ABORTABLE', task.view.state);
    task.abort.abort(failPortal('TASK_NOT_ABORTABLE', 'aborted'));
    return task.view;
  }

  #find(id: string): Task {
    const task = this.#tasks.get(id);
    if (!task) throw failPortal('TASK_UNKNOWN', id);
    return task;
  }
}
