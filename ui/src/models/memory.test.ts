import { expect, it } from 'vitest';
import type { DeviceChoice, GpuView, KvFormat, ModelCard } from '../ipc/bindings';
import { MODEL } from '../ipc/fakeModel';
import { estimate, memoryView } from './memory';

const FIXED = 300;
/** Fixed parts of 300 bytes; a byte a token in 16 bits, in 8 half of it and an eighth more scratch. */
const ON_CPU: ModelCard = {
	...MODEL,
	contextTokens: 1000,
	kvBytes: 1000,
	weightsBytes: 200,
	ringBytes: 60,
	scratchBytes: 40,
	fixedBytes: FIXED,
	contextCosts: [
		{ device: 'cpu', kv: 'bf16', tokenBytes: 1, scratchBytes: 0, scratchTokenBytes: 0 },
		{ device: 'gpu', kv: 'bf16', tokenBytes: 1, scratchBytes: 10, scratchTokenBytes: 0 },
		{ device: 'gpu', kv: 'q8_0', tokenBytes: 0.5, scratchBytes: 20, scratchTokenBytes: 0.125 },
	],
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
const wish = (device: DeviceChoice, kv: KvFormat = 'bf16') => ({ device, kv });

it('counts what grows with the context and what does not', () => {
	expect(estimate(ON_CPU, 2000, wish('cpu'), NO_GPU)).toEqual({
		device: 'cpu',
		held: 'bf16',
		kv: 2000,
		scratch: 40,
		total: FIXED + 2000,
		room: 5000,
		measured: true,
		fits: true,
	});
	expect(estimate(ON_CPU, 5001, wish('auto'), NO_GPU).fits).toBe(false);
});

it('plans with the memory of the device chosen', () => {
	expect(estimate(ON_GPU, 1890, wish('gpu'), GPU)).toMatchObject({ device: 'gpu', room: 1900, fits: true });
	expect(estimate(ON_GPU, 1891, wish('gpu'), GPU)).toMatchObject({ device: 'gpu', fits: false });
	// From the GPU to the machine's memory, which must hold the weights too.
	expect(estimate(ON_GPU, 3700, wish('cpu'), GPU)).toMatchObject({
		device: 'cpu',
		room: 3700,
		measured: true,
		fits: true,
	});
	// What is free on a GPU is known only once a model is there.
	expect(estimate(ON_CPU, 1990, wish('gpu'), GPU)).toMatchObject({
		device: 'gpu',
		room: 2000,
		measured: false,
		fits: true,
	});
});

it('plans with the context held as wished, scratch included', () => {
	expect(estimate(ON_GPU, 3008, wish('gpu', 'q8_0'), GPU)).toEqual({
		device: 'gpu',
		held: 'q8_0',
		kv: 1504,
		scratch: 40 + 20 + 376,
		total: FIXED + 1504 + 20 + 376,
		room: 1900,
		measured: true,
		fits: true,
	});
	expect(estimate(ON_GPU, 3009, wish('gpu', 'q8_0'), GPU).fits).toBe(false);
	// A model that is held in 8 bits now is planned in 16 all the same.
	const now8: ModelCard = { ...ON_GPU, kv: 'q8_0', kvWished: 'q8_0', kvBytes: 500, scratchBytes: 185 };
	expect(estimate(now8, 1890, wish('gpu'), GPU)).toMatchObject({ held: 'bf16', kv: 1890, fits: true });
	expect(estimate(now8, 1891, wish('gpu'), GPU).fits).toBe(false);
});

it('plans with 16 bits on the processor, whatever is wished', () => {
	const expected = { device: 'cpu', held: 'bf16', kv: 2000 };
	expect(estimate(ON_GPU, 2000, wish('cpu', 'q8_0'), GPU)).toMatchObject(expected);
	expect(estimate(ON_CPU, 2000, wish('auto', 'q8_0'), NO_GPU)).toMatchObject(expected);
});

it('lets the processor take what the GPU does not hold, and only where that was left open', () => {
	expect(estimate(ON_GPU, 1891, wish('auto'), GPU)).toMatchObject({ device: 'cpu', fits: true });
	expect(estimate(ON_GPU, 1890, wish('auto'), GPU).device).toBe('gpu');
	expect(estimate(ON_GPU, 3000, wish('auto', 'q8_0'), GPU)).toMatchObject({ device: 'gpu', held: 'q8_0' });
	expect(estimate(ON_GPU, 3009, wish('auto', 'q8_0'), GPU)).toMatchObject({ device: 'cpu', held: 'bf16' });
	expect(estimate(ON_GPU, 9000, wish('auto'), GPU).fits).toBe(false);
});

it('never offers room where the weights alone are too much', () => {
	const small: GpuView = { kind: 'usable', name: 'NVIDIA T4', memoryBytes: 100 };
	expect(estimate(ON_CPU, 1, wish('gpu'), small)).toMatchObject({ room: 0, fits: false });
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
