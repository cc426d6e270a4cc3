//! Captured work and time stamps.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUevent, CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode};

use super::error::Checked as _;
use super::{CudaError, Gpu};

/// Work captured once and replayed as one launch.
#[derive(Debug)]
pub struct Graph {
    gpu: Gpu,
    captured: CUgraph,
    executable: CUgraphExec,
}

// SAFETY: handles of the driver; a graph is launched through `&self` only in its own stream.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: ours; replays in flight end first.
            unsafe {
                let _ = result::stream::synchronize(self.gpu.stream());
                let _ = result::graph::exec_destroy(self.executable);
                let _ = result::graph::destroy(self.captured);
            }
        }
    }
}

impl Gpu {
    /// Captures what `work` puts into the stream instead of running it. Allocations, waits and copies that wait are not
    /// allowed in it. Other threads may go on using the device.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.bind()?;
        let detour = Detour::begin(self)?;
        // SAFETY: the stream is alive; capture ends below on every path.
        unsafe { result::stream::begin_capture(detour.0, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }
            .checked("cuStreamBeginCapture")?;
        let worked = work();
        // SAFETY: capture was begun above.
        let captured = unsafe { result::stream::end_capture(detour.0) };
        drop(detour);
        if let Err(error) = worked {
            if let Ok(unwanted) = captured {
                // SAFETY: ours and unused.
                let _ = unsafe { result::graph::destroy(unwanted) };
            }
            return Err(error);
        }
        let graph = captured.map_err(|error| CudaError::new("cuStreamEndCapture", error))?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just made.
        let made =
            unsafe { sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0) }.checked("cuGraphInstantiate");
        if let Err(error) = made {
            // SAFETY: ours and unused.
            let _ = unsafe { result::graph::destroy(graph) };
            return Err(error);
        }
        Ok(Graph { gpu: self.clone(), captured: graph, executable })
    }

    /// Marks this point of the stream.
    pub fn event(&self) -> Result<Event, CudaError> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)
            .map_err(|error| CudaError::new("cuEventCreate", error))?;
        let event = Event { gpu: self.clone(), event };
        event.record()?;
        Ok(event)
    }
}

/// A stream of its own for what this thread captures: the shared one goes on serving other threads.
struct Detour(CUstream);

impl Detour {
    /// The device must be bound.
    fn begin(gpu: &Gpu) -> Result<Self, CudaError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| CudaError::new("cuStreamCreate", error))?;
        gpu.divert(stream);
        Ok(Self(stream))
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        Gpu::end_diversion();
        // SAFETY: ours; nothing ever ran in it.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}

impl Graph {
    /// Replays the captured work in the device's stream and returns at once.
    ///
    /// # Safety
    /// Everything that the captured launches name must still be alive and theirs, see [`super::Kernel::launch`].
    pub unsafe fn launch(&self) -> Result<(), CudaError> {
        self.gpu.bind()?;
        // SAFETY: graph and stream are alive.
        unsafe { result::graph::launch(self.executable, self.gpu.stream()) }.checked("cuGraphLaunch")
    }
}

/// A point in the stream.
#[derive(Debug)]
pub struct Event {
    gpu: Gpu,
    event: CUevent,
}

// SAFETY: a handle of the driver.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: ours.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

impl Event {
    /// Moves the mark to the stream's present end.
    pub fn record(&self) -> Result<(), CudaError> {
        self.gpu.bind()?;
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(self.event, self.gpu.stream()) }.checked("cuEventRecord")
    }

    /// Waits until the stream has come here.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.gpu.bind()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event) }.checked("cuEventSynchronize")
    }

    /// Microseconds of device time from `self` to `later`, both of which must have been reached.
    pub fn microseconds_to(&self, later: &Self) -> Result<f64, CudaError> {
        self.gpu.bind()?;
        // SAFETY: both events are alive.
        let milliseconds = unsafe { result::event::elapsed(self.event, later.event) }
            .map_err(|error| CudaError::new("cuEventElapsedTime", error))?;
        Ok(f64::from(milliseconds) * 1e3)
    }
}
