/** Thread that makes page indexes, so that neither the control loop nor the data path of a process hashes files. */
import { parentPort, workerData } from 'node:worker_threads';
import { asCloudapError } from '../../base/errors.ts';
import { type ContentFile, makePageIndex } from './store.ts';

const file = workerData as ContentFile;
await makePageIndex(file).then(
  () => parentPort?.postMessage(null),
  (error: unknown) => parentPort?.postMessage(asCloudapError(error).toJSON()),
);
