/**
 * Completes what a streamed answer has opened and not closed yet, so that it does not flicker: emphasis that has
 * begun is shown as emphasis, a link that has begun as its text, and marks that may still become something else wait.
 */
export function closeHalfOpen(block: string): string {
	if (/^ {0,3}(```|~~~)/.test(block)) return block;
	if (isUnfinishedTable(block)) return '';
	let text = withoutUndecidedLine(block);
	text = text.replace(/!?\[([^\]\n]*)\]\([^)\n]*$/, '$1');
	// A run of marks at the very end has not decided what it opens.
	text = text.replace(/(^|[^\\])([*_~`$]+)$/, (run, before: string, marks: string) =>
		opens(text.slice(0, text.length - marks.length), marks) ? before : run,
	);
	const code = unclosedCode(text);
	if (code) return text + code;
	return text + unclosedEmphasis(text);
}

/** Under a paragraph, "---" or "=" alone would turn the whole paragraph into a heading for the blink of an eye. */
function withoutUndecidedLine(block: string): string {
	return block.replace(/([^\n])\n {0,3}(?:-+|=+|[*+]|\d+[.)]?)[ \t]*$/, '$1');
}

/** A table is a paragraph of bars until its second line is complete. */
function isUnfinishedTable(block: string): boolean {
	if (!block.trimStart().startsWith('|')) return false;
	const lines = block.trim().split('\n');
	return (
		lines.length < 2 ||
		(lines.length === 2 && !/^\|?(\s*:?-+:?\s*\|)+\s*(:?-+:?)?\s*$/.test(lines[1] ?? ''))
	);
}

/** Whether marks at the end of `before` would open something rather than close it. */
function opens(before: string, marks: string): boolean {
	const mark = marks.charAt(0);
	if (mark === '`') return unclosedCode(before) === '';
	if (mark === '$') return before.split('$').length % 2 === 1;
	return !unclosedEmphasis(before).includes(marks);
}

function unclosedCode(text: string): string {
	const runs = text.match(/`+/g) ?? [];
	let open = '';
	for (const run of runs) {
		if (open === '') open = run;
		else if (open === run) open = '';
	}
	return open;
}

/** The closing marks that are missing at the end, innermost first. */
function unclosedEmphasis(text: string): string {
	const line = text
		.slice(text.lastIndexOf('\n\n') + 1)
		.replace(/(`+)[\s\S]*?\1/g, '')
		.replace(/^[ \t]*[*+-][ \t]/gm, '')
		.replace(/\\[*_~]/g, '');
	const stack: string[] = [];
	for (const match of line.matchAll(/\*\*|\*|__|~~|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])/gu)) {
		const mark = match[0];
		const before = line[match.index - 1] ?? ' ';
		const after = line[match.index + mark.length] ?? ' ';
		if (stack.at(-1) === mark && !/\s/.test(before)) stack.pop();
		else if (!/\s/.test(after)) stack.push(mark);
	}
	return stack.reverse().join('');
}
