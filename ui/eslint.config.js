import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

/** Folders of ui/src that hold one feature each. They import kit/, ipc/ and themselves; only the root composes. */
const FEATURES = ['chat', 'chats', 'documents', 'dashboard', 'models', 'settings', 'window'];

const rawHtml = {
	selector:
		"AssignmentExpression[left.property.name=/^(innerHTML|outerHTML)$/], CallExpression[callee.property.name='insertAdjacentHTML']",
	message: 'HTML enters the page in chat/Markdown.svelte only, after chat/markdown.ts has sanitised it.',
};

function importsOnly(folder, forbidden) {
	return {
		files: [`**/src/${folder}/**`],
		rules: {
			'no-restricted-imports': [
				'error',
				{
					patterns: [
						{
							group: forbidden.flatMap((name) => [`../${name}/*`, `../${name}`]),
							message: `${folder}/ may not import this: App.svelte composes the features.`,
						},
						{
							group: ['../App.svelte', '../app.svelte', '../*.svelte'],
							message: 'Arrows point one way.',
						},
					],
				},
			],
		},
	};
}

export default ts.config(
	{ ignores: ['**/dist/**', '**/ipc/bindings.ts', '**/*.config.js'] },
	...ts.configs.strictTypeChecked,
	...svelte.configs.recommended,
	{
		languageOptions: {
			globals: globals.browser,
			parserOptions: {
				projectService: true,
				tsconfigRootDir: import.meta.dirname,
				extraFileExtensions: ['.svelte'],
			},
		},
		rules: {
			'no-restricted-syntax': ['error', rawHtml],
			'@typescript-eslint/switch-exhaustiveness-check': 'error',
			'@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
			'@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
			// `void signal` is how a derived value or an effect says what it depends on.
			'@typescript-eslint/no-meaningless-void-operator': 'off',
			'svelte/no-at-html-tags': 'error',
			'max-lines': ['error', { max: 400, skipBlankLines: false, skipComments: false }],
		},
	},
	{
		files: ['**/*.svelte', '**/*.svelte.ts'],
		languageOptions: { parserOptions: { parser: ts.parser, svelteConfig } },
		rules: {
			// The linter cannot see through .svelte imports and calls what comes from them `any`; svelte-check can.
			...Object.fromEntries(
				['argument', 'assignment', 'call', 'member-access', 'return'].map((kind) => [
					`@typescript-eslint/no-unsafe-${kind}`,
					'off',
				]),
			),
			// `let` is how a prop or a bindable state is declared.
			'prefer-const': 'off',
			'svelte/prefer-const': ['error', { excludedRunes: ['$props', '$state'] }],
		},
	},
	{ files: ['**/src/chat/Markdown.svelte'], rules: { 'svelte/no-at-html-tags': 'off' } },
	...FEATURES.map((folder) =>
		importsOnly(
			folder,
			FEATURES.filter((other) => other !== folder),
		),
	),
	importsOnly('kit', [...FEATURES, 'ipc']),
	importsOnly('ipc', [...FEATURES, 'kit']),
);
