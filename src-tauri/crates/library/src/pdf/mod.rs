//! PDF text in a child process: any parser can be aborted by a hostile file (deep nesting overflows its stack, a small
//! file inflates to gigabytes), so none runs in ours.
//!
//! The parent opens the file and gives it to the child as standard input. The child limits its own memory, CPU time and
//! file writing before it reads a byte, and answers in JSON lines: page count, pages in order, end. The parent
//! bounds every line, watches the clock and the cancel flag, kills, and always reaps.

mod child;
mod reflow;
mod wire;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::documents::{DocumentError, Page, ReadProgress, ReadReport};
use wire::{Event, Failure, MAX_LINE_BYTES, MAX_PAGES, MAX_TEXT_BYTES};

/// First argument that makes a binary of ours a reader process. Not for people, hence no dash-dash.
const ROLE: &str = "__read-pdf";

/// Address space of the reader. The worst of 927 files tried needed 604 MB; a program linked to a window's
/// libraries reserves several hundred MB more before it starts.
const MEMORY_BYTES: u64 = 3 << 30;

/// Time that any file gets, in seconds.
const BASE_SECONDS: u64 = 30;

/// Time for each MiB on top. Dense text is some 300 pages a MiB, and 170 pages take a second.
const SECONDS_PER_MIB: u64 = 20;

/// No file gets more.
const MAX_SECONDS: u64 = 3600;

/// Threads of the parser; each reserves address space for itself.
const THREADS: usize = 4;

/// Time between two looks at the cancel flag.
const CANCEL_EVERY: Duration = Duration::from_millis(50);

/// Of what the child says on standard error, the first bytes are kept.
const STDERR_BYTES: usize = 8 << 10;

/// Lines on their way; the child waits when the parent does not keep up.
const LINES_AHEAD: usize = 16;

/// What a reader process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    memory_bytes: u64,
    /// CPU and wall time.
    seconds: u64,
}

impl Limits {
    fn for_file(bytes: u64) -> Self {
        let seconds = BASE_SECONDS + SECONDS_PER_MIB * (bytes >> 20);
        Self { memory_bytes: MEMORY_BYTES, seconds: seconds.min(MAX_SECONDS) }
    }
}

/// An open PDF.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

/// First line of `main` in every binary that serves as a PDF reader: if the process was started as one, reads the PDF
/// on its standard input, prints JSON lines, and exits. Returns otherwise.
pub fn serve_if_asked() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(ROLE)) {
        return;
    }
    let mut number = || arguments.next().and_then(|a| a.to_str().and_then(|a| a.parse().ok()));
    let code = match (number(), number()) {
        (Some(memory_bytes), Some(seconds)) => child::serve(Limits { memory_bytes, seconds }),
        _ => 2,
    };
    std::process::exit(code);
}

/// Reads a PDF through `executable` as the child.
pub(crate) fn read(
    executable: &Path,
    source: Source<'_>,
    progress: &mut dyn FnMut(ReadProgress),
    cancel: &AtomicBool,
) -> Result<(Vec<Page>, ReadReport), DocumentError> {
    read_within(executable, Limits::for_file(source.bytes), source, progress, cancel)
}

fn read_within(
    executable: &Path,
    limits: Limits,
    source: Source<'_>,
    progress: &mut dyn FnMut(ReadProgress),
    cancel: &AtomicBool,
) -> Result<(Vec<Page>, ReadReport), DocumentError> {
    let name = source.name;
    let mut process = ReaderProcess::start(executable, limits, source.file)?;
    // The CPU limit stops a parser that spins; this stops one that sleeps. It leaves the other the first word.
    let deadline = Instant::now() + Duration::from_secs(limits.seconds + 5);
    let mut reading = Reading::default();
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(DocumentError::Cancelled);
        }
        if Instant::now() > deadline {
            let why = format!("it took longer than {} s", limits.seconds);
            return Err(DocumentError::GaveUp { name: name.to_owned(), why });
        }
        match process.events.recv_timeout(CANCEL_EVERY) {
            Ok(Ok(event)) => {
                if let Some(done) = reading.take(event, name)? {
                    return done.finish(name);
                }
                progress(reading.progress());
            }
            Ok(Err(why)) => return Err(DocumentError::GaveUp { name: name.to_owned(), why }),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = process.why_it_ended(limits);
                return Err(DocumentError::GaveUp { name: name.to_owned(), why });
            }
        }
    }
}

/// The running child with its two listeners. Dropped: killed, reaped, listeners joined.
struct ReaderProcess {
    child: Child,
    events: Receiver<Result<Event, String>>,
    lines: Option<JoinHandle<()>>,
    complaints: Option<JoinHandle<String>>,
}

impl ReaderProcess {
    fn start(executable: &Path, limits: Limits, file: File) -> Result<Self, DocumentError> {
        let failed = |source| DocumentError::Io { path: executable.to_owned(), source };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let mut child = Command::new(executable)
            .arg(ROLE)
            .arg(limits.memory_bytes.to_string())
            .arg(limits.seconds.to_string())
            .env("RAYON_NUM_THREADS", threads.to_string())
            // A backtrace of a parser's panic is of no use to the user and slow to make.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is the parent's to answer.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (sender, events) = sync_channel(LINES_AHEAD);
        let lines = child.stdout.take().map(|out| std::thread::spawn(move || pass_lines(out, &sender)));
        let complaints = child.stderr.take().map(|err| std::thread::spawn(move || keep_first(err)));
        Ok(Self { child, events, lines, complaints })
    }

    /// After standard output has closed: how the process ended, in words.
    fn why_it_ended(&mut self, limits: Limits) -> String {
        let status = self.child.wait();
        let complaint = self.complaints.take().and_then(|c| c.join().ok()).unwrap_or_default();
        match status {
            Ok(status) => describe_end(status, &complaint, limits),
            Err(error) => format!("the reader could not be waited for: {error}"),
        }
    }
}

impl Drop for ReaderProcess {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A listener that waits for room in the channel must be let go before it can be joined.
        let (_, closed) = sync_channel(1);
        drop(std::mem::replace(&mut self.events, closed));
        if let Some(lines) = self.lines.take() {
            let _ = lines.join();
        }
        if let Some(complaints) = self.complaints.take() {
            let _ = complaints.join();
        }
    }
}

fn describe_end(status: ExitStatus, complaint: &str, limits: Limits) -> String {
    const CPU_SIGNAL: i32 = 24; // SIGXCPU
    let first = complaint.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
    if complaint.contains("overflowed its stack") {
        return "it is nested too deeply".to_owned();
    }
    if complaint.contains("memory allocation of") {
        return format!("it needs more than {} MiB of memory", limits.memory_bytes >> 20);
    }
    match (status.signal(), status.code()) {
        (Some(CPU_SIGNAL), _) => format!("it took more than {} s of computing", limits.seconds),
        (Some(signal), _) => format!("the reader was ended by signal {signal}"),
        (None, Some(code)) if first.is_empty() => format!("the reader ended with code {code}"),
        (None, _) => format!("the reader failed: {first}"),
    }
}

/// Lines of the child as events, one message each; ends with the stream, an unsound line, or a closed channel.
fn pass_lines(out: impl Read, events: &SyncSender<Result<Event, String>>) {
    let mut out = BufReader::with_capacity(64 << 10, out);
    let mut line = Vec::new();
    loop {
        line.clear();
        let event = match out.by_ref().take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line) {
            Ok(0) => return,
            // A line cut short by the child's end says nothing; how it ended does.
            Ok(_) if line.last() != Some(&b'\n') && line.len() < MAX_LINE_BYTES => return,
            Ok(_) => serde_json::from_slice(&line).map_err(|e| format!("the reader's answer makes no sense: {e}")),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(format!("the reader's answer was lost: {error}")),
        };
        let last = event.is_err();
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// The first bytes of a stream; the rest is read and thrown away so that the writer never blocks.
fn keep_first(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    // A broken pipe here only shortens the message.
    let _ = stream.by_ref().take(STDERR_BYTES as u64).read_to_end(&mut kept);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

/// Pages as they come.
#[derive(Default)]
struct Reading {
    started: bool,
    pages: Vec<Page>,
    report: ReadReport,
    text_bytes: usize,
}

impl Reading {
    fn progress(&self) -> ReadProgress {
        ReadProgress { pages_done: self.pages.len() as u32, pages_total: self.report.pages_total }
    }

    /// Takes one event; hands itself back when it was the last. The child is not trusted to keep the order.
    fn take(&mut self, event: Event, name: &str) -> Result<Option<Self>, DocumentError> {
        let out_of_order =
            || DocumentError::GaveUp { name: name.to_owned(), why: "the reader's answer is out of order".to_owned() };
        match event {
            Event::Start { pages } if !self.started && pages <= MAX_PAGES => {
                self.started = true;
                self.report.pages_total = pages;
            }
            Event::Page { number, text, without_text } if self.expects(number) => {
                self.text_bytes += text.len();
                if self.text_bytes > MAX_TEXT_BYTES {
                    return Err(out_of_order());
                }
                if without_text {
                    self.report.pages_without_text.push(number);
                }
                self.pages.push(Page { number, text: without_controls(text) });
            }
            Event::PageFailed { number, why } if self.expects(number) => {
                self.report.pages_failed.push((number, why));
                self.pages.push(Page { number, text: String::new() });
            }
            Event::End { notes } if self.started => {
                self.report.notes = notes;
                return Ok(Some(std::mem::take(self)));
            }
            Event::Failed { failure: Failure::Encrypted, .. } => {
                return Err(DocumentError::Encrypted { name: name.to_owned() });
            }
            Event::Failed { failure: Failure::Damaged, why } => {
                return Err(DocumentError::Damaged { name: name.to_owned(), why });
            }
            _ => return Err(out_of_order()),
        }
        Ok(None)
    }

    fn expects(&self, number: u32) -> bool {
        self.started && number >= 1 && self.pages.last().is_none_or(|p| number > p.number) && number <= MAX_PAGES
    }

    fn finish(self, name: &str) -> Result<(Vec<Page>, ReadReport), DocumentError> {
        let name = name.to_owned();
        if self.pages.is_empty() {
            return Err(DocumentError::Damaged { name, why: "no page could be found".to_owned() });
        }
        let pages = self.pages.len() as u32;
        if self.report.pages_failed.len() as u32 == pages {
            let why = self.report.pages_failed.into_iter().next().map(|(_, why)| why).unwrap_or_default();
            return Err(DocumentError::Damaged { name, why: format!("no page could be read: {why}") });
        }
        // A scan may carry a stamp or page number and still has no text to ask about.
        if self.report.pages_without_text.len() + self.report.pages_failed.len() == self.pages.len() {
            return Err(DocumentError::NoText { name, pages });
        }
        Ok((self.pages, self.report))
    }
}

/// Old fonts without a map pass raw codes as text; they show as nothing and must not reach the prompt.
fn without_controls(mut text: String) -> String {
    if text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
        text = text.replace("\r\n", "\n").replace('\r', "\n");
        text.retain(|c| !c.is_control() || c == '\n' || c == '\t');
    }
    text
}

#[cfg(test)]
mod tests;
