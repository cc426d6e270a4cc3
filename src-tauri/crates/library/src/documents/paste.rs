//! A paste as a document: what it plainly is decides the ending of its name.

use std::sync::atomic::AtomicBool;

use super::{Document, DocumentKind, decode};

/// Lines looked at; a paste says what it is at its beginning.
const LINES: usize = 200;

/// A pasted text as document number `n` of its chat (named `pasted-n.txt`, or `.md` or a code ending if it plainly is one).
pub fn from_paste(text: &str, n: usize) -> Document {
    let decoded = decode::tidy_text(text);
    let name = format!("pasted-{n}.{}", ending(&decoded.text));
    Document::unpaged(name, DocumentKind::Paste, decoded, &AtomicBool::new(false))
}

/// Line beginnings that are common in one language and rare elsewhere. `#include` and `use ` need no more to be
/// told apart from prose than that several of them come together.
const MARKS: &[(&str, &[&str])] = &[
    (
        "rs",
        &[
            "fn ",
            "pub fn ",
            "pub struct ",
            "pub enum ",
            "impl ",
            "impl<",
            "use std::",
            "use crate::",
            "let mut ",
            "#[derive(",
            "mod ",
            "pub mod ",
            "pub use ",
            "match ",
            "//! ",
            "/// ",
        ],
    ),
    (
        "py",
        &[
            "def ",
            "async def ",
            "from ",
            "import ",
            "elif ",
            "except",
            "class ",
            "@property",
            "self.",
            "if __name__",
            "return ",
            "with open(",
        ],
    ),
    (
        "ts",
        &[
            "import {",
            "import type ",
            "export const ",
            "export function ",
            "export interface ",
            "export type ",
            "interface ",
            "const ",
            "let ",
            "function ",
            "async function ",
            "export default ",
            "} from '",
            "return ",
        ],
    ),
    (
        "c",
        &[
            "#include <",
            "#include \"",
            "#define ",
            "#ifdef ",
            "#ifndef ",
            "#endif",
            "static ",
            "int main(",
            "void ",
            "typedef ",
            "struct ",
            "return ",
        ],
    ),
    (
        "cpp",
        &[
            "#include <",
            "namespace ",
            "template <",
            "template<",
            "std::",
            "class ",
            "public:",
            "private:",
            "using namespace ",
            "constexpr ",
            "virtual ",
            "auto ",
        ],
    ),
    ("go", &["package ", "func ", "import (", "type ", "defer ", "go func", "if err != nil", "return ", "var "]),
    (
        "java",
        &[
            "package ",
            "import java",
            "public class ",
            "public static ",
            "private final ",
            "public void ",
            "@Override",
            "private static ",
            "public interface ",
            "return ",
        ],
    ),
    ("sh", &["#!/bin/", "#!/usr/bin/env bash", "set -e", "export ", "echo ", "fi", "done", "esac", "if [", "then"]),
    (
        "sql",
        &[
            "SELECT ",
            "INSERT INTO ",
            "CREATE TABLE ",
            "FROM ",
            "WHERE ",
            "LEFT JOIN ",
            "GROUP BY ",
            "ORDER BY ",
            "UPDATE ",
            "ALTER TABLE ",
        ],
    ),
];

/// Line beginnings of Markdown; `# ` alone would also fit a shell comment.
const MARKDOWN: &[&str] = &["# ", "## ", "### ", "```", "- [", "![", "| ", "> ", "- ", "* ", "1. "];

fn ending(text: &str) -> &'static str {
    let start = text.trim_start();
    if starts_with_any(start, &["<!doctype html", "<!DOCTYPE html", "<html"]) {
        return "html";
    }
    if start.starts_with("<?xml") {
        return "xml";
    }
    if start.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return "json";
    }
    if starts_with_any(start, &["diff --git ", "--- a/"]) {
        return "diff";
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).take(LINES).collect();
    if lines.len() < 3 {
        return "txt";
    }
    let score = |marks: &[&str]| lines.iter().filter(|l| starts_with_any(l, marks)).count();
    let markdown = score(MARKDOWN);
    let headings = lines.iter().filter(|l| starts_with_any(l, &["# ", "## ", "### ", "```"])).count();
    if headings >= 2 && markdown * 20 >= lines.len() {
        return "md";
    }
    // Code also ends its lines like code; prose that happens to begin with "from " or "return " does not.
    let code_ends = lines.iter().filter(|l| l.ends_with([';', '{', '}', ')', ':', ',', ']'])).count();
    if code_ends * 3 < lines.len() {
        return "txt";
    }
    let best = MARKS.iter().map(|(ending, marks)| (score(marks), *ending)).rev().max_by_key(|(hits, _)| *hits);
    match best {
        Some((hits, ending)) if hits >= 2 && hits * 12 >= lines.len() => ending,
        _ => "txt",
    }
}

fn starts_with_any(line: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|b| line.starts_with(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_kinds_are_told_apart() {
        let rust = "use std::fmt;\n\npub struct A {\n    b: u8,\n}\n\nimpl A {\n    fn f(&self) -> u8 {\n        self.b\n    }\n}\n";
        let python = "import os\n\ndef f(x):\n    if x:\n        return [1, 2]\n    return g(x)\n\nclass A:\n    def g(self):\n        return os.getcwd()\n";
        let c = "#include <stdio.h>\n\nint main(void) {\n    printf(\"x\");\n    return 0;\n}\n";
        let markdown = "# Title\n\nSome words.\n\n## Part\n\n- one\n- two\n";
        let prose =
            "Return to the house, he said.\nFrom there it was not far.\nImport duties were paid.\nNobody knew.\n";
        for (text, ending) in [
            (rust, "rs"),
            (python, "py"),
            (c, "c"),
            (markdown, "md"),
            (prose, "txt"),
            ("{\"a\": [1, 2]}", "json"),
            ("<!doctype html>\n<p>x", "html"),
            ("one line", "txt"),
            ("", "txt"),
        ] {
            assert_eq!(from_paste(text, 3).name, format!("pasted-3.{ending}"), "{text}");
        }
    }

    #[test]
    fn words_on_both_sides_of_a_rare_line_end_stay_apart() {
        // Slides and word processors end a line within a paragraph with a vertical tab, mainframes with NEL.
        let document = from_paste("Title\u{b}Subtitle\u{85}end", 1);
        assert_eq!(document.pages[0].text, "Title\nSubtitle\nend");
        assert!(document.report.notes.is_empty());
    }

    #[test]
    fn a_paste_is_one_unpaged_page_with_unix_line_ends() {
        let document = from_paste("a\r\nb\0c", 1);
        assert_eq!(document.kind, DocumentKind::Paste);
        assert_eq!(document.pages.len(), 1);
        assert_eq!(document.pages[0].text, "a\nbc");
        assert_eq!(document.report.notes.len(), 1);
    }
}
