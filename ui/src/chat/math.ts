import katex from 'katex';

/** Longer formulas stay text: KaTeX is quadratic in places. */
const MOST_CHARACTERS = 4_000;

/** MathML for a formula, or null where it is not one. MathML needs no inline styles, which the content policy forbids. */
export function formula(tex: string, display: boolean): string | null {
	if (tex.length > MOST_CHARACTERS) return null;
	try {
		const html = katex.renderToString(tex, {
			output: 'mathml',
			displayMode: display,
			trust: false,
			throwOnError: true,
			strict: 'ignore',
			maxExpand: 200,
			maxSize: 20,
		});
		// The sanitiser would keep the annotation's text and show the source a second time.
		return html.replace(/<annotation[^>]*>[\s\S]*?<\/annotation>/g, '').replace(/<\/?semantics>/g, '');
	} catch {
		return null;
	}
}
