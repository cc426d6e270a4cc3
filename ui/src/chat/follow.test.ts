import { expect, it } from 'vitest';
import { Follow } from './follow.svelte';

const bottom = { top: 900, height: 1500, visible: 600 };
const above = { top: 400, height: 1500, visible: 600 };

it('follows until the reader scrolls up', () => {
	const follow = new Follow();
	follow.touched(1000);
	follow.scrolled(above, 1016);
	expect(follow.following).toBe(false);
});

it('is not released by content that moves on its own', () => {
	const follow = new Follow();
	follow.scrolled(above, 5000);
	expect(follow.following).toBe(true);
});

it('takes hold again at the bottom', () => {
	const follow = new Follow();
	follow.touched(1000);
	follow.scrolled(above, 1016);
	follow.scrolled(bottom, 3000);
	expect(follow.following).toBe(true);
});

it('holds on request, whatever was touched before', () => {
	const follow = new Follow();
	follow.touched(1000);
	follow.scrolled(above, 1016);
	follow.hold();
	follow.scrolled(above, 1032);
	expect(follow.following).toBe(true);
});
