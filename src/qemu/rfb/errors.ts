import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  RFB_CONNECT: {
    summary: "the VM's screen cannot be reached",
    remedy: 'Check that the VM runs and has a display.',
  },
  RFB_REFUSED: { summary: 'the RFB server refused the connection', remedy: 'The message holds its reason.' },
  RFB_SECURITY: {
    summary: 'the RFB server asks for a password',
    remedy: 'Screens of VMs are served without one, on private Unix sockets; this is another server.',
  },
  RFB_PROTOCOL: { summary: 'the RFB server broke the protocol', remedy: 'Is this really an RFB 3.8 server?' },
  RFB_LIMIT: { summary: 'the RFB server sent more than is accepted', remedy: 'See docs/LIMITS.md.' },
  RFB_CLOSED: {
    summary: 'the RFB connection has ended',
    remedy: 'The VM or its display has gone; connect again.',
  },
  RFB_TIMEOUT: {
    summary: 'the screen did not do what was waited for',
    remedy: 'Take a screenshot and look.',
  },
  RFB_KEY: { summary: 'this character cannot be typed', remedy: 'Use printable ASCII, tab and line feed.' },
});
