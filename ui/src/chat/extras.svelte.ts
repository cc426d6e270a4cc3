import type { highlight } from './highlight';
import type { formula } from './math';

/**
 * The two heavy parts of the renderer, loaded when the first answer needs them.
 * Reading `highlight` or `formula` in a derived value renders again once they have arrived.
 */
export class Extras {
	highlight = $state.raw<typeof highlight | null>(null);
	formula = $state.raw<typeof formula | null>(null);
	#wantsHighlight = false;
	#wantsFormula = false;

	/** A part that cannot be loaded leaves the text plain, which is still readable. */
	wantHighlight(): void {
		if (this.#wantsHighlight) return;
		this.#wantsHighlight = true;
		import('./highlight').then(
			(part) => (this.highlight = part.highlight),
			() => undefined,
		);
	}

	wantFormula(): void {
		if (this.#wantsFormula) return;
		this.#wantsFormula = true;
		import('./math').then(
			(part) => (this.formula = part.formula),
			() => undefined,
		);
	}
}

export const extras = new Extras();
