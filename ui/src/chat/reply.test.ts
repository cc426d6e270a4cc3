import { describe, expect, it } from 'vitest';
import type { ChatView, MessageView, ReplyEvent, TokenStep } from '../ipc/bindings';
import { Reply } from './reply.svelte';

function message(part: Partial<MessageView> = {}): MessageView {
	return {
		id: 5,
		author: 'assistant',
		text: '',
		state: 'writing',
		stats: null,
		error: null,
		version: 1,
		siblings: [5],
		...part,
	};
}

function chat(messages: MessageView[]): ChatView {
	return { id: 1, title: 'T', messages, documents: [], draft: '' };
}

function tokens(text: string, count: number): ReplyEvent {
	const steps: TokenStep[] = Array.from({ length: count }, (_, index) => ({ index, text: '', step: null }));
	return { kind: 'tokens', text, steps };
}

const prefill: ReplyEvent = {
	kind: 'prefill',
	done: 40,
	total: 100,
	cached: 10,
	tokensPerS: 800,
	remainingS: 0.1,
};

describe('Reply', () => {
	it('goes from queued through reading and writing to ended', () => {
		const reply = new Reply(1);
		const phases = [reply.phase.kind];
		const events: ReplyEvent[] = [
			{ kind: 'started', chat: chat([message()]), reply: 5 },
			prefill,
			tokens('Hello', 1),
			{ kind: 'done', message: message({ text: 'Hello', state: 'done' }) },
		];
		for (const event of events) {
			reply.apply(event);
			phases.push(reply.phase.kind);
		}
		expect(phases).toEqual(['queued', 'queued', 'reading', 'writing', 'ended']);
		expect(reply.running).toBe(false);
	});

	it('joins deltas in order and counts tokens, empty ones too', () => {
		const reply = new Reply(1);
		reply.apply(tokens('The co', 2));
		reply.apply(tokens('', 1));
		reply.apply(tokens('de is 4471.', 4));
		expect(reply.text).toBe('The code is 4471.');
		expect(reply.tokens).toBe(7);
	});

	it('continues from the text that is there already', () => {
		const reply = new Reply(1);
		reply.apply({ kind: 'started', chat: chat([message({ text: 'Half a ' })]), reply: 5 });
		reply.apply(tokens('sentence.', 2));
		expect(reply.text).toBe('Half a sentence.');
	});

	it('remembers what was read after reading is over', () => {
		const reply = new Reply(1);
		reply.apply(prefill);
		reply.apply(tokens('x', 1));
		expect(reply.read).toEqual({ total: 100, cached: 10 });
	});

	it('keeps what the shell kept when it fails', () => {
		const reply = new Reply(1);
		reply.apply(tokens('partial text', 3));
		const error = { message: 'Out of memory.', kept: '', advice: [], details: '' };
		reply.apply({ kind: 'failed', error, message: message({ text: 'partial', state: 'failed' }) });
		expect(reply.text).toBe('partial');
		expect(reply.announcement).toBe('Answer failed: Out of memory.');
	});

	it('keeps the written text when it fails without a message', () => {
		const reply = new Reply(1);
		reply.apply(tokens('partial', 3));
		const error = { message: 'Gone.', kept: '', advice: [], details: '' };
		reply.apply({ kind: 'failed', error, message: null });
		expect(reply.text).toBe('partial');
	});

	it('announces reading in steps of ten percent', () => {
		const reply = new Reply(1);
		reply.apply({ ...prefill, done: 47 });
		expect(reply.announcement).toBe('Reading, 40 percent');
		reply.apply({ ...prefill, done: 0, total: 0 });
		expect(reply.announcement).toBe('Reading, 0 percent');
	});
});
