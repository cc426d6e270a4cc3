import { mkdirSync } from 'node:fs';
import { chromium, type Browser, type BrowserContext, type Locator, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, expect, inject } from 'vitest';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

export interface Visit {
	/** A script of the scripted engine, with its options: `fast`, `handbook&rate=400`. */
	script: string;
	dark?: boolean;
	width?: number;
	height?: number;
	/** Rights the page is given, such as reading the clipboard. */
	permissions?: string[];
}

/** One browser for a test file, up before its tests and gone after them. A test that leaves an error on the page fails. */
export class Visitor {
	#browser!: Browser;
	#context: BrowserContext | null = null;
	/** Errors the page threw or logged since the last visit. */
	#errors: string[] = [];

	constructor() {
		beforeAll(async () => {
			// Chromium refuses its sandbox to root, which tests in containers run as.
			this.#browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
		});
		afterEach(() => {
			expect(this.#errors).toEqual([]);
		});
		afterAll(() => this.#browser.close());
	}

	/** Opens the page in a fresh profile and waits for its first screen. */
	async visit({
		script,
		dark = false,
		width = 1360,
		height = 860,
		permissions = [],
	}: Visit): Promise<Page> {
		await this.#context?.close();
		this.#context = await this.#browser.newContext({
			viewport: { width, height },
			colorScheme: dark ? 'dark' : 'light',
			permissions,
		});
		const page = await this.#context.newPage();
		this.#errors = [];
		page.on('pageerror', (error) => this.#errors.push(error.message));
		page.on('console', (line) => {
			if (line.type() === 'error') this.#errors.push(line.text());
		});
		await page.goto(`${inject('address')}?script=${script}`);
		await page.getByTestId('composer').waitFor();
		// Fonts and the first events settle.
		await page.waitForTimeout(250);
		return page;
	}

	async startTrace(page: Page): Promise<void> {
		await this.#browser.startTracing(page, {
			categories: ['toplevel', 'disabled-by-default-devtools.timeline'],
		});
	}

	async stopTrace(): Promise<TraceEvent[]> {
		const trace = JSON.parse((await this.#browser.stopTracing()).toString()) as {
			traceEvents: TraceEvent[];
		};
		return trace.traceEvents;
	}
}

/** Asks through the composer, the way a person does. */
export async function ask(page: Page, question: string): Promise<void> {
	await page.getByTestId('composer').fill(question);
	await page.getByTestId('composer').press('Enter');
}

/** The statistics of the newest answer: it is finished. */
export function finished(page: Page): Locator {
	return page.getByTestId('reply-stats').last();
}

/** Keeps a picture where one is asked for by SCREENSHOTS=folder. */
export async function picture(page: Page, name: string): Promise<void> {
	const folder = process.env.SCREENSHOTS;
	if (folder === undefined || folder === '') return;
	mkdirSync(folder, { recursive: true });
	await page.screenshot({ path: `${folder}/${name}.png` });
}

/** Milliseconds over the time recorded. */
export interface Frames {
	count: number;
	p99: number;
	max: number;
	/** Processor time of the longest task of the page's main thread. */
	longestTaskMs: number;
}

interface TraceEvent {
	name: string;
	pid: number;
	tid: number;
	/** Processor time in microseconds. */
	tdur?: number;
	args: { name?: string };
}

/** Records the time between frames, and the processor time of every task of the main thread, while `run` goes on. */
export async function recordFrames(visitor: Visitor, page: Page, run: () => Promise<void>): Promise<Frames> {
	await visitor.startTrace(page);
	await page.evaluate(() => {
		const times: number[] = [];
		Object.assign(window, { frameTimes: times });
		let last = performance.now();
		const frame = (now: number) => {
			times.push(now - last);
			last = now;
			requestAnimationFrame(frame);
		};
		requestAnimationFrame(frame);
	});
	await run();
	// Without the first, which waited for the recorder.
	const times = await page.evaluate(() =>
		(window as unknown as { frameTimes: number[] }).frameTimes.slice(1),
	);
	const sorted = times.toSorted((a, b) => a - b);
	return {
		count: sorted.length,
		p99: sorted[Math.floor(sorted.length * 0.99)] ?? 0,
		max: sorted.at(-1) ?? 0,
		longestTaskMs: longestTask(await visitor.stopTrace()),
	};
}

/** The page's main thread is the renderer thread with the most work. */
function longestTask(events: readonly TraceEvent[]): number {
	const threads = events.filter(
		({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain',
	);
	let busiest = { total: 0, longest: 0 };
	for (const { pid, tid } of threads) {
		const tasks = events.filter(
			(event) => event.pid === pid && event.tid === tid && event.name.endsWith('RunTask'),
		);
		const spent = tasks.map(({ tdur }) => (tdur ?? 0) / 1000);
		const total = spent.reduce((sum, each) => sum + each, 0);
		if (total > busiest.total) busiest = { total, longest: spent.reduce((a, b) => Math.max(a, b), 0) };
	}
	if (busiest.total === 0) throw new Error('the trace holds no task of the main thread');
	return busiest.longest;
}
