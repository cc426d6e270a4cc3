// A client for the few W3C WebDriver calls that the window test needs, over fetch.

import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** Name of the element reference in the W3C protocol. */
const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';

/** The Control key in the W3C protocol. */
const CONTROL = '\uE009';

/** One running window. */
export class Window {
	#base;

	constructor(base) {
		this.#base = base;
	}

	/** Starts `binary` under the driver that listens on `port`. */
	static async open(port, binary) {
		const driver = `http://127.0.0.1:${port}`;
		await until('the driver listens', 10_000, async () => (await fetch(`${driver}/status`)).ok);
		const capabilities = { alwaysMatch: { 'webkitgtk:browserOptions': { binary, args: [] } } };
		const { sessionId } = await call('POST', `${driver}/session`, { capabilities });
		return new Window(`${driver}/session/${sessionId}`);
	}

	/** Elements that match a CSS selector. */
	async all(selector) {
		const found = await call('POST', `${this.#base}/elements`, { using: 'css selector', value: selector });
		return found.map((reference) => reference[ELEMENT]);
	}

	/** Waits for the first element that matches. */
	async find(selector, within = 10_000) {
		let found;
		await until(`${selector} is there`, within, async () => ([found] = await this.all(selector)) && found !== undefined);
		return found;
	}

	/** Clicks once the element can be clicked: the window may still be hidden, the element under way. */
	async click(selector, within = 10_000) {
		await until(`${selector} can be clicked`, within, async () => {
			await call('POST', `${this.#base}/element/${await this.find(selector, within)}/click`, {});
			return true;
		});
	}

	async type(selector, text) {
		await call('POST', `${this.#base}/element/${await this.find(selector)}/value`, { text });
	}

	/** Presses a key while Control is held. */
	async control(key) {
		const press = (type, value) => ({ type, value });
		const keys = [press('keyDown', CONTROL), press('keyDown', key), press('keyUp', key), press('keyUp', CONTROL)];
		await call('POST', `${this.#base}/actions`, { actions: [{ type: 'key', id: 'keyboard', actions: keys }] });
	}

	/** Runs a function in the page with JSON arguments and gives its JSON result. */
	run(work, ...args) {
		return call('POST', `${this.#base}/execute/sync`, { script: `return (${work})(...arguments);`, args });
	}

	/** The same for a function that calls its last argument with the result. */
	runAsync(work, ...args) {
		return call('POST', `${this.#base}/execute/async`, { script: `(${work})(...arguments);`, args });
	}

	/** Text of the last element that matches; empty if there is none. */
	text(selector) {
		return this.run((css) => [...document.querySelectorAll(css)].at(-1)?.textContent?.trim() ?? '', selector);
	}

	/** How many elements match. */
	count(selector) {
		return this.run((css) => document.querySelectorAll(css).length, selector);
	}

	/** Waits until two frames are drawn: the first picture after a change may still be an old one. */
	async settled() {
		await this.runAsync((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())));
	}

	async screenshot(file) {
		await this.settled();
		await writeFile(file, Buffer.from(await call('GET', `${this.#base}/screenshot`), 'base64'));
	}

	/** Closes the window as the user would. */
	close() {
		return call('DELETE', this.#base);
	}
}

/** Waits until `check` holds. What it throws counts as "not yet", and is told when the time is up. */
export async function until(what, within, check) {
	const end = performance.now() + within;
	let last;
	do {
		try {
			if (await check()) return;
			last = undefined;
		} catch (error) {
			last = error;
		}
		await sleep(50);
	} while (performance.now() < end);
	throw new Error(`not within ${within / 1000} s: ${what}${last ? ` (${last.message})` : ''}`);
}

async function call(method, address, body) {
	const answer = await fetch(address, { method, body: body && JSON.stringify(body) });
	const { value } = await answer.json();
	if (!answer.ok) throw new Error(`${method} ${new URL(address).pathname}: ${value.error}: ${value.message}`);
	return value;
}
