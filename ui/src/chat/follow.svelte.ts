/** Within this distance the reader counts as being at the bottom. */
const AT_BOTTOM_PX = 48;
/** A scroll this soon after the reader's hand moved is the reader's; later ones are the page's own. */
const INTENT_MS = 400;

export interface ScrollPosition {
	top: number;
	/** Height of the content. */
	height: number;
	/** Height of the window onto it. */
	visible: number;
}

/**
 * Whether the transcript follows the growing answer. Only the reader's hand releases it, never a position alone:
 * content that shrinks or grows moves the position as well. Being at the bottom again takes hold.
 */
export class Follow {
	following = $state(true);
	#touchedAt = -Infinity;

	/** The reader used wheel, key, finger or scroll bar. */
	touched(now: number): void {
		this.#touchedAt = now;
	}

	scrolled({ top, height, visible }: ScrollPosition, now: number): void {
		if (height - visible - top <= AT_BOTTOM_PX) {
			this.following = true;
		} else if (now - this.#touchedAt <= INTENT_MS) {
			this.following = false;
			// A drag of the scroll bar goes on without further presses.
			this.#touchedAt = now;
		}
	}

	/** The reader asked for the newest: a jump, a question sent, another chat. */
	hold(): void {
		this.following = true;
		this.#touchedAt = -Infinity;
	}
}
