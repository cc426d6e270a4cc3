/** The model's button, its card, and the settings that it is loaded with. */
import type { Locator, Page } from 'playwright-core';

export const status = (page: Page) => page.getByTestId('model-status');
export const radio = (page: Page, name: string) =>
	page.getByTestId('device-choice').getByRole('radio', { name, exact: true });
export const kvRadio = (page: Page, name: string) =>
	page.getByTestId('kv-choice').getByRole('radio', { name, exact: true });
export const apply = (page: Page) => page.getByTestId('apply-placement');

export async function openSettings(page: Page): Promise<void> {
	await page.getByTestId('settings').click();
	await page.getByTestId('settings-dialog').waitFor();
}

/** Opens the card that hangs under the model's button. */
export async function openCard(page: Page): Promise<Locator> {
	await status(page).click();
	const card = page.getByTestId('model-card');
	await card.waitFor();
	return card;
}

/** Waits for the end of a load and for the device it ended on. */
export async function loadedOn(page: Page, device: string): Promise<void> {
	await page.locator('[data-testid=model-status][data-status=loading]').waitFor();
	await page.getByTestId('device').filter({ hasText: device }).waitFor();
}

/** Words that describe a control to a screen reader. */
export async function description(control: Locator): Promise<string> {
	const id = await control.getAttribute('aria-describedby');
	return control
		.page()
		.locator(`[id="${id ?? ''}"]`)
		.innerText();
}

/** Moves the slider as a hand would: by value, with its event. */
export async function slide(page: Page, tokens: number): Promise<void> {
	await page.getByTestId('context-slider').fill(String(tokens));
}
