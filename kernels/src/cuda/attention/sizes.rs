//! Blocks, clusters and shared memory of the decode kernels: `launch_sizes.h`, `attend.cuh` and `reuse.cuh` in Rust.
//! `kernels/cuda/contract.cu` asserts the figures of the test below on the other side.

use crate::AttentionShape;
use crate::cuda::GpuInfo;

pub(super) const ATTEND_WARPS: usize = 4;
pub(super) const ATTEND_THREADS: u32 = 32 * ATTEND_WARPS as u32;
/// Spans that one block of `attend` may touch, each with a row of scratch per head.
pub(super) const SPANS_PER_BLOCK: usize = 4;
/// Most KV heads of a layer.
pub(super) const MAX_KV_HEADS: usize = 128;

/// Tokens of a tile, times their bytes per element.
const TILE_TOKEN_BYTES: usize = 32;
const TILE_WARPS: usize = 2;
const MAX_CLUSTER: usize = 16;

/// Bytes from one row of a tile to the next; `bytes` per element. Those of queries have 2.
fn pitch(head_dim: usize, bytes: usize) -> usize {
    bytes * head_dim + 16
}

fn tile_bytes(head_dim: usize, bytes: usize) -> usize {
    2 * (TILE_TOKEN_BYTES / bytes) * pitch(head_dim, bytes)
}

/// Threads of a block of `reuse`.
pub(super) fn reuse_threads(head_dim: usize) -> u32 {
    if head_dim < 256 { 320 } else { 256 }
}

/// Query heads that a kernel is compiled for: the next of 8 and 16.
pub(super) fn kernel_heads(shape: AttentionShape) -> usize {
    if shape.group_size() > 8 { 16 } else { 8 }
}

/// What the machine code that the driver picks for a device was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// Shared memory per block that the kernels reckon with, in KB.
    pub(super) shared_kb: usize,
    /// Clusters and programmatic dependent launch.
    pub(super) clusters: bool,
}

impl Target {
    /// Machine code runs on its own generation from its own minor version on; a generation without any gets the
    /// intermediate form of compute capability 8.0.
    pub(super) fn of(capability: (i32, i32)) -> Self {
        let (shared_kb, clusters) = match capability {
            (8, 1..) => (99, false),
            (9 | 10, _) => (227, true),
            (12, _) => (99, true),
            _ => (163, false),
        };
        Self { shared_kb, clusters }
    }
}

impl GpuInfo {
    /// Whether the machine code that runs here waits for the kernel before it (`griddepcontrol.wait`), so that it may be launched
    /// to [overlap](crate::cuda::Launch::overlap). A newer generation gets the intermediate form, which does not.
    pub fn waits_for_previous(&self) -> bool {
        Target::of(self.compute_capability).clusters
    }
}

/// `bytes` per element of K and V.
pub(super) fn attend_shared_bytes(head_dim: usize, bytes: usize, heads: usize, shared_kb: usize) -> usize {
    let wanted = (512 / head_dim).max(3);
    let (tile, query) = (tile_bytes(head_dim, bytes), pitch(head_dim, 2));
    let room = shared_kb * 1024 - 16 * query - 1024;
    let stages = (room / (ATTEND_WARPS * tile)).min(wanted).max(2);
    let needed = ATTEND_WARPS * stages * tile + heads * query;
    // More than half of a multiprocessor's shared memory, or two blocks could share one and leave another idle.
    needed.max(shared_kb.div_ceil(2) * 1024 + 1024)
}

/// The same for every type of K and V.
pub(super) fn reuse_shared_bytes(head_dim: usize, heads: usize) -> usize {
    TILE_WARPS * (2 * tile_bytes(head_dim, 2) + heads * pitch(head_dim, 2))
        + 2 * 4 * (heads * head_dim + 4 * MAX_CLUSTER)
}

/// Blocks per KV head of `reuse`: enough to spread the search, not so many that clusters queue.
pub(super) fn reuse_cluster(num_kv_heads: usize, target: Target) -> u32 {
    match num_kv_heads {
        _ if !target.clusters => 1,
        ..=4 => 16,
        5..=16 => 8,
        17..=32 => 4,
        _ => 2,
    }
}

/// Rows of a tile, threads and shared memory of one prefill kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrefillSize {
    pub(super) tile_rows: usize,
    pub(super) threads: u32,
    pub(super) shared_bytes: usize,
    /// Tokens and numbers per row that one bulk copy moves; without, copies are the threads' own.
    pub(super) copy: Option<(usize, usize)>,
}

impl PrefillSize {
    /// Of the kernels that run everywhere; those that seed have the same.
    pub(super) fn plain(head_dim: usize) -> Self {
        let tile_rows = if head_dim > 128 { 64 } else { 128 };
        let tokens = if head_dim > 96 { 32 } else { 64 };
        Self { tile_rows, threads: 128, shared_bytes: (tile_rows + 2 * tokens) * 2 * head_dim, copy: None }
    }

    /// Of the kernels of compute capability 9.0.
    pub(super) fn wgmma(head_dim: usize, seed: bool) -> Self {
        const STAGES: usize = 2;
        let (warpgroups, tokens) = match (head_dim, seed) {
            (_, true) => (2, 64),
            (64, _) => (3, 128),
            (256, _) => (2, 80),
            _ => (2, 176),
        };
        let tile_rows = 64 * warpgroups;
        let columns = if head_dim.is_multiple_of(64) { 64 } else { 32 };
        let row = 2 * head_dim;
        Self {
            tile_rows,
            threads: 128 * (warpgroups as u32 + 1),
            shared_bytes: tile_rows * row + 2 * STAGES * tokens * row + 1024 + 256,
            copy: Some((tokens, columns)),
        }
    }
}

/// Blocks that share the tokens of a tile of rows, where rows are so few that they leave multiprocessors idle. A share
/// is at least 1024 tokens.
pub(super) fn prefill_splits(tiles: usize, num_kv_heads: usize, multiprocessors: usize, tokens: usize) -> usize {
    (multiprocessors / (tiles * num_kv_heads).max(1)).min(tokens / 1024).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_the_kernels_assert() {
        let attend_of = |bytes, kb| {
            AttentionShape::HEAD_DIMS
                .map(|dim| [attend_shared_bytes(dim, bytes, 8, kb), attend_shared_bytes(dim, bytes, 16, kb)])
        };
        let attend = |kb| attend_of(2, kb);
        assert_eq!(attend(227), [[148_608, 149_760], [134_784, 136_448], [141_440, 143_616], [206_976, 211_200]]);
        assert_eq!(attend(163), [[148_608, 149_760], [134_784, 136_448], [141_440, 143_616], [139_392, 143_616]]);
        assert_eq!(attend(99), [[93_312, 94_464], [81_536, 83_200], [71_808, 73_984], [139_392, 143_616]]);
        let bytes_1 = |kb| attend_of(1, kb);
        assert_eq!(bytes_1(227), [[164_992, 166_144], [145_024, 146_688], [149_632, 151_808], [213_120, 217_344]]);
        assert_eq!(bytes_1(163), [[144_512, 145_664], [145_024, 146_688], [149_632, 151_808], [143_488, 147_712]]);
        assert_eq!(bytes_1(99), [[83_072, 84_224], [87_680, 89_344], [75_904, 78_080], [143_488, 147_712]]);
        let reuse = AttentionShape::HEAD_DIMS.map(|dim| [reuse_shared_bytes(dim, 8), reuse_shared_bytes(dim, 16)]);
        assert_eq!(reuse, [[25_344, 31_744], [36_608, 46_080], [47_872, 60_416], [92_928, 117_760]]);
    }

    #[test]
    fn prefill_sizes_are_those_that_the_kernels_assert() {
        let plain = AttentionShape::HEAD_DIMS.map(|dim| PrefillSize::plain(dim).shared_bytes);
        assert_eq!(plain, [32_768, 49_152, 49_152, 65_536]);
        let wgmma = AttentionShape::HEAD_DIMS.map(|dim| [false, true].map(|seed| PrefillSize::wgmma(dim, seed)));
        assert_eq!(
            wgmma.map(|sizes| sizes.map(|size| size.shared_bytes)),
            [[91_392, 50_432], [161_024, 75_008], [214_272, 99_584], [230_656, 197_888]]
        );
        assert_eq!(prefill_splits(1, 8, 132, 100_000), 16);
        assert_eq!([prefill_splits(64, 8, 132, 100_000), prefill_splits(1, 1, 132, 1000)], [1, 1]);
    }

    #[test]
    fn every_device_gets_the_sizes_of_the_code_that_runs_on_it() {
        let kb = |capability| Target::of(capability).shared_kb;
        assert_eq!(
            [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)].map(kb),
            [163, 99, 99, 99, 227, 227, 227, 99]
        );
        for unknown in [(11, 0), (13, 0)] {
            assert_eq!(Target::of(unknown), Target::of((8, 0)), "by way of the intermediate form");
        }
        let waits = |compute_capability| {
            let (name, megabyte) = (String::new(), 1 << 20);
            let (multiprocessors, shared_bytes) = (100, 99 << 10);
            let info = GpuInfo {
                name,
                compute_capability,
                multiprocessors,
                memory_bytes: megabyte,
                l2_bytes: megabyte,
                shared_bytes,
                driver_version: 13_000,
            };
            info.waits_for_previous()
        };
        let capabilities = [(8, 0), (8, 9), (9, 0), (10, 3), (12, 0), (11, 0), (13, 0)];
        assert_eq!(capabilities.map(waits), [false, false, true, true, true, false, false]);
        let cluster = |heads, capability| reuse_cluster(heads, Target::of(capability));
        assert_eq!([1, 4, 8, 32, 128].map(|heads| cluster(heads, (9, 0))), [16, 16, 8, 4, 2]);
        assert_eq!(cluster(8, (8, 9)), 1);
    }
}
