import { expect, it } from 'vitest';
import { ask, finished, picture, Visitor } from './browser';

const visitor = new Visitor();

it('deletes a chat and takes it back', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	const row = page.getByTestId('chat-row').filter({ hasText: 'Harbour Street' });
	await row.focus();
	await row.press('Delete');
	await row.waitFor({ state: 'detached' });
	await page.getByTestId('toast').getByRole('button', { name: 'Undo' }).click();
	await row.waitFor();
});

it('renames a chat by key, and Escape leaves it as it was', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	const row = page.getByTestId('chat-row').filter({ hasText: 'Thesis' });
	await row.press('F2');
	await page.getByTestId('rename').fill('Something else');
	await page.getByTestId('rename').press('Escape');
	await row.press('F2');
	await page.getByTestId('rename').fill('Thesis, chapter 4');
	await page.getByTestId('rename').press('Enter');
	await page.getByTestId('chat-row').filter({ hasText: 'chapter 4' }).waitFor();
});

it('finds chats by their words and says when there are none', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.keyboard.press('Control+k');
	await page.keyboard.type('audit');
	await page.getByText('1 found').waitFor();
	await page.getByTestId('chat-search').fill('nothing like this');
	await page.getByText('No chat holds these words.').waitFor();
});

it('keeps a draft with its chat', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('composer').fill('half a thought');
	await page.getByTestId('chat-row').filter({ hasText: 'Thesis' }).click();
	await page.getByTestId('message-user').first().waitFor();
	expect(await page.getByTestId('composer').inputValue()).toBe('');
	await page.getByTestId('chat-row').filter({ hasText: 'New chat' }).click();
	await page.getByTestId('suggestion').first().waitFor();
	expect(await page.getByTestId('composer').inputValue()).toBe('half a thought');
});

it('starts a new chat, and only one while it is empty', async () => {
	const page = await visitor.visit({ script: 'empty' });
	await picture(page, 'empty-light');
	await page.keyboard.press('Control+n');
	await page.getByTestId('chat-row').waitFor();
	await page.getByTestId('new-chat').click();
	expect(await page.getByTestId('chat-row').count()).toBe(1);
});

it('attaches the sample from an empty start and then suggests questions', async () => {
	const page = await visitor.visit({ script: 'empty' });
	await page.getByRole('button', { name: /Try the sample/ }).click();
	await page.getByTestId('chip').getByText('reprise-handbook.pdf').waitFor();
	await page.getByTestId('suggestion').first().waitFor();
});

it('warns of pages without text on the chip', async () => {
	const page = await visitor.visit({ script: 'scanned' });
	await page.getByTestId('attach').click();
	const chip = page.getByTestId('chip').filter({ hasText: 'scanned.pdf' });
	await chip.getByText('5 pages without text: 3–5, 9, 120').waitFor();
	await page.locator('[data-testid=context-meter][data-level=over]').waitFor();
	await picture(page, 'scanned-light');
	await chip.getByRole('button', { name: 'Remove scanned.pdf' }).click();
	await chip.waitFor({ state: 'detached' });
});

it('says why a file was refused', async () => {
	const page = await visitor.visit({ script: 'refused' });
	await page.getByTestId('attach').click();
	await page.getByTestId('chip-refused').getByText('protected by a password').waitFor();
});

it('lets files of a folder be chosen, secrets off', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('attach-folder').click();
	const dialog = page.getByTestId('folder-dialog');
	await dialog.getByText('3 files, 4,510 tokens').waitFor();
	await picture(page, 'folder-light');
	await dialog.getByRole('checkbox', { name: /lib\.rs/ }).uncheck();
	await dialog.getByText('2 files, 1,900 tokens').waitFor();
	await dialog.getByRole('button', { name: 'Attach' }).click();
	await page.getByTestId('chip').filter({ hasText: 'src/ring.rs' }).waitFor();
	expect(await page.getByTestId('chip').filter({ hasText: '.env' }).count()).toBe(0);
});

it('opens help, settings and the dashboard by key', async () => {
	const page = await visitor.visit({ script: 'handbook', dark: true });
	await page.getByTestId('transcript').focus();
	await page.keyboard.press('?');
	await page.getByTestId('help-sheet').waitFor();
	await picture(page, 'help-dark');
	await page.keyboard.press('Escape');
	await page.getByTestId('help-sheet').waitFor({ state: 'detached' });
	await page.keyboard.press('Control+,');
	await page.getByTestId('settings-dialog').waitFor();
	await picture(page, 'settings-dark');
	await page.getByTestId('theme').getByText('Light').click();
	expect(await page.evaluate(() => document.documentElement.dataset.theme)).toBe('light');
	await page.keyboard.press('Escape');
	await page.getByTestId('dashboard').waitFor();
	await page.keyboard.press('Control+d');
	await page.getByTestId('dashboard').waitFor({ state: 'detached' });
	await page.keyboard.press('Control+e');
	expect(await page.getByTestId('attention-switch').getAttribute('data-value')).toBe('exact');
});

it('counts on the dashboard, with a table for those who do not see the map', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=500', dark: true });
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	await picture(page, 'answer-dark');
	expect(Number(await page.getByTestId('dash-tokens-per-s').textContent())).toBeGreaterThan(100);
	expect(await page.getByTestId('dash-group-hit').textContent()).toMatch(/^\d+(\.\d)? %$/);
	expect(await page.getByTestId('dash-kv-read').textContent()).toMatch(/Read.*B.*Exact.*B.*not read/s);
	await page.getByTestId('dash-head-map').getByRole('button', { name: 'Table' }).click();
	expect(await page.getByTestId('dash-head-map').getByRole('row').count()).toBe(9);
});

it('is usable in a narrow window', async () => {
	const page = await visitor.visit({ script: 'handbook&rate=600', width: 640, height: 800 });
	await page.getByTestId('dashboard-toggle').click();
	await page.getByTestId('suggestion').first().click();
	await finished(page).waitFor();
	await picture(page, 'narrow-light');
	const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
	expect(wide).toBe(false);
});

it.each([
	['no-model', 'Choose a model to ask.'],
	['loading', 'The model is being loaded. You can write already.'],
	['model-failed', 'The model could not be loaded.'],
])('says in the box why nothing can be asked: %s', async (script, reason) => {
	const page = await visitor.visit({ script });
	expect(await page.getByTestId('composer').getAttribute('placeholder')).toBe(reason);
	await page.getByTestId('composer').fill('a question');
	expect(await page.getByTestId('send').isDisabled()).toBe(true);
	await picture(page, `${script}-light`);
});

it('says when chats cannot be saved, and when it cannot start at all', async () => {
	let page = await visitor.visit({ script: 'storage-problem' });
	await page.getByTestId('error-notice').getByText('the database is damaged').waitFor();
	page = await visitor.visit({ script: 'broken-start' });
	await page.getByTestId('error-notice').getByText('cannot read its data').waitFor();
});

it('takes files dropped anywhere on the window', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	const drop = (payload: object) =>
		page.evaluate(async (event) => {
			const { invoke } = (window as unknown as { __TAURI_INTERNALS__: { invoke: Invoke } })
				.__TAURI_INTERNALS__;
			await invoke('plugin:event|emit', { event: 'drop-event', payload: event });
		}, payload);
	await drop({ kind: 'over' });
	await page.getByTestId('drop-overlay').waitFor();
	await picture(page, 'drop-light');
	await drop({ kind: 'left' });
	await page.getByTestId('drop-overlay').waitFor({ state: 'detached' });
	await drop({ kind: 'over' });
	await drop({ kind: 'dropped', handle: 1, names: ['dropped.pdf'] });
	await page.getByTestId('drop-overlay').waitFor({ state: 'detached' });
	await page.getByTestId('chip').filter({ hasText: 'dropped.pdf' }).waitFor();
});

it('types a long paste when plain text was asked for', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('composer').focus();
	const attached = (plain: boolean) =>
		page.evaluate((shift) => {
			const box = document.querySelector('[data-testid=composer]');
			const clipboardData = new DataTransfer();
			clipboardData.setData('text/plain', 'x'.repeat(3000));
			const paste = new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true });
			box?.dispatchEvent(
				new KeyboardEvent('keydown', {
					key: shift ? 'V' : 'v',
					ctrlKey: true,
					shiftKey: shift,
					bubbles: true,
				}),
			);
			box?.dispatchEvent(paste);
			return paste.defaultPrevented;
		}, plain);
	expect(await attached(true)).toBe(false);
	expect(await attached(false)).toBe(true);
});

it('does not send on the Enter that ends a word of an input method', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	await page.getByTestId('composer').fill('日本');
	await page.evaluate(() => {
		const box = document.querySelector('[data-testid=composer]');
		const enter = (part: KeyboardEventInit) =>
			new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...part });
		box?.dispatchEvent(enter({ isComposing: true }));
		box?.dispatchEvent(new CompositionEvent('compositionend', { bubbles: true }));
		box?.dispatchEvent(enter({}));
	});
	expect(await page.getByTestId('composer').inputValue()).toBe('日本');
	await page.waitForTimeout(60);
	await page.getByTestId('composer').press('Enter');
	await page.getByTestId('message-user').getByText('日本').waitFor();
});

type Invoke = (command: string, args: object) => Promise<unknown>;
