import type { FolderFileView } from '../ipc/bindings';

/** Files of one sub-folder, in prompt order. */
export interface FolderGroup {
	/** '' for the folder itself. */
	path: string;
	files: FolderFileView[];
}

export function groupByFolder(files: readonly FolderFileView[]): FolderGroup[] {
	const groups = new Map<string, FolderFileView[]>();
	for (const file of files) {
		const path = file.name.includes('/') ? file.name.slice(0, file.name.lastIndexOf('/')) : '';
		const group = groups.get(path);
		if (group) group.push(file);
		else groups.set(path, [file]);
	}
	return Array.from(groups, ([path, members]) => ({ path, files: members }));
}
