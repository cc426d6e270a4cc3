import { commands, type Settings, type UserError } from '../ipc/bindings';
import { settle } from '../ipc/call';

/** What stands before the shell has answered. */
const BEFORE_START: Settings = {
	theme: 'system',
	attention: 'mac',
	contextTokens: null,
	maxReplyTokens: 1024,
	temperature: 0,
	topK: 0,
	topP: 1,
	minP: 0,
	repeatPenalty: 1,
	seed: 0,
	systemPrompt: '',
	dashboardOpen: true,
};

/** The kept settings. A change shows at once; the shell's answer is what is really kept. */
export class SettingsState {
	current = $state.raw<Settings>(BEFORE_START);
	error = $state.raw<UserError | null>(null);
	#asked = 0;

	show(settings: Settings): void {
		this.current = settings;
	}

	async change(part: Partial<Settings>): Promise<boolean> {
		const before = this.current;
		const ticket = ++this.#asked;
		this.current = { ...before, ...part };
		const outcome = await settle(commands.settingsSet(this.current));
		this.error = outcome.ok ? null : outcome.error;
		// A later change is under way: its answer counts.
		if (ticket === this.#asked) this.current = outcome.ok ? outcome.value : before;
		return outcome.ok;
	}
}
