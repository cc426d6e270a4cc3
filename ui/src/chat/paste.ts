/** Longer pastes become a document, so that the text box never has to lay out a book. */
export const PASTE_LIMIT = 2500;
/** What "paste as plain text" (Ctrl+Shift+V) may still put into the box. */
export const PLAIN_PASTE_LIMIT = 20_000;

export type PastePlan = 'type' | 'attach';

/** Where pasted text goes. `plain`: the user asked for plain text with Ctrl+Shift+V. */
export function planPaste(length: number, plain: boolean): PastePlan {
	return length <= (plain ? PLAIN_PASTE_LIMIT : PASTE_LIMIT) ? 'type' : 'attach';
}
