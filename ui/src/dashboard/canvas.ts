/** A canvas in CSS pixels, sharp on every screen. */
export interface Surface {
	context: CanvasRenderingContext2D;
	width: number;
	height: number;
}

/**
 * Sizes the backing store to the element and clears it; null while it has no size. The size comes from an observer:
 * asking the element here would lay the page out again on every frame.
 */
export function surfaceOf(canvas: HTMLCanvasElement, width: number, height: number): Surface | null {
	const context = canvas.getContext('2d');
	if (!context || width === 0 || height === 0) return null;
	const scale = window.devicePixelRatio;
	const pixels = { width: Math.round(width * scale), height: Math.round(height * scale) };
	if (canvas.width !== pixels.width || canvas.height !== pixels.height) Object.assign(canvas, pixels);
	context.setTransform(scale, 0, 0, scale, 0, 0);
	context.clearRect(0, 0, width, height);
	return { context, width, height };
}

/** Colours of custom properties as the canvas needs them: resolved for the theme in use. */
export function colorsOf<Name extends string>(
	element: HTMLElement,
	names: readonly Name[],
): Record<Name, string> {
	const probe = document.createElement('span');
	element.parentElement?.append(probe);
	const colors = {} as Record<Name, string>;
	for (const name of names) {
		probe.style.color = `var(--${name})`;
		colors[name] = getComputedStyle(probe).color;
	}
	probe.remove();
	return colors;
}
