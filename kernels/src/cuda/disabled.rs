//! Built without the `cuda` feature.

use super::CudaProbe;

pub(super) fn probe() -> CudaProbe {
    CudaProbe::NotBuilt
}
