import type { Advice, DeviceChoice, KvFormat, UserError } from '../ipc/bindings';
import { count } from '../kit/format';

/** Advice that is something to do rather than to read. */
export type Choice = Exclude<Advice, { kind: 'hint' } | { kind: 'shorten' }>;

export function choices(error: UserError): Choice[] {
	return error.advice.filter(
		(advice): advice is Choice => advice.kind !== 'hint' && advice.kind !== 'shorten',
	);
}

const DEVICES: Record<DeviceChoice, string> = {
	auto: 'Let the app choose the device',
	cpu: 'Load the model on the processor',
	gpu: 'Load the model on the GPU',
};

const KV: Record<KvFormat, string> = {
	bf16: 'Load the model with 16-bit context memory',
	q8_0: 'Load the model with 8-bit context memory',
	fp8: 'Load the model with 8-bit float context memory',
};

/** Advice in sentences. */
export function hints(error: UserError): string[] {
	const list: string[] = [];
	for (const advice of error.advice) {
		if (advice.kind === 'hint') list.push(advice.text);
		if (advice.kind === 'shorten') {
			list.push(
				`It is ${count(advice.excessTokens)} tokens too long: remove a document, or shorten the question.`,
			);
		}
	}
	return list;
}

export function choiceLabel(choice: Choice): string {
	switch (choice.kind) {
		case 'retry':
			return 'Try again';
		case 'setContext':
			return `Load the model with ${count(choice.tokens)} tokens of context`;
		case 'newChat':
			return 'Start a new chat';
		case 'chooseModel':
			return 'Choose another model…';
		case 'setDevice':
			return DEVICES[choice.device];
		case 'setKv':
			return KV[choice.kv];
		case 'reload':
			return 'Load the model again';
	}
}
