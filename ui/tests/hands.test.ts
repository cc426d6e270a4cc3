import { expect, it } from 'vitest';
import { ask, finished, Visitor } from './browser';

/** What hands do at a keyboard and with a mouse that no click of a test does by itself. */
const visitor = new Visitor();

it('takes every whole number as it is, and none that is not whole', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('settings').click();
	const dialog = page.getByTestId('settings-dialog');
	const field = (name: RegExp) => dialog.getByRole('spinbutton', { name });
	await field(/^Seed/).fill('4294967295');
	await field(/^Seed/).press('Tab');
	expect(await field(/^Seed/).inputValue()).toBe('4294967295');
	await field(/^Top-k/).fill('40.6');
	await field(/^Top-k/).press('Tab');
	expect(await field(/^Top-k/).inputValue()).toBe('41');
	await page.keyboard.press('Escape');
	await page.getByTestId('settings').click();
	expect(await field(/^Seed/).inputValue()).toBe('4294967295');
});

it('keeps a dialog open when text is marked beyond its edge', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('settings').click();
	const box = page.getByTestId('settings-dialog').locator('textarea');
	await box.fill('Answer in German, and always name the page.');
	const at = await box.boundingBox();
	if (!at) throw new Error('the box is not drawn');
	await page.mouse.move(at.x + 60, at.y + 15);
	await page.mouse.down();
	await page.mouse.move(at.x - 200, at.y + 15, { steps: 4 });
	await page.mouse.up();
	expect(await box.inputValue()).toContain('German');
	// A click outside still closes it, and what was typed is kept.
	await page.mouse.click(20, 20);
	await page.getByTestId('settings-dialog').waitFor({ state: 'detached' });
	await page.getByTestId('settings').click();
	expect(await box.inputValue()).toContain('German');
});

it.each(['edit-box', 'rename'])('leaves the %s open on the Enter that ends a word', async (testid) => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	if (testid === 'rename') await page.getByTestId('chat-row').first().press('F2');
	else {
		await ask(page, 'What is it?');
		await finished(page).waitFor();
		await page.getByTestId('composer').press('ArrowUp');
	}
	await page.getByTestId(testid).fill('日本');
	await page.evaluate((id) => {
		const box = document.querySelector(`[data-testid=${id}]`);
		box?.dispatchEvent(new CompositionEvent('compositionend', { bubbles: true }));
		box?.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true }));
	}, testid);
	await page.waitForTimeout(60);
	expect(await page.getByTestId(testid).inputValue()).toBe('日本');
	await page.getByTestId(testid).press('Enter');
	await page.getByText('日本').first().waitFor();
});

it('leaves the keyboard somewhere after an edit is given up and a chat renamed', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	const focused = () =>
		page.evaluate(
			() => document.activeElement?.getAttribute('data-testid') ?? document.activeElement?.tagName,
		);
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	await page.getByTestId('composer').press('ArrowUp');
	await page.getByTestId('edit-box').press('Escape');
	await page.getByTestId('edit-box').waitFor({ state: 'detached' });
	await page.waitForTimeout(60);
	expect(await focused()).toBe('composer');
	for (const key of ['Enter', 'Escape']) {
		await page.getByTestId('chat-row').first().press('F2');
		await page.getByTestId('rename').press(key);
		await page.getByTestId('rename').waitFor({ state: 'detached' });
		expect(await focused()).toBe('chat-row');
	}
});

it('scrolls a text without pages by key, and names the page that is shown', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	await page.getByTestId('chip').first().getByRole('button').first().click();
	const number = page.getByTestId('page-number');
	await number.fill('24');
	await number.press('Enter');
	await page.getByTestId('page-viewer').getByText('24', { exact: false }).first().waitFor();
	await number.fill('999');
	await number.press('Enter');
	expect(await number.inputValue()).toBe('24');

	await page.getByTestId('attach-folder').click();
	await page.getByTestId('folder-dialog').getByRole('button', { name: 'Attach' }).click();
	await page.getByTestId('chip').filter({ hasText: 'src/ring.rs' }).getByRole('button').first().click();
	const text = page.getByTestId('page-viewer').getByRole('document');
	await text.getByText(/./).first().waitFor();
	const kept = await text.evaluate((element) => {
		const press = new KeyboardEvent('keydown', { key: 'PageDown', bubbles: true, cancelable: true });
		return element.dispatchEvent(press);
	});
	expect(kept).toBe(true);
});

it('runs Arabic and Hebrew from the right, and what stands beside them from the left', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600' });
	await ask(page, 'مرحبا، كيف تعمل المضخة؟');
	await finished(page).waitFor();
	/** Where the first letter is drawn: in the right or in the left half of its line. */
	const side = await page.evaluate(() => {
		const bubble = document.querySelector('[data-testid=message-user]');
		const answer = document.querySelector('.markdown p');
		if (!bubble || !answer) throw new Error('no message');
		const sideOf = (element: Element, text: string) => {
			const keep = element.textContent;
			element.textContent = text;
			const letter = document.createRange();
			const node = element.firstChild;
			if (!node) throw new Error('no text');
			letter.setStart(node, 0);
			letter.setEnd(node, 1);
			const [at, around] = [letter.getBoundingClientRect(), element.getBoundingClientRect()];
			element.textContent = keep;
			return at.left + at.width / 2 > around.left + around.width / 2 ? 'right' : 'left';
		};
		return {
			question: sideOf(bubble, 'שלום? OK.'),
			answer: sideOf(answer, 'مرحبا، OK.'),
			latin: sideOf(answer, 'The pump مرحبا.'),
		};
	});
	expect(side).toEqual({ question: 'right', answer: 'right', latin: 'left' });
});

it('shows a chat from its first message in a window too tall to scroll', async () => {
	const page = await visitor.visit({ script: 'long-chat', height: 6000 });
	await page.getByTestId('chat-row').filter({ hasText: 'A long chat' }).click();
	await page.getByTestId('message-user').first().waitFor();
	await page.waitForTimeout(300);
	const reach = await page.getByTestId('transcript').evaluate((log) => ({
		mounted: log.querySelectorAll('article').length,
		scrolls: log.scrollHeight > log.clientHeight,
	}));
	expect(reach.scrolls || reach.mounted === 1000, JSON.stringify(reach)).toBe(true);
});
