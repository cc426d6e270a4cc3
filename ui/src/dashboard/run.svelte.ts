import type { AttentionMode, ModelCard, ReplyEvent, ReplyStats, TokenStep } from '../ipc/bindings';
import { reading, type Reading } from '../ipc/reading';

/** Time over which the live rate is averaged. */
const EMA_MS = 1000;

/** Where a run stands, in the words of the dashboard. */
export type RunPhase =
	{ kind: 'waiting' } | Reading | { kind: 'writing' } | { kind: 'ended' } | { kind: 'failed' };

/** Sums over the steps of a run. */
export interface Totals {
	ms: number;
	headsMatched: number;
	heads: number;
	groupsReused: number;
	groups: number;
	kvBytesRead: number;
	ringBytes: number;
	kvBytesExact: number;
	exactSteps: number;
}

/** What a run was made on: only runs on the same may be compared. */
export interface RunSetting {
	attention: AttentionMode;
	model: string;
	device: string;
	layers: number;
	queryHeads: number;
}

export function settingOf(card: ModelCard | null, attention: AttentionMode): RunSetting {
	return {
		attention,
		model: card?.name ?? '',
		device: card?.device ?? '',
		layers: card?.layers ?? 0,
		queryHeads: card?.queryHeads ?? 0,
	};
}

/** One answer step by step, column by column. Plain arrays, so that recording costs next to nothing. */
export class Run {
	readonly message: number;
	readonly chat: number;
	readonly setting: RunSetting;
	phase = $state.raw<RunPhase>({ kind: 'waiting' });
	stats = $state.raw<ReplyStats | null>(null);
	/** Goes up whenever the columns have grown: what draws them reads it. */
	version = $state(0);
	readonly texts: string[] = [];
	readonly ms: number[] = [];
	readonly contextTokens: number[] = [];
	/** Heads matched ÷ heads, per step. */
	readonly headShare: number[] = [];
	/** Groups reused ÷ groups, per step. */
	readonly groupShare: number[] = [];
	/** KV and ring bytes touched, per step. */
	readonly bytesRead: number[] = [];
	readonly bytesExact: number[] = [];
	readonly reuseActive: boolean[] = [];
	/** One digit per head, layer by layer. Emptied when the session's budget for it is spent. */
	heads: string[] = [];
	readonly totals: Totals = {
		ms: 0,
		headsMatched: 0,
		heads: 0,
		groupsReused: 0,
		groups: 0,
		kvBytesRead: 0,
		ringBytes: 0,
		kvBytesExact: 0,
		exactSteps: 0,
	};
	#emaMs: number | null = null;
	#sortedMs = new Float64Array();

	constructor(message: number, chat: number, setting: RunSetting) {
		this.message = message;
		this.chat = chat;
		this.setting = setting;
	}

	get length(): number {
		return this.ms.length;
	}

	/** Tokens per second over about the last second; null before the first step. */
	get liveRate(): number | null {
		return this.#emaMs === null ? null : 1000 / this.#emaMs;
	}

	/** Tokens per second over the whole run. */
	get meanRate(): number | null {
		return this.totals.ms > 0 ? (1000 * this.length) / this.totals.ms : null;
	}

	/** The step time below which this share of the steps lies; null before the first step. */
	quantileMs(at: number): number | null {
		// Several figures of one frame ask: sort once for all of them.
		if (this.#sortedMs.length !== this.length) this.#sortedMs = Float64Array.from(this.ms).sort();
		return this.#sortedMs[Math.min(this.length - 1, Math.floor(at * this.length))] ?? null;
	}

	/** Context at the middle step: it only grows. */
	get medianContext(): number | null {
		return this.contextTokens[Math.floor(this.length / 2)] ?? null;
	}

	apply(event: ReplyEvent): void {
		switch (event.kind) {
			case 'started':
				break;
			case 'prefill':
				this.phase = reading(event);
				break;
			case 'tokens':
				if (this.phase.kind !== 'writing') this.phase = { kind: 'writing' };
				for (const token of event.steps) this.#record(token);
				this.version += 1;
				break;
			case 'done':
				this.stats = event.message.stats;
				this.phase = { kind: 'ended' };
				break;
			case 'failed':
				this.stats = event.message?.stats ?? null;
				this.phase = { kind: 'failed' };
				break;
		}
	}

	#record({ text, step }: TokenStep): void {
		if (!step) return;
		this.texts.push(text);
		this.ms.push(step.ms);
		this.contextTokens.push(step.contextTokens);
		this.headShare.push(share(step.headsMatched, step.headsTotal));
		this.groupShare.push(share(step.groupsReused, step.groupsTotal));
		this.bytesRead.push(step.kvBytesRead + step.ringBytes);
		this.bytesExact.push(step.kvBytesExact);
		this.reuseActive.push(step.reuseActive);
		this.heads.push(step.heads);
		const totals = this.totals;
		totals.ms += step.ms;
		totals.headsMatched += step.headsMatched;
		totals.heads += step.headsTotal;
		totals.groupsReused += step.groupsReused;
		totals.groups += step.groupsTotal;
		totals.kvBytesRead += step.kvBytesRead;
		totals.ringBytes += step.ringBytes;
		totals.kvBytesExact += step.kvBytesExact;
		if (!step.reuseActive) totals.exactSteps += 1;
		this.#emaMs ??= step.ms;
		this.#emaMs += (1 - Math.exp(-step.ms / EMA_MS)) * (step.ms - this.#emaMs);
	}
}

function share(part: number, whole: number): number {
	return whole > 0 ? part / whole : 0;
}
