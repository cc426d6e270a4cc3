import { expect, it } from 'vitest';
import type { ChatRow } from '../ipc/bindings';
import { groupByDate } from './dates';

const now = new Date(2026, 2, 15, 14, 30);
const at = (...when: [number, number, number, number?]): ChatRow => ({
	id: when[2],
	title: '',
	snippet: '',
	updatedMs: new Date(when[0], when[1], when[2], when[3] ?? 12).getTime(),
});

it('groups by the calendar, newest first', () => {
	const rows = [
		at(2026, 0, 2),
		at(2026, 2, 14, 0),
		at(2026, 2, 15, 0),
		at(2026, 2, 9),
		at(2026, 2, 1),
		at(2026, 2, 14, 23),
	];
	expect(groupByDate(rows, now).map(({ label, rows: members }) => [label, members.length])).toEqual([
		['Today', 1],
		['Yesterday', 2],
		['Last 7 days', 1],
		['Last 30 days', 1],
		['January 2026', 1],
	]);
});

it('has no groups without chats', () => {
	expect(groupByDate([], now)).toEqual([]);
});
