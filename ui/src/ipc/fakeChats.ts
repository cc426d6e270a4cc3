import type { ChatRow, ChatView, DocumentView, MessageView } from './bindings';
import { ANSWER } from './fakeText';

interface StoredMessage extends Omit<MessageView, 'version' | 'siblings'> {
	parent: number | null;
	chat: number;
}

interface StoredChat {
	id: number;
	title: string;
	updatedMs: number;
	documents: DocumentView[];
	draft: string;
	/** The last message of the shown branch. */
	leaf: number | null;
	deleted: boolean;
}

/** Chats of the scripted engine, in memory: a tree of messages for each, as the real one keeps them. */
export class FakeChats {
	readonly chats = new Map<number, StoredChat>();
	readonly messages = new Map<number, StoredMessage>();
	readonly #siblings = new Map<string, number[]>();
	#next = 1;

	id(): number {
		return this.#next++;
	}

	create(title = '', updatedMs = Date.now()): StoredChat {
		const chat = {
			id: this.id(),
			title,
			updatedMs,
			documents: [],
			draft: '',
			leaf: null,
			deleted: false,
		};
		this.chats.set(chat.id, chat);
		return chat;
	}

	/** Adds a message under `parent` and shows it. */
	add(
		chat: StoredChat,
		author: MessageView['author'],
		text: string,
		parent: number | null = chat.leaf,
	): StoredMessage {
		const message: StoredMessage = {
			id: this.id(),
			author,
			text,
			state: 'done',
			stats: null,
			error: null,
			parent,
			chat: chat.id,
		};
		this.messages.set(message.id, message);
		const key = siblingKey(message);
		this.#siblings.set(key, [...(this.#siblings.get(key) ?? []), message.id]);
		chat.leaf = message.id;
		return message;
	}

	siblings(message: StoredMessage): number[] {
		return this.#siblings.get(siblingKey(message)) ?? [];
	}

	/** Follows the newest children of a message. */
	show(chat: StoredChat, message: number): void {
		let leaf = message;
		for (;;) {
			const child = [...this.messages.values()].findLast(({ parent }) => parent === leaf);
			if (!child) break;
			leaf = child.id;
		}
		chat.leaf = leaf;
	}

	chatOf(message: number): StoredChat | undefined {
		const chat = this.messages.get(message)?.chat;
		return chat === undefined ? undefined : this.chats.get(chat);
	}

	messageView(message: StoredMessage): MessageView {
		const siblings = this.siblings(message);
		const { id, author, text, state, stats, error } = message;
		return { id, author, text, state, stats, error, siblings, version: siblings.indexOf(id) + 1 };
	}

	view(chat: StoredChat): ChatView {
		const { id, title, documents, draft } = chat;
		const messages = this.#branch(chat).map((message) => this.messageView(message));
		return { id, title, documents: [...documents], draft, messages };
	}

	rows(): ChatRow[] {
		return [...this.chats.values()]
			.filter((chat) => !chat.deleted)
			.sort((a, b) => b.updatedMs - a.updatedMs)
			.map(({ id, title, updatedMs }) => ({ id, title, updatedMs, snippet: '' }));
	}

	/** A chat with this many messages, for the speed of opening it. */
	fill(chat: StoredChat, messages: number): void {
		for (let at = 0; at < messages; at += 2) {
			this.add(
				chat,
				'user',
				`Question ${at / 2 + 1}: what does the handbook say about circuit ${at / 2 + 1}?`,
			);
			this.add(
				chat,
				'assistant',
				at % 6 === 0
					? ANSWER
					: `Circuit ${at / 2 + 1} is checked **every week** (page ${(at % 12) + 1}).`,
			);
		}
	}

	#branch(chat: StoredChat): StoredMessage[] {
		return this.#ancestors(chat.leaf)
			.reverse()
			.map((id) => this.messages.get(id))
			.filter((message) => message !== undefined);
	}

	#ancestors(leaf: number | null): number[] {
		const list: number[] = [];
		for (let at = leaf; at !== null; at = this.messages.get(at)?.parent ?? null) list.push(at);
		return list;
	}
}

/** Versions of one message share what it answers and who wrote it. */
function siblingKey({ chat, parent, author }: StoredMessage): string {
	return `${chat}/${parent}/${author}`;
}

export type { StoredChat, StoredMessage };
