//! One set of threads for everything: candle's.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::utils::barrier_pool;
use mac_attention::Parallel;

/// candle's persistent pool behind the kernels' interface. Its threads spin for a moment between two products; a second
/// pool would fight them for the same cores in every layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct CandlePool;

impl Parallel for CandlePool {
    fn threads(&self) -> usize {
        barrier_pool().n_workers() + 1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let pool = barrier_pool();
        if tasks <= 1 || pool.n_workers() == 0 {
            (0..tasks).for_each(task);
            return;
        }
        let next = AtomicUsize::new(0);
        pool.execute(|_| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    break;
                }
                task(i);
            }
        });
    }
}

/// Runs `task` once on every item, spread over the threads.
pub(super) fn for_each<T: Send>(items: impl Iterator<Item = T>, task: &(dyn Fn(usize, &mut T) + Sync)) {
    let items: Vec<std::sync::Mutex<T>> = items.map(Into::into).collect();
    CandlePool.run(items.len(), &|i| {
        // Each lock is taken once; it only tells the compiler that no two threads share an item.
        if let Ok(mut item) = items[i].lock() {
            task(i, &mut item);
        }
    });
}

/// Asks for this many threads in all. candle reads the number from the environment when its pool starts, so it counts
/// only before the first product of the process; [`CandlePool::threads`] tells what it became.
pub fn request_threads(threads: Option<usize>) {
    static ASKED: std::sync::Once = std::sync::Once::new();
    let Some(threads) = threads else { return };
    ASKED.call_once(|| {
        // SAFETY: the standard library takes a lock around its own reads and writes of the environment. C code that
        // reads it at the same moment from another thread would race; the engine is loaded from a program's set-up or
        // a command handler, where the C libraries in use (WebKit's included) have read theirs.
        unsafe {
            std::env::set_var("CANDLE_NUM_THREADS", threads.max(1).to_string());
            std::env::set_var("RAYON_NUM_THREADS", threads.max(1).to_string());
        }
    });
}
