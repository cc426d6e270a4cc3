import type { DeviceChoice, DeviceKind, GpuView, ModelCard } from '../ipc/bindings';
import { bytes } from '../kit/format';

/** Memory of a loaded model, as the card shows it. */
export interface MemoryView {
	title: string;
	/** Bytes that the whole bar stands for. */
	whole: number;
	parts: { label: string; bytes: number; color: string }[];
	/** What is free and taken, in words. */
	measured: string;
}

export function memoryView(card: ModelCard): MemoryView {
	const parts = [
		{ label: 'Weights', bytes: card.weightsBytes, color: 'var(--meter-conversation)' },
		{ label: 'Context (KV)', bytes: card.kvBytes, color: 'var(--meter-documents)' },
		{ label: 'Reuse memory', bytes: card.ringBytes, color: 'var(--head-refreshed)' },
		{ label: 'Scratch', bytes: card.scratchBytes, color: 'var(--meter-draft)' },
	];
	const gpu = card.gpuMemory;
	if (gpu) {
		return {
			title: 'GPU memory, with room for the whole context',
			whole: gpu.totalBytes,
			parts,
			measured: `Measured when loaded: ${bytes(gpu.usedBytes)} used by the model, ${bytes(gpu.freeBytes)} free of ${bytes(gpu.totalBytes)}. The context takes its part as it fills.`,
		};
	}
	return {
		title: 'Memory of this machine',
		whole: fixedBytes(card) + card.kvBytes + card.freeBytes,
		parts,
		measured: `Measured when loaded: ${bytes(card.freeBytes)} free.`,
	};
}

/** What a choice of device and context would take, derived from the loaded model's figures. */
export interface Estimate {
	/** Where the model would be. */
	device: DeviceKind;
	kv: number;
	total: number;
	/** Most bytes that the context could have there. */
	room: number;
	/** The room was measured; else it is what is left of the device's whole memory. */
	measured: boolean;
	fits: boolean;
}

/** KV grows with the context, the rest does not. With `auto` the processor takes what the GPU does not hold. */
export function estimate(
	card: ModelCard,
	contextTokens: number,
	choice: DeviceChoice,
	gpu: GpuView | null,
): Estimate {
	const wanted: DeviceKind = choice === 'cpu' || gpu?.kind !== 'usable' ? 'cpu' : 'gpu';
	const first = on(wanted, card, contextTokens, gpu);
	return first.fits || choice !== 'auto' || wanted === 'cpu' ? first : on('cpu', card, contextTokens, gpu);
}

function on(device: DeviceKind, card: ModelCard, contextTokens: number, gpu: GpuView | null): Estimate {
	const kv = card.contextTokens > 0 ? (card.kvBytes / card.contextTokens) * contextTokens : 0;
	const fixed = fixedBytes(card);
	let room = card.contextRoomBytes;
	const measured = device === card.deviceKind || device === 'cpu';
	if (device !== card.deviceKind) {
		const whole = device === 'cpu' ? card.freeBytes : gpu?.kind === 'usable' ? gpu.memoryBytes : 0;
		room = Math.max(0, whole - fixed);
	}
	return { device, kv, total: fixed + kv, room, measured, fits: kv <= room };
}

function fixedBytes(card: ModelCard): number {
	return card.weightsBytes + card.ringBytes + card.scratchBytes;
}
