import { expect, it } from 'vitest';
import { closeHalfOpen } from './halfOpen';

it.each([
	['plain text', 'plain text'],
	['a **bold', 'a **bold**'],
	['a *slanted', 'a *slanted*'],
	['a **bold *both', 'a **bold *both***'],
	['done **bold** and', 'done **bold** and'],
	['a `code', 'a `code`'],
	['a ``code ` with', 'a ``code ` with``'],
	['a **', 'a '],
	['a `', 'a '],
	['snake_case_name', 'snake_case_name'],
	['2 * 3 * 4', '2 * 3 * 4'],
	['see [the page](https://exa', 'see the page'],
	['see ![a chart](https://exa', 'see a chart'],
	['~~gone', '~~gone~~'],
	['paragraph\n---', 'paragraph'],
	['paragraph\n=', 'paragraph'],
	['paragraph\n-', 'paragraph'],
	['- item one\n- item **tw', '- item one\n- item **tw**'],
	['| a | b |', ''],
	['| a | b |\n|--', ''],
	['| a | b |\n|---|---|', '| a | b |\n|---|---|'],
	['```rust\nlet a = "**', '```rust\nlet a = "**'],
])('closes %j', (half, closed) => {
	expect(closeHalfOpen(half)).toBe(closed);
});
