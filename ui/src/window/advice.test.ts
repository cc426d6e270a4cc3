import { expect, it } from 'vitest';
import type { Advice, UserError } from '../ipc/bindings';
import { choiceLabel, choices, hints } from './advice';

function error(...advice: Advice[]): UserError {
	return { message: 'No.', kept: '', advice, details: '' };
}

it('makes a button of what can be done and a sentence of what can be read', () => {
	const told = error(
		{ kind: 'setContext', tokens: 65_536 },
		{ kind: 'setKv', kv: 'q8_0' },
		{ kind: 'setDevice', device: 'cpu' },
		{ kind: 'reload' },
		{ kind: 'hint', text: 'Close other programs.' },
		{ kind: 'shorten', excessTokens: 1200 },
	);
	expect(choices(told).map(choiceLabel)).toEqual([
		'Load the model with 65,536 tokens of context',
		'Load the model with 8-bit context memory',
		'Load the model on the processor',
		'Load the model again',
	]);
	expect(hints(told)).toEqual([
		'Close other programs.',
		'It is 1,200 tokens too long: remove a document, or shorten the question.',
	]);
});
