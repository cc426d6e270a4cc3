/** Numbers as people read them. Nothing here invents a value: what is not known reads "unknown". */

export const UNKNOWN = 'unknown';

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

export function count(value: number): string {
	return whole.format(value);
}

/** "1 page", "12 pages". */
export function plural(value: number, one: string, many = `${one}s`): string {
	return `${count(value)} ${value === 1 ? one : many}`;
}

/** Three significant figures from 1 up: 9.42, 41.2, 829. */
export function rate(value: number | null): string {
	if (value === null || !Number.isFinite(value)) return UNKNOWN;
	if (value >= 100) return count(value);
	return value.toFixed(value >= 10 ? 1 : 2);
}

export function bytes(value: number | null): string {
	if (value === null || !Number.isFinite(value)) return UNKNOWN;
	const units = ['B', 'kB', 'MB', 'GB', 'TB'];
	let size = Math.abs(value);
	let unit = 0;
	while (size >= 999.5 && unit < units.length - 1) {
		size /= 1000;
		unit += 1;
	}
	const digits = unit === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
	return `${value < 0 ? '−' : ''}${size.toFixed(digits)} ${units[unit] ?? 'B'}`;
}

/** A share of one as a percentage; never rounds up to 100 % or down to 0 % what is not. */
export function percent(share: number | null): string {
	if (share === null || !Number.isFinite(share)) return UNKNOWN;
	const value = share * 100;
	if (value > 0 && value < 0.1) return '< 0.1 %';
	if (value < 100 && value > 99.9) return '> 99.9 %';
	const text = Number.isInteger(value) || Math.abs(value) >= 99.95 ? value.toFixed(0) : value.toFixed(1);
	return `${text.replace('-', '−')} %`;
}

export function milliseconds(value: number | null): string {
	if (value === null || !Number.isFinite(value)) return UNKNOWN;
	return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ms`;
}

export function seconds(value: number | null): string {
	if (value === null || !Number.isFinite(value)) return UNKNOWN;
	if (value < 0.0995) return `${(value * 1000).toFixed(0)} ms`;
	if (value < 9.95) return `${value.toFixed(1)} s`;
	if (value < 59.5) return `${value.toFixed(0)} s`;
	const minutes = Math.floor(Math.round(value) / 60);
	if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
	return `${minutes} min ${Math.round(value) % 60} s`;
}

/** 28.3 M, 8.03 B: how model sizes are written. */
export function parameters(value: number): string {
	if (value >= 1e9) return `${rate(value / 1e9)} B`;
	if (value >= 1e6) return `${rate(value / 1e6)} M`;
	return count(value);
}
