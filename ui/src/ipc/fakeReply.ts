import type { Channel } from '@tauri-apps/api/core';
import type { AttentionMode, ReplyEvent, ReplyStats, StepView, TokenStep } from './bindings';
import { piecesOf } from './fakeText';

export const LAYERS = 8;
export const HEADS = 8;
export const KV_HEADS = 2;
const HEAD_DIM = 64;
/** K and V of one position, all layers, bf16. */
const KV_BYTES = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2;
const RING_BYTES_PER_HEAD = 512 * 64 * 2;
const FRAME_MS = 33;

/** How one scripted reply runs. */
export interface ReplyPlan {
	text: string;
	attention: AttentionMode;
	promptTokens: number;
	cachedTokens: number;
	/** Tokens read and written per second. */
	readRate: number;
	writeRate: number;
	/** Fails after this many tokens; null for never. */
	failAt: number | null;
	sources: string[];
}

export interface ReplyEnd {
	text: string;
	stats: ReplyStats;
	end: 'done' | 'stopped' | 'failed';
}

/** Same numbers on every run: a linear congruential generator. */
function randomOf(seed: number): () => number {
	let state = seed >>> 0;
	return () => {
		state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
		return state / 2 ** 32;
	};
}

function stepOf(plan: ReplyPlan, index: number, random: () => number): StepView {
	const contextTokens = plan.promptTokens + index;
	const kvBytesExact = contextTokens * KV_BYTES;
	const reuseActive = plan.attention === 'mac' && contextTokens >= 2048;
	const perGroup = HEADS / KV_HEADS;
	const heads: string[] = [];
	let matched = 0;
	let groupsReused = 0;
	for (let layer = 0; layer < LAYERS && reuseActive; layer += 1) {
		// Later layers repeat themselves more, and a reply settles after its first words.
		const odds = Math.min(0.985, 0.55 + layer * 0.055 + Math.min(0.12, index / 400));
		for (let group = 0; group < KV_HEADS; group += 1) {
			const hits = Array.from({ length: perGroup }, () => random() < odds);
			const whole = hits.every(Boolean);
			if (whole) groupsReused += 1;
			matched += hits.filter(Boolean).length;
			heads.push(...hits.map((hit) => (!hit ? '1' : whole ? '3' : '2')));
		}
	}
	const groupsTotal = LAYERS * KV_HEADS;
	const readShare = reuseActive ? 1 - groupsReused / groupsTotal : 1;
	const ringBytes = reuseActive ? RING_BYTES_PER_HEAD * LAYERS : 0;
	const base = 1000 / plan.writeRate;
	return {
		contextTokens,
		ms: base * (0.75 + 0.35 * readShare + 0.15 * random() + (random() > 0.985 ? 0.8 : 0)),
		reuseActive,
		headsMatched: matched,
		headsTotal: LAYERS * HEADS,
		groupsReused,
		groupsTotal,
		kvBytesRead: kvBytesExact * readShare,
		ringBytes,
		kvBytesExact,
		heads: reuseActive ? heads.join('') : '0'.repeat(LAYERS * HEADS),
	};
}

/** Plays a reply into the channel; `stopped` is asked before every message. */
export async function playReply(
	plan: ReplyPlan,
	channel: Channel<ReplyEvent>,
	stopped: () => boolean,
): Promise<ReplyEnd> {
	const random = randomOf(plan.promptTokens);
	const fresh = plan.promptTokens - plan.cachedTokens;
	const begun = performance.now();
	let read = 0;
	while (read < fresh && !stopped()) {
		const seconds = (performance.now() - begun) / 1000;
		read = Math.min(fresh, Math.ceil(seconds * plan.readRate));
		channel.onmessage({
			kind: 'prefill',
			done: plan.cachedTokens + read,
			total: plan.promptTokens,
			cached: plan.cachedTokens,
			tokensPerS: seconds > 0.2 ? plan.readRate : null,
			remainingS: seconds > 0.2 ? (fresh - read) / plan.readRate : null,
		});
		await pause(FRAME_MS);
	}
	const prefillS = (performance.now() - begun) / 1000;
	const pieces = piecesOf(plan.text);
	const steps: StepView[] = [];
	let text = '';
	const writing = performance.now();
	let due = 0;
	while (steps.length < pieces.length && !stopped()) {
		due = Math.min(
			pieces.length,
			Math.floor(((performance.now() - writing) / 1000) * plan.writeRate) + 1,
		);
		const batch: TokenStep[] = [];
		let delta = '';
		while (steps.length < due) {
			const index = steps.length;
			const piece = pieces[index] ?? '';
			const step = stepOf(plan, index, random);
			steps.push(step);
			batch.push({ index, text: piece, step: index === pieces.length - 1 ? null : step });
			delta += piece;
		}
		text += delta;
		if (batch.length > 0) channel.onmessage({ kind: 'tokens', text: delta, steps: batch });
		if (plan.failAt !== null && steps.length >= plan.failAt)
			return { text, stats: statsOf(plan, steps, prefillS), end: 'failed' };
		await pause(FRAME_MS);
	}
	const stats = statsOf(plan, steps, prefillS);
	return stopped()
		? { text, stats: { ...stats, stop: 'user' }, end: 'stopped' }
		: { text, stats, end: 'done' };
}

function statsOf(plan: ReplyPlan, steps: readonly StepView[], prefillS: number): ReplyStats {
	const sum = (of: (step: StepView) => number) => steps.reduce((total, step) => total + of(step), 0);
	const active = steps.some((step) => step.reuseActive);
	return {
		model: 'reprise-demo',
		device: 'CPU, 8 threads',
		attention: plan.attention,
		promptTokens: plan.promptTokens,
		cachedTokens: plan.cachedTokens,
		prefillS,
		ttftS: prefillS + 0.02,
		decodeTokens: steps.length,
		decodeS: sum((step) => step.ms) / 1000,
		decodeSteps: steps.length,
		stop: 'endOfTurn',
		headHitRate: active ? sum((step) => step.headsMatched) / sum((step) => step.headsTotal) : null,
		groupHitRate: active ? sum((step) => step.groupsReused) / sum((step) => step.groupsTotal) : null,
		kvBytesRead: sum((step) => step.kvBytesRead),
		ringBytes: sum((step) => step.ringBytes),
		kvBytesExact: sum((step) => step.kvBytesExact),
		exactFallbackSteps: plan.attention === 'mac' ? steps.filter((step) => !step.reuseActive).length : 0,
		auditSamples: active ? Math.floor(steps.length / 8) : 0,
		auditMeanError: active ? 0.0021 : null,
		auditMaxError: active ? 0.0148 : null,
		sources: plan.sources,
	};
}

export function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}
