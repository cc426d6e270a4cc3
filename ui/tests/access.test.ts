import axe, { type AxeResults } from 'axe-core';
import type { Page } from 'playwright-core';
import { describe, expect, it } from 'vitest';
import { ask, finished, Visitor } from './browser';

const visitor = new Visitor();

/** What an audit finds, one line a problem. */
async function problems(page: Page): Promise<string[]> {
	await page.evaluate(axe.source);
	const results = await page.evaluate(() =>
		(window as unknown as { axe: { run: () => Promise<AxeResults> } }).axe.run(),
	);
	return results.violations.flatMap(({ id, nodes }) =>
		nodes.map(
			(node) => `${id}: ${node.target.join(' ')}: ${(node.any[0] ?? node.all[0])?.message ?? ''}`,
		),
	);
}

describe.each([false, true])('an audit of accessibility finds nothing, dark: %s', (dark) => {
	it('on the first screen', async () => {
		expect(await problems(await visitor.visit({ script: 'handbook', dark }))).toEqual([]);
	});

	it('on an answer with the dashboard, and with a page open', async () => {
		const page = await visitor.visit({ script: 'handbook&rate=600', dark });
		await ask(page, 'What is it?');
		await finished(page).waitFor();
		expect(await problems(page)).toEqual([]);
		await page.getByTestId('citation').nth(1).click();
		await page.getByTestId('page-viewer').locator('mark').waitFor();
		expect(await problems(page)).toEqual([]);
	});

	it('in the dialogs', async () => {
		const page = await visitor.visit({ script: 'too-long', dark });
		await page.getByTestId('settings').click();
		await page.getByTestId('settings-dialog').waitFor();
		expect(await problems(page)).toEqual([]);
		await page.keyboard.press('Escape');
		await page.getByTestId('attach-folder').click();
		await page.getByTestId('folder-dialog').waitFor();
		expect(await problems(page)).toEqual([]);
		await page.keyboard.press('Escape');
		await ask(page, 'Does it fit?');
		await page.getByTestId('error-dialog').waitFor();
		expect(await problems(page)).toEqual([]);
	});

	it('where something went wrong', async () => {
		const page = await visitor.visit({ script: 'fails', dark });
		await ask(page, 'What is it?');
		await finished(page).waitFor();
		expect(await problems(page)).toEqual([]);
		expect(await problems(await visitor.visit({ script: 'model-failed', dark }))).toEqual([]);
	});

	it('where the GPU is the matter', async () => {
		const page = await visitor.visit({ script: 'old-driver', dark });
		await page.getByTestId('error-notice').waitFor();
		expect(await problems(page)).toEqual([]);
		await page.getByTestId('settings').click();
		await page.getByTestId('device-choice').waitFor();
		expect(await problems(page)).toEqual([]);
		const waiting = await visitor.visit({ script: 'no-gpu-8-bit', dark });
		await waiting.getByTestId('error-notice').waitFor();
		await waiting.getByTestId('settings').click();
		await waiting.getByTestId('kv-choice').waitFor();
		expect(await problems(waiting)).toEqual([]);
		const other = await visitor.visit({ script: 'gpu', dark });
		await other.getByTestId('model-status').click();
		await other.getByTestId('model-card').waitFor();
		expect(await problems(other)).toEqual([]);
	});
});
