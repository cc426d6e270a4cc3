//! Products by NVIDIA's cuBLASLt, where the machine has it.

mod library;
mod products;
#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};
use std::thread::JoinHandle;

use mac_attention::cuda::Gpu;

use library::{Algorithm, Destroy, Functions, Set, Suggestion, load};
pub use library::{CUBLASLT_VARIABLE, CublasLtAttempt, CublasLtError, CublasLtInfo, CublasLtRefusal, probe_cublaslt};
pub(super) use products::{Factors, LibraryProducts, is_worth};

use super::gemm::Element;

/// The library on its way. Loading takes some tenths of a second, about as long as reading weights, so a thread of its own does
/// it. Dropping waits for the end: a process must not end while a library starts.
#[derive(Debug, Default)]
pub(super) struct LoadAhead(Option<JoinHandle<()>>);

impl LoadAhead {
    /// Begins, if the library is of use to a model of that size on this device.
    pub(super) fn begin(gpu: &Gpu, d_model: usize, d_ff: usize) -> Self {
        if !is_worth(gpu, d_model, d_ff) {
            return Self::default();
        }
        let gpu = gpu.clone();
        let shape = Shape { element: Element::Bf16, m: 2048, n: d_model, k: d_ff, output: Output::AddF32 };
        let ask_once = move || {
            // SAFETY: nothing is computed.
            let library = unsafe { CublasLt::open(&gpu, Workspace { address: 0, bytes: 0 }) };
            // What it prepares when first asked, it keeps for the process. Failures show when it is needed.
            let _ = library.and_then(|library| library.plan(shape));
        };
        // Without a thread it is loaded later.
        Self(std::thread::Builder::new().name("cublaslt".into()).spawn(ask_once).ok())
    }
}

impl Drop for LoadAhead {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // It says nothing, and a panic in it was told.
            let _ = thread.join();
        }
    }
}

/// `cublasComputeType_t`: f32.
const COMPUTE_F32: c_int = 68;
/// `cudaDataType`
const R_F32: c_int = 0;
const R_F16: c_int = 2;
const R_BF16: c_int = 14;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, and `CUBLAS_OP_T`.
const DESC_TRANS_A: c_int = 3;
const TRANSPOSED: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`
const PREFERENCE_WORKSPACE: c_int = 1;

/// Starts of matrices are multiples of this, in bytes: unless told otherwise the library takes it for granted.
pub(super) const ALIGNMENT: u64 = 256;

/// C\[m, n\] = A\[m, k\] · W\[n, k\]ᵀ, rows without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) element: Element,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) output: Output,
}

/// What becomes of the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Output {
    StoreF32,
    AddF32,
    StoreBf16,
}

/// Addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) a: u64,
    pub(super) w: u64,
    pub(super) c: u64,
}

/// The library on a device. Its work goes into the device's stream.
#[derive(Debug)]
pub(super) struct CublasLt {
    /// First, so that it goes while the device is there.
    handle: Owned,
    functions: Functions,
    info: CublasLtInfo,
    gpu: Gpu,
    /// Of whoever opened it, who keeps it alive.
    workspace: Workspace,
}

/// Device memory for parts of sums, and whatever else an algorithm needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Workspace {
    pub(super) address: u64,
    pub(super) bytes: usize,
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // The library frees what it has on the device whose context is current.
        let _ = self.gpu.stream_handle();
    }
}

/// One shape, and the library's choice for it.
#[derive(Debug)]
pub(super) struct Plan {
    desc: Owned,
    a: Owned,
    w: Owned,
    c: Owned,
    algorithm: Algorithm,
    /// Share of what C holds.
    beta: f32,
}

impl CublasLt {
    /// Opens the library, if there is one.
    ///
    /// # Safety
    /// The workspace stays until this is dropped, and nothing that may run beside this uses it.
    pub(super) unsafe fn open(gpu: &Gpu, workspace: Workspace) -> Result<Self, CublasLtError> {
        let loaded = load()?;
        // The context of the device becomes the thread's, which the library takes.
        gpu.stream_handle().map_err(|_| CublasLtError::Call { call: "cuCtxSetCurrent", status: -1 })?;
        let functions = loaded.functions;
        let handle = Owned::new("cublasLtCreate", functions.destroy, |made| {
            // SAFETY: the pointer is valid for the call.
            unsafe { (functions.create)(made) }
        })?;
        Ok(Self { handle, functions, info: loaded.info, gpu: gpu.clone(), workspace })
    }

    pub(super) fn info(&self) -> &CublasLtInfo {
        &self.info
    }

    /// The library's first suggestion for a shape. The same on every call, card and version being equal.
    pub(super) fn plan(&self, shape: Shape) -> Result<Plan, CublasLtError> {
        let lib = &self.functions;
        let Shape { element, m, n, k, output } = shape;
        let element = match element {
            Element::Bf16 => R_BF16,
            Element::F16 => R_F16,
        };
        let of_c = if output == Output::StoreBf16 { R_BF16 } else { R_F32 };
        // To the library matrices lie column by column: it sees the product's transpose, W · Aᵀ, with W transposed as it
        // lies.
        let layout = |element, rows: usize, columns: usize| {
            // SAFETY: the pointer is valid for the call.
            Owned::new("cublasLtMatrixLayoutCreate", lib.layout_destroy, |made| unsafe {
                (lib.layout_create)(made, element, rows as u64, columns as u64, rows as i64)
            })
        };
        // SAFETY: as above.
        let desc = Owned::new("cublasLtMatmulDescCreate", lib.desc_destroy, |made| unsafe {
            (lib.desc_create)(made, COMPUTE_F32, R_F32)
        })?;
        desc.set("cublasLtMatmulDescSetAttribute", lib.desc_set, DESC_TRANS_A, &TRANSPOSED)?;
        let (w, a, c) = (layout(element, k, n)?, layout(element, k, m)?, layout(of_c, n, m)?);
        let algorithm = self.suggestion(&desc, [&w, &a, &c])?;
        Ok(Plan { desc, a, w, c, algorithm, beta: if output == Output::AddF32 { 1.0 } else { 0.0 } })
    }

    fn suggestion(&self, desc: &Owned, [w, a, c]: [&Owned; 3]) -> Result<Algorithm, CublasLtError> {
        const CALL: &str = "cublasLtMatmulAlgoGetHeuristic";
        let lib = &self.functions;
        // SAFETY: the pointer is valid for the call.
        let preference = Owned::new("cublasLtMatmulPreferenceCreate", lib.preference_destroy, |made| unsafe {
            (lib.preference_create)(made)
        })?;
        let bytes = self.workspace.bytes as u64;
        preference.set("cublasLtMatmulPreferenceSetAttribute", lib.preference_set, PREFERENCE_WORKSPACE, &bytes)?;
        let (mut suggestion, mut count) = (Suggestion::default(), 0);
        // SAFETY: handle and descriptors are alive, and there is room for the one suggestion that is asked for.
        let status = unsafe {
            (lib.suggest)(
                self.handle.0,
                desc.0,
                w.0,
                a.0,
                c.0,
                c.0,
                preference.0,
                1,
                &raw mut suggestion,
                &raw mut count,
            )
        };
        checked(CALL, status)?;
        checked(CALL, if count == 1 { suggestion.status } else { NOT_SUPPORTED })?;
        if suggestion.workspace_bytes > self.workspace.bytes {
            return Err(CublasLtError::Call { call: CALL, status: NOT_SUPPORTED });
        }
        Ok(suggestion.algorithm)
    }

    /// Queues a product. Where it fails, nothing was queued.
    ///
    /// # Safety
    /// The matrices have the plan's shape, start at multiples of [`ALIGNMENT`], and stay until the work is done.
    pub(super) unsafe fn multiply(&self, plan: &Plan, addresses: Addresses) -> Result<(), CublasLtError> {
        const CALL: &str = "cublasLtMatmul";
        let stream = self.gpu.stream_handle().map_err(|_| CublasLtError::Call { call: CALL, status: NOT_SUPPORTED })?;
        let pointer = |address: u64| address as *mut c_void;
        let Addresses { a, w, c } = addresses;
        // SAFETY: handle, descriptors, workspace and stream are alive; the rest is the caller's promise. Alpha and beta are
        // read during the call.
        let status = unsafe {
            (self.functions.matmul)(
                self.handle.0,
                plan.desc.0,
                &raw const ONE,
                pointer(w),
                plan.w.0,
                pointer(a),
                plan.a.0,
                &raw const plan.beta,
                pointer(c),
                plan.c.0,
                pointer(c),
                plan.c.0,
                &raw const plan.algorithm,
                pointer(self.workspace.address),
                self.workspace.bytes,
                stream,
            )
        };
        checked(CALL, status)
    }
}

static ONE: f32 = 1.0;
/// `CUBLAS_STATUS_NOT_SUPPORTED`
const NOT_SUPPORTED: c_int = 15;

fn checked(call: &'static str, status: c_int) -> Result<(), CublasLtError> {
    if status == 0 { Ok(()) } else { Err(CublasLtError::Call { call, status }) }
}

/// Something that the library made and ends.
#[derive(Debug)]
struct Owned(*mut c_void, Destroy);

// SAFETY: the library's objects may be used from any thread, by one at a time.
unsafe impl Send for Owned {}

impl Owned {
    fn new(
        call: &'static str,
        destroy: Destroy,
        make: impl FnOnce(*mut *mut c_void) -> c_int,
    ) -> Result<Self, CublasLtError> {
        let mut made = std::ptr::null_mut();
        checked(call, make(&raw mut made))?;
        Ok(Self(made, destroy))
    }

    fn set<T>(&self, call: &'static str, set: Set, attribute: c_int, value: &T) -> Result<(), CublasLtError> {
        // SAFETY: the object is alive, and the value of the size that is told.
        checked(call, unsafe { set(self.0, attribute, std::ptr::from_ref(value).cast(), size_of::<T>()) })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Failing to free at the end helps nobody to know.
        // SAFETY: made by the library's counterpart and used by nobody any more.
        let _ = unsafe { (self.1)(self.0) };
    }
}
