//! What a decode step really touched, kept where it happens.

/// What became of one query head in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HeadOutcome {
    /// No search: exact policy, a context below the minimum, or a paused search.
    NotSearched = 0,
    /// Searched, and no stored query was close enough.
    Missed = 1,
    /// Matched, but another head of its group missed: the group was read and this head refreshed exactly.
    Refreshed = 2,
    /// Reused a stored state; the group's KV beyond amend and tail was not read.
    Reused = 3,
}

/// Counters of one layer's step. Bytes are counted at the loads, never derived from a hit rate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// One outcome per query head.
    pub heads: Vec<HeadOutcome>,
    /// KV heads whose whole group reused.
    pub groups_reused: usize,
    /// KV heads.
    pub groups: usize,
    /// K and V bytes read.
    pub kv_bytes_read: u64,
    /// Ring bytes read and written: queries probed, states loaded, the new entry.
    pub ring_bytes: u64,
    /// K and V bytes that exact attention reads at this length.
    pub kv_bytes_exact: u64,
}

impl Counters {
    /// Heads whose match was accepted, reused or refreshed with their group.
    pub fn heads_matched(&self) -> usize {
        self.heads.iter().filter(|h| matches!(h, HeadOutcome::Refreshed | HeadOutcome::Reused)).count()
    }

    /// Heads that reused a stored state.
    pub fn heads_reused(&self) -> usize {
        self.heads.iter().filter(|h| **h == HeadOutcome::Reused).count()
    }
}
