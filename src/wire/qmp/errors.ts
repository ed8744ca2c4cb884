import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  QMP_LINE_TOO_LONG: {
    summary: 'QEMU sent a longer QMP line than is accepted',
    remedy: 'Check that the socket is a QMP monitor of a QEMU that CloudAP started.',
  },
  QMP_MALFORMED: {
    summary: 'what arrived on the QMP socket is not QMP',
    remedy: 'Check that the socket is a QMP monitor (mode=control) and not a human monitor or a serial port.',
  },
  QMP_UNSENDABLE: {
    summary: 'a QMP command cannot be expressed',
    remedy:
      'Give strings of well-formed Unicode and finite numbers, and keep the command below the size limit.',
  },
});
