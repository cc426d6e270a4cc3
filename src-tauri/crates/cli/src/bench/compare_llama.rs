//! `reprise bench compare-llama`: llama.cpp and ours read and write the same tokens of the same file, in turns.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use reprise_engine::exec::request_threads;
use serde::{Deserialize, Serialize};
use serde_json::json as object;

use super::cases::DecodeAttentionMode;
use super::runner::{Runner, executor_threads};
use crate::args::CompareLlamaArgs;
use crate::failure::Failure;
use crate::figures::{grouped, median, seconds};
use crate::output::{StatusLine, json, line};

/// Runs under the Python that the user names.
const SCRIPT: &str = include_str!("llama_cpp.py");

/// One line of `--json`: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    model: String,
    device: String,
    llama_cpp_python: String,
    threads: usize,
    context: usize,
    tokens: usize,
    rounds: usize,
    prefill_tokens_per_s: f64,
    llama_prefill_tokens_per_s: f64,
    /// Ours ÷ theirs; above 1 is faster.
    prefill_ratio: f64,
    decode_exact_tokens_per_s: f64,
    decode_mac_tokens_per_s: f64,
    llama_decode_tokens_per_s: f64,
    decode_exact_ratio: f64,
    decode_mac_ratio: f64,
    /// Of our `mac` steps.
    group_hit_rate: f64,
}

/// Seconds of one side in one round.
#[derive(Debug, Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &CompareLlamaArgs) -> Result<(), Failure> {
    let path = reprise_library::models::resolve(args.model.as_deref())?;
    request_threads(args.threads);
    let threads = executor_threads();
    let mut status = StatusLine::new();
    status.show("loading the model on both sides");
    let room = args.context + args.tokens;
    let mut ours = Runner::from_gguf(&path, room)?;
    let mut theirs = Llama::start(&args.python, &path, room, threads)?;

    warm_up(&mut ours, &mut theirs, args.context)?;
    let (mut llama, mut exact, mut mac) = (Times::default(), Times::default(), Times::default());
    let (mut groups_reused, mut groups) = (0, 0);
    for round in 1..=args.rounds {
        // Another text each round: nothing may be left over from the one before.
        let tokens = ours.tokens(room, round as u64)?;
        let (prompt, next) = tokens.split_at(args.context);
        status.show(&format!("round {round} of {}: llama.cpp", args.rounds));
        let answer = theirs.ask(prompt, next)?;
        llama.prefill.push(answer.prefill_s);
        llama.decode.push(answer.decode_s);

        status.show(&format!("round {round} of {}: ours", args.rounds));
        ours.truncate(0);
        exact.prefill.push(ours.read(prompt, &mut |_| {})?);
        for (times, mode) in [(&mut exact, DecodeAttentionMode::Exact), (&mut mac, DecodeAttentionMode::Mac)] {
            ours.truncate(args.context);
            ours.set_attention(&mode.attention())?;
            let mut total = 0.0;
            for token in next {
                let step = ours.step(*token)?;
                total += step.seconds;
                if mode == DecodeAttentionMode::Mac {
                    groups_reused += step.groups_reused;
                    groups += step.groups;
                }
            }
            times.decode.push(total);
        }
    }
    let version = theirs.stop();
    status.clear();
    let row = summarise(
        args,
        &ours,
        version,
        threads,
        [&llama, &exact, &mac],
        groups_reused as f64 / f64::from(groups.max(1) as u32),
    );
    if args.json { json(&row) } else { line(&table(&row)) }
}

/// Both sides touch every weight, and ours learns how many tokens make a chunk.
fn warm_up(ours: &mut Runner, theirs: &mut Llama, context: usize) -> Result<(), Failure> {
    const WARM_TOKENS: usize = 1024;
    const WARM_STEPS: usize = 4;
    let tokens = ours.tokens(context.min(WARM_TOKENS), 0)?;
    let (prompt, next) = tokens.split_at(tokens.len().saturating_sub(WARM_STEPS).max(1));
    theirs.ask(prompt, next)?;
    ours.read(prompt, &mut |_| {})?;
    next.iter().try_for_each(|token| ours.step(*token).map(drop))
}

fn summarise(
    args: &CompareLlamaArgs,
    ours: &Runner,
    version: String,
    threads: usize,
    times: [&Times; 3],
    hits: f64,
) -> Row {
    let [llama, exact, mac] = times;
    let reading = |t: &Times| args.context as f64 / median(&t.prefill);
    let writing = |t: &Times| args.tokens as f64 / median(&t.decode);
    Row {
        bench: "compare_llama",
        model: ours.shape.clone(),
        device: ours.device(),
        llama_cpp_python: version,
        threads,
        context: args.context,
        tokens: args.tokens,
        rounds: args.rounds,
        prefill_tokens_per_s: reading(exact),
        llama_prefill_tokens_per_s: reading(llama),
        prefill_ratio: reading(exact) / reading(llama),
        decode_exact_tokens_per_s: writing(exact),
        decode_mac_tokens_per_s: writing(mac),
        llama_decode_tokens_per_s: writing(llama),
        decode_exact_ratio: writing(exact) / writing(llama),
        decode_mac_ratio: writing(mac) / writing(llama),
        group_hit_rate: hits,
    }
}

fn table(row: &Row) -> String {
    format!(
        "{}, {}, {} threads on either side; llama-cpp-python {} with flash attention\n\
         {} tokens read, {} written, median of {} rounds in turns\n\
         {:<24} {:>10} {:>10} {:>8}\n\
         {:<24} {:>10.0} {:>10.0} {:>7.2}x\n\
         {:<24} {:>10.1} {:>10.1} {:>7.2}x\n\
         {:<24} {:>10.1} {:>10} {:>7.2}x  ({} of groups reused, {} a token)",
        row.model,
        row.device,
        row.threads,
        row.llama_cpp_python,
        grouped(row.context as u64),
        grouped(row.tokens as u64),
        row.rounds,
        "tokens/s",
        "ours",
        "llama.cpp",
        "ratio",
        "read",
        row.prefill_tokens_per_s,
        row.llama_prefill_tokens_per_s,
        row.prefill_ratio,
        "write, exact attention",
        row.decode_exact_tokens_per_s,
        row.llama_decode_tokens_per_s,
        row.decode_exact_ratio,
        "write, reuse",
        row.decode_mac_tokens_per_s,
        "",
        row.decode_mac_ratio,
        crate::figures::percent(row.group_hit_rate),
        seconds(1.0 / row.decode_mac_tokens_per_s),
    )
}

/// The Python process.
struct Llama {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    version: String,
}

#[derive(Debug, Deserialize)]
struct Hello {
    version: Option<String>,
    missing: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    prefill_s: f64,
    decode_s: f64,
}

impl Llama {
    fn start(python: &Path, model: &Path, context_tokens: usize, threads: usize) -> Result<Self, Failure> {
        let spawned = Command::new(python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // llama.cpp talks while it loads; what matters comes as JSON or as the end of the stream.
            .stderr(Stdio::null())
            .spawn();
        let mut child = spawned.map_err(|e| Failure::Python {
            what: format!("cannot start {}: {e}", python.display()),
            advice: "name a Python 3 with --python".to_owned(),
        })?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(broken(python));
        };
        let mut output = BufReader::new(output);
        let settings = object!({ "model": model, "context_tokens": context_tokens, "threads": threads });
        // A script that ended early has closed the pipe; its answer says why.
        let _ = writeln!(input, "{settings}");
        let mut hello = String::new();
        output.read_line(&mut hello).map_err(|_| broken(python))?;
        let hello: Hello = serde_json::from_str(&hello).map_err(|_| broken(python))?;
        match (hello.version, hello.missing) {
            (Some(version), _) => Ok(Self { child, input, output, version }),
            (None, Some(why)) => Err(Failure::Python {
                what: format!("{} has no llama-cpp-python ({why})", python.display()),
                advice: "make one that has: `python3 -m venv llama && llama/bin/pip install llama-cpp-python`, then --python llama/bin/python"
                    .to_owned(),
            }),
            (None, None) => Err(broken(python)),
        }
    }

    fn ask(&mut self, prompt: &[u32], next: &[u32]) -> Result<Answer, Failure> {
        let lost = |_| Failure::Python {
            what: "llama.cpp ended in the middle of a round".to_owned(),
            advice: "try a shorter --context: it may have run out of memory".to_owned(),
        };
        writeln!(self.input, "{}", object!({ "prompt_ids": prompt, "step_ids": next })).map_err(lost)?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).map_err(lost)?;
        serde_json::from_str(&answer).map_err(|e| lost(e.into()))
    }

    /// Ends the process and gives its version.
    fn stop(self) -> String {
        let Self { mut child, input, version, .. } = self;
        drop(input);
        // It ends by itself at the end of its input.
        let _ = child.wait();
        version
    }
}

fn broken(python: &Path) -> Failure {
    Failure::Python {
        what: format!("{} could not load the model with llama.cpp", python.display()),
        advice: "check that this llama-cpp-python is recent enough for the model".to_owned(),
    }
}
