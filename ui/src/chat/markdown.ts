import type { Token, Tokens } from 'marked';
import { AnswerHtml, type RenderOptions } from './answerHtml';
import { closeHalfOpen } from './halfOpen';
import { sanitise } from './sanitise';

/** One block of an answer: a paragraph, a list, a fence. `html` is sanitised. */
export interface Block {
	key: number;
	html: string;
}

/**
 * Renders a growing answer. Blocks that are closed are kept; only the open one at the end is done again.
 * Stored and streamed answers go through the same code: a finished text gives the same HTML either way.
 */
export class AnswerRenderer {
	#options: RenderOptions | null = null;
	#html: AnswerHtml | null = null;
	/** Text whose blocks are closed. */
	#closedText = '';
	#closed: Block[] = [];
	#links: Record<string, Pick<Tokens.Link | Tokens.Image, 'href' | 'title'>> = {};

	/** `open`: the text still grows. `options` by identity: a new object renders everything again. */
	render(source: string, options: RenderOptions, open: boolean): Block[] {
		const text = source.replace(/\r\n?/g, '\n');
		if (options !== this.#options || !this.#html || !text.startsWith(this.#closedText)) {
			this.#options = options;
			this.#html = new AnswerHtml(options);
			this.#closedText = '';
			this.#closed = [];
			this.#links = {};
		}
		const html = this.#html;
		const tail = text.slice(this.#closedText.length);
		const tokens = html.lex(tail, this.#links);
		const last = open ? tokens.findLastIndex((token) => token.type !== 'space') : tokens.length;
		this.#close(html, tokens.slice(0, Math.max(0, last)));
		return last >= 0 && last < tokens.length
			? [...this.#closed, ...this.#openBlock(html, tokens.slice(last))]
			: this.#closed;
	}

	#close(html: AnswerHtml, tokens: Token[]): void {
		if (tokens.length === 0) return;
		const fresh: Block[] = [];
		for (const token of tokens) {
			this.#closedText += token.raw;
			if (token.type === 'space' || token.type === 'def') continue;
			fresh.push({
				key: this.#closed.length + fresh.length,
				html: sanitise(html.html([token], false)),
			});
		}
		// A new array, so that the page sees the change.
		this.#closed = [...this.#closed, ...fresh];
	}

	#openBlock(html: AnswerHtml, tokens: Token[]): Block[] {
		const raw = tokens.map((token) => token.raw).join('');
		const completed = closeHalfOpen(raw);
		const shown = html.lex(completed, { ...this.#links }).filter((token) => token.type !== 'space');
		return shown.map((token, offset) => ({
			key: this.#closed.length + offset,
			html: sanitise(html.html([token], true)),
		}));
	}
}
