/** What a key press asks for, wherever the focus is. */
export type Command =
	| 'new-chat'
	| 'search'
	| 'sidebar'
	| 'dashboard'
	| 'settings'
	| 'attach'
	| 'attention'
	| 'focus-composer'
	| 'help'
	| 'stop';

type Press = Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'shiftKey' | 'altKey' | 'isComposing'>;

const WITH_CONTROL: Record<string, Command> = {
	n: 'new-chat',
	k: 'search',
	b: 'sidebar',
	d: 'dashboard',
	o: 'attach',
	',': 'settings',
	e: 'attention',
	l: 'focus-composer',
};

/** `typing`: the focus is in a text box, where a plain character is text. */
export function commandOf(press: Press, typing: boolean): Command | null {
	if (press.isComposing) return null;
	const control = press.ctrlKey || press.metaKey;
	if (control && !press.altKey && !press.shiftKey) return WITH_CONTROL[press.key.toLowerCase()] ?? null;
	if (press.key === 'Escape') return 'stop';
	if (press.key === '?' && !typing && !control) return 'help';
	return null;
}

/** The help sheet: every key and what it does. */
export const KEYS: { group: string; keys: { press: string; does: string }[] }[] = [
	{
		group: 'Writing',
		keys: [
			{ press: 'Enter', does: 'Send' },
			{ press: 'Shift + Enter', does: 'New line' },
			{ press: '↑ in the empty box', does: 'Edit the last question' },
			{ press: 'Ctrl + V', does: 'Paste; long text becomes a document' },
			{ press: 'Ctrl + Shift + V', does: 'Paste as plain text' },
			{ press: 'Esc', does: 'Stop the answer' },
		],
	},
	{
		group: 'Chats',
		keys: [
			{ press: 'Ctrl + N', does: 'New chat' },
			{ press: 'Ctrl + K', does: 'Search chats' },
			{ press: '↑ ↓ in the list', does: 'Move between chats' },
			{ press: 'F2 · Delete in the list', does: 'Rename, delete' },
		],
	},
	{
		group: 'Window',
		keys: [
			{ press: 'Ctrl + O', does: 'Attach files' },
			{ press: 'Ctrl + L', does: 'Go to the text box' },
			{ press: 'Ctrl + B', does: 'Sidebar' },
			{ press: 'Ctrl + D', does: 'Speed dashboard' },
			{ press: 'Ctrl + E', does: 'Reuse or exact attention' },
			{ press: 'Ctrl + ,', does: 'Settings' },
			{ press: '← → in the page viewer', does: 'Turn pages' },
			{ press: '?', does: 'This sheet' },
		],
	},
];
