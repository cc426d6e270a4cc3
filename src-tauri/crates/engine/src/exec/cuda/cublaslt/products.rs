//! Which products go to the library, and how.

use std::cell::RefCell;
use std::collections::HashMap;

use mac_attention::cuda::{CudaError, DeviceBuffer, Gpu, Kernel, Launch};

use super::{ALIGNMENT, Addresses, CublasLt, CublasLtInfo, Output, Plan, Shape};
use crate::exec::cuda::gemm::{Element, Epilogue, GemmSizes, Product};
use crate::exec::cuda::kernels::Kernels;

/// Weights smaller than this are not worth a library.
const LEAST_WEIGHT_ELEMENTS: usize = 1 << 22;
/// Rows of gate and up that are written at a time.
const GATED_ROWS: usize = 512;
/// Plans that are kept; each is a few hundred bytes, and every number of rows has its own.
const MOST_PLANS: usize = 1024;

const HOPPER: (i32, i32) = (9, 0);
/// On Hopper: rows of weights, which are columns of C, up to which the library is the faster one.
const HOPPER_MOST_ROWS: usize = 3072;
/// And rows of A from which it is.
const HOPPER_LEAST_M: usize = 1024;
/// Elsewhere: rows of A from which it is.
const LEAST_M: usize = 16;
/// Rows of a chunk of a long prompt.
const LONG_CHUNK: usize = 2048;

/// Weights of a product. An address and sizes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Factors {
    pub(in super::super) element: Element,
    pub(in super::super) w: u64,
    pub(in super::super) rows: usize,
    pub(in super::super) cols: usize,
}

/// The products that cuBLASLt does.
#[derive(Debug)]
pub(in super::super) struct LibraryProducts {
    library: CublasLt,
    /// `None`: the library does not do it.
    plans: RefCell<HashMap<Shape, Option<Plan>>>,
    silu: Kernel,
    /// bf16 `[some rows, 2 d_ff]`.
    gate_up: DeviceBuffer<u16>,
    rule: Rule,
    #[cfg(test)]
    queued: std::cell::Cell<usize>,
}

/// Whether the library does a product: of the device's compute capability, the epilogue, m, and the sizes of the weights.
type Rule = fn((i32, i32), Epilogue, usize, [usize; 2]) -> bool;

/// Whether the library does a product faster than the own kernels. It depends on nothing but the device and the sizes, so
/// that the same prompt is read with the same sums in every run; `cuda/GEMM.md` has the measurements. `rows`: of the weights.
fn is_faster(capability: (i32, i32), epilogue: Epilogue, m: usize, [rows, cols]: [usize; 2]) -> bool {
    if rows * cols < LEAST_WEIGHT_ELEMENTS {
        return false;
    }
    match (capability, epilogue) {
        // Own tiles are large: few columns give too few of them. Short prompts win less than the library takes for their
        // first product.
        (HOPPER, Epilogue::AddF32) => m >= HOPPER_LEAST_M && rows <= HOPPER_MOST_ROWS,
        (HOPPER, Epilogue::StoreF32 | Epilogue::SiluBf16) => false,
        // Own kernels for these devices are general ones, with one block per 128 rows of W and no part of k in parallel.
        _ => m >= LEAST_M,
    }
}

/// Whether the library is of use to a model of that size, so that loading it is.
pub(in super::super) fn is_worth(gpu: &Gpu, d_model: usize, d_ff: usize) -> bool {
    let largest = [[d_model, d_ff], [2 * d_ff, d_model]];
    let capability = gpu.info().compute_capability;
    largest
        .into_iter()
        .zip([Epilogue::AddF32, Epilogue::SiluBf16])
        .any(|(sizes, epilogue)| is_faster(capability, epilogue, LONG_CHUNK, sizes))
}

/// Rows of gate and up that are written at a time; 0 where own kernels do them.
fn gated_rows(gpu: &Gpu, sizes: GemmSizes) -> usize {
    if gpu.info().compute_capability == HOPPER { 0 } else { sizes.rows.min(GATED_ROWS) }
}

impl LibraryProducts {
    pub(in super::super) fn new(
        gpu: &Gpu,
        library: CublasLt,
        silu: Kernel,
        sizes: GemmSizes,
    ) -> Result<Self, CudaError> {
        let gate_up = gpu.alloc(gated_rows(gpu, sizes) * 2 * sizes.d_ff)?;
        Ok(Self {
            library,
            plans: RefCell::default(),
            silu,
            gate_up,
            rule: is_faster,
            #[cfg(test)]
            queued: std::cell::Cell::default(),
        })
    }

    /// Bytes of device memory, where there is the library.
    pub(in super::super) fn bytes(gpu: &Gpu, sizes: GemmSizes) -> usize {
        if is_worth(gpu, sizes.d_model, sizes.d_ff) {
            size_of::<u16>() * gated_rows(gpu, sizes) * 2 * sizes.d_ff
        } else {
            0
        }
    }

    pub(in super::super) fn info(&self) -> &CublasLtInfo {
        self.library.info()
    }

    /// Queues a product if the library does it, and does it faster; else `false`, and nothing was queued.
    ///
    /// # Safety
    /// As for [`Gemm::multiply`](crate::exec::cuda::gemm::Gemm::multiply).
    pub(in super::super) unsafe fn multiply(
        &self,
        kernels: &Kernels,
        factors: Factors,
        product: Product,
    ) -> Result<bool, CudaError> {
        let capability = kernels.gpu.info().compute_capability;
        if product.bias != 0 || !(self.rule)(capability, product.epilogue, product.m, [factors.rows, factors.cols]) {
            return Ok(false);
        }
        // SAFETY: passed on.
        unsafe {
            match product.epilogue {
                Epilogue::StoreF32 => Ok(self.queue(factors, product.m, Output::StoreF32, product.a, product.c)),
                Epilogue::AddF32 => Ok(self.queue(factors, product.m, Output::AddF32, product.a, product.c)),
                Epilogue::SiluBf16 => self.gated(kernels, factors, product),
            }
        }
    }

    /// Gate and up of some rows, then `SiLU`, until all rows are done.
    unsafe fn gated(&self, kernels: &Kernels, factors: Factors, product: Product) -> Result<bool, CudaError> {
        let (n, k) = (factors.rows / 2, factors.cols);
        let at_a_time = self.gate_up.len() / factors.rows;
        if at_a_time == 0 {
            return Ok(false);
        }
        let gate_up = self.gate_up.address();
        for first in (0..product.m).step_by(at_a_time) {
            let rows = at_a_time.min(product.m - first);
            let a = product.a + (first * k * size_of::<u16>()) as u64;
            // SAFETY: passed on; the buffer holds as many rows.
            if !unsafe { self.queue(factors, rows, Output::StoreBf16, a, gate_up) } {
                // What rows there are already are written once more, by the own kernel.
                return Ok(false);
            }
            let out = product.c + (first * n * size_of::<u16>()) as u64;
            let (width, count) = (n as i32, rows * n);
            let launch = Launch::new(count.div_ceil(2048), 256).overlap(kernels.overlap());
            // SAFETY: as above.
            unsafe {
                self.silu.launch(launch, &[(&gate_up).into(), (&out).into(), (&width).into(), (&count).into()])?;
            }
        }
        Ok(true)
    }

    /// Whether the product was queued.
    unsafe fn queue(&self, factors: Factors, m: usize, output: Output, a: u64, c: u64) -> bool {
        let Factors { element, w, rows, cols } = factors;
        if [a, w, c].iter().any(|address| !address.is_multiple_of(ALIGNMENT)) {
            return false;
        }
        let shape = Shape { element, m, n: rows, k: cols, output };
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= MOST_PLANS {
            plans.clear();
        }
        let plan = plans.entry(shape).or_insert_with(|| self.library.plan(shape).ok());
        // SAFETY: passed on.
        let queued =
            plan.as_ref().is_some_and(|plan| unsafe { self.library.multiply(plan, Addresses { a, w, c }).is_ok() });
        if !queued {
            *plan = None;
        }
        #[cfg(test)]
        self.queued.set(self.queued.get() + usize::from(queued));
        queued
    }

    /// Products so far.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queued.get()
    }

    /// From now on the library does everything that it can.
    #[cfg(test)]
    pub(super) fn do_all(&mut self, gpu: &Gpu, d_ff: usize) {
        self.rule = |_, _, _, _| true;
        self.gate_up = gpu.alloc(GATED_ROWS * 2 * d_ff).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_depends_on_sizes_and_device() {
        let (qwen, llama, tiny) = ([2560, 9728], [4096, 14_336], [512, 1536]);
        assert!(is_faster((9, 0), Epilogue::AddF32, 2048, qwen));
        assert!(!is_faster((9, 0), Epilogue::AddF32, 512, qwen));
        assert!(!is_faster((9, 0), Epilogue::AddF32, 2048, llama));
        assert!(!is_faster((9, 0), Epilogue::StoreF32, 2048, qwen));
        assert!(is_faster((8, 9), Epilogue::StoreF32, 64, llama));
        assert!(!is_faster((8, 9), Epilogue::StoreF32, 1, llama));
        assert!(!is_faster((8, 9), Epilogue::StoreF32, 2048, tiny));
    }
}
