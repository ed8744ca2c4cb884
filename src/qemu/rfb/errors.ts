import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  RFB_CONNECT: {
    summary: 'the VM’s screen cannot be reached',
    remedy: 'Check that the VM runs and has a display.',
  },
  RFB_REFUSED: { summary: 'the RFB server refused the connection', remedy: 'The message holds its reason.' },
  RFB_SECURITY: {
    summary: 'the RFB server asks for a password',
    remedy: 'Screens of VMs are served without one, on private Unix sockets; this is another server.',
  },
  RFB_PROTOCOL: {
    summary: 'the RFB server broke the protocol',
    remedy: 'Check that the socket is the vnc.sock of a VM: it must be an RFB 3.8 server.',
  },
  RFB_LIMIT: {
    summary: 'the RFB server sent more than is accepted',
    remedy: 'Check that the socket is the vnc.sock of a VM; docs/LIMITS.md lists the limits.',
  },
  RFB_CLOSED: {
    summary: 'the RFB connection has ended',
    remedy: 'The VM or its display has gone; connect again.',
  },
  RFB_TIMEOUT: {
    summary: 'the screen did not do what was waited for',
    remedy: 'Look at the screen yourself: `cloudap vm screenshot VM`.',
  },
  RFB_KEY: { summary: 'this character cannot be typed', remedy: 'Use printable ASCII, tab and line feed.' },
});
