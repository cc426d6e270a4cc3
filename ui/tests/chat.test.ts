import { expect, it } from 'vitest';
import { ask, finished, picture, Visitor } from './browser';

const visitor = new Visitor();

it('answers a suggestion with a streamed, cited and counted answer', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await picture(page, 'first-run-light');
	await page.getByTestId('suggestion').first().click();
	await page.getByTestId('stop').waitFor();
	await page.waitForTimeout(1200);
	await picture(page, 'streaming-light');
	await finished(page).waitFor();
	expect(await page.getByTestId('message-user').textContent()).toContain('access code');
	expect(await page.getByTestId('message-assistant').locator('strong').first().textContent()).toBe('4471');
	expect(await page.getByTestId('citation').count()).toBeGreaterThan(3);
	const stats = await finished(page).textContent();
	expect(stats).toMatch(
		/Read.*tokens\/s.*Wrote.*tokens\/s.*first after.*Reuse.*of groups.*KV bytes not read.*finished/s,
	);
	expect(stats).toContain('reprise-handbook.pdf (pages 1–24)');
	expect(await page.getByTestId('announcer').textContent()).toBe('Answer complete');
	expect(await page.getByTestId('chat-row').first().textContent()).toContain('access code');
	await picture(page, 'answer-light');
});

it('shows how reading goes, and stops while it reads', async () => {
	const page = await visitor.visit({ script: 'slow-prefill' });
	await page.getByTestId('suggestion').first().click();
	await page.getByTestId('reading-progress').getByText('tokens/s').waitFor();
	await picture(page, 'reading-light');
	expect(await page.getByTestId('reading-progress').textContent()).toMatch(/\d of [\d,]+ tokens.*left/);
	await page.keyboard.press('Escape');
	await page.getByText('Stopped').first().waitFor();
	await page.getByTestId('send').waitFor();
});

it('stops an answer, keeps what is written, and continues it', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=40' });
	await ask(page, 'What is it?');
	await page.getByTestId('message-assistant').getByText('4471').waitFor();
	await page.getByTestId('stop').click();
	await page.getByText(/Stopped after \d+ tokens/).waitFor();
	const kept = await page.getByTestId('message-assistant').locator('.markdown').textContent();
	await page.getByRole('button', { name: 'Continue' }).click();
	await page
		.getByTestId('message-assistant')
		.getByText('Work through the steps')
		.waitFor({ timeout: 20_000 });
	const whole = await page.getByTestId('message-assistant').locator('.markdown').textContent();
	expect(whole?.startsWith((kept ?? '').trim().slice(0, 40))).toBe(true);
});

it('keeps what was written when it fails, and offers a way on', async () => {
	const page = await visitor.visit({ script: 'fails' });
	await ask(page, 'What is it?');
	await page.getByTestId('message-assistant').getByText('The device ran out of memory.').waitFor();
	await picture(page, 'failed-light');
	expect(await page.getByTestId('message-assistant').textContent()).toContain('service menu');
	await page.getByRole('button', { name: 'Retry' }).waitFor();
	await page.getByRole('button', { name: 'Continue' }).waitFor();
});

it('says what can be done when the prompt is too long, and keeps the draft', async () => {
	const page = await visitor.visit({ script: 'too-long' });
	await ask(page, 'Does it fit?');
	const dialog = page.getByTestId('error-dialog');
	await dialog.getByText('9,214 tokens too long').waitFor();
	await picture(page, 'too-long-light');
	await dialog.getByRole('button', { name: '65,536 tokens of context' }).click();
	await dialog.waitFor({ state: 'detached' });
	await page.getByTestId('model-status').getByText('65,536').waitFor();
	expect(await page.getByTestId('composer').inputValue()).toBe('Does it fit?');
	expect(await page.getByTestId('message-user').count()).toBe(0);
});

it('edits the last question with ↑, and walks the versions', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	await ask(page, 'First wording');
	await finished(page).waitFor();
	await page.getByTestId('composer').press('ArrowUp');
	await page.getByTestId('edit-box').fill('Second wording');
	await page.getByTestId('edit-box').press('Enter');
	await page.getByTestId('message-user').getByText('Second wording').waitFor();
	await finished(page).waitFor();
	const versions = page.getByTestId('versions').first();
	expect(await versions.textContent()).toContain('2/2');
	await versions.getByRole('button', { name: 'Previous version' }).click();
	await page.getByTestId('message-user').getByText('First wording').waitFor();
});

it('answers again with exact attention and shows both', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	expect(await page.getByTestId('dash-net').textContent()).toContain('unknown');
	await page.getByRole('button', { name: /exact attention, to compare/ }).click();
	await page.getByTestId('versions').last().getByText('2/2').waitFor();
	await finished(page).waitFor();
	expect(await finished(page).textContent()).toContain('Attention exact');
	expect(await page.getByTestId('dash-compare').getByRole('row').count()).toBe(3);
	await page.getByTestId('dash-compare').getByRole('button', { name: 'Reuse' }).click();
	await page
		.getByTestId('dash-net')
		.getByText(/per token (faster|slower)/)
		.waitFor();
	await picture(page, 'compare-light');
});

it('opens a cited page with the quotation marked, and turns pages by key', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	await page.getByTestId('citation').nth(1).click();
	const viewer = page.getByTestId('page-viewer');
	await viewer.locator('mark').waitFor();
	await picture(page, 'page-viewer-light');
	expect(await viewer.locator('mark').textContent()).toContain('warranty lasts three years');
	await viewer.locator('[role=document]').press('ArrowRight');
	await viewer.getByText('13. Before you start').waitFor();
	expect(await viewer.getByTestId('page-number').inputValue()).toBe('13');
});

it('shows links with their address and opens nothing', async () => {
	const page = await visitor.visit({
		script: 'handbook&rate=600',
		permissions: ['clipboard-read', 'clipboard-write'],
	});
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	const before = page.url();
	await page.getByRole('link', { name: 'on the web' }).click();
	await page.getByTestId('link-dialog').getByText('https://example.org/reuse').waitFor();
	await page.getByRole('button', { name: 'Copy address' }).click();
	expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('https://example.org/reuse');
	expect(page.url()).toBe(before);
});

it('follows the answer, lets go when the reader scrolls up, and comes back', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=150&tokens=900' });
	await ask(page, 'Write a lot');
	const scroller = page.getByTestId('transcript');
	const distance = () =>
		scroller.evaluate((each) => each.scrollHeight - each.scrollTop - each.clientHeight);
	await page.getByTestId('message-assistant').getByText('Section 3').waitFor({ timeout: 20_000 });
	expect(await distance()).toBeLessThan(50);
	await scroller.hover();
	await page.mouse.wheel(0, -700);
	await page.getByTestId('jump').waitFor();
	const top = await scroller.evaluate((each) => each.scrollTop);
	await page.waitForTimeout(700);
	expect(await scroller.evaluate((each) => each.scrollTop)).toBe(top);
	await page.getByTestId('jump').click();
	await page.waitForTimeout(200);
	expect(await distance()).toBeLessThan(50);
	await page.getByTestId('stop').click();
});
