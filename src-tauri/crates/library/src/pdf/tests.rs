use super::*;

const LIMITS: Limits = Limits { memory_bytes: 3 << 30, seconds: 30 };

fn page(number: u32, text: &str) -> Event {
    Event::Page { number, text: text.to_owned(), without_text: text.is_empty() }
}

#[test]
fn the_time_limit_grows_with_the_file_and_ends() {
    assert_eq!(Limits::for_file(1000).seconds, 30);
    assert_eq!(Limits::for_file(10 << 20).seconds, 230);
    assert_eq!(Limits::for_file(u64::MAX).seconds, 3600);
}

#[test]
fn the_end_of_a_reader_is_told_in_words() {
    let told = |raw: i32, complaint: &str| describe_end(ExitStatus::from_raw(raw), complaint, LIMITS);
    assert_eq!(told(6, "\nthread 'main' has overflowed its stack\nfatal"), "it is nested too deeply");
    assert_eq!(told(6, "memory allocation of 99 bytes failed"), "it needs more than 3072 MiB of memory");
    assert_eq!(told(24, ""), "it took more than 30 s of computing");
    assert_eq!(told(9, ""), "the reader was ended by signal 9");
    assert_eq!(told(101 << 8, "thread 'main' panicked at x\n"), "the reader failed: thread 'main' panicked at x");
    assert_eq!(told(2 << 8, ""), "the reader ended with code 2");
}

#[test]
fn answers_out_of_order_are_refused() {
    let start = || Event::Start { pages: 3 };
    for events in [
        vec![page(1, "a")],
        vec![start(), start()],
        vec![start(), page(2, "b"), page(1, "a")],
        vec![start(), page(0, "a")],
        vec![Event::Start { pages: MAX_PAGES + 1 }],
        vec![Event::End { notes: Vec::new() }],
    ] {
        let mut reading = Reading::default();
        let taken: Result<Vec<_>, _> = events.into_iter().map(|e| reading.take(e, "x")).collect();
        assert!(matches!(taken, Err(DocumentError::GaveUp { .. })));
    }
}

#[test]
fn raw_codes_of_old_fonts_do_not_reach_the_text() {
    let mut reading = Reading::default();
    for event in [Event::Start { pages: 1 }, page(1, "a\x0cb\r\nc\0\td")] {
        assert!(reading.take(event, "x").unwrap().is_none());
    }
    let done = reading.take(Event::End { notes: Vec::new() }, "x").unwrap().unwrap();
    assert_eq!(done.finish("x").unwrap().0[0].text, "ab\nc\td");
}

#[test]
fn a_line_without_end_is_an_error_not_a_memory_hog() {
    let (sender, receiver) = sync_channel(4);
    let endless = std::io::repeat(b'x').take(MAX_LINE_BYTES as u64 + 10);
    pass_lines(endless, &sender);
    assert!(receiver.recv().unwrap().is_err());
    // Cut off in the middle: silence, so that the end of the process is what is told.
    pass_lines(&b"{\"event\":\"st"[..], &sender);
    drop(sender);
    assert!(receiver.recv().is_err());
}
