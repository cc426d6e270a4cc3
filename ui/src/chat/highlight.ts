import hljs from 'highlight.js/lib/core';
import bash from 'highlight.js/lib/languages/bash';
import c from 'highlight.js/lib/languages/c';
import cpp from 'highlight.js/lib/languages/cpp';
import css from 'highlight.js/lib/languages/css';
import diff from 'highlight.js/lib/languages/diff';
import go from 'highlight.js/lib/languages/go';
import ini from 'highlight.js/lib/languages/ini';
import java from 'highlight.js/lib/languages/java';
import javascript from 'highlight.js/lib/languages/javascript';
import json from 'highlight.js/lib/languages/json';
import python from 'highlight.js/lib/languages/python';
import rust from 'highlight.js/lib/languages/rust';
import sql from 'highlight.js/lib/languages/sql';
import typescript from 'highlight.js/lib/languages/typescript';
import xml from 'highlight.js/lib/languages/xml';
import yaml from 'highlight.js/lib/languages/yaml';

const LANGUAGES = {
	bash,
	c,
	cpp,
	css,
	diff,
	go,
	ini,
	java,
	javascript,
	json,
	python,
	rust,
	sql,
	typescript,
	xml,
	yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);
hljs.registerAliases(['cuda', 'cu', 'cuh'], { languageName: 'cpp' });
hljs.registerAliases(['svelte', 'vue'], { languageName: 'xml' });

/** Longer code stays plain: colouring is linear at best, and one long line can take seconds. */
const MOST_CHARACTERS = 50_000;
const LONGEST_LINE = 2_000;

/** Coloured HTML, or null where the code stays plain. */
export function highlight(code: string, language: string): string | null {
	if (code.length > MOST_CHARACTERS || !hljs.getLanguage(language)) return null;
	if (code.split('\n').some((line) => line.length > LONGEST_LINE)) return null;
	return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}
