import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, preview } from 'vite';
import type { TestProject } from 'vitest/node';

declare module 'vitest' {
	interface ProvidedContext {
		address: string;
	}
}

/** Builds the page as for the app, but with the scripted engine, and serves it on a free port for the time of the tests. */
export default async function serve(project: TestProject): Promise<() => Promise<void>> {
	const configFile = fileURLToPath(new URL('../vite.config.ts', import.meta.url));
	const outDir = mkdtempSync(join(tmpdir(), 'reprise-page-'));
	// Vitest sets NODE_ENV to "test", which would build the development variant of Svelte.
	process.env.NODE_ENV = 'production';
	await build({ configFile, mode: 'fake', build: { outDir }, logLevel: 'error' });
	const server = await preview({ configFile, build: { outDir }, preview: { port: 0 }, logLevel: 'error' });
	const address = server.resolvedUrls?.local[0];
	if (address === undefined) throw new Error('the preview server has no address');
	project.provide('address', address);
	return async () => {
		await server.close();
		rmSync(outDir, { recursive: true });
	};
}
