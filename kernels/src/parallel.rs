//! How kernels spread work: the caller brings the threads.

/// A fork–join pool. Kernels must give the same bits for any number of threads, so work is cut into tasks by
/// shape and length alone and results are merged in task order.
pub trait Parallel: Sync {
    /// Threads that `run` may use, at least 1.
    fn threads(&self) -> usize;
    /// Calls `task(i)` once for every `i` in `0..tasks`, from any thread, and returns when all are done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// Everything on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}
