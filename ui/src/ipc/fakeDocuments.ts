import type { Channel } from '@tauri-apps/api/core';
import type { AttachEvent, DocumentView } from './bindings';
import type { FakeChats, StoredChat } from './fakeChats';
import { FOLDER, refusal, refuse, scannedBook, type Script } from './fakeFixtures';
import { pause } from './fakeReply';
import { handbookPage, SOURCE_FILE } from './fakeText';

/** The documents of the scripted engine, and the commands about them. */
export class FakeDocuments {
	readonly #chats: FakeChats;
	readonly #script: Script;
	readonly #texts = new Map<number, string[]>();
	#pastes = 0;

	constructor(chats: FakeChats, script: Script) {
		this.#chats = chats;
		this.#script = script;
	}

	handle(command: string, chat: StoredChat | undefined, args: Record<string, unknown>): unknown {
		const channel = args.channel as Channel<AttachEvent>;
		switch (command) {
			case 'attach_pick':
				return this.#attach(chat, channel, [
					this.#script === 'scanned' ? 'scanned.pdf' : 'manual.pdf',
				]);
			case 'attach_dropped':
				return this.#attach(chat, channel, ['dropped.pdf']);
			case 'attach_sample':
				return this.#attach(chat, channel, ['reprise-handbook.pdf']);
			case 'attach_folder':
				return this.#attach(chat, channel, args.names as string[]);
			case 'attach_paste':
				return this.#attach(chat, channel, [`Pasted text ${++this.#pastes}`], String(args.text));
			case 'folder_pick':
				return FOLDER;
			case 'attach_cancel':
				return null;
			case 'document_remove':
				for (const each of this.#chats.chats.values()) {
					each.documents = each.documents.filter(({ id }) => id !== args.document);
				}
				return null;
			case 'document_page':
				return this.#page(Number(args.document), Number(args.page));
			default:
				throw new Error(`the scripted engine knows no command ${command}`);
		}
	}

	/** A document with pages to look at. */
	make(name: string, text?: string): DocumentView {
		const id = this.#chats.id();
		const kind =
			text !== undefined
				? 'paste'
				: name.endsWith('.pdf')
					? 'pdf'
					: name.endsWith('.rs')
						? 'code'
						: 'text';
		const pages = kind === 'pdf' ? (name === 'reprise-handbook.pdf' ? 24 : 412) : 1;
		const texts =
			text !== undefined
				? [text]
				: kind === 'pdf'
					? Array.from({ length: pages }, (_, at) => handbookPage(at + 1))
					: [SOURCE_FILE];
		this.#texts.set(id, texts);
		const tokens = Math.round(texts.reduce((sum, page) => sum + page.length, 0) / 3.7);
		const view: DocumentView = {
			id,
			name,
			kind,
			pages,
			tokens,
			pagesWithoutText: [],
			problems: [],
			locked: false,
		};
		return name === 'scanned.pdf' ? scannedBook(view) : view;
	}

	async #attach(
		chat: StoredChat | undefined,
		channel: Channel<AttachEvent>,
		names: string[],
		text?: string,
	) {
		if (!chat) return refuse('This chat is gone.');
		for (const name of names) {
			if (text === undefined) {
				for (let done = 0; done <= 4; done += 1) {
					channel.onmessage({ kind: 'reading', name, pagesDone: done * 103, pagesTotal: 412 });
					await pause(40);
				}
			}
			if (this.#script === 'refused') {
				channel.onmessage({
					kind: 'refused',
					name,
					error: refusal('This file is protected by a password.'),
				});
				continue;
			}
			const document = this.make(name, text);
			chat.documents = [...chat.documents, document];
			channel.onmessage({ kind: 'attached', document });
		}
		channel.onmessage({ kind: 'end' });
		return null;
	}

	#page(document: number, page: number) {
		const texts = this.#texts.get(document);
		const view = [...this.#chats.chats.values()]
			.flatMap(({ documents }) => documents)
			.find(({ id }) => id === document);
		if (!texts || !view) return refuse('This document is gone.');
		const text = view.pagesWithoutText.includes(page) ? '' : (texts[page - 1] ?? '');
		return { document, name: view.name, page, pages: view.pages, text };
	}
}
