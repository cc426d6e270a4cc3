//! What an 8-bit KV cache costs in fidelity, over a real text: `cargo test -p reprise-engine --test engine fidelity --
//! --nocapture` prints the table of `cuda/README.md`.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use mac_attention::RingLayout;
use reprise_engine::KvFormat;
use reprise_engine::exec::{CudaExecutor, Executor};
use reprise_engine::model::spec_from_gguf;
use reprise_engine::text::TextModel;
use reprise_engine::weights::{GgufFile, Source};

use crate::cuda::gpu;
use crate::support::{alone, demo_gguf};
use crate::tiny::relative_error;

/// The sample document without its tags, then the program's own description.
fn text() -> String {
    let page = include_str!("../../../../../assets/sample/handbook.html");
    let mut text = String::new();
    for part in page.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, after)| after));
    }
    text + include_str!("../../../../../README.md")
}

/// Log-probabilities of all tokens, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    logits.iter().map(|x| f64::from(x - top) - total.ln()).collect()
}

fn likeliest(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// How one cache's predictions differ from those over bf16, over positions of one text.
#[derive(Debug, Default)]
struct Difference {
    relative: Vec<f64>,
    divergence: Vec<f64>,
    same_choice: usize,
    /// Sum of −log p of the text's own next token.
    surprise: f64,
}

impl Difference {
    fn add(&mut self, got: &[f32], want: &[f32], next: u32) {
        self.relative.push(relative_error(got, want));
        let (q, p) = (log_softmax(got), log_softmax(want));
        self.divergence.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum());
        self.same_choice += usize::from(likeliest(got) == likeliest(want));
        self.surprise -= q[next as usize];
    }

    fn row(&self, name: &str) -> String {
        let count = self.relative.len() as f64;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
        let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        format!(
            "{name:<5} logits off by {:.4} (worst {:.4}); KL {:.6} (worst {:.5}); same choice {:.2} %; perplexity {:.4}",
            mean(&self.relative),
            worst(&self.relative),
            mean(&self.divergence),
            worst(&self.divergence),
            100.0 * self.same_choice as f64 / count,
            (self.surprise / count).exp(),
        )
    }
}

/// The first half is read at once, and every token of the second is given, never chosen, so that all caches see one text.
#[test]
fn fidelity_of_8_bit_caches_over_a_real_text() {
    let _alone = alone();
    if !gpu() {
        return;
    }
    let file = GgufFile::open(&demo_gguf()).unwrap();
    let spec = spec_from_gguf(&file).unwrap();
    let ids = TextModel::from_gguf(&file).unwrap().codec().encode_text(&text()).unwrap().ids;
    let source = Source::Gguf(file);
    let go_on = AtomicBool::new(false);
    let half = ids.len() / 2;
    let mut executors = KvFormat::ALL.map(|format| {
        let mut executor = CudaExecutor::load(&source, &spec, ids.len(), RingLayout::default(), format).unwrap();
        assert_eq!(executor.capacity().kv, format);
        let end = executor.prefill(&ids[..half], &mut |_| ControlFlow::Continue(()), &go_on).unwrap();
        assert!(end.is_continue());
        executor
    });
    let mut found: [Difference; 3] = Default::default();
    for (i, &next) in ids.iter().enumerate().skip(half) {
        let logits = executors.each_mut().map(|executor| executor.logits().unwrap().to_vec());
        for (difference, got) in found.iter_mut().zip(&logits) {
            difference.add(got, &logits[0], next);
        }
        if i + 1 < ids.len() {
            for executor in &mut executors {
                assert!(executor.decode(next, &go_on).unwrap().is_continue());
            }
        }
    }
    println!("{} tokens, of which the last {} are predicted", ids.len(), ids.len() - half);
    for (format, difference) in KvFormat::ALL.iter().zip(&found) {
        println!("{}", difference.row(format.name()));
    }
    assert_eq!(found[0].divergence.iter().copied().fold(0.0, f64::max), 0.0, "a cache against itself");
    // Rounding of K and V in the mean square is 0.5 % for q8_0 and 2.6 % for fp8 (`cuda.rs`). What became of that in logits
    // was measured; twice as much fails.
    for (difference, most) in found[1..].iter().zip(FOUND) {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        assert!(mean(&difference.relative) <= 2.0 * most.0 && mean(&difference.divergence) <= 2.0 * most.1);
    }
}

/// Of `q8_0`, then `fp8`: mean error of the logits, mean divergence in nats.
const FOUND: [(f64, f64); 2] = [(0.0086, 0.000_41), (0.0263, 0.0057)];
