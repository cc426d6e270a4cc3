//! Exactly what the user typed, checked only for form.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mac_attention::RingLayout;
use reprise_engine::KvFormat;

use crate::bench::cases::{Case, DecodeAttentionMode};
use crate::bench::shapes::{AttentionChoice, ModelShape};

/// Chat with very long documents on this machine; nothing leaves it.
#[derive(Debug, Parser)]
#[command(name = "reprise", version, propagate_version = true, subcommand_required = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed (the message says why), 2 wrong use, 130 interrupted before there was anything to keep."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask a question about documents, or chat.
    Chat(ChatArgs),
    /// Measure this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check this machine: processor, memory, GPU, read bandwidth, kernels against their oracle.
    Doctor(DoctorArgs),
    /// The models on this machine.
    #[command(subcommand)]
    Models(ModelsCommand),
}

impl Command {
    /// Whether standard output belongs to JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Chat(args) => args.json,
            Self::Bench(BenchCommand::Attention(args)) => args.json,
            Self::Bench(BenchCommand::Decode(args)) => args.model.json,
            Self::Bench(BenchCommand::Prefill(args)) => args.model.json,
            Self::Bench(BenchCommand::CompareLlama(args)) => args.json,
            Self::Doctor(args) => args.json,
            Self::Models(ModelsCommand::List(args)) => args.json,
        }
    }
}

/// How decode steps attend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttentionMode {
    /// Reuse earlier results where a past query was close enough.
    Mac,
    /// Read the whole context at every step.
    Exact,
}

/// Where a chat's model is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChatDevice {
    /// An NVIDIA GPU where one is usable and the model fits, else the processor; said which, and why.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU or nothing.
    Cuda,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvChoice {
    /// bfloat16.
    #[value(name = "bf16")]
    Bf16,
    /// 8-bit blocks, about half the memory; on a GPU.
    #[value(name = "q8_0")]
    Q8_0,
    /// 8-bit floats, half the memory and coarser; on a GPU.
    #[value(name = "fp8")]
    Fp8,
}

impl From<KvChoice> for KvFormat {
    fn from(choice: KvChoice) -> Self {
        match choice {
            KvChoice::Bf16 => Self::Bf16,
            KvChoice::Q8_0 => Self::Q8_0,
            KvChoice::Fp8 => Self::Fp8,
        }
    }
}

/// `reprise chat`
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The question; without one, an interactive chat begins.
    pub(crate) question: Option<String>,
    /// A .gguf file, a model folder, or owner/name[:file] of the local Hugging Face cache; the demo model if not given.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// A PDF, a text or source file, or a folder of them; may be given several times.
    #[arg(long, short, value_name = "PATH")]
    pub(crate) attach: Vec<PathBuf>,
    /// How decode steps attend.
    #[arg(long, value_enum, default_value_t = AttentionMode::Mac)]
    pub(crate) attention: AttentionMode,
    /// Most tokens to write per answer.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = positive)]
    pub(crate) max_tokens: usize,
    /// Standing instructions for the model.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Context to reserve, in tokens (8192, 32K); the model's limit, or what fits in memory, if not given.
    #[arg(long, value_name = "N", value_parser = tokens)]
    pub(crate) context: Option<usize>,
    /// Threads; the machine's if not given.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Where the model is to live.
    #[arg(long, value_enum, default_value_t = ChatDevice::Auto)]
    pub(crate) device: ChatDevice,
    /// How keys and values are held.
    #[arg(long, value_enum, default_value_t = KvChoice::Bf16)]
    pub(crate) kv: KvChoice,
    /// Reuse: match threshold, 0 to 1; higher is stricter.
    #[arg(long, value_name = "T", value_parser = share)]
    pub(crate) threshold: Option<f32>,
    /// Reuse: shortest context, in tokens, at which matching is tried.
    #[arg(long, value_name = "N", value_parser = tokens)]
    pub(crate) min_context: Option<usize>,
    /// Choice of tokens.
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// One JSON object a line on standard output: events prefill, token, done and error.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = not_negative)]
    pub(crate) temperature: f32,
    /// Seed of the draws: the same seed gives the same answer.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Keep the N likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Keep the likeliest tokens that sum to this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share)]
    pub(crate) top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share)]
    pub(crate) min_p: f32,
    /// Makes tokens of the last 64 less likely; 1 changes nothing.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = not_negative)]
    pub(crate) repeat_penalty: f32,
}

/// `reprise bench …`
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// One layer's decode attention, layers rotated so that the cache does not help.
    Attention(BenchAttentionArgs),
    /// Whole decode steps of a model.
    Decode(BenchDecodeArgs),
    /// Reading a prompt.
    Prefill(BenchPrefillArgs),
    /// The same GGUF file and tokens through llama.cpp's Python binding, in turns with ours.
    CompareLlama(CompareLlamaArgs),
}

/// Which device a benchmark runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// `reprise bench attention`
#[derive(Debug, Args)]
pub(crate) struct BenchAttentionArgs {
    /// Query heads / KV heads / head dimension, or a model shape: demo, llama-3.2-1b, llama-3.1-8b, qwen3-4b or qwen3-8b.
    #[arg(long, value_name = "Q/KV/D", default_value = "32/8/128")]
    pub(crate) shape: AttentionChoice,
    /// Context lengths, in tokens (8192,100K).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8K,32K,100K", value_parser = tokens)]
    pub(crate) context: Vec<usize>,
    /// Cases: `exact`, `all_hit`, `no_hit`, `hit_RATE`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "exact,all_hit,hit_0.95,hit_0.5,no_hit")]
    pub(crate) case: Vec<Case>,
    /// Distance to the reused entry, in tokens.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = lag)]
    pub(crate) lag: usize,
    /// In `no_hit`, heads that keep missing pause their search for up to N steps, as they do in a chat; 0 searches at
    /// every step. The other cases always search.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(..=i64::from(MOST_BACKOFF)))]
    pub(crate) backoff: u32,
    /// Threads; the machine's if not given.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Measured rounds; chosen by time if not given.
    #[arg(long, value_name = "N", value_parser = rounds)]
    pub(crate) rounds: Option<usize>,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
    /// How keys and values are held.
    #[arg(long, value_enum, default_value_t = KvChoice::Bf16)]
    pub(crate) kv: KvChoice,
    /// On a GPU: writes a table of many shapes, contexts and hit rates to this CSV file instead, one type of K and V at a time.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["shape", "context", "case", "json"])]
    pub(crate) grid: Option<PathBuf>,
    /// On a GPU: the commit that results are marked with, if git cannot tell.
    #[arg(long, value_name = "HASH")]
    pub(crate) commit: Option<String>,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What decode and prefill benchmarks run.
#[derive(Debug, Args)]
pub(crate) struct BenchModelArgs {
    /// A named shape with made-up weights: demo, llama-3.2-1b, llama-3.1-8b, qwen3-4b or qwen3-8b.
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) shape: Option<ModelShape>,
    /// A real model, as in `reprise chat`; the demo model if neither is given.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// How made-up weights are held.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = WeightsChoice::Q8_0)]
    pub(crate) weights: WeightsChoice,
    /// Threads; the machine's if not given.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
    /// How keys and values are held.
    #[arg(long, value_enum, default_value_t = KvChoice::Bf16)]
    pub(crate) kv: KvChoice,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How made-up weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsChoice {
    /// 8-bit blocks.
    #[value(name = "q8_0")]
    Q8_0,
    /// Half precision.
    #[value(name = "f16")]
    F16,
    /// Single precision.
    #[value(name = "f32")]
    F32,
    /// bfloat16; on a GPU.
    #[value(name = "bf16")]
    Bf16,
    /// 4-bit blocks of 256; on a GPU.
    #[value(name = "q4_k")]
    Q4K,
}

/// `reprise bench decode`
#[derive(Debug, Args)]
pub(crate) struct BenchDecodeArgs {
    /// What to run.
    #[command(flatten)]
    pub(crate) model: BenchModelArgs,
    /// Context lengths, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2K,8K,32K", value_parser = tokens)]
    pub(crate) context: Vec<usize>,
    /// exact, mac (natural matches) or forced:RATE (dictated hits).
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "exact,mac,forced:1")]
    pub(crate) attention: Vec<DecodeAttentionMode>,
    /// Decode steps to time per case; 64 on a GPU and 32 on the processor, if not given.
    #[arg(long, value_name = "N", value_parser = steps)]
    pub(crate) tokens: Option<usize>,
}

/// `reprise bench prefill`
#[derive(Debug, Args)]
pub(crate) struct BenchPrefillArgs {
    /// What to run.
    #[command(flatten)]
    pub(crate) model: BenchModelArgs,
    /// Prompt lengths, in tokens.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "2K,8K", value_parser = tokens)]
    pub(crate) tokens: Vec<usize>,
}

/// `reprise bench compare-llama`
#[derive(Debug, Args)]
pub(crate) struct CompareLlamaArgs {
    /// A GGUF file, as in `reprise chat`; the demo model if not given.
    #[arg(long, short, value_name = "GGUF")]
    pub(crate) model: Option<String>,
    /// Prompt length, in tokens.
    #[arg(long, value_name = "N", default_value = "8K", value_parser = tokens)]
    pub(crate) context: usize,
    /// Decode steps to time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = steps)]
    pub(crate) tokens: usize,
    /// Rounds; each reads and writes once on either side.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = rounds)]
    pub(crate) rounds: usize,
    /// Threads on either side; the machine's if not given.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// A Python that has llama-cpp-python.
    #[arg(long, value_name = "PY", default_value = "python3")]
    pub(crate) python: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reprise doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Threads; the machine's if not given.
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reprise models …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// The demo model, and what the local Hugging Face cache holds.
    List(ModelsListArgs),
}

/// `reprise models list`
#[derive(Debug, Args)]
pub(crate) struct ModelsListArgs {
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Far more tokens than any model takes, and few enough that no size computed from them overflows.
const MOST_TOKENS: usize = 1 << 30;
/// Far more than processors have; each thread takes memory.
const MOST_THREADS: usize = 1024;
const MOST_ROUNDS: usize = 1 << 20;
/// Settling takes some steps of every layer for each step of the longest pause.
const MOST_BACKOFF: u32 = 1024;

/// A token count: digits, or digits with `K` for 1,024 of them.
fn tokens(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let count: usize = digits.parse().map_err(|_| "a number of tokens, for example 8192 or 8K".to_owned())?;
    match count.checked_mul(unit) {
        Some(count) if (1..=MOST_TOKENS).contains(&count) => Ok(count),
        _ => Err(format!("must be from 1 to {MOST_TOKENS}")),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    up_to(MOST_THREADS, text)
}

fn rounds(text: &str) -> Result<usize, String> {
    up_to(MOST_ROUNDS, text)
}

fn steps(text: &str) -> Result<usize, String> {
    up_to(MOST_TOKENS, text)
}

/// A ring keeps no older queries; the kernels would take a nearer one.
fn lag(text: &str) -> Result<usize, String> {
    up_to(RingLayout::default().slots, text)
}

fn up_to(most: usize, text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(|| format!("a whole number from 1 to {most}"))
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number, at least 1".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| "a number from 0 to 1".to_owned())
}

fn not_negative(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && *x >= 0.0).ok_or_else(|| "a number, at least 0".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn token_counts_take_digits_and_k() {
        assert_eq!(tokens("8192"), Ok(8192));
        assert_eq!(tokens("100K"), Ok(102_400));
        for wrong in ["0", "", "K", "-1", "1.5K", "99999999999999999999K", "18446744073709551615K", "2000000K"] {
            assert!(tokens(wrong).is_err(), "{wrong:?} must be refused");
        }
        assert_eq!(threads("1024"), Ok(1024));
        assert!(threads("0").is_err() && threads("1025").is_err());
    }

    #[test]
    fn shares_refuse_nan() {
        assert!(share("NaN").is_err() && not_negative("NaN").is_err() && not_negative("inf").is_err());
        assert_eq!(share("0.45"), Ok(0.45));
    }
}
