// The window test: the real app, its real engine and the demo model, driven as a person would.
//
//     node src-tauri/tests/window/run.mjs BINARY [FOLDER FOR PICTURES]
//
// Needs Xvfb, openbox, xdotool and WebKitWebDriver (Debian: xvfb openbox xdotool webkit2gtk-driver).

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { pdf } from './pdf.mjs';
import { Stage } from './stage.mjs';
import { until } from './webdriver.mjs';

const [binary, pictures] = process.argv.slice(2);
if (!binary) {
	console.error('usage: node run.mjs BINARY [FOLDER FOR PICTURES]');
	process.exit(2);
}
if (pictures) mkdirSync(pictures, { recursive: true });

/** Reading the handbook and answering, on a busy two-core machine. */
const ANSWER = 90_000;
const ANSWERING = '[data-testid="message-assistant"][data-state="writing"]';
const LAST_ANSWER = '[data-testid="message-assistant"]';
const id = (name) => `[data-testid="${name}"]`;

const stage = new Stage(resolve(binary));
let window;
let shots = 0;

async function shot(name) {
	if (pictures) await window.screenshot(join(pictures, `${String(++shots).padStart(2, '0')}-${name}.png`));
}

const modelReady = () =>
	until('the model is ready', 60_000, async () =>
		window.run(() => document.querySelector('[data-testid="composer"]')?.placeholder === 'Ask about your documents'),
	);
const writing = async () => (await window.count(ANSWERING)) > 0;
const answered = (within = ANSWER) => until('the answer is finished', within, async () => !(await writing()));
/** A new chat, by the keyboard. */
async function newChat() {
	await window.control('n');
	await until('the new chat is open', 5000, async () => (await window.count(id('chip'))) === 0 && (await window.count(id('message-user'))) === 0);
}
/** Letters and digits alone: what a drawn answer and the same answer drawn again have in common. */
const bare = (text) => text.replace(/[^\p{L}\p{N}]/gu, '');
/** The drawn answer without buttons and figures. */
const answer = () =>
	window.run(() => {
		const last = [...document.querySelectorAll('[data-testid="message-assistant"]')].at(-1);
		return last?.querySelector('.markdown')?.textContent ?? '';
	});

/** Commands of the shell, as the page calls them. */
const invoke = (command, args) => window.run((name, given) => window.__TAURI_INTERNALS__.invoke(name, given), command, args);

async function setTemperature(temperature, maxReplyTokens) {
	const { settings } = await invoke('app_state', {});
	await invoke('settings_set', { settings: { ...settings, temperature, maxReplyTokens } });
}
/** From now on the model rambles until it is stopped: at this temperature the end of a turn is one token among thousands. */
const ramble = () => setTemperature(5, 4000);
const calm = () => setTemperature(0, 1024);

/** Looks at the answer and the dashboard in every frame of the page for a while. */
const watch = (milliseconds) =>
	window.runAsync((span, done) => {
		const text = (css) => [...document.querySelectorAll(css)].at(-1)?.textContent?.trim() ?? '';
		const seen = { letters: new Set(), rate: new Set(), read: new Set() };
		const start = performance.now();
		let [last, longest] = [start, 0];
		const frame = (now) => {
			longest = Math.max(longest, now - last);
			last = now;
			seen.letters.add(text('[data-testid="message-assistant"] .markdown').length);
			seen.rate.add(text('[data-testid="dash-tokens-per-s"]'));
			seen.read.add(text('[data-testid="dash-kv-read"]'));
			if (now - start < span) requestAnimationFrame(frame);
			else done({ letters: seen.letters.size, rate: seen.rate.size, read: seen.read.size, longest });
		};
		requestAnimationFrame(frame);
	}, milliseconds);

/**
 * Watches an answer that is still being written afterwards. Of hundreds of tokens drawn nearly at random one is now and
 * then the end of the turn; then it is asked again.
 */
async function watchRambling(question, milliseconds) {
	for (let attempt = 1; ; attempt += 1) {
		const before = await window.count(id('message-assistant'));
		await ask(question);
		await until('another answer has begun', ANSWER, async () => (await window.count(id('message-assistant'))) > before);
		await until('words are there', ANSWER, async () => !(await writing()) || bare(await answer()).length >= 12);
		const changes = await watch(milliseconds);
		if ((await writing()) || attempt === 5) return changes;
	}
}

/** The last answer as the database has it. */
async function stored() {
	const { openChat } = await invoke('app_state', {});
	return (await invoke('chat_open', { chat: openChat })).messages.at(-1).text;
}

async function ask(question) {
	await window.type(id('composer'), question);
	await until('the question can be sent', 30_000, () => window.run(() => document.querySelector('[data-testid="send"]')?.disabled === false));
	await window.click(id('send'));
}

/** Waits until an answer is being written and at least `letters` of it can be seen. */
const seen = (letters) => until(`${letters} letters are written`, ANSWER, async () => bare(await answer()).length >= letters);

const steps = {
	async 'the first screen has the handbook and questions to ask it'() {
		const began = performance.now();
		window = await stage.start();
		await window.find(id('suggestion'), 15_000);
		console.log(`    first screen after ${Math.round(performance.now() - began)} ms, driver included`);
		assert.match(await window.text(id('chip')), /handbook\.pdf/);
		assert.ok((await window.count(id('suggestion'))) >= 3, 'three suggestions');
		await modelReady();
		await until('the handbook is counted', 15_000, async () => /\d tokens?/.test(await window.text(id('chip'))));
		await shot('first-screen');
	},

	async 'a suggestion is read for and answered, with its figures'() {
		if ((await window.count(id('dashboard'))) === 0) await window.click(id('dashboard-toggle'));
		await window.click(id('suggestion'));
		await window.find(id('reading-progress'), 15_000);
		await shot('reading');
		await seen(1);
		await answered();
		assert.ok((await window.count(`${id('dash-head-map')} canvas`)) > 0, 'a map of the heads');
		assert.match(await window.text(id('reply-stats')), /\d/);
		await shot('answered');
	},

	async 'a citation opens its page'() {
		await window.click(`${LAST_ANSWER} ${id('citation')}`, 5000);
		await window.find(id('page-viewer'));
		const page = await window.run(() => document.querySelector('[data-testid="citation"]').dataset.page);
		await until('the page has text', 5000, async () => (await window.text(`${id('page-viewer')} .page`)).length > 100);
		assert.equal(await window.run(() => document.querySelector('[data-testid="page-number"]').value), page);
		await shot('citation');
	},

	async 'an answer grows word by word, the dashboard follows, and Stop stops'() {
		// The page that the citation opened stands in the dashboard's place.
		if ((await window.count(id('dashboard'))) === 0) await window.click(id('dashboard-toggle'));
		await window.find(id('dashboard'));
		await ramble();
		const changes = await watchRambling('Tell me more.', 1500);
		console.log(`    ${JSON.stringify(changes)} (different values in 1.5 s; longest frame in ms)`);
		assert.ok(changes.letters > 5, 'the text grows');
		assert.ok(changes.rate > 1 && changes.read > 1, 'the figures change');
		await shot('streaming');
		const began = performance.now();
		await window.click(id('stop'));
		await answered(5000);
		console.log(`    stopped after ${Math.round(performance.now() - began)} ms, driver included`);
		assert.ok(bare(await answer()).length >= 12, 'the text is still there');
		await shot('stopped');
	},

	async 'the model card names the device, and the model moves to the one that is chosen'() {
		const gpu = await invoke('gpu_look', {});
		const usable = gpu.kind === 'usable';
		await window.click(id('model-status'));
		await window.find(id('model-card'));
		assert.equal(await window.text(id('card-device')), usable ? gpu.name : 'CPU');
		if (!usable) {
			assert.ok((await window.text(id('model-card'))).includes(gpu.why), `the card says: ${gpu.why}`);
			assert.match(await window.text(id('device')), /^CPU/);
		}
		await shot('model-card');
		await window.click(id('device-and-context'));
		await window.find(id('device-choice'));
		const radio = await window.run(() => {
			const input = document.querySelector('[data-testid="device-choice"] input[value="gpu"]');
			return { disabled: input.disabled, why: document.getElementById(input.getAttribute('aria-describedby')).textContent };
		});
		assert.equal(radio.disabled, !usable);
		assert.ok(radio.why.includes(usable ? gpu.name : gpu.why), radio.why);
		const answers = await window.count(id('message-assistant'));
		const heldIn8Bits = () =>
			window.run(() => {
				const input = document.querySelector('[data-testid="kv-choice"] input[value="q8_0"]');
				return { disabled: input.disabled, why: document.getElementById(input.getAttribute('aria-describedby')).textContent };
			});
		assert.equal((await heldIn8Bits()).disabled, !usable);
		await window.click(`${id('device-choice')} input[value="cpu"]`);
		const onProcessor = await heldIn8Bits();
		assert.ok(onProcessor.disabled && onProcessor.why.includes('on the processor'), onProcessor.why);
		await window.click(id('apply-placement'));
		// Before, the processor served for want of a GPU, or a GPU did.
		await until('the model is where it was sent', 60_000, async () => {
			const { kind, info } = (await invoke('app_state', {})).model;
			return kind === 'ready' && info.deviceKind === 'cpu' && info.kv === 'bf16' && info.fallback === null;
		});
		await until('the panel says so', 5000, async () => / on CPU, \d+ threads?/.test(await window.text(id('device-line'))));
		await shot('device-chosen');
		await window.run(() => document.querySelector('[data-testid="settings-dialog"]').dispatchEvent(new Event('cancel', { cancelable: true })));
		await modelReady();
		assert.equal(await window.count(id('message-assistant')), answers);
		assert.equal((await invoke('app_state', {})).settings.device, 'cpu');
	},

	async 'the chat is there after a restart'() {
		const before = await answer();
		const answers = await window.count(id('message-assistant'));
		const rows = await window.count(id('chat-row'));
		await stage.quit(window);
		window = await stage.start();
		await until('the chat is open', 15_000, async () => (await window.count(id('message-assistant'))) === answers);
		assert.equal(await window.count(id('chat-row')), rows);
		assert.equal(bare(await answer()), bare(before));
		await modelReady();
		assert.equal((await invoke('app_state', {})).settings.device, 'cpu');
		await shot('restarted');
	},

	async 'a PDF chosen in the native dialog becomes a chip, and is answered from'() {
		await calm();
		await newChat();
		const path = join(stage.folder, 'pumps.pdf');
		const line = (n) => `Pump ${n} moves ${n * 10} litres a minute and is serviced every ${n * 100} hours.`;
		writeFileSync(path, pdf([[line(1), line(2)], [line(3), line(4)], ['The night shift services all pumps.']]));
		await window.click(id('attach'));
		await stage.choose('Attach documents', path);
		await until('the chip is there', 15_000, async () => /pumps\.pdf.*3 pages/s.test(await window.text(id('chip'))));
		await shot('attached');
		await ask('How much does pump 3 move?');
		await seen(1);
		await answered();
		assert.match(await window.text(id('reply-stats')), /\d/);
	},

	async 'half a megabyte of paste becomes a chip and never blocks the window; what does not fit is not sent'() {
		await newChat();
		const longest = await window.run(() => {
			let last = performance.now();
			window.longestFrame = 0;
			const tick = (now) => {
				window.longestFrame = Math.max(window.longestFrame, now - last);
				last = now;
				window.ticking = requestAnimationFrame(tick);
			};
			window.ticking = requestAnimationFrame(tick);
			const data = new DataTransfer();
			data.setData('text/plain', 'The quick brown fox jumps over the lazy dog, says the manual. \n'.repeat(8200));
			const began = performance.now();
			const paste = new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
			document.querySelector('[data-testid="composer"]').dispatchEvent(paste);
			return performance.now() - began;
		});
		await until('the chip is there', 20_000, async () => /pasted-1.*\d tokens/s.test(await window.text(id('chip'))));
		const frame = await window.run(() => {
			cancelAnimationFrame(window.ticking);
			return window.longestFrame;
		});
		console.log(`    the paste took ${longest.toFixed(0)} ms of the page; the longest frame since was ${frame.toFixed(0)} ms`);
		assert.ok(longest < 250, `the paste blocked the window for ${longest} ms`);
		assert.equal(await window.run(() => document.querySelector('[data-testid="composer"]').value), '');
		await ask('What does the fox do?');
		await window.find(id('error-dialog'), 30_000);
		await shot('too-long');
		assert.match(await window.text(id('error-dialog')), /tokens/);
		assert.equal(await window.count(id('message-user')), 0);
		await window.run(() => document.querySelector('[data-testid="error-dialog"]').dispatchEvent(new Event('cancel', { cancelable: true })));
		assert.equal(await window.run(() => document.querySelector('[data-testid="composer"]').value), 'What does the fox do?');
	},

	async 'a program killed while it writes keeps what was on the screen'() {
		await newChat();
		await ramble();
		await ask('Write a long list of everything a careful engineer writes down about a pump.');
		await seen(40);
		const screen = bare(await answer());
		const before = await stored();
		assert.ok(await writing(), 'the answer goes on');
		await stage.kill();
		window = await stage.start();
		await until('the chat is open', 15_000, async () => (await window.count(id('message-assistant'))) === 1);
		const after = await stored();
		assert.ok(after.startsWith(before), `kept “${after}” of “${before}”`);
		// Drawing an answer only ever leaves signs out.
		assert.ok(bare(after).length >= screen.length, `kept “${after}” of “${screen}” on the screen`);
		assert.match(await window.text(LAST_ANSWER), /Stopped/);
		await shot('after-a-kill');
		await stage.quit(window);
	},
};

let passed = 0;
let failed = 0;
const began = performance.now();
try {
	await stage.open();
	for (const [name, step] of Object.entries(steps)) {
		const at = performance.now();
		try {
			await step();
			passed += 1;
			console.log(`ok      ${name} (${((performance.now() - at) / 1000).toFixed(1)} s)`);
		} catch (error) {
			failed += 1;
			console.log(`FAILED  ${name}\n${error.stack}`);
			await shot('failed').catch(() => {});
			// Later steps stand on earlier ones only where a window is open.
			if (!window) break;
		}
	}
} finally {
	if (failed > 0) console.log(`--- the app said:\n${stage.log()}`);
	await stage.close();
}
console.log(`${((performance.now() - began) / 1000).toFixed(0)} s`);
console.log(`window: ${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
