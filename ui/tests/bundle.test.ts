import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'vite';
import { afterAll, beforeAll, expect, it } from 'vitest';

let outDir: string;
let scripts: string;
beforeAll(async () => {
	outDir = mkdtempSync(join(tmpdir(), 'reprise-bundle-'));
	const configFile = fileURLToPath(new URL('../vite.config.ts', import.meta.url));
	process.env.NODE_ENV = 'production';
	await build({ configFile, mode: 'production', build: { outDir }, logLevel: 'error' });
	const files = readdirSync(join(outDir, 'assets')).filter((name) => name.endsWith('.js'));
	scripts = files.map((name) => readFileSync(join(outDir, 'assets', name), 'utf8')).join('\n');
});
afterAll(() => rmSync(outDir, { recursive: true }));

it('ships the page without the scripted engine', () => {
	expect(scripts).toContain('plugin:event|listen');
	expect(scripts).not.toContain('scripted engine');
	expect(scripts).not.toContain('storage-problem');
});

it('needs neither eval nor inline scripts, as the content policy demands', () => {
	expect(scripts).not.toMatch(/\beval\(|new Function\(/);
	const html = readFileSync(join(outDir, 'index.html'), 'utf8');
	expect(html).not.toMatch(/<script(?![^>]*\bsrc=)/);
	expect(html).not.toMatch(/\b(?:src|href)="https?:/);
});
