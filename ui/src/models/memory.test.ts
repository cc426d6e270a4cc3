import { expect, it } from 'vitest';
import type { GpuView, ModelCard } from '../ipc/bindings';
import { MODEL } from '../ipc/fakeModel';
import { estimate, memoryView } from './memory';

const FIXED = 300;
/** Fixed parts of 300 bytes, one byte of KV a token. */
const ON_CPU: ModelCard = {
	...MODEL,
	contextTokens: 1000,
	kvBytes: 1000,
	weightsBytes: 200,
	ringBytes: 60,
	scratchBytes: 40,
	contextRoomBytes: 5000,
	freeBytes: 4000,
};
const GPU: GpuView = { kind: 'usable', name: 'NVIDIA H200', memoryBytes: 2300 };
const ON_GPU: ModelCard = {
	...ON_CPU,
	deviceKind: 'gpu',
	gpuMemory: { usedBytes: 350, freeBytes: 1900, totalBytes: 2300 },
	contextRoomBytes: 1900,
};
const NO_GPU: GpuView = { kind: 'missing', why: 'No driver.' };

it('counts what grows with the context and what does not', () => {
	expect(estimate(ON_CPU, 2000, 'cpu', NO_GPU)).toEqual({
		device: 'cpu',
		kv: 2000,
		total: FIXED + 2000,
		room: 5000,
		measured: true,
		fits: true,
	});
	expect(estimate(ON_CPU, 5001, 'auto', NO_GPU).fits).toBe(false);
});

it('plans with the memory of the device chosen', () => {
	expect(estimate(ON_GPU, 1900, 'gpu', GPU)).toMatchObject({ device: 'gpu', room: 1900, fits: true });
	expect(estimate(ON_GPU, 1901, 'gpu', GPU)).toMatchObject({ device: 'gpu', fits: false });
	// From the GPU to the machine's memory, which must hold the weights too.
	expect(estimate(ON_GPU, 3700, 'cpu', GPU)).toMatchObject({
		device: 'cpu',
		room: 3700,
		measured: true,
		fits: true,
	});
	// What is free on a GPU is known only once a model is there.
	expect(estimate(ON_CPU, 2000, 'gpu', GPU)).toMatchObject({
		device: 'gpu',
		room: 2000,
		measured: false,
		fits: true,
	});
});

it('lets the processor take what the GPU does not hold, and only where that was left open', () => {
	expect(estimate(ON_GPU, 1901, 'auto', GPU)).toMatchObject({ device: 'cpu', fits: true });
	expect(estimate(ON_GPU, 1900, 'auto', GPU).device).toBe('gpu');
	expect(estimate(ON_GPU, 9000, 'auto', GPU).fits).toBe(false);
});

it('never offers room where the weights alone are too much', () => {
	const small: GpuView = { kind: 'usable', name: 'NVIDIA T4', memoryBytes: 100 };
	expect(estimate(ON_CPU, 1, 'gpu', small)).toMatchObject({ room: 0, fits: false });
});

it('shows the memory of the GPU where the model is on one', () => {
	const cpu = memoryView(ON_CPU);
	expect(cpu.whole).toBe(FIXED + 1000 + 4000);
	expect(cpu.measured).toBe('Measured when loaded: 4.00 kB free.');
	const gpu = memoryView(ON_GPU);
	expect(gpu.title).toContain('GPU');
	expect(gpu.whole).toBe(2300);
	expect(gpu.measured).toContain('350 B used by the model, 1.90 kB free of 2.30 kB');
	expect(gpu.parts.map(({ bytes }) => bytes)).toEqual([200, 1000, 60, 40]);
});
