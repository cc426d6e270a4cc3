import { expect, it } from 'vitest';
import { FrameQueue } from './frame';

it('hands over everything of a frame at once and in order', () => {
	const frames: (() => void)[] = [];
	const taken: number[][] = [];
	const queue = new FrameQueue<number>(
		(items) => taken.push(items),
		(run) => frames.push(run),
	);
	queue.push(1);
	queue.push(2);
	expect(frames).toHaveLength(1);
	frames.pop()?.();
	queue.push(3);
	frames.pop()?.();
	expect(taken).toEqual([[1, 2], [3]]);
});
