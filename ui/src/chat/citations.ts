import type { DocumentView } from '../ipc/bindings';

/** A place in an attached document that a piece of the answer names. */
export interface Citation {
	/** Half-open range of UTF-16 units in the text searched. */
	start: number;
	end: number;
	document: number;
	/** 1-based. */
	page: number;
}

type Citable = Pick<DocumentView, 'id' | 'name' | 'pages'>;

const PAGE_AFTER_NAME = /^[,:]?\s*(?:\(\s*|on\s+)?(?:pages?|pp?\.)\s*(\d{1,5})(?:\s*[-–]\s*\d{1,5})?\)?/i;
const PAGE_ALONE = /(?<![\w-])(?:pages?|pp?\.)\s+(\d{1,5})(?:\s*[-–]\s*\d{1,5})?(?!\w)/gi;
/** Characters that would make a match part of a longer name. */
const NAME_CHARACTER = /[\p{L}\p{N}_/\\-]/u;

/** In lower case at the same places: "İ" alone becomes two units, which would move all that follows. */
function lowered(text: string): string {
	return text.replaceAll('İ', 'i').toLowerCase();
}

/** The names a document may be called by: its own, and its last part where no other document shares it. */
function namesOf(documents: readonly Citable[]): { name: string; document: Citable }[] {
	const names = documents.map((document) => ({ name: lowered(document.name), document }));
	for (const document of documents) {
		const base = lowered(document.name.slice(document.name.lastIndexOf('/') + 1));
		const shared = documents.filter((other) => lowered(other.name).endsWith(base)).length;
		if (base !== lowered(document.name) && base.includes('.') && shared === 1)
			names.push({ name: base, document });
	}
	return names.filter(({ name }) => name !== '').sort((a, b) => b.name.length - a.name.length);
}

function overlaps(citations: readonly Citation[], start: number, end: number): boolean {
	return citations.some((citation) => start < citation.end && citation.start < end);
}

/**
 * Finds `page 12`, `Page 12:`, `handbook.pdf, page 12` and `src/x.rs` where they name something attached.
 * A page without a name belongs to the document named last before it, else to the only one with so many pages.
 */
export function findCitations(text: string, documents: readonly Citable[]): Citation[] {
	const found: Citation[] = [];
	const lower = lowered(text);
	for (const { name, document } of namesOf(documents)) {
		for (let at = lower.indexOf(name); at !== -1; at = lower.indexOf(name, at + name.length)) {
			const end = at + name.length;
			const joined = NAME_CHARACTER.test(text[at - 1] ?? ' ') || NAME_CHARACTER.test(text[end] ?? ' ');
			if (joined || overlaps(found, at, end)) continue;
			const page = PAGE_AFTER_NAME.exec(text.slice(end, end + 40));
			const number = page ? Number(page[1]) : 1;
			const known = number >= 1 && number <= document.pages;
			// A page the document does not have is left as text: only the name leads somewhere.
			const length = page && known ? page[0].length : 0;
			found.push({ start: at, end: end + length, document: document.id, page: known ? number : 1 });
		}
	}
	for (const match of text.matchAll(PAGE_ALONE)) {
		const start = match.index;
		const end = start + match[0].length;
		const page = Number(match[1]);
		if (overlaps(found, start, end)) continue;
		const document = documentOfPage(page, start, found, documents);
		if (document) found.push({ start, end, document: document.id, page });
	}
	return found.sort((a, b) => a.start - b.start);
}

function documentOfPage(
	page: number,
	start: number,
	found: readonly Citation[],
	documents: readonly Citable[],
): Citable | undefined {
	const fits = documents.filter((document) => page >= 1 && page <= document.pages);
	const named = found.filter((citation) => citation.end <= start).sort((a, b) => b.end - a.end)[0];
	if (named) return fits.find((document) => document.id === named.document);
	// "page 1" of a source file is not how anyone cites it.
	const paged = documents.length === 1 ? fits : fits.filter((document) => document.pages > 1);
	return paged.length === 1 ? paged[0] : undefined;
}

const QUOTES = /"([^"\n]{6,})"|“([^”\n]{6,})”|«([^»\n]{6,})»/g;
/** `Page 12: "…"`: the quotation is announced, and belongs to the citation whatever stands before it. */
const ANNOUNCED = /^\)?\s*:\s*["“«]/;

/**
 * The words a citation is about, for the page viewer to look for: the quotation nearest to it, else its sentence.
 * `start..end` is where the citation stands in the block's text.
 */
export function quoteNear(block: string, start: number, end: number): string {
	const announced = ANNOUNCED.test(block.slice(end));
	let best: { text: string; distance: number } | null = null;
	for (const match of block.matchAll(QUOTES)) {
		const from = match.index;
		if (announced && from < end) continue;
		const distance = from >= end ? from - end : Math.max(0, start - (from + match[0].length));
		const text = match[1] ?? match[2] ?? match[3] ?? '';
		if (!best || distance < best.distance) best = { text, distance };
	}
	return best ? best.text : sentenceAround(block, start, end);
}

function sentenceAround(block: string, start: number, end: number): string {
	const before = block.slice(0, start).search(/[^.!?\n]*$/);
	const after = block.slice(end).search(/[.!?](?:\s|$)|\n/);
	const stop = after === -1 ? block.length : end + after;
	const sentence = `${block.slice(before, start)} ${block.slice(end, stop)}`;
	return sentence
		.replace(/[()[\]]/g, ' ')
		.replace(/\s+/g, ' ')
		.trim();
}
