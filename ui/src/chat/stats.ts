import type { ReplyStats, StopKind } from '../ipc/bindings';
import { count, percent, plural, rate, seconds } from '../kit/format';

/** One labelled group of figures under an answer. */
export interface StatsGroup {
	label: string;
	facts: string[];
	/** How the figures came about, for the tooltip. */
	source: string;
}

const STOPS: Record<StopKind, string> = {
	endOfTurn: 'finished',
	maxTokens: 'reached the reply limit',
	contextFull: 'context is full',
	user: 'stopped by you',
};

export function stopText(stop: StopKind): string {
	return STOPS[stop];
}

/** Share of KV bytes that exact attention would have read and this answer did not. Rings count as read. */
export function savedShare(stats: ReplyStats): number | null {
	if (stats.kvBytesExact <= 0) return null;
	return 1 - (stats.kvBytesRead + stats.ringBytes) / stats.kvBytesExact;
}

/** The figures of a reply, reading and writing apart. */
export function statsGroups(stats: ReplyStats): StatsGroup[] {
	const fresh = Math.max(0, stats.promptTokens - stats.cachedTokens);
	const reading = [plural(fresh, 'token')];
	if (stats.cachedTokens > 0) reading.push(`${count(stats.cachedTokens)} from memory`);
	// A rate over a handful of tokens says nothing about reading.
	if (stats.prefillS > 0 && fresh >= 16) reading.push(`${rate(fresh / stats.prefillS)} tokens/s`);
	reading.push(seconds(stats.prefillS));

	const writing = [plural(stats.decodeTokens, 'token')];
	if (stats.decodeS > 0 && stats.decodeSteps > 0) {
		writing.push(`${rate(stats.decodeSteps / stats.decodeS)} tokens/s`);
	}
	writing.push(`first after ${seconds(stats.ttftS)}`);

	return [
		{
			label: 'Read',
			facts: reading,
			source: 'Measured. Tokens read now; those kept in memory are not counted in the rate.',
		},
		{
			label: 'Wrote',
			facts: writing,
			source: 'Measured. Steps over their time; the first token’s wait is apart.',
		},
		{ label: stats.attention === 'exact' ? 'Attention' : 'Reuse', ...reuseFacts(stats) },
	];
}

function reuseFacts(stats: ReplyStats): Omit<StatsGroup, 'label'> {
	const saved = savedShare(stats);
	if (stats.attention === 'exact') return { facts: ['exact'], source: 'Full attention was asked for.' };
	if (stats.decodeSteps > 0 && stats.exactFallbackSteps >= stats.decodeSteps) {
		return {
			facts: ['not used, exact attention is as fast here'],
			source: 'Measured: every step was exact.',
		};
	}
	const facts = [`${percent(stats.groupHitRate)} of groups`];
	if (saved !== null) facts.push(`${percent(saved)} of KV bytes not read`);
	return {
		facts,
		source: 'Counted. Groups whose KV was not read; bytes are 1 − (KV + ring read) ÷ what exact attention reads.',
	};
}
