import type { Channel } from '@tauri-apps/api/core';
import type { AppState, Ask, ContextUse, ReplyEvent, Settings } from './bindings';
import { FakeChats, type StoredChat, type StoredMessage } from './fakeChats';
import { FakeDocuments } from './fakeDocuments';
import { refusal, refuse, reject, settingsAtStart, SUGGESTIONS, tooLong, type Script } from './fakeFixtures';
import { FakeModel } from './fakeModel';
import { pause, playReply } from './fakeReply';
import { ANSWER, longAnswer } from './fakeText';

const CONTEXT_TOKENS = 32_768;

/** The scripted engine: every command of the contract, in memory. */
export class FakeEngine {
	readonly #chats = new FakeChats();
	readonly #script: Script;
	readonly #rate: number;
	readonly #tokens: number;
	readonly #documents: FakeDocuments;
	readonly #model: FakeModel;
	#settings: Settings;
	#open: number | null = null;
	#stop = false;
	#running = false;

	constructor(script: Script, rate: number, tokens: number) {
		this.#script = script;
		this.#rate = script === 'fast' ? 200 : rate;
		this.#tokens = tokens;
		this.#documents = new FakeDocuments(this.#chats, script);
		this.#settings = settingsAtStart(script);
		this.#model = new FakeModel(script, this.#settings);
		this.#fill();
	}

	/** Answers a command; throws a `UserError` where the shell would refuse. */
	handle(command: string, args: Record<string, unknown> & { channel?: Channel }): unknown {
		const chat = this.#chats.chats.get(Number(args.chat));
		switch (command) {
			case 'app_state':
				return this.#state();
			case 'page_ready':
				return null;
			case 'chat_list':
				return this.#chats.rows();
			case 'chat_search':
				return this.#search(String(args.query));
			case 'chat_create':
				return this.#chats.view(this.#chats.create());
			case 'chat_open':
				return chat ? this.#chats.view(chat) : refuse('This chat is gone.');
			case 'chat_rename':
				if (chat) chat.title = String(args.title);
				return null;
			case 'chat_delete':
			case 'chat_undelete':
				if (chat) chat.deleted = command === 'chat_delete';
				return null;
			case 'chat_set_draft':
				if (chat) chat.draft = String(args.text);
				return null;
			case 'message_show': {
				const owner = this.#chats.chatOf(Number(args.message));
				if (!owner) return refuse('This version is gone.');
				this.#chats.show(owner, Number(args.message));
				return this.#chats.view(owner);
			}
			case 'context_use':
				return this.#use(chat, String(args.draft));
			case 'ask':
				return this.#ask(chat, args.ask as Ask, args.channel as Channel<ReplyEvent>);
			case 'stop':
				this.#stop = true;
				return null;
			case 'settings_set':
				this.#settings = args.settings as Settings;
				return this.#settings;
			case 'gpu_look':
				return this.#model.gpu;
			case 'model_load':
			case 'model_pick':
			case 'model_demo':
				void this.#model.load(this.#settings);
				return null;
			default:
				return this.#documents.handle(command, chat, args);
		}
	}

	#state(): AppState {
		if (this.#script === 'broken-start') return refuse('The app cannot read its data.');
		return {
			version: '0.1.0',
			chats: this.#chats.rows(),
			openChat: this.#open,
			model: this.#model.status,
			settings: this.#settings,
			firstStart: this.#script === 'handbook',
			suggestions: SUGGESTIONS,
			storageProblem:
				this.#script === 'storage-problem'
					? refusal('Chats cannot be saved: the database is damaged.')
					: null,
		};
	}

	#fill(): void {
		if (this.#script === 'empty' || this.#script === 'broken-start') return;
		const day = 86_400_000;
		const titles = [
			'Lease of the Harbour Street flat',
			'Where is the ring cleared?',
			'Summary of the audit report',
			'Thesis, chapter 3',
		];
		titles.forEach((title, at) => {
			const chat = this.#chats.create(title, Date.now() - at * at * 2.5 * day - 3_600_000);
			this.#chats.fill(chat, 4);
		});
		const chat = this.#chats.create('');
		this.#open = chat.id;
		if (this.#script === 'long-chat') {
			chat.title = 'A long chat';
			this.#chats.fill(chat, 1000);
			const other = this.#chats.create('Another chat', Date.now() - 1000);
			this.#open = other.id;
		} else {
			chat.documents = [this.#documents.make('reprise-handbook.pdf')];
		}
	}

	#search(query: string) {
		const words = query.toLowerCase();
		return this.#chats.rows().flatMap((row) => {
			const chat = this.#chats.chats.get(row.id);
			const hit =
				chat &&
				this.#chats.view(chat).messages.find(({ text }) => text.toLowerCase().includes(words));
			if (hit) return [{ ...row, snippet: `…${hit.text.slice(0, 60)}…` }];
			return row.title.toLowerCase().includes(words) ? [row] : [];
		});
	}

	#use(chat: StoredChat | undefined, draft: string): ContextUse {
		const documents = (chat?.documents ?? []).map(({ id, tokens }) => ({
			document: id,
			tokens: tokens ?? 0,
		}));
		const written = chat
			? this.#chats.view(chat).messages.reduce((sum, { text }) => sum + text.length, 0)
			: 0;
		const draftTokens = Math.ceil(draft.length / 3.7);
		const promptTokens =
			documents.reduce((sum, { tokens }) => sum + tokens, 0) +
			Math.ceil(written / 3.7) +
			draftTokens +
			12;
		const cachedTokens = written > 0 ? promptTokens - draftTokens - 40 : 0;
		return {
			documents,
			promptTokens,
			draftTokens,
			cachedTokens,
			replyTokens: this.#settings.maxReplyTokens,
			contextTokens: CONTEXT_TOKENS,
			predictedReadS: (promptTokens - cachedTokens) / 2400,
		};
	}

	async #ask(chat: StoredChat | undefined, ask: Ask, channel: Channel<ReplyEvent>): Promise<null> {
		if (!chat) return refuse('This chat is gone.');
		if (this.#running) return refuse('Another answer is being written.');
		if (this.#script === 'too-long') return reject(tooLong());
		await pause(15);
		const reply = this.#begin(chat, ask);
		chat.updatedMs = Date.now();
		chat.draft = '';
		chat.documents = chat.documents.map((document) => ({ ...document, locked: true }));
		this.#running = true;
		this.#stop = false;
		channel.onmessage(
			structuredClone({ kind: 'started', chat: this.#chats.view(chat), reply: reply.id }),
		);
		void this.#play(chat, reply, ask, channel);
		return null;
	}

	#begin(chat: StoredChat, ask: Ask): StoredMessage {
		let reply: StoredMessage | undefined;
		switch (ask.kind) {
			case 'question':
				if (chat.title === '') chat.title = ask.text.slice(0, 60);
				this.#chats.add(chat, 'user', ask.text);
				break;
			case 'edit':
				this.#chats.add(
					chat,
					'user',
					ask.text,
					this.#chats.messages.get(ask.message)?.parent ?? null,
				);
				break;
			case 'again':
				chat.leaf = this.#chats.messages.get(ask.message)?.parent ?? null;
				break;
			case 'continue':
				reply = this.#chats.messages.get(ask.message);
				break;
		}
		reply ??= this.#chats.add(chat, 'assistant', '');
		reply.state = 'writing';
		return reply;
	}

	async #play(
		chat: StoredChat,
		reply: StoredMessage,
		ask: Ask,
		channel: Channel<ReplyEvent>,
	): Promise<void> {
		const use = this.#use(chat, '');
		const kept = reply.text;
		const asked = ask.kind === 'again' ? ask.attention : null;
		const answer =
			this.#tokens > 0 ? longAnswer(this.#tokens) : this.#script === 'fast' ? longAnswer(3000) : ANSWER;
		const { text, stats, end } = await playReply(
			{
				text: ask.kind === 'continue' ? answer.slice(kept.length) : answer,
				attention: asked ?? this.#settings.attention,
				promptTokens: use.promptTokens,
				cachedTokens:
					chat.documents.length > 0 && this.#chats.view(chat).messages.length > 2
						? use.promptTokens - 48
						: 0,
				readRate: this.#script === 'slow-prefill' ? 600 : 9000,
				writeRate: this.#rate,
				failAt: this.#script === 'fails' ? 40 : null,
				sources: chat.documents.map(({ name, pages }) =>
					pages > 1 ? `${name} (pages 1–${pages})` : name,
				),
			},
			channel,
			() => this.#stop,
		);
		this.#running = false;
		reply.text = kept + text;
		reply.stats = stats;
		reply.state = end;
		reply.error = end === 'failed' ? 'The device ran out of memory.' : null;
		const message = this.#chats.messageView(reply);
		channel.onmessage(
			structuredClone(
				end === 'failed'
					? {
							kind: 'failed',
							error: {
								...refusal('The device ran out of memory.'),
								kept: 'What was written is kept.',
							},
							message,
						}
					: { kind: 'done', message },
			),
		);
	}
}
