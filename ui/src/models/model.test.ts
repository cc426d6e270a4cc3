// @vitest-environment jsdom
import { clearMocks, mockIPC } from '@tauri-apps/api/mocks';
import { afterEach, expect, it } from 'vitest';
import type { GpuView, ModelCard, UserError } from '../ipc/bindings';
import { MODEL } from '../ipc/fakeModel';
import { Model } from './model.svelte';

afterEach(clearMocks);

const FELL_BACK: UserError = { message: 'On the processor.', kept: '', advice: [], details: '' };
const OLD: GpuView = { kind: 'unusable', name: 'NVIDIA T4', why: 'Its driver is too old.' };

function ready(part: Partial<ModelCard>): Model['status'] {
	return { kind: 'ready', info: { ...MODEL, ...part } };
}

it('tells of a fallback where there is a GPU, until it is put away', () => {
	const model = new Model();
	model.status = ready({ fallback: FELL_BACK });
	expect(model.notice).toBeNull();
	model.gpu = OLD;
	expect(model.notice).toEqual(FELL_BACK);
	model.dismissNotice();
	expect(model.notice).toBeNull();
	expect(model.fallback).toEqual(FELL_BACK);
	// Another load is another thing to be told.
	model.status = ready({ fallback: { ...FELL_BACK } });
	expect(model.notice).toEqual(FELL_BACK);
});

it('has nothing to tell where there is no GPU, and none where one serves', () => {
	const model = new Model();
	model.status = ready({ fallback: FELL_BACK });
	model.gpu = { kind: 'missing', why: 'No driver.' };
	expect(model.fallback).toBeNull();
	model.gpu = { kind: 'usable', name: 'NVIDIA H200', memoryBytes: 1 };
	model.status = ready({ fallback: null });
	expect(model.fallback).toBeNull();
});

it('tells of a context that is not held as wished, GPU or none', () => {
	const model = new Model();
	model.status = ready({ fallback: FELL_BACK, kv: 'bf16', kvWished: 'q8_0' });
	for (const gpu of [null, OLD, { kind: 'missing', why: 'No driver.' } as const]) {
		model.gpu = gpu;
		expect(model.notice).toEqual(FELL_BACK);
	}
});

it('goes on without knowing where the look fails', async () => {
	const model = new Model();
	mockIPC(() => {
		throw new Error('no shell');
	});
	await model.look();
	expect(model.gpu).toBeNull();
	mockIPC((command) => (command === 'gpu_look' ? OLD : null));
	await model.look();
	expect(model.gpu).toEqual(OLD);
});
