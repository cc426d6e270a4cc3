import { expect, it } from 'vitest';
import { picture, Visitor } from './browser';
import {
	apply,
	description,
	kvRadio,
	loadedOn,
	openCard,
	openSettings,
	radio,
	slide,
	status,
} from './placement';

const visitor = new Visitor();

const NEED = 'context-need';

it('loads with the context held in 8 bits, and shows what is in use', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await openSettings(page);
	expect(await kvRadio(page, '16-bit').isChecked()).toBe(true);
	expect(await apply(page).isDisabled()).toBe(true);
	const need = page.getByTestId(NEED);
	await need.filter({ hasText: /On the GPU: .*16-bit context\s+134 MB/s }).waitFor();
	await kvRadio(page, '8-bit (q8_0)').check();
	// Half the bytes, the scales, and scratch to read it with.
	await need.filter({ hasText: /8-bit \(q8_0\) context\s+71\.3 MB\s.*scratch\s+93\.8 MB/s }).waitFor();
	await picture(page, 'kv-settings-light');
	await apply(page).click();
	await loadedOn(page, 'GPU H200');
	await page.getByTestId('device-line').getByText('context memory: 8-bit (q8_0)').waitFor();
	expect(await kvRadio(page, '8-bit (q8_0)').isChecked()).toBe(true);
	await page.keyboard.press('Escape');
	expect(await page.getByTestId('error-notice').count()).toBe(0);
	await openCard(page);
	expect(await page.getByTestId('card-kv').innerText()).toBe('8-bit (q8_0)');
	expect(await status(page).getAttribute('title')).toMatch(/q8_0 KV cache$/);
	await picture(page, 'kv-card-light');
});

it('shows the longer context that fits in 8 bits', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	await page.getByRole('button', { name: /with 65,536 tokens/ }).click();
	await loadedOn(page, 'GPU H200');
	await openSettings(page);
	await slide(page, 92_160);
	const need = page.getByTestId(NEED);
	await need.getByText('This does not fit.').waitFor();
	expect(await apply(page).isDisabled()).toBe(true);
	await kvRadio(page, '8-bit (q8_0)').check();
	expect(await need.innerText()).not.toContain('does not fit');
	await apply(page).click();
	await status(page).getByText('92,160 tokens').waitFor();
	await page.getByTestId('device-line').getByText('8-bit (q8_0)').waitFor();
});

it('is worked by keys alone', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await openSettings(page);
	await radio(page, 'NVIDIA GPU').check();
	await page.keyboard.press('Tab');
	expect(await kvRadio(page, '16-bit').evaluate((input) => input === document.activeElement)).toBe(true);
	await page.keyboard.press('ArrowDown');
	await page.keyboard.press('ArrowDown');
	expect(await kvRadio(page, '8-bit float (fp8)').isChecked()).toBe(true);
	await page.keyboard.press('Tab');
	await page.keyboard.press('Tab');
	await page.keyboard.press('Enter');
	await loadedOn(page, 'GPU H200');
	await page.getByTestId('device-line').getByText('8-bit float (fp8)').waitFor();
});

it('describes each choice, and says why 8 bits cannot be had', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await openSettings(page);
	const floats = kvRadio(page, '8-bit float (fp8)');
	expect(await description(floats)).toMatch(/coarser/);
	expect(await description(page.getByTestId('kv-choice'))).toMatch(
		/^Where the model keeps all it has read/,
	);
	await radio(page, 'Processor').check();
	expect(await floats.isDisabled()).toBe(true);
	expect(await description(floats)).toBe('Needs a GPU: on the processor the context memory is 16-bit.');
	expect(await kvRadio(page, '16-bit').isDisabled()).toBe(false);
	const other = await visitor.visit({ script: 'old-driver' });
	await openSettings(other);
	expect(await kvRadio(other, '8-bit (q8_0)').isDisabled()).toBe(true);
	expect(await description(kvRadio(other, '8-bit (q8_0)'))).toMatch(
		/RTX 3060 cannot be used\. .* Install a newer NVIDIA driver\.$/,
	);
});

it('loads on the processor in 16 bits where 8 are wished, and says so', async () => {
	const page = await visitor.visit({ script: 'gpu' });
	await openSettings(page);
	await kvRadio(page, '8-bit (q8_0)').check();
	await radio(page, 'Processor').check();
	await page
		.getByTestId(NEED)
		.filter({ hasText: /On the processor: .*16-bit context/s })
		.waitFor();
	await apply(page).click();
	await loadedOn(page, 'CPU');
	await page.keyboard.press('Escape');
	const notice = page.getByTestId('error-notice');
	await notice.getByText(/^The context memory is 16-bit: the model runs on the processor/).waitFor();
	await picture(page, 'kv-waits-light');
	await openCard(page);
	expect(await page.getByTestId('card-kv').innerText()).toBe('16-bit, not 8-bit (q8_0) as set');
	await page.keyboard.press('Escape');
	// The wish is kept for the GPU.
	await notice.getByRole('button', { name: 'Let the app choose the device' }).click();
	await loadedOn(page, 'GPU H200');
	await openCard(page);
	expect(await page.getByTestId('card-kv').innerText()).toBe('8-bit (q8_0)');
	expect(await notice.count()).toBe(0);
});

it('says so on a machine without a GPU too, until the wish is given up', async () => {
	const page = await visitor.visit({ script: 'no-gpu-8-bit' });
	const notice = page.getByTestId('error-notice');
	await notice.getByText('The model runs on the processor.').waitFor();
	await notice.getByText(/No NVIDIA driver was found\. Its context memory is 16-bit/).waitFor();
	await openSettings(page);
	const wish = kvRadio(page, '8-bit (q8_0)');
	expect([await wish.isChecked(), await wish.isDisabled()]).toEqual([true, true]);
	await kvRadio(page, '16-bit').check();
	await apply(page).click();
	await loadedOn(page, 'CPU');
	await page.keyboard.press('Escape');
	expect(await notice.count()).toBe(0);
});

it('offers 8 bits when the GPU is full, and then the longer context that fits', async () => {
	const page = await visitor.visit({ script: 'gpu-full' });
	const notice = page.getByTestId('error-notice');
	await notice.getByRole('button', { name: 'Load the model with 8-bit context memory' }).click();
	await notice.getByRole('button', { name: 'Load the model with 92,928 tokens of context' }).click();
	await loadedOn(page, 'GPU H200');
	await status(page).getByText('92,928 tokens').waitFor();
	await openCard(page);
	expect(await page.getByTestId('card-kv').innerText()).toBe('8-bit (q8_0)');
});
