//! Products of a chunk (`cuda/GEMM.md`): which kernel or the library, and weights that are not 16-bit turned into bf16 first.

use mac_attention::cuda::{
    Argument, CudaError, DeviceBuffer, Gpu, Kernel, Launch, Swizzle, Tensor, TensorElement, TensorMap,
};

use super::abi::{GemmArgs, WeightType};
use super::cublaslt::{self, CublasLt, CublasLtInfo, Factors, LibraryProducts, Workspace, probe_cublaslt};
use super::kernels::{Kernels, load};
use super::matrix::DeviceProjection;
use crate::EngineError;

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// f32 `[m, n]`.
    StoreF32,
    /// Added to f32 `[m, n]`.
    AddF32,
    /// `silu(first half) · second half` of the rows of the weights, bf16 `[m, n / 2]`.
    SiluBf16,
}

impl Epilogue {
    const ALL: [Self; 3] = [Self::StoreF32, Self::AddF32, Self::SiluBf16];

    fn name(self) -> &'static str {
        match self {
            Self::StoreF32 => "store_f32",
            Self::AddF32 => "add_f32",
            Self::SiluBf16 => "silu_bf16",
        }
    }
}

/// 16-bit type of both factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    Bf16,
    F16,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Input, sizes and output of a product: `m` rows of activations, bf16 at `a`. Addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) a: u64,
    pub(super) m: usize,
    pub(super) c: u64,
    /// f32; 0: none.
    pub(super) bias: u64,
    pub(super) epilogue: Epilogue,
}

#[derive(Debug)]
struct Variants {
    /// By element and epilogue.
    kernels: Vec<(Element, Epilogue, Kernel)>,
}

impl Variants {
    fn load(gpu: &Gpu, source: &str, prefix: &str, shared_bytes: usize) -> Result<Self, CudaError> {
        let module = load(gpu, source)?;
        let mut kernels = Vec::new();
        for element in [Element::Bf16, Element::F16] {
            for epilogue in Epilogue::ALL {
                let kernel = module.kernel(&format!("{prefix}_{}_{}", element.name(), epilogue.name()))?;
                kernel.allow_shared(shared_bytes)?;
                kernels.push((element, epilogue, kernel));
            }
        }
        Ok(Self { kernels })
    }

    fn get(&self, element: Element, epilogue: Epilogue) -> Result<&Kernel, CudaError> {
        let found = self.kernels.iter().find(|(e, p, _)| (*e, *p) == (element, epilogue));
        found.map(|(.., kernel)| kernel).ok_or_else(|| CudaError::MissingKernel { name: epilogue.name().to_owned() })
    }
}

/// Hopper's own instructions.
#[derive(Debug)]
struct Hopper {
    wide: Variants,
    /// For up to some hundred rows.
    narrow: Variants,
    /// For short prompts.
    few: Variants,
}

impl Hopper {
    fn load(gpu: &Gpu) -> Result<Self, CudaError> {
        Ok(Self {
            wide: Variants::load(gpu, "gemm_wgmma", "gemm_wgmma", WGMMA_SHARED)?,
            narrow: Variants::load(gpu, "gemm_wgmma", "gemm_wgmma_narrow", WGMMA_SHARED)?,
            few: Variants::load(gpu, "gemm_few", "gemm_few", FEW_SHARED)?,
        })
    }
}

/// Products of activations and weights.
#[derive(Debug)]
pub(super) struct Gemm {
    any: Variants,
    to_f16: Kernel,
    hopper: Option<Hopper>,
    pub(super) library: Option<LibraryProducts>,
    /// Flags, then parts of sums; the library's too, as products follow each other.
    workspace: DeviceBuffer<u8>,
    /// bf16; weights of other types on their way into a product.
    unpacked: DeviceBuffer<u16>,
}

const MMA_SHARED: usize = 49_152;
const WGMMA_SHARED: usize = 197_632;
const FEW_SHARED: usize = 230_400;
const TILE: usize = 128;

/// Families of Hopper's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Wide,
    Narrow,
    Few,
}

impl Family {
    /// The fastest for `m` rows of activations and weights of that many elements.
    fn of(m: usize, weight_elements: usize) -> Self {
        match m {
            ..=32 => Self::Few,
            33..=64 if weight_elements >= 1 << 26 => Self::Few,
            33..=128 => Self::Narrow,
            225..=256 if weight_elements <= 1 << 26 => Self::Narrow,
            129..=512 if weight_elements <= 1 << 24 => Self::Narrow,
            257..=320 if weight_elements >= 1 << 25 => Self::Few,
            _ => Self::Wide,
        }
    }
}

/// Zero between products.
const FLAG_BYTES: usize = 16_384;

fn workspace_bytes(multiprocessors: usize) -> usize {
    FLAG_BYTES + multiprocessors * 163_840
}

/// The largest that a model asks of its products.
#[derive(Debug, Clone, Copy)]
pub(super) struct GemmSizes {
    /// Elements of the largest projection that is neither bf16 nor f16.
    pub(super) unpacked_elements: usize,
    /// Rows of a chunk.
    pub(super) rows: usize,
    pub(super) d_model: usize,
    pub(super) d_ff: usize,
}

impl Gemm {
    pub(super) fn new(gpu: &Gpu, sizes: GemmSizes) -> Result<Self, EngineError> {
        let any = load(gpu, "gemm_mma")?;
        let hopper = (gpu.info().compute_capability == (9, 0)).then(|| Hopper::load(gpu)).transpose()?;
        let has_library = cublaslt::is_worth(gpu, sizes.d_model, sizes.d_ff) && probe_cublaslt().is_ok();
        let used = hopper.is_some() || has_library;
        let workspace = gpu.alloc_zeroed(if used { workspace_bytes(gpu.info().multiprocessors) } else { 0 })?;
        let mut library = None;
        if has_library {
            let parts = Workspace { address: workspace.address_of(FLAG_BYTES), bytes: workspace.len() - FLAG_BYTES };
            // SAFETY: the workspace goes with the library, and products follow each other in one stream.
            // Where it does not open, own kernels do the same.
            if let Ok(opened) = unsafe { CublasLt::open(gpu, parts) } {
                library = Some(LibraryProducts::new(gpu, opened, any.kernel("gemm_silu_bf16")?, sizes)?);
            }
        }
        Ok(Self {
            any: Variants::load(gpu, "gemm_mma", "gemm", MMA_SHARED)?,
            to_f16: any.kernel("gemm_bf16_to_f16")?,
            hopper,
            library,
            workspace,
            unpacked: gpu.alloc(sizes.unpacked_elements)?,
        })
    }

    /// Bytes of device memory; a little less without the library.
    pub(super) fn bytes(gpu: &Gpu, sizes: GemmSizes) -> u64 {
        let own = workspace_bytes(gpu.info().multiprocessors) + 2 * sizes.unpacked_elements;
        (own + LibraryProducts::bytes(gpu, sizes)) as u64
    }

    /// The library that some products go to.
    pub(super) fn library(&self) -> Option<&CublasLtInfo> {
        self.library.as_ref().map(LibraryProducts::info)
    }

    /// Switches the library off, for comparison.
    pub(super) fn drop_library(&mut self) {
        self.library = None;
    }

    /// Queues a product. The input becomes f16 in place where the weights are.
    ///
    /// # Safety
    /// `a` holds `[m, k]` bf16, `c` has room for what the epilogue says, both at multiples of 16 bytes; the projection is
    /// no larger than was said to [`Self::new`].
    pub(super) unsafe fn multiply(
        &self,
        kernels: &Kernels,
        projection: &DeviceProjection,
        product: Product,
    ) -> Result<(), CudaError> {
        let (rows, cols) = (projection.rows(), projection.cols);
        let (element, w) = match projection.parts.as_slice() {
            [only] if only.weight_type == WeightType::Bf16 => (Element::Bf16, only.data.address()),
            [only] if only.weight_type == WeightType::F16 => {
                let (a, count) = (product.a, product.m * cols);
                let launch = Launch::new(count.div_ceil(2048), 256).overlap(kernels.overlap());
                // SAFETY: in place over the input.
                unsafe { self.to_f16.launch(launch, &[(&a).into(), (&a).into(), (&count).into()])? };
                (Element::F16, only.data.address())
            }
            parts => {
                let mut first = 0;
                for part in parts {
                    let out = self.unpacked.address_of(first * cols);
                    let sizes = [part.rows, part.cols];
                    // SAFETY: the parts follow each other in a buffer that holds the projection.
                    unsafe { kernels.dequantise(part.weight_type, part.data.address(), out, sizes)? };
                    first += part.rows;
                }
                (Element::Bf16, self.unpacked.address())
            }
        };
        if let Some(library) = &self.library {
            let factors = Factors { element, w, rows, cols };
            // SAFETY: passed on.
            if unsafe { library.multiply(kernels, factors, product)? } {
                return Ok(());
            }
        }
        let n = if product.epilogue == Epilogue::SiluBf16 { rows / 2 } else { rows };
        let args = GemmArgs {
            a: product.a,
            w,
            bias: product.bias,
            c: product.c,
            workspace: self.workspace.address(),
            m: product.m as i32,
            n: n as i32,
            k: cols as i32,
            lda: cols as i32,
            ldw: cols as i32,
            ldc: n as i32,
        };
        let overlap = kernels.overlap();
        let Some(hopper) = &self.hopper else {
            let tile = if product.epilogue == Epilogue::SiluBf16 { TILE / 2 } else { TILE };
            let launch = Launch::new(product.m.div_ceil(TILE) * n.div_ceil(tile), 128).shared(MMA_SHARED);
            let kernel = self.any.get(element, product.epilogue)?;
            // SAFETY: passed on.
            return unsafe { kernel.launch(launch.overlap(overlap), &[Argument::from(&args)]) };
        };
        let map_a = tensor_map(&kernels.gpu, element, args.a, [product.m, cols])?;
        let map_w = tensor_map(&kernels.gpu, element, args.w, [rows, cols])?;
        let multiprocessors = kernels.gpu.info().multiprocessors;
        let every = Launch::new(multiprocessors, 384);
        let (variants, launch) = match Family::of(product.m, rows * cols) {
            Family::Wide => {
                let in_pairs = Launch { cluster: 2, ..Launch::new(multiprocessors / 2 * 2, 384) };
                (&hopper.wide, in_pairs.shared(WGMMA_SHARED))
            }
            Family::Narrow => (&hopper.narrow, every.shared(WGMMA_SHARED)),
            Family::Few => (&hopper.few, every.shared(FEW_SHARED)),
        };
        let launch = launch.overlap(overlap);
        let kernel = variants.get(element, product.epilogue)?;
        // SAFETY: passed on.
        unsafe { kernel.launch(launch, &[(&map_a).into(), (&map_w).into(), (&args).into()]) }
    }
}

/// A matrix `[rows, cols]` as bulk copies see it.
fn tensor_map(gpu: &Gpu, element: Element, address: u64, [rows, cols]: [usize; 2]) -> Result<TensorMap, CudaError> {
    gpu.tensor_map(Tensor {
        address,
        element: match element {
            Element::Bf16 => TensorElement::Bf16,
            Element::F16 => TensorElement::F16,
        },
        extents: &[cols as u64, rows as u64],
        strides: &[2 * cols as u64],
        tile: &[64, 64],
        swizzle: Swizzle::Bytes128,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_rows_has_its_family() {
        let of = |m| Family::of(m, 4096 * 4096);
        assert_eq!(
            [1, 32, 33, 128, 200, 512, 513].map(of),
            [Family::Few, Family::Few, Family::Narrow, Family::Narrow, Family::Narrow, Family::Narrow, Family::Wide,]
        );
        let large = |m| Family::of(m, 28_672 * 4096);
        assert_eq!(
            [64, 65, 129, 256, 257, 320, 321].map(large),
            [Family::Few, Family::Narrow, Family::Wide, Family::Wide, Family::Few, Family::Few, Family::Wide,]
        );
        assert_eq!([200, 256].map(|m| Family::of(m, 6144 * 4096)), [Family::Wide, Family::Narrow]);
    }
}
