//! The GPU: whether answers can be computed on it, how fast it reads, and whether its kernels are right.

use mac_attention::AttentionShape;
use mac_attention::cuda::{self, CudaError, FATBINS, PlainSum};
use reprise_engine::exec::probe_cublaslt;
use serde::Serialize;

use super::break_even::Point;
use super::self_check::Check;
use super::{BreakEven, cuda_check};
use crate::bench::attention_cuda::{Bench, made_up_kv};
use crate::bench::cases::Case;
use crate::bench::plan::Plan;
use crate::failure::Failure;
use crate::figures::{bytes, median};
use crate::machine;

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct GpuReport {
    /// `ready`: used. `no_driver`, `unusable`, `not_built`, `unfit`: cannot be used here, for a reason. `broken`: should
    /// work and does not.
    state: &'static str,
    /// In words.
    pub(super) words: String,
    /// CUDA sources in this program; 0 without kernels.
    kernel_sources: usize,
    kernel_bytes: usize,
    /// NVIDIA's library for the products of prefill; `null` where it is not.
    cublaslt: Option<String>,
    /// Where it was looked for, if it is not.
    cublaslt_missing: Option<String>,
    /// Compute capability of the machine code in use, for example 90.
    machine_code: Option<usize>,
    /// Bytes per second of a plain sum.
    read_bandwidth: Option<f64>,
    /// Kernels against the oracle.
    pub(super) checks: Vec<Check>,
    pub(super) break_even: Vec<BreakEven>,
}

/// Bytes of the plain sum: far more than second-level caches hold.
const SUM_BYTES: usize = 1 << 30;
const LAG: usize = 64;
/// Layers of a quick look at where reuse wins.
const LAYERS: usize = 16;

impl GpuReport {
    /// Asks the driver, and if there is a GPU to use, checks and measures it.
    pub(super) fn look() -> Self {
        let mut report = Self::new(machine::Gpu::look());
        if report.state != "found" {
            return report;
        }
        match report.examine() {
            Ok(()) => report.state = "ready",
            Err(failure) => report.explain(&failure),
        }
        report
    }

    fn new(machine::Gpu { state, words }: machine::Gpu) -> Self {
        Self {
            state,
            words,
            kernel_sources: FATBINS.len(),
            kernel_bytes: FATBINS.iter().map(|(_, code, _)| code.len()).sum(),
            cublaslt: None,
            cublaslt_missing: None,
            machine_code: None,
            read_bandwidth: None,
            checks: Vec::new(),
            break_even: Vec::new(),
        }
    }

    /// Nothing that should work is wrong.
    pub(super) fn pass(&self) -> bool {
        self.state != "broken" && self.checks.iter().all(|check| check.pass)
    }

    fn examine(&mut self) -> Result<(), Failure> {
        let gpu = cuda::Gpu::open(0)?;
        match probe_cublaslt() {
            Ok(found) => self.cublaslt = Some(format!("{found}, {}", found.path.display())),
            Err(error) => self.cublaslt_missing = Some(error.to_string()),
        }
        let mut sum = PlainSum::new(&gpu)?;
        self.machine_code = Some(sum.machine_code()?);
        self.checks = cuda_check::run(&gpu)?;
        let elements = SUM_BYTES / size_of::<u16>();
        let times = sum.run(&gpu.alloc_zeroed(elements)?, elements, 9)?;
        self.read_bandwidth = Some(SUM_BYTES as f64 / (median(&times[1..]) * 1e-6));
        for (q, kv, dim) in [(8, 2, 64), (32, 8, 128)] {
            self.break_even.push(break_even(&gpu, AttentionShape::new(q, kv, dim)?)?);
        }
        Ok(())
    }

    fn explain(&mut self, failure: &Failure) {
        // What a driver, a GPU or a build cannot do is no fault; what breaks while it should work is one.
        let unfit = matches!(
            failure,
            Failure::Cuda(
                CudaError::NoKernels
                    | CudaError::OldDriver { .. }
                    | CudaError::OldDevice { .. }
                    | CudaError::NoDevice { .. }
                    | CudaError::OutOfMemory { .. }
            )
        );
        self.state = if unfit { "unfit" } else { "broken" };
        let advice = failure.advice().map_or(String::new(), |advice| format!(" ({advice})"));
        self.words = format!("{}; not used: {failure}{advice}", self.words);
    }

    /// For a person.
    pub(super) fn lines(&self) -> Vec<String> {
        let kernels = match (self.kernel_sources, self.machine_code) {
            (0, _) => "none in this program: it was built where no CUDA compiler was to be found".to_owned(),
            (sources, code) => {
                let used = code.map_or(String::new(), |code| {
                    format!("; in use: machine code for compute capability {}.{}", code / 10, code % 10)
                });
                format!("{} from {sources} sources in this program{used}", bytes(self.kernel_bytes as u64))
            }
        };
        let mut lines = vec![format!("GPU          {}", self.words), format!("GPU kernels  {kernels}")];
        match (&self.cublaslt, &self.cublaslt_missing) {
            (Some(found), _) => lines.push(format!("GPU library  {found}; used in prefill where it is faster")),
            (None, Some(missing)) => lines.push(format!("GPU library  none, own kernels are used: {missing}")),
            (None, None) => {}
        }
        if let Some(rate) = self.read_bandwidth {
            lines.push(format!("GPU reads    {}/s (plain sum)", bytes(rate as u64)));
        }
        lines
    }
}

fn break_even(gpu: &cuda::Gpu, shape: AttentionShape) -> Result<BreakEven, Failure> {
    let plan = |context: usize| Plan::new(shape, context, LAG, 0, 2).with_steps(9, 2, 0).with_layers(LAYERS);
    let lengths = [2, 4, 8, 16, 32].map(|k| k << 10);
    let kv = made_up_kv(gpu, &lengths.map(plan))?;
    let mut points = Vec::new();
    for context in lengths {
        let mut bench = Bench::build(gpu, plan(context), &kv)?;
        let all_hit = bench.measure(Case::AllHit)?;
        points.push(Point { context, exact_s: all_hit.exact_seconds, all_hit_s: all_hit.seconds });
    }
    Ok(BreakEven::new(shape, &points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_here_is_told_apart_from_what_is_broken() {
        let report = |failure: CudaError| {
            let mut report = GpuReport::new(machine::Gpu { state: "found", words: "A GPU".to_owned() });
            report.explain(&Failure::from(failure));
            (report.state, report.pass(), report.words)
        };
        let (state, pass, words) = report(CudaError::NoKernels);
        assert!(state == "unfit" && pass && words.starts_with("A GPU; not used: this program was built without"));
        let fault = CudaError::Driver { call: "cuLaunchKernelEx", reason: "an illegal address".to_owned() };
        let (state, pass, words) = report(fault);
        assert!(state == "broken" && !pass && words.contains("illegal address"));
    }
}
