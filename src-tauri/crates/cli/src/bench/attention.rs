//! `reprise bench attention`: one layer's decode step, cases in turns so that noise meets all alike.

use mac_attention::cuda::Gpu;
use mac_attention::{AttentionShape, RingLayout, ThreadPool};
use reprise_engine::{EngineError, KvFormat};
use serde::Serialize;

use super::attention_cuda::{self, Bench};
use super::cases::Case;
use super::layers::{Layers, MAX_LAYERS};
use super::plan::{MIN_CONTEXT, Plan};
use crate::args::{BenchAttentionArgs, DeviceChoice, KvChoice};
use crate::failure::Failure;
use crate::figures::{bytes, grouped, median, percent, seconds};
use crate::machine::{device_words, pool, threads_or_all};
use crate::output::{StatusLine, json, line};

/// Seconds of measuring per context, unless `--rounds` says otherwise.
const MEASURE_S: f64 = 15.0;
const ROUNDS: std::ops::RangeInclusive<usize> = 5..=41;

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Row<'a> {
    bench: &'static str,
    device: &'a str,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    context: usize,
    case: String,
    /// Median over rounds of the mean over layers.
    seconds: f64,
    /// K, V and ring bytes of one layer's step, counted.
    bytes: u64,
    bytes_per_s: f64,
    /// Plain sum over the K and V of all layers, in the same rounds.
    read_bandwidth: f64,
    kv: &'static str,
    #[serde(flatten)]
    gpu: Option<GpuRow<'a>>,
}

/// What a line has besides on a GPU.
#[derive(Debug, Clone, Copy, Serialize)]
struct GpuRow<'a> {
    /// Of exact attention, in turns with the case.
    exact_seconds: f64,
    /// Bytes by the method alone, at the share of groups that reused.
    predicted_bytes: u64,
    groups_reused: f64,
    layers: usize,
    /// CUDA version of the driver.
    driver: &'a str,
    /// Of the source.
    commit: Option<&'a str>,
}

/// What the rounds gave for one case.
struct Measured {
    case: Case,
    seconds: f64,
    bytes: f64,
}

/// Runs the command.
pub(crate) fn run(args: &BenchAttentionArgs) -> Result<(), Failure> {
    let shape = args.shape.0;
    let shortest = RingLayout::default().band + args.lag;
    if let Some(context) = args.context.iter().find(|context| **context <= shortest) {
        return Err(Failure::Usage(format!(
            "a context of {context} tokens leaves nothing to reuse: it must be longer than {shortest}"
        )));
    }
    if args.device == DeviceChoice::Cuda {
        return run_cuda(args);
    }
    if args.grid.is_some() {
        return Err(Failure::Usage("--grid needs --device cuda".to_owned()));
    }
    if args.kv != KvChoice::Bf16 {
        return Err(EngineError::KvNeedsGpu { format: args.kv.into() }.into());
    }
    let threads = threads_or_all(args.threads);
    let pool = pool(threads);
    let device = device_words(threads);
    for &context in &args.context {
        let mut status = StatusLine::new();
        status.show(&format!("preparing {} tokens", grouped(context as u64)));
        let mut layers = Layers::build(shape, context, args.lag, MAX_LAYERS, &pool)?;
        layers.verify(&pool)?;
        let (cases, read_bandwidth, rounds) = measure(args, &mut layers, &pool, &mut status)?;
        status.clear();
        if args.json {
            for measured in &cases {
                json(&row(shape, &device, context, measured, read_bandwidth))?;
            }
        } else {
            line(&table(shape, &device, context, &layers, &cases, read_bandwidth, rounds))?;
        }
    }
    Ok(())
}

fn run_cuda(args: &BenchAttentionArgs) -> Result<(), Failure> {
    let gpu = Gpu::open(0)?;
    let commit = args.commit.clone().or_else(attention_cuda::commit);
    if let Some(file) = &args.grid {
        return super::grid::run(&gpu, file, args, commit.as_deref());
    }
    let (shape, format) = (args.shape.0, KvFormat::from(args.kv));
    if let Some(context) = args.context.iter().find(|context| **context < MIN_CONTEXT) {
        return Err(Failure::Usage(format!("{context} tokens: on a GPU a context has {MIN_CONTEXT} or more")));
    }
    let mut status = StatusLine::new();
    status.show("checking the kernels");
    attention_cuda::verify(&gpu, shape, format.element())?;
    let plan = |context| {
        Plan::new(shape, context, args.lag, args.backoff, args.case.len()).with_element(format.element()).fill(&gpu)
    };
    let plans = args.context.iter().map(|context| plan(*context)).collect::<Result<Vec<_>, _>>()?;
    let kv = attention_cuda::made_up_kv(&gpu, &plans)?;
    let (device, driver) = attention_cuda::names(&gpu);
    for plan in plans {
        status.show(&format!("measuring {} tokens", grouped(plan.context as u64)));
        let mut bench = Bench::build(&gpu, plan, &kv)?;
        let read_bandwidth = bench.read_bandwidth()?;
        let cases = args.case.iter().map(|case| bench.measure(*case)).collect::<Result<Vec<_>, _>>()?;
        status.clear();
        if !args.json {
            let name = format!("{device}, driver for CUDA {driver}");
            line(&cuda_table(&name, format, &bench, plan, &cases, read_bandwidth))?;
            continue;
        }
        for case in &cases {
            let measured = Measured { case: case.case, seconds: case.seconds, bytes: case.bytes };
            let mut row = row(shape, &device, plan.context, &measured, read_bandwidth);
            row.kv = format.name();
            row.gpu = Some(GpuRow {
                exact_seconds: case.exact_seconds,
                predicted_bytes: case.predicted_bytes.round() as u64,
                groups_reused: case.groups_reused,
                layers: bench.layers(),
                driver: &driver,
                commit: commit.as_deref(),
            });
            json(&row)?;
        }
    }
    Ok(())
}

fn cuda_table(
    device: &str,
    kv: KvFormat,
    bench: &Bench,
    plan: Plan,
    cases: &[attention_cuda::Measured],
    read_bandwidth: f64,
) -> String {
    let shape = plan.setup.shape;
    let heading = format!(
        "attention, {} query / {} KV heads of {}, {kv}, {} tokens, {device}\n{} layers in turn ({} of KV), median of {} steps, in turns with exact ones; plain sum {}/s\n{:<10} {:>8} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9}",
        shape.num_q_heads(),
        shape.num_kv_heads(),
        shape.head_dim(),
        grouped(plan.context as u64),
        bench.layers(),
        bytes((plan.kv_words() * size_of::<u16>()) as u64),
        plan.steps,
        bytes(read_bandwidth as u64),
        "case",
        "groups",
        "a step",
        "predicted",
        "bytes",
        "bytes/s",
        "of sum",
        "× exact",
    );
    let lines = cases.iter().map(|measured| {
        let rate = measured.bytes / measured.seconds;
        format!(
            "{:<10} {:>8} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9}",
            measured.case.to_string(),
            percent(measured.groups_reused),
            seconds(measured.seconds),
            bytes(measured.predicted_bytes as u64),
            bytes(measured.bytes as u64),
            bytes(rate as u64) + "/s",
            percent(rate / read_bandwidth),
            format!("{:.2}", measured.exact_seconds / measured.seconds),
        )
    });
    [heading].into_iter().chain(lines).collect::<Vec<_>>().join("\n") + "\n"
}

fn measure(
    args: &BenchAttentionArgs,
    layers: &mut Layers,
    pool: &ThreadPool,
    status: &mut StatusLine,
) -> Result<(Vec<Measured>, f64, usize), Failure> {
    // Each layer and round has its own independent misses.
    let seed = |round: usize, layer: usize| (round * 1009 + layer) as u64;
    let mut round_s = 0.0;
    for &case in &args.case {
        let pass = layers.pass(|layer| case.policy(args.lag, args.backoff, seed(0, layer)), pool)?;
        round_s += pass.seconds * layers.count() as f64;
        check(case, &pass)?;
        if case == Case::NoHit && args.backoff > 0 {
            layers.settle_misses(&case.policy(args.lag, args.backoff, 0), args.backoff, pool)?;
        }
    }
    round_s += layers.kv_bytes() as f64 / layers.read_bandwidth(pool);
    let rounds = args.rounds.unwrap_or(((MEASURE_S / round_s) as usize).clamp(*ROUNDS.start(), *ROUNDS.end()));

    let mut times = vec![Vec::with_capacity(rounds); args.case.len()];
    let mut touched = vec![0.0; args.case.len()];
    let mut reads = Vec::with_capacity(rounds);
    for round in 1..=rounds {
        status.show(&format!("round {round} of {rounds}"));
        reads.push(layers.read_bandwidth(pool));
        for i in 0..args.case.len() {
            // Rotated, so that no case always follows the same neighbour.
            let i = (i + round) % args.case.len();
            let case = args.case[i];
            let pass = layers.pass(|layer| case.policy(args.lag, args.backoff, seed(round, layer)), pool)?;
            times[i].push(pass.seconds);
            touched[i] += pass.bytes / rounds as f64;
        }
    }
    let cases = args.case.iter().zip(times).zip(touched);
    let measured = cases.map(|((&case, times), bytes)| Measured { case, seconds: median(&times), bytes }).collect();
    Ok((measured, median(&reads), rounds))
}

/// A case that does not do what its name says must not be timed.
fn check(case: Case, pass: &super::layers::Pass) -> Result<(), Failure> {
    let right = match case {
        Case::Exact | Case::NoHit => pass.heads_reused == 0 && pass.groups_reused == 0,
        Case::AllHit => pass.groups_reused == pass.groups,
        Case::Hit(_) => pass.groups_reused <= pass.groups,
    };
    if right && pass.groups > 0 {
        return Ok(());
    }
    Err(Failure::Bench(format!(
        "{case} reused {} of {} heads and {} of {} groups",
        pass.heads_reused, pass.heads, pass.groups_reused, pass.groups
    )))
}

fn row<'a>(
    shape: AttentionShape,
    device: &'a str,
    context: usize,
    measured: &Measured,
    read_bandwidth: f64,
) -> Row<'a> {
    Row {
        bench: "attention",
        device,
        query_heads: shape.num_q_heads(),
        kv_heads: shape.num_kv_heads(),
        head_dim: shape.head_dim(),
        context,
        case: measured.case.to_string(),
        seconds: measured.seconds,
        bytes: measured.bytes.round() as u64,
        bytes_per_s: measured.bytes / measured.seconds,
        read_bandwidth,
        kv: KvFormat::Bf16.name(),
        gpu: None,
    }
}

#[expect(clippy::too_many_arguments, reason = "the heading of a table names everything it was measured with")]
fn table(
    shape: AttentionShape,
    device: &str,
    context: usize,
    layers: &Layers,
    cases: &[Measured],
    read_bandwidth: f64,
    rounds: usize,
) -> String {
    let exact = cases.iter().find(|m| m.case == Case::Exact).map(|m| m.seconds);
    let heading = format!(
        "attention, {} query / {} KV heads of {}, bf16, {} tokens, {device}\n{} layers in turn ({} of KV), median of {rounds} rounds; plain read {}/s\n{:<10} {:>10} {:>10} {:>12} {:>9} {:>9}",
        shape.num_q_heads(),
        shape.num_kv_heads(),
        shape.head_dim(),
        grouped(context as u64),
        layers.count(),
        bytes(layers.kv_bytes() as u64),
        bytes(read_bandwidth as u64),
        "case",
        "a step",
        "bytes",
        "bytes/s",
        "of read",
        "× exact",
    );
    let lines = cases.iter().map(|measured| {
        let rate = measured.bytes / measured.seconds;
        let ratio = exact.map_or("–".to_owned(), |exact| format!("{:.2}", exact / measured.seconds));
        format!(
            "{:<10} {:>10} {:>10} {:>12} {:>9} {:>9}",
            measured.case.to_string(),
            seconds(measured.seconds),
            bytes(measured.bytes as u64),
            bytes(rate as u64) + "/s",
            percent(rate / read_bandwidth),
            ratio,
        )
    });
    [heading].into_iter().chain(lines).collect::<Vec<_>>().join("\n") + "\n"
}
