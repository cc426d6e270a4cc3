//! The reader process: limits on itself first, then the parser, then lines on standard output.
//!
//! The file comes as standard input, so that the process opens nothing by name.

use std::io::Write;
use std::ops::ControlFlow;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use unpdf::{ErrorKind, PageStreamOptions, ParseEvent, ParseOptions, PdfParser};

use super::wire::{Event, Failure, MAX_PAGE_BYTES, MAX_PAGES, MAX_TEXT_BYTES};
use super::{Limits, reflow};

/// A page counts as scanned when images cover more of it than this and it has fewer letters than [`FEW_CHARS`].
const SCAN_COVERAGE: f32 = 0.5;

/// A stamp or a page number over a scan has fewer characters than this.
const FEW_CHARS: usize = 20;

/// Reads the PDF on standard input under `limits`; the exit code of the process.
pub(super) fn serve(limits: Limits) -> i32 {
    if let Err(error) = confine(limits) {
        eprintln!("limits refused: {error}");
        return 2;
    }
    let mut out = std::io::stdout().lock();
    match read(&mut out) {
        Ok(()) => 0,
        Err(Stop::Parser(error)) => {
            let failure = match error.kind() {
                ErrorKind::Encrypted | ErrorKind::InvalidPassword => Failure::Encrypted,
                _ => Failure::Damaged,
            };
            let told = send(&mut out, &Event::Failed { failure, why: error.to_string() });
            i32::from(told.is_err())
        }
        // Nobody listens any more.
        Err(Stop::Output) => 1,
    }
}

/// No more memory and time than given, no core files, no written files, and no life without the parent.
fn confine(limits: Limits) -> rustix::io::Result<()> {
    limit(Resource::As, limits.memory_bytes, limits.memory_bytes)?;
    // One second between the signal that can be caught and the one that cannot.
    limit(Resource::Cpu, limits.seconds, limits.seconds + 1)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    #[cfg(target_os = "linux")]
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Limits a resource; a stricter limit that the process came with stays, as only the superuser may raise it.
fn limit(resource: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    setrlimit(resource, Rlimit { current: Some(current.min(most)), maximum: Some(maximum.min(most)) })
}

enum Stop {
    Parser(unpdf::Error),
    Output,
}

impl From<unpdf::Error> for Stop {
    fn from(error: unpdf::Error) -> Self {
        Self::Parser(error)
    }
}

fn read(out: &mut impl Write) -> Result<(), Stop> {
    let options = ParseOptions::new().lenient();
    let parser = PdfParser::from_reader_with_options(std::io::stdin().lock(), options.clone())?;
    if parser.page_count() > MAX_PAGES {
        let why = format!("{} pages; at most {MAX_PAGES} are read", parser.page_count());
        return Err(unpdf::Error::Corrupted(why).into());
    }
    let mut connected = true;
    let mut text_bytes = 0;
    let quality = parser.for_each_page(PageStreamOptions::from(&options), |event| {
        let line = match event {
            ParseEvent::DocumentStart { page_count, .. } => Event::Start { pages: page_count },
            ParseEvent::PageParsed(page) => page_event(&page, &mut text_bytes),
            ParseEvent::PageFailed { page, error } => Event::PageFailed { number: page, why: error.to_string() },
            ParseEvent::Progress { .. } | ParseEvent::DocumentEnd { .. } => return ControlFlow::Continue(()),
        };
        connected = send(out, &line).is_ok();
        if connected { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if !connected {
        return Err(Stop::Output);
    }
    send(out, &Event::End { notes: notes(&quality, parser.page_count()) }).map_err(|_| Stop::Output)
}

fn page_event(page: &unpdf::Page, text_bytes: &mut usize) -> Event {
    let number = page.number;
    let text = reflow::repair(&page.plain_text());
    *text_bytes += text.len();
    if text.len() > MAX_PAGE_BYTES || *text_bytes > MAX_TEXT_BYTES {
        return Event::PageFailed { number, why: "more text than a page or a file may have".into() };
    }
    let letters = text.chars().filter(|c| !c.is_whitespace()).count();
    if letters == 0 {
        if page.undecodable_content_streams > 0 {
            return Event::PageFailed { number, why: "its content could not be decoded".into() };
        }
        if page.suppressed_text_runs > 0 {
            return Event::PageFailed { number, why: "its fonts do not say which characters they show".into() };
        }
    }
    let drawn = (page.painted_text_chars + page.invisible_text_chars) as usize;
    let scanned = page.image_coverage > SCAN_COVERAGE && drawn.max(letters) < FEW_CHARS;
    Event::Page { number, text, without_text: letters == 0 || scanned }
}

/// What the user should know about the file as a whole.
fn notes(quality: &unpdf::ExtractionQuality, pages: u32) -> Vec<String> {
    let mut notes = Vec::new();
    if quality.xref_reconstructed {
        notes.push("the file is damaged; what could be found in it was read".to_owned());
    }
    match quality.declared_page_count {
        Some(declared) if quality.pages_incomplete && declared > pages => {
            notes.push(format!("the file says it has {declared} pages; {pages} could be found"));
        }
        _ if quality.pages_incomplete => notes.push("some pages could not be found".to_owned()),
        _ => {}
    }
    if quality.suppressed_text_runs > 0 {
        notes.push(format!("pieces of text in fonts that cannot be read: {}", quality.suppressed_text_runs));
    }
    if quality.undecodable_content_streams > 0 {
        notes.push(format!("pieces of page content that cannot be decoded: {}", quality.undecodable_content_streams));
    }
    if quality.suppressed_ocr_pages > 0 {
        notes
            .push(format!("pages whose scanned text is unreadable and was left out: {}", quality.suppressed_ocr_pages));
    }
    notes
}

/// One line, flushed: the parent shows pages as they come.
fn send(out: &mut impl Write, event: &Event) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}
