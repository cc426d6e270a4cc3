import { Channel } from '@tauri-apps/api/core';
import { SvelteMap } from 'svelte/reactivity';
import {
	commands,
	type Ask,
	type AttentionMode,
	type ChatView,
	type MessageView,
	type ReplyEvent,
	type UserError,
} from '../ipc/bindings';
import { settle, type Outcome } from '../ipc/call';
import { FrameQueue } from '../kit/frame';
import { Reply } from './reply.svelte';

/** What the rest of the app hears of a reply: every event after it was folded in. */
export type ReplyListener = (event: ReplyEvent, reply: Reply) => void;

/** The open chat and the one reply that may be running, in this chat or another. */
export class Conversation {
	view = $state.raw<ChatView | null>(null);
	reply = $state.raw<Reply | null>(null);
	/** A chat is being opened: its id. */
	opening = $state<number | null>(null);
	/** Why the last chat could not be opened, or a reply failed before it had a message. */
	failure = $state.raw<UserError | null>(null);
	/** Why replies failed in this session, with advice; older failures only kept their sentence. */
	/** The last change of state, for assistive technology; it outlives the reply. */
	announcement = $state('');
	readonly errors = new SvelteMap<number, UserError>();
	/** Replies that have ended. */
	#ended = 0;
	readonly #listen: ReplyListener;
	readonly #schedule: ((run: () => void) => void) | undefined;

	constructor(listen: ReplyListener = () => undefined, schedule?: (run: () => void) => void) {
		this.#listen = listen;
		this.#schedule = schedule;
	}

	/** The running reply, if it belongs to the chat on screen. */
	get writing(): Reply | null {
		return this.reply && this.reply.chat === this.view?.id ? this.reply : null;
	}

	get busy(): boolean {
		return this.reply !== null;
	}

	get empty(): boolean {
		return this.view === null || this.view.messages.length === 0;
	}

	show(view: ChatView | null): void {
		this.view = view;
		this.failure = null;
	}

	/** Opens a chat. A slower answer for a chat the user has left again is dropped. */
	async open(chat: number): Promise<boolean> {
		this.opening = chat;
		const outcome = await this.#fetch(() => commands.chatOpen(chat));
		if (this.opening !== chat) return false;
		this.opening = null;
		if (outcome.ok) this.show(outcome.value);
		else this.failure = outcome.error;
		return outcome.ok;
	}

	question(text: string): Promise<Outcome<null>> {
		return this.#ask({ kind: 'question', text });
	}

	again(message: number, attention: AttentionMode | null): Promise<Outcome<null>> {
		return this.#ask({ kind: 'again', message, attention });
	}

	carryOn(message: number): Promise<Outcome<null>> {
		return this.#ask({ kind: 'continue', message });
	}

	edit(message: number, text: string): Promise<Outcome<null>> {
		return this.#ask({ kind: 'edit', message, text });
	}

	async stop(): Promise<void> {
		const { reply } = this;
		if (!reply || reply.stopping) return;
		reply.stopping = true;
		const outcome = await settle(commands.stop());
		if (!outcome.ok) {
			reply.stopping = false;
			this.failure = outcome.error;
		}
	}

	/** Shows another version of a message and what follows it, unless another chat was opened meanwhile. */
	async showVersion(message: number): Promise<void> {
		const chat = this.view?.id;
		const outcome = await this.#fetch(() => commands.messageShow(message));
		if (chat !== this.view?.id) return;
		if (outcome.ok) this.show(outcome.value);
		else this.failure = outcome.error;
	}

	/** A chat as it is now: one read before a reply ended, and heard of after that, would show it half written for good. */
	async #fetch(ask: () => ReturnType<typeof commands.chatOpen>): Promise<Outcome<ChatView>> {
		for (;;) {
			const ended = this.#ended;
			const outcome = await settle(ask());
			if (ended === this.#ended) return outcome;
		}
	}

	/** The last message of the user, for ↑ in an empty composer. */
	get lastQuestion(): MessageView | null {
		return this.view?.messages.findLast((message) => message.author === 'user') ?? null;
	}

	async #ask(ask: Ask): Promise<Outcome<null>> {
		const chat = this.view?.id;
		if (chat === undefined || this.busy) {
			return { ok: false, error: NOT_NOW };
		}
		this.failure = null;
		const reply = new Reply(chat);
		this.reply = reply;
		const queue = new FrameQueue<ReplyEvent>((events) => {
			for (const event of events) this.#take(reply, event);
		}, this.#schedule);
		const channel = new Channel<ReplyEvent>((event) => queue.push(event));
		const outcome = await settle(commands.ask(chat, ask, channel));
		// Refused: nothing was stored or read, so nothing of the reply stays.
		if (!outcome.ok) this.reply = null;
		return outcome;
	}

	#take(reply: Reply, event: ReplyEvent): void {
		reply.apply(event);
		this.announcement = reply.announcement;
		const onScreen = this.view?.id === reply.chat;
		switch (event.kind) {
			case 'started':
				if (onScreen) this.view = event.chat;
				break;
			case 'prefill':
			case 'tokens':
				break;
			case 'done':
				if (onScreen) this.#replace(event.message);
				this.reply = null;
				this.#ended += 1;
				break;
			case 'failed': {
				if (event.message) {
					this.errors.set(event.message.id, event.error);
					if (onScreen) this.#replace(event.message);
				} else if (onScreen) {
					this.failure = event.error;
				}
				this.reply = null;
				this.#ended += 1;
				break;
			}
		}
		this.#listen(event, reply);
	}

	#replace(message: MessageView): void {
		if (!this.view) return;
		const messages = this.view.messages.map((old) => (old.id === message.id ? message : old));
		this.view = { ...this.view, messages };
	}
}

const NOT_NOW: UserError = {
	message: 'Another answer is being written.',
	kept: 'Your text is kept.',
	advice: [{ kind: 'hint', text: 'Wait until it is finished, or stop it first.' }],
	details: '',
};
