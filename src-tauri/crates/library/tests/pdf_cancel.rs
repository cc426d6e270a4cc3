//! Stop in the middle of a PDF. Alone in its program, so that every child it counts is its own.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[expect(dead_code, reason = "one kind of page is enough here")]
mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise_library::documents::{DocumentError, Reader};
use support::{PageContent, nested, pdf, reader};

#[test]
fn cancel_kills_the_reader_at_once() {
    let line = ["A page that takes a moment to read, many times over."; 40];
    let pages: Vec<PageContent<'_>> = (0..2000).map(|_| PageContent::Lines(&line)).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.pdf");
    fs::write(&path, pdf(&pages)).unwrap();
    let cancel = AtomicBool::new(false);
    let mut cancelled_at = None;
    let error = Reader { executable: reader() }
        .read(
            &path,
            None,
            &mut |p| {
                if p.pages_done == 3 {
                    cancel.store(true, Ordering::Relaxed);
                    cancelled_at = Some(Instant::now());
                }
            },
            &cancel,
        )
        .unwrap_err();
    assert!(matches!(error, DocumentError::Cancelled), "{error}");
    let took = cancelled_at.unwrap().elapsed();
    assert!(took < Duration::from_millis(250), "{took:?}");
    assert_eq!(children(), 0, "no process is left, not even a dead one");

    // Nor after one that crashed.
    fs::write(&path, nested(200_000)).unwrap();
    let crashed = Reader { executable: reader() }.read(&path, None, &mut |_| {}, &AtomicBool::new(false));
    assert!(crashed.is_err());
    assert_eq!(children(), 0);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "no file is left beside the PDF: {left:?}");
}

/// Children of this process, zombies included.
fn children() -> usize {
    let own = std::process::id().to_string();
    let is_ours = |stat: &str| {
        // The name in brackets may hold blanks; state and parent follow it.
        stat.rsplit_once(')').is_some_and(|(_, tail)| tail.split_whitespace().nth(1) == Some(own.as_str()))
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| is_ours(stat))
        .count()
}
