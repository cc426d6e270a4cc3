import { describe, expect, it } from 'vitest';
import { findCitations, quoteNear } from './citations';

const handbook = { id: 1, name: 'handbook.pdf', pages: 24 };
const report = { id: 2, name: 'annual report.pdf', pages: 412 };
const ring = { id: 3, name: 'src/ring.rs', pages: 1 };
const lib = { id: 4, name: 'src/lib.rs', pages: 1 };

function cited(text: string, documents = [handbook]) {
	return findCitations(text, documents).map((citation) => [
		text.slice(citation.start, citation.end),
		citation.document,
		citation.page,
	]);
}

describe('findCitations', () => {
	it.each([
		['It is on page 12.', 'page 12', 12],
		['The code (page 12) is secret.', 'page 12', 12],
		['Page 12: "The code."', 'Page 12', 12],
		['see p. 7', 'p. 7', 7],
		['pages 3–5 say so', 'pages 3–5', 3],
		['handbook.pdf, page 12', 'handbook.pdf, page 12', 12],
		['handbook.pdf (page 12)', 'handbook.pdf (page 12)', 12],
	])('finds %j', (text, label, page) => {
		expect(cited(text)).toEqual([[label, 1, page]]);
	});

	it('finds its place behind letters that are longer in lower case', () => {
		expect(cited('İİİ: handbook.pdf, page 12, says so.')).toEqual([['handbook.pdf, page 12', 1, 12]]);
		expect(cited('see İzmir.pdf.', [{ id: 1, name: 'İzmir.pdf', pages: 1 }])).toEqual([
			['İzmir.pdf', 1, 1],
		]);
	});

	it('leaves pages that do not exist as text', () => {
		expect(cited('page 25 and page 0')).toEqual([]);
		expect(cited('handbook.pdf, page 99')).toEqual([['handbook.pdf', 1, 1]]);
	});

	it('does not find pages inside other words', () => {
		expect(cited('homepage 12, page 12th and my-page 3')).toEqual([]);
	});

	it('gives a bare page to the document named last before it', () => {
		const text = 'annual report.pdf says so (page 300), and page 12 as well.';
		expect(cited(text, [handbook, report])).toEqual([
			['annual report.pdf', 2, 1],
			['page 300', 2, 300],
			['page 12', 2, 12],
		]);
	});

	it('does not guess between several documents', () => {
		expect(cited('It is on page 12.', [handbook, report])).toEqual([]);
		// Only one of them has so many pages.
		expect(cited('It is on page 300.', [handbook, report])).toEqual([['page 300', 2, 300]]);
	});

	it('finds source files by path and by an unambiguous last part', () => {
		expect(cited('From src/ring.rs:', [ring, lib])).toEqual([['src/ring.rs', 3, 1]]);
		expect(cited('in ring.rs and in lib.rs', [ring, lib])).toEqual([
			['ring.rs', 3, 1],
			['lib.rs', 4, 1],
		]);
		expect(cited('in lib.rs', [lib, { id: 5, name: 'core/lib.rs', pages: 1 }])).toEqual([]);
		expect(cited('other/src/ring.rs', [ring])).toEqual([]);
	});

	it('does not cite page 1 of source files', () => {
		expect(cited('page 1', [ring, lib])).toEqual([]);
	});

	it('finds nothing without documents', () => {
		expect(cited('page 12 of handbook.pdf', [])).toEqual([]);
	});
});

describe('quoteNear', () => {
	it('takes the quotation next to the citation', () => {
		const text = 'Page 4: "Open the valve slowly." Page 5: "Close it at once."';
		const at = text.indexOf('Page 5');
		expect(quoteNear(text, at, at + 6)).toBe('Close it at once.');
	});

	it('takes the sentence where nothing is quoted', () => {
		const text = 'First. The code is 4471 (page 12). Last.';
		const at = text.indexOf('page 12');
		expect(quoteNear(text, at, at + 7)).toBe('The code is 4471');
	});
});
