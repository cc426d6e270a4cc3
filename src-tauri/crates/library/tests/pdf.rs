//! Real PDFs through the real reader process.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise_library::documents::{Document, DocumentError, DocumentKind, ReadProgress, Reader};
use support::{PageContent, nested, pdf, reader};
use tempfile::TempDir;

fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pdf");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read_path(path: &Path) -> Result<Document, DocumentError> {
    Reader { executable: reader() }.read(path, None, &mut |_| {}, &AtomicBool::new(false))
}

fn read(bytes: &[u8]) -> Result<Document, DocumentError> {
    let (_folder, path) = file(bytes);
    read_path(&path)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

const LINES: &[&str] =
    &["The harbor office opens at nine in the morning.", "Visitors must sign the ledger before they enter."];

#[test]
fn pages_come_in_order_with_their_numbers_and_progress() {
    let texts: Vec<String> = (1..=40).map(|n| format!("This is the text of page number {n} of the manual.")).collect();
    let lines: Vec<[&str; 1]> = texts.iter().map(|t| [t.as_str()]).collect();
    let pages: Vec<PageContent<'_>> = lines.iter().map(|l| PageContent::Lines(l)).collect();
    let (_folder, path) = file(&pdf(&pages));
    let mut seen = Vec::new();
    let reader = Reader { executable: reader() };
    let document =
        reader.read(&path, Some("docs/\"manual\".pdf"), &mut |p| seen.push(p), &AtomicBool::new(false)).unwrap();
    assert_eq!(document.kind, DocumentKind::Pdf);
    assert_eq!(document.name, "docs/'manual'.pdf");
    assert_eq!(document.pages.len(), 40);
    for (page, (number, text)) in document.pages.iter().zip((1..).zip(&texts)) {
        assert_eq!((page.number, page.text.as_str()), (number, text.as_str()));
    }
    assert_eq!(document.report.pages_total, 40);
    assert!(document.report.pages_without_text.is_empty() && document.report.notes.is_empty());
    assert_eq!(seen.first(), Some(&ReadProgress { pages_done: 0, pages_total: 40 }));
    assert_eq!(seen.last(), Some(&ReadProgress { pages_done: 40, pages_total: 40 }));
    assert!(seen.is_sorted_by_key(|p| p.pages_done));
    assert_eq!(
        document,
        reader.read(&path, Some("docs/\"manual\".pdf"), &mut |_| {}, &AtomicBool::new(false)).unwrap()
    );
}

#[test]
fn columns_are_read_one_after_the_other() {
    let left = [
        "The left column speaks of the river",
        "and of the boats that go down to",
        "the sea when the summer is over and",
        "the harvest has been brought home.",
    ];
    let right = [
        "The right column speaks of mountains",
        "and of the snow that stays on them",
        "until the spring has come again and",
        "the shepherds bring their flocks up.",
    ];
    let document = read(&pdf(&[PageContent::Columns(&left, &right)])).unwrap();
    let text = document.pages[0].text.replace('\n', " ");
    let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words}: {text}"));
    assert!(at("the river") < at("to the sea") && at("brought home") < at("of mountains"), "{text}");
}

#[test]
fn pages_without_text_and_failed_pages_are_reported() {
    let document = read(&pdf(&[
        PageContent::Lines(LINES),
        PageContent::Scan(""),
        PageContent::Blank,
        PageContent::Scan("17"),
        PageContent::Garbled,
        PageContent::Lines(LINES),
    ]))
    .unwrap();
    assert_eq!(document.pages.len(), 6);
    assert_eq!(document.report.pages_total, 6);
    assert_eq!(document.report.pages_without_text, [2, 3, 4]);
    let failed: Vec<u32> = document.report.pages_failed.iter().map(|(number, _)| *number).collect();
    assert_eq!(failed, [5], "{:?}", document.report);
    assert!(document.pages[5].text.contains("harbor office"));
}

#[test]
fn a_file_of_scans_only_has_no_text() {
    let error = read(&pdf(&[PageContent::Scan(""), PageContent::Scan("3"), PageContent::Blank])).unwrap_err();
    assert!(matches!(error, DocumentError::NoText { pages: 3, .. }), "{error}");
}

#[test]
fn broken_words_and_ligatures_are_repaired() {
    let document =
        read(&pdf(&[PageContent::Lines(&["A long line about the docu-", "mentation of the machine and its parts."])]))
            .unwrap();
    assert!(document.pages[0].text.contains("documentation of the machine"), "{}", document.pages[0].text);
}

#[test]
fn encrypted_files_are_told_from_damaged_ones() {
    let error = read_path(&fixture("needs-password.pdf")).unwrap_err();
    assert!(matches!(&error, DocumentError::Encrypted { name } if name == "needs-password.pdf"), "{error}");
    let document = read_path(&fixture("owner-password.pdf")).unwrap();
    assert!(document.pages[0].text.contains("harbor office"), "opens without a password, as viewers do");
}

#[test]
fn damaged_files_give_what_is_left_or_an_error() {
    let whole = pdf(&[PageContent::Lines(LINES), PageContent::Lines(&["The second page is here, too."])]);
    let garbage: Vec<u8> = b"%PDF-1.7\n".iter().copied().chain((0..5000_u32).map(|i| ((i * i) >> 3) as u8)).collect();
    for bytes in [&b"%PDF-1.7\n"[..], &garbage, &whole[..200]] {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, DocumentError::Damaged { .. }), "{error}");
    }
    // Cut behind the pages: the table of objects is gone, the objects are not.
    let cut = whole.len() - 60;
    match read(&whole[..cut]) {
        Ok(document) => {
            assert!(document.pages[0].text.contains("harbor office"));
            assert!(!document.report.notes.is_empty(), "the user is told");
        }
        Err(error) => assert!(matches!(error, DocumentError::Damaged { .. }), "{error}"),
    }
}

#[test]
fn a_file_that_overflows_the_parsers_stack_costs_only_itself() {
    let error = read(&nested(200_000)).unwrap_err();
    assert!(matches!(&error, DocumentError::GaveUp { .. } | DocumentError::Damaged { .. }), "{error}");
    assert!(read(&pdf(&[PageContent::Lines(LINES)])).is_ok());
}

#[test]
fn a_file_that_inflates_without_measure_is_given_up_at_the_memory_limit() {
    // 192 MiB out of 2 kB, read with 128 MiB: the real limit would only make this test slow.
    let output = run_reader(128 << 20, 30, &fixture("inflates.pdf"));
    assert!(!output.status.success());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("memory allocation of"), "{complaint}");
    let error = read_path(&fixture("inflates.pdf")).unwrap_err();
    assert!(matches!(error, DocumentError::NoText { .. } | DocumentError::Damaged { .. }), "within the limit: {error}");
}

#[test]
fn a_file_that_takes_too_long_is_ended_by_the_system() {
    let line = ["A page that takes a moment to read, many times over."; 40];
    let pages: Vec<PageContent<'_>> = (0..4000).map(|_| PageContent::Lines(&line)).collect();
    let (_folder, path) = file(&pdf(&pages));
    let output = run_reader(3 << 30, 1, &path);
    assert_eq!(output.status.signal(), Some(24), "SIGXCPU: {}", output.status);
}

#[test]
fn a_stricter_limit_of_the_users_own_stays_and_the_file_is_read() {
    let (_folder, path) = file(&pdf(&[PageContent::Lines(LINES)]));
    for stricter in ["ulimit -v 2000000", "ulimit -t 20"] {
        let output = Command::new("sh")
            .args(["-c", &format!("{stricter}; exec \"$0\" __read-pdf {} 30", 3_u64 << 30)])
            .arg(reader())
            .env("RAYON_NUM_THREADS", "2")
            .stdin(fs::File::open(&path).unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("harbor office"), "{stricter}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The reader process by itself, as the library starts it.
fn run_reader(memory_bytes: u64, seconds: u64, path: &Path) -> Output {
    Command::new(reader())
        .args(["__read-pdf", &memory_bytes.to_string(), &seconds.to_string()])
        .env("RAYON_NUM_THREADS", "2")
        .stdin(fs::File::open(path).unwrap())
        .output()
        .unwrap()
}

#[test]
fn no_bent_byte_brings_more_than_an_error() {
    let good = pdf(&[PageContent::Lines(LINES), PageContent::Scan("x"), PageContent::Lines(LINES)]);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for _ in 0..60 {
        let mut bent = good.clone();
        for _ in 0..=next(20) {
            let at = 8 + next(bent.len() - 8);
            bent[at] = next(256) as u8;
        }
        if let Ok(document) = read(&bent) {
            assert!(document.pages.iter().any(|p| !p.text.is_empty()));
        }
    }
}

#[test]
fn an_executable_that_is_no_reader_is_an_error() {
    let (_folder, path) = file(&pdf(&[PageContent::Lines(LINES)]));
    let read_with = |executable: &str| {
        Reader { executable: executable.into() }.read(&path, None, &mut |_| {}, &AtomicBool::new(false)).unwrap_err()
    };
    assert!(matches!(read_with("/nonexistent/reader"), DocumentError::Io { .. }));
    assert!(matches!(read_with("/bin/false"), DocumentError::GaveUp { .. }));
    assert!(matches!(read_with("/bin/cat"), DocumentError::GaveUp { .. }));
    assert!(matches!(read_with("/bin/echo"), DocumentError::GaveUp { .. }));
}

#[test]
fn the_content_decides_what_a_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let good = pdf(&[PageContent::Lines(LINES)]);
    assert_eq!(read_path(&at("no-ending", &good)).unwrap().kind, DocumentKind::Pdf);
    let mut with_junk = b"\x00junk of a mail program\n".to_vec();
    with_junk.extend_from_slice(&good);
    assert_eq!(read_path(&at("junk", &with_junk)).unwrap().kind, DocumentKind::Pdf);
    let about = "A PDF begins with %PDF-1.7, says this text.\n";
    let document = read_path(&at("about.txt", about.as_bytes())).unwrap();
    assert_eq!((document.kind, document.pages[0].text.as_str()), (DocumentKind::Text, about));
    assert_eq!(read_path(&at("main.rs", b"fn main() {}\n")).unwrap().kind, DocumentKind::Code);
    assert!(matches!(read_path(&at("x.bin", b"\x7fELF\0\0\0")), Err(DocumentError::NotText { .. })));
    assert!(matches!(read_path(folder.path()), Err(DocumentError::Io { .. })));
    assert!(matches!(read_path(&folder.path().join("missing")), Err(DocumentError::Io { .. })));
    assert!(matches!(read_path(Path::new("/dev/zero")), Err(DocumentError::NotText { .. })));
}

#[test]
fn a_text_with_a_secret_is_read_and_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, format!("key={}{}\n", "AKIA", "Q3EGRIJ5KL2MN7OP")).unwrap();
    let notes = read_path(&path).unwrap().report.notes;
    assert_eq!(notes, ["may hold secrets: it contains what looks like an AWS access key"]);
    fs::write(&path, "key=none\n").unwrap();
    assert!(read_path(&path).unwrap().report.notes.is_empty());
}

#[test]
fn stop_ends_the_reading_of_a_long_text_in_every_phase() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.log");
    fs::write(&path, "Some words of a long log file, line after line.\n".repeat(1_300_000)).unwrap();
    for after in [0, 150, 450, 900] {
        let cancel = AtomicBool::new(false);
        let (outcome, took) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let outcome = Reader { executable: reader() }.read(&path, None, &mut |_| {}, &cancel);
                (outcome, Instant::now())
            });
            std::thread::sleep(Duration::from_millis(after));
            cancel.store(true, Ordering::Relaxed);
            let stopped = Instant::now();
            let (outcome, ended) = reading.join().unwrap();
            (outcome, ended.saturating_duration_since(stopped))
        });
        // A machine fast enough has read it by then.
        assert!(outcome.is_ok() && took.is_zero() || matches!(outcome, Err(DocumentError::Cancelled)), "{after}");
        assert!(took < Duration::from_millis(250), "{after}: {took:?}");
    }
}

#[test]
fn files_over_the_limits_are_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = |name: &str, head: &[u8], bytes: u64| {
        let path = folder.path().join(name);
        fs::write(&path, head).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        path
    };
    let start = Instant::now();
    for path in [sparse("big.txt", b"text", (64 << 20) + 1), sparse("big.pdf", b"%PDF-1.7", (512 << 20) + 1)] {
        let error = read_path(&path).unwrap_err();
        assert!(matches!(error, DocumentError::TooLarge { .. }), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}
