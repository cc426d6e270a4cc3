import { expect, it } from 'vitest';
import type { DeviceChoice, GpuView } from '../ipc/bindings';
import { MODEL } from '../ipc/fakeModel';
import { heldInWords, kvNote, kvOptions } from './kv';

const MISSING: GpuView = { kind: 'missing', why: 'No NVIDIA driver was found.' };
const OLD: GpuView = { kind: 'unusable', name: 'NVIDIA T4', why: 'Its driver is too old.' };
const USABLE: GpuView = { kind: 'usable', name: 'NVIDIA H200', memoryBytes: 150e9 };

function disabled(device: DeviceChoice, gpu: GpuView | null): boolean[] {
	return kvOptions(device, gpu).map((option) => option.disabled);
}

it('offers 8 bits where a GPU may hold them', () => {
	expect(kvOptions('auto', USABLE).map(({ value }) => value)).toEqual(['bf16', 'q8_0', 'fp8']);
	expect(disabled('auto', USABLE)).toEqual([false, false, false]);
	expect(disabled('gpu', USABLE)).toEqual([false, false, false]);
});

it.each<[DeviceChoice, GpuView | null, RegExp]>([
	['cpu', USABLE, /on the processor the context memory is 16-bit\.$/],
	['cpu', MISSING, /on the processor the context memory is 16-bit\.$/],
	['auto', null, /is being looked for\.$/],
	['auto', MISSING, /^Needs a GPU\. No NVIDIA driver was found\.$/],
	['gpu', OLD, /NVIDIA T4 cannot be used\. Its driver is too old\.$/],
])('offers 16 bits alone, with the reason: %s, %o', (device, gpu, why) => {
	expect(disabled(device, gpu)).toEqual([false, true, true]);
	const [, ...on8Bits] = kvOptions(device, gpu);
	for (const { meaning } of on8Bits) expect(meaning).toMatch(why);
});

it('says what becomes of 8 bits where the device is left open', () => {
	expect(kvNote('auto', USABLE)).toMatch(/go to the processor, it is 16-bit/);
	for (const note of [kvNote('gpu', USABLE), kvNote('cpu', USABLE), kvNote('auto', MISSING)]) {
		expect(note).not.toMatch(/16-bit/);
	}
});

it('names what is in use, and what was wished if that is something else', () => {
	expect(heldInWords(MODEL)).toBe('16-bit');
	expect(heldInWords({ ...MODEL, kv: 'q8_0', kvWished: 'q8_0' })).toBe('8-bit (q8_0)');
	expect(heldInWords({ ...MODEL, kvWished: 'fp8' })).toBe('16-bit, not 8-bit float (fp8) as set');
});
