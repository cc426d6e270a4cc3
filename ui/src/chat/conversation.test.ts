// @vitest-environment jsdom
import type { Channel } from '@tauri-apps/api/core';
import { clearMocks, mockIPC } from '@tauri-apps/api/mocks';
import { afterEach, expect, it, vi } from 'vitest';
import type { ChatView, MessageView, ReplyEvent, UserError } from '../ipc/bindings';
import { Conversation } from './conversation.svelte';

const TOO_LONG: UserError = {
	message: 'Too long.',
	kept: 'Kept.',
	advice: [{ kind: 'newChat' }],
	details: '',
};

function message(id: number, part: Partial<MessageView> = {}): MessageView {
	return {
		id,
		author: 'assistant',
		text: '',
		state: 'done',
		stats: null,
		error: null,
		version: 1,
		siblings: [id],
		...part,
	};
}

function chat(id: number, messages: MessageView[] = []): ChatView {
	return { id, title: '', messages, documents: [], draft: '' };
}

/** A shell whose reply channel the test holds in its hand. */
function shell(refuse: UserError | null = null) {
	const held: { channel: Channel<ReplyEvent> | null; stops: number } = { channel: null, stops: 0 };
	mockIPC((command, payload) => {
		const args = payload as { chat: number; channel: Channel<ReplyEvent> };
		if (command === 'chat_open') return chat(args.chat);
		if (command === 'stop') held.stops += 1;
		// The border rejects with plain objects.
		// eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors
		if (command === 'ask' && refuse) return Promise.reject(refuse);
		if (command === 'ask') held.channel = args.channel;
		return null;
	});
	return held;
}

const now = (run: () => void) => run();
afterEach(clearMocks);

it('shows the started chat and replaces the message when it is done', async () => {
	const held = shell();
	const heard: string[] = [];
	const conversation = new Conversation((event) => heard.push(event.kind), now);
	conversation.show(chat(1));
	expect((await conversation.question('Why?')).ok).toBe(true);
	held.channel?.onmessage({ kind: 'started', chat: chat(1, [message(7, { state: 'writing' })]), reply: 7 });
	expect(conversation.writing?.id).toBe(7);
	held.channel?.onmessage({ kind: 'tokens', text: 'Because', steps: [] });
	held.channel?.onmessage({ kind: 'done', message: message(7, { text: 'Because.' }) });
	expect(conversation.view?.messages.map(({ text }) => text)).toEqual(['Because.']);
	expect(conversation.busy).toBe(false);
	expect(heard).toEqual(['started', 'tokens', 'done']);
});

it('hands a refusal back and leaves nothing of the reply', async () => {
	shell(TOO_LONG);
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	expect(await conversation.question('Why?')).toEqual({ ok: false, error: TOO_LONG });
	expect(conversation.busy).toBe(false);
});

it('keeps writing while another chat is on screen, and does not touch that chat', async () => {
	const held = shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	await conversation.question('Why?');
	held.channel?.onmessage({ kind: 'started', chat: chat(1, [message(7)]), reply: 7 });
	await conversation.open(2);
	held.channel?.onmessage({ kind: 'tokens', text: 'x', steps: [] });
	expect(conversation.reply?.text).toBe('x');
	expect(conversation.writing).toBeNull();
	held.channel?.onmessage({ kind: 'done', message: message(7, { text: 'x' }) });
	expect(conversation.view?.id).toBe(2);
	expect(conversation.view?.messages).toEqual([]);
});

it('asks for one stop however often it is pressed', async () => {
	const held = shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	await conversation.question('Why?');
	await Promise.all([conversation.stop(), conversation.stop()]);
	expect(held.stops).toBe(1);
	expect(conversation.reply?.stopping).toBe(true);
});

it('refuses a second question while one is answered', async () => {
	shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	await conversation.question('Why?');
	expect((await conversation.question('And?')).ok).toBe(false);
});

it('keeps the advice of a failed reply with its message', async () => {
	const held = shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	await conversation.question('Why?');
	held.channel?.onmessage({ kind: 'started', chat: chat(1, [message(7)]), reply: 7 });
	held.channel?.onmessage({ kind: 'failed', error: TOO_LONG, message: message(7, { state: 'failed' }) });
	expect(conversation.errors.get(7)).toEqual(TOO_LONG);
	expect(conversation.view?.messages[0]?.state).toBe('failed');
});

it('does not show a chat half written that was read before its reply ended and came after', async () => {
	const held = shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	await conversation.question('Why?');
	const half = chat(1, [message(7, { state: 'writing', text: 'Bec' })]);
	held.channel?.onmessage({ kind: 'started', chat: half, reply: 7 });
	await conversation.open(2);
	const answers: ((view: ChatView) => void)[] = [];
	mockIPC((command) => (command === 'chat_open' ? new Promise((resolve) => answers.push(resolve)) : null));
	const opened = conversation.open(1);
	held.channel?.onmessage({ kind: 'done', message: message(7, { text: 'Because.' }) });
	answers[0]?.(half);
	await vi.waitFor(() => expect(answers).toHaveLength(2));
	answers[1]?.(chat(1, [message(7, { text: 'Because.' })]));
	expect(await opened).toBe(true);
	expect(conversation.view?.messages.map(({ state, text }) => [state, text])).toEqual([
		['done', 'Because.'],
	]);
});

it('drops a version of a chat that was left meanwhile', async () => {
	shell();
	const conversation = new Conversation(undefined, now);
	conversation.show(chat(1));
	let answer: (view: ChatView) => void = () => undefined;
	mockIPC((command, payload) =>
		command === 'message_show'
			? new Promise((resolve) => (answer = resolve as () => void))
			: chat((payload as { chat: number }).chat),
	);
	const shown = conversation.showVersion(7);
	await conversation.open(2);
	answer(chat(1, [message(7)]));
	await shown;
	expect(conversation.view?.id).toBe(2);
});
