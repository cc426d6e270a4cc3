import {
	DEFAULT_SETTINGS,
	type DocumentView,
	type FolderView,
	type Settings,
	type UserError,
} from './bindings';

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
	'gpu',
	'gpu-full',
	'old-driver',
	'no-gpu-8-bit',
] as const;
export type Script = (typeof SCRIPTS)[number];

export function isScript(name: string): name is Script {
	return (SCRIPTS as readonly string[]).includes(name);
}

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

/** What is kept when the script begins. */
export function settingsAtStart(script: Script): Settings {
	// More context than the GPU of this script has room for, and nowhere else to go.
	if (script === 'gpu-full') return { ...DEFAULT_SETTINGS, device: 'gpu', contextTokens: 131_072 };
	// Chosen when there was a GPU.
	if (script === 'no-gpu-8-bit') return { ...DEFAULT_SETTINGS, kv: 'q8_0' };
	return DEFAULT_SETTINGS;
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
