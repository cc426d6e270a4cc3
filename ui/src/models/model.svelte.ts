import { commands, events, type ModelCard, type ModelStatus } from '../ipc/bindings';
import { settle, type Outcome } from '../ipc/call';

/** The one loaded model, or why there is none. */
export class Model {
	status = $state.raw<ModelStatus>({ kind: 'none' });

	/** The model's figures; null unless it is ready. */
	get card(): ModelCard | null {
		return this.status.kind === 'ready' ? this.status.info : null;
	}

	/** Follows the shell's events; answers with how to stop. */
	async follow(): Promise<() => void> {
		return events.modelEvent.listen((event) => {
			this.status = event.payload.status;
		});
	}

	load(contextTokens: number | null): Promise<Outcome<null>> {
		return settle(commands.modelLoad(contextTokens));
	}

	pick(): Promise<Outcome<null>> {
		return settle(commands.modelPick());
	}

	demo(): Promise<Outcome<null>> {
		return settle(commands.modelDemo());
	}

	/** Why nothing can be asked now; '' if it can. */
	get blocked(): string {
		switch (this.status.kind) {
			case 'ready':
				return '';
			case 'loading':
				return 'The model is being loaded. You can write already.';
			case 'none':
				return 'Choose a model to ask.';
			case 'failed':
				return 'The model could not be loaded.';
		}
	}
}

/** Bytes a context of this length takes; KV grows with it, the rest does not. Derived from the loaded model's figures. */
export function bytesAtContext(card: ModelCard, contextTokens: number) {
	const kv = card.contextTokens > 0 ? (card.kvBytes / card.contextTokens) * contextTokens : 0;
	const total = card.weightsBytes + kv + card.ringBytes + card.scratchBytes;
	// Free memory was measured with the present reservation in place.
	const held = card.kvBytes;
	return { kv, total, fits: kv - held <= card.freeBytes, available: card.freeBytes + held };
}
