//! Starts the binary and reads what it says.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The model that comes with the product.
pub(crate) fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../assets/demo-model/demo-q8_0.gguf")
}

/// The binary with arguments, and the demo model where it cannot fail to find it.
pub(crate) fn reprise(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
    command.args(args).env("REPRISE_DEMO_MODEL", demo_model()).stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Output {
    reprise(args).output().expect("the binary starts")
}

/// Runs to the end with `input` on a pipe.
pub(crate) fn run_with_input(args: &[&str], input: &str) -> Output {
    let mut child = reprise(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("the child reads its input");
    drop(stdin);
    child.wait_with_output().expect("the child ends")
}

/// A text of `count` lines.
pub(crate) fn text_of(count: usize, line: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = (0..count).map(line).collect();
    lines.join("\n") + "\n"
}

/// Exit code 0, with both outputs in the message otherwise.
#[track_caller]
pub(crate) fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "stdout: {}\nstderr: {}", stdout(output), stderr(output));
}

/// Standard output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on standard output")
}

/// Standard error.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8 on standard error")
}

/// Every line of standard output as JSON.
#[track_caller]
pub(crate) fn json_lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line:?}"))).collect()
}

/// Events of one kind.
pub(crate) fn events<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == kind).collect()
}

/// A number of an event.
#[track_caller]
pub(crate) fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().unwrap_or_else(|| panic!("{field} is no number in {value}"))
}
