/** WebKit sends the Enter that picks a word of an input method after the composition, this soon at most. */
const AFTER_MS = 30;

/** Keys of an input method, which are not the text box's. */
export class Composition {
	#endedAt = -Infinity;

	ended(event: Pick<Event, 'timeStamp'>): void {
		this.#endedAt = event.timeStamp;
	}

	owns(press: Pick<KeyboardEvent, 'isComposing' | 'timeStamp'>): boolean {
		return press.isComposing || press.timeStamp - this.#endedAt < AFTER_MS;
	}
}
