import { expect, it } from 'vitest';
import { ask, finished, recordFrames, Visitor } from './browser';

/** What the window has to keep, in milliseconds. */
const FRAME = 50;
const PASTE = 100;
const OPEN = 300;

const visitor = new Visitor();

it('streams 200 tokens a second with the dashboard open, and no frame takes more than 50 ms of work', async () => {
	const page = await visitor.visit({ script: 'fast&tokens=3000' });
	await page.getByTestId('dashboard').waitFor();
	const frames = await recordFrames(visitor, page, async () => {
		await ask(page, 'Write a lot');
		await finished(page).waitFor({ timeout: 45_000 });
	});
	console.info(
		`stream: ${frames.count} frames, p99 ${frames.p99.toFixed(1)} ms, longest ${frames.max.toFixed(1)} ms by the clock; longest task ${frames.longestTaskMs.toFixed(1)} ms of processor time`,
	);
	// By the clock a frame also waits for whatever else the machine does; processor time is the page's own.
	expect(frames.longestTaskMs).toBeLessThan(FRAME);
	expect(frames.count).toBeGreaterThan(300);
});

it('takes a paste of 500 KB without blocking for 100 ms, and not into the box', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	const blocked = await page.evaluate(async () => {
		const text = 'A line of a very long text that somebody pastes.\n'.repeat(10_500);
		const box = document.querySelector<HTMLTextAreaElement>('[data-testid=composer]');
		const data = new DataTransfer();
		data.setData('text/plain', text);
		const paste = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
		const begun = performance.now();
		box?.dispatchEvent(paste);
		const handled = performance.now() - begun;
		await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
		return {
			handled,
			toNextFrame: performance.now() - begun,
			typed: box?.value.length ?? -1,
			prevented: paste.defaultPrevented,
		};
	});
	console.info(
		`paste: handled in ${blocked.handled.toFixed(1)} ms, next frame after ${blocked.toNextFrame.toFixed(1)} ms`,
	);
	expect(blocked.prevented).toBe(true);
	expect(blocked.typed).toBe(0);
	expect(blocked.toNextFrame).toBeLessThan(PASTE);
	await page.getByTestId('chip').filter({ hasText: 'Pasted text' }).waitFor();
});

it('opens a chat of 1,000 messages within 300 ms and shows its end', async () => {
	const times: number[] = [];
	// The best of three: what else the machine does can only add to it.
	for (let visit = 0; visit < 3; visit += 1) {
		const page = await visitor.visit({ script: 'long-chat' });
		times.push(await page.evaluate(openLongChat));
		await page.getByText('Question 500:').waitFor();
		const scroller = page.getByTestId('transcript');
		expect(
			await scroller.evaluate((each) => each.scrollHeight - each.scrollTop - each.clientHeight),
		).toBeLessThan(50);
	}
	console.info(`1,000 messages: on screen after ${times.map((time) => time.toFixed(0)).join(', ')} ms`);
	expect(Math.min(...times)).toBeLessThan(OPEN);
});

/** Runs in the page: milliseconds from the click to the frame that shows the messages. */
async function openLongChat(): Promise<number> {
	const rows = [...document.querySelectorAll<HTMLElement>('[data-testid=chat-row]')];
	const begun = performance.now();
	rows.find((row) => row.textContent.includes('A long chat'))?.click();
	while (document.querySelectorAll('[data-testid=message-assistant]').length < 10) {
		await new Promise((resolve) => requestAnimationFrame(resolve));
	}
	await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
	return performance.now() - begun;
}

it('brings older messages in above without moving what is read', async () => {
	const page = await visitor.visit({ script: 'long-chat' });
	await page.getByTestId('chat-row').filter({ hasText: 'A long chat' }).click();
	await page.getByText('Question 500:').waitFor();
	const scroller = page.getByTestId('transcript');
	const mounted = () => page.locator('article').count();
	const first = await mounted();
	expect(first).toBeLessThan(60);
	await scroller.hover();
	for (let turn = 0; turn < 60 && (await mounted()) === first; turn += 1) {
		await page.mouse.wheel(0, -400);
		await page.waitForTimeout(40);
	}
	expect(await mounted()).toBeGreaterThan(first);
	// The same message stays under the eye while more come in above it.
	const seen = page.locator('article').nth((await mounted()) - first);
	const before = (await seen.boundingBox())?.y ?? 0;
	await page.waitForTimeout(300);
	expect(Math.abs(((await seen.boundingBox())?.y ?? 0) - before)).toBeLessThan(4);
});
