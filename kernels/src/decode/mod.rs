//! One token, one layer.

mod group;
mod search;

pub(crate) use search::{dictates, squared_radius};

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cpu::{SimdLevel, Span};
use crate::{AttentionShape, Counters, HeadOutcome, KernelError, KvView, Parallel, Policy, Ring, RingLayout, Serial};
use group::{Group, SpanState, SpanTask};
use search::{HeadPlan, Probe};

/// Tokens of one task. Spans begin at multiples of this, with an extra cut where the prefix ends, so that the result
/// depends on length and band alone, never on the number of threads.
const SPAN: usize = 1024;

/// Below this many bytes of keys and values waking other threads costs more than they bring.
const PARALLEL_BYTES: usize = 64 * 1024;

/// The queries of one or more tokens, f32, each `[tokens, num_q_heads, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Before rotation (after QK-norm where the model has one): what the ring matches on.
    pub pre: &'a [f32],
    /// After rotation: what meets the keys.
    pub rot: &'a [f32],
}

/// Exact against used output of one query head at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Audit {
    /// Query head.
    pub q_head: usize,
    /// ‖used − exact‖ / ‖exact‖ of the head's attention output.
    pub relative_error: f32,
}

/// Decode attention of one layer shape: scratch is allocated once, a step allocates nothing unless the context has
/// outgrown what [`Self::reserve`] prepared. Holds no state between steps, so all layers of a shape may share one.
#[derive(Debug)]
pub struct DecodeAttention {
    shape: AttentionShape,
    band: usize,
    simd: SimdLevel,
    /// `[num_q_heads, head_dim]`, after rotation, paired order, scaled for base-2 scores.
    queries: Vec<f32>,
    /// `[num_q_heads, head_dim]`, before rotation, paired order, rounded to bf16.
    probes: Vec<f32>,
    /// `[ring slots]`: slots inside the look-back window.
    live: Vec<bool>,
    /// Query heads to search, and one result per query head.
    searching: Vec<usize>,
    found: Vec<Mutex<Probe>>,
    /// One per query head.
    heads: Vec<HeadPlan>,
    /// One per KV head.
    groups: Vec<Group>,
    tasks: Vec<SpanTask>,
    /// At least one per task.
    states: Vec<Mutex<SpanState>>,
}

impl DecodeAttention {
    /// `band`: tokens nearest the cursor that are always recomputed; must equal the ring's.
    pub fn new(shape: AttentionShape, band: usize) -> Self {
        Self::with_simd(shape, band, SimdLevel::best())
    }

    /// As [`Self::new`], on a chosen instruction set.
    pub fn with_simd(shape: AttentionShape, band: usize, simd: SimdLevel) -> Self {
        let (heads, head_dim) = (shape.num_q_heads(), shape.head_dim());
        Self {
            shape,
            band,
            simd,
            queries: vec![0.0; heads * head_dim],
            probes: vec![0.0; heads * head_dim],
            live: Vec::new(),
            searching: Vec::with_capacity(heads),
            found: (0..heads).map(|_| Mutex::default()).collect(),
            heads: vec![HeadPlan::default(); heads],
            groups: (0..shape.num_kv_heads()).map(|_| Group::new(shape)).collect(),
            tasks: Vec::new(),
            states: Vec::new(),
        }
    }

    /// Prepares scratch for contexts of up to `context_tokens`.
    pub fn reserve(&mut self, context_tokens: usize) {
        // One task per begun span and head, and one more where the prefix ends inside a span.
        let tasks = (context_tokens.div_ceil(SPAN) + 1) * self.shape.num_kv_heads();
        self.tasks.reserve(tasks.saturating_sub(self.tasks.len()));
        while self.states.len() < tasks {
            self.states.push(Mutex::new(SpanState::new(self.shape)));
        }
    }

    /// Attention of the newest token over the whole context. Its K and V are already in `kv`, so its position is `kv.len() - 1`.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | `query` | `[num_q_heads, head_dim]`, one token |
    /// | `out` | `[num_q_heads, head_dim]` f32 |
    ///
    /// Writes the ring entry of this position (except under [`Policy::Exact`]) and overwrites `counters`.
    ///
    /// # Errors
    /// [`KernelError`] if lengths, shapes or settings do not fit; then nothing has been written.
    #[expect(clippy::too_many_arguments, reason = "one step is these seven things")]
    pub fn step(
        &mut self,
        query: Query<'_>,
        kv: &KvView<'_>,
        ring: &mut Ring,
        policy: &Policy,
        out: &mut [f32],
        counters: &mut Counters,
        pool: &dyn Parallel,
    ) -> Result<(), KernelError> {
        self.check(query, kv, ring, policy, out)?;
        let t = kv.len() - 1;
        let prefix_end = RingLayout { band: self.band, ..ring.layout() }.prefix_end(t);
        // Whatever was stored here or later belonged to a text that has been cut off since.
        ring.drop_from(t);
        self.prepare_queries(query.rot);
        let mut ring_bytes = self.match_heads(query.pre, ring, policy, t, pool);

        let group_size = self.shape.group_size();
        self.tasks.clear();
        for kv_head in 0..self.shape.num_kv_heads() {
            let heads = &self.heads[kv_head * group_size..][..group_size];
            let begin = heads.iter().map(|h| h.amend_from).min().unwrap_or(0);
            self.plan_group(kv_head, begin..t + 1, prefix_end);
        }
        let kv_bytes_read = self.run_tasks(kv, Some(&*ring), pool);

        let head_dim = self.shape.head_dim();
        counters.reused_mass.clear();
        for (group, out) in self.groups.iter_mut().zip(out.chunks_exact_mut(group_size * head_dim)) {
            out.copy_from_slice(group.out());
            counters.reused_mass.extend_from_slice(group.reused_mass(group_size));
        }
        if !matches!(policy, Policy::Exact) {
            self.write_entries(query.pre, ring, t);
            ring_bytes += (self.shape.num_q_heads() * Ring::entry_bytes(self.shape) + size_of::<usize>()) as u64;
            ring_bytes +=
                self.heads.iter().filter(|h| h.reused()).count() as u64 * Ring::state_bytes(self.shape) as u64;
        }
        counters.heads.clear();
        counters.heads.extend(self.heads.iter().map(|h| h.outcome));
        counters.groups = self.shape.num_kv_heads();
        counters.groups_reused =
            self.heads.chunks_exact(group_size).filter(|g| g.iter().all(|h| h.outcome == HeadOutcome::Reused)).count();
        counters.kv_bytes_read = kv_bytes_read;
        counters.ring_bytes = ring_bytes;
        counters.kv_bytes_exact = (kv.len() * self.shape.kv_bytes_per_token()) as u64;
        Ok(())
    }

    /// Computes the exact output of one KV group beside `used` (`[num_q_heads, head_dim]`, from [`Self::step`]) and compares.
    ///
    /// # Errors
    /// [`KernelError`] if lengths or shapes do not fit, or there is no such KV head.
    pub fn audit(
        &mut self,
        query_rot: &[f32],
        kv: &KvView<'_>,
        kv_head: usize,
        used: &[f32],
        pool: &dyn Parallel,
    ) -> Result<Vec<Audit>, KernelError> {
        self.check_kv(kv)?;
        let elements = self.shape.num_q_heads() * self.shape.head_dim();
        check_length("query after RoPE", elements, query_rot.len())?;
        check_length("used output", elements, used.len())?;
        if kv_head >= self.shape.num_kv_heads() {
            let why = format!("{kv_head} of {}", self.shape.num_kv_heads());
            return Err(KernelError::Setting { what: "audited KV head", why });
        }
        self.prepare_queries(query_rot);
        self.heads.fill(HeadPlan::default());
        self.tasks.clear();
        self.plan_group(kv_head, 0..kv.len(), kv.len().saturating_sub(self.band));
        self.run_tasks(kv, None, pool);

        let (group_size, head_dim) = (self.shape.group_size(), self.shape.head_dim());
        let used = used.chunks_exact(head_dim).enumerate().skip(kv_head * group_size);
        let exact = self.groups[kv_head].out().chunks_exact(head_dim);
        Ok(used
            .zip(exact)
            .map(|((q_head, used), exact)| Audit { q_head, relative_error: relative_l2(used, exact) })
            .collect())
    }

    fn check(
        &self,
        query: Query<'_>,
        kv: &KvView<'_>,
        ring: &Ring,
        policy: &Policy,
        out: &[f32],
    ) -> Result<(), KernelError> {
        self.check_kv(kv)?;
        let elements = self.shape.num_q_heads() * self.shape.head_dim();
        check_length("query before RoPE", elements, query.pre.len())?;
        check_length("query after RoPE", elements, query.rot.len())?;
        check_length("output", elements, out.len())?;
        if ring.shape() != self.shape || ring.layout().band != self.band {
            let why = format!(
                "{:?} with band {}, expected {:?} with {}",
                ring.shape(),
                ring.layout().band,
                self.shape,
                self.band
            );
            return Err(KernelError::Setting { what: "ring", why });
        }
        policy.check(self.shape.num_q_heads())
    }

    fn check_kv(&self, kv: &KvView<'_>) -> Result<(), KernelError> {
        if kv.shape() != self.shape {
            let why = format!("{:?}, expected {:?}", kv.shape(), self.shape);
            return Err(KernelError::Setting { what: "KV view", why });
        }
        if kv.is_empty() { Err(KernelError::Length { what: "valid tokens", expected: 1, got: 0 }) } else { Ok(()) }
    }

    fn prepare_queries(&mut self, rot: &[f32]) {
        self.simd.pair(rot, self.shape.softmax_scale() * std::f32::consts::LOG2_E, &mut self.queries);
    }

    /// Appends the tasks of one KV head over `tokens`, cut at multiples of [`SPAN`] and at `prefix_end`.
    fn plan_group(&mut self, kv_head: usize, tokens: std::ops::Range<usize>, prefix_end: usize) {
        let first = self.tasks.len();
        let mut begin = tokens.start;
        let mut prefix_tasks = 0;
        while begin < tokens.end {
            let mut end = ((begin / SPAN + 1) * SPAN).min(tokens.end);
            if begin < prefix_end {
                end = end.min(prefix_end);
                prefix_tasks += 1;
            }
            self.tasks.push(SpanTask { kv_head, tokens: begin..end });
            begin = end;
        }
        self.groups[kv_head].plan(first..self.tasks.len(), prefix_tasks);
        while self.states.len() < self.tasks.len() {
            self.states.push(Mutex::new(SpanState::new(self.shape)));
        }
    }

    /// Runs all tasks; whoever finishes the last one of a group also merges the group. Returns the KV bytes read.
    /// `ring` may be missing where no head reuses.
    fn run_tasks(&mut self, kv: &KvView<'_>, ring: Option<&Ring>, pool: &dyn Parallel) -> u64 {
        let head_dim = self.shape.head_dim();
        let token_bytes = self.shape.kv_bytes_per_token() / self.shape.num_kv_heads();
        let planned: usize = self.tasks.iter().map(|task| task.tokens.len()).sum();
        let pool: &dyn Parallel = if planned * token_bytes < PARALLEL_BYTES { &Serial } else { pool };
        let this = &*self;
        pool.run(this.tasks.len(), &|i| {
            let task = &this.tasks[i];
            let heads = this.heads_of(task.kv_head);
            let mut skip = [0; AttentionShape::MAX_GROUP];
            for (skip, head) in skip.iter_mut().zip(heads) {
                *skip = head.amend_from.saturating_sub(task.tokens.start);
            }
            let elements = task.tokens.start * head_dim..task.tokens.end * head_dim;
            let group = &this.groups[task.kv_head];
            let mut state = lock(&this.states[i]);
            let SpanState { acc, max, sum, tokens_read } = &mut *state;
            *tokens_read = this.simd.attend_span(Span {
                keys: &kv.keys(task.kv_head)[elements.clone()],
                values: &kv.values(task.kv_head)[elements],
                queries: &this.queries[task.kv_head * heads.len() * head_dim..][..heads.len() * head_dim],
                skip: &skip[..heads.len()],
                acc,
                max: &mut max[..heads.len()],
                sum: &mut sum[..heads.len()],
                head_dim,
            });
            drop(state);
            if group.is_last() {
                group.merge(this.simd, &this.states, task.kv_head, heads, ring);
            }
        });
        let tokens: usize = self.states[..self.tasks.len()].iter().map(|state| lock(state).tokens_read).sum();
        (tokens * token_bytes) as u64
    }

    /// Stores this step's query and prefix state of every head.
    fn write_entries(&mut self, q_pre: &[f32], ring: &mut Ring, t: usize) {
        let (group_size, head_dim) = (self.shape.group_size(), self.shape.head_dim());
        // The slot may hold the very entry that a head reused: its numbers were copied while the group was merged.
        ring.forget(t);
        for (q_head, q_pre) in q_pre.chunks_exact(head_dim).enumerate() {
            ring.write_query(q_head, t, q_pre);
            ring.write_state(q_head, t, self.groups[q_head / group_size].prefix_state(q_head % group_size));
        }
        ring.publish(t);
    }

    fn heads_of(&self, kv_head: usize) -> &[HeadPlan] {
        &self.heads[kv_head * self.shape.group_size()..][..self.shape.group_size()]
    }
}

pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { what, expected, got }) }
}

/// ‖used − exact‖ / ‖exact‖ in f64; 0 for two zero vectors, infinite where NaN is involved.
pub(crate) fn relative_l2(used: &[f32], exact: &[f32]) -> f32 {
    let (mut error, mut norm) = (0.0_f64, 0.0_f64);
    for (used, exact) in used.iter().zip(exact) {
        let (used, exact) = (f64::from(*used), f64::from(*exact));
        error += (used - exact).powi(2);
        norm += exact.powi(2);
    }
    if error == 0.0 {
        return 0.0;
    }
    let relative = (error / norm).sqrt() as f32;
    if relative.is_nan() { f32::INFINITY } else { relative }
}

/// Nothing that panics is done under these locks, and a task that did panic has ended the step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
