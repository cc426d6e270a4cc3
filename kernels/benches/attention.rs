//! Bytes and operations per second of the CPU kernels, beside what the machine can do.
//!
//! `cargo bench -p mac-attention -- [--threads N] [--context N,N] [--shape Q/KV/D,...] [--prefill | --decode]`
//!
//! Decode works through as many layers in turn as do not fit in the caches; the yardstick, a plain sum, reads the very
//! same bytes in the same run. A case is timed only after its output has passed a comparison with the f64 oracle.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark stops at its first failure")]

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use half::bf16;
use mac_attention::cpu::SimdLevel;
use mac_attention::reference::{attend, relative_l2};
use mac_attention::{
    AttentionShape, Backoff, Counters, DecodeAttention, Forced, KvView, Parallel, Pattern, Policy, PrefillAttention,
    Query, Ring, RingLayout, ThreadPool,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// More than any last-level cache in sight.
const ROTATED_BYTES: usize = 192 << 20;

struct Options {
    threads: usize,
    contexts: Vec<usize>,
    shapes: Vec<AttentionShape>,
    decode: bool,
    prefill: bool,
}

fn main() {
    let options = options();
    let pool = ThreadPool::new(NonZeroUsize::new(options.threads).expect("--threads 0"));
    println!("{:?}, {} threads", SimdLevel::best(), pool.threads());
    for &shape in &options.shapes {
        if options.decode {
            for &context in &options.contexts {
                bench_decode(shape, context, &pool);
            }
        }
        if options.prefill {
            bench_prefill(shape, *options.contexts.first().expect("--context"), &pool);
        }
    }
}

fn options() -> Options {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1)).cloned();
    // `cargo test --benches` runs this without `--bench`: a short look that everything works.
    let smoke = !args.iter().any(|arg| arg == "--bench");
    let contexts = value("--context").unwrap_or_else(|| if smoke { "512" } else { "8192,32768,100000" }.into());
    let shapes = value("--shape").unwrap_or_else(|| if smoke { "8/2/64" } else { "8/2/64,32/8/128" }.into());
    let shape = |text: &str| {
        let n: Vec<usize> = text.split('/').map(|n| n.parse().expect("--shape Q/KV/D")).collect();
        AttentionShape::new(n[0], n[1], n[2]).expect("a supported shape")
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Options {
        threads: value("--threads").map_or(cores, |n| n.parse().expect("--threads N")),
        contexts: contexts.split(',').map(|n| n.parse().expect("--context N,N")).collect(),
        shapes: shapes.split(',').map(shape).collect(),
        decode: !args.iter().any(|arg| arg == "--prefill"),
        prefill: !args.iter().any(|arg| arg == "--decode"),
    }
}

struct Layer {
    k: Vec<bf16>,
    v: Vec<bf16>,
    ring: Ring,
}

fn random(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.random_range(-1.7..1.7)).collect()
}

fn random_bf16(rng: &mut ChaCha8Rng, len: usize) -> Vec<bf16> {
    // Exponents near 1 and every mantissa: as good as a bf16 of a real cache for speed, and much quicker to draw.
    let mut bits = vec![0_u16; len];
    rng.fill(&mut bits[..]);
    bits.into_iter().map(|bits| bf16::from_bits(bits & 0x807f | 0x3f80)).collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn bench_decode(shape: AttentionShape, context: usize, pool: &ThreadPool) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let layout = RingLayout::default();
    let len = context * shape.num_kv_heads() * shape.head_dim();
    let layer_bytes = context * shape.kv_bytes_per_token() + Ring::bytes(shape, layout);
    let count = ROTATED_BYTES.div_ceil(layer_bytes).max(2);
    let row = shape.num_q_heads() * shape.head_dim();
    let mut layers: Vec<Layer> = (0..count)
        .map(|_| Layer {
            k: random_bf16(&mut rng, len),
            v: random_bf16(&mut rng, len),
            ring: Ring::new(shape, layout).unwrap(),
        })
        .collect();
    let (pre, rot) = (random(&mut rng, row), random(&mut rng, row));
    let query = Query { pre: &pre, rot: &rot };
    let mut attention = DecodeAttention::new(shape, layout.band);
    attention.reserve(context);
    let (mut out, mut counters) = (vec![0.0; row], Counters::default());

    let state = vec![0.1; shape.head_dim()];
    for layer in &mut layers {
        for pos in context.saturating_sub(layout.slots + 1)..context - 1 {
            let queries: Vec<Vec<bf16>> =
                (0..shape.num_q_heads()).map(|_| random_bf16(&mut rng, shape.head_dim())).collect();
            let heads: Vec<_> = queries
                .iter()
                .map(|query| mac_attention::RingEntry { pos, query, out: &state, lse: 8.0, depth: 0, distance: 0.0 })
                .collect();
            layer.ring.restore(pos, &heads).unwrap();
        }
    }
    let Layer { k, v, ring } = &mut layers[0];
    let view = KvView::new(shape, k, v, context, context).unwrap();
    attention.step(query, &view, ring, &Policy::Exact, &mut out, &mut counters, pool).unwrap();
    let want = attend(&rot[..shape.head_dim()], &view, 0, 0..context);
    let error = relative_l2(&out[..shape.head_dim()], &want.out);
    assert!(error < 1e-5, "the output is wrong, its speed means nothing: {error}");

    let simd = SimdLevel::best();
    let rounds = (24 / count).max(3) * count;
    let sum = median(
        (0..rounds)
            .map(|i| {
                let started = Instant::now();
                let layer = &layers[i % count];
                let total = simd
                    .sum(bytemuck::cast_slice(&layer.k), pool)
                    .wrapping_add(simd.sum(bytemuck::cast_slice(&layer.v), pool));
                std::hint::black_box(total);
                started.elapsed().as_secs_f64()
            })
            .collect(),
    );
    let whole = (context * shape.kv_bytes_per_token()) as f64;
    let gigabytes = |bytes: f64, seconds: f64| bytes / seconds / 1e9;
    println!(
        "\ndecode {}/{} heads, D {}, {context} tokens, {count} layers in turn\n  {:<22} {:>9.1} us {:>11.0} bytes {:>7.2} GB/s",
        shape.num_q_heads(),
        shape.num_kv_heads(),
        shape.head_dim(),
        "plain sum",
        sum * 1e6,
        whole,
        gigabytes(whole, sum)
    );
    let forced = |pattern, backoff| Policy::Forced(Forced { pattern, lag_tokens: 64, backoff });
    let back_off = Backoff::On { max_pause: 16 };
    let cases = [
        ("exact", Policy::Exact),
        ("no hit, back-off", forced(Pattern::None, back_off)),
        ("no hit, no back-off", forced(Pattern::None, Backoff::Off)),
        ("95 % of heads hit", forced(Pattern::Random { rate: 0.95, seed: 3 }, Backoff::Off)),
        ("all hit", forced(Pattern::All, Backoff::Off)),
    ];
    let mut exact_mean = 0.0;
    for (name, policy) in cases {
        // Back-off needs 39 steps to reach its longest pause, and one search in 17 is then the whole story.
        let paused = matches!(&policy, Policy::Forced(Forced { backoff: Backoff::On { .. }, .. }));
        let (warm_up, timed) = if paused { (40 * count, 17 * count) } else { (count, rounds) };
        let (mut seconds, mut bytes) = (Vec::new(), 0.0);
        for i in 0..warm_up + timed {
            let Layer { k, v, ring } = &mut layers[i % count];
            let view = KvView::new(shape, k, v, context, context).unwrap();
            let started = Instant::now();
            attention.step(query, &view, ring, &policy, &mut out, &mut counters, pool).unwrap();
            if i >= warm_up {
                seconds.push(started.elapsed().as_secs_f64());
                bytes += (counters.kv_bytes_read + counters.ring_bytes) as f64 / timed as f64;
            }
        }
        let mean = seconds.iter().sum::<f64>() / timed as f64;
        if matches!(policy, Policy::Exact) {
            exact_mean = mean;
        }
        let middle = median(seconds);
        println!(
            "  {name:<22} {:>9.1} us {bytes:>11.0} bytes {:>7.2} GB/s, {:.2} of the sum's rate; mean time {:.3}x exact",
            middle * 1e6,
            gigabytes(bytes, middle),
            gigabytes(bytes, middle) / gigabytes(whole, sum),
            mean / exact_mean,
        );
    }
}

fn bench_prefill(shape: AttentionShape, context: usize, pool: &ThreadPool) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let chunk = 512.min(context);
    let len = context * shape.num_kv_heads() * shape.head_dim();
    let (k, v) = (random_bf16(&mut rng, len), random_bf16(&mut rng, len));
    let row = shape.num_q_heads() * shape.head_dim();
    let (pre, rot) = (random(&mut rng, chunk * row), random(&mut rng, chunk * row));
    let mut out = vec![0.0; chunk * row];
    let mut ring = Ring::new(shape, RingLayout::default()).unwrap();
    let mut attention = PrefillAttention::new(shape);
    let cancel = AtomicBool::new(false);
    let (mut total, mut work) = (0.0, 0.0);
    for from in (0..context).step_by(chunk) {
        let n = chunk.min(context - from);
        let view = KvView::new(shape, &k, &v, context, from + n).unwrap();
        let query = Query { pre: &pre[..n * row], rot: &rot[..n * row] };
        let started = Instant::now();
        attention.chunk(query, &view, &mut ring, usize::MAX, &mut out[..n * row], pool, &cancel).unwrap();
        total += started.elapsed().as_secs_f64();
        let pairs: usize = (from + 1..=from + n).sum();
        work += (4 * pairs * row) as f64;
        if from == 0 {
            let want = attend(&rot[(n - 1) * row..][..shape.head_dim()], &view, 0, 0..n);
            let error = relative_l2(&out[(n - 1) * row..][..shape.head_dim()], &want.out);
            assert!(error < 1e-5, "the output is wrong, its speed means nothing: {error}");
        }
    }
    println!(
        "\nprefill {}/{} heads, D {}, {context} tokens in chunks of {chunk}: {:.1} ms, {:.1} us per token and layer, {:.1} GFLOP/s",
        shape.num_q_heads(),
        shape.num_kv_heads(),
        shape.head_dim(),
        total * 1e3,
        total * 1e6 / context as f64,
        work / total / 1e9
    );
}
