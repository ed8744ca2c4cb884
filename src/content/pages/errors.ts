import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  PAGES_INDEX_MISSING: {
    summary: 'there is no index of the pages of this file',
    remedy: 'It is made in the background and used the next time; until then every page is sent.',
  },
  PAGES_INDEX_DAMAGED: {
    summary: 'the index of the pages of a file cannot be used',
    remedy: 'It is made anew in the background; until then every page is sent.',
  },
  PAGES_INDEX_VERSION: {
    summary: 'the index of the pages of a file has a version that is not known here',
    remedy: 'It is made anew in the background; until then every page is sent.',
  },
  PAGES_NOT_INDEXED: {
    summary: 'a file could not be indexed by its pages',
    remedy:
      'Check that it can be read and that its folder can be written and has space. Only bandwidth is lost.',
  },
  PAGES_CONTENT_DAMAGED: {
    summary: 'pages of a file do not have the content that its index says',
    remedy: 'They were sent instead. `cloudap image verify` finds the damaged image: add it again.',
  },
});
