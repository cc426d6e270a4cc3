//! `reprise bench decode` and `bench prefill`: a whole model through the engine's executor.

use serde::Serialize;

use super::cases::DecodeAttentionMode;
use super::runner::{Runner, Step};
use crate::args::{BenchDecodeArgs, BenchPrefillArgs, DeviceChoice};
use crate::failure::Failure;
use crate::figures::{bytes, grouped, median, percent, seconds};
use crate::output::{StatusLine, json, line};

/// Steps before the timed ones of a turn: threads awake, weights touched.
const WARM_STEPS: usize = 2;
/// Timed steps of a mode.
const CPU_STEPS: usize = 32;
const CUDA_STEPS: usize = 64;
/// Turns that the modes take at a context, so that noise meets all alike.
const TURNS: usize = 4;
/// A read longer than this is timed once.
const REPEAT_BELOW_S: f64 = 5.0;
const PREFILL_ROUNDS: usize = 3;
const WARM_TOKENS: usize = 64;
/// One prompt for all.
const SEED: u64 = 1;

/// One line of `bench decode --json`.
#[derive(Debug, Serialize)]
struct DecodeRow<'a> {
    bench: &'static str,
    device: &'a str,
    shape: &'a str,
    weights: &'a str,
    kv: &'a str,
    context: usize,
    attention: String,
    /// Median step.
    ms_per_token: f64,
    /// Weights, K, V and ring bytes that a step of this mode reads ÷ the read bandwidth measured in this run.
    bound_ms: f64,
    /// `bound_ms` ÷ `ms_per_token`.
    share_of_bound: f64,
    /// Those bytes ÷ the time of the median step.
    bytes_per_s: f64,
    /// Of a plain sum over more memory than caches hold.
    read_bandwidth: f64,
    /// Timed steps, sampling included.
    steps: usize,
    head_hit_rate: Option<f64>,
    group_hit_rate: Option<f64>,
}

/// Runs `bench decode`.
pub(crate) fn decode(args: &BenchDecodeArgs) -> Result<(), Failure> {
    let mut contexts = args.context.clone();
    contexts.sort_unstable();
    contexts.dedup();
    let Some(&longest) = contexts.last() else {
        return Err(Failure::Usage("no context length given".to_owned()));
    };
    let steps = args.tokens.unwrap_or(match args.model.device {
        DeviceChoice::Cpu => CPU_STEPS,
        DeviceChoice::Cuda => CUDA_STEPS,
    });
    let per_turn = steps.div_ceil(TURNS);
    let mut status = StatusLine::new();
    status.show("preparing the model");
    let mut runner = Runner::from_args(&args.model, longest + WARM_STEPS + per_turn)?;
    let prompt = runner.tokens(longest + WARM_STEPS + per_turn, SEED)?;
    let device = runner.device();
    if !args.model.json {
        status.clear();
        line(&format!("decode, {}, weights {}, {device}", runner.shape, runner.weights))?;
    }
    for context in contexts {
        runner.fill(&prompt, context, &mut |done| {
            status.show(&format!("reading {} of {} tokens", grouped(done as u64), grouped(context as u64)));
        })?;
        let (measured, bandwidth) = take_turns(&mut runner, args, &prompt[context..], context, per_turn, &mut status)?;
        status.clear();
        let rows: Vec<DecodeRow<'_>> = args
            .attention
            .iter()
            .zip(&measured)
            .map(|(mode, steps)| decode_row(&runner, &device, context, *mode, steps, bandwidth))
            .collect();
        if args.model.json {
            rows.iter().try_for_each(json)?;
        } else {
            line(&decode_table(&rows, context, bandwidth))?;
        }
    }
    Ok(())
}

/// Timed steps of every mode, always from the same cache, and the read bandwidth in the same turns.
fn take_turns(
    runner: &mut Runner,
    args: &BenchDecodeArgs,
    next: &[u32],
    context: usize,
    per_turn: usize,
    status: &mut StatusLine,
) -> Result<(Vec<Vec<Step>>, f64), Failure> {
    let mut measured = vec![Vec::new(); args.attention.len()];
    let mut gauge = runner.gauge()?;
    let mut reads = Vec::with_capacity(TURNS);
    for turn in 0..TURNS {
        reads.push(gauge.rate()?);
        for (mode, steps) in args.attention.iter().zip(&mut measured) {
            status.show(&format!("{mode} at {} tokens, turn {} of {TURNS}", grouped(context as u64), turn + 1));
            runner.truncate(context);
            runner.set_attention(&mode.attention())?;
            let mut token = next[0];
            for i in 0..WARM_STEPS + per_turn {
                let step = runner.step(token)?;
                // Prose goes on as prose, whatever a model would write; made-up weights go on as in a reply.
                token = if runner.has_text() { *next.get(i + 1).unwrap_or(&step.next) } else { step.next };
                if i >= WARM_STEPS {
                    steps.push(step);
                }
            }
        }
    }
    runner.truncate(context);
    Ok((measured, median(&reads)))
}

fn decode_row<'a>(
    runner: &'a Runner,
    device: &'a str,
    context: usize,
    mode: DecodeAttentionMode,
    steps: &[Step],
    bandwidth: f64,
) -> DecodeRow<'a> {
    let times: Vec<f64> = steps.iter().map(|s| s.seconds).collect();
    let sum = |part: fn(&Step) -> usize| steps.iter().map(part).sum::<usize>() as f64;
    let attention_bytes = steps.iter().map(|s| s.attention_bytes).sum::<u64>() as f64 / steps.len().max(1) as f64;
    let rate = |hit: f64, all: f64| (mode != DecodeAttentionMode::Exact && all > 0.0).then(|| hit / all);
    let bytes = runner.step_weight_bytes as f64 + attention_bytes;
    let step_s = median(&times);
    DecodeRow {
        bench: "decode",
        device,
        shape: &runner.shape,
        weights: &runner.weights,
        kv: runner.kv(),
        context,
        attention: mode.to_string(),
        ms_per_token: step_s * 1e3,
        bound_ms: bytes / bandwidth * 1e3,
        share_of_bound: bytes / bandwidth / step_s,
        bytes_per_s: bytes / step_s,
        read_bandwidth: bandwidth,
        steps: steps.len(),
        head_hit_rate: rate(sum(|s| s.heads_matched), sum(|s| s.heads)),
        group_hit_rate: rate(sum(|s| s.groups_reused), sum(|s| s.groups)),
    }
}

fn decode_table(rows: &[DecodeRow<'_>], context: usize, bandwidth: f64) -> String {
    let exact = rows.iter().find(|row| row.attention == "exact").map(|row| row.ms_per_token);
    let heading = format!(
        "\n{} tokens; plain read {}/s; bound = bytes read by a step ÷ plain read\n{:<12} {:>10} {:>10} {:>10} {:>7} {:>9} {:>9} {:>9}",
        grouped(context as u64),
        bytes(bandwidth as u64),
        "attention",
        "a token",
        "tokens/s",
        "bound",
        "of it",
        "heads",
        "groups",
        "× exact",
    );
    let share = |rate: Option<f64>| rate.map_or("–".to_owned(), percent);
    let lines = rows.iter().map(|row| {
        format!(
            "{:<12} {:>10} {:>10.1} {:>10} {:>7} {:>9} {:>9} {:>9}",
            row.attention,
            seconds(row.ms_per_token / 1e3),
            1e3 / row.ms_per_token,
            seconds(row.bound_ms / 1e3),
            percent(row.share_of_bound),
            share(row.head_hit_rate),
            share(row.group_hit_rate),
            exact.map_or("–".to_owned(), |exact| format!("{:.2}", exact / row.ms_per_token)),
        )
    });
    [heading].into_iter().chain(lines).collect::<Vec<_>>().join(
        "
",
    )
}

/// One line of `bench prefill --json`.
#[derive(Debug, Serialize)]
struct PrefillRow<'a> {
    bench: &'static str,
    device: &'a str,
    shape: &'a str,
    weights: &'a str,
    kv: &'a str,
    tokens: usize,
    seconds: f64,
    tokens_per_s: f64,
}

/// Runs `bench prefill`.
pub(crate) fn prefill(args: &BenchPrefillArgs) -> Result<(), Failure> {
    let Some(&longest) = args.tokens.iter().max() else {
        return Err(Failure::Usage("no prompt length given".to_owned()));
    };
    let mut status = StatusLine::new();
    status.show("preparing the model");
    let mut runner = Runner::from_args(&args.model, longest.max(WARM_TOKENS))?;
    let prompt = runner.tokens(longest.max(WARM_TOKENS), SEED)?;
    let device = runner.device();
    runner.read(&prompt[..WARM_TOKENS], &mut |_| {})?;
    if !args.model.json {
        status.clear();
        line(&format!("prefill, {}, weights {}, {device}", runner.shape, runner.weights))?;
        line(&format!("{:>9} {:>10} {:>10}", "tokens", "time", "tokens/s"))?;
    }
    for &tokens in &args.tokens {
        let mut times = Vec::new();
        while times.len() < PREFILL_ROUNDS && times.iter().sum::<f64>() < REPEAT_BELOW_S {
            runner.truncate(0);
            times.push(runner.read(&prompt[..tokens], &mut |done| {
                status.show(&format!("reading {} of {} tokens", grouped(done as u64), grouped(tokens as u64)));
            })?);
        }
        status.clear();
        let time = median(&times);
        let row = PrefillRow {
            bench: "prefill",
            device: &device,
            shape: &runner.shape,
            weights: &runner.weights,
            kv: runner.kv(),
            tokens,
            seconds: time,
            tokens_per_s: tokens as f64 / time,
        };
        if args.model.json {
            json(&row)?;
        } else {
            line(&format!("{:>9} {:>10} {:>10.0}", grouped(tokens as u64), seconds(time), row.tokens_per_s))?;
        }
    }
    Ok(())
}
