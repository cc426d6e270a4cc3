//! Keeps a document's text from ending its own block, opening another, or forging a page line.
//!
//! One backslash goes in behind the bracket: `</document>` becomes `<\/document>`, `[page 7]` alone on a line becomes
//! `[\page 7]`. A text that holds the escaped form already gets one more, so taking one away again is exact.

use std::borrow::Cow;

/// Longest run of blanks looked through inside a tag or a page line; more than that no model reads as one.
const MAX_GAP_CHARS: usize = 16;

/// Text as it may stand inside a document block.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    let mut places = Vec::new();
    for (at, _) in text.match_indices(['<', '[']) {
        if imitates_tag(text, at) || imitates_page_line(text, at) {
            places.push(at);
        }
    }
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + places.len());
    let mut from = 0;
    for at in places {
        // Both brackets are one byte.
        out.push_str(&text[from..=at]);
        out.push('\\');
        from = at + 1;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// The text that [`escape`] was given.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    let mut places = Vec::new();
    for (at, _) in text.match_indices(['<', '[']) {
        let escaped = text[at + 1..].starts_with('\\');
        if escaped && (imitates_tag(text, at) || imitates_page_line(text, at)) {
            places.push(at + 1);
        }
    }
    if places.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for at in places {
        out.push_str(&text[from..at]);
        from = at + 1;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// `<`, backslashes, `/document` and no letter after it; or `<`, backslashes, `document`, blanks and `name`.
fn imitates_tag(text: &str, at: usize) -> bool {
    let Some(rest) = text[at..].strip_prefix('<') else { return false };
    let rest = skip_gap(rest.trim_start_matches('\\'));
    let (closing, rest) = match rest.strip_prefix(is_slash) {
        Some(rest) => (true, skip_gap(rest)),
        None => (false, rest),
    };
    let Some(rest) = strip_word(rest, "document") else { return false };
    if closing {
        return !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'));
    }
    let after = skip_gap(rest);
    after.len() < rest.len() && strip_word(after, "name").is_some()
}

/// A line that is nothing but `[page 7]`, however spaced and cased, with backslashes behind the bracket.
fn imitates_page_line(text: &str, at: usize) -> bool {
    let Some(rest) = text[at..].strip_prefix('[') else { return false };
    let before = text[..at].trim_end_matches(|c: char| is_gap(c) && !is_line_end(c));
    if !(before.is_empty() || before.ends_with(is_line_end)) {
        return false;
    }
    let Some(rest) = strip_word(skip_gap(rest.trim_start_matches('\\')), "page") else { return false };
    let digits = skip_gap(rest);
    let after_digits = digits.trim_start_matches(char::is_numeric);
    if after_digits.len() == digits.len() {
        return false;
    }
    let Some(rest) = skip_gap(after_digits).strip_prefix(']') else { return false };
    let rest = rest.trim_start_matches(|c: char| is_gap(c) && !is_line_end(c));
    rest.is_empty() || rest.starts_with(is_line_end)
}

fn is_slash(c: char) -> bool {
    matches!(c, '/' | '\u{2044}' | '\u{2215}' | '\u{ff0f}')
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// White space, and what shows as nothing.
fn is_gap(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

fn skip_gap(text: &str) -> &str {
    let mut chars = text.chars();
    for _ in 0..MAX_GAP_CHARS {
        let rest = chars.as_str();
        if !chars.next().is_some_and(is_gap) {
            return rest;
        }
    }
    chars.as_str()
}

/// `text` behind `word`, whatever its case.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.get(..word.len())?;
    head.eq_ignore_ascii_case(word).then(|| &text[word.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn closing_tags_are_escaped_in_every_spelling() {
        for (text, escaped) in [
            ("a </document> b", "a <\\/document> b"),
            ("</DOCUMENT>", "<\\/DOCUMENT>"),
            ("< / Document >", "<\\ / Document >"),
            ("</\ndocument\n>", "<\\/\ndocument\n>"),
            ("</document", "<\\/document"),
            ("<\\/document>", "<\\\\/document>"),
            ("<document name=\"x\">", "<\\document name=\"x\">"),
        ] {
            assert_eq!(escape(text), escaped);
            assert_eq!(unescape(escaped), text);
        }
    }

    #[test]
    fn other_tags_stay() {
        for text in ["</documents>", "<documentation>", "<document>", "</p>", "a < b / document", "<", "[", "</docu"] {
            assert!(matches!(escape(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn page_lines_are_escaped_only_when_alone_on_their_line() {
        for (text, escaped) in [
            ("[page 7]", "[\\page 7]"),
            ("a\n[page 12]\nb", "a\n[\\page 12]\nb"),
            ("a\n  [ PAGE  3 ] \nb", "a\n  [\\ PAGE  3 ] \nb"),
            ("a\u{2028}[page 1]", "a\u{2028}[\\page 1]"),
            ("[\\page 7]", "[\\\\page 7]"),
        ] {
            assert_eq!(escape(text), escaped);
            assert_eq!(unescape(escaped), text);
        }
        for text in ["see [page 7]", "[page 7] says", "[page]", "[page x]", "[7]", "[pages 7]"] {
            assert_eq!(escape(text), text);
        }
    }

    /// Texts dense in what matters: brackets, slashes, words of the format, gaps.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("<"),
            Just(">"),
            Just("/"),
            Just("\\"),
            Just("["),
            Just("]"),
            Just("document"),
            Just("Document"),
            Just("page"),
            Just("name="),
            Just(" "),
            Just("\n"),
            Just("\u{200b}"),
            Just("7"),
            Just("x"),
            Just("é"),
            Just("</document>"),
            Just("[page 1]"),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn escaping_is_reversible(text in hostile()) {
            let escaped = escape(&text).into_owned();
            prop_assert_eq!(unescape(&escaped), text.as_str());
        }

        #[test]
        fn an_escaped_text_closes_nothing_and_forges_no_page(text in hostile()) {
            let escaped = escape(&text).into_owned();
            let squeezed: String = escaped.chars().filter(|c| !is_gap(*c)).collect::<String>().to_lowercase();
            prop_assert!(!squeezed.contains("</document>"), "{}", escaped);
            for line in escaped.lines() {
                prop_assert!(!line.trim().starts_with("[page 7]") || line.trim() != "[page 7]");
                prop_assert!(line.trim() != "[page 1]");
            }
        }

        #[test]
        fn any_text_survives(text in any::<String>()) {
            let escaped = escape(&text).into_owned();
            prop_assert_eq!(unescape(&escaped), text.as_str());
        }
    }
}
