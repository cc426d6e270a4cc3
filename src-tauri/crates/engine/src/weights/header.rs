//! A little-endian reader that never goes past the end of its file and never allocates what the file cannot hold.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::{bad_file, io_error};
use crate::EngineError;

/// Metadata values in all, strings and numbers alike. The largest vocabularies have half a million entries (tokens,
/// merges, scores, types); as every value costs 32 bytes here, this caps a hostile header at 256 MB.
const MAX_VALUES: u64 = 8 << 20;
/// Bytes of all strings.
const MAX_TEXT_BYTES: u64 = 256 << 20;
/// No known file nests arrays.
const MAX_DEPTH: usize = 2;

pub(super) struct HeaderReader<'a> {
    reader: BufReader<&'a File>,
    path: &'a Path,
    file_len: u64,
    pos: u64,
    values_left: u64,
    text_left: u64,
}

impl<'a> HeaderReader<'a> {
    pub(super) fn new(file: &'a File, path: &'a Path, file_len: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, file),
            path,
            file_len,
            pos: 0,
            values_left: MAX_VALUES,
            text_left: MAX_TEXT_BYTES,
        }
    }

    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    pub(super) fn left(&self) -> u64 {
        self.file_len - self.pos
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        let mut buf = [0; N];
        self.fill(&mut buf)?;
        Ok(buf)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EngineError> {
        if buf.len() as u64 > self.left() {
            return bad_file(self.path, "the file ends inside its header");
        }
        self.reader.read_exact(buf).map_err(|e| io_error(self.path, e))?;
        self.pos += buf.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32, EngineError> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, EngineError> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self) -> Result<String, EngineError> {
        let len = self.u64()?;
        if len > self.left() {
            return bad_file(self.path, format!("a text of {len} B in a header with {} B left", self.left()));
        }
        if len > self.text_left {
            return bad_file(self.path, format!("more than {MAX_TEXT_BYTES} B of text in the header"));
        }
        self.text_left -= len;
        let mut buf = vec![0; len as usize];
        self.fill(&mut buf)?;
        // Some writers end strings with a NUL, and some vocabularies hold broken UTF-8.
        while buf.last() == Some(&0) {
            buf.pop();
        }
        Ok(match String::from_utf8(buf) {
            Ok(text) => text,
            Err(broken) => String::from_utf8_lossy(broken.as_bytes()).into_owned(),
        })
    }

    pub(super) fn value(&mut self) -> Result<Value, EngineError> {
        let kind = self.u32()?;
        self.value_of(kind, 0)
    }

    fn value_of(&mut self, kind: u32, depth: usize) -> Result<Value, EngineError> {
        if self.values_left == 0 {
            return bad_file(self.path, format!("more than {MAX_VALUES} metadata values"));
        }
        self.values_left -= 1;
        Ok(match kind {
            0 => Value::U8(self.bytes::<1>()?[0]),
            1 => Value::I8(self.bytes().map(i8::from_le_bytes)?),
            2 => Value::U16(self.bytes().map(u16::from_le_bytes)?),
            3 => Value::I16(self.bytes().map(i16::from_le_bytes)?),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.bytes().map(i32::from_le_bytes)?),
            6 => Value::F32(self.bytes().map(f32::from_le_bytes)?),
            7 => match self.bytes::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return bad_file(self.path, format!("a truth value of {other}")),
            },
            8 => Value::String(self.text()?),
            9 => self.array(depth)?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.bytes().map(i64::from_le_bytes)?),
            12 => Value::F64(self.bytes().map(f64::from_le_bytes)?),
            other => return bad_file(self.path, format!("metadata of unknown type {other}")),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, EngineError> {
        if depth >= MAX_DEPTH {
            return bad_file(self.path, "arrays nested too deep");
        }
        let kind = self.u32()?;
        let len = self.u64()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return bad_file(self.path, format!("an array of unknown type {other}")),
        };
        if len > self.values_left || len.checked_mul(least).is_none_or(|bytes| bytes > self.left()) {
            return bad_file(self.path, format!("an array of {len} values in a header with {} B left", self.left()));
        }
        (0..len).map(|_| self.value_of(kind, depth + 1)).collect::<Result<_, _>>().map(Value::Array)
    }
}
