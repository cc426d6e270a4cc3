//! `reprise doctor`: what this machine is, how fast it reads, and whether the kernels are right on it.

mod break_even;
pub(crate) mod cuda_check;
mod gpu;
mod self_check;

use std::path::Path;

use mac_attention::AttentionShape;
use reprise_engine::model::named_shape;
use reprise_library::models::{hub_cache, resolve, sample_document};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::failure::Failure;
use crate::figures::{bytes, grouped, seconds};
use crate::machine::{Host, ReadGauge, pool, threads_or_all};
use crate::output::{StatusLine, json, line};
use break_even::Point;
use gpu::GpuReport;
use self_check::Check;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    host: Host,
    gpu: GpuReport,
    /// Bytes per second of a plain sum on all threads.
    read_bandwidth: f64,
    checks: Vec<Check>,
    pass: bool,
    break_even: BreakEven,
    /// Paths as they are shown: JSON holds no other bytes than UTF-8.
    demo_model: Option<String>,
    sample_document: Option<String>,
    /// Where downloaded models lie.
    model_cache: String,
}

/// Context from which reuse can win, for one layer of a shape.
#[derive(Debug, Serialize)]
struct BreakEven {
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Null where reuse did not win at any measured length.
    context_tokens: Option<usize>,
    measured: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    context: usize,
    exact_s: f64,
    all_hit_s: f64,
}

impl BreakEven {
    fn new(shape: AttentionShape, points: &[Point]) -> Self {
        Self {
            query_heads: shape.num_q_heads(),
            kv_heads: shape.num_kv_heads(),
            head_dim: shape.head_dim(),
            context_tokens: break_even::break_even(points),
            measured: points
                .iter()
                .map(|p| Measured { context: p.context, exact_s: p.exact_s, all_hit_s: p.all_hit_s })
                .collect(),
        }
    }

    /// For a person; `place` is empty or ends with a space.
    fn lines(&self, place: &str) -> Vec<String> {
        let heads = format!("{} query / {} KV heads of {}", self.query_heads, self.kv_heads, self.head_dim);
        let first = match self.context_tokens {
            Some(context) => format!(
                "break-even   {place}about {} tokens: from there a step that reuses everything beats an exact one ({heads})",
                grouped(context as u64)
            ),
            None => format!("break-even   {place}none measured: reuse did not win at any length tried ({heads})"),
        };
        let points = self.measured.iter().map(|point| {
            format!(
                "             {:>6} tokens: exact {}, all reused {} a layer",
                grouped(point.context as u64),
                seconds(point.exact_s),
                seconds(point.all_hit_s)
            )
        });
        [first].into_iter().chain(points).collect()
    }
}

/// Runs the command.
pub(crate) fn run(args: DoctorArgs) -> Result<(), Failure> {
    let threads = threads_or_all(args.threads);
    let pool = pool(threads);
    let mut status = StatusLine::new();
    status.show("checking the kernels against their oracle");
    let checks = self_check::run(&pool)?;
    status.show("looking for a GPU and checking its kernels");
    let gpu = GpuReport::look();
    status.show("measuring how fast memory is read");
    let read_bandwidth = ReadGauge::new().settled(&pool);
    status.show("measuring from where reuse wins");
    let break_even = measure_break_even(&pool)?;
    status.clear();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        host: Host::look(threads),
        pass: checks.iter().all(|check| check.pass) && gpu.pass(),
        gpu,
        read_bandwidth,
        checks,
        break_even,
        demo_model: resolve(None).ok().map(|path| shown(&path)),
        sample_document: sample_document().map(|path| shown(&path)),
        model_cache: shown(hub_cache().path()),
    };
    if args.json {
        json(&report)?;
    } else {
        line(&text(&report))?;
    }
    if report.pass { Ok(()) } else { Err(Failure::SelfCheck) }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn measure_break_even(pool: &mac_attention::ThreadPool) -> Result<BreakEven, Failure> {
    let shape = demo_shape()?;
    let points = break_even::measure(shape, pool)?;
    Ok(BreakEven::new(shape, &points))
}

fn demo_shape() -> Result<AttentionShape, Failure> {
    let sizes = named_shape("demo").map_or((8, 2, 64), |spec| (spec.num_q_heads, spec.num_kv_heads, spec.head_dim));
    Ok(AttentionShape::new(sizes.0, sizes.1, sizes.2)?)
}

fn text(report: &Report) -> String {
    let Report { host, .. } = report;
    let or_none = |path: &Option<String>| path.clone().unwrap_or_else(|| "not found".to_owned());
    let mut lines = vec![
        format!("reprise      {}", report.version),
        format!(
            "processor    {}, {} cores, {} threads used, {}, {} of cache",
            host.cpu,
            host.cores,
            host.threads,
            host.simd,
            bytes(host.cache_bytes as u64)
        ),
        format!("memory       {}, {} free", bytes(host.memory_bytes), bytes(host.memory_free_bytes)),
        format!("reads        {}/s (plain sum on all threads)", bytes(report.read_bandwidth as u64)),
    ];
    lines.extend(report.gpu.lines());
    lines.extend([
        format!("demo model   {}", or_none(&report.demo_model)),
        format!("sample       {}", or_none(&report.sample_document)),
        format!("model cache  {}", report.model_cache),
    ]);
    lines.extend(report.break_even.lines(""));
    lines.extend(report.gpu.break_even.iter().flat_map(|even| even.lines("on the GPU ")));
    lines.push("kernels against the f64 oracle, fresh random inputs, largest relative error:".to_owned());
    lines.extend(report.checks.iter().map(Check::line));
    if !report.gpu.checks.is_empty() {
        lines.push("the same on the GPU:".to_owned());
        lines.extend(report.gpu.checks.iter().map(Check::line));
    }
    lines.push(if report.pass { "PASS".to_owned() } else { "FAIL".to_owned() });
    lines.join("\n")
}
