import { emit } from '@tauri-apps/api/event';
import type { Advice, GpuView, ModelCard, ModelStatus, Settings, UserError } from './bindings';
import { refusal, type Script } from './fakeFixtures';
import { HEADS, KV_HEADS, LAYERS, pause } from './fakeReply';

const NO_DRIVER = 'No NVIDIA driver was found.';
const GPU_NAME = 'NVIDIA H200';
const GPU_BYTES = 150_100_000_000;
/** Longest context that the GPU of the scripts with a full one has room for. */
const GPU_FITS_TOKENS = 65_536;

/** The demo model on a machine without a GPU. */
export const MODEL: ModelCard = {
	name: 'reprise-demo',
	architecture: 'qwen3',
	weights: 'Q8_0',
	parameters: 28_300_000,
	device: 'CPU, 8 threads, AVX2',
	deviceName: 'CPU',
	kernels: '8 threads, AVX2',
	deviceKind: 'cpu',
	fallback: fallback('The model runs on the processor.', NO_DRIVER),
	gpuMemory: null,
	contextTokens: 32_768,
	maxContextTokens: 131_072,
	layers: LAYERS,
	queryHeads: HEADS,
	kvHeads: KV_HEADS,
	weightsBytes: 30_100_000,
	kvBytes: 134_200_000,
	ringBytes: 18_900_000,
	scratchBytes: 24_000_000,
	contextRoomBytes: 6_554_200_000,
	freeBytes: 6_420_000_000,
	demo: true,
};

/** The scripted machine's device, and the loading of the demo model to it. */
export class FakeModel {
	status: ModelStatus;
	readonly gpu: GpuView;
	readonly #script: Script;

	constructor(script: Script, settings: Settings) {
		this.#script = script;
		this.gpu = gpuOf(script);
		this.status = this.#atStart(settings);
	}

	/** Loads as the settings are, with the progress and the end that the shell would tell. */
	async load(settings: Settings): Promise<void> {
		for (let share = 0; share < 1; share += 0.1) {
			await emit('model-event', { status: { kind: 'loading', name: MODEL.name, share } });
			await pause(40);
		}
		this.status = this.#loaded(settings);
		await emit('model-event', { status: this.status });
	}

	#atStart(settings: Settings): ModelStatus {
		if (this.#script === 'no-model') return { kind: 'none' };
		if (this.#script === 'loading') return { kind: 'loading', name: MODEL.name, share: 0.42 };
		if (this.#script !== 'model-failed') return this.#loaded(settings);
		return failed('The model does not fit into memory.', [
			{ kind: 'setContext', tokens: 8192 },
			{ kind: 'chooseModel' },
		]);
	}

	#loaded({ device, contextTokens }: Settings): ModelStatus {
		const tokens = contextTokens ?? MODEL.contextTokens;
		if (device === 'cpu') return ready(tokens, { fallback: null });
		if (this.gpu.kind !== 'usable') {
			return device === 'gpu'
				? failed(`No GPU can be used. ${this.gpu.why}`, [
						{ kind: 'setDevice', device: 'cpu' },
						{ kind: 'reload' },
					])
				: ready(tokens, { fallback: this.#fallback(this.gpu.why) });
		}
		const full = this.#script === 'gpu-full';
		if (!full || tokens <= GPU_FITS_TOKENS) return ready(tokens, onGpu(full));
		const shortage = 'There is not enough GPU memory: 12.1 GiB are needed and 9.0 GiB are free.';
		return device === 'gpu'
			? failed(shortage, [
					{ kind: 'setContext', tokens: GPU_FITS_TOKENS },
					{ kind: 'setDevice', device: 'cpu' },
				])
			: ready(tokens, {
					fallback: this.#fallback(shortage, { kind: 'setContext', tokens: GPU_FITS_TOKENS }),
				});
	}

	#fallback(why: string, ...ways: Advice[]): UserError {
		switch (this.gpu.kind) {
			case 'missing':
				return fallback('The model runs on the processor.', why);
			case 'unusable':
				return fallback(`The model runs on the processor: ${this.gpu.name} cannot be used.`, why);
			case 'usable':
				return fallback(
					`The model runs on the processor: ${this.gpu.name} did not take it.`,
					why,
					...ways,
				);
		}
	}
}

/** What the scripted machine has. */
function gpuOf(script: Script): GpuView {
	if (script === 'gpu' || script === 'gpu-full') {
		return { kind: 'usable', name: GPU_NAME, memoryBytes: GPU_BYTES };
	}
	if (script !== 'old-driver') return { kind: 'missing', why: NO_DRIVER };
	return {
		kind: 'unusable',
		name: 'NVIDIA GeForce RTX 3060',
		why: 'Its driver is too old: it speaks CUDA 12.4 and 13.0 is needed. Install a newer NVIDIA driver.',
	};
}

function ready(contextTokens: number, part: Partial<ModelCard>): ModelStatus {
	return { kind: 'ready', info: { ...MODEL, contextTokens, kvBytes: kvBytes(contextTokens), ...part } };
}

function kvBytes(contextTokens: number): number {
	return (MODEL.kvBytes / MODEL.contextTokens) * contextTokens;
}

/** `full`: other programs hold most of its memory. */
function onGpu(full: boolean): Partial<ModelCard> {
	const usedBytes = MODEL.weightsBytes + MODEL.ringBytes + MODEL.scratchBytes;
	const room = full ? kvBytes(GPU_FITS_TOKENS) : GPU_BYTES - usedBytes;
	return {
		device: `${GPU_NAME}, CUDA, sm_90a kernels`,
		deviceName: GPU_NAME,
		kernels: 'CUDA, sm_90a kernels',
		deviceKind: 'gpu',
		fallback: null,
		gpuMemory: { usedBytes, freeBytes: room, totalBytes: GPU_BYTES },
		contextRoomBytes: room,
	};
}

function fallback(message: string, why: string, ...ways: Advice[]): UserError {
	return {
		message,
		kept: '',
		advice: [{ kind: 'hint', text: why }, ...ways],
		details: 'scripted engine: fallback',
	};
}

function failed(message: string, advice: Advice[]): ModelStatus {
	const error = { ...refusal(message), kept: 'Your chats are unchanged.', advice };
	return { kind: 'failed', error };
}
