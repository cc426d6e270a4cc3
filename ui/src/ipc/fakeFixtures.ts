import type { DocumentView, FolderView, ModelCard, Settings, UserError } from './bindings';
import { HEADS, KV_HEADS, LAYERS } from './fakeReply';

/** What the scripted engine can play. */
const SCRIPTS = [
	'handbook',
	'empty',
	'slow-prefill',
	'too-long',
	'fast',
	'long-chat',
	'fails',
	'no-model',
	'loading',
	'model-failed',
	'storage-problem',
	'refused',
	'scanned',
	'broken-start',
] as const;
export type Script = (typeof SCRIPTS)[number];

export function isScript(name: string): name is Script {
	return (SCRIPTS as readonly string[]).includes(name);
}

export const MODEL: ModelCard = {
	name: 'reprise-demo',
	architecture: 'qwen3',
	weights: 'Q8_0',
	parameters: 28_300_000,
	device: 'CPU, 8 threads',
	gpu: 'No NVIDIA driver was found.',
	contextTokens: 32_768,
	maxContextTokens: 131_072,
	layers: LAYERS,
	queryHeads: HEADS,
	kvHeads: KV_HEADS,
	weightsBytes: 30_100_000,
	kvBytes: 134_200_000,
	ringBytes: 18_900_000,
	scratchBytes: 24_000_000,
	freeBytes: 6_420_000_000,
	demo: true,
};

export const SUGGESTIONS = [
	'What is the access code of the service menu?',
	'How long does the warranty last, and what does it not cover?',
	'Summarize the document in 5 points.',
];

export const FOLDER: FolderView = {
	handle: 7,
	name: 'ring-store',
	files: [
		{ name: 'README.md', bytes: 2_140, tokens: 560, secret: null },
		{ name: 'src/lib.rs', bytes: 9_420, tokens: 2_610, secret: null },
		{ name: 'src/ring.rs', bytes: 4_870, tokens: 1_340, secret: null },
		{ name: 'deploy/.env', bytes: 310, tokens: 96, secret: 'may hold passwords' },
	],
	skipped: [
		{ name: 'Cargo.lock', reason: 'lock file' },
		{ name: 'target/', reason: 'in .gitignore' },
		{ name: 'docs/plan.png', reason: 'not text' },
	],
};

export function settingsAtStart(): Settings {
	return {
		theme: 'system',
		attention: 'mac',
		contextTokens: null,
		maxReplyTokens: 1024,
		temperature: 0,
		topK: 0,
		topP: 1,
		minP: 0,
		repeatPenalty: 1,
		seed: 0,
		systemPrompt: '',
		dashboardOpen: true,
	};
}

export function refusal(message: string): UserError {
	return {
		message,
		kept: '',
		advice: [
			{ kind: 'hint', text: 'Remove the protection in the program that made it, and attach it again.' },
		],
		details: 'scripted engine: refused',
	};
}

export function tooLong(): UserError {
	return {
		message: 'The documents and the question do not fit into the context.',
		kept: 'Your question and the documents are kept. Nothing was sent.',
		advice: [
			{ kind: 'setContext', tokens: 65_536 },
			{ kind: 'shorten', excessTokens: 9_214 },
			{ kind: 'newChat' },
		],
		details: 'prompt of 41,982 tokens, context of 32,768 tokens',
	};
}

export function scannedBook(view: DocumentView): DocumentView {
	return {
		...view,
		pagesWithoutText: [3, 4, 5, 9, 120],
		problems: ['Page 200 is damaged and was skipped.'],
	};
}

/** The border rejects with the plain object, not with an Error. */
export function reject(error: UserError): never {
	// eslint-disable-next-line @typescript-eslint/only-throw-error
	throw error;
}

export function refuse(message: string): never {
	return reject(refusal(message));
}
