import { commands, DEFAULT_SETTINGS, type Settings, type UserError } from '../ipc/bindings';
import { settle } from '../ipc/call';

/** The kept settings. A change shows at once; the shell's answer is what is really kept. */
export class SettingsState {
	/** The defaults stand until the shell has answered. */
	current = $state.raw<Settings>(DEFAULT_SETTINGS);
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
