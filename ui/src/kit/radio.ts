/** One thing to choose, with what it means or why it cannot be had. */
export interface RadioOption<Value extends string> {
	value: Value;
	text: string;
	meaning: string;
	disabled: boolean;
}
