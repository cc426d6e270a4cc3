import {
	commands,
	events,
	type AttentionMode,
	type ChatRow,
	type ChatView,
	type DropEvent,
	type ReplyEvent,
	type Settings,
	type UserError,
} from './ipc/bindings';
import { settle, type Outcome } from './ipc/call';
import { Conversation } from './chat/conversation.svelte';
import { Draft } from './chat/draft.svelte';
import { Meter } from './chat/meter.svelte';
import type { Reply } from './chat/reply.svelte';
import { ChatList } from './chats/chats.svelte';
import { RunHistory } from './dashboard/runs.svelte';
import { Attachments } from './documents/attachments.svelte';
import { FolderChoice } from './documents/folder.svelte';
import { Viewer } from './documents/viewer.svelte';
import { Toasts } from './kit/toasts.svelte';
import { Model } from './models/model.svelte';
import { SettingsState } from './settings/settings.svelte';
import type { Choice } from './window/advice';

/** The file in assets/sample that the suggestions are about. */
const SAMPLE_NAME = 'reprise-handbook.pdf';

/** What stands over the page. */
export type Overlay =
	| { kind: 'error'; error: UserError; retry: (() => void) | null }
	| { kind: 'settings' }
	| { kind: 'help' }
	| { kind: 'link'; address: string };

/** The features put together: what one of them does to another is decided here. */
export class App {
	readonly toasts = new Toasts();
	readonly settings = new SettingsState();
	readonly model = new Model();
	readonly chats = new ChatList();
	readonly draft = new Draft();
	readonly meter = new Meter();
	readonly runs = new RunHistory();
	readonly viewer = new Viewer();
	readonly folder = new FolderChoice();
	readonly attachments = new Attachments(() => this.measure());
	readonly conversation = new Conversation((event, reply) => this.#heard(event, reply));

	started = $state(false);
	startError = $state.raw<UserError | null>(null);
	storageProblem = $state.raw<UserError | null>(null);
	version = $state('');
	overlay = $state.raw<Overlay | null>(null);
	/** The user message being edited in place. */
	editing = $state<number | null>(null);
	dropping = $state(false);
	/** Shut at first in a narrow window; one that is not shown yet has next to no width. */
	sidebarOpen = $state(window.innerWidth > 760 || window.innerWidth < 320);
	#suggestions = $state.raw<string[]>([]);
	#askedAttention: AttentionMode = 'mac';
	#listening: Promise<unknown> | null = null;

	/** Questions to offer: only while the sample is all there is. */
	suggestions = $derived.by(() => {
		const [only, ...others] = this.attachments.documents;
		const sample = only?.name === SAMPLE_NAME && others.length === 0;
		return sample && this.conversation.empty ? this.#suggestions : [];
	});

	async start(): Promise<void> {
		// Once, however often the start is tried: a drop heard twice would be attached twice.
		this.#listening ??= Promise.all([
			this.model.follow(),
			events.dropEvent.listen((event) => this.#dropped(event.payload)),
		]);
		await this.#listening;
		// The driver may take its time to answer.
		void this.model.look();
		// The chat opens again with the text as it is kept.
		await this.draft.flush();
		const outcome = await settle(commands.appState());
		if (!outcome.ok) {
			this.startError = outcome.error;
			return;
		}
		const state = outcome.value;
		this.startError = null;
		this.version = state.version;
		this.chats.rows = state.chats;
		this.model.begin(state.model);
		this.settings.show(state.settings);
		this.storageProblem = state.storageProblem;
		this.#suggestions = state.suggestions;
		if (state.openChat !== null && (await this.conversation.open(state.openChat))) this.#showChat();
		this.started = true;
	}

	/** Exact tokens again, after anything that changes the next prompt. */
	measure(): void {
		const ready = this.model.status.kind === 'ready';
		this.meter.measure(ready ? (this.conversation.view?.id ?? null) : null, this.draft.text);
	}

	async openChat(chat: number): Promise<void> {
		const shown = chat === this.conversation.view?.id;
		if (shown && this.conversation.opening === null) return;
		// Back to the chat on screen before another has opened: that one is left, and the text in the box stays.
		if ((await this.conversation.open(chat)) && !shown) this.#showChat();
	}

	/** A new chat, unless the open one is still empty. */
	async newChat(): Promise<void> {
		const blank =
			this.conversation.view && this.conversation.empty && this.attachments.documents.length === 0;
		if (blank && !this.attachments.busy) return;
		await this.#createChat();
	}

	async removeChat(row: ChatRow): Promise<void> {
		if (this.conversation.reply?.chat === row.id) await this.conversation.stop();
		const outcome = await this.chats.remove(row.id);
		if (!outcome.ok) return;
		if (this.conversation.view?.id === row.id) {
			this.conversation.show(null);
			this.#showChat();
		}
		const title = row.title === '' ? 'New chat' : row.title;
		this.toasts.show(`“${title}” was deleted.`, {
			label: 'Undo',
			run: () => void this.#restoreChat(row),
		});
	}

	async send(text: string): Promise<void> {
		if ((await this.#chat()) === null) return;
		// Only what was sent leaves the box: a suggestion or another chat must not empty it.
		const accepted = () => {
			if (this.draft.text.trim() === text) this.draft.set('');
		};
		await this.#asking(
			'mac',
			() => this.conversation.question(text),
			() => void this.send(text),
			accepted,
		);
	}

	async again(message: number, attention: AttentionMode | null): Promise<void> {
		// Who compares wants to see the figures.
		if (attention === 'exact') this.viewer.close();
		const retry = () => void this.again(message, attention);
		await this.#asking(attention ?? 'mac', () => this.conversation.again(message, attention), retry);
	}

	async carryOn(message: number): Promise<void> {
		await this.#asking(
			'mac',
			() => this.conversation.carryOn(message),
			() => void this.carryOn(message),
		);
	}

	async edit(message: number, text: string): Promise<void> {
		const done = () => (this.editing = null);
		await this.#asking(
			'mac',
			() => this.conversation.edit(message, text),
			() => void this.edit(message, text),
			done,
		);
	}

	async showVersion(message: number): Promise<void> {
		await this.conversation.showVersion(message);
		this.#showDocuments();
		if (this.runs.pinned !== null) this.runs.pinned = message;
		this.measure();
	}

	async attach(how: (chat: number) => Promise<Outcome<null>>): Promise<void> {
		const chat = await this.#chat();
		if (chat === null) return;
		const outcome = await how(chat);
		if (!outcome.ok) this.overlay = { kind: 'error', error: outcome.error, retry: null };
	}

	async attachSample(): Promise<void> {
		await this.attach((chat) => this.attachments.sample(chat));
	}

	async removeDocument(document: number): Promise<void> {
		const outcome = await this.attachments.remove(document);
		if (!outcome.ok) this.overlay = { kind: 'error', error: outcome.error, retry: null };
		else if (this.viewer.document === document) this.viewer.close();
	}

	openPage(document: number, page: number, quote: string): void {
		void this.viewer.open(document, page, quote);
	}

	editLast(): void {
		if (!this.conversation.busy) this.editing = this.conversation.lastQuestion?.id ?? null;
	}

	showRun(message: number | null): void {
		this.runs.pinned = message;
		this.viewer.close();
		if (!this.settings.current.dashboardOpen) void this.settings.change({ dashboardOpen: true });
	}

	/** Loads the model again with another context, held in another way or on another device. */
	async place(choice: Partial<Pick<Settings, 'device' | 'kv' | 'contextTokens'>>): Promise<void> {
		if (await this.settings.change(choice)) await this.reloadModel();
	}

	async reloadModel(): Promise<void> {
		this.#report(await this.model.load());
	}

	async pickModel(): Promise<void> {
		this.#report(await this.model.pick());
	}

	async demoModel(): Promise<void> {
		this.#report(await this.model.demo());
	}

	/** Follows a piece of advice. */
	follow(choice: Choice, retry: (() => void) | null): void {
		this.overlay = null;
		switch (choice.kind) {
			case 'retry':
				if (retry) retry();
				else void this.start();
				break;
			case 'setContext':
				void this.place({ contextTokens: choice.tokens });
				break;
			case 'setDevice':
				void this.place({ device: choice.device });
				break;
			case 'setKv':
				void this.place({ kv: choice.kv });
				break;
			case 'reload':
				void this.reloadModel();
				break;
			case 'newChat':
				void this.#createChat();
				break;
			case 'chooseModel':
				void this.pickModel();
				break;
		}
	}

	/** Starts a reply; what is refused shows as a dialog, and nothing the user wrote is lost. */
	async #asking(
		attention: AttentionMode,
		ask: () => Promise<Outcome<null>>,
		retry: () => void,
		accepted: () => void = () => undefined,
	): Promise<void> {
		const chat = this.conversation.view?.id;
		await this.draft.flush();
		// Meant for the chat it was written in, where it stays in the box.
		if (chat !== this.conversation.view?.id) return;
		this.#askedAttention = attention === 'exact' ? 'exact' : this.settings.current.attention;
		const outcome = await ask();
		if (outcome.ok) accepted();
		else this.overlay = { kind: 'error', error: outcome.error, retry };
	}

	#heard(event: ReplyEvent, reply: Reply): void {
		this.runs.apply(event, reply, this.#askedAttention, this.model.card);
		if (event.kind === 'started') {
			this.chats.touch({ id: event.chat.id, title: event.chat.title, updatedMs: Date.now() });
			this.#showDocuments();
		} else if (event.kind === 'done' || event.kind === 'failed') {
			this.measure();
		}
	}

	async #chat(): Promise<number | null> {
		return this.conversation.view?.id ?? (await this.#createChat());
	}

	async #createChat(): Promise<number | null> {
		const outcome = await settle(commands.chatCreate());
		if (!outcome.ok) {
			this.overlay = { kind: 'error', error: outcome.error, retry: () => void this.#createChat() };
			return null;
		}
		const view: ChatView = outcome.value;
		const text = this.conversation.view === null ? this.draft.text : view.draft;
		this.conversation.show(view);
		this.chats.touch({ id: view.id, title: view.title, updatedMs: Date.now() });
		this.#showChat(text);
		return view.id;
	}

	async #restoreChat(row: ChatRow): Promise<void> {
		await this.chats.restore(row);
		await this.openChat(row.id);
	}

	#showChat(text?: string): void {
		this.editing = null;
		this.runs.pinned = null;
		this.viewer.close();
		const { view } = this.conversation;
		this.draft.show(view?.id ?? null, view?.draft ?? '', text);
		this.#showDocuments();
		this.measure();
	}

	#showDocuments(): void {
		const { view } = this.conversation;
		this.attachments.show(view?.id ?? null, view?.documents ?? []);
	}

	#dropped(event: DropEvent): void {
		this.dropping = event.kind === 'over';
		if (event.kind === 'dropped') void this.attach((chat) => this.attachments.drop(chat, event.handle));
	}

	#report(outcome: Outcome<null>): void {
		if (!outcome.ok) this.overlay = { kind: 'error', error: outcome.error, retry: null };
	}
}
