export * from './constants.ts';
export * from './frames.ts';
