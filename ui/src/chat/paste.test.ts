import { expect, it } from 'vitest';
import { PASTE_LIMIT, PLAIN_PASTE_LIMIT, planPaste } from './paste';

it('types short text and attaches long text', () => {
	expect(planPaste(0, false)).toBe('type');
	expect(planPaste(PASTE_LIMIT, false)).toBe('type');
	expect(planPaste(PASTE_LIMIT + 1, false)).toBe('attach');
});

it('types more when plain text was asked for, but never a book', () => {
	expect(planPaste(PASTE_LIMIT + 1, true)).toBe('type');
	expect(planPaste(PLAIN_PASTE_LIMIT, true)).toBe('type');
	expect(planPaste(PLAIN_PASTE_LIMIT + 1, true)).toBe('attach');
});
