/** Page numbers as people write them: "3–5, 9". After `most` ranges the rest is counted. */
export function pageRanges(pages: readonly number[], most = 6): string {
	const ranges: { from: number; to: number }[] = [];
	for (const page of [...pages].sort((a, b) => a - b)) {
		const last = ranges.at(-1);
		if (last && page <= last.to + 1) last.to = page;
		else ranges.push({ from: page, to: page });
	}
	const shown = ranges.slice(0, most).map(({ from, to }) => (from === to ? `${from}` : `${from}–${to}`));
	const rest = ranges.slice(most).reduce((sum, { from, to }) => sum + to - from + 1, 0);
	return rest > 0 ? `${shown.join(', ')} and ${rest} more` : shown.join(', ');
}
