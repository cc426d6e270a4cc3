import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

/** Page tests: the real page in a real Chromium, against the scripted engine. */
export default defineConfig({
	root: fileURLToPath(new URL('.', import.meta.url)),
	test: {
		include: ['*.test.ts'],
		environment: 'node',
		globalSetup: './server.ts',
		testTimeout: 60_000,
		hookTimeout: 60_000,
		// One browser at a time: frame times mean nothing while another test draws.
		fileParallelism: false,
	},
});
