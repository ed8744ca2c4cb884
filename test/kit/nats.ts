import { pino } from 'pino';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { connectControl } from '../../src/control/connect.ts';
import { openControlPlane, type ControlPlane } from '../../src/control/plane.ts';
import { NatsServer } from '../../src/control/server.ts';
import { tempDir } from './tempdir.ts';

export const silent = pino({ level: 'silent' });

export interface TestNats extends AsyncDisposable {
  server: NatsServer;
  address: string;
  /** A further connection with the buckets open, read as an agent does or as the center; it closes with the server. */
  plane(name?: string, asCenter?: boolean): Promise<ControlPlane>;
  /** Kills the server, and returns when its keeper has started another. */
  crash(): Promise<void>;
}

/** A real nats-server with JetStream, without TLS, and the center's buckets. */
export async function testNats(): Promise<TestNats> {
  const dir = await tempDir();
  const listen = { host: '127.0.0.1', port: await freePort() };
  const server = await NatsServer.start({ dataDir: dir.path, listen });
  const address = `${listen.host}:${listen.port}`;
  const planes: ControlPlane[] = [];
  const plane = async (name = 'test', create = false): Promise<ControlPlane> => {
    const connection = await connectControl(name, { servers: [address] }, { log: silent });
    const opened = await openControlPlane(connection, { log: silent, create });
    planes.push(opened);
    return opened;
  };
  await plane('maker', true);
  return {
    server,
    address,
    plane,
    crash: async () => {
      const { pid } = server;
      process.kill(pid, 'SIGKILL');
      while (server.pid === pid) await sleep(20);
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(planes.map(({ connection }) => connection.close()));
      await server[Symbol.asyncDispose]();
      await dir[Symbol.asyncDispose]();
    },
  };
}
