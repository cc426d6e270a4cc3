import type { Run } from './run.svelte';

export interface Bucket {
	/** Half-open range of steps. */
	begin: number;
	end: number;
	/** Slowest step in it: a mean would hide what stutters. */
	ms: number;
	/** Mean share of groups reused. */
	groupShare: number;
}

/** One bar per token, or as few steps per bar as fit into `most` bars. */
export function buckets(run: Pick<Run, 'ms' | 'groupShare'>, most: number): Bucket[] {
	const length = run.ms.length;
	const size = Math.max(1, Math.ceil(length / Math.max(1, most)));
	const list: Bucket[] = [];
	for (let begin = 0; begin < length; begin += size) {
		const end = Math.min(length, begin + size);
		let ms = 0;
		let shares = 0;
		for (let step = begin; step < end; step += 1) {
			ms = Math.max(ms, run.ms[step] ?? 0);
			shares += run.groupShare[step] ?? 0;
		}
		list.push({ begin, end, ms, groupShare: shares / (end - begin) });
	}
	return list;
}

/** Savings of KV bytes: 1 − read ÷ exact, with ring bytes counted as read. Null where nothing would be read. */
export function savedShare(read: number, exact: number): number | null {
	return exact > 0 ? 1 - read / exact : null;
}

/** How close two context lengths must be for their step times to be compared. */
const SIMILAR = 0.1;
/** Fewer steps than this say nothing about a step's time. */
const LEAST_STEPS = 8;

export interface NetTime {
	/** Negative: a step takes less time than an exact one. */
	msPerToken: number;
	exactMs: number;
	exactSteps: number;
	exactContextTokens: number;
}

/**
 * Time per token against exact attention, from exact answers of this session on the same model and device at a
 * similar length. Null if there is none: then nobody knows.
 */
export function netTime(run: Run, runs: readonly Run[]): NetTime | null {
	const own = run.quantileMs(0.5);
	const context = run.medianContext;
	if (run.setting.attention === 'exact' || run.length < LEAST_STEPS || own === null || context === null)
		return null;
	let best: { other: Run; distance: number } | null = null;
	for (const other of runs) {
		const same = other.setting.model === run.setting.model && other.setting.device === run.setting.device;
		const length = other.medianContext;
		if (!same || other.setting.attention !== 'exact' || other.length < LEAST_STEPS || length === null)
			continue;
		const distance = Math.abs(length / context - 1);
		if (distance <= SIMILAR && (!best || distance < best.distance)) best = { other, distance };
	}
	if (!best) return null;
	const exactMs = best.other.quantileMs(0.5);
	const exactContextTokens = best.other.medianContext;
	if (exactMs === null || exactContextTokens === null) return null;
	return { msPerToken: own - exactMs, exactMs, exactSteps: best.other.length, exactContextTokens };
}

/** What became of a head in a step, as the digits of `StepView.heads` say. */
export const FATES = ['not searched', 'missed', 'refreshed', 'reused'] as const;

/** How often each fate befell each head: `counts[(layer × heads + head) × 4 + fate]`. */
export function countFates(steps: readonly string[], cells: number): Uint32Array {
	const counts = new Uint32Array(cells * FATES.length);
	for (const step of steps) {
		for (let cell = 0; cell < cells && cell < step.length; cell += 1) {
			const at = cell * FATES.length + (step.charCodeAt(cell) - 48);
			counts[at] = (counts[at] ?? 0) + 1;
		}
	}
	return counts;
}

/** Below this context the engine does not look for reuse: there is nothing to gain. */
const WORTHWHILE_TOKENS = 2048;

/** Why a run that was asked to reuse is exact now; '' if it is not. */
export function exactReason(run: Run): string {
	const last = run.length - 1;
	if (run.setting.attention === 'exact' || last < 0 || run.reuseActive[last] === true) return '';
	if ((run.contextTokens[last] ?? 0) < WORTHWHILE_TOKENS) {
		return 'Context below 2,048 tokens: exact attention, nothing to gain.';
	}
	return 'Exact attention in the last step: reuse was not expected to be faster.';
}

/** All steps as a table for other programs. */
export function csvOf(run: Run): string {
	const head = 'step,context_tokens,ms,reuse_active,head_hit_rate,group_hit_rate,bytes_read,kv_bytes_exact';
	const rows = run.ms.map((ms, step) =>
		[
			step,
			run.contextTokens[step],
			ms,
			run.reuseActive[step] === true ? 1 : 0,
			run.headShare[step],
			run.groupShare[step],
			run.bytesRead[step],
			run.bytesExact[step],
		].join(','),
	);
	return [head, ...rows].join('\n');
}
