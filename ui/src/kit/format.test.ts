import { expect, it } from 'vitest';
import { bytes, milliseconds, parameters, percent, plural, rate, seconds } from './format';

it('writes sizes in decimal units', () => {
	expect([0, 999, 1000, 30_100_000, 999_600, 2.17e9].map(bytes)).toEqual([
		'0 B',
		'999 B',
		'1.00 kB',
		'30.1 MB',
		'1.00 MB',
		'2.17 GB',
	]);
	expect(bytes(-1500)).toBe('−1.50 kB');
});

it('never rounds a share to all or nothing', () => {
	expect([0, 1, 0.5, 0.99999, 0.0001, -0.04].map(percent)).toEqual([
		'0 %',
		'100 %',
		'50 %',
		'> 99.9 %',
		'< 0.1 %',
		'−4 %',
	]);
});

it('says unknown for what is not known', () => {
	expect([bytes(null), percent(null), rate(null), seconds(null), milliseconds(null), rate(NaN)]).toEqual(
		Array.from({ length: 6 }, () => 'unknown'),
	);
});

it('writes times as people say them', () => {
	expect([0.02, 1.24, 14.4, 59.4, 61, 3600, 3725].map(seconds)).toEqual([
		'20 ms',
		'1.2 s',
		'14 s',
		'59 s',
		'1 min 1 s',
		'1 h 0 min',
		'1 h 2 min',
	]);
	expect([1.234, 12.34, 123.4].map(milliseconds)).toEqual(['1.23 ms', '12.3 ms', '123 ms']);
});

it('counts', () => {
	expect([plural(1, 'page'), plural(1234, 'token')]).toEqual(['1 page', '1,234 tokens']);
	expect([parameters(28_300_000), parameters(8.03e9)]).toEqual(['28.3 M', '8.03 B']);
});
