import { expect, it } from 'vitest';
import type { ReplyStats } from '../ipc/bindings';
import { savedShare, statsGroups } from './stats';

const stats: ReplyStats = {
	model: 'demo',
	device: 'CPU',
	attention: 'mac',
	promptTokens: 2304,
	cachedTokens: 304,
	prefillS: 2,
	ttftS: 2.1,
	decodeTokens: 101,
	decodeS: 2,
	decodeSteps: 100,
	stop: 'endOfTurn',
	headHitRate: 0.9,
	groupHitRate: 0.75,
	kvBytesRead: 200,
	ringBytes: 50,
	kvBytesExact: 1000,
	exactFallbackSteps: 0,
	auditSamples: 0,
	auditMeanError: null,
	auditMaxError: null,
	sources: [],
};

it('counts ring bytes as read', () => {
	expect(savedShare(stats)).toBeCloseTo(0.75);
	expect(savedShare({ ...stats, kvBytesExact: 0 })).toBeNull();
	expect(savedShare({ ...stats, ringBytes: 900 })).toBeCloseTo(-0.1);
});

it('keeps reading and writing apart, and cached tokens out of the rate', () => {
	const [read, wrote, reuse] = statsGroups(stats).map(({ facts }) => facts.join(' · '));
	expect(read).toBe('2,000 tokens · 304 from memory · 1,000 tokens/s · 2.0 s');
	expect(wrote).toBe('101 tokens · 50.0 tokens/s · first after 2.1 s');
	expect(reuse).toBe('75 % of groups · 75 % of KV bytes not read');
});

it('gives no rate where there is nothing to divide', () => {
	const none = {
		...stats,
		promptTokens: 10,
		cachedTokens: 10,
		prefillS: 0,
		decodeSteps: 0,
		decodeS: 0,
		decodeTokens: 1,
	};
	const [read, wrote] = statsGroups(none).map(({ facts }) => facts.join(' · '));
	expect(read).toBe('0 tokens · 10 from memory · 0 ms');
	expect(wrote).toBe('1 token · first after 2.1 s');
});

it('says when reuse was not used', () => {
	const [, , exact] = statsGroups({ ...stats, attention: 'exact' });
	expect(exact?.facts).toEqual(['exact']);
	const [, , fallback] = statsGroups({ ...stats, exactFallbackSteps: 100 });
	expect(fallback?.facts).toEqual(['not used, exact attention is as fast here']);
});
