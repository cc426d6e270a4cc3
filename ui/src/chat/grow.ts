/** Makes a text box as tall as its text, up to what its style allows. */
export function grow(box: HTMLTextAreaElement): () => void {
	const fit = () => {
		box.style.height = 'auto';
		box.style.height = `${box.scrollHeight}px`;
	};
	fit();
	box.addEventListener('input', fit);
	// A new width wraps the lines anew.
	const observer = new ResizeObserver(([entry]) => {
		if (entry && entry.contentRect.width !== width) {
			width = entry.contentRect.width;
			fit();
		}
	});
	let width = box.clientWidth;
	observer.observe(box);
	return () => {
		box.removeEventListener('input', fit);
		observer.disconnect();
	};
}
