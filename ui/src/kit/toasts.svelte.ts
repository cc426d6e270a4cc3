/** A passing notice; with an action while it can still be taken back. */
export interface Toast {
	id: number;
	text: string;
	action: { label: string; run: () => void } | null;
}

/** Long enough to read a sentence and reach the Undo button. */
const SHOWN_MS = 7000;

export class Toasts {
	list = $state.raw<Toast[]>([]);
	#next = 1;

	show(text: string, action: Toast['action'] = null): void {
		const id = this.#next++;
		this.list = [...this.list.slice(-2), { id, text, action }];
		setTimeout(() => this.dismiss(id), SHOWN_MS);
	}

	dismiss(id: number): void {
		this.list = this.list.filter((toast) => toast.id !== id);
	}
}
