import { describe, expect, it } from 'vitest';
import type { AttentionMode, ChatView, ReplyEvent, StepView } from '../ipc/bindings';
import { buckets, countFates, csvOf, exactReason, netTime, savedShare } from './figures';
import { Run } from './run.svelte';
import { RunHistory } from './runs.svelte';

const chat: ChatView = { id: 1, title: '', messages: [], documents: [], draft: '' };

function step(part: Partial<StepView> = {}): StepView {
	return {
		contextTokens: 4000,
		ms: 10,
		reuseActive: true,
		headsMatched: 3,
		headsTotal: 4,
		groupsReused: 1,
		groupsTotal: 2,
		kvBytesRead: 500,
		ringBytes: 100,
		kvBytesExact: 1000,
		heads: '3321',
		...part,
	};
}

function tokens(...steps: (StepView | null)[]): ReplyEvent {
	return {
		kind: 'tokens',
		text: '',
		steps: steps.map((each, index) => ({ index, text: `t${index}`, step: each })),
	};
}

function run(attention: AttentionMode, steps: StepView[], message = 1): Run {
	const made = new Run(message, 1, { attention, model: 'demo', device: 'CPU', layers: 2, queryHeads: 2 });
	made.apply(tokens(...steps));
	return made;
}

const many = (part: Partial<StepView>, count = 10) => Array.from({ length: count }, () => step(part));

describe('Run', () => {
	it('sums what was counted and leaves out the token without a step', () => {
		const made = run('mac', [step(), step({ reuseActive: false })]);
		made.apply(tokens(null));
		expect(made.length).toBe(2);
		expect(made.totals.kvBytesRead).toBe(1000);
		expect(made.totals.ringBytes).toBe(200);
		expect(made.totals.exactSteps).toBe(1);
		expect(made.headShare).toEqual([0.75, 0.75]);
		expect(made.bytesRead).toEqual([600, 600]);
	});

	it('has no rate before the first step, and follows a change within about a second', () => {
		const made = run('mac', []);
		expect(made.liveRate).toBeNull();
		expect(made.meanRate).toBeNull();
		made.apply(tokens(...many({ ms: 10 }, 300)));
		expect(made.liveRate).toBeCloseTo(100, 0);
		made.apply(tokens(...many({ ms: 20 }, 100)));
		expect(made.liveRate).toBeGreaterThan(50);
		expect(made.liveRate).toBeLessThan(60);
		expect(made.meanRate).toBeCloseTo(400 / 5, 5);
	});
});

describe('RunHistory', () => {
	const card = null;
	it('begins a run with each reply and finds it by its message', () => {
		const history = new RunHistory();
		history.apply({ kind: 'started', chat, reply: 7 }, { id: 7, chat: 1 }, 'exact', card);
		history.apply(tokens(step()), { id: 7, chat: 1 }, 'exact', card);
		expect(history.ofMessage(7)?.length).toBe(1);
		expect(history.newest(1)?.message).toBe(7);
		expect(history.newest(2)).toBeUndefined();
		expect(history.ofMessages([3, 7]).map(({ message }) => message)).toEqual([7]);
	});

	it('keeps a bounded number of runs', () => {
		const history = new RunHistory();
		for (let id = 1; id <= 80; id += 1) {
			history.apply({ kind: 'started', chat, reply: id }, { id, chat: 1 }, 'mac', card);
		}
		expect(history.runs).toHaveLength(60);
		expect(history.runs[0]?.message).toBe(21);
	});

	it('drops per-head detail of old runs first', () => {
		const history = new RunHistory();
		const heads = '3'.repeat(1_000_000);
		for (let id = 1; id <= 30; id += 1) {
			history.apply({ kind: 'started', chat, reply: id }, { id, chat: 1 }, 'mac', card);
			history.apply(tokens(step({ heads })), { id, chat: 1 }, 'mac', card);
		}
		history.apply({ kind: 'started', chat, reply: 99 }, { id: 99, chat: 1 }, 'mac', card);
		expect(history.ofMessage(1)?.heads).toEqual([]);
		expect(history.ofMessage(30)?.heads).toHaveLength(1);
		expect(history.ofMessage(1)?.length).toBe(1);
	});
});

describe('figures', () => {
	it('puts one step in each bar while there is room', () => {
		const made = run('mac', many({}, 5));
		expect(buckets(made, 100)).toHaveLength(5);
	});

	it('keeps the slowest step of a bar when there are too many', () => {
		const steps = many({ ms: 10 }, 1000);
		steps[777] = step({ ms: 90 });
		const list = buckets(run('mac', steps), 100);
		expect(list).toHaveLength(100);
		expect(Math.max(...list.map(({ ms }) => ms))).toBe(90);
		expect(list.at(-1)?.end).toBe(1000);
		expect(buckets(run('mac', []), 100)).toEqual([]);
	});

	it('gives quantiles, and none of nothing', () => {
		const made = run(
			'mac',
			[3, 1, 2].map((ms) => step({ ms })),
		);
		expect(made.quantileMs(0.5)).toBe(2);
		expect(made.quantileMs(1)).toBe(3);
		made.apply(tokens(step({ ms: 0.5 })));
		expect(made.quantileMs(0)).toBe(0.5);
		expect(run('mac', []).quantileMs(0.5)).toBeNull();
		expect(savedShare(250, 1000)).toBeCloseTo(0.75);
		expect(savedShare(0, 0)).toBeNull();
	});

	it('counts the fates of each head', () => {
		const counts = countFates(['0123', '3333'], 4);
		expect([...counts]).toEqual([1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 2]);
	});

	it('compares only with exact answers of a similar length, model and device', () => {
		const mine = run('mac', many({ ms: 8, contextTokens: 4000 }), 1);
		const near = run('exact', many({ ms: 11, contextTokens: 4200 }), 2);
		const far = run('exact', many({ ms: 30, contextTokens: 9000 }), 3);
		expect(netTime(mine, [mine, far])).toBeNull();
		expect(netTime(mine, [mine, far, near])).toEqual({
			msPerToken: -3,
			exactMs: 11,
			exactSteps: 10,
			exactContextTokens: 4200,
		});
		expect(netTime(near, [mine, near])).toBeNull();
		const elsewhere = new Run(4, 1, { ...near.setting, device: 'GPU' });
		elsewhere.apply(tokens(...many({ contextTokens: 4000 })));
		expect(netTime(mine, [mine, elsewhere])).toBeNull();
	});

	it('explains exact steps, and only those', () => {
		expect(exactReason(run('mac', [step({ reuseActive: false, contextTokens: 500 })]))).toContain(
			'below 2,048',
		);
		expect(exactReason(run('mac', [step({ reuseActive: false })]))).toContain(
			'not expected to be faster',
		);
		expect(exactReason(run('mac', [step()]))).toBe('');
		expect(exactReason(run('exact', [step({ reuseActive: false })]))).toBe('');
	});

	it('writes every step as a row', () => {
		const rows = csvOf(run('mac', [step(), step()])).split('\n');
		expect(rows).toHaveLength(3);
		expect(rows[1]).toBe('0,4000,10,1,0.75,0.5,600,1000');
	});
});
