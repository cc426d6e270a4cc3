import { describe, expect, it } from 'vitest';
import { locateQuote } from './quote';
import { pageRanges } from './pages';
import { pieces } from './viewer.svelte';

const PAGE =
	'Warranty\n\nThe warranty lasts three years from\nthe day of purchase. It does not cover filters.';

function found(quote: string, page = PAGE): string | null {
	const place = locateQuote(page, quote);
	return place && page.slice(place.start, place.end);
}

describe('locateQuote', () => {
	it('finds words across line breaks and whatever marks stand between', () => {
		expect(found('the warranty lasts THREE years, from the day of purchase')).toBe(
			'The warranty lasts three years from\nthe day of purchase',
		);
	});

	it('shows what is there if it is at least half', () => {
		expect(found('The warranty lasts three years if you are lucky')).toBe(
			'The warranty lasts three years',
		);
	});

	it('shows nothing if less than half is there', () => {
		expect(found('The warranty lasts as long as anybody could ever wish for')).toBeNull();
		expect(found('completely different words stand here')).toBeNull();
	});

	it('shows nothing for one or two words, and on an empty page', () => {
		expect(found('the warranty')).toBeNull();
		expect(found('the warranty lasts three years', '')).toBeNull();
		expect(found('')).toBeNull();
	});

	it('takes the longest run where words come several times', () => {
		const page = 'a b c x a b c d e f';
		expect(found('a b c d e f', page)).toBe('a b c d e f');
	});
});

describe('pieces', () => {
	it('cuts at lines and keeps every character', () => {
		const text = Array.from({ length: 200 }, (_, line) => `line ${line}`).join('\n');
		const cut = pieces(text, { start: 5, end: 12 });
		expect(cut.map((piece) => piece.text).join('')).toBe(text);
		expect(cut).toHaveLength(3);
		expect(cut[0]?.marked).toEqual({ start: 5, end: 12 });
		expect(cut[1]?.marked).toBeNull();
	});

	it('marks both sides of a cut', () => {
		const text = 'x\n'.repeat(160);
		const [first, second] = pieces(text, { start: 158, end: 162 });
		expect(first?.marked).toEqual({ start: 158, end: 160 });
		expect(second?.marked).toEqual({ start: 0, end: 2 });
	});

	it('gives one empty piece for an empty page', () => {
		expect(pieces('', null)).toEqual([{ start: 0, text: '', marked: null }]);
	});
});

describe('pageRanges', () => {
	it('joins neighbours and counts the rest', () => {
		expect(pageRanges([5, 3, 4, 9])).toBe('3–5, 9');
		expect(pageRanges([1, 3, 5, 7], 2)).toBe('1, 3 and 2 more');
		expect(pageRanges([])).toBe('');
	});
});
