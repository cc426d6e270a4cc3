//! `reprise bench`: numbers with their denominators.
//!
//! [`attention`] times one layer's step over [`layers`] of made-up KV, beside a plain sum over the same bytes;
//! [`model`] times decode and prefill of a whole [`runner`]; [`compare_llama`] runs llama.cpp beside ours.

pub(crate) mod attention;
pub(crate) mod cases;
mod compare_llama;
pub(crate) mod layers;
mod model;
mod prose;
mod runner;
pub(crate) mod shapes;

use crate::args::{BenchCommand, DeviceChoice};
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

/// Refuses a device that this build cannot serve, instead of running on another one.
fn require(device: DeviceChoice) -> Result<(), Failure> {
    match device {
        DeviceChoice::Cpu => Ok(()),
        DeviceChoice::Cuda => Err(Failure::NoCudaKernels),
    }
}
