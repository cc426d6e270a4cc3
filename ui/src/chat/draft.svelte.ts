import { commands } from '../ipc/bindings';
import { settle } from '../ipc/call';

/** A pause in typing after which the draft is kept. */
const SAVE_AFTER_MS = 400;

/** The unsent text of one chat, kept by the shell so that it survives a restart. */
export class Draft {
	text = $state('');
	#chat: number | null = null;
	#saved = '';
	#timer: ReturnType<typeof setTimeout> | undefined;

	/** Shows the draft of another chat, after keeping this one's. `text`: what was written before the chat was made. */
	show(chat: number | null, kept: string, text = kept): void {
		void this.flush();
		this.#chat = chat;
		this.#saved = kept;
		this.text = kept;
		if (text !== kept) this.set(text);
	}

	get chat(): number | null {
		return this.#chat;
	}

	set(text: string): void {
		this.text = text;
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => void this.flush(), SAVE_AFTER_MS);
	}

	/** Keeps the text now. */
	async flush(): Promise<void> {
		clearTimeout(this.#timer);
		if (this.#chat === null || this.text === this.#saved) return;
		this.#saved = this.text;
		// A draft that cannot be kept is still on screen; the shell reports storage trouble by itself.
		await settle(commands.chatSetDraft(this.#chat, this.text));
	}
}
