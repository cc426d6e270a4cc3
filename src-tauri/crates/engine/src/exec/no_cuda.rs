//! Built without the `cuda` feature.

use super::Executor;
use crate::memory::{ContextCost, MemoryPlan};
use crate::model::ModelSpec;
use crate::weights::Source;
use crate::{EngineError, LoadOptions};

pub(crate) fn load_cuda(
    _source: &mut Source,
    _spec: &ModelSpec,
    _options: &LoadOptions,
    _progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(Box<dyn Executor>, MemoryPlan), EngineError> {
    Err(EngineError::NoGpu { why: "this program was built without CUDA".into() })
}

pub(crate) fn context_costs(_spec: &ModelSpec) -> Result<Vec<ContextCost>, EngineError> {
    Ok(Vec::new())
}
