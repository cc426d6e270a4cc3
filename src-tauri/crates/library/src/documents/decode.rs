//! Bytes to text: which encoding, line ends, and what is no text at all.

use std::sync::atomic::{AtomicBool, Ordering};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use content_inspector::ContentType;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::DocumentError;

/// Text as the rest of the program sees it: UTF-8, `\n` line ends, no control characters but `\n` and `\t`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// The detector needs no more than this, and its time grows with what it is fed.
const DETECT_BYTES: usize = 1 << 20;

/// A text may lose one character in this many to stray control codes; a binary file loses far more.
const CHARS_PER_CONTROL: usize = 50;

/// One broken sequence among this many sound ones still is UTF-8 with a fault, not another encoding.
const SOUND_PER_BROKEN: usize = 4;

/// Characters between two looks at the cancel flag.
const CANCEL_EVERY: usize = 1 << 16;

pub(super) fn decode(bytes: &[u8], name: &str, cancel: &AtomicBool) -> Result<Decoded, DocumentError> {
    let refuse = |why: &str| DocumentError::NotText { name: name.to_owned(), why: why.to_owned() };
    let mut notes = Vec::new();
    let raw = match content_inspector::inspect(bytes) {
        ContentType::BINARY => return Err(refuse(binary_kind(bytes))),
        ContentType::UTF_32LE | ContentType::UTF_32BE => return Err(refuse("UTF-32 is not read")),
        ContentType::UTF_16LE => decode_as(bytes, UTF_16LE, &mut notes),
        ContentType::UTF_16BE => decode_as(bytes, UTF_16BE, &mut notes),
        ContentType::UTF_8 | ContentType::UTF_8_BOM => match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
            // A mark alone does not make it UTF-8, and is no text in another encoding either.
            Err(_) => decode_guessed(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes), &mut notes),
        },
    };
    let tidied = tidy(&raw, cancel);
    if cancel.load(Ordering::Relaxed) {
        return Err(DocumentError::Cancelled);
    }
    if tidied.controls > 8 && tidied.controls.saturating_mul(CHARS_PER_CONTROL) > raw.chars().count() {
        return Err(refuse("mostly control codes"));
    }
    tidied.note(&mut notes);
    Ok(Decoded { text: tidied.text, notes })
}

/// A paste is text already; only its line ends and control characters are put in order.
pub(super) fn tidy_text(text: &str) -> Decoded {
    let tidied = tidy(text.strip_prefix('\u{feff}').unwrap_or(text), &AtomicBool::new(false));
    let mut notes = Vec::new();
    tidied.note(&mut notes);
    Decoded { text: tidied.text, notes }
}

/// Whether the head of a file is UTF-8 without NUL; a character cut off at the end of the head does not count.
pub(super) fn is_plain_utf8_head(head: &[u8]) -> bool {
    if head.contains(&0) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none(),
    }
}

fn decode_as(bytes: &[u8], encoding: &'static Encoding, notes: &mut Vec<String>) -> String {
    let (text, had_errors) = encoding.decode_with_bom_removal(bytes);
    if had_errors {
        notes.push(format!("some bytes are no valid {} and show as \u{fffd}", encoding.name()));
    }
    text.into_owned()
}

fn decode_guessed(bytes: &[u8], notes: &mut Vec<String>) -> String {
    let (sound, broken) = count_utf8(bytes);
    if sound >= broken.saturating_mul(SOUND_PER_BROKEN) && sound > 0 {
        return decode_as(bytes, UTF_8, notes);
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(&bytes[..bytes.len().min(DETECT_BYTES)], bytes.len() <= DETECT_BYTES);
    let encoding = detector.guess(None, Utf8Detection::Deny);
    notes.push(format!("the encoding was guessed: {}", encoding.name()));
    decode_as(bytes, encoding, notes)
}

/// Multi-byte sequences of UTF-8 that are sound, and places where it breaks.
fn count_utf8(bytes: &[u8]) -> (usize, usize) {
    let (mut sound, mut broken) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        sound += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        broken += usize::from(!chunk.invalid().is_empty());
    }
    (sound, broken)
}

struct Tidied {
    text: String,
    /// Control characters left out.
    controls: usize,
    /// Terminal colour and cursor sequences left out; a log is full of them and text all the same.
    terminal_codes: usize,
}

impl Tidied {
    fn note(&self, notes: &mut Vec<String>) {
        if self.controls > 0 {
            notes.push(format!("{} control characters were left out", self.controls));
        }
        if self.terminal_codes > 0 {
            notes.push(format!("{} terminal colour codes were left out", self.terminal_codes));
        }
    }
}

/// Line ends to `\n`, control characters and terminal sequences out. Ends early when cancelled.
fn tidy(raw: &str, cancel: &AtomicBool) -> Tidied {
    let mut tidied = Tidied { text: String::with_capacity(raw.len()), controls: 0, terminal_codes: 0 };
    let mut chars = raw.chars().peekable();
    let mut seen = 0_usize;
    while let Some(c) = chars.next() {
        seen += 1;
        if seen.is_multiple_of(CANCEL_EVERY) && cancel.load(Ordering::Relaxed) {
            break;
        }
        match c {
            '\r' => {
                chars.next_if_eq(&'\n');
                tidied.text.push('\n');
            }
            // Line ends of slides and word processors, and of mainframes: no words may be glued together.
            '\u{b}' | '\u{85}' => tidied.text.push('\n'),
            '\n' | '\t' => tidied.text.push(c),
            '\x1b' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
                chars.next_if(|c| matches!(c, '@'..='~'));
                tidied.terminal_codes += 1;
            }
            c if c.is_control() => tidied.controls += 1,
            c => tidied.text.push(c),
        }
    }
    tidied
}

/// What a binary file is, in the words of a user, as far as its first bytes say.
fn binary_kind(bytes: &[u8]) -> &'static str {
    const KINDS: &[(&[u8], &str)] = &[
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"GIF8", "a GIF image"),
        (b"PK\x03\x04", "a ZIP archive or an office file"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\xfd7zXZ\x00", "an XZ archive"),
        (b"(\xb5/\xfd", "a Zstandard archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"\xd0\xcf\x11\xe0", "an old office file"),
        (b"\x7fELF", "a program"),
        (b"MZ", "a program"),
        (b"GGUF", "a model"),
        (b"SQLite format 3", "a database"),
        (b"RIFF", "sound, an image or a film"),
        (b"OggS", "sound or a film"),
        (b"ID3", "sound"),
    ];
    KINDS.iter().find(|(magic, _)| bytes.starts_with(magic)).map_or("binary data", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(bytes: &[u8]) -> Decoded {
        decode(bytes, "x", &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn utf8_with_and_without_mark_is_taken_as_it_is() {
        assert_eq!(text_of("grün\n".as_bytes()), Decoded { text: "grün\n".into(), notes: vec![] });
        assert_eq!(text_of("\u{feff}grün".as_bytes()), Decoded { text: "grün".into(), notes: vec![] });
        assert_eq!(text_of(b""), Decoded { text: String::new(), notes: vec![] });
    }

    #[test]
    fn a_mark_before_another_encoding_is_no_text() {
        let text = "Der Schlüssel für die Straße läßt sich später ändern. ".repeat(20);
        let mut bytes = b"\xef\xbb\xbf".to_vec();
        bytes.extend(text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
        assert_eq!(text_of(&bytes).text, text);
    }

    #[test]
    fn utf16_is_known_by_its_mark() {
        let le: Vec<u8> = "\u{feff}Füße 𝄞".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = "\u{feff}Füße 𝄞".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(text_of(&le), Decoded { text: "Füße 𝄞".into(), notes: vec![] });
        assert_eq!(text_of(&be), Decoded { text: "Füße 𝄞".into(), notes: vec![] });
    }

    #[test]
    fn an_old_encoding_is_guessed_and_said() {
        let latin: Vec<u8> = "Der Schlüssel für die Straße läßt sich später ändern. "
            .repeat(20)
            .chars()
            .map(|c| u8::try_from(u32::from(c)).unwrap())
            .collect();
        let decoded = text_of(&latin);
        assert!(decoded.text.starts_with("Der Schlüssel für die Straße"));
        assert_eq!(decoded.notes, ["the encoding was guessed: windows-1252"]);

        let (japanese, _, _) = encoding_rs::SHIFT_JIS.encode("これは日本語の文章です。文字コードを推測します。");
        assert!(text_of(&japanese).text.starts_with("これは日本語"));
    }

    #[test]
    fn one_broken_byte_does_not_turn_utf8_into_something_else() {
        let mut bytes = "äöüß".repeat(100).into_bytes();
        bytes.insert(4, 0xff);
        let decoded = text_of(&bytes);
        assert!(decoded.text.starts_with("äö\u{fffd}üß"));
        assert_eq!(decoded.notes.len(), 1);
    }

    #[test]
    fn line_ends_and_control_codes_are_put_in_order() {
        let mut bytes = b"one\r\ntwo\rthree\n\tfour\x0c\x1b".to_vec();
        bytes.extend_from_slice(b" and more text than control codes ");
        let decoded = text_of(&bytes);
        assert_eq!(decoded.text, "one\ntwo\nthree\n\tfour and more text than control codes ");
        assert_eq!(decoded.notes, ["2 control characters were left out"]);

        let decoded = text_of(b"\x1b[1;32mINFO\x1b[0m started\n".repeat(50).as_slice());
        assert!(decoded.text.starts_with("INFO started\nINFO"));
        assert_eq!(decoded.notes, ["100 terminal colour codes were left out"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_clean_text_or_an_error(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            if let Ok(decoded) = decode(&bytes, "x", &AtomicBool::new(false)) {
                proptest::prop_assert!(!decoded.text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
                let again = tidy_text(&decoded.text);
                proptest::prop_assert!(again.notes.is_empty());
            }
        }
    }

    #[test]
    fn binaries_are_refused_with_their_kind() {
        for (bytes, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0"[..], "a PNG image"),
            (b"PK\x03\x04\x14\0\0\0", "a ZIP archive or an office file"),
            (b"a\0b", "binary data"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32 is not read"),
        ] {
            let error = decode(bytes, "x", &AtomicBool::new(false)).unwrap_err();
            assert!(matches!(&error, DocumentError::NotText { why, .. } if why == kind), "{error}");
        }
        let noise: Vec<u8> = (0..4000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        assert!(decode(&noise, "noise", &AtomicBool::new(false)).is_err());
    }
}
