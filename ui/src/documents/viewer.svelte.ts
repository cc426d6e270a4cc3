import { commands, type PageView, type UserError } from '../ipc/bindings';
import { settle } from '../ipc/call';
import { locateQuote, type Found } from './quote';

/** One page of a document, with the quotation a citation was about. */
export class Viewer {
	/** Null while no page was asked for. */
	document = $state<number | null>(null);
	page = $state(1);
	view = $state.raw<PageView | null>(null);
	error = $state.raw<UserError | null>(null);
	loading = $state(false);
	quote = $state('');
	found = $derived<Found | null>(this.view && this.quote ? locateQuote(this.view.text, this.quote) : null);
	#asked = 0;

	async open(document: number, page: number, quote = ''): Promise<void> {
		const ticket = ++this.#asked;
		// Another document's text must not stand under this one's name.
		if (document !== this.document) this.view = null;
		this.document = document;
		this.page = page;
		this.quote = quote;
		this.loading = true;
		const outcome = await settle(commands.documentPage(document, page));
		if (ticket !== this.#asked) return;
		this.loading = false;
		this.error = outcome.ok ? null : outcome.error;
		if (outcome.ok) {
			this.view = outcome.value;
			this.page = outcome.value.page;
		}
	}

	turn(by: number): void {
		if (this.document === null || !this.view) return;
		const page = Math.min(Math.max(1, this.page + by), this.view.pages);
		if (page !== this.page) void this.open(this.document, page);
	}

	goTo(page: number): void {
		if (this.document === null || !this.view || !Number.isInteger(page)) return;
		void this.open(this.document, Math.min(Math.max(1, page), this.view.pages));
	}

	close(): void {
		this.#asked += 1;
		this.document = null;
		this.view = null;
		this.error = null;
		this.loading = false;
	}
}

/** Text of a page in pieces of some lines, so that a long one is laid out only where it is looked at. */
export interface Piece {
	start: number;
	text: string;
	/** Highlighted part, relative to the piece; null for none. */
	marked: Found | null;
}

const LINES_PER_PIECE = 80;

export function pieces(text: string, found: Found | null): Piece[] {
	const list: Piece[] = [];
	let start = 0;
	while (start < text.length || list.length === 0) {
		let end = start;
		for (let line = 0; line < LINES_PER_PIECE && end < text.length; line += 1) {
			const next = text.indexOf('\n', end);
			end = next === -1 ? text.length : next + 1;
		}
		const from = found ? Math.max(found.start, start) : 0;
		const to = found ? Math.min(found.end, end) : 0;
		const marked = found && from < to ? { start: from - start, end: to - start } : null;
		list.push({ start, text: text.slice(start, end), marked });
		start = end;
	}
	return list;
}
