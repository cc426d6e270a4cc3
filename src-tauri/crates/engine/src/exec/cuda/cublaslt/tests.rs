//! On a GPU: the library's products and the own ones against f64, and a model read with and without the library.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use half::{bf16, f16};
use mac_attention::RingLayout;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::probe_cublaslt;
use crate::KvFormat;
use crate::exec::Executor;
use crate::exec::cuda::abi::WeightType;
use crate::exec::cuda::gemm::{Epilogue, Gemm, GemmSizes, Product};
use crate::exec::cuda::matrix::{DeviceMatrix, DeviceProjection};
use crate::exec::cuda::{CudaExecutor, CudaSetup, MadeUpWeights};
use crate::model::named_shape;

/// A GPU and the library, or why not. Where they must be, their absence fails.
fn setup() -> Option<CudaSetup> {
    let required = std::env::var("REPRISE_GPU_TESTS").as_deref() == Ok("required");
    match (CudaSetup::open(), probe_cublaslt()) {
        (Ok(setup), Ok(found)) => {
            eprintln!("{found}, {}", found.path.display());
            Some(setup)
        }
        (Err(error), _) => {
            assert!(!required, "{error}");
            eprintln!("not tested here: {error}");
            None
        }
        (_, Err(error)) => {
            eprintln!("not tested here: {error}");
            None
        }
    }
}

/// Random numbers in -1..1, which repeat after a prime number of them: drawing each anew takes longer than the products.
struct Noise(Vec<f32>, usize);

impl Noise {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        Self((0..65_521).map(|_| rng.random_range(-1.0f32..1.0)).collect(), 0)
    }

    /// Numbers times `scale`, and the bits that stand for them.
    fn draw(&mut self, count: usize, scale: f32, to_bits: impl Fn(f32) -> (u16, f32)) -> (Vec<u16>, Vec<f32>) {
        self.1 = (self.1 + 7919) % self.0.len();
        self.0.iter().cycle().skip(self.1).take(count).map(|x| to_bits(scale * x)).unzip()
    }
}

fn as_bf16(x: f32) -> (u16, f32) {
    let x = bf16::from_f32(x);
    (x.to_bits(), x.to_f32())
}

fn as_f16(x: f32) -> (u16, f32) {
    let x = f16::from_f32(x);
    (x.to_bits(), x.to_f32())
}

struct Case {
    epilogue: Epilogue,
    weight_type: WeightType,
    m: usize,
    /// Rows of W.
    rows: usize,
    cols: usize,
}

/// C as it was, A, W; numbers and bits.
struct Inputs {
    a: (Vec<u16>, Vec<f32>),
    w: (Vec<u16>, Vec<f32>),
    before: Vec<f32>,
}

impl Case {
    fn width(&self) -> usize {
        if self.epilogue == Epilogue::SiluBf16 { self.rows / 2 } else { self.rows }
    }

    fn draw(&self, noise: &mut Noise) -> Inputs {
        // A is bf16 on its way in; for f16 weights it becomes f16, which holds these numbers too.
        let a = noise.draw(self.m * self.cols, 1.0, as_bf16);
        let scale = 2.0 / (self.cols as f32).sqrt();
        let w = noise.draw(
            self.rows * self.cols,
            scale,
            if self.weight_type == WeightType::F16 { as_f16 } else { as_bf16 },
        );
        let (_, before) = noise.draw(self.m * self.width(), 1.0, as_bf16);
        Inputs { a, w, before }
    }

    /// One element of C in f64.
    fn want(&self, inputs: &Inputs, row: usize, column: usize) -> f64 {
        let k = self.cols;
        let dot = |w_row: usize| -> f64 {
            let (a, w) = (&inputs.a.1[row * k..][..k], &inputs.w.1[w_row * k..][..k]);
            a.iter().zip(w).map(|(a, w)| f64::from(*a) * f64::from(*w)).sum()
        };
        match self.epilogue {
            Epilogue::StoreF32 => dot(column),
            Epilogue::AddF32 => f64::from(inputs.before[row * self.width() + column]) + dot(column),
            Epilogue::SiluBf16 => {
                let gate = dot(column);
                gate / (1.0 + (-gate).exp()) * dot(self.width() + column)
            }
        }
    }

    /// C, by whatever `gemm` chooses.
    fn run(&self, setup: &CudaSetup, gemm: &Gemm, inputs: &Inputs) -> Vec<f32> {
        let gpu = setup.gpu();
        let data = gpu.upload(bytemuck::cast_slice::<u16, u8>(&inputs.w.0)).unwrap();
        let matrix = DeviceMatrix { data, weight_type: self.weight_type, rows: self.rows, cols: self.cols };
        let projection = DeviceProjection { parts: vec![matrix], cols: self.cols };
        let a = gpu.upload(&inputs.a.0).unwrap();
        let count = self.m * self.width();
        let product = |c| Product { a: a.address(), m: self.m, c, bias: 0, epilogue: self.epilogue };
        if self.epilogue == Epilogue::SiluBf16 {
            let c = gpu.upload(&vec![0xffffu16; count]).unwrap();
            // SAFETY: all buffers have the case's sizes and outlive the reading.
            unsafe { gemm.multiply(&setup.kernels, &projection, product(c.address())).unwrap() };
            let mut bits = vec![0; count];
            c.read(0, &mut bits).unwrap();
            bits.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
        } else {
            let poison = vec![f32::NAN; count];
            let c = gpu.upload(if self.epilogue == Epilogue::AddF32 { &inputs.before } else { &poison }).unwrap();
            // SAFETY: as above.
            unsafe { gemm.multiply(&setup.kernels, &projection, product(c.address())).unwrap() };
            let mut out = vec![0.0; count];
            c.read(0, &mut out).unwrap();
            out
        }
    }

    /// Relative L2 over all of some rows; infinite where anything is not finite.
    fn error(&self, inputs: &Inputs, got: &[f32], rows: &[usize]) -> f64 {
        let (mut off, mut size) = (0.0, 0.0);
        for &row in rows {
            for column in (0..self.width()).step_by(7).chain([self.width() - 1]) {
                let want = self.want(inputs, row, column);
                off += (f64::from(got[row * self.width() + column]) - want).powi(2);
                size += want * want;
            }
        }
        if got.iter().all(|x| x.is_finite()) { (off / size).sqrt() } else { f64::INFINITY }
    }
}

/// f32: sums of exact products, in another order than f64's. bf16: rounding to it is off by at most 2⁻⁸ of a number. The
/// library rounds gate and up too, and `SiLU` makes up to 1.3 times as much of what the gate is off: 3.3 · 2⁻⁸.
fn bound(epilogue: Epilogue, by_library: bool) -> f64 {
    match (epilogue, by_library) {
        (Epilogue::SiluBf16, true) => 1.3e-2,
        (Epilogue::SiluBf16, false) => 4e-3,
        (Epilogue::StoreF32 | Epilogue::AddF32, _) => 1e-4,
    }
}

#[test]
fn products_agree_with_f64_by_the_library_and_by_own_kernels() {
    let Some(setup) = setup() else { return };
    let sizes = GemmSizes { unpacked_elements: 0, rows: 2112, d_model: 2560, d_ff: 9728 };
    let own = {
        let mut own = Gemm::new(setup.gpu(), sizes).unwrap();
        own.drop_library();
        own
    };
    let mut by_library = Gemm::new(setup.gpu(), sizes).unwrap();
    by_library.library.as_mut().unwrap().do_all(setup.gpu(), sizes.d_ff);
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut noise = Noise::new(&mut rng);
    // W's rows and columns: qwen3-4b's down and half of its gate and up, a tiny model's, and such as are no multiple of a tile.
    let shapes = [(2560, 9728), (192, 64), (80, 200), (1008, 328), (9728, 2560), (2048, 512), (640, 1280)];
    for (at, m) in [1, 2, 15, 16, 17, 63, 100, 128, 129, 257, 511, 600, 1024, 1337, 2048, 2049].into_iter().enumerate()
    {
        for epilogue in [Epilogue::StoreF32, Epilogue::AddF32, Epilogue::SiluBf16] {
            for weight_type in [WeightType::Bf16, WeightType::F16] {
                let (rows, cols) = shapes[(at + epilogue as usize) % shapes.len()];
                let case = Case { epilogue, weight_type, m, rows, cols };
                let inputs = case.draw(&mut noise);
                // The oracle is slow.
                let some: Vec<usize> =
                    [0, m / 3, m - 1].into_iter().chain((0..2).map(|_| rng.random_range(0..m))).collect();
                let told = format!("{epilogue:?} {weight_type:?} m {m} w [{rows}, {cols}]");
                let queued_before = by_library.library.as_ref().unwrap().queued();
                for (name, gemm, is_library) in [("own", &own, false), ("library", &by_library, true)] {
                    let error = case.error(&inputs, &case.run(&setup, gemm, &inputs), &some);
                    assert!(error <= bound(epilogue, is_library), "{told}, {name}: {error:.2e}");
                }
                // It writes no bf16 from f16.
                let own_only = epilogue == Epilogue::SiluBf16 && weight_type == WeightType::F16;
                let queued = by_library.library.as_ref().unwrap().queued() > queued_before;
                assert_eq!(queued, !own_only, "{told}: by the library");
            }
        }
    }
}

/// Logits after reading; the last tokens one by one.
fn read(executor: &mut CudaExecutor, ids: &[u32], one_by_one: usize) -> Vec<f32> {
    let go_on = AtomicBool::new(false);
    executor.truncate(0);
    let (at_once, last) = ids.split_at(ids.len() - one_by_one);
    assert!(executor.prefill(at_once, &mut |_| ControlFlow::Continue(()), &go_on).unwrap().is_continue());
    for id in last {
        assert!(executor.decode(*id, &go_on).unwrap().is_continue());
    }
    executor.logits().unwrap().to_vec()
}

fn apart(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = got.iter().zip(want).map(|(got, want)| square(got - want)).sum();
    (off / want.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// 16 layers of four products, each with inputs rounded to bf16 (1.6·10⁻³ in the mean square): √64 · 1.6·10⁻³ = 1.3·10⁻²,
/// twice that is allowed.
#[test]
fn a_model_reads_alike_with_and_without_the_library() {
    if setup().is_none() {
        return;
    }
    let spec = named_shape("llama-3.2-1b").unwrap();
    let ring = RingLayout { slots: 32, band: 16 };
    let mut executor =
        CudaExecutor::with_made_up_weights(spec.clone(), MadeUpWeights::Bf16, 4096, ring, KvFormat::Bf16, 7).unwrap();
    assert!(executor.capacity().device.contains("cuBLASLt"), "{}", executor.capacity().device);
    let mut rng = ChaCha8Rng::seed_from_u64(rand::random());
    // A whole chunk, and a last one that is shorter.
    let ids: Vec<u32> = (0..3571).map(|_| rng.random_range(0..spec.vocab as u32)).collect();
    let with = read(&mut executor, &ids, 0);
    assert_eq!(with, read(&mut executor, &ids, 0), "the same prompt gives the same sums");
    let stepped = read(&mut executor, &ids, 3);
    executor.drop_cublaslt();
    assert!(!executor.capacity().device.contains("cuBLASLt"));
    let without = read(&mut executor, &ids, 0);
    let (steps, own) = (apart(&with, &stepped), apart(&with, &without));
    eprintln!("reading against steps {steps:.2e}, the library against own kernels {own:.2e}");
    assert!(own > 0.0, "the library was not used");
    assert!(steps <= 2.6e-2 && own <= 2.6e-2, "{steps} {own}");
}
