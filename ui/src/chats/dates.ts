import type { ChatRow } from '../ipc/bindings';

export interface ChatGroup {
	label: string;
	rows: ChatRow[];
}

const DAY_MS = 86_400_000;

/** Sidebar groups by the reader's own calendar: today, yesterday, last 7 and 30 days, then by month. */
export function groupByDate(rows: readonly ChatRow[], now = new Date()): ChatGroup[] {
	const today = new Date(now.getFullYear(), now.getMonth(), now.getDate()).getTime();
	const groups = new Map<string, ChatRow[]>();
	for (const row of [...rows].sort((a, b) => b.updatedMs - a.updatedMs)) {
		const label = labelOf(row.updatedMs, today);
		const group = groups.get(label);
		if (group) group.push(row);
		else groups.set(label, [row]);
	}
	return Array.from(groups, ([label, members]) => ({ label, rows: members }));
}

function labelOf(updatedMs: number, today: number): string {
	if (updatedMs >= today) return 'Today';
	if (updatedMs >= today - DAY_MS) return 'Yesterday';
	if (updatedMs >= today - 7 * DAY_MS) return 'Last 7 days';
	if (updatedMs >= today - 30 * DAY_MS) return 'Last 30 days';
	return new Date(updatedMs).toLocaleDateString('en', { month: 'long', year: 'numeric' });
}
