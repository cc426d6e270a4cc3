// @vitest-environment jsdom
import { describe, expect, it } from 'vitest';
import type { DocumentView } from '../ipc/bindings';
import type { RenderOptions } from './answerHtml';
import { highlight } from './highlight';
import { AnswerRenderer } from './markdown';
import { formula } from './math';

const handbook: DocumentView = {
	id: 3,
	name: 'handbook.pdf',
	kind: 'pdf',
	pages: 24,
	tokens: 1000,
	pagesWithoutText: [],
	problems: [],
	locked: true,
};
const options: RenderOptions = { documents: [handbook], highlight, formula, want: () => undefined };

function html(text: string, open = false): string {
	return new AnswerRenderer()
		.render(text, options, open)
		.map((block) => block.html)
		.join('\n');
}

function page(text: string): HTMLElement {
	const root = document.createElement('div');
	// The test looks at what the page would hold.
	// eslint-disable-next-line no-restricted-syntax
	root.innerHTML = html(text);
	return root;
}

/** What people have tried on chat windows, and what Markdown itself offers. */
const ATTACKS = [
	'<script>alert(1)</script>',
	'<img src=x onerror=alert(1)>',
	'<svg onload=alert(1)>',
	'<svg><script>alert(1)</script></svg>',
	'<iframe src="javascript:alert(1)"></iframe>',
	'<iframe srcdoc="<script>alert(1)</script>">',
	'<a href="javascript:alert(1)">x</a>',
	'<details open ontoggle=alert(1)>',
	'<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>',
	'<form action="https://evil.example"><input name=x><button formaction="javascript:alert(1)">go</button></form>',
	'<object data="data:text/html,<script>alert(1)</script>"></object>',
	'<embed src="javascript:alert(1)">',
	'<base href="https://evil.example/">',
	'<meta http-equiv="refresh" content="0;url=javascript:alert(1)">',
	'<link rel=stylesheet href="https://evil.example/x.css">',
	'<style>@import "https://evil.example/x.css"</style>',
	'<div style="background:url(https://evil.example)">x</div>',
	'<button data-cite="1" data-page="1" onclick="alert(1)">x</button>',
	'<input autofocus onfocus=alert(1)>',
	'<video><source onerror="alert(1)"></video>',
	'<template><img src=x onerror=alert(1)></template>',
	'<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
	'[x](javascript:alert(1))',
	'[x](JaVaScRiPt:alert(1))',
	'[x](java\nscript:alert(1))',
	'[x](data:text/html;base64,PHNjcmlwdD4=)',
	'[x](vbscript:msgbox)',
	'[x](file:///etc/passwd)',
	'[x](//evil.example)',
	'[x](https://evil.example "onmouseover=alert(1)")',
	'[x](https://evil.example/"onmouseover="alert(1))',
	'![x](https://evil.example/pixel.png)',
	'![x](javascript:alert(1))',
	'![x" onerror="alert(1)](x)',
	'<https://evil.example/"><script>alert(1)</script>>',
	'```"><script>alert(1)</script>\ncode\n```',
	'```html\n<script>alert(1)</script>\n```',
	'`<img src=x onerror=alert(1)>`',
	'# <img src=x onerror=alert(1)>',
	'| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |',
	'$\\href{javascript:alert(1)}{x}$',
	'$\\url{javascript:alert(1)}$',
	'$\\includegraphics{https://evil.example/x.png}$',
	'$\\htmlData{x=1}{y}$',
	'$$\\text{<img src=x onerror=alert(1)>}$$',
	'$<script>alert(1)</script>$',
	'page 12" onmouseover="alert(1)',
	'handbook.pdf<script>alert(1)</script>, page 12',
	'&lt;script&gt;alert(1)&lt;/script&gt;',
	'[a]: javascript:alert(1)\n\n[a]',
	'<!--<img src="--><img src=x onerror=alert(1)//">',
	'<x-custom onclick=alert(1)>',
];

describe('what an answer may put into the page', () => {
	it.each(ATTACKS)('is harmless: %s', (attack) => {
		for (const text of [attack, `Before ${attack} after`, `> ${attack}`, `- ${attack}`]) {
			const root = page(text);
			const elements = [...root.querySelectorAll('*')];
			const forbidden =
				'script,img,svg,iframe,object,embed,base,meta,link,style,form,input,video,a,template,details';
			expect(root.querySelector(forbidden)).toBeNull();
			for (const { attributes } of elements) {
				for (const { name, value } of attributes) {
					expect(name).not.toMatch(/^on|^style$|^href$|^src|^formaction$|^id$/i);
					expect(name === 'title' ? '' : value).not.toMatch(
						/^\s*(javascript|data|vbscript|file):/i,
					);
				}
			}
			for (const button of root.querySelectorAll<HTMLElement>('[data-link]')) {
				expect(button.dataset.link).toMatch(/^(https?:\/\/|mailto:)/);
			}
		}
	});

	it('shows raw HTML as the text it is', () => {
		expect(page('<b>bold</b>').textContent.trim()).toBe('<b>bold</b>');
	});
});

describe('AnswerRenderer', () => {
	const ANSWER = [
		'# Title\n\nA **bold** and *slanted* word, `code`, and a [link](https://example.org/a).\n\n',
		'1. one\n2. two\n   - nested\n\nAfter the list (page 12).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n',
		'```rust\nfn main() {}\n```\n\n> quoted\n> twice\n\nThe formula $a^2$ and:\n\n$$\\frac{1}{2}$$\n\nEnd.',
	].join('');

	it('gives the same blocks streamed in pieces as at once', () => {
		for (const size of [1, 3, 7, 50]) {
			const renderer = new AnswerRenderer();
			for (let end = 0; end < ANSWER.length; end += size)
				renderer.render(ANSWER.slice(0, end), options, true);
			expect(
				renderer
					.render(ANSWER, options, false)
					.map((block) => block.html)
					.join('\n'),
			).toBe(html(ANSWER));
		}
	});

	it('keeps closed blocks as the very same objects while the last one grows', () => {
		const renderer = new AnswerRenderer();
		const [first] = renderer.render('One.\n\nTwo', options, true);
		expect(renderer.render('One.\n\nTwo and more', options, true)[0]).toBe(first);
	});

	it('starts over when the text is another one', () => {
		const renderer = new AnswerRenderer();
		renderer.render('One.\n\nTwo.\n\n', options, true);
		expect(renderer.render('Other', options, false).map((block) => block.html)).toEqual([
			'<p>Other</p>\n',
		]);
	});

	it('knows link definitions of earlier blocks', () => {
		const renderer = new AnswerRenderer();
		const text = '[ref]: https://example.org/\n\nFirst.\n\nSee [it][ref].\n\nLast';
		renderer.render(text.slice(0, 45), options, true);
		const blocks = renderer.render(text, options, true);
		expect(blocks.map((block) => block.html).join('')).toContain('data-link="https://example.org/"');
	});

	it('colours closed code only', () => {
		expect(html('```rust\nfn main() {}', true)).not.toContain('hljs');
		expect(html('```rust\nfn main() {}\n```')).toContain('hljs-keyword');
	});

	it('leaves very long code and unknown languages plain', () => {
		expect(html(`\`\`\`rust\n${'let a = 1;\n'.repeat(6000)}\`\`\``)).not.toContain('hljs');
		expect(html('```nosuch\nx\n```')).toContain('<code>x</code>');
	});

	it('renders formulas as MathML and broken ones as their source', () => {
		expect(html('$a^2$')).toContain('<math');
		expect(html('$a^2$')).not.toContain('annotation');
		expect(html('$\\frac{$')).toContain('<code>');
		expect(html('It costs $5 and $10.')).not.toContain('<math');
	});

	it('asks for the parts it lacks', () => {
		const wanted: string[] = [];
		const bare: RenderOptions = {
			...options,
			highlight: null,
			formula: null,
			want: (part) => wanted.push(part),
		};
		new AnswerRenderer().render('```rust\nx\n```\n\n$a$', bare, false);
		expect(wanted).toEqual(['highlight', 'formula']);
	});

	it('makes citations buttons, in text, code and tables alike', () => {
		const root = page('See (page 12), `handbook.pdf` and **page 3**.\n\n| p |\n|---|\n| page 7 |');
		const cited = [...root.querySelectorAll<HTMLElement>('.citation')].map(({ dataset }) => dataset.page);
		expect(cited).toEqual(['12', '1', '3', '7']);
	});

	it('never shows pictures, only what they are called', () => {
		expect(page('![a chart](https://example.org/x.png)').textContent).toContain('[image: a chart]');
	});

	it.each(['> ', '- ', '1. '])('leaves %j nested beyond all measure as text', (mark) => {
		const text = `${mark.repeat(3000)}deep`;
		expect(page(text).textContent).toContain('deep');
		expect(html(text, true)).toContain('deep');
		expect(page(`Before.\n\n${text}`).textContent).toContain('Before.');
	});
});
