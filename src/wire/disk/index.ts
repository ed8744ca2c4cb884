export * from './constants.ts';
export * from './data.ts';
export * from './frames.ts';
export { diskOf, isDiskMessage, runBytes, sectorsOf } from './message.ts';
