import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

const root = fileURLToPath(new URL('.', import.meta.url));

export default defineConfig(({ mode }) => ({
	root,
	cacheDir: `${root}../node_modules/.vite`,
	plugins: [svelte({ configFile: `${root}svelte.config.js` })],
	// Without the browser condition vitest would load Svelte's server build.
	...(mode === 'test' ? { resolve: { conditions: ['browser'] } } : {}),
	clearScreen: false,
	server: { port: 5173, strictPort: true, watch: { ignored: ['**/dist/**'] } },
	build: {
		// What WebKitGTK 2.50 understands: light-dark(), nesting, content-visibility.
		target: 'safari18',
		cssTarget: 'safari18',
		// The window's content policy allows no data: fonts.
		assetsInlineLimit: 0,
		outDir: 'dist',
		emptyOutDir: true,
	},
	test: {
		root,
		include: ['src/**/*.test.ts'],
		environment: 'node',
	},
}));
