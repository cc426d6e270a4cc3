/** Texts of the scripted engine: what its documents say and what it answers. */

const TOPICS = [
	'Before you start',
	'Opening the case',
	'The power supply',
	'The pump',
	'Filters and their care',
	'Pressure and its limits',
	'The control panel',
	'Alarms',
	'Cleaning',
	'Yearly service',
	'Spare parts',
	'Warranty',
];

/** Page `page` of a made-up handbook. */
export function handbookPage(page: number): string {
	const topic = TOPICS[(page - 1) % TOPICS.length] ?? '';
	if (page === 12) {
		return `${topic}\n\nThe access code of the service menu is 4471. It is asked for after the third press of the lower key.\n\nThe warranty lasts three years from the day of purchase. It does not cover filters, seals and damage by frost.`;
	}
	return `${page}. ${topic}\n\nThis page describes ${topic.toLowerCase()} for the person who looks after the machine. Work through the steps in order.\n\n1. Switch the machine off and wait for the lamp to go out.\n2. Note the reading of the gauge. At rest it stands between 1.8 and 2.2 bar.\n3. Compare it with the table on page ${Math.max(1, page - 1)}.\n\nReplace the filter every 400 hours of work, and sooner where the air is dusty. A filter that is wet has to be replaced at once.`;
}

export const SOURCE_FILE = `//! Keeps the last replies.
use std::collections::VecDeque;

/// Replies, newest last.
pub struct Ring<T> {
    slots: VecDeque<T>,
    capacity: usize,
}

impl<T> Ring<T> {
    /// Adds a reply; the oldest goes when the ring is full.
    pub fn push(&mut self, reply: T) {
        if self.slots.len() == self.capacity {
            self.slots.pop_front();
        }
        self.slots.push_back(reply);
    }
}
`;

export const ANSWER = `The service menu asks for the code **4471** (page 12). It appears after the third press of the lower key.

Page 12: "The warranty lasts three years from the day of purchase."

What to check first:

1. Switch the machine off and wait for the lamp to go out.
2. Read the gauge: at rest it stands between 1.8 and 2.2 bar (page 4).
3. Replace the filter *every 400 hours*, sooner in dusty air.

| Part | Interval | Source |
|---|---|---|
| Filter | 400 h | page 5 |
| Seals | 1 year | page 10 |

From \`src/ring.rs\`:

\`\`\`rust
pub fn push(&mut self, reply: T) {
    if self.slots.len() == self.capacity {
        self.slots.pop_front();
    }
    self.slots.push_back(reply);
}
\`\`\`

The share not read is $s = 1 - \\frac{r + m}{e}$, and more about it stands [on the web](https://example.org/reuse).

> Work through the steps in order.
`;

/** A long answer of mixed blocks, at least so many tokens of the scripted kind. */
export function longAnswer(tokens: number): string {
	const parts: string[] = [];
	for (let section = 1, length = 0; length < tokens; section += 1) {
		const part = `## Section ${section}\n\nThe pressure of circuit ${section} is checked **before** each start (page ${(section % 12) + 1}). A reading below 1.8 bar means that air has entered; one above 2.2 bar means that the filter is *nearly full*. Both are shown on the panel and kept in the log for a year.\n\n- Open valve ${section}, and close it after ten seconds.\n- Compare the gauge with the table; call \`check(${section})\` to store it.\n- Repeat it for every circuit that is in use.\n\n\`\`\`python\ndef check(circuit: int) -> float:\n    reading = gauge(circuit)  # bar\n    return round(reading, 2)\n\`\`\`\n\n`;
		parts.push(part);
		length += piecesOf(part).length;
	}
	return parts.join('');
}

/** Splits a text the way a tokenizer roughly does: words with the blank before them. */
export function piecesOf(text: string): string[] {
	return text.match(/\s*[^\s]{1,6}|\s+$/g) ?? [];
}
