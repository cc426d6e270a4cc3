import type { DeviceChoice, DeviceKind, GpuView, ModelCard } from '../ipc/bindings';
import { bytes } from '../kit/format';
import type { RadioOption } from '../kit/radio';

/** The devices to choose from; `gpu` is null while one is looked for. */
export function deviceOptions(gpu: GpuView | null): RadioOption<DeviceChoice>[] {
	const usable = gpu?.kind === 'usable';
	return [
		{
			value: 'auto',
			text: 'Automatic',
			meaning: usable
				? 'The GPU if the model fits into its memory, else the processor. Reprise says which.'
				: 'The processor now; a GPU once one can be used. Reprise says which.',
			disabled: false,
		},
		{
			value: 'cpu',
			text: 'Processor',
			meaning: 'Works on every machine, in its own memory.',
			disabled: false,
		},
		{ value: 'gpu', text: 'NVIDIA GPU', meaning: gpuMeaning(gpu), disabled: !usable },
	];
}

function gpuMeaning(gpu: GpuView | null): string {
	if (gpu === null) return 'A GPU is being looked for.';
	switch (gpu.kind) {
		case 'missing':
			return `Not available. ${gpu.why}`;
		case 'unusable':
			return `${gpu.name} cannot be used. ${gpu.why}`;
		case 'usable':
			return `${gpu.name} with ${bytes(gpu.memoryBytes)} of memory, always: a model that does not fit is not loaded.`;
	}
}

/** What the look for a GPU found, seen from a model that runs on the processor. */
export function gpuInWords(gpu: GpuView | null): string {
	if (gpu === null) return 'being looked for';
	switch (gpu.kind) {
		case 'missing':
			return gpu.why;
		case 'unusable':
			return `${gpu.name} cannot be used. ${gpu.why}`;
		case 'usable':
			return `${gpu.name} with ${bytes(gpu.memoryBytes)} of memory, not in use`;
	}
}

/** Words that tell variants of a GPU apart, and that a status line has no room for. */
const MAKERS = /^(NVIDIA |Tesla |GeForce )+/;
const VARIANTS = /([ -](SXM\d*|PCIe|NVL|HBM\d\w*|\d+ ?GB|GPU))+\b.*$/i;

/** A device in a word or two: `GPU H200`, `GPU RTX 4090`, `CPU`. */
export function shortDevice(card: ModelCard): string {
	if (card.deviceKind === 'cpu') return card.deviceName;
	const model = card.deviceName.replace(MAKERS, '').replace(VARIANTS, '');
	return `GPU ${model === '' ? card.deviceName : model}`;
}

export function deviceWords(device: DeviceKind): string {
	return device === 'gpu' ? 'the GPU' : 'the processor';
}
