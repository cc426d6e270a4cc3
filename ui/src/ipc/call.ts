import type { UserError } from './bindings';

/** A value, or why there is none. Commands never throw at their callers. */
export type Outcome<Value> = { ok: true; value: Value } | { ok: false; error: UserError };

type Wire<Value> = Promise<{ status: 'ok'; data: Value } | { status: 'error'; error: UserError }>;

/** Settles a command: what the shell refuses comes as its own `UserError`, a broken border as one made here. */
export async function settle<Value>(command: Wire<Value>): Promise<Outcome<Value>> {
	try {
		const result = await command;
		return result.status === 'ok'
			? { ok: true, value: result.data }
			: { ok: false, error: asUserError(result.error) };
	} catch (thrown) {
		return { ok: false, error: asUserError(thrown) };
	}
}

/** The shell refuses bad arguments with a bare string, and a lost connection throws an `Error`. */
function asUserError(thrown: unknown): UserError {
	if (isUserError(thrown)) return thrown;
	return {
		message: 'The app’s window and its engine do not understand each other.',
		kept: '',
		advice: [{ kind: 'hint', text: 'Close the app and open it again.' }],
		details: thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown),
	};
}

function isUserError(value: unknown): value is UserError {
	return (
		typeof value === 'object' &&
		value !== null &&
		'message' in value &&
		'advice' in value &&
		'details' in value
	);
}
