import { Channel } from '@tauri-apps/api/core';
import { commands, type AttachEvent, type DocumentView, type UserError } from '../ipc/bindings';
import { settle, type Outcome } from '../ipc/call';

/** A source that is being read. */
export interface Reading {
	name: string;
	pagesDone: number;
	/** 0 while unknown. */
	pagesTotal: number;
}

/** A source that could not be attached. */
export interface Refusal {
	id: number;
	name: string;
	error: UserError;
}

/** What is attached to the open chat, and what is on its way there. */
export class Attachments {
	documents = $state.raw<DocumentView[]>([]);
	readings = $state.raw<Reading[]>([]);
	refusals = $state.raw<Refusal[]>([]);
	/** A source is being opened; its first event has not come yet. */
	waiting = $state(0);
	#chat: number | null = null;
	#nextRefusal = 1;
	readonly #changed: () => void;

	/** `changed`: documents came or went, so the context has to be measured again. */
	constructor(changed: () => void = () => undefined) {
		this.#changed = changed;
	}

	get busy(): boolean {
		return this.waiting > 0 || this.readings.length > 0;
	}

	/** Shows the documents of a chat. Notices of another chat's sources go. */
	show(chat: number | null, documents: DocumentView[]): void {
		if (chat !== this.#chat) {
			this.readings = [];
			this.refusals = [];
		}
		this.#chat = chat;
		this.documents = documents;
	}

	pick(chat: number): Promise<Outcome<null>> {
		// While the native dialog is open nothing is being read.
		return this.#read(chat, (channel) => commands.attachPick(chat, channel), false);
	}

	drop(chat: number, handle: number): Promise<Outcome<null>> {
		return this.#read(chat, (channel) => commands.attachDropped(chat, handle, channel));
	}

	paste(chat: number, text: string): Promise<Outcome<null>> {
		return this.#read(chat, (channel) => commands.attachPaste(chat, text, channel));
	}

	sample(chat: number): Promise<Outcome<null>> {
		return this.#read(chat, (channel) => commands.attachSample(chat, channel));
	}

	folder(chat: number, handle: number, names: string[]): Promise<Outcome<null>> {
		return this.#read(chat, (channel) => commands.attachFolder(chat, handle, names, channel));
	}

	/** Stops reading; what is attached already stays. */
	async cancel(): Promise<void> {
		await settle(commands.attachCancel());
		this.readings = [];
	}

	async remove(document: number): Promise<Outcome<null>> {
		const outcome = await settle(commands.documentRemove(document));
		if (outcome.ok) {
			this.documents = this.documents.filter(({ id }) => id !== document);
			this.#changed();
		}
		return outcome;
	}

	forget(refusal: number): void {
		this.refusals = this.refusals.filter(({ id }) => id !== refusal);
	}

	async #read(
		chat: number,
		start: (channel: Channel<AttachEvent>) => ReturnType<typeof commands.attachPick>,
		waits = true,
	): Promise<Outcome<null>> {
		if (waits) this.waiting += 1;
		let begun = !waits;
		const begin = () => {
			if (!begun) this.waiting -= 1;
			begun = true;
		};
		const channel = new Channel<AttachEvent>((event) => {
			begin();
			// Sources of a chat that is no longer on screen are read on, and shown when it is opened again.
			if (chat === this.#chat) this.apply(event);
		});
		const outcome = await settle(start(channel));
		begin();
		return outcome;
	}

	apply(event: AttachEvent): void {
		switch (event.kind) {
			case 'reading': {
				const { name, pagesDone, pagesTotal } = event;
				const others = this.readings.filter((reading) => reading.name !== name);
				this.readings = [...others, { name, pagesDone, pagesTotal }];
				break;
			}
			case 'attached': {
				const { document } = event;
				this.readings = this.readings.filter(
					({ name }) => name !== document.name && !name.endsWith(`/${document.name}`),
				);
				const others = this.documents.filter(({ id }) => id !== document.id);
				this.documents = [...others, document];
				this.#changed();
				break;
			}
			case 'refused':
				this.readings = this.readings.filter(({ name }) => name !== event.name);
				this.refusals = [
					...this.refusals,
					{ id: this.#nextRefusal++, name: event.name, error: event.error },
				];
				break;
			case 'end':
				this.readings = [];
				break;
		}
	}
}
