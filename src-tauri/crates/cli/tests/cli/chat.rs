//! One question: the JSON stream, its order and its figures.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use reprise_engine::text::TextModel;
use reprise_engine::weights::GgufFile;
use reprise_engine::{Message, Role};
use reprise_library::documents::{Document, DocumentKind, Page, ReadReport};
use reprise_library::prompt::first_message;
use serde_json::Value;

use crate::run::{demo_model, events, json_lines, number, reprise, run, stderr, stdout, succeeded, text_of};

/// The contract of `done`.
const DONE_FIELDS: [&str; 17] = [
    "model",
    "device",
    "attention",
    "prompt_tokens",
    "cached_tokens",
    "prefill_s",
    "ttft_s",
    "decode_tokens",
    "decode_s",
    "stop",
    "head_hit_rate",
    "group_hit_rate",
    "kv_bytes_read",
    "ring_bytes",
    "kv_bytes_exact",
    "exact_fallback_steps",
    "audit",
];

/// About 700 tokens without meaning, all lines different.
fn filler() -> String {
    text_of(40, |i| format!("Line {i} of the ledger says that crate {} holds {} lamps.", i * 7 % 41, i * 13 % 97))
}

/// Tokens of a first message, counted without the binary.
fn prompt_tokens(content: String) -> usize {
    let file = GgufFile::open(&demo_model()).unwrap();
    let text = TextModel::from_gguf(&file).unwrap();
    text.prepare(&[Message { role: Role::User, content }], false).unwrap().ids.len()
}

/// Checks the order of events and returns `done`.
#[track_caller]
fn checked_stream(lines: &[Value]) -> &Value {
    let kinds: Vec<&str> = lines.iter().map(|l| l["event"].as_str().expect("an event name")).collect();
    let first_token = kinds.iter().position(|k| *k == "token").expect("at least one token");
    assert!(first_token > 0, "reading is reported before writing");
    assert!(kinds[..first_token].iter().all(|k| *k == "prefill"), "{kinds:?}");
    assert!(kinds[first_token..kinds.len() - 1].iter().all(|k| *k == "token"), "{kinds:?}");
    let done = lines.last().expect("a last line");
    assert_eq!(done["event"], "done");
    for field in DONE_FIELDS {
        assert!(done.get(field).is_some(), "{field} is missing in {done}");
    }
    let reading = &lines[first_token - 1];
    assert_eq!(reading["done"], reading["total"], "the last progress is all of it");
    assert_eq!(reading["total"], done["prompt_tokens"]);
    for (i, token) in lines[first_token..lines.len() - 1].iter().enumerate() {
        assert_eq!(number(token, "index") as usize, i);
    }
    done
}

#[test]
fn reuse_reports_every_figure_and_audits_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.txt");
    std::fs::write(&path, filler()).unwrap();
    let args = ["chat", "--attach", path.to_str().unwrap(), "--json", "--context", "4K", "--min-context", "256"];
    let question = "Summarize the document in 5 points.";
    let output = run(&[&args[..], &["--max-tokens", "48", "--temperature", "1", "--seed", "7", question]].concat());
    succeeded(&output);
    let lines = json_lines(&output);
    let done = checked_stream(&lines);

    let page = Page { number: 1, text: filler() };
    let document = Document::new("ledger.txt".to_owned(), DocumentKind::Text, vec![page], ReadReport::default());
    let (content, _) = first_message(&[&document], question);
    assert_eq!(number(done, "prompt_tokens") as usize, prompt_tokens(content));
    assert_eq!(number(done, "cached_tokens"), 0.0);
    assert_eq!(done["attention"], "mac");

    let tokens = events(&lines, "token");
    assert_eq!(number(done, "decode_tokens") as usize, tokens.len());
    let steps: Vec<&Value> = tokens.iter().map(|t| &t["step"]).filter(|s| !s.is_null()).collect();
    assert!(steps.len() + 1 >= tokens.len() && !steps.is_empty());
    // The totals are the sums of the steps, in every counter.
    for (total, step) in
        [("kv_bytes_read", "kv_bytes_read"), ("ring_bytes", "ring_bytes"), ("kv_bytes_exact", "kv_bytes_exact")]
    {
        let sum: f64 = steps.iter().map(|s| number(s, step)).sum();
        assert_eq!(number(done, total), sum, "{total}");
    }
    assert!(number(done, "kv_bytes_exact") > 0.0 && number(done, "ring_bytes") > 0.0);
    assert_eq!(number(done, "exact_fallback_steps"), 0.0, "the context is above --min-context");
    for rate in ["head_hit_rate", "group_hit_rate"] {
        assert!((0.0..=1.0).contains(&number(done, rate)), "{rate}");
    }
    assert!(number(done, "group_hit_rate") <= number(done, "head_hit_rate"));
    let (prefill, ttft) = (number(done, "prefill_s"), number(done, "ttft_s"));
    assert!(prefill > 0.0 && ttft >= prefill && number(done, "decode_s") > 0.0);

    let audit = &done["audit"];
    assert!(number(audit, "samples") >= 1.0, "audits are on");
    let (mean, max) = (number(audit, "mean_relative_error"), number(audit, "max_relative_error"));
    assert!((0.0..=max).contains(&mean) && max.is_finite());
    let said = stderr(&output);
    assert!(said.contains("wrote ") && said.contains("tokens/s"), "{said}");
}

#[test]
fn exact_attention_reads_everything_and_needs_no_audit() {
    let output = run(&["chat", "--json", "--attention", "exact", "--context", "2K", "--max-tokens", "24", "Hello"]);
    succeeded(&output);
    let lines = json_lines(&output);
    let done = checked_stream(&lines);
    assert_eq!(done["attention"], "exact");
    assert_eq!(done["audit"], Value::Null);
    assert_eq!(done["ring_bytes"], 0);
    assert_eq!(done["kv_bytes_read"], done["kv_bytes_exact"]);
    assert_eq!(number(done, "prompt_tokens") as usize, prompt_tokens("Hello".to_owned()));
}

#[test]
fn the_answer_is_the_text_of_its_tokens_and_the_same_every_time() {
    let args = ["chat", "--context", "2K", "--max-tokens", "24", "--attention", "exact", "Who are you?"];
    let plain = run(&args);
    succeeded(&plain);
    let streamed = run(&[&args[..7], &["--json", args[7]]].concat());
    succeeded(&streamed);
    let text: String = json_lines(&streamed).iter().filter_map(|l| l["text"].as_str().map(str::to_owned)).collect();
    assert!(!text.is_empty());
    assert_eq!(stdout(&plain), text + "\n");
}

#[test]
fn below_the_shortest_context_the_fallback_is_said() {
    let output = run(&["chat", "--context", "2K", "--max-tokens", "8", "Hello"]);
    succeeded(&output);
    assert!(stderr(&output).contains("reuse begins at 2,048 tokens"), "{}", stderr(&output));
}

#[test]
fn a_folder_is_attached_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("src/lib.rs"), "pub fn lamp() -> u32 { 7 }\n").unwrap();
    std::fs::write(folder.path().join("notes.md"), "# Notes\n\nNothing.\n").unwrap();
    std::fs::write(folder.path().join(".env"), "API_KEY=very-secret-value\n").unwrap();
    let path = folder.path().to_str().unwrap();
    let output = run(&["chat", "--json", "--attach", path, "--context", "2K", "--max-tokens", "4", "What is here?"]);
    succeeded(&output);
    assert!(stderr(&output).contains(".env"), "what was left out is said: {}", stderr(&output));
    let lines = json_lines(&output);
    let done = checked_stream(&lines);
    let of_code = |name: &str, kind, text: &str| {
        let page = Page { number: 1, text: text.to_owned() };
        Document::new(name.to_owned(), kind, vec![page], ReadReport::default())
    };
    let documents = [
        of_code("notes.md", DocumentKind::Text, "# Notes\n\nNothing.\n"),
        of_code("src/lib.rs", DocumentKind::Code, "pub fn lamp() -> u32 { 7 }\n"),
    ];
    let (content, _) = first_message(&documents.iter().collect::<Vec<_>>(), "What is here?");
    assert_eq!(number(done, "prompt_tokens") as usize, prompt_tokens(content), "two files and not the secret one");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child =
        reprise(&["chat", "--json", "--context", "2K", "--temperature", "5", "--max-tokens", "2000", "Hello"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    succeeded(&output);
    assert!(!stderr(&output).contains("reprise:") && !stderr(&output).contains("panicked"), "{}", stderr(&output));
}
