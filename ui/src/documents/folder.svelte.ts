import { SvelteSet } from 'svelte/reactivity';
import { commands, type FolderFileView, type FolderView, type UserError } from '../ipc/bindings';
import { settle } from '../ipc/call';
import { groupByFolder } from './tree';

/** A folder whose files are being chosen. */
export class FolderChoice {
	listing = $state(false);
	folder = $state.raw<FolderView | null>(null);
	error = $state.raw<UserError | null>(null);
	readonly chosen = new SvelteSet<string>();
	groups = $derived(groupByFolder(this.folder?.files ?? []));
	/** Tokens of the chosen files; null if one of them is not counted. */
	tokens = $derived.by(() => {
		let sum = 0;
		for (const file of this.folder?.files ?? []) {
			if (!this.chosen.has(file.name)) continue;
			if (file.tokens === null) return null;
			sum += file.tokens;
		}
		return sum;
	});
	bytes = $derived(
		(this.folder?.files ?? []).reduce(
			(sum, file) => sum + (this.chosen.has(file.name) ? file.bytes : 0),
			0,
		),
	);

	/** The native dialog, then the list. Everything is chosen but what may hold secrets. */
	async pick(): Promise<void> {
		this.listing = true;
		this.error = null;
		const outcome = await settle(commands.folderPick());
		this.listing = false;
		if (!outcome.ok) {
			this.error = outcome.error;
			return;
		}
		this.show(outcome.value);
	}

	show(folder: FolderView | null): void {
		this.folder = folder;
		this.chosen.clear();
		for (const file of folder?.files ?? []) if (file.secret === null) this.chosen.add(file.name);
	}

	/** All on if any is off, else all off. */
	toggle(files: readonly FolderFileView[]): void {
		const on = files.some((file) => !this.chosen.has(file.name));
		for (const file of files) {
			if (on) this.chosen.add(file.name);
			else this.chosen.delete(file.name);
		}
	}

	/** Chosen names in prompt order. */
	names(): string[] {
		return (this.folder?.files ?? [])
			.filter((file) => this.chosen.has(file.name))
			.map((file) => file.name);
	}

	close(): void {
		this.show(null);
		this.error = null;
	}
}
