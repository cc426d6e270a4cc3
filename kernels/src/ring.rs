//! Past queries and the attention states they left, per head.

use half::bf16;

use crate::{AttentionShape, KernelError};

/// Size of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    /// Past queries kept per head (the look-back window M).
    pub slots: usize,
    /// Tokens nearest the cursor that a stored state leaves out (S): the entry of position p covers `0..max(0, p + 1 - band)`.
    pub band: usize,
}

impl Default for RingLayout {
    fn default() -> Self {
        Self { slots: 512, band: 256 }
    }
}

impl RingLayout {
    /// End (exclusive) of the prefix that the entry of `pos` covers.
    pub fn prefix_end(self, pos: usize) -> usize {
        (pos + 1).saturating_sub(self.band)
    }
}

/// One layer's ring. Slot of position p is `p % slots`; every slot carries its position, so stale ones are never candidates.
#[derive(Debug, Clone)]
pub struct Ring {
    shape: AttentionShape,
    layout: RingLayout,
    /// `[slots]`; [`EMPTY`] where nothing is stored.
    positions: Vec<usize>,
    /// bf16 bits, `[num_q_heads, slots, head_dim]`: contiguous per head for the search. Plain integers and floats,
    /// because only their zeroed vectors come from the system without being touched.
    queries: Vec<u16>,
    /// `[num_q_heads, slots, head_dim]`.
    outs: Vec<f32>,
    /// `[num_q_heads, slots]`.
    lses: Vec<f32>,
    /// `[num_q_heads, slots]`.
    depths: Vec<u32>,
    /// `[num_q_heads, slots]`.
    distances: Vec<f32>,
    /// One per KV head.
    pauses: Vec<Pause>,
}

/// What a slot holds for one head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RingEntry<'a> {
    /// Position of the query, 0-based.
    pub pos: usize,
    /// Query before rotation, bf16.
    pub query: &'a [bf16],
    /// Normalised attention output over the prefix, f32 (bf16 drifts: README, deviation 1).
    pub out: &'a [f32],
    /// Natural log-sum-exp of the prefix; −∞ for an empty one.
    pub lse: f32,
    /// Hits since the state was computed exactly.
    pub depth: u32,
    /// Sum of the query distances along those hits.
    pub distance: f32,
}

/// The stored part of an entry beside its query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefixState<'a> {
    /// `[head_dim]`.
    pub out: &'a [f32],
    pub lse: f32,
    pub depth: u32,
    pub distance: f32,
}

/// Mark of a slot without an entry; no context is that long.
const EMPTY: usize = usize::MAX;

/// Searches in a row that may fail before a group pauses: with reuse in sight a pause costs whole reads.
const TOLERATED_MISSES: u32 = 4;

/// Back-off of one KV group (see [`crate::Backoff`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Steps still to go without a search.
    remaining: u32,
    /// Length of the last pause.
    length: u32,
    /// Searches in a row without reuse.
    misses: u32,
}

impl Pause {
    /// Whether this step searches; counts the step.
    pub(crate) fn tick(&mut self) -> bool {
        let search = self.remaining == 0;
        self.remaining = self.remaining.saturating_sub(1);
        search
    }

    /// Takes note of a search; `max_pause` is at least 1.
    pub(crate) fn searched(&mut self, reused: bool, max_pause: u32) {
        if reused {
            *self = Self::default();
            return;
        }
        self.misses = self.misses.saturating_add(1);
        if self.misses >= TOLERATED_MISSES {
            self.length = self.length.saturating_mul(2).clamp(1, max_pause);
            self.remaining = self.length;
        }
    }
}

impl Ring {
    /// # Errors
    /// [`KernelError::Setting`] for zero slots or a zero band.
    pub fn new(shape: AttentionShape, layout: RingLayout) -> Result<Self, KernelError> {
        for (what, value) in [("ring slots", layout.slots), ("ring band", layout.band)] {
            if value == 0 {
                return Err(KernelError::Setting { what, why: "must be at least 1".into() });
            }
        }
        let states = shape.num_q_heads() * layout.slots;
        Ok(Self {
            shape,
            layout,
            positions: vec![EMPTY; layout.slots],
            queries: vec![0; states * shape.head_dim()],
            outs: vec![0.0; states * shape.head_dim()],
            lses: vec![0.0; states],
            depths: vec![0; states],
            distances: vec![0.0; states],
            pauses: vec![Pause::default(); shape.num_kv_heads()],
        })
    }

    /// The heads it serves.
    pub fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// Its size.
    pub fn layout(&self) -> RingLayout {
        self.layout
    }

    /// Bytes that a ring of this size takes.
    pub fn bytes(shape: AttentionShape, layout: RingLayout) -> usize {
        let tags = layout.slots * size_of::<usize>();
        tags + shape.num_q_heads() * layout.slots * Self::entry_bytes(shape) + shape.num_kv_heads() * size_of::<Pause>()
    }

    /// Bytes of one head's entry without its position.
    pub(crate) fn entry_bytes(shape: AttentionShape) -> usize {
        shape.head_dim() * size_of::<bf16>() + Self::state_bytes(shape)
    }

    /// Bytes of one head's stored state: an entry without its query.
    pub(crate) fn state_bytes(shape: AttentionShape) -> usize {
        shape.head_dim() * size_of::<f32>() + 2 * size_of::<f32>() + size_of::<u32>()
    }

    /// Forgets every entry.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets entries at positions `>= len`, for an edited or stopped chat.
    pub fn truncate(&mut self, len: usize) {
        self.drop_from(len);
        self.pauses.fill(Pause::default());
    }

    /// As [`Self::truncate`], but the back-off goes on.
    pub(crate) fn drop_from(&mut self, len: usize) {
        for pos in &mut self.positions {
            if *pos >= len {
                *pos = EMPTY;
            }
        }
    }

    /// Positions that have an entry, in no particular order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.positions.iter().copied().filter(|pos| *pos != EMPTY)
    }

    /// The entry of `pos`, if the ring still holds it.
    pub fn entry(&self, q_head: usize, pos: usize) -> Option<RingEntry<'_>> {
        let slot = pos % self.layout.slots;
        if pos == EMPTY || self.positions[slot] != pos || q_head >= self.shape.num_q_heads() {
            return None;
        }
        let at = q_head * self.layout.slots + slot;
        let span = at * self.shape.head_dim()..(at + 1) * self.shape.head_dim();
        Some(RingEntry {
            pos,
            query: bytemuck::cast_slice(&self.queries[span.clone()]),
            out: &self.outs[span],
            lse: self.lses[at],
            depth: self.depths[at],
            distance: self.distances[at],
        })
    }

    /// Puts back what [`Self::entry`] gave for every head of `pos`, for a chat that is opened again.
    ///
    /// # Errors
    /// [`KernelError::Length`] unless `heads` has one entry per query head with `head_dim` elements each.
    pub fn restore(&mut self, pos: usize, heads: &[RingEntry<'_>]) -> Result<(), KernelError> {
        let length = |what, expected, got| {
            if expected == got { Ok(()) } else { Err(KernelError::Length { what, expected, got }) }
        };
        length("ring entries", self.shape.num_q_heads(), heads.len())?;
        for entry in heads {
            length("ring query", self.shape.head_dim(), entry.query.len())?;
            length("ring output", self.shape.head_dim(), entry.out.len())?;
        }
        self.forget(pos);
        for (q_head, entry) in heads.iter().enumerate() {
            let RingEntry { out, lse, depth, distance, .. } = *entry;
            self.write_state(q_head, pos, PrefixState { out, lse, depth, distance });
            let span = self.query_span(q_head, pos);
            bytemuck::cast_slice_mut(&mut self.queries[span]).copy_from_slice(entry.query);
        }
        self.publish(pos);
        Ok(())
    }

    /// Whether the entry of `pos` may be reused by `q_head`: it is there and covers something finite.
    pub(crate) fn is_valid(&self, q_head: usize, pos: usize) -> bool {
        let slot = pos % self.layout.slots;
        self.positions[slot] == pos && self.lses[q_head * self.layout.slots + slot].is_finite()
    }

    /// Marks the slots whose position is in `max(0, t - slots)..t`. `live` is `[slots]`.
    pub(crate) fn mark_live(&self, t: usize, live: &mut [bool]) {
        let oldest = t.saturating_sub(self.layout.slots);
        for (live, pos) in live.iter_mut().zip(&self.positions) {
            *live = (oldest..t).contains(pos);
        }
    }

    /// Position per slot.
    pub(crate) fn slot_positions(&self) -> &[usize] {
        &self.positions
    }

    /// Stored queries of one head, `[slots, head_dim]`.
    pub(crate) fn queries(&self, q_head: usize) -> &[bf16] {
        let plane = self.layout.slots * self.shape.head_dim();
        bytemuck::cast_slice(&self.queries[q_head * plane..(q_head + 1) * plane])
    }

    /// Log-sum-exps of one head, `[slots]`.
    pub(crate) fn lses(&self, q_head: usize) -> &[f32] {
        &self.lses[q_head * self.layout.slots..(q_head + 1) * self.layout.slots]
    }

    /// Back-off of one KV group.
    pub(crate) fn pause_mut(&mut self, kv_head: usize) -> &mut Pause {
        &mut self.pauses[kv_head]
    }

    /// Empties the slot of `pos` before its parts are written.
    pub(crate) fn forget(&mut self, pos: usize) {
        let slot = pos % self.layout.slots;
        self.positions[slot] = EMPTY;
    }

    /// Makes the slot of `pos` an entry; all its parts must be written.
    pub(crate) fn publish(&mut self, pos: usize) {
        let slot = pos % self.layout.slots;
        self.positions[slot] = pos;
    }

    /// Stores the query of `pos`, rounded to bf16.
    pub(crate) fn write_query(&mut self, q_head: usize, pos: usize, q_pre: &[f32]) {
        let span = self.query_span(q_head, pos);
        for (bits, x) in self.queries[span].iter_mut().zip(q_pre) {
            *bits = bf16::from_f32(*x).to_bits();
        }
    }

    /// Stores the prefix state of `pos`.
    pub(crate) fn write_state(&mut self, q_head: usize, pos: usize, state: PrefixState<'_>) {
        let span = self.query_span(q_head, pos);
        self.outs[span].copy_from_slice(state.out);
        let at = q_head * self.layout.slots + pos % self.layout.slots;
        self.lses[at] = state.lse;
        self.depths[at] = state.depth;
        self.distances[at] = state.distance;
    }

    fn query_span(&self, q_head: usize, pos: usize) -> std::ops::Range<usize> {
        let at = q_head * self.layout.slots + pos % self.layout.slots;
        at * self.shape.head_dim()..(at + 1) * self.shape.head_dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(slots: usize) -> Ring {
        Ring::new(AttentionShape::new(2, 1, 64).unwrap(), RingLayout { slots, band: 3 }).unwrap()
    }

    fn store(ring: &mut Ring, pos: usize, lse: f32) {
        ring.forget(pos);
        for q_head in 0..2 {
            ring.write_query(q_head, pos, &[pos as f32; 64]);
            let out = &[pos as f32 + 0.5; 64];
            ring.write_state(q_head, pos, PrefixState { out, lse, depth: 1, distance: 2.0 });
        }
        ring.publish(pos);
    }

    #[test]
    fn a_slot_answers_only_for_its_own_position() {
        let mut ring = ring(4);
        assert_eq!(ring.entry(0, 0), None);
        for pos in 0..6 {
            store(&mut ring, pos, 1.0);
        }
        assert_eq!(ring.entry(0, 1), None, "overwritten by 5");
        let entry = ring.entry(1, 5).unwrap();
        assert_eq!((entry.pos, entry.out[0], entry.query[0].to_f32()), (5, 5.5, 5.0));
        assert_eq!(ring.entry(2, 5), None, "no such head");
        ring.truncate(4);
        assert_eq!(ring.entry(0, 5), None);
        assert!(ring.entry(0, 3).is_some());
        let mut left: Vec<_> = ring.positions().collect();
        left.sort_unstable();
        assert_eq!(left, [2, 3]);
        ring.clear();
        assert_eq!(ring.positions().count(), 0);
    }

    #[test]
    fn only_the_window_is_live_and_only_finite_entries_are_valid() {
        let mut ring = ring(4);
        for pos in 2..6 {
            store(&mut ring, pos, if pos == 4 { f32::NEG_INFINITY } else { 0.0 });
        }
        let mut live = [false; 4];
        ring.mark_live(5, &mut live);
        assert_eq!(live, [true, false, true, true], "5 is not in the past of 5");
        ring.mark_live(7, &mut live);
        assert_eq!(live, [true, true, false, true], "2 is out of the window");
        assert!(ring.is_valid(0, 5) && !ring.is_valid(0, 4) && !ring.is_valid(0, 1));
    }

    #[test]
    fn restore_puts_back_what_entry_gave() {
        let mut from = ring(4);
        store(&mut from, 9, 0.25);
        let mut to = ring(8);
        let heads: Vec<_> = (0..2).map(|q_head| from.entry(q_head, 9).unwrap()).collect();
        to.restore(9, &heads).unwrap();
        assert_eq!(to.entry(1, 9), from.entry(1, 9));
        assert!(to.restore(9, &heads[..1]).is_err());
    }

    #[test]
    fn a_ring_without_slots_or_band_is_refused() {
        let shape = AttentionShape::new(2, 1, 64).unwrap();
        assert!(Ring::new(shape, RingLayout { slots: 0, band: 1 }).is_err());
        assert!(Ring::new(shape, RingLayout { slots: 1, band: 0 }).is_err());
    }

    #[test]
    fn pauses_grow_after_repeated_misses_and_end_with_a_hit() {
        let mut pause = Pause::default();
        let mut searched_at = Vec::new();
        for step in 0..60 {
            if pause.tick() {
                searched_at.push(step);
                pause.searched(false, 16);
            }
        }
        assert_eq!(searched_at, [0, 1, 2, 3, 5, 8, 13, 22, 39, 56]);
        while !pause.tick() {}
        pause.searched(true, 16);
        assert_eq!(pause, Pause::default());
    }
}
