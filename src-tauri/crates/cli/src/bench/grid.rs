//! Many shapes, contexts and hit rates on one GPU, as a CSV file that plots and tables come from.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use mac_attention::AttentionShape;
use mac_attention::cuda::Gpu;
use reprise_engine::KvFormat;

use super::attention_cuda::{Bench, Measured, Paced, made_up_kv, names, verify};
use super::cases::Case;
use super::plan::{Plan, WARM_UP};
use crate::args::BenchAttentionArgs;
use crate::failure::Failure;
use crate::figures::grouped;
use crate::output::{StatusLine, line};

/// Query heads, KV heads, head dimension: those of common models.
const SHAPES: [(usize, usize, usize); 5] = [(32, 8, 128), (32, 4, 128), (28, 4, 128), (16, 8, 128), (8, 2, 64)];
const CONTEXTS: [usize; 5] = [8 << 10, 32 << 10, 64 << 10, 126_976, 512 << 10];
/// Shares of heads that hit, each on its own.
const RATES: [f32; 6] = [0.0, 0.5, 0.9, 0.95, 0.97, 1.0];
/// Steps per case.
const STEPS: usize = 9;

/// Times in microseconds per layer and step: `search_us` searches at every step, `paced_us` searches when the product
/// would, in `searched` of the steps. Beside each stands exact attention, measured in turns with it: medians beside the
/// first, means beside the second, whose steps are of several kinds. Bytes are those of a searching step.
const COLUMNS: &str = "device,driver,commit,query_heads,kv_heads,head_dim,element,context,layers,hit_rate,groups_reused,\
rest_us,search_us,search_exact_us,paced_us,paced_exact_us,searched,exact_over_search,exact_over_paced,bytes,\
predicted_bytes,bytes_per_s,exact_bytes_per_s,read_bandwidth";

/// Measures everything and writes the file.
pub(super) fn run(gpu: &Gpu, file: &Path, args: &BenchAttentionArgs, commit: Option<&str>) -> Result<(), Failure> {
    let mut status = StatusLine::new();
    let shapes = SHAPES.iter().map(|(q, kv, dim)| AttentionShape::new(*q, *kv, *dim)).collect::<Result<Vec<_>, _>>()?;
    let format = KvFormat::from(args.kv);
    let mut plans = Vec::new();
    for &shape in &shapes {
        status.show("checking the kernels");
        verify(gpu, shape, format.element())?;
        for context in CONTEXTS {
            // Rest, then every rate twice; what is paced begins with two kinds of steps.
            let paced = RATES.len() * (longest_run(context) + 2 * WARM_UP);
            let plan = Plan::new(shape, context, args.lag, 0, 1).with_element(format.element());
            plans.push(plan.with_steps(STEPS, 1 + RATES.len(), paced).fill(gpu)?);
        }
    }
    let kv = made_up_kv(gpu, &plans)?;
    let (device, driver) = names(gpu);
    let prefix = format!("{device},{driver},{}", commit.unwrap_or(""));
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Row by row, so that what was measured stays if the rest is broken off.
    let mut table = File::create(file)?;
    writeln!(table, "{COLUMNS}")?;
    let mut rows = 0;
    for plan in plans {
        status.show(&format!("{:?}, {} tokens", plan.setup.shape, grouped(plan.context as u64)));
        let mut bench = Bench::build(gpu, plan, &kv)?;
        let read_bandwidth = bench.read_bandwidth()?;
        let rest_s = bench.measure_rest()?;
        for rate in RATES {
            let case = case(rate);
            let search = bench.measure(case)?;
            let paced = bench.measure_paced(case, longest_run(plan.context), read_bandwidth)?;
            let cell = Cell { plan, format, rate, rest_s, search, paced, read_bandwidth };
            writeln!(table, "{prefix},{}", cell.row())?;
            rows += 1;
        }
    }
    status.clear();
    line(&format!("{rows} rows in {}", file.display()))
}

/// Steps of a paced run: a whole cycle of a search and the longest rest where that is short, and where a search costs
/// little beside the context, rests are short.
fn longest_run(context: usize) -> usize {
    match context {
        ..=65_536 => 65,
        65_537..=131_072 => 45,
        _ => 24,
    }
}

fn case(rate: f32) -> Case {
    match rate {
        0.0 => Case::NoHit,
        1.0 => Case::AllHit,
        rate => Case::Hit(rate),
    }
}

/// One shape, context and rate.
struct Cell {
    plan: Plan,
    format: KvFormat,
    rate: f32,
    rest_s: f64,
    search: Measured,
    paced: Paced,
    read_bandwidth: f64,
}

impl Cell {
    fn row(&self) -> String {
        let Self { plan, format, rate, rest_s, search, paced, read_bandwidth } = self;
        let shape = plan.setup.shape;
        let us = |seconds: f64| format!("{:.2}", seconds * 1e6);
        let columns = [
            shape.num_q_heads().to_string(),
            shape.num_kv_heads().to_string(),
            shape.head_dim().to_string(),
            format.to_string(),
            plan.context.to_string(),
            plan.setup.layers.to_string(),
            rate.to_string(),
            format!("{:.4}", search.groups_reused),
            us(*rest_s),
            us(search.seconds),
            us(search.exact_seconds),
            us(paced.seconds),
            us(paced.exact_seconds),
            format!("{:.3}", paced.searched),
            format!("{:.3}", search.exact_seconds / search.seconds),
            format!("{:.3}", paced.exact_seconds / paced.seconds),
            format!("{:.0}", search.bytes),
            format!("{:.0}", search.predicted_bytes),
            format!("{:.4e}", search.bytes / search.seconds),
            format!("{:.4e}", search.exact_bytes / search.exact_seconds),
            format!("{read_bandwidth:.4e}"),
        ];
        columns.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_has_its_case_and_every_row_its_columns() {
        let names: Vec<String> = RATES.iter().map(|rate| case(*rate).to_string()).collect();
        assert_eq!(names, ["no_hit", "hit_0.5", "hit_0.9", "hit_0.95", "hit_0.97", "all_hit"]);
        let plan = Plan::new(AttentionShape::new(32, 8, 128).unwrap(), 8192, 64, 0, 1);
        let search = Measured {
            case: Case::Hit(0.5),
            seconds: 2e-5,
            exact_seconds: 4e-5,
            bytes: 4e7,
            exact_bytes: 8e7,
            groups_reused: 0.25,
            predicted_bytes: 8e7,
        };
        let paced = Paced { seconds: 2.5e-5, exact_seconds: 5e-5, searched: 0.5 };
        let cell =
            Cell { plan, format: KvFormat::Q8_0, rate: 0.5, rest_s: 4.5e-5, search, paced, read_bandwidth: 4e12 };
        assert_eq!(
            format!("gpu,13.0,abc,{}", cell.row()),
            "gpu,13.0,abc,32,8,128,q8_0,8192,1,0.5,0.2500,45.00,20.00,40.00,25.00,50.00,0.500,2.000,2.000,40000000,80000000,2.0000e12,2.0000e12,4.0000e12"
        );
        assert_eq!(COLUMNS.split(',').count(), 3 + cell.row().split(',').count());
    }
}
