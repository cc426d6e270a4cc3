import { expect, it, vi } from 'vitest';
import type { DocumentView } from '../ipc/bindings';
import { Attachments } from './attachments.svelte';
import { FolderChoice } from './folder.svelte';

function document(id: number, name: string): DocumentView {
	return { id, name, kind: 'pdf', pages: 2, tokens: 10, pagesWithoutText: [], problems: [], locked: false };
}

it('goes from reading to attached and tells that the context changed', () => {
	const changed = vi.fn();
	const attachments = new Attachments(changed);
	attachments.apply({ kind: 'reading', name: 'a.pdf', pagesDone: 0, pagesTotal: 0 });
	attachments.apply({ kind: 'reading', name: 'a.pdf', pagesDone: 1, pagesTotal: 2 });
	expect(attachments.readings).toEqual([{ name: 'a.pdf', pagesDone: 1, pagesTotal: 2 }]);
	attachments.apply({ kind: 'attached', document: document(1, 'a.pdf') });
	expect(attachments.readings).toEqual([]);
	expect(attachments.documents.map(({ name }) => name)).toEqual(['a.pdf']);
	expect(changed).toHaveBeenCalledOnce();
});

it('keeps a refusal until it is dismissed, and the others attached', () => {
	const attachments = new Attachments();
	const error = { message: 'Protected.', kept: '', advice: [], details: '' };
	attachments.apply({ kind: 'attached', document: document(1, 'a.pdf') });
	attachments.apply({ kind: 'refused', name: 'b.pdf', error });
	attachments.apply({ kind: 'end' });
	expect(attachments.refusals.map(({ name }) => name)).toEqual(['b.pdf']);
	expect(attachments.documents).toHaveLength(1);
	attachments.forget(attachments.refusals[0]?.id ?? -1);
	expect(attachments.refusals).toEqual([]);
});

it('forgets notices of the chat that was left', () => {
	const attachments = new Attachments();
	attachments.show(1, []);
	attachments.apply({ kind: 'reading', name: 'a.pdf', pagesDone: 0, pagesTotal: 0 });
	attachments.show(2, [document(9, 'z.pdf')]);
	expect(attachments.busy).toBe(false);
	expect(attachments.documents).toHaveLength(1);
});

it('chooses every file of a folder but those that may hold secrets', () => {
	const choice = new FolderChoice();
	const file = (name: string, secret: string | null = null) => ({ name, bytes: 10, tokens: 5, secret });
	choice.show({
		handle: 1,
		name: 'x',
		files: [file('a.rs'), file('b/.env', 'keys'), file('b/c.rs')],
		skipped: [],
	});
	expect(choice.names()).toEqual(['a.rs', 'b/c.rs']);
	expect(choice.tokens).toBe(10);
	expect(choice.groups.map(({ path }) => path)).toEqual(['', 'b']);
	choice.toggle(choice.groups[1]?.files ?? []);
	expect(choice.names()).toEqual(['a.rs', 'b/.env', 'b/c.rs']);
	choice.toggle(choice.groups[1]?.files ?? []);
	expect(choice.names()).toEqual(['a.rs']);
});
