//! Standard output, and the status line on standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::Failure;

/// Writes and flushes, so that a reader sees each token when it is written.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
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
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A line on standard error that is rewritten in place; silent where standard error is not a terminal.
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
        Self { terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Shows `text` in place of what was shown before, unless that is too new to have been read.
    pub(crate) fn show(&mut self, text: &str) {
        if self.terminal && self.shown.is_none_or(|at| at.elapsed() >= REWRITE_AFTER) {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text}");
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
