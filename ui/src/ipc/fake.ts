import type { Channel } from '@tauri-apps/api/core';
import { mockIPC, mockWindows } from '@tauri-apps/api/mocks';
import { FakeEngine } from './fakeEngine';
import { isScript, type Script } from './fakeFixtures';

/**
 * Stands in for the shell outside the app: a scripted engine behind the same commands. Which script is asked for by
 * `?script=…`; `?rate=` and `?tokens=` set the speed and the length of its answers.
 */
export function installFakeEngine(query: URLSearchParams): void {
	const asked = query.get('script') ?? 'handbook';
	const script: Script = isScript(asked) ? asked : 'handbook';
	const engine = new FakeEngine(script, Number(query.get('rate') ?? 70), Number(query.get('tokens') ?? 0));
	mockWindows('main');
	mockIPC(
		(command, payload) => {
			const args = (payload ?? {}) as Record<string, unknown> & { channel?: Channel };
			// A copy, as a real border makes one: the page must not share objects with the engine.
			return Promise.resolve(engine.handle(command, args)).then((value) =>
				structuredClone(value ?? null),
			);
		},
		{ shouldMockEvents: true },
	);
}
