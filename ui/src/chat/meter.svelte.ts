import { commands, type ContextUse } from '../ipc/bindings';
import { settle } from '../ipc/call';

const MEASURE_AFTER_MS = 180;
/** From here on the meter turns amber. */
const NEARLY_FULL = 0.8;

export interface MeterReading {
	/** Shares of the context, drawn one after another. */
	documents: number;
	conversation: number;
	draft: number;
	reply: number;
	/** Prompt and reply reserve together. */
	usedTokens: number;
	contextTokens: number;
	level: 'fine' | 'nearly-full' | 'over';
	/** Prompt tokens that do not fit: the question would be refused. */
	excessTokens: number;
	/** What is left for the reply; less than the reserve when it will be cut short. */
	replyRoomTokens: number;
	/** Tokens the next question would make the engine read. */
	newTokens: number;
	readS: number | null;
}

/** Splits an exact count into the parts the meter draws. */
export function readMeter(use: ContextUse): MeterReading {
	const documentTokens = use.documents.reduce((sum, document) => sum + document.tokens, 0);
	const conversationTokens = Math.max(0, use.promptTokens - documentTokens - use.draftTokens);
	const usedTokens = use.promptTokens + use.replyTokens;
	const whole = Math.max(1, use.contextTokens);
	// The engine needs room for one token at least.
	const excessTokens = Math.max(0, use.promptTokens + 1 - use.contextTokens);
	return {
		documents: documentTokens / whole,
		conversation: conversationTokens / whole,
		draft: use.draftTokens / whole,
		reply: use.replyTokens / whole,
		usedTokens,
		contextTokens: use.contextTokens,
		level: excessTokens > 0 ? 'over' : usedTokens >= NEARLY_FULL * whole ? 'nearly-full' : 'fine',
		excessTokens,
		replyRoomTokens: Math.max(0, use.contextTokens - use.promptTokens),
		newTokens: Math.max(0, use.promptTokens - use.cachedTokens),
		readS: use.predictedReadS,
	};
}

/** Exact tokens of what the next question would send, measured shortly after every change. */
export class Meter {
	use = $state.raw<ContextUse | null>(null);
	reading = $derived(this.use ? readMeter(this.use) : null);
	#asked = 0;
	#timer: ReturnType<typeof setTimeout> | undefined;

	/** Measures again after a pause; the last call wins. */
	measure(chat: number | null, draft: string): void {
		clearTimeout(this.#timer);
		const ticket = ++this.#asked;
		if (chat === null) {
			this.use = null;
			return;
		}
		this.#timer = setTimeout(() => void this.#run(ticket, chat, draft), MEASURE_AFTER_MS);
	}

	async #run(ticket: number, chat: number, draft: string): Promise<void> {
		const outcome = await settle(commands.contextUse(chat, draft));
		if (ticket !== this.#asked) return;
		// Without a model there is nothing to count with: the meter is hidden.
		this.use = outcome.ok ? outcome.value : null;
	}
}
