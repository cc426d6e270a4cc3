//! A small persistent fork–join pool.
//!
//! A job is published in one atomic word, `epoch << 32 | next task`. Claiming a task is a compare-and-swap on that word,
//! so a claim succeeds only while its job is current; the caller leaves only when every task of the job has
//! finished. Together these keep the borrowed closure alive for exactly as long as anyone can call it, and nobody
//! ever waits for a worker that is still asleep.

use std::any::Any;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Parallel, Serial};

/// How long an idle worker spins before it sleeps: a wake-up costs tens of microseconds, but longer spinning would
/// take the core from whoever works between two attention calls.
const SPIN: Duration = Duration::from_micros(60);

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

thread_local! {
    /// Set while this thread runs a task of any pool: a nested job runs on the spot instead of waiting for itself.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that stay and share the tasks of one job after another. The caller takes part in every job.
#[derive(Debug)]
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// `epoch << 32 | next task`.
    word: AtomicU64,
    /// Tasks of the job; like `task`, only to be trusted after a successful claim.
    tasks: AtomicUsize,
    /// Points to the caller's `Task`.
    task: AtomicPtr<()>,
    finished: AtomicUsize,
    asleep: AtomicUsize,
    stop: AtomicBool,
    gate: Mutex<()>,
    wake: Condvar,
    /// The first panic of the job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl ThreadPool {
    /// A pool of `threads`, the caller included. Where the system refuses a thread the pool is smaller, as
    /// [`Parallel::threads`] then says.
    pub fn new(threads: NonZeroUsize) -> Self {
        let shared = Arc::new(Shared {
            word: AtomicU64::new(0),
            tasks: AtomicUsize::new(0),
            task: AtomicPtr::new(null_mut()),
            finished: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            gate: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (1..threads.get())
            .map_while(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("attention-{i}")).spawn(move || shared.work()).ok()
            })
            .collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }
}

impl Parallel for ThreadPool {
    fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || tasks >= u32::MAX as usize || INSIDE.get() {
            return Serial.run(tasks, task);
        }
        let turn = lock(&self.turn);
        self.shared.publish(tasks, &task);
        self.shared.help();
        self.shared.wait(tasks);
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.gate));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task, so there is nothing to report here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Makes a job current. `task` must outlive it: [`Self::wait`] is what ends it.
    fn publish(&self, tasks: usize, task: &Task<'_>) {
        self.finished.store(0, Ordering::Relaxed);
        self.tasks.store(tasks, Ordering::Relaxed);
        self.task.store(std::ptr::from_ref(task).cast_mut().cast(), Ordering::Relaxed);
        let epoch = (self.word.load(Ordering::Relaxed) >> 32).wrapping_add(1) & u64::from(u32::MAX);
        self.word.store(epoch << 32, Ordering::Release);
        // Either this sees the sleeper, or the sleeper's last look sees the new word.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.gate));
            self.wake.notify_all();
        }
    }

    /// Claims and runs tasks until none is left.
    fn help(&self) {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let tasks = self.tasks.load(Ordering::Relaxed);
            let task = self.task.load(Ordering::Relaxed);
            let i = (word & u64::from(u32::MAX)) as usize;
            if i >= tasks {
                return;
            }
            // `tasks` and `task` may belong to a later job than `word`, but then this fails.
            if let Err(current) = self.word.compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Acquire) {
                word = current;
                continue;
            }
            // SAFETY: the claim succeeded, so the job of `word` is current and lacks this task: its caller is still
            // inside `run`, where the `Task` lives, until `finished` counts what follows.
            let task = unsafe { *task.cast_const().cast::<Task<'_>>() };
            INSIDE.set(true);
            let result = catch_unwind(AssertUnwindSafe(|| task(i)));
            INSIDE.set(false);
            if let Err(panic) = result {
                lock(&self.panic).get_or_insert(panic);
            }
            self.finished.fetch_add(1, Ordering::AcqRel);
            word = self.word.load(Ordering::Acquire);
        }
    }

    /// Returns when all tasks have finished.
    fn wait(&self, tasks: usize) {
        let mut looks = 0_u32;
        while self.finished.load(Ordering::Acquire) < tasks {
            looks += 1;
            if looks < 4096 {
                std::hint::spin_loop();
            } else {
                // The last tasks may sit on a thread that has lost its core to someone else.
                std::thread::yield_now();
            }
        }
    }

    /// A worker's life.
    fn work(&self) {
        loop {
            let seen = self.word.load(Ordering::Acquire) >> 32;
            self.help();
            if !self.idle(seen) {
                return;
            }
        }
    }

    /// Waits for a job after `epoch`; false when the pool ends.
    fn idle(&self, epoch: u64) -> bool {
        let news = || self.word.load(Ordering::Acquire) >> 32 != epoch;
        let since = Instant::now();
        loop {
            for _ in 0..SPINS_PER_LOOK {
                if news() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
            if since.elapsed() > SPIN {
                break;
            }
        }
        let mut gate = lock(&self.gate);
        self.asleep.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !news() && !self.stop.load(Ordering::SeqCst) {
            gate = self.wake.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        drop(gate);
        !self.stop.load(Ordering::Acquire)
    }
}

/// A panic in a task is caught before it can leave any of these half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(threads).unwrap())
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in 1..=4 {
            let pool = pool(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn jobs_may_follow_each_other_at_once_or_after_a_sleep() {
        let pool = pool(3);
        let total = AtomicUsize::new(0);
        for round in 0..20_000 {
            if round % 5_000 == 0 {
                std::thread::sleep(Duration::from_millis(3));
            }
            pool.run(1 + round % 7, &|i| {
                total.fetch_add(i + 1, Ordering::Relaxed);
            });
        }
        let want: usize = (0..20_000).map(|round| (1..=1 + round % 7).sum::<usize>()).sum();
        assert_eq!(total.into_inner(), want);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_pool_working() {
        let pool = pool(2);
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, &|i| {
                assert_ne!(i, 7, "seven");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let message = result.unwrap_err();
        assert!(message.downcast_ref::<String>().unwrap().contains("seven"));
        assert_eq!(done.load(Ordering::Relaxed), 49);
        pool.run(50, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 99);
    }

    #[test]
    fn a_job_inside_a_job_does_not_wait_for_itself() {
        let pool = pool(2);
        let done = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(4, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(done.into_inner(), 16);
    }

    #[test]
    fn callers_on_many_threads_take_turns() {
        let pool = pool(2);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(5, &|_| {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 4 * 200 * 5);
    }
}
