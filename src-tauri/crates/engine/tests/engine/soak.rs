//! Thousands of steps on the GPU, with cuts, edits, Stop and changes of policy between them.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mac_attention::{Backoff, Forced, Paper, Pattern, RingLayout};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::exec::{CudaExecutor, Executor};
use reprise_engine::model::{ModelSpec, spec_from_gguf};
use reprise_engine::weights::{GgufFile, Source};
use reprise_engine::{Attention, KvFormat, Sampling};

use crate::cuda::gpu;
use crate::support::{alone, demo_gguf};
use crate::tiny::relative_error;

const CONTEXT: usize = 12_000;
const STEPS: usize = 20_000;
/// Free memory may wander by what the driver keeps for itself.
const WANDER_BYTES: u64 = 32 << 20;

fn load(format: KvFormat) -> (CudaExecutor, ModelSpec) {
    let file = GgufFile::open(&demo_gguf()).unwrap();
    let spec = spec_from_gguf(&file).unwrap();
    let executor = CudaExecutor::load(&Source::Gguf(file), &spec, CONTEXT, RingLayout::default(), format).unwrap();
    (executor, spec)
}

/// Most seconds of the test; fewer steps are made on a slow device.
fn limit() -> Duration {
    let seconds = std::env::var("REPRISE_SOAK_S").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

struct Soak {
    executor: CudaExecutor,
    vocab: usize,
    rng: ChaCha8Rng,
    /// Tokens that the cache should hold.
    text: Vec<u32>,
    steps: usize,
}

impl Soak {
    fn attention(&mut self) -> Attention {
        match self.rng.random_range(0..4) {
            0 => Attention::Mac(Paper { min_context: self.rng.random_range(0..3000), ..Paper::default() }),
            1 => Attention::Forced(Forced {
                pattern: Pattern::Random { rate: self.rng.random_range(0.0..1.0), seed: self.rng.random() },
                lag_tokens: self.rng.random_range(1..400),
                backoff: Backoff::Off,
            }),
            _ => Attention::Exact,
        }
    }

    fn sampling(&mut self) -> Sampling {
        let warm = self.rng.random_bool(0.7);
        Sampling {
            temperature: if warm { self.rng.random_range(0.3..1.5) } else { 0.0 },
            top_k: self.rng.random_range(0..50),
            top_p: self.rng.random_range(0.5..1.0),
            repeat_penalty: self.rng.random_range(1.0..1.3),
            seed: self.rng.random(),
            ..Sampling::default()
        }
    }

    /// Reads some tokens; now and then Stop comes after the first chunk, or before it.
    fn read(&mut self) {
        let room = CONTEXT - self.text.len();
        let count = self.rng.random_range(1..4000).min(room);
        if count == 0 {
            return;
        }
        let ids: Vec<u32> = (0..count).map(|_| self.rng.random_range(0..self.vocab as u32)).collect();
        let (before, after_first) = (self.rng.random_bool(0.05), self.rng.random_bool(0.2));
        let cancel = AtomicBool::new(before);
        let begin = self.text.len();
        let mut tick = |kv_len: usize| {
            assert!(kv_len > begin && kv_len <= begin + count);
            cancel.store(after_first, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        let end = self.executor.prefill(&ids, &mut tick, &cancel).unwrap();
        let read = self.executor.kv_len() - begin;
        self.text.extend(&ids[..read]);
        assert_eq!(end.is_continue(), read == count);
        assert!(!before || read == 0);
        if end.is_continue() {
            self.write();
        }
    }

    /// A reply of some tokens.
    fn write(&mut self) {
        let (attention, sampling) = (self.attention(), self.sampling());
        self.executor.set_attention(&attention).unwrap();
        self.executor.set_sampling(&sampling).unwrap();
        let go_on = AtomicBool::new(false);
        let mut token = self.executor.choose().unwrap();
        for _ in 0..self.rng.random_range(1..120) {
            if self.text.len() == CONTEXT {
                return;
            }
            assert!(self.executor.decode(token, &go_on).unwrap().is_continue());
            self.text.push(token);
            self.steps += 1;
            let counted: u64 = self.executor.counters().iter().map(|layer| layer.kv_bytes_exact).sum();
            assert_eq!(
                counted,
                self.text.len() as u64 * self.executor.spec().kv_bytes_per_token(self.executor.capacity().kv)
            );
            token = self.executor.choose().unwrap();
            assert!((token as usize) < self.vocab);
            // As a reply does; now and then the started step is not wanted after all.
            if self.text.len() < CONTEXT && self.rng.random_bool(0.5) {
                self.executor.begin(token).unwrap();
            }
        }
    }

    fn cut(&mut self) {
        let len = if self.rng.random_bool(0.2) { 0 } else { self.rng.random_range(0..=self.text.len()) };
        self.executor.truncate(len);
        self.text.truncate(len);
        assert_eq!(self.executor.kv_len(), len);
    }
}

#[test]
fn a_long_life_ends_as_a_fresh_one() {
    live_long(KvFormat::Bf16);
}

#[test]
fn a_long_life_with_an_8_bit_cache_ends_as_a_fresh_one() {
    live_long(KvFormat::Q8_0);
}

fn live_long(format: KvFormat) {
    let _alone = alone();
    if !gpu() {
        return;
    }
    let began = Instant::now();
    let (executor, spec) = load(format);
    let mut soak = Soak { executor, vocab: spec.vocab, rng: ChaCha8Rng::seed_from_u64(77), text: Vec::new(), steps: 0 };
    // The cache takes all its memory at once, so that from here on none may be taken.
    let all: Vec<u32> = (0..CONTEXT as u32).map(|i| i * 7919 % spec.vocab as u32).collect();
    let go_on = AtomicBool::new(false);
    let _ = soak.executor.prefill(&all, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
    soak.text = all;
    soak.cut();
    let (free_before, _) = soak.executor.gpu().memory().unwrap();
    let used_before = soak.executor.capacity().device_memory.map(|memory| memory.used_bytes);
    while soak.steps < STEPS && began.elapsed() < limit() {
        soak.read();
        if soak.rng.random_bool(0.5) || soak.text.len() == CONTEXT {
            soak.cut();
        }
    }
    let (free_after, _) = soak.executor.gpu().memory().unwrap();
    eprintln!("{} steps in {:.1} s", soak.steps, began.elapsed().as_secs_f64());
    // What others on the device free meanwhile is no concern of this test.
    assert!(free_before.saturating_sub(free_after) <= WANDER_BYTES, "{free_before} B free, then {free_after} B");
    assert_eq!(soak.executor.capacity().device_memory.map(|memory| memory.used_bytes), used_before);

    // Steps that reused left keys and values that follow from reuse; what is compared now was read and written exactly.
    soak.executor.truncate(0);
    soak.executor.set_attention(&Attention::Exact).unwrap();
    soak.executor.set_sampling(&Sampling::default()).unwrap();
    let prompt: Vec<u32> = (0..3001u32).map(|i| i * 31 % spec.vocab as u32).collect();
    let continue_on = |executor: &mut CudaExecutor| {
        let _ = executor.prefill(&prompt, &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
        let mut written = Vec::new();
        for _ in 0..200 {
            let token = executor.choose().unwrap();
            written.push(token);
            assert!(executor.decode(token, &go_on).unwrap().is_continue());
        }
        (written, executor.logits().unwrap().to_vec())
    };
    let (old_ids, old_logits) = continue_on(&mut soak.executor);
    let (mut fresh, _) = load(format);
    let (fresh_ids, fresh_logits) = continue_on(&mut fresh);
    assert_eq!(old_ids, fresh_ids);
    // The same kernels on the same numbers in the same order.
    assert_eq!(relative_error(&old_logits, &fresh_logits), 0.0);
}
