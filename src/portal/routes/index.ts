import type { App, Portal } from '../portal.ts';
import { accountRoutes } from './accounts.ts';
import { fleetRoutes } from './fleet.ts';
import { moveRoutes } from './moves.ts';
import { operationRoutes } from './operation.ts';
import { presenceRoutes } from './presence.ts';
import { registryRoutes } from './registry.ts';
import { scheduleRoutes } from './schedule.ts';
import { sessionRoutes } from './sessions.ts';
import { taskRoutes } from './tasks.ts';
import { vmRoutes } from './vms.ts';

export function registerRoutes(app: App, portal: Portal): void {
  for (const routes of [
    operationRoutes,
    sessionRoutes,
    accountRoutes,
    fleetRoutes,
    vmRoutes,
    moveRoutes,
    presenceRoutes,
    registryRoutes,
    scheduleRoutes,
    taskRoutes,
  ])
    routes(app, portal);
}
