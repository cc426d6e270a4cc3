//! Bad input: what is said, and the exit code.

use std::fs;

use crate::run::{demo_model, events, json_lines, run, stderr, stdout, text_of};

/// Exit code and that nothing panicked.
#[track_caller]
fn fails_with(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
}

#[test]
fn wrong_use_is_two() {
    fails_with(&[], 2, &["Usage"]);
    fails_with(&["sing"], 2, &["sing"]);
    fails_with(&["chat", "--context", "0", "Hello"], 2, &["--context"]);
    fails_with(&["chat", "--temperature", "NaN", "Hello"], 2, &["--temperature"]);
    fails_with(&["chat", "--attention", "exact", "--threshold", "0.5", "Hello"], 2, &["--attention mac"]);
    fails_with(&["chat", "  "], 2, &["empty"]);
    fails_with(&["bench", "attention", "--shape", "32/8/80"], 2, &["64, 96, 128"]);
    fails_with(&["bench", "attention", "--context", "256"], 2, &["longer than"]);
}

#[test]
fn numbers_beyond_all_sense_are_wrong_use_and_no_crash() {
    let most = usize::MAX.to_string();
    for args in [
        &["bench", "attention", "--lag"][..],
        &["bench", "attention", "--rounds"],
        &["bench", "attention", "--context"],
        &["bench", "attention", "--backoff"],
        &["bench", "attention", "--threads"],
        &["bench", "decode", "--shape", "demo", "--context"],
        &["bench", "decode", "--shape", "demo", "--tokens"],
        &["bench", "prefill", "--shape", "demo", "--tokens"],
        &["bench", "compare-llama", "--context"],
        &["bench", "compare-llama", "--tokens"],
        &["chat", "Hello", "--context"],
        &["doctor", "--threads"],
    ] {
        let flag = args[args.len() - 1];
        fails_with(&[args, &[&most]].concat(), 2, &[flag]);
    }
    // As many threads as a limit on processes would refuse; the program would be aborted.
    fails_with(&["chat", "--threads", "100000", "Hello"], 2, &["--threads", "1024"]);
    // The ring has no older query, so another distance than this one would be timed.
    fails_with(&["bench", "attention", "--lag", "600"], 2, &["--lag", "512"]);
    let wide = format!("{most}/{most}/128");
    fails_with(&["bench", "attention", "--shape", &wide], 2, &["query heads"]);
}

#[test]
fn help_and_version_are_not_failures() {
    for args in [&["--help"][..], &["--version"], &["chat", "--help"], &["bench", "attention", "--help"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("reprise"), "{args:?}");
    }
}

#[test]
fn missing_things_are_named() {
    fails_with(&["chat", "--attach", "no/such/file.pdf", "Hello"], 1, &["no/such/file.pdf"]);
    fails_with(&["chat", "--model", "no/such/model.gguf", "Hello"], 1, &["no/such/model.gguf", "reprise models list"]);
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let pdf = folder.path().join("cut.pdf");
    fs::write(&pdf, b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Type /Pages /Ki")
        .unwrap();
    fails_with(&["chat", "--attach", pdf.to_str().unwrap(), "Hello"], 1, &["cut.pdf"]);

    let whole = fs::read(demo_model()).unwrap();
    for keep in [2, 100, whole.len() / 2] {
        let gguf = folder.path().join("cut.gguf");
        fs::write(&gguf, &whole[..keep]).unwrap();
        fails_with(&["chat", "--model", gguf.to_str().unwrap(), "Hello"], 1, &["cut.gguf", "incomplete"]);
    }
    let noise = folder.path().join("noise.gguf");
    fs::write(&noise, [0xa5; 4096]).unwrap();
    fails_with(&["chat", "--model", noise.to_str().unwrap(), "Hello"], 1, &["noise.gguf"]);
}

#[test]
fn an_empty_folder_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fails_with(&["chat", "--attach", folder.path().to_str().unwrap(), "Hello"], 1, &["no text"]);
}

#[test]
fn a_document_longer_than_the_context_names_the_ways_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    let long = text_of(300, |i| format!("Entry {i}: {} boxes.", i * 17 % 301));
    fs::write(&path, long).unwrap();
    let output = run(&["chat", "--json", "--context", "1K", "--attach", path.to_str().unwrap(), "What is in entry 7?"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for word in ["context holds 1,024", "nothing was cut", "--context ", "fewer documents", "131,072"] {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
    let lines = json_lines(&output);
    assert_eq!(events(&lines, "error").len(), 1);
    assert!(events(&lines, "token").is_empty());
}

#[test]
fn a_gpu_is_never_replaced_in_silence() {
    if matches!(mac_attention::probe_cuda(), mac_attention::CudaProbe::Found { .. }) {
        return; // Then it is used; `tests/cuda` of the kernels and the doctor say whether it computes right.
    }
    fails_with(&["bench", "attention", "--device", "cuda"], 1, &["NVIDIA", "--device cpu"]);
}

#[test]
fn a_cache_that_the_processor_has_not_is_never_replaced_in_silence() {
    for kv in ["q8_0", "fp8"] {
        let wanted = ["NVIDIA GPU", "--kv bf16", kv];
        fails_with(&["chat", "--device", "cpu", "--kv", kv, "Hello"], 1, &wanted);
        fails_with(&["bench", "attention", "--kv", kv], 1, &wanted);
        fails_with(&["bench", "decode", "--shape", "demo", "--kv", kv], 1, &wanted);
    }
    if matches!(mac_attention::probe_cuda(), mac_attention::CudaProbe::Found { .. }) {
        return;
    }
    // Where `auto` comes to the processor, the answer is given over bf16, and that is said.
    let output = run(&["chat", "--json", "--kv", "q8_0", "--max-tokens", "2", "Hello"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stderr(&output).contains("the KV cache is bf16, as q8_0 needs a GPU"), "{}", stderr(&output));
    assert_eq!(events(&json_lines(&output), "done")[0]["kv"], "bf16");
}

#[test]
fn a_pdf_is_read_whole_and_a_cut_one_is_refused() {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../assets/sample/reprise-handbook.pdf");
    // Too long for this context on purpose: the count proves that the pages were read, and no answer is waited for.
    let output = run(&["chat", "--context", "1K", "--attach", whole.to_str().unwrap(), "Hello"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("context holds 1,024"), "{}", stderr(&output));

    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.pdf");
    let bytes = fs::read(&whole).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 3]).unwrap();
    fails_with(&["chat", "--attach", cut.to_str().unwrap(), "Hello"], 1, &["cut.pdf"]);
}
