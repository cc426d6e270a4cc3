import type { ReplyEvent } from './bindings';

type Prefill = Extract<ReplyEvent, { kind: 'prefill' }>;

/** A reply whose prompt is being read: the newest figures of it. */
export type Reading = { kind: 'reading' } & Omit<Prefill, 'kind'>;

export function reading(event: Prefill): Reading {
	return { ...event, kind: 'reading' };
}
