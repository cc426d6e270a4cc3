import type { MessageView, ReplyEvent, UserError } from '../ipc/bindings';
import { reading, type Reading } from '../ipc/reading';

/** Where a reply stands. */
export type Phase =
	| { kind: 'queued' }
	| Reading
	| { kind: 'writing' }
	| { kind: 'ended'; message: MessageView }
	| { kind: 'failed'; error: UserError; message: MessageView | null };

/** One reply while it is being made: engine events in, reactive state out. */
export class Reply {
	readonly chat: number;
	/** Id of the message being written; null until the shell has stored it. */
	id = $state<number | null>(null);
	text = $state('');
	/** Tokens written so far. */
	tokens = $state(0);
	phase = $state.raw<Phase>({ kind: 'queued' });
	/** What was read before the first word, once reading is over. */
	read = $state.raw<{ total: number; cached: number } | null>(null);
	/** The user pressed Stop and the engine has not answered yet. */
	stopping = $state(false);

	constructor(chat: number) {
		this.chat = chat;
	}

	get running(): boolean {
		return this.phase.kind !== 'ended' && this.phase.kind !== 'failed';
	}

	apply(event: ReplyEvent): void {
		switch (event.kind) {
			case 'started':
				this.id = event.reply;
				// A continued reply starts with what it already has.
				this.text = event.chat.messages.find((message) => message.id === event.reply)?.text ?? '';
				break;
			case 'prefill':
				this.phase = reading(event);
				this.read = { total: event.total, cached: event.cached };
				break;
			case 'tokens':
				if (this.phase.kind !== 'writing') this.phase = { kind: 'writing' };
				this.text += event.text;
				this.tokens += event.steps.length;
				break;
			case 'done':
				this.text = event.message.text;
				this.phase = { kind: 'ended', message: event.message };
				break;
			case 'failed':
				if (event.message) this.text = event.message.text;
				this.phase = { kind: 'failed', error: event.error, message: event.message };
				break;
		}
	}

	/** For assistive technology: changes of state, never single tokens. Reading is told in steps of ten percent. */
	get announcement(): string {
		switch (this.phase.kind) {
			case 'queued':
				return 'Question sent';
			case 'reading': {
				const share = this.phase.total > 0 ? this.phase.done / this.phase.total : 0;
				return `Reading, ${Math.floor(share * 10) * 10} percent`;
			}
			case 'writing':
				return this.stopping ? 'Stopping' : 'Writing the answer';
			case 'ended':
				return this.phase.message.state === 'stopped' ? 'Answer stopped' : 'Answer complete';
			case 'failed':
				return `Answer failed: ${this.phase.error.message}`;
		}
	}
}
