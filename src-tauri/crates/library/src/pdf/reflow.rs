//! Two repairs of extracted text: presentation ligatures and words broken at a line end.
//!
//! Nothing else is normalised: compatibility forms such as superscripts carry meaning.

/// Ligatures as letters, words rejoined, white space at both ends off.
pub(super) fn repair(text: &str) -> String {
    rejoin_hyphens(&expand_ligatures(text.trim()))
}

fn expand_ligatures(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{fb00}' => out.push_str("ff"),
            '\u{fb01}' => out.push_str("fi"),
            '\u{fb02}' => out.push_str("fl"),
            '\u{fb03}' => out.push_str("ffi"),
            '\u{fb04}' => out.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => out.push_str("st"),
            c => out.push(c),
        }
    }
    out
}

/// The second halves of "first- and second-order" and its kin, in the languages met most: here the hyphen stays.
const SUSPENDED: &[&str] = &["and", "or", "to", "nor", "und", "oder", "bis", "et", "ou", "y", "o", "e", "en", "och"];

/// `docu- mentation` (the extractor puts a blank where the line ended) and `docu-\nmentation` become one word when
/// both halves are lower case; a suspended hyphen (`pre- and postfix`) is left alone.
fn rejoin_hyphens(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        if is_broken_word(&chars, i) {
            // Over the hyphen and the blank.
            i += 2;
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

/// Whether `chars[at]` is a line-end hyphen inside a word: two letters before it, a blank and two letters after.
fn is_broken_word(chars: &[char], at: usize) -> bool {
    if !matches!(chars[at], '-' | '\u{2010}' | '\u{ad}') || at < 2 {
        return false;
    }
    if !chars[at - 1].is_lowercase() || !chars[at - 2].is_alphabetic() {
        return false;
    }
    if !matches!(chars.get(at + 1), Some(' ' | '\n')) {
        return false;
    }
    let rest = &chars[at + 2..];
    let second: String = rest.iter().take(16).take_while(|c| c.is_alphabetic()).collect();
    second.chars().count() >= 2 && second.chars().all(char::is_lowercase) && !SUSPENDED.contains(&second.as_str())
}

#[cfg(test)]
mod tests {
    use super::repair;

    #[test]
    fn ligatures_become_letters() {
        assert_eq!(
            repair("e\u{fb03}cient \u{fb01}le \u{fb02}ow o\u{fb00} \u{fb06}op x²"),
            "efficient file flow off stop x²"
        );
    }

    #[test]
    fn broken_words_are_rejoined() {
        assert_eq!(repair("the docu- mentation of the sys-\ntem"), "the documentation of the system");
        assert_eq!(repair("Straßen- verkehr"), "Straßenverkehr");
    }

    #[test]
    fn other_hyphens_stay() {
        for text in [
            "pre- and postfix",
            "a well-known fact",
            "x - y",
            "F- statistic",
            "UTF- eight",
            "end-",
            "ab- Cd",
            "3- fold",
        ] {
            assert_eq!(repair(text), text);
        }
    }
}
