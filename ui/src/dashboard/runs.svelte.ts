import type { AttentionMode, ModelCard, ReplyEvent } from '../ipc/bindings';
import { Run, settingOf } from './run.svelte';

/** Runs kept in memory; older ones are forgotten. */
const MOST_RUNS = 60;
/** Characters of per-head detail kept over all runs, about one byte each. */
const MOST_HEAD_CHARACTERS = 24_000_000;

/** What is known about the reply an event belongs to. */
export interface ReplyIdentity {
	id: number | null;
	chat: number;
}

/** The answers of this session, step by step, and which one the dashboard shows. */
export class RunHistory {
	runs = $state.raw<readonly Run[]>([]);
	/** The message the user wants to look at; null follows the newest answer. */
	pinned = $state<number | null>(null);

	/** Folds one event of a reply. `attention` and `card`: what the reply was asked for and is made on. */
	apply(event: ReplyEvent, reply: ReplyIdentity, attention: AttentionMode, card: ModelCard | null): void {
		if (reply.id === null) return;
		if (event.kind === 'started') this.#begin(new Run(reply.id, reply.chat, settingOf(card, attention)));
		this.ofMessage(reply.id)?.apply(event);
	}

	ofMessage(message: number): Run | undefined {
		return this.runs.find((run) => run.message === message);
	}

	/** Runs of these messages, in their order: the versions of one answer. */
	ofMessages(messages: readonly number[]): Run[] {
		return messages.map((message) => this.ofMessage(message)).filter((run) => run !== undefined);
	}

	/** The newest run of a chat. */
	newest(chat: number): Run | undefined {
		return this.runs.findLast((run) => run.chat === chat);
	}

	#begin(run: Run): void {
		// A continued answer is one message and two runs: the newer one counts.
		const others = this.runs.filter((old) => old.message !== run.message);
		this.runs = [...others.slice(1 - MOST_RUNS), run];
		this.pinned = null;
		let characters = 0;
		for (const old of this.runs.toReversed()) {
			characters += old.heads.length * (old.heads[0]?.length ?? 0);
			if (characters > MOST_HEAD_CHARACTERS) old.heads = [];
		}
	}
}
