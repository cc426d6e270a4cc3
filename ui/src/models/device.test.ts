import { expect, it } from 'vitest';
import type { GpuView } from '../ipc/bindings';
import { MODEL } from '../ipc/fakeModel';
import { deviceOptions, gpuInWords, shortDevice } from './device';

const MISSING: GpuView = { kind: 'missing', why: 'No NVIDIA driver was found.' };
const OLD: GpuView = { kind: 'unusable', name: 'NVIDIA T4', why: 'Its driver is too old.' };
const USABLE: GpuView = { kind: 'usable', name: 'NVIDIA H200', memoryBytes: 150e9 };

it.each([
	['NVIDIA H200', 'GPU H200'],
	['NVIDIA H100 80GB HBM3', 'GPU H100'],
	['NVIDIA A100-SXM4-80GB', 'GPU A100'],
	['NVIDIA A100 80GB PCIe', 'GPU A100'],
	['NVIDIA GeForce RTX 4090', 'GPU RTX 4090'],
	['NVIDIA GeForce RTX 4090 Laptop GPU', 'GPU RTX 4090 Laptop'],
	['NVIDIA GeForce RTX 3060 Ti', 'GPU RTX 3060 Ti'],
	['NVIDIA RTX A6000', 'GPU RTX A6000'],
	['NVIDIA', 'GPU NVIDIA'],
])('%s is short for a status line', (deviceName, short) => {
	expect(shortDevice({ ...MODEL, deviceKind: 'gpu', deviceName })).toBe(short);
});

it('names the processor as it is', () => {
	expect(shortDevice(MODEL)).toBe('CPU');
});

it('offers a GPU only where one can serve, and says why not', () => {
	const gpu = (view: GpuView | null) => deviceOptions(view).find(({ value }) => value === 'gpu');
	expect(gpu(null)).toMatchObject({ disabled: true });
	expect(gpu(MISSING)).toMatchObject({ disabled: true, meaning: `Not available. ${MISSING.why}` });
	expect(gpu(OLD)).toMatchObject({
		disabled: true,
		meaning: 'NVIDIA T4 cannot be used. Its driver is too old.',
	});
	expect(gpu(USABLE)?.disabled).toBe(false);
	expect(gpu(USABLE)?.meaning).toContain('NVIDIA H200 with 150 GB');
	for (const view of [null, MISSING, OLD, USABLE]) {
		const others = deviceOptions(view).filter(({ value }) => value !== 'gpu');
		expect(others.map(({ value, disabled }) => [value, disabled])).toEqual([
			['auto', false],
			['cpu', false],
		]);
	}
});

it('says in words what was found', () => {
	expect([null, MISSING, OLD, USABLE].map(gpuInWords)).toEqual([
		'being looked for',
		'No NVIDIA driver was found.',
		'NVIDIA T4 cannot be used. Its driver is too old.',
		'NVIDIA H200 with 150 GB of memory, not in use',
	]);
});
