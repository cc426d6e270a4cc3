//! A block of the prompt, one layer.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::cpu::{MAX_ROW_VECTORS, NO_SCORE, SimdLevel, TILE, Tile};
use crate::decode::check_length;
use crate::partial::merge;
use crate::ring::PrefixState;
use crate::{AttentionShape, KernelError, KvView, Parallel, Query, Ring};

/// Query rows of one task: enough that turning a tile of K and V into f32 costs next to nothing, few enough that
/// queries and outputs stay in the second-level cache. A multiple of every row block (3 vectors of 4, 8 or 16).
const ROWS: usize = 192;

/// Chunked causal attention that can seed the ring with each query's prefix state, computed directly (never by subtraction).
#[derive(Debug)]
pub struct PrefillAttention {
    shape: AttentionShape,
    simd: SimdLevel,
    blocks: Vec<Block>,
    /// One per thread that has worked here, between tasks.
    scratch: Mutex<Vec<Scratch>>,
}

/// The rows of one task: query positions × the heads of one KV group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    kv_head: usize,
    positions: Range<usize>,
    seed: bool,
}

/// Which tokens a row of position p looks at in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// `0..p + 1`.
    Whole,
    /// `0..E(p)`: what the ring keeps.
    Prefix { band: usize },
    /// `E(p)..p + 1`.
    Band { band: usize },
}

impl Pass {
    fn tokens(self, pos: usize) -> Range<usize> {
        match self {
            Self::Whole => 0..pos + 1,
            Self::Prefix { band } => 0..(pos + 1).saturating_sub(band),
            Self::Band { band } => (pos + 1).saturating_sub(band)..pos + 1,
        }
    }
}

/// Working memory of one task.
#[derive(Debug)]
struct Scratch {
    /// `[TILE, head_dim]` each.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Per row block `[head_dim, rows of the block]`, `ROWS` rows in all.
    queries: Vec<f32>,
    acc: Vec<f32>,
    /// `[TILE, rows of a block]`.
    weights: Vec<f32>,
    /// `[ROWS]` each.
    max: Vec<f32>,
    sum: Vec<f32>,
    lo: Vec<f32>,
    hi: Vec<f32>,
    /// `[ROWS, head_dim]` and `[ROWS]`: states of the last pass and of the one before.
    out: Vec<f32>,
    lse: Vec<f32>,
    prefix: Vec<f32>,
    prefix_lse: Vec<f32>,
}

impl Scratch {
    fn new(head_dim: usize, lanes: usize) -> Self {
        let zeros = |len: usize| vec![0.0; len];
        Self {
            keys: zeros(TILE * head_dim),
            values: zeros(TILE * head_dim),
            queries: zeros(ROWS * head_dim),
            acc: zeros(ROWS * head_dim),
            weights: zeros(TILE * MAX_ROW_VECTORS * lanes),
            max: zeros(ROWS),
            sum: zeros(ROWS),
            lo: zeros(ROWS),
            hi: zeros(ROWS),
            out: zeros(ROWS * head_dim),
            lse: zeros(ROWS),
            prefix: zeros(ROWS * head_dim),
            prefix_lse: zeros(ROWS),
        }
    }
}

/// What all tasks of a chunk share.
struct Chunk<'a> {
    shape: AttentionShape,
    simd: SimdLevel,
    query: Query<'a>,
    kv: &'a KvView<'a>,
    /// Position of the first row of `query`.
    first_pos: usize,
    band: usize,
    cancel: &'a AtomicBool,
}

impl PrefillAttention {
    /// Scratch is sized on first use and kept.
    pub fn new(shape: AttentionShape) -> Self {
        Self::with_simd(shape, SimdLevel::best())
    }

    /// As [`Self::new`], on a chosen instruction set.
    pub fn with_simd(shape: AttentionShape, simd: SimdLevel) -> Self {
        Self { shape, simd, blocks: Vec::new(), scratch: Mutex::new(Vec::new()) }
    }

    /// Causal attention of `n` new tokens at positions `kv.len() - n .. kv.len()`, whose K and V are already in `kv`.
    ///
    /// `query` and `out` are `[n, num_q_heads, head_dim]`. Positions `>= seed_from` write their ring entries.
    /// Returns `false`, with `out` unspecified and the ring without the unfinished entries, when `cancel` was seen set.
    ///
    /// Entries at or after the first new position are dropped first: they belonged to another text.
    ///
    /// What a position gets, bit for bit, depends on what it looks at and on whether it writes an entry, not on how a text is
    /// cut into chunks.
    ///
    /// # Errors
    /// [`KernelError`] if lengths or shapes do not fit; then nothing has been written.
    #[expect(clippy::too_many_arguments, reason = "one chunk is these seven things")]
    pub fn chunk(
        &mut self,
        query: Query<'_>,
        kv: &KvView<'_>,
        ring: &mut Ring,
        seed_from: usize,
        out: &mut [f32],
        pool: &dyn Parallel,
        cancel: &AtomicBool,
    ) -> Result<bool, KernelError> {
        let positions = self.check(query, kv, ring, out)?;
        ring.drop_from(positions.start);
        let oldest_kept = positions.end.saturating_sub(ring.layout().slots);
        let seeded = seed_from.max(oldest_kept).clamp(positions.start, positions.end)..positions.end;
        for pos in seeded.clone() {
            ring.forget(pos);
        }
        self.plan(positions.clone(), &seeded);

        let chunk = Chunk {
            shape: self.shape,
            simd: self.simd,
            query,
            kv,
            first_pos: positions.start,
            band: ring.layout().band,
            cancel,
        };
        {
            let (out, ring) = (Mutex::new(out), Mutex::new(&mut *ring));
            let (blocks, idle) = (&self.blocks, &self.scratch);
            pool.run(blocks.len(), &|i| {
                let scratch = lock(idle).pop();
                let mut scratch = scratch.unwrap_or_else(|| Scratch::new(chunk.shape.head_dim(), chunk.simd.lanes()));
                chunk.attend_block(&blocks[i], &mut scratch, &out, &ring);
                lock(idle).push(scratch);
            });
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        for pos in seeded {
            ring.publish(pos);
        }
        Ok(true)
    }

    /// The positions of the chunk.
    fn check(&self, query: Query<'_>, kv: &KvView<'_>, ring: &Ring, out: &[f32]) -> Result<Range<usize>, KernelError> {
        let row = self.shape.num_q_heads() * self.shape.head_dim();
        let n = query.rot.len() / row;
        check_length("query after RoPE", n * row, query.rot.len())?;
        check_length("query before RoPE", n * row, query.pre.len())?;
        check_length("output", n * row, out.len())?;
        for (what, shape) in [("KV view", kv.shape()), ("ring", ring.shape())] {
            if shape != self.shape {
                return Err(KernelError::Setting { what, why: format!("{shape:?}, expected {:?}", self.shape) });
            }
        }
        if n > kv.len() {
            return Err(KernelError::Length { what: "valid tokens", expected: n, got: kv.len() });
        }
        Ok(kv.len() - n..kv.len())
    }

    /// Cuts the chunk into tasks. The latest positions see the most tokens, so they go first.
    fn plan(&mut self, positions: Range<usize>, seeded: &Range<usize>) {
        self.blocks.clear();
        let per_block = ROWS / self.shape.group_size();
        for (part, seed) in [(seeded.clone(), true), (positions.start..seeded.start, false)] {
            let mut end = part.end;
            while end > part.start {
                let begin = end.saturating_sub(per_block).max(part.start);
                self.blocks.extend((0..self.shape.num_kv_heads()).map(|kv_head| Block {
                    kv_head,
                    positions: begin..end,
                    seed,
                }));
                end = begin;
            }
        }
    }
}

impl Chunk<'_> {
    /// One task. Leaves early, with nothing written, once `cancel` is set.
    fn attend_block(&self, block: &Block, scratch: &mut Scratch, out: &Mutex<&mut [f32]>, ring: &Mutex<&mut Ring>) {
        self.load_queries(block, scratch);
        if block.seed {
            if !self.pass(block, Pass::Prefix { band: self.band }, scratch) {
                return;
            }
            self.seed(block, scratch, &mut lock(ring));
            std::mem::swap(&mut scratch.out, &mut scratch.prefix);
            std::mem::swap(&mut scratch.lse, &mut scratch.prefix_lse);
            if !self.pass(block, Pass::Band { band: self.band }, scratch) {
                return;
            }
            let head_dim = self.shape.head_dim();
            let rows = scratch.out.chunks_exact_mut(head_dim).zip(&mut scratch.lse);
            let before = scratch.prefix.chunks_exact(head_dim).zip(&scratch.prefix_lse);
            for ((out, lse), (prefix, prefix_lse)) in rows.zip(before).take(self.rows(block)) {
                merge(out, lse, prefix, *prefix_lse);
            }
        } else if !self.pass(block, Pass::Whole, scratch) {
            return;
        }
        let mut out = lock(out);
        for row in 0..self.rows(block) {
            let at = self.offset(block, row);
            let head_dim = self.shape.head_dim();
            out[at..at + head_dim].copy_from_slice(&scratch.out[row * head_dim..(row + 1) * head_dim]);
        }
    }

    fn rows(&self, block: &Block) -> usize {
        block.positions.len() * self.shape.group_size()
    }

    fn position(&self, block: &Block, row: usize) -> usize {
        (block.positions.start + row / self.shape.group_size()).min(block.positions.end - 1)
    }

    fn q_head(&self, block: &Block, row: usize) -> usize {
        block.kv_head * self.shape.group_size() + row % self.shape.group_size()
    }

    /// Where the row starts in `query` and `out`.
    fn offset(&self, block: &Block, row: usize) -> usize {
        let token = self.position(block, row) - self.first_pos;
        (token * self.shape.num_q_heads() + self.q_head(block, row)) * self.shape.head_dim()
    }

    /// Rows of the row blocks: at most [`MAX_ROW_VECTORS`] vectors each, the last one with rows that only pad.
    fn row_blocks(&self, block: &Block) -> impl Iterator<Item = Range<usize>> {
        let lanes = self.simd.lanes();
        let rows = self.rows(block).next_multiple_of(lanes);
        (0..rows).step_by(MAX_ROW_VECTORS * lanes).map(move |first| first..rows.min(first + MAX_ROW_VECTORS * lanes))
    }

    /// Transposes the scaled queries; rows that only pad are zero.
    fn load_queries(&self, block: &Block, scratch: &mut Scratch) {
        let head_dim = self.shape.head_dim();
        let scale = self.shape.softmax_scale() * std::f32::consts::LOG2_E;
        for rows in self.row_blocks(block) {
            let width = rows.len();
            let transposed = &mut scratch.queries[rows.start * head_dim..rows.end * head_dim];
            for (column, row) in rows.enumerate() {
                if row < self.rows(block) {
                    let at = self.offset(block, row);
                    for (d, x) in self.query.rot[at..at + head_dim].iter().enumerate() {
                        transposed[d * width + column] = x * scale;
                    }
                } else {
                    for d in 0..head_dim {
                        transposed[d * width + column] = 0.0;
                    }
                }
            }
        }
    }

    /// Attends all rows over the tokens of one pass, into `scratch.out` and `scratch.lse`; false when cancelled.
    fn pass(&self, block: &Block, pass: Pass, scratch: &mut Scratch) -> bool {
        let head_dim = self.shape.head_dim();
        scratch.max.fill(NO_SCORE);
        scratch.sum.fill(0.0);
        scratch.acc.fill(0.0);
        let (keys, values) = (self.kv.keys(block.kv_head), self.kv.values(block.kv_head));
        let end = pass.tokens(block.positions.end - 1).end;
        // Tiles stand at multiples of their size, wherever the block begins. A row's sums run tile by tile and a tile adds
        // nothing to a row that may not see it, so no bit of a row depends on which rows are read with it.
        let mut begin = pass.tokens(block.positions.start).start / TILE * TILE;
        while begin < end {
            if self.cancel.load(Ordering::Relaxed) {
                return false;
            }
            let tokens = begin..end.min(begin + TILE);
            let elements = tokens.len() * head_dim;
            for (from, to) in [(keys, &mut scratch.keys), (values, &mut scratch.values)] {
                self.simd.widen(&from[begin * head_dim..][..elements], &mut to[..elements]);
                to[elements..].fill(0.0);
            }
            self.attend_tile(block, pass, &tokens, scratch);
            begin = tokens.end;
        }
        self.finish(block, scratch);
        true
    }

    /// All row blocks against the tile in `scratch`.
    fn attend_tile(&self, block: &Block, pass: Pass, tokens: &Range<usize>, scratch: &mut Scratch) {
        let head_dim = self.shape.head_dim();
        for rows in self.row_blocks(block) {
            let first = pass.tokens(self.position(block, rows.start));
            let last = pass.tokens(self.position(block, rows.end - 1));
            // Both limits grow with the position, so the outer rows speak for all.
            if last.end <= tokens.start || first.start >= tokens.end {
                continue;
            }
            let sees_all = last.start <= tokens.start && first.end >= tokens.end && tokens.len() == TILE;
            if !sees_all {
                for row in rows.clone() {
                    let limits = pass.tokens(self.position(block, row));
                    let relative = |token: usize| token.clamp(tokens.start, tokens.end) - tokens.start;
                    scratch.lo[row] = relative(limits.start) as f32;
                    scratch.hi[row] = relative(limits.end) as f32;
                }
            }
            let elements = rows.start * head_dim..rows.end * head_dim;
            let tile = Tile {
                keys: &scratch.keys,
                values: &scratch.values,
                tokens: tokens.len(),
                queries: &scratch.queries[elements.clone()],
                weights: &mut scratch.weights[..TILE * rows.len()],
                acc: &mut scratch.acc[elements],
                max: &mut scratch.max[rows.clone()],
                sum: &mut scratch.sum[rows.clone()],
                limits: (!sees_all).then_some((&scratch.lo[rows.clone()], &scratch.hi[rows.clone()])),
                head_dim,
            };
            self.simd.attend_tile(tile, rows.len() / self.simd.lanes());
        }
    }

    /// Normalises the accumulators into rows; a row that saw no token is zero with −∞.
    fn finish(&self, block: &Block, scratch: &mut Scratch) {
        let head_dim = self.shape.head_dim();
        for rows in self.row_blocks(block) {
            let width = rows.len();
            let transposed = &scratch.acc[rows.start * head_dim..rows.end * head_dim];
            for (column, row) in rows.enumerate() {
                let sum = scratch.sum[row];
                let empty = sum == 0.0;
                let factor = if empty { 0.0 } else { 1.0 / sum };
                for (d, x) in scratch.out[row * head_dim..(row + 1) * head_dim].iter_mut().enumerate() {
                    *x = transposed[d * width + column] * factor;
                }
                scratch.lse[row] = if empty {
                    f32::NEG_INFINITY
                } else {
                    ((f64::from(scratch.max[row]) + f64::from(sum).log2()) * std::f64::consts::LN_2) as f32
                };
            }
        }
    }

    /// Writes the entries of the block's rows; they count only once the whole chunk is done.
    fn seed(&self, block: &Block, scratch: &Scratch, ring: &mut Ring) {
        let head_dim = self.shape.head_dim();
        for row in 0..self.rows(block) {
            let (q_head, pos, at) = (self.q_head(block, row), self.position(block, row), self.offset(block, row));
            ring.write_query(q_head, pos, &self.query.pre[at..at + head_dim]);
            let out = &scratch.out[row * head_dim..(row + 1) * head_dim];
            ring.write_state(q_head, pos, PrefixState { out, lse: scratch.lse[row], depth: 0, distance: 0.0 });
        }
    }
}

/// A panic in a task ends the chunk before anything it left half-written counts.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
