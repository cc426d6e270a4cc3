//! Doctor and the benchmarks, small.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::run::{demo_model, json_lines, number, reprise, run, stdout, succeeded};

#[track_caller]
fn has_fields(row: &Value, fields: &[&str]) {
    let object = row.as_object().expect("an object");
    let names: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(names, fields, "{row}");
}

#[test]
fn the_doctor_finds_the_kernels_right() {
    // A folder whose name is no UTF-8 costs nobody the report.
    let cache = OsStr::from_bytes(b"/no/such/\xff");
    let output = reprise(&["doctor", "--json"]).env("HF_HUB_CACHE", cache).output().unwrap();
    succeeded(&output);
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 1);
    let report = &lines[0];
    assert_eq!(report["pass"], true);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 6, "several shapes and policies: {checks:?}");
    for check in checks {
        let (error, bound) = (number(check, "worst_relative_error"), number(check, "bound"));
        assert!(error.is_finite() && error <= bound, "{check}");
    }
    assert!(number(report, "read_bandwidth") > 1e8);
    assert!(report["demo_model"].as_str().unwrap().ends_with("demo-q8_0.gguf"));
    assert!(number(&report["host"], "memory_bytes") > number(&report["host"], "memory_free_bytes"));
    assert!(!report["gpu"]["words"].as_str().unwrap().is_empty());
    assert_eq!(report["model_cache"], "/no/such/\u{fffd}");
}

#[test]
fn attention_prints_one_row_a_case_and_nothing_else() {
    let cases = "exact,all_hit,hit_0.5,no_hit";
    let args =
        ["bench", "attention", "--shape", "demo", "--context", "1K,2K", "--case", cases, "--rounds", "2", "--json"];
    let output = run(&args);
    succeeded(&output);
    let rows = json_lines(&output);
    let names: Vec<(u64, &str)> =
        rows.iter().map(|r| (r["context"].as_u64().unwrap(), r["case"].as_str().unwrap())).collect();
    let expected: Vec<(u64, &str)> =
        [1024, 2048].into_iter().flat_map(|c| cases.split(',').map(move |case| (c, case))).collect();
    assert_eq!(names, expected);
    let fields = [
        "bench",
        "device",
        "query_heads",
        "kv_heads",
        "head_dim",
        "context",
        "case",
        "seconds",
        "bytes",
        "bytes_per_s",
        "read_bandwidth",
        "kv",
    ];
    for row in &rows {
        has_fields(row, &fields);
        assert_eq!((&row["bench"], &row["kv"]), (&"attention".into(), &"bf16".into()));
        let (seconds, bytes, rate) = (number(row, "seconds"), number(row, "bytes"), number(row, "bytes_per_s"));
        assert!(seconds > 0.0 && bytes > 0.0 && (rate * seconds / bytes - 1.0).abs() < 0.01, "{row}");
        assert!(number(row, "read_bandwidth") > 0.0);
        // 2 KV heads × 64 × 2 B × (K and V).
        let whole = number(row, "context") * 512.0;
        match row["case"].as_str().unwrap() {
            "exact" => assert_eq!(bytes, whole),
            "no_hit" => assert!(bytes > whole, "the search costs bytes: {row}"),
            _ => {}
        }
    }
}

#[test]
fn decode_and_prefill_run_on_made_up_weights() {
    let modes = ["exact", "mac", "forced:1"];
    let args = ["--shape", "demo", "--weights", "q8_0", "--json"];
    let decode = ["bench", "decode", "--context", "1K", "--tokens", "4", "--attention", "exact,mac,forced:1"];
    let output = run(&[&decode[..], &args].concat());
    succeeded(&output);
    let rows = json_lines(&output);
    assert_eq!(rows.len(), modes.len());
    let fields = [
        "bench",
        "device",
        "shape",
        "weights",
        "kv",
        "context",
        "attention",
        "ms_per_token",
        "bound_ms",
        "share_of_bound",
        "bytes_per_s",
        "read_bandwidth",
        "steps",
        "head_hit_rate",
        "group_hit_rate",
    ];
    for (row, mode) in rows.iter().zip(modes) {
        has_fields(row, &fields);
        assert_eq!((&row["attention"], &row["kv"]), (&mode.into(), &"bf16".into()));
        let (step, bound) = (number(row, "ms_per_token"), number(row, "bound_ms"));
        assert!(
            step > 0.0 && bound > 0.0 && (number(row, "share_of_bound") * step / bound - 1.0).abs() < 1e-6,
            "{row}"
        );
        assert_eq!(row["steps"], 4);
    }
    assert_eq!(rows[2]["group_hit_rate"], 1.0, "dictated hits all happen");

    let output = run(&[&["bench", "prefill", "--tokens", "256"][..], &args].concat());
    succeeded(&output);
    let rows = json_lines(&output);
    assert_eq!(rows.len(), 1);
    has_fields(&rows[0], &["bench", "device", "shape", "weights", "kv", "tokens", "seconds", "tokens_per_s"]);
    assert!(number(&rows[0], "tokens_per_s") > 0.0);
}

#[test]
fn the_demo_model_is_listed() {
    let output = run(&["models", "list"]);
    succeeded(&output);
    assert!(stdout(&output).starts_with("demo"), "{}", stdout(&output));
    let output = run(&["models", "list", "--json"]);
    succeeded(&output);
    assert!(number(&json_lines(&output)[0], "bytes") > 1e7);
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"odd\xff.gguf"));
    std::os::unix::fs::symlink(demo_model(), &odd).unwrap();
    let output = reprise(&["models", "list", "--json"]).env("REPRISE_DEMO_MODEL", odd).output().unwrap();
    succeeded(&output);
    assert!(json_lines(&output)[0]["path"].as_str().unwrap().ends_with("odd\u{fffd}.gguf"));
}
