import '@fontsource-variable/inter/wght.css';
import '@fontsource-variable/jetbrains-mono/wght.css';
import { mount } from 'svelte';
import './styles/tokens.css';
import './styles/base.css';
import App from './App.svelte';

if ((import.meta.env.DEV || import.meta.env.MODE === 'fake') && !('__TAURI_INTERNALS__' in window)) {
	// Outside the app the scripted engine answers. A production build does not hold it: both conditions are false there.
	const { installFakeEngine } = await import('./ipc/fake');
	installFakeEngine(new URLSearchParams(location.search));
}

const target = document.getElementById('app');
if (target) mount(App, { target });
