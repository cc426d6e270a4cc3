import {
	commands,
	events,
	type GpuView,
	type ModelCard,
	type ModelStatus,
	type UserError,
} from '../ipc/bindings';
import { settle, type Outcome } from '../ipc/call';

/** The one loaded model, or why there is none. */
export class Model {
	status = $state.raw<ModelStatus>({ kind: 'none' });
	/** What the look for a GPU found; null until it has. */
	gpu = $state.raw<GpuView | null>(null);
	#dismissed = $state.raw<UserError | null>(null);
	#heard = false;

	/** The model's figures; null unless it is ready. */
	get card(): ModelCard | null {
		return this.status.kind === 'ready' ? this.status.info : null;
	}

	/**
	 * Why the processor serves although there is a GPU, or why the context is not held as wished. Where there is no GPU
	 * and none was counted on, there is nothing to be told.
	 */
	get fallback(): UserError | null {
		const { card, gpu } = this;
		if (card === null) return null;
		const hasGpu = gpu !== null && gpu.kind !== 'missing';
		return hasGpu || card.kv !== card.kvWished ? card.fallback : null;
	}

	/** The fallback, until the user has put it away. */
	get notice(): UserError | null {
		return this.fallback === this.#dismissed ? null : this.fallback;
	}

	dismissNotice(): void {
		this.#dismissed = this.fallback;
	}

	/** Follows the shell's events; answers with how to stop. */
	async follow(): Promise<() => void> {
		return events.modelEvent.listen((event) => {
			this.#heard = true;
			this.status = event.payload.status;
		});
	}

	/** What the shell answered at the start. An event that came before the answer is newer, or a newer one follows. */
	begin(status: ModelStatus): void {
		if (!this.#heard) this.status = status;
	}

	/** Looks for a GPU. Where that fails the page goes on not knowing. */
	async look(): Promise<void> {
		const outcome = await settle(commands.gpuLook());
		if (outcome.ok) this.gpu = outcome.value;
	}

	/** Loads the model again, as the settings are. */
	load(): Promise<Outcome<null>> {
		return settle(commands.modelLoad());
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
