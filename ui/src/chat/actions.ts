import type { AttentionMode } from '../ipc/bindings';

/** What can be done with a message; the chat decides what it means. */
export interface MessageActions {
	edit: (message: number) => void;
	saveEdit: (message: number, text: string) => void;
	cancelEdit: () => void;
	again: (message: number, attention: AttentionMode | null) => void;
	carryOn: (message: number) => void;
	showVersion: (message: number) => void;
	cite: (document: number, page: number, quote: string) => void;
	openLink: (address: string) => void;
	showStats: (message: number) => void;
	stop: () => void;
}
