import { emit } from '@tauri-apps/api/event';
import type {
	Advice,
	ContextCost,
	GpuView,
	KvFormat,
	ModelCard,
	ModelStatus,
	Settings,
	UserError,
} from './bindings';
import { refusal, type Script } from './fakeFixtures';
import { HEADS, KV_HEADS, LAYERS, pause } from './fakeReply';

const NO_DRIVER = 'No NVIDIA driver was found.';
const GPU_NAME = 'NVIDIA H200';
const GPU_BYTES = 150_100_000_000;
/** Longest context that the GPU of the scripts with a full one has room for, held in 16 bits. */
const GPU_FITS_TOKENS = 65_536;
/** Contexts are offered in steps of this many tokens. */
const CONTEXT_STEP = 256;

const ON_CPU: ContextCost = {
	device: 'cpu',
	kv: 'bf16',
	tokenBytes: 4096,
	scratchBytes: 0,
	scratchTokenBytes: 0,
};
/** The demo model's on a GPU: 8 bits are expanded to 16 to be read, one layer at a time. */
const ON_GPU: Record<KvFormat, ContextCost> = {
	bf16: { ...ON_CPU, device: 'gpu', scratchBytes: 34_600_000 },
	q8_0: {
		device: 'gpu',
		kv: 'q8_0',
		tokenBytes: 2176,
		scratchBytes: 53_000_000,
		scratchTokenBytes: 4096 / LAYERS,
	},
	fp8: {
		device: 'gpu',
		kv: 'fp8',
		tokenBytes: 2048,
		scratchBytes: 36_200_000,
		scratchTokenBytes: 4096 / LAYERS,
	},
};

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
	kv: 'bf16',
	kvWished: 'bf16',
	fallback: fallback('The model runs on the processor.', NO_DRIVER),
	gpuMemory: null,
	contextTokens: 32_768,
	maxContextTokens: 131_072,
	layers: LAYERS,
	queryHeads: HEADS,
	kvHeads: KV_HEADS,
	weightsBytes: 30_100_000,
	kvBytes: 134_217_728,
	ringBytes: 18_900_000,
	scratchBytes: 24_000_000,
	fixedBytes: 73_000_000,
	contextCosts: [ON_CPU, ON_GPU.bf16, ON_GPU.q8_0, ON_GPU.fp8],
	contextRoomBytes: 6_554_217_728,
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

	#loaded({ device, kv, contextTokens }: Settings): ModelStatus {
		const tokens = contextTokens ?? MODEL.contextTokens;
		if (device === 'cpu') return onCpu(tokens, kv, kv === 'bf16' ? null : this.#waiting());
		if (this.gpu.kind !== 'usable') {
			return device === 'gpu'
				? failed(`No GPU can be used. ${this.gpu.why}`, [
						{ kind: 'setDevice', device: 'cpu' },
						{ kind: 'reload' },
					])
				: onCpu(tokens, kv, this.#fallback(kv, this.gpu.why));
		}
		const full = this.#script === 'gpu-full';
		const fits = full ? fitting(ON_GPU[kv]) : MODEL.maxContextTokens;
		if (tokens <= fits) return onGpu(tokens, kv, full);
		const shortage = 'There is not enough GPU memory: 12.1 GiB are needed and 9.0 GiB are free.';
		const ways: Advice[] = [{ kind: 'setContext', tokens: fits }];
		if (kv === 'bf16') ways.push({ kind: 'setKv', kv: 'q8_0' });
		return device === 'gpu'
			? failed(shortage, [...ways, { kind: 'setDevice', device: 'cpu' }])
			: onCpu(tokens, kv, this.#fallback(kv, shortage, ...ways));
	}

	/** What is told where the processor was chosen and 8 bits are wished. */
	#waiting(): UserError {
		const told = 'The context memory is 16-bit: the model runs on the processor, and 8-bit needs a GPU.';
		if (this.gpu.kind !== 'usable') return fallback(told, this.gpu.why);
		return { ...fallback(told, ''), advice: [{ kind: 'setDevice', device: 'auto' }] };
	}

	#fallback(kv: KvFormat, why: string, ...ways: Advice[]): UserError {
		const waits: Advice[] =
			kv === 'bf16'
				? []
				: [{ kind: 'hint', text: 'Its context memory is 16-bit, as 8-bit needs a GPU.' }];
		return fallback(this.#onProcessor(), why, ...ways, ...waits);
	}

	#onProcessor(): string {
		switch (this.gpu.kind) {
			case 'missing':
				return 'The model runs on the processor.';
			case 'unusable':
				return `The model runs on the processor: ${this.gpu.name} cannot be used.`;
			case 'usable':
				return `The model runs on the processor: ${this.gpu.name} did not take it.`;
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

function onCpu(contextTokens: number, kvWished: KvFormat, told: UserError | null): ModelStatus {
	const kvBytes = ON_CPU.tokenBytes * contextTokens;
	return { kind: 'ready', info: { ...MODEL, contextTokens, kvBytes, kvWished, fallback: told } };
}

/** `full`: other programs hold most of its memory. */
function onGpu(contextTokens: number, kv: KvFormat, full: boolean): ModelStatus {
	const { tokenBytes, scratchBytes, scratchTokenBytes } = ON_GPU[kv];
	const usedBytes = MODEL.fixedBytes;
	const room = full ? bytesAt(ON_GPU.bf16, GPU_FITS_TOKENS) : GPU_BYTES - usedBytes;
	const kernels = ['CUDA, sm_90a kernels', ...(kv === 'bf16' ? [] : [`${kv} KV cache`])].join(', ');
	return {
		kind: 'ready',
		info: {
			...MODEL,
			contextTokens,
			kvBytes: tokenBytes * contextTokens,
			scratchBytes: MODEL.scratchBytes + scratchBytes + scratchTokenBytes * contextTokens,
			kv,
			kvWished: kv,
			device: `${GPU_NAME}, ${kernels}`,
			deviceName: GPU_NAME,
			kernels,
			deviceKind: 'gpu',
			fallback: null,
			gpuMemory: { usedBytes, freeBytes: room, totalBytes: GPU_BYTES },
			contextRoomBytes: room,
		},
	};
}

function bytesAt(cost: ContextCost, contextTokens: number): number {
	return cost.scratchBytes + (cost.tokenBytes + cost.scratchTokenBytes) * contextTokens;
}

/** Longest context that the full GPU has room for. */
function fitting(cost: ContextCost): number {
	const room = bytesAt(ON_GPU.bf16, GPU_FITS_TOKENS) - cost.scratchBytes;
	const tokens = room / (cost.tokenBytes + cost.scratchTokenBytes);
	return Math.min(MODEL.maxContextTokens, Math.floor(tokens / CONTEXT_STEP) * CONTEXT_STEP);
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
