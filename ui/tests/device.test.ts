import { expect, it } from 'vitest';
import { ask, finished, picture, Visitor } from './browser';
import { apply, description, loadedOn, openCard, openSettings, radio, slide, status } from './placement';

const visitor = new Visitor();

it('shows the GPU, its kernels and its memory', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	expect((await page.getByTestId('device').innerText()).trim()).toBe('GPU H200');
	expect(await status(page).getAttribute('title')).toBe('NVIDIA H200, CUDA, sm_90a kernels');
	expect(await page.getByTestId('error-notice').count()).toBe(0);
	const card = await openCard(page);
	expect(await page.getByTestId('card-device').innerText()).toBe('NVIDIA H200');
	await card.getByText('CUDA, sm_90a kernels').waitFor();
	expect(await card.getByRole('list', { name: /^GPU memory/ }).innerText()).toMatch(/Weights\s+30\.1 MB/);
	expect(await page.getByTestId('card-measured').innerText()).toContain(
		'73.0 MB used by the model, 150 GB free of 150 GB',
	);
	await picture(page, 'gpu-card-light');
});

it('moves the model to the processor and back, and the chats stay', async () => {
	const page = await visitor.visit({ script: 'gpu&rate=600' });
	await ask(page, 'What is it?');
	await finished(page).waitFor();
	await openSettings(page);
	expect(await radio(page, 'Automatic').isChecked()).toBe(true);
	expect(await apply(page).isDisabled()).toBe(true);
	const need = page.getByTestId('context-need');
	await need.filter({ hasText: /On the GPU: .*16-bit context\s.*\(measured\)/s }).waitFor();
	await radio(page, 'Processor').check();
	await need.filter({ hasText: 'On the processor: ' }).waitFor();
	await picture(page, 'gpu-settings-light');
	await apply(page).click();
	await loadedOn(page, 'CPU');
	expect(await page.getByTestId('message-assistant').count()).toBe(1);
	// It was chosen, so there is nothing to be warned of.
	expect(await page.getByTestId('error-notice').count()).toBe(0);
	await radio(page, 'NVIDIA GPU').check();
	await need.filter({ hasText: 'at most, if nothing else uses it' }).waitFor();
	await apply(page).click();
	await loadedOn(page, 'GPU H200');
	expect(await radio(page, 'NVIDIA GPU').isChecked()).toBe(true);
});

it('is worked by keys alone', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await page.getByTestId('transcript').focus();
	await page.keyboard.press('Control+,');
	await page.getByTestId('settings-dialog').waitFor();
	await radio(page, 'Automatic').focus();
	await page.keyboard.press('ArrowDown');
	expect(await radio(page, 'Processor').isChecked()).toBe(true);
	await page.keyboard.press('Tab');
	await page.keyboard.press('Tab');
	expect(await page.evaluate(() => document.activeElement?.getAttribute('data-testid'))).toBe(
		'context-slider',
	);
	await page.keyboard.press('Tab');
	await page.keyboard.press('Enter');
	await loadedOn(page, 'CPU');
});

it('gives the reason where there is no GPU, and warns of nothing', async () => {
	const page = await visitor.visit({ script: 'handbook' });
	expect((await page.getByTestId('device').innerText()).trim()).toBe('CPU, 8 threads, AVX2');
	expect(await page.getByTestId('error-notice').count()).toBe(0);
	const card = await openCard(page);
	await card.getByText('No NVIDIA driver was found.').waitFor();
	expect(await page.getByTestId('card-fallback').count()).toBe(0);
	await page.keyboard.press('Escape');
	await openSettings(page);
	expect(await radio(page, 'NVIDIA GPU').isDisabled()).toBe(true);
	expect(await description(radio(page, 'NVIDIA GPU'))).toBe('Not available. No NVIDIA driver was found.');
});

it('says plainly that a GPU with an old driver is not used', async () => {
	const page = await visitor.visit({ script: 'old-driver', dark: true });
	const notice = page.getByTestId('error-notice');
	await notice.getByText('The model runs on the processor: NVIDIA GeForce RTX 3060').waitFor();
	await notice.getByText(/speaks CUDA 12\.4 and 13\.0 is needed/).waitFor();
	await picture(page, 'old-driver-dark');
	await notice.getByRole('button', { name: 'Dismiss' }).click();
	await notice.waitFor({ state: 'detached' });
	// It can be read again at any time.
	await openCard(page);
	expect(await page.getByTestId('card-fallback').innerText()).toMatch(/driver is too old/);
	await page.keyboard.press('Escape');
	await openSettings(page);
	expect(await radio(page, 'NVIDIA GPU').isDisabled()).toBe(true);
	expect(await description(radio(page, 'NVIDIA GPU'))).toMatch(/Install a newer NVIDIA driver\.$/);
});

it('offers the context that fits when the GPU is full', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	const notice = page.getByTestId('error-notice');
	await notice.getByText('There is not enough GPU memory').waitFor();
	await picture(page, 'gpu-full-light');
	await notice.getByRole('button', { name: 'Load the model with 65,536 tokens of context' }).click();
	await loadedOn(page, 'GPU H200');
	await status(page).getByText('65,536 tokens').waitFor();
	expect(await notice.count()).toBe(0);
});

it('offers the processor when the GPU is full', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	await page.getByRole('button', { name: 'Load the model on the processor' }).click();
	await loadedOn(page, 'CPU');
	await status(page).getByText('131,072 tokens').waitFor();
	await openSettings(page);
	expect(await radio(page, 'Processor').isChecked()).toBe(true);
});

it('can leave a full GPU in the settings, and tells when the app falls back', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	await openSettings(page);
	expect(await page.getByTestId('device-line').innerText()).toMatch(/not enough GPU memory/);
	await radio(page, 'Automatic').check();
	await apply(page).click();
	await loadedOn(page, 'CPU');
	await page.keyboard.press('Escape');
	const notice = page.getByTestId('error-notice');
	await notice.getByText('The model runs on the processor: NVIDIA H200 did not take it.').waitFor();
	await notice.getByText(/12\.1 GiB are needed/).waitFor();
	await picture(page, 'gpu-fallback-light');
	// With less context it goes to the GPU after all.
	await notice.getByRole('button', { name: 'Load the model with 65,536 tokens of context' }).click();
	await loadedOn(page, 'GPU H200');
	expect(await notice.count()).toBe(0);
});

it('does not load what the chosen device cannot hold', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	await page.getByRole('button', { name: /with 65,536 tokens/ }).click();
	await loadedOn(page, 'GPU H200');
	await openSettings(page);
	await slide(page, 131_072);
	await page.getByTestId('context-need').getByText('This does not fit.').waitFor();
	expect(await apply(page).isDisabled()).toBe(true);
	await radio(page, 'Processor').check();
	expect(await page.getByTestId('context-need').innerText()).not.toContain('does not fit');
	await apply(page).click();
	await page
		.getByTestId('device-line')
		.getByText(/is being loaded/)
		.waitFor();
	await status(page).getByText('131,072 tokens').waitFor();
});

it('lets the app choose the context again', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await openSettings(page);
	const choose = page.getByRole('button', { name: 'Let the app choose the context' });
	expect(await choose.count()).toBe(0);
	await slide(page, 65_536);
	await apply(page).click();
	await status(page).getByText('65,536 tokens').waitFor();
	await choose.click();
	await status(page).getByText('32,768 tokens').waitFor();
	await choose.waitFor({ state: 'detached' });
});

it('keeps the device in sight in a narrow window', async () => {
	const page = await visitor.visit({ script: 'gpu', width: 640, height: 800 });
	await page.getByTestId('device').getByText('GPU H200').waitFor();
	await picture(page, 'gpu-narrow-light');
	const wide = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
	expect(wide).toBe(false);
});
