import { expect, it } from 'vitest';
import { choiceLabel, choices, hints } from './advice';
import { commandOf } from './shortcuts';

const press = (key: string, part = {}) => ({
	key,
	ctrlKey: false,
	metaKey: false,
	shiftKey: false,
	altKey: false,
	isComposing: false,
	...part,
});

it('knows its keys, with Control or Command', () => {
	expect(commandOf(press('n', { ctrlKey: true }), true)).toBe('new-chat');
	expect(commandOf(press('K', { metaKey: true }), false)).toBe('search');
	expect(commandOf(press('Escape'), true)).toBe('stop');
});

it('leaves typing alone', () => {
	expect(commandOf(press('?'), true)).toBeNull();
	expect(commandOf(press('?', { shiftKey: true }), false)).toBe('help');
	expect(commandOf(press('n'), false)).toBeNull();
	expect(commandOf(press('v', { ctrlKey: true, shiftKey: true }), true)).toBeNull();
	expect(commandOf(press('Escape', { isComposing: true }), true)).toBeNull();
});

it('turns advice into buttons and sentences', () => {
	const error = {
		message: '',
		kept: '',
		details: '',
		advice: [
			{ kind: 'setContext', tokens: 65_536 } as const,
			{ kind: 'shorten', excessTokens: 1200 } as const,
			{ kind: 'hint', text: 'Try later.' } as const,
		],
	};
	expect(choices(error).map(choiceLabel)).toEqual(['Load the model with 65,536 tokens of context']);
	expect(hints(error)).toEqual([
		'It is 1,200 tokens too long: remove a document, or shorten the question.',
		'Try later.',
	]);
});
