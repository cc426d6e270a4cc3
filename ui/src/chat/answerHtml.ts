import {
	Lexer,
	Marked,
	type MarkedExtension,
	type Token,
	type TokenizerAndRendererExtension,
	type Tokens,
} from 'marked';
import type { DocumentView } from '../ipc/bindings';
import { findCitations } from './citations';
import type { highlight } from './highlight';
import type { formula } from './math';

/** What rendering depends on besides the text. */
export interface RenderOptions {
	/** What citations may lead to. */
	documents: readonly DocumentView[];
	/** Null while not loaded; `want` asks for it. */
	highlight: typeof highlight | null;
	formula: typeof formula | null;
	want: (part: 'highlight' | 'formula') => void;
}

const ESCAPES: Record<string, string> = {
	'&': '&amp;',
	'<': '&lt;',
	'>': '&gt;',
	'"': '&quot;',
	"'": '&#39;',
};

export function escapeHtml(text: string): string {
	return text.replace(/[&<>"']/g, (character) => ESCAPES[character] ?? character);
}

/** Only addresses that lead to the web or to a mail program; everything else is shown as text. */
export function outsideAddress(href: string): string | null {
	try {
		const url = new URL(href);
		return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
	} catch {
		return null;
	}
}

/** Markdown tokens to HTML for one set of options. Raw HTML in the answer is shown as the text it is. */
export class AnswerHtml {
	readonly #marked: Marked;
	readonly #options: RenderOptions;
	/** The last block is still growing: colouring it would be done again on every frame. */
	#open = false;
	#insideLink = false;

	constructor(options: RenderOptions) {
		this.#options = options;
		this.#marked = new Marked({ gfm: true }, this.#extension());
	}

	/**
	 * Tokens of `source`, with link definitions that stand before it. Marked recurses into quotes and lists: a thousand of
	 * them in one another, which a model that repeats itself does write, leave the text as it is.
	 */
	lex(source: string, links: Record<string, Pick<Tokens.Link | Tokens.Image, 'href' | 'title'>>): Token[] {
		const lexer = new Lexer(this.#marked.defaults);
		Object.assign(lexer.tokens.links, links);
		try {
			const tokens = lexer.lex(source);
			Object.assign(links, lexer.tokens.links);
			return tokens;
		} catch {
			const text = { type: 'text', raw: source, text: source, escaped: false };
			return [{ type: 'paragraph', raw: source, text: source, tokens: [text] }];
		}
	}

	html(tokens: Token[], open: boolean): string {
		this.#open = open;
		try {
			return this.#marked.parser(tokens);
		} catch {
			this.#insideLink = false;
			return `<p>${escapeHtml(tokens.map((token) => token.raw).join(''))}</p>`;
		}
	}

	#extension(): MarkedExtension {
		const text = (plain: string) => this.#cited(plain);
		const code = (token: Tokens.Code) => this.#codeBlock(token);
		const inlineCode = (plain: string) => this.#inlineCode(plain);
		const link = (href: string, title: string | null | undefined, label: () => string) =>
			this.#link(href, title, label);
		return {
			extensions: [this.#mathExtension('block'), this.#mathExtension('inline')],
			renderer: {
				html: (token) => (/^<br\s*\/?>$/i.test(token.text.trim()) ? '<br>' : escapeHtml(token.text)),
				code: (token) => code(token),
				codespan: (token) => inlineCode(token.text),
				checkbox: (token) => (token.checked ? '☑ ' : '☐ '),
				image: (token) =>
					`<span class="no-image">[image: ${escapeHtml(token.text || 'no description')}]</span>`,
				link(token) {
					return link(token.href, token.title, () => this.parser.parseInline(token.tokens));
				},
				text(token) {
					if ('tokens' in token) return this.parser.parseInline(token.tokens);
					return text(token.text);
				},
			},
		};
	}

	#cited(plain: string): string {
		if (this.#insideLink) return escapeHtml(plain);
		let html = '';
		let at = 0;
		for (const citation of findCitations(plain, this.#options.documents)) {
			const label = escapeHtml(plain.slice(citation.start, citation.end));
			html +=
				escapeHtml(plain.slice(at, citation.start)) +
				citationButton(citation.document, citation.page, label);
			at = citation.end;
		}
		return html + escapeHtml(plain.slice(at));
	}

	#inlineCode(plain: string): string {
		const label = `<code>${escapeHtml(plain)}</code>`;
		const [citation] = this.#insideLink ? [] : findCitations(plain, this.#options.documents);
		return citation ? citationButton(citation.document, citation.page, label) : label;
	}

	#link(href: string, title: string | null | undefined, label: () => string): string {
		const address = outsideAddress(href);
		this.#insideLink = true;
		const text = label();
		this.#insideLink = false;
		if (address === null) return text;
		const hint = escapeHtml(title ?? address);
		return `<button type="button" role="link" class="outside" data-link="${escapeHtml(address)}" title="${hint}">${text}</button>`;
	}

	#codeBlock(token: Tokens.Code): string {
		const language = /^[\w+#.-]{1,30}/.exec(token.lang ?? '')?.[0].toLowerCase() ?? '';
		let html: string | null = null;
		if (language !== '' && !this.#open) {
			if (this.#options.highlight) html = this.#options.highlight(token.text, language);
			else this.#options.want('highlight');
		}
		const copy =
			'<button type="button" class="copy-code" data-copy="1" aria-label="Copy code">Copy</button>';
		const head = `<figcaption><span>${escapeHtml(language || 'text')}</span>${copy}</figcaption>`;
		return `<figure class="code">${head}<pre><code>${html ?? escapeHtml(token.text)}</code></pre></figure>`;
	}

	#formula(tex: string, display: boolean): string {
		if (!this.#options.formula) this.#options.want('formula');
		const math = this.#options.formula?.(tex.trim(), display) ?? null;
		const html = math ?? `<code>${escapeHtml(tex.trim())}</code>`;
		return display ? `<div class="formula">${html}</div>` : html;
	}

	/** `$$…$$` and `\[…\]` as blocks; `$…$`, `\(…\)` and short `$$…$$` in a line. A price is not a formula. */
	#mathExtension(level: 'block' | 'inline'): TokenizerAndRendererExtension {
		const block = /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
		const inline =
			/^(?:\$\$([^\n]+?)\$\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\$(?![\s$])((?:\\.|[^$\n\\])+?)(?<!\s)\$(?!\d))/;
		const name = `${level}-math`;
		return {
			name,
			level,
			start: (source) => {
				const at = source.search(level === 'block' ? /\$\$|\\\[/ : /\$|\\[([]/);
				return at === -1 ? undefined : at;
			},
			tokenizer: (source) => {
				const match = (level === 'block' ? block : inline).exec(source);
				if (!match) return undefined;
				return { type: name, raw: match[0], tex: match[1] ?? match[2] ?? match[3] ?? match[4] ?? '' };
			},
			renderer: (token) => this.#formula(String(token.tex), level === 'block'),
		};
	}
}

function citationButton(document: number, page: number, label: string): string {
	return `<button type="button" class="citation" data-testid="citation" data-cite="${document}" data-page="${page}" title="Open page ${page}">${label}</button>`;
}
