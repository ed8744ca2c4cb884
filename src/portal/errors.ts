import { errorCatalogue } from '../base/errors.ts';

export const failPortal = errorCatalogue({
  AUTH_REQUIRED: {
    summary: 'the API does not know who asks',
    remedy: 'Log in (`cloudap login`), or send `Authorization: Bearer TOKEN`.',
  },
  AUTH_EXPIRED: {
    summary: 'the session or token has expired, or was revoked',
    remedy: 'Log in again (`cloudap login`), or have a new token made.',
  },
  AUTH_WRONG: {
    summary: 'wrong user or password',
    remedy: 'Check both; an administrator can set a new password: `cloudap center account USER --password`.',
  },
  AUTH_LOCKED: {
    summary: 'too many wrong passwords',
    remedy: 'Wait a quarter of an hour.',
  },
  AUTH_FORBIDDEN: {
    summary: 'who asks may not do that',
    remedy: 'Ask an operator or administrator; `cloudap center whoami` says what you may do.',
  },
  AUTH_PASSWORD: {
    summary: 'the password cannot be used',
    remedy: 'Take one of 10 to 256 characters.',
  },
  ACCOUNT_UNKNOWN: { summary: 'no such account', remedy: '`cloudap center accounts` lists them.' },
  ACCOUNT_EXISTS: { summary: 'there is such an account already', remedy: 'Change it, or take another name.' },
  CREDENTIAL_UNKNOWN: {
    summary: 'no such session or token',
    remedy: '`cloudap center api-tokens` lists them.',
  },
  CREDENTIALS_TOO_MANY: {
    summary: 'this user has too many sessions and tokens',
    remedy: 'Remove some: `cloudap center api-tokens --rm ID`.',
  },
  TASK_UNKNOWN: {
    summary: 'no such task',
    remedy: 'Tasks are forgotten when the center ends, and after a thousand others.',
  },
  TASK_NOT_ABORTABLE: { summary: 'this task cannot be aborted any more', remedy: 'Wait for its end.' },
  PORTAL_BUSY: { summary: 'the API has too much to do', remedy: 'Try again in a moment.' },
});
