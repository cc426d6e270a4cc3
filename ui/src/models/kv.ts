import type { DeviceChoice, GpuView, KvFormat, ModelCard } from '../ipc/bindings';
import type { RadioOption } from '../kit/radio';

const WORDS: Record<KvFormat, string> = {
	bf16: '16-bit',
	q8_0: '8-bit (q8_0)',
	fp8: '8-bit float (fp8)',
};

/** How a context is held, in a word or two. */
export function kvWords(kv: KvFormat): string {
	return WORDS[kv];
}

/** What a loaded model's context is held in, and what was wished if that could not be had. */
export function heldInWords({ kv, kvWished }: ModelCard): string {
	return kv === kvWished ? kvWords(kv) : `${kvWords(kv)}, not ${kvWords(kvWished)} as set`;
}

/** The ways to choose from on that device; `gpu` is null while one is looked for. */
export function kvOptions(device: DeviceChoice, gpu: GpuView | null): RadioOption<KvFormat>[] {
	const why = whyOnly16Bits(device, gpu);
	const on8Bits = (value: KvFormat, meaning: string) => ({
		value,
		text: WORDS[value],
		meaning: why === '' ? meaning : why,
		disabled: why !== '',
	});
	return [
		{ value: 'bf16', text: WORDS.bf16, meaning: 'Full size, on every device.', disabled: false },
		on8Bits('q8_0', 'Blocks with a scale each: about half the memory, nearly the same answers.'),
		on8Bits('fp8', 'Half the memory, but coarser: answers may differ more.'),
	];
}

/** Why 8 bits cannot be had there; '' if they can, or may. */
function whyOnly16Bits(device: DeviceChoice, gpu: GpuView | null): string {
	if (device === 'cpu') return 'Needs a GPU: on the processor the context memory is 16-bit.';
	if (gpu === null) return 'Needs a GPU, which is being looked for.';
	switch (gpu.kind) {
		case 'missing':
			return `Needs a GPU. ${gpu.why}`;
		case 'unusable':
			return `Needs a GPU, and ${gpu.name} cannot be used. ${gpu.why}`;
		case 'usable':
			return '';
	}
}

/** What context memory is; where the device is left open, also what becomes of 8 bits. */
export function kvNote(device: DeviceChoice, gpu: GpuView | null): string {
	const note = 'Where the model keeps all it has read: the less each word takes, the more fits.';
	if (device !== 'auto' || gpu?.kind !== 'usable') return note;
	return `${note} Should the model go to the processor, it is 16-bit, and Reprise says so.`;
}
