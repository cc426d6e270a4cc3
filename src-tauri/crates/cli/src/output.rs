//! Standard output, and the status line on standard error.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::Failure;

/// Writes and flushes, so that a reader sees each token when it is written. Files and pipes get every character.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let text = if stdout.is_terminal() { printable(text) } else { text.into() };
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// One line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// One JSON object on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    // Our own types have string keys and finite depth; what remains is an output error in any case.
    let text = serde_json::to_string(value).map_err(|e| Failure::Output(e.into()))?;
    line(&text)
}

/// A remark on standard error; lost without harm if nobody reads it.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

/// Text in which no control character is left that would make a terminal do something: names in models and words that a
/// model writes are other people's.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(acts) { text.replace(acts, "\u{fffd}").into() } else { text.into() }
}

/// A line on standard error that is rewritten in place; silent where standard error is not a terminal
/// that can do so.
#[derive(Debug)]
pub(crate) struct StatusLine {
    terminal: bool,
    /// When it was last rewritten, while it is there.
    shown: Option<Instant>,
}

/// Faster than this nobody reads, and a terminal over a network chokes.
const REWRITE_AFTER: Duration = Duration::from_millis(100);

impl StatusLine {
    /// Looks at standard error once.
    pub(crate) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { terminal: std::io::stderr().is_terminal() && !dumb, shown: None }
    }

    /// The same beside what is written as it comes; silent also where JSON goes to a terminal, into whose lines it would run.
    pub(crate) fn beside(json: bool) -> Self {
        let status = Self::new();
        Self { terminal: status.terminal && !(json && std::io::stdout().is_terminal()), ..status }
    }

    /// Shows `text` in place of what was shown before, unless that is too new to have been read.
    pub(crate) fn show(&mut self, text: &str) {
        if self.terminal && self.shown.is_none_or(|at| at.elapsed() >= REWRITE_AFTER) {
            let mut stderr = std::io::stderr().lock();
            // Without wrapping, because only the row of the cursor can be taken away again.
            let _ = write!(stderr, "\r\x1b[K\x1b[?7l{}\x1b[?7h", printable(text));
            let _ = stderr.flush();
            self.shown = Some(Instant::now());
        }
    }

    /// Takes the line away, before anything else is printed.
    pub(crate) fn clear(&mut self) {
        if self.shown.is_some() {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K");
            let _ = stderr.flush();
            self.shown = None;
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(printable("a\tb\nç – ok"), "a\tb\nç – ok");
        assert_eq!(printable("x\u{1b}]0;y\u{7}\r\u{9b}2J"), "x\u{fffd}]0;y\u{fffd}\u{fffd}\u{fffd}2J");
    }
}
