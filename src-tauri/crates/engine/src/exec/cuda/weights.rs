//! Weights from a file to the device, and how much memory they will take there.

use candle_core::quantized::GgmlDType;
use mac_attention::cuda::{DeviceBuffer, Gpu};

use super::abi::WeightType;
use super::kernels::Kernels;
use super::matrix::{DeviceMatrix, DeviceProjection};
use super::staging::{STAGING_BYTES, Staging};
use crate::EngineError;
use crate::model::ModelSpec;
use crate::weights::{LayerPart as L, Part, RawMatrix, ReadTick, Source};

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub(super) attention_norm: DeviceBuffer<f32>,
    pub(super) qkv: DeviceProjection,
    pub(super) qkv_bias: Option<DeviceBuffer<f32>>,
    pub(super) q_norm: Option<DeviceBuffer<f32>>,
    pub(super) k_norm: Option<DeviceBuffer<f32>>,
    pub(super) output: DeviceProjection,
    pub(super) output_bias: Option<DeviceBuffer<f32>>,
    pub(super) mlp_norm: DeviceBuffer<f32>,
    pub(super) gate_up: DeviceProjection,
    pub(super) down: DeviceProjection,
}

/// All weights of a model.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    pub(super) embedding: DeviceProjection,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) final_norm: DeviceBuffer<f32>,
    /// Of untied models.
    pub(super) head: Option<DeviceProjection>,
    /// Types of the file that no kernel serves, held as bf16.
    pub(super) widened: Vec<GgmlDType>,
}

impl DeviceWeights {
    /// The output matrix.
    pub(super) fn head(&self) -> &DeviceProjection {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of all matrices on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.embedding.bytes()
            + self.head.as_ref().map_or(0, DeviceProjection::bytes)
            + self.layers.iter().map(DeviceLayer::bytes).sum::<u64>()
    }

    /// Bytes that every decode step reads: an embedding that is not the output matrix gives one row.
    pub(super) fn step_bytes(&self) -> u64 {
        self.head().bytes() + self.layers.iter().map(DeviceLayer::bytes).sum::<u64>()
    }

    /// All matrices of the layers are bf16 or f16, so that products of prefill take them as they are.
    pub(super) fn all_16_bit(&self) -> bool {
        let plain = |projection: &DeviceProjection| {
            matches!(projection.single_type(), Some(WeightType::Bf16 | WeightType::F16))
        };
        self.layers.iter().all(|l| [&l.qkv, &l.output, &l.gate_up, &l.down].into_iter().all(plain))
    }
}

impl DeviceLayer {
    fn bytes(&self) -> u64 {
        self.qkv.bytes() + self.output.bytes() + self.gate_up.bytes() + self.down.bytes()
    }
}

/// How a tensor of a file gets to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Its bytes as they are.
    Straight,
    /// Through the processor, which reorders rows or changes the type.
    Rebuilt,
}

/// Matrices that follow each other in a projection and have one type on the device.
#[derive(Debug)]
struct Stack {
    weight_type: WeightType,
    rows: usize,
    members: Vec<(Part, usize, Route)>,
}

/// The type a tensor has on the device. Types without a kernel become bf16.
fn target(source: &Source, part: Part, rows: usize, cols: usize) -> Result<(WeightType, bool), EngineError> {
    let file = source.open_matrix(part, rows, cols)?.dtype();
    let wanted = match source {
        Source::Gguf(_) => file,
        Source::Safetensors { dtype, .. } if cols.is_multiple_of(dtype.block_size()) => *dtype,
        Source::Safetensors { .. } => GgmlDType::F32,
    };
    let on_device = WeightType::of(wanted).filter(|t| cols.is_multiple_of(t.block())).unwrap_or(WeightType::Bf16);
    if !cols.is_multiple_of(on_device.block()) {
        return Err(EngineError::NoGpu {
            why: format!("the model has rows of {cols} elements, a GPU needs multiples of {}", on_device.block()),
        });
    }
    Ok((on_device, WeightType::of(file) == Some(on_device)))
}

fn stacks(source: &Source, spec: &ModelSpec, parts: &[(Part, usize)], cols: usize) -> Result<Vec<Stack>, EngineError> {
    let mut stacks: Vec<Stack> = Vec::new();
    for (part, rows) in parts {
        let (weight_type, same) = target(source, *part, *rows, cols)?;
        let in_pairs = matches!(source, Source::Gguf(_)) && part.interleaved_heads(spec).is_some();
        let route = if same && !in_pairs { Route::Straight } else { Route::Rebuilt };
        match stacks.last_mut() {
            Some(last) if last.weight_type == weight_type => {
                last.rows += rows;
                last.members.push((*part, *rows, route));
            }
            _ => stacks.push(Stack { weight_type, rows: *rows, members: vec![(*part, *rows, route)] }),
        }
    }
    Ok(stacks)
}

/// Every projection of a model: its matrices and its input width.
fn projections(spec: &ModelSpec) -> Vec<(Vec<(Part, usize)>, usize)> {
    let (d, ff) = (spec.d_model, spec.d_ff);
    let mut all = vec![(vec![(Part::Embedding, spec.vocab)], d)];
    if !spec.tied_embeddings {
        all.push((vec![(Part::Head, spec.vocab)], d));
    }
    for layer in 0..spec.layers {
        all.extend([
            (qkv_parts(spec, layer), d),
            (vec![(Part::Layer(layer, L::Output), d)], spec.q_width()),
            (gate_up_parts(spec, layer), d),
            (vec![(Part::Layer(layer, L::Down), d)], ff),
        ]);
    }
    all
}

fn qkv_parts(spec: &ModelSpec, layer: usize) -> Vec<(Part, usize)> {
    let kv = spec.kv_width();
    [(L::Query, spec.q_width()), (L::Key, kv), (L::Value, kv)]
        .map(|(part, rows)| (Part::Layer(layer, part), rows))
        .into()
}

fn gate_up_parts(spec: &ModelSpec, layer: usize) -> Vec<(Part, usize)> {
    [L::Gate, L::Up].map(|part| (Part::Layer(layer, part), spec.d_ff)).into()
}

/// Bytes that the matrices of a source will take on the device, from its header alone.
pub(super) fn device_weight_bytes(source: &Source, spec: &ModelSpec) -> Result<u64, EngineError> {
    let mut bytes = 0;
    for (parts, cols) in projections(spec) {
        for stack in stacks(source, spec, &parts, cols)? {
            bytes += stack.weight_type.device_bytes(stack.rows, cols) as u64;
        }
    }
    Ok(bytes)
}

/// Reads weights to the device.
pub(super) struct Upload<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) kernels: &'a Kernels,
    pub(super) source: &'a Source,
    pub(super) spec: &'a ModelSpec,
    staging: Staging,
    /// Rows in file order on their way to planes.
    blocks: DeviceBuffer<u8>,
    widened: Vec<GgmlDType>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        gpu: &'a Gpu,
        kernels: &'a Kernels,
        source: &'a Source,
        spec: &'a ModelSpec,
    ) -> Result<Self, EngineError> {
        let (staging, blocks) = (Staging::new(gpu)?, gpu.alloc(STAGING_BYTES)?);
        Ok(Self { gpu, kernels, source, spec, staging, blocks, widened: Vec::new() })
    }

    /// Everything; `tick` gets the bytes read and cancels by `false`.
    pub(super) fn weights(&mut self, tick: &mut ReadTick<'_>) -> Result<DeviceWeights, EngineError> {
        let spec = self.spec;
        let d = spec.d_model;
        let embedding = self.projection(&[(Part::Embedding, spec.vocab)], d, tick)?;
        let layers = (0..spec.layers).map(|layer| self.layer(layer, tick)).collect::<Result<_, _>>()?;
        let final_norm = self.vector(Part::FinalNorm, d, tick)?;
        let head =
            if spec.tied_embeddings { None } else { Some(self.projection(&[(Part::Head, spec.vocab)], d, tick)?) };
        // Later kernels read weights before they wait for the kernel before them.
        self.gpu.synchronize()?;
        Ok(DeviceWeights { embedding, layers, final_norm, head, widened: std::mem::take(&mut self.widened) })
    }

    fn layer(&mut self, layer: usize, tick: &mut ReadTick<'_>) -> Result<DeviceLayer, EngineError> {
        let spec = self.spec;
        let (q, kv, d, ff) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.d_ff);
        let of = |part| Part::Layer(layer, part);
        let qkv = self.projection(&qkv_parts(spec, layer), d, tick)?;
        let output = self.projection(&[(of(L::Output), d)], q, tick)?;
        let gate_up = self.projection(&gate_up_parts(spec, layer), d, tick)?;
        let down = self.projection(&[(of(L::Down), d)], ff, tick)?;
        let qkv_bias = if spec.qkv_bias {
            let mut bias = Vec::with_capacity(q + 2 * kv);
            for (part, len) in [(L::QueryBias, q), (L::KeyBias, kv), (L::ValueBias, kv)] {
                bias.extend(self.source.vector(of(part), len, spec, tick)?);
            }
            Some(self.gpu.upload(&bias)?)
        } else {
            None
        };
        let head_norm = |this: &Self, part, tick: &mut ReadTick<'_>| {
            spec.qk_norm.then(|| this.vector(of(part), spec.head_dim, tick)).transpose()
        };
        let (q_norm, k_norm) = (head_norm(self, L::QueryNorm, tick)?, head_norm(self, L::KeyNorm, tick)?);
        let output_bias = spec.o_bias.then(|| self.vector(of(L::OutputBias), d, tick)).transpose()?;
        Ok(DeviceLayer {
            attention_norm: self.vector(of(L::AttentionNorm), d, tick)?,
            qkv,
            qkv_bias,
            q_norm,
            k_norm,
            output,
            output_bias,
            mlp_norm: self.vector(of(L::MlpNorm), d, tick)?,
            gate_up,
            down,
        })
    }

    fn vector(&self, part: Part, len: usize, tick: &mut ReadTick<'_>) -> Result<DeviceBuffer<f32>, EngineError> {
        Ok(self.gpu.upload(&self.source.vector(part, len, self.spec, tick)?)?)
    }

    fn projection(
        &mut self,
        parts: &[(Part, usize)],
        cols: usize,
        tick: &mut ReadTick<'_>,
    ) -> Result<DeviceProjection, EngineError> {
        let mut matrices = Vec::new();
        for stack in stacks(self.source, self.spec, parts, cols)? {
            let Stack { weight_type, rows, members } = stack;
            let data = self.gpu.alloc(weight_type.device_bytes(rows, cols))?;
            let mut matrix = DeviceMatrix { data, weight_type, rows, cols };
            let mut first_row = 0;
            for (part, rows, route) in members {
                match route {
                    Route::Straight => {
                        let mut reader = self.source.open_matrix(part, rows, cols)?;
                        self.rows(&mut matrix, first_row, rows, &mut |bytes| reader.read(bytes), tick)?;
                    }
                    Route::Rebuilt => {
                        let rebuilt = self.rebuilt(part, rows, cols, weight_type, tick)?;
                        let mut left = rebuilt.as_slice();
                        let mut take = |bytes: &mut [u8]| {
                            let (now, rest) = left.split_at(bytes.len().min(left.len()));
                            bytes[..now.len()].copy_from_slice(now);
                            left = rest;
                            Ok(())
                        };
                        // Its reading has been counted.
                        self.rows(&mut matrix, first_row, rows, &mut take, &mut |_| true)?;
                    }
                }
                first_row += rows;
            }
            matrices.push(matrix);
        }
        Ok(DeviceProjection { parts: matrices, cols })
    }

    /// Queues `rows` rows from `first_row` on, in steps that fit the staging buffers.
    fn rows(
        &mut self,
        matrix: &mut DeviceMatrix,
        first_row: usize,
        rows: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), EngineError>,
        tick: &mut ReadTick<'_>,
    ) -> Result<(), EngineError> {
        let row_bytes = matrix.weight_type.file_row_bytes(matrix.cols);
        let step = (STAGING_BYTES / row_bytes.max(1)).max(1);
        let mut done = 0;
        while done < rows {
            let some = step.min(rows - done);
            let (bytes, row) = (some * row_bytes, first_row + done);
            if matrix.weight_type.is_dense() {
                self.staging.copy(&mut matrix.data, row * row_bytes, bytes, fill)?;
            } else {
                self.staging.copy(&mut self.blocks, 0, bytes, fill)?;
                let sizes = [matrix.rows, matrix.cols, row, some];
                // SAFETY: the blocks were copied before it in the stream, and the matrix has room for its rows.
                unsafe {
                    self.kernels.repack(matrix.weight_type, self.blocks.address(), matrix.data.address(), sizes)?;
                }
            }
            done += some;
            if !tick(bytes as u64) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    /// A tensor in the order and type that it has on the device, as bytes of file rows.
    fn rebuilt(
        &mut self,
        part: Part,
        rows: usize,
        cols: usize,
        weight_type: WeightType,
        tick: &mut ReadTick<'_>,
    ) -> Result<Vec<u8>, EngineError> {
        let matrix: RawMatrix = match self.source {
            Source::Gguf(_) => self.source.raw_matrix(part, rows, cols, self.spec, tick)?,
            Source::Safetensors { .. } => self.source.matrix(part, rows, cols, self.spec, tick)?,
        };
        let dtype = matrix.dtype();
        if WeightType::of(dtype) == Some(weight_type) {
            return Ok(matrix.into_bytes());
        }
        if !self.widened.contains(&dtype) {
            self.widened.push(dtype);
        }
        matrix.to_bf16()
    }
}
