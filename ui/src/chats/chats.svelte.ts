import { commands, type ChatRow, type UserError } from '../ipc/bindings';
import { settle, type Outcome } from '../ipc/call';
import { groupByDate, type ChatGroup } from './dates';

const SEARCH_AFTER_MS = 150;

/** All chats, newest first, and the search over them. */
export class ChatList {
	rows = $state.raw<ChatRow[]>([]);
	query = $state('');
	/** Rows of the search; null while nothing is searched for. */
	found = $state.raw<ChatRow[] | null>(null);
	searching = $state(false);
	error = $state.raw<UserError | null>(null);
	groups = $derived<ChatGroup[]>(groupByDate(this.rows));
	#asked = 0;
	#timer: ReturnType<typeof setTimeout> | undefined;

	search(query: string): void {
		this.query = query;
		clearTimeout(this.#timer);
		const ticket = ++this.#asked;
		if (query.trim() === '') {
			this.found = null;
			this.searching = false;
			return;
		}
		this.searching = true;
		this.#timer = setTimeout(() => void this.#run(ticket, query.trim()), SEARCH_AFTER_MS);
	}

	/** A chat was written to or renamed elsewhere. */
	touch(row: Pick<ChatRow, 'id' | 'title'> & { updatedMs?: number }): void {
		const old = this.rows.find(({ id }) => id === row.id);
		const updatedMs = row.updatedMs ?? old?.updatedMs ?? Date.now();
		const others = this.rows.filter(({ id }) => id !== row.id);
		this.rows = [{ id: row.id, title: row.title, updatedMs, snippet: '' }, ...others];
	}

	async rename(chat: number, title: string): Promise<void> {
		const row = this.rows.find(({ id }) => id === chat);
		if (title.trim() === '' || title.trim() === row?.title) return;
		const outcome = await settle(commands.chatRename(chat, title.trim()));
		if (outcome.ok)
			this.rows = this.rows.map((each) => (each.id === chat ? { ...each, title: title.trim() } : each));
		else this.error = outcome.error;
	}

	async remove(chat: number): Promise<Outcome<null>> {
		const outcome = await settle(commands.chatDelete(chat));
		if (outcome.ok) {
			this.rows = this.rows.filter(({ id }) => id !== chat);
			this.found = this.found?.filter(({ id }) => id !== chat) ?? null;
		} else {
			this.error = outcome.error;
		}
		return outcome;
	}

	/** Takes a deletion back. */
	async restore(row: ChatRow): Promise<void> {
		const outcome = await settle(commands.chatUndelete(row.id));
		if (outcome.ok) this.touch(row);
		else this.error = outcome.error;
	}

	async #run(ticket: number, query: string): Promise<void> {
		const outcome = await settle(commands.chatSearch(query));
		if (ticket !== this.#asked) return;
		this.searching = false;
		this.error = outcome.ok ? null : outcome.error;
		if (outcome.ok) this.found = outcome.value;
	}
}
