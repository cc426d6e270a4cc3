// The stage of the window test: a virtual display, a window manager for the native dialogs, the driver, fresh folders.

import { execFile, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, mkdirSync, openSync, readdirSync, readlinkSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

import { until, Window } from './webdriver.mjs';

const run = promisify(execFile);
const SCREEN = '1360x940x24';

/** Everything the app needs around it; ended by `close`. */
export class Stage {
	#binary;
	#env;
	#own = [];
	#driver;
	#log;
	/** Folder for files of the test; removed at the end. */
	folder = mkdtempSync(join(tmpdir(), 'reprise-window-'));

	constructor(binary) {
		this.#binary = binary;
		this.#log = openSync(join(this.folder, 'app.log'), 'a');
		const within = (name) => {
			const folder = join(this.folder, name);
			mkdirSync(folder, { recursive: true });
			return folder;
		};
		this.#env = {
			...process.env,
			REPRISE_DATA_DIR: within('data'),
			XDG_DATA_HOME: within('share'),
			XDG_CONFIG_HOME: within('config'),
			XDG_CACHE_HOME: within('cache'),
			GSETTINGS_BACKEND: 'memory',
			GTK_RECENT_FILES_ENABLED: '0',
			TAURI_WEBVIEW_AUTOMATION: 'true',
		};
	}

	/** Starts a display where there is none, and a window manager on it: a file dialog needs the focus. */
	async open() {
		if (!this.#env.DISPLAY) {
			const server = spawn('Xvfb', ['-displayfd', '3', '-screen', '0', SCREEN, '-nolisten', 'tcp'], {
				stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
			});
			this.#own.push(server);
			const [number] = await Promise.race([
				new Promise((resolve, reject) => {
					server.stdio[3].once('data', (bytes) => resolve([String(bytes).trim()]));
					server.once('error', reject);
				}),
				sleep(10_000).then(() => Promise.reject(new Error('Xvfb does not start'))),
			]);
			this.#env.DISPLAY = `:${number}`;
			this.#own.push(spawn('openbox', [], { env: this.#env, stdio: 'ignore' }));
		}
	}

	/** Starts the app on the same folders as before. */
	async start() {
		const port = await freePort();
		this.#driver = spawn('WebKitWebDriver', [`--port=${port}`], { env: this.#env, stdio: ['ignore', this.#log, this.#log] });
		return Window.open(port, this.#binary);
	}

	/** Ends the app as its window's close button does. */
	async quit(window) {
		const app = this.appProcess();
		await window.close();
		await until('the app has ended', 10_000, () => !alive(app));
		await this.#endDriver();
	}

	/** Ends the app as a crash would. */
	async kill() {
		const app = this.appProcess();
		process.kill(app, 'SIGKILL');
		await until('the app is gone', 5000, () => !alive(app));
		await this.#endDriver();
	}

	/** Process id of the app: the child of our driver that runs our binary. */
	appProcess() {
		if (!this.#driver) throw new Error('the app was not started');
		for (const name of readdirSync('/proc')) {
			if (!/^\d+$/.test(name)) continue;
			try {
				const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
				const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
				if (parent === this.#driver.pid && readlinkSync(`/proc/${name}/exe`) === this.#binary) return Number(name);
			} catch {
				// It ended while we looked.
			}
		}
		throw new Error('the app is not running');
	}

	/** Types a path into the native file dialog with this title. */
	async choose(title, path) {
		const xdotool = (...args) => run('xdotool', args, { env: this.#env });
		let dialog;
		await until(`the dialog “${title}” is open`, 10_000, async () => {
			const { stdout } = await xdotool('search', '--onlyvisible', '--name', `^${title}$`);
			[dialog] = stdout.trim().split('\n');
			return dialog !== '';
		});
		await xdotool('windowactivate', '--sync', dialog);
		// The dialog's own list takes a moment; a key typed earlier is lost.
		await sleep(700);
		// The slash opens the field for a path; what is typed before it is open is lost.
		await xdotool('type', '/');
		await sleep(700);
		await xdotool('type', '--delay', '20', path.slice(1));
		await sleep(400);
		await xdotool('key', 'Return');
	}

	/** What the app and its driver said, without the repetitions of GTK. */
	log() {
		const lines = readFileSync(join(this.folder, 'app.log'), 'utf8').split('\n');
		return lines.filter((line) => line !== '' && !line.includes('Gtk-CRITICAL')).slice(-20).join('\n');
	}

	/** Ends what was started here and removes the folders. */
	async close() {
		try {
			process.kill(this.appProcess(), 'SIGKILL');
		} catch {
			// It has ended already, as it should.
		}
		await this.#endDriver();
		for (const own of this.#own.reverse()) own.kill();
		closeSync(this.#log);
		rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
	}

	async #endDriver() {
		const driver = this.#driver;
		this.#driver = undefined;
		if (!driver || driver.exitCode !== null) return;
		const ended = new Promise((resolve) => driver.once('exit', resolve));
		driver.kill();
		await Promise.race([ended, sleep(3000)]);
	}
}

function alive(pid) {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
		return !stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z');
	} catch {
		return false;
	}
}

function freePort() {
	return new Promise((resolve, reject) => {
		const server = createServer();
		server.once('error', reject);
		server.listen(0, '127.0.0.1', () => {
			const { port } = server.address();
			server.close(() => resolve(port));
		});
	});
}
