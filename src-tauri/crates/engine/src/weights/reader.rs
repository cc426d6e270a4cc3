//! A matrix on its way from a file to another device: raw, in steps, never whole in this process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::matrix::AlignedBytes;
use super::{READ_STEP, RawMatrix, ReadTick, io_error};
use crate::EngineError;

/// A matrix whose place in the file has been checked. Reads rows from the first to the last.
#[derive(Debug)]
pub(crate) struct MatrixReader<'a> {
    path: &'a Path,
    file: &'a File,
    dtype: GgmlDType,
    rows: usize,
    cols: usize,
}

impl<'a> MatrixReader<'a> {
    /// Stands at the first row.
    pub(super) fn new(
        path: &'a Path,
        mut file: &'a File,
        offset: u64,
        dtype: GgmlDType,
        rows: usize,
        cols: usize,
    ) -> Result<Self, EngineError> {
        file.seek(SeekFrom::Start(offset)).map_err(|e| io_error(path, e))?;
        Ok(Self { path, file, dtype, rows, cols })
    }

    /// Block type in the file.
    pub(crate) fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Fills `rows` with the next whole rows.
    pub(crate) fn read(&mut self, rows: &mut [u8]) -> Result<(), EngineError> {
        self.file.read_exact(rows).map_err(|e| io_error(self.path, e))
    }

    /// All of it, in this process after all.
    pub(super) fn read_whole(mut self, tick: &mut ReadTick<'_>) -> Result<RawMatrix, EngineError> {
        let len = self.rows * (self.cols / self.dtype.block_size() * self.dtype.type_size());
        let mut bytes = AlignedBytes::zeroed(len);
        for step in bytes.as_mut_slice().chunks_mut(READ_STEP) {
            self.read(step)?;
            if !tick(step.len() as u64) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(RawMatrix::new(self.dtype, self.rows, self.cols, bytes))
    }
}
