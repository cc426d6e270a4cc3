import type { ContextCost, DeviceChoice, DeviceKind, GpuView, KvFormat, ModelCard } from '../ipc/bindings';
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
		whole: parts.reduce((sum, part) => sum + part.bytes, 0) + card.freeBytes,
		parts,
		measured: `Measured when loaded: ${bytes(card.freeBytes)} free.`,
	};
}

/** Where a model is to live, and how its context is to be held. */
export interface Wish {
	device: DeviceChoice;
	kv: KvFormat;
}

/** What a choice of device and context would take, derived from the loaded model's figures. */
export interface Estimate {
	/** Where the model would be. */
	device: DeviceKind;
	/** How its context would be held there. */
	held: KvFormat;
	/** Bytes of the context itself. */
	kv: number;
	scratch: number;
	total: number;
	/** Most bytes that the context could have there, with the scratch that goes with it. */
	room: number;
	/** The room was measured; else it is what is left of the device's whole memory. */
	measured: boolean;
	fits: boolean;
}

/** With `auto` the processor takes what the GPU does not hold. */
export function estimate(card: ModelCard, contextTokens: number, wish: Wish, gpu: GpuView | null): Estimate {
	const wanted: DeviceKind = wish.device === 'cpu' || gpu?.kind !== 'usable' ? 'cpu' : 'gpu';
	const first = on(wanted, card, contextTokens, wish.kv, gpu);
	const final = first.fits || wish.device !== 'auto' || wanted === 'cpu';
	return final ? first : on('cpu', card, contextTokens, wish.kv, gpu);
}

function on(
	device: DeviceKind,
	card: ModelCard,
	contextTokens: number,
	wished: KvFormat,
	gpu: GpuView | null,
): Estimate {
	const cost = costOf(card, device, wished);
	const kv = (cost?.tokenBytes ?? 0) * contextTokens;
	const ownScratch = (cost?.scratchBytes ?? 0) + (cost?.scratchTokenBytes ?? 0) * contextTokens;
	const measured = device === card.deviceKind || device === 'cpu';
	let room = card.contextRoomBytes;
	if (device !== card.deviceKind) {
		const whole = device === 'cpu' ? card.freeBytes : gpu?.kind === 'usable' ? gpu.memoryBytes : 0;
		room = Math.max(0, whole - card.fixedBytes);
	}
	return {
		device,
		held: cost?.kv ?? 'bf16',
		kv,
		scratch: card.fixedBytes - card.weightsBytes - card.ringBytes + ownScratch,
		total: card.fixedBytes + kv + ownScratch,
		room,
		measured,
		fits: kv + ownScratch <= room,
	};
}

/** A device that does not hold contexts as wished holds them in 16 bits. */
function costOf(card: ModelCard, device: DeviceKind, wished: KvFormat): ContextCost | undefined {
	const there = card.contextCosts.filter((cost) => cost.device === device);
	return there.find(({ kv }) => kv === wished) ?? there.find(({ kv }) => kv === 'bf16');
}
