import { expect, it } from 'vitest';
import type { ContextUse } from '../ipc/bindings';
import { readMeter } from './meter.svelte';

const use: ContextUse = {
	documents: [
		{ document: 1, tokens: 300 },
		{ document: 2, tokens: 100 },
	],
	promptTokens: 600,
	draftTokens: 50,
	cachedTokens: 400,
	replyTokens: 100,
	contextTokens: 1000,
	predictedReadS: 2.5,
};

it('splits the prompt into documents, conversation and draft', () => {
	const reading = readMeter(use);
	expect(reading.documents).toBeCloseTo(0.4);
	expect(reading.conversation).toBeCloseTo(0.15);
	expect(reading.draft).toBeCloseTo(0.05);
	expect(reading.reply).toBeCloseTo(0.1);
	expect(reading.usedTokens).toBe(700);
	expect(reading.newTokens).toBe(200);
	expect(reading.readS).toBe(2.5);
});

it('is fine below 80 percent, nearly full from there, over above the context', () => {
	expect(readMeter({ ...use, promptTokens: 699 }).level).toBe('fine');
	expect(readMeter({ ...use, promptTokens: 700 }).level).toBe('nearly-full');
	expect(readMeter({ ...use, promptTokens: 999 }).level).toBe('nearly-full');
	expect(readMeter({ ...use, promptTokens: 999 }).replyRoomTokens).toBe(1);
	const over = readMeter({ ...use, promptTokens: 1000 });
	expect(over.level).toBe('over');
	expect(over.excessTokens).toBe(1);
	expect(over.replyRoomTokens).toBe(0);
});

it('stays finite without a context and with more cached than asked', () => {
	const reading = readMeter({ ...use, contextTokens: 0, cachedTokens: 900 });
	expect(Number.isFinite(reading.documents)).toBe(true);
	expect(reading.newTokens).toBe(0);
	expect(reading.level).toBe('over');
});
