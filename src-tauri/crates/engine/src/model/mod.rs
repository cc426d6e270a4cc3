//! What a model is: its sizes and rules, read from a configuration file or GGUF metadata.

mod gguf;
mod hf;
mod rope;
mod shapes;
mod spec;

pub use gguf::spec_from_gguf;
pub use hf::spec_from_config;
pub use rope::{Rope, RopeAngles, RopeScaling};
pub use shapes::{SHAPES, named_shape};
pub use spec::{Architecture, ModelSpec};
