//! Made-up weights and contexts for benchmarks: right in shape, size and scale, meaningless otherwise. Everything is made
//! on the device.

use mac_attention::RingLayout;

use super::CudaExecutor;
use super::abi::WeightType;
use super::kernels::MadeUpRing;
use super::matrix::{DeviceMatrix, DeviceProjection};
use super::setup::CudaSetup;
use super::weights::{DeviceLayer, DeviceWeights};
use crate::model::ModelSpec;
use crate::{EngineError, KvFormat};

/// Types that weights can be made up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the formats' own")]
pub enum MadeUpWeights {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
}

impl MadeUpWeights {
    fn weight_type(self) -> WeightType {
        match self {
            Self::F32 => WeightType::F32,
            Self::F16 => WeightType::F16,
            Self::Bf16 => WeightType::Bf16,
            Self::Q8_0 => WeightType::Q8_0,
            Self::Q4_0 => WeightType::Q4_0,
            Self::Q4K => WeightType::Q4K,
            Self::Q5K => WeightType::Q5K,
            Self::Q6K => WeightType::Q6K,
        }
    }
}

struct Maker<'a> {
    setup: &'a CudaSetup,
    weight_type: WeightType,
    seed: u64,
}

impl Maker<'_> {
    fn matrix(&mut self, rows: usize, cols: usize) -> Result<DeviceProjection, EngineError> {
        let weight_type = self.weight_type;
        if !cols.is_multiple_of(weight_type.block()) {
            let why = format!("rows of {cols} elements in blocks of {}", weight_type.block());
            return Err(EngineError::UnsupportedModel { why });
        }
        self.seed = self.seed.wrapping_add(1);
        let data = self.setup.gpu.alloc(weight_type.device_bytes(rows, cols))?;
        // Variance 1 / cols, so that activations keep their size through the layers.
        let std = 1.0 / (cols as f32).sqrt();
        // SAFETY: the buffer was made for this matrix.
        unsafe { self.setup.kernels.fill(weight_type, data.address(), [rows, cols], self.seed, std)? };
        Ok(DeviceProjection { parts: vec![DeviceMatrix { data, weight_type, rows, cols }], cols })
    }

    fn layer(&mut self, spec: &ModelSpec) -> Result<DeviceLayer, EngineError> {
        let (q, kv, d, ff) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.d_ff);
        let gpu = self.setup.gpu.clone();
        let constant = |value: f32, len: usize| gpu.upload(&vec![value; len]);
        Ok(DeviceLayer {
            attention_norm: constant(1.0, d)?,
            qkv: self.matrix(q + 2 * kv, d)?,
            qkv_bias: spec.qkv_bias.then(|| constant(0.01, q + 2 * kv)).transpose()?,
            q_norm: spec.qk_norm.then(|| constant(1.0, spec.head_dim)).transpose()?,
            k_norm: spec.qk_norm.then(|| constant(1.0, spec.head_dim)).transpose()?,
            output: self.matrix(d, q)?,
            output_bias: spec.o_bias.then(|| constant(0.01, d)).transpose()?,
            mlp_norm: constant(1.0, d)?,
            gate_up: self.matrix(2 * ff, d)?,
            down: self.matrix(d, ff)?,
        })
    }
}

impl CudaExecutor {
    /// A model of a named shape ([`crate::model::named_shape`]) whose weights are noise of one type, the same for the
    /// same seed.
    pub fn with_made_up_weights(
        spec: ModelSpec,
        made_up: MadeUpWeights,
        context_tokens: usize,
        ring: RingLayout,
        format: KvFormat,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let setup = CudaSetup::open()?;
        let weight_type = made_up.weight_type();
        let elements = spec.parameters() as f64;
        let bytes = elements * weight_type.file_row_bytes(1024) as f64 / 1024.0;
        setup.plan(&spec, bytes as u64, Some(context_tokens), ring, format)?;
        let mut maker = Maker { setup: &setup, weight_type, seed: seed.wrapping_mul(1 << 20) };
        let embedding = maker.matrix(spec.vocab, spec.d_model)?;
        let layers = (0..spec.layers).map(|_| maker.layer(&spec)).collect::<Result<_, _>>()?;
        let head = if spec.tied_embeddings { None } else { Some(maker.matrix(spec.vocab, spec.d_model)?) };
        let final_norm = setup.gpu.upload(&vec![1.0; spec.d_model])?;
        setup.gpu.synchronize()?;
        let weights = DeviceWeights { embedding, layers, final_norm, head, widened: Vec::new() };
        setup.finish(spec, weights, context_tokens, ring, format)
    }

    /// Replaces the cache by `len` made-up tokens: normal keys and values in every layer, and ring entries of the newest
    /// positions. For timing long contexts without reading them.
    pub fn make_up_context(&mut self, len: usize, seed: u64) -> Result<(), EngineError> {
        if len > self.kv.capacity() {
            return Err(EngineError::InvalidRequest(format!("{len} tokens into room for {}", self.kv.capacity())));
        }
        self.cut(0)?;
        self.kv.back(len)?;
        let head_dim = self.spec.head_dim;
        for layer in 0..self.spec.layers {
            for plane in 0..2 {
                for head in 0..self.spec.num_kv_heads {
                    let number = (layer * 2 + plane) * self.spec.num_kv_heads + head;
                    let seed = seed.wrapping_mul(1 << 20).wrapping_add(number as u64);
                    let kv = self.kv.head_addresses(layer, head);
                    // SAFETY: the plane has memory for `len` tokens.
                    unsafe { self.kernels.fill_kv(self.kv.format(), kv, plane, [len, head_dim], seed)? };
                }
            }
        }
        for layer in 0..self.spec.layers {
            let ring = self.attention.ring_addresses(layer)?;
            let layout = self.attention.setup().layout;
            let made_up = MadeUpRing {
                addresses: [ring.query, ring.out, ring.meta],
                num_q_heads: self.spec.num_q_heads,
                slots: layout.slots,
                head_dim,
                length: len,
                band: layout.band,
                seed: seed.wrapping_add(layer as u64),
            };
            // SAFETY: the ring is as large as its layout says, and nothing runs.
            unsafe { self.kernels.fill_ring(&made_up)? };
        }
        self.gpu.synchronize()?;
        self.attention.seek(len)?;
        self.kv_len = len;
        Ok(())
    }
}
