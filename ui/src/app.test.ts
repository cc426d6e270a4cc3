// @vitest-environment jsdom
import { emit } from '@tauri-apps/api/event';
import { clearMocks, mockIPC } from '@tauri-apps/api/mocks';
import { afterEach, expect, it, vi } from 'vitest';
import { DEFAULT_SETTINGS, type AppState, type ChatView, type ModelStatus } from './ipc/bindings';
import { MODEL } from './ipc/fakeModel';
import { App } from './app.svelte';

const LOADING: ModelStatus = { kind: 'loading', name: 'demo', share: 0.9 };
const READY: ModelStatus = { kind: 'ready', info: MODEL };

function chat(id: number, draft = ''): ChatView {
	return { id, title: `Chat ${id}`, messages: [], documents: [], draft };
}

function state(openChat: number | null): AppState {
	return {
		version: '1',
		chats: [],
		openChat,
		model: READY,
		settings: DEFAULT_SETTINGS,
		firstStart: false,
		suggestions: [],
		storageProblem: null,
	};
}

/** A command that the test answers in its own time. */
interface Waiting {
	args: Record<string, unknown>;
	answer: (value: unknown) => void;
}

/** A shell that holds back the commands named; `asked` counts and keeps all others. */
function shell(openChat: number | null, held: readonly string[] = []) {
	const asked: { command: string; args: Record<string, unknown> }[] = [];
	const waiting = new Map<string, Waiting[]>(held.map((command) => [command, []]));
	const drafts = new Map<number, string>();
	mockIPC(
		(command, payload) => {
			const args = (payload ?? {}) as Record<string, unknown>;
			asked.push({ command, args });
			const hold = waiting.get(command);
			if (hold) return new Promise((resolve) => hold.push({ args, answer: resolve }));
			const id = Number(args.chat);
			switch (command) {
				case 'app_state':
					return state(openChat);
				case 'chat_open':
					return chat(id, drafts.get(id));
				case 'chat_create':
					return chat(9);
				case 'chat_set_draft':
					drafts.set(id, String(args.text));
					return null;
				case 'gpu_look':
					return { kind: 'missing', why: 'None.' };
				default:
					return null;
			}
		},
		{ shouldMockEvents: true },
	);
	const take = async (command: string, at = 0) => {
		await vi.waitFor(() => expect(waiting.get(command)?.length).toBeGreaterThan(at));
		return waiting.get(command)?.[at] as Waiting;
	};
	return {
		asked,
		drafts,
		take,
		times: (name: string) => asked.filter(({ command }) => command === name).length,
	};
}

afterEach(clearMocks);

it('does not take an older status of the model for the newest', async () => {
	const { take } = shell(1, ['app_state']);
	const app = new App();
	const started = app.start();
	const asked = await take('app_state');
	// Ready while the answer, read a moment before, is on its way.
	await emit('model-event', { status: READY });
	asked.answer({ ...state(1), model: LOADING });
	await started;
	expect(app.model.status.kind).toBe('ready');
	expect(app.model.blocked).toBe('');
});

it('attaches what is dropped once, however often it was started', async () => {
	const { times } = shell(1);
	const app = new App();
	await app.start();
	app.follow({ kind: 'retry' }, null);
	await vi.waitFor(() => expect(times('chat_open')).toBe(2));
	await emit('drop-event', { kind: 'dropped', handle: 5, names: ['a.pdf'] });
	await vi.waitFor(() => expect(times('attach_dropped')).toBeGreaterThan(0));
	await new Promise((resolve) => setTimeout(resolve, 20));
	expect(times('attach_dropped')).toBe(1);
});

it('stays with the chat that was clicked last, also if that is the one on screen', async () => {
	const { take } = shell(null, ['chat_open']);
	const app = new App();
	app.conversation.show(chat(1));
	app.draft.show(1, '');
	app.draft.set('half a question');
	const away = app.openChat(2);
	const slow = await take('chat_open');
	const back = app.openChat(1);
	(await take('chat_open', 1)).answer(chat(1));
	await back;
	slow.answer(chat(2));
	await away;
	expect(app.conversation.view?.id).toBe(1);
	expect(app.draft.text).toBe('half a question');
});

it('asks nothing in a chat that the question was not meant for', async () => {
	const { take, times } = shell(null, ['chat_set_draft']);
	const app = new App();
	app.conversation.show(chat(1));
	app.draft.show(1, '');
	app.draft.set('About the first');
	const sent = app.send('About the first');
	const saving = await take('chat_set_draft');
	await app.openChat(2);
	saving.answer(null);
	await sent;
	expect(times('ask')).toBe(0);
});

it('keeps what was written before there was a chat', async () => {
	const { drafts } = shell(null);
	const app = new App();
	await app.start();
	app.draft.set('Written first');
	await app.attachSample();
	expect(app.draft.text).toBe('Written first');
	await app.openChat(2);
	await vi.waitFor(() => expect(drafts.get(9)).toBe('Written first'));
	await app.openChat(9);
	expect(app.draft.text).toBe('Written first');
});
