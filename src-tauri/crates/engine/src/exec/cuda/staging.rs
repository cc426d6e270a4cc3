//! From a file to the device through two page-locked buffers: one is filled while the other is copied.

use mac_attention::cuda::{DeviceBuffer, Event, Gpu, PinnedBuffer};

use crate::EngineError;

/// Of each buffer. A disk needs milliseconds for it, so cancelling is quick and copies are long enough.
pub(super) const STAGING_BYTES: usize = 8 << 20;

/// Two page-locked buffers and where the device has come with each.
#[derive(Debug)]
pub(super) struct Staging {
    halves: [(PinnedBuffer<u8>, Event); 2],
    next: usize,
}

impl Staging {
    /// Takes the memory.
    pub(super) fn new(gpu: &Gpu) -> Result<Self, EngineError> {
        let half = || Ok::<_, EngineError>((gpu.pinned(STAGING_BYTES)?, gpu.event()?));
        Ok(Self { halves: [half()?, half()?], next: 0 })
    }

    /// Lets `fill` write `len` bytes and queues their copy to `target` from byte `begin` on.
    pub(super) fn copy(
        &mut self,
        target: &mut DeviceBuffer<u8>,
        begin: usize,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let (buffer, copied) = &mut self.halves[self.next];
        self.next = 1 - self.next;
        copied.synchronize()?;
        let bytes = &mut buffer[..len];
        fill(bytes)?;
        // SAFETY: the bytes change only after the event below, which follows the copy.
        unsafe { target.write_from_pinned(begin, bytes)? };
        copied.record()?;
        Ok(())
    }
}
