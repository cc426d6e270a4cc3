//! Descriptors of tensors for the bulk copy engine of compute capability 9.0.

use std::ffi::c_void;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::error::Checked as _;
use super::{CudaError, Gpu};

/// A descriptor, passed to a kernel by value (`const __grid_constant__ CUtensorMap`).
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(CUtensorMap);

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorElement {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// How rows of a box are spread over the banks of shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// As they come.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

/// A tensor in device memory, innermost dimension first.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// First element; a multiple of 16 bytes.
    pub address: u64,
    /// Of every element.
    pub element: TensorElement,
    /// Elements per dimension; reads beyond give zeros.
    pub extents: &'a [u64],
    /// Bytes from one index to the next, of every dimension but the innermost; multiples of 16.
    pub strides: &'a [u64],
    /// Elements per dimension that one copy moves, at most 256 each.
    pub tile: &'a [u32],
    /// Layout of the copy in shared memory.
    pub swizzle: Swizzle,
}

impl Gpu {
    /// Describes a tensor.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if the driver finds the description unfit.
    pub fn tensor_map(&self, tensor: Tensor<'_>) -> Result<TensorMap, CudaError> {
        let rank = tensor.extents.len();
        if !(1..=5).contains(&rank) || tensor.strides.len() + 1 != rank || tensor.tile.len() != rank {
            return Err(CudaError::Range { what: "tensor dimensions", got: rank, capacity: 5 });
        }
        self.bind()?;
        let element = match tensor.element {
            TensorElement::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            TensorElement::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            TensorElement::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        };
        let swizzle = match tensor.swizzle {
            Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let steps = [1u32; 5];
        // SAFETY: plain words, which the driver overwrites.
        let mut map: CUtensorMap = unsafe { std::mem::zeroed() };
        // SAFETY: every array has `rank` entries (strides one fewer), and the driver only reads them.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                element,
                rank as u32,
                tensor.address as *mut c_void,
                tensor.extents.as_ptr(),
                tensor.strides.as_ptr(),
                tensor.tile.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .checked("cuTensorMapEncodeTiled")?;
        Ok(TensorMap(map))
    }
}
