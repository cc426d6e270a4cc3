/** How often a hidden or covered window still takes events in: animation frames stop there. */
const HIDDEN_MS = 250;

/**
 * Collects items and hands them over at most once a frame, in order.
 * A hidden window gets no frames, so a timer stands in for them.
 */
export class FrameQueue<Item> {
	#items: Item[] = [];
	#waiting = false;
	readonly #take: (items: Item[]) => void;
	readonly #schedule: (run: () => void) => void;

	constructor(take: (items: Item[]) => void, schedule: (run: () => void) => void = nextFrame) {
		this.#take = take;
		this.#schedule = schedule;
	}

	push(item: Item): void {
		this.#items.push(item);
		if (this.#waiting) return;
		this.#waiting = true;
		this.#schedule(() => this.flush());
	}

	flush(): void {
		this.#waiting = false;
		const items = this.#items;
		this.#items = [];
		if (items.length > 0) this.#take(items);
	}
}

function nextFrame(run: () => void): void {
	const first = () => {
		cancelAnimationFrame(frame);
		clearTimeout(timer);
		run();
	};
	const frame = requestAnimationFrame(first);
	const timer = setTimeout(first, HIDDEN_MS);
}
