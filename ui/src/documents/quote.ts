/** Half-open range of UTF-16 units in a page's text. */
export interface Found {
	start: number;
	end: number;
}

interface Word {
	text: string;
	start: number;
	end: number;
}

/** A highlight may only be shown where at least this share of the quotation stands in a row. */
const LEAST_SHARE = 0.5;
const LEAST_WORDS = 3;

function words(text: string): Word[] {
	return Array.from(text.matchAll(/[\p{L}\p{N}_]+/gu), (match) => ({
		text: match[0].toLowerCase(),
		start: match.index,
		end: match.index + match[0].length,
	}));
}

/**
 * Finds a quotation on a page by the longest run of its words, whatever the line breaks and marks between them.
 * Null where less than half of it is there: no highlight is better than a false one.
 */
export function locateQuote(page: string, quote: string): Found | null {
	const wanted = words(quote);
	const present = words(page);
	if (wanted.length < LEAST_WORDS) return null;
	const places = new Map<string, number[]>();
	wanted.forEach((word, at) => places.set(word.text, [...(places.get(word.text) ?? []), at]));
	// run[j]: length of the run of words that ends at wanted[j] and at the page word in hand.
	let run = new Map<number, number>();
	let best = { length: 0, last: 0 };
	for (const [at, word] of present.entries()) {
		const next = new Map<number, number>();
		for (const place of places.get(word.text) ?? []) {
			const length = (run.get(place - 1) ?? 0) + 1;
			next.set(place, length);
			if (length > best.length) best = { length, last: at };
		}
		run = next;
	}
	if (best.length < LEAST_WORDS || best.length < LEAST_SHARE * wanted.length) return null;
	const first = present[best.last - best.length + 1];
	const last = present[best.last];
	return first && last ? { start: first.start, end: last.end } : null;
}
