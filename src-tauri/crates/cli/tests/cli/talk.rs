//! Conversations through a pipe, and Ctrl-C.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::run::{events, json_lines, number, reprise, run_with_input, stderr, succeeded, text_of};

/// Stop must work within this time in every phase.
const STOP_WITHIN: Duration = Duration::from_millis(250);

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

/// Reads events until one of this kind.
fn read_until(reader: &mut BufReader<ChildStdout>, kind: &str) -> Vec<Value> {
    let mut seen = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the stream ended before {kind}: {seen:?}");
        let event: Value = serde_json::from_str(&line).unwrap();
        let found = event["event"] == kind;
        seen.push(event);
        if found {
            return seen;
        }
    }
}

#[test]
fn a_second_turn_reads_only_what_is_new() {
    let input = "/help\nHello\n/attention exact\nWho are you?\n/stats\n/quit\nnever asked\n";
    let output = run_with_input(&["chat", "--json", "--context", "2K", "--max-tokens", "16"], input);
    succeeded(&output);
    let lines = json_lines(&output);
    let done = events(&lines, "done");
    assert_eq!(done.len(), 2, "two questions before /quit");
    assert_eq!(number(done[0], "cached_tokens"), 0.0);
    // The whole first prompt at least is still in the KV cache.
    assert!(number(done[1], "cached_tokens") >= number(done[0], "prompt_tokens"), "{done:?}");
    assert!(number(done[1], "cached_tokens") < number(done[1], "prompt_tokens"));
    assert_eq!((&done[0]["attention"], &done[1]["attention"]), (&"mac".into(), &"exact".into()));
    let said = stderr(&output);
    assert!(said.contains("/attach PATH") && said.contains("writing"), "help and statistics: {said}");
}

#[test]
fn a_document_can_join_later_and_wrong_lines_do_not_end_the_chat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.txt");
    std::fs::write(&path, "The access code is 4711.\n").unwrap();
    let input = format!("/attach {}\n/attach missing.txt\n/nonsense\nWhat is the access code?\n", path.display());
    let output = run_with_input(&["chat", "--json", "--context", "2K", "--max-tokens", "8"], &input);
    // The two wrong lines decide the exit code, as in a script; the question was answered all the same.
    assert_ne!(output.status.code(), Some(0));
    let lines = json_lines(&output);
    assert_eq!(events(&lines, "done").len(), 1);
    assert_eq!(events(&lines, "error").len(), 2);
    let said = stderr(&output);
    assert!(
        said.contains("attached a b.txt: ") && said.contains("missing.txt") && said.contains("/nonsense"),
        "{said}"
    );
}

#[test]
fn interrupting_an_answer_keeps_its_text() {
    // So hot that the end of the turn is as likely as any other of the 8,192 tokens.
    let mut child =
        reprise(&["chat", "--json", "--context", "8K", "--max-tokens", "6000", "--temperature", "9", "Hello"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut lines = read_until(&mut reader, "token");
    lines.extend(read_until(&mut reader, "token"));
    interrupt(&child);
    let pressed = Instant::now();
    lines.extend(read_until(&mut reader, "done"));
    let took = pressed.elapsed();
    assert!(took < STOP_WITHIN, "stopping took {took:?}");
    let done = lines.last().unwrap();
    assert_eq!(done["stop"], "user");
    assert_eq!(number(done, "decode_tokens") as usize, events(&lines, "token").len(), "what was written is kept");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn interrupting_the_reading_stops_it_and_a_second_time_quits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    let long = text_of(4000, |i| format!("Entry {i}: {} boxes of {} screws.", i * 17 % 4001, i * 31 % 997));
    std::fs::write(&path, long).unwrap();
    let start = || {
        reprise(&["chat", "--json", "--attach", path.to_str().unwrap(), "Summarize the document in 5 points."])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut child = start();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    read_until(&mut reader, "prefill");
    // Into the middle of a chunk.
    std::thread::sleep(Duration::from_millis(120));
    interrupt(&child);
    let pressed = Instant::now();
    let lines = read_until(&mut reader, "done");
    let took = pressed.elapsed();
    assert!(took < STOP_WITHIN, "stopping took {took:?}");
    assert_eq!(lines.last().unwrap()["stop"], "user");
    assert_eq!(child.wait().unwrap().code(), Some(130), "there is no answer");

    let mut child = start();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    read_until(&mut reader, "prefill");
    interrupt(&child);
    interrupt(&child);
    // Two signals in one instant may count as one; then it has stopped as usual.
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// A sound PDF of many pages without compression.
fn long_pdf(pages: usize) -> Vec<u8> {
    // Catalogue, tree and font, then content and page in turns, numbered from 1.
    let kids: Vec<String> = (0..pages).map(|page| format!("{} 0 R", 2 * page + 5)).collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Count {pages} /Kids [{}] >>", kids.join(" ")),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for page in 0..pages {
        let lines: Vec<String> =
            (0..60).map(|line| format!("(Line {line} of page {page} says something.) Tj T*")).collect();
        let content = format!("BT /F1 10 Tf 50 780 Td 12 TL {} ET", lines.join(" "));
        objects.push(format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()));
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {} 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
            2 * page + 4
        ));
    }
    let mut pdf = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    for (i, object) in objects.iter().enumerate() {
        places.push(format!("{:010} 00000 n \n", pdf.len()));
        pdf.extend(format!("{} 0 obj\n{object}\nendobj\n", i + 1).bytes());
    }
    let (start, size) = (pdf.len(), objects.len() + 1);
    let table = format!("xref\n0 {size}\n0000000000 65535 f \n{}", places.concat());
    pdf.extend(format!("{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF").bytes());
    pdf
}

#[test]
fn interrupting_a_pdf_says_so_and_blames_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.pdf");
    std::fs::write(&path, long_pdf(4000)).unwrap();
    // A group of its own, as a shell gives: Ctrl-C reaches all of it, the PDF reader too.
    let child = reprise(&["chat", "--attach", path.to_str().unwrap(), "Hello"])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let begun = Instant::now();
    while std::fs::read_to_string(&children).unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no reader was started");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "reprise: interrupted\n");
    assert_eq!(output.status.code(), Some(130));
}
