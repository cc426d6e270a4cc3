//! `reprise bench`: numbers with their denominators.
//!
//! [`attention`] times one layer's step over [`layers`] of made-up KV, beside a plain sum over the same bytes, and on a
//! GPU by [`attention_cuda`] as [`plan`] says, many of them by [`grid`];
//! [`model`] times decode and prefill of a whole [`runner`]; [`compare_llama`] runs llama.cpp beside ours.

pub(crate) mod attention;
pub(crate) mod attention_cuda;
pub(crate) mod cases;
mod compare_llama;
mod grid;
pub(crate) mod layers;
mod model;
pub(crate) mod plan;
mod prose;
mod runner;
pub(crate) mod shapes;

use crate::args::BenchCommand;
use crate::failure::Failure;

/// Runs the command.
pub(crate) fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Attention(args) => attention::run(&args),
        BenchCommand::Decode(args) => model::decode(&args),
        BenchCommand::Prefill(args) => model::prefill(&args),
        BenchCommand::CompareLlama(args) => compare_llama::run(&args),
    }
}
