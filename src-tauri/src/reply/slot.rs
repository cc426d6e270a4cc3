//! The place of the one reply being written, and how it is stopped from any thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use reprise_engine::{EngineError, StopHandle};

use crate::app::{App, lock};
use crate::ipc::UserError;

/// Empty, or the reply being prepared, read for or written.
#[derive(Default)]
pub struct Slot {
    running: Mutex<Option<Running>>,
    ended: Condvar,
}

struct Running {
    chat: i32,
    stop_asked: bool,
    /// Known once the engine has begun.
    stop: Option<StopHandle>,
}

impl Slot {
    /// Stops the reply, whatever it is at; nothing happens without one.
    pub fn stop(&self) {
        if let Some(running) = &mut *lock(&self.running) {
            running.stop_asked = true;
            if let Some(stop) = &running.stop {
                stop.stop();
            }
        }
    }

    /// The engine has begun; a stop that was asked for before reaches it now.
    pub fn begun(&self, stop: StopHandle) {
        if let Some(running) = &mut *lock(&self.running) {
            if running.stop_asked {
                stop.stop();
            }
            running.stop = Some(stop);
        }
    }

    /// The chat of the reply being written.
    pub fn chat(&self) -> Option<i32> {
        lock(&self.running).as_ref().map(|running| running.chat)
    }

    /// Waits until no reply is being written and the last one is stored; says whether that came true in time.
    pub fn wait(&self, longest: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(lock(&self.running), longest, |running| running.is_some());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_none()
    }
}

/// The slot is taken as long as this lives.
pub(super) struct Reserved(App);

impl Reserved {
    /// Takes the slot; one reply at a time.
    pub(super) fn take(app: &App, chat: i32) -> Result<Self, UserError> {
        let mut running = lock(&app.reply().running);
        if running.is_some() {
            return Err(EngineError::Busy.into());
        }
        *running = Some(Running { chat, stop_asked: false, stop: None });
        Ok(Self(app.clone()))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        *lock(&self.0.reply().running) = None;
        self.0.reply().ended.notify_all();
    }
}
