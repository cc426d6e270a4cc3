/** Copies text; answers whether it worked. */
export async function copyText(text: string): Promise<boolean> {
	try {
		await navigator.clipboard.writeText(text);
		return true;
	} catch {
		return copyBySelection(text);
	}
}

/** For webviews that refuse the asynchronous clipboard. */
function copyBySelection(text: string): boolean {
	const area = document.createElement('textarea');
	area.value = text;
	area.style.position = 'fixed';
	area.style.opacity = '0';
	document.body.append(area);
	area.select();
	try {
		// The only way left where the clipboard API is missing.
		// eslint-disable-next-line @typescript-eslint/no-deprecated
		return document.execCommand('copy');
	} finally {
		area.remove();
	}
}
