//! Names as the prompt shows them.

/// Longest name, in characters; the end is kept, because that is where a path says most.
const MAX_NAME_CHARS: usize = 200;

/// A name that can stand in `name="…"` and in a citation: no quotes, angle brackets, line breaks, control or
/// direction-changing characters, never empty. Applying it twice changes nothing more.
pub fn clean_name(name: &str) -> String {
    let mut clean = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => clean.push('\''),
            '<' => clean.push('‹'),
            '>' => clean.push('›'),
            c if c.is_control() || is_line_break(c) => clean.push(' '),
            c if is_invisible(c) => {}
            c => clean.push(c),
        }
    }
    let clean = clean.trim();
    if clean.is_empty() {
        return "unnamed".to_owned();
    }
    let excess = clean.chars().count().saturating_sub(MAX_NAME_CHARS);
    if excess == 0 {
        return clean.to_owned();
    }
    let kept: String = clean.chars().skip(excess + 1).collect();
    format!("…{}", kept.trim())
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// Characters that show nothing but can make one name look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_could_break_the_attribute_is_replaced() {
        assert_eq!(clean_name("a\"b<c>d\ne.pdf"), "a'b‹c›d e.pdf");
        assert_eq!(clean_name("src/main.rs"), "src/main.rs");
        assert_eq!(clean_name("fdp.\u{202e}txt.exe"), "fdp.txt.exe");
        assert_eq!(clean_name(" \n\t "), "unnamed");
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let clean = clean_name(&format!("{}/end.rs", "x".repeat(500)));
        assert_eq!(clean.chars().count(), MAX_NAME_CHARS);
        assert!(clean.starts_with('…') && clean.ends_with("/end.rs"));
    }

    proptest! {
        #[test]
        fn cleaning_is_idempotent_and_safe(name in any::<String>()) {
            let once = clean_name(&name);
            prop_assert_eq!(&clean_name(&once), &once);
            prop_assert!(!once.is_empty());
            prop_assert!(!once.chars().any(|c| matches!(c, '"' | '<' | '>') || c.is_control()));
        }
    }
}
