import DOMPurify, { type Config } from 'dompurify';

const MATHML =
	'math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle mpadded mphantom menclose mmultiscripts mprescripts'.split(
		' ',
	);
const HTML =
	'p br hr strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td span div figure figcaption button'.split(
		' ',
	);

/** Everything an answer may consist of. No links, images, styles, ids, forms or scripts: none is needed. */
const ALLOWED: Config = {
	ALLOWED_TAGS: [...HTML, ...MATHML, '#text'],
	ALLOWED_ATTR: [
		'class',
		'type',
		'start',
		'align',
		'title',
		'role',
		'aria-label',
		'data-cite',
		'data-page',
		'data-link',
		'data-copy',
		'data-testid',
		'display',
		'mathvariant',
		'displaystyle',
		'scriptlevel',
		'stretchy',
		'fence',
		'separator',
		'lspace',
		'rspace',
		'width',
		'height',
		'depth',
		'columnalign',
		'rowspacing',
		'columnspacing',
		'accent',
		'accentunder',
		'form',
		'largeop',
		'movablelimits',
		'minsize',
		'maxsize',
		'linethickness',
		'notation',
		'xmlns',
	],
	ALLOW_DATA_ATTR: false,
	ALLOW_ARIA_ATTR: false,
	ALLOW_UNKNOWN_PROTOCOLS: false,
};

/** The last step before HTML enters the page, for streamed and stored answers alike. */
export function sanitise(html: string): string {
	return DOMPurify.sanitize(html, ALLOWED);
}
