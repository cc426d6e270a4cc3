//! Ctrl-C: the first stops what runs and keeps what there is, the second quits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reprise_engine::StopHandle;

/// Exit code after an interrupt with nothing to keep, as shells use it.
const INTERRUPTED: i32 = 130;

/// Shared with the signal thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Set by the first Ctrl-C since work began; also what document reading and loading look at.
    pressed: AtomicBool,
    /// Nothing runs: the next Ctrl-C quits at once.
    waiting: AtomicBool,
    running: Mutex<Option<StopHandle>>,
}

impl Interrupt {
    /// Installs the handler; call once.
    pub(crate) fn install() -> Self {
        let interrupt = Self::default();
        let state = Arc::clone(&interrupt.state);
        let installed = ctrlc::set_handler(move || {
            let again = state.pressed.swap(true, Ordering::SeqCst);
            if again || state.waiting.load(Ordering::SeqCst) {
                crate::output::remark("");
                std::process::exit(INTERRUPTED);
            }
            if let Some(stop) = &*state.running.lock().unwrap_or_else(PoisonError::into_inner) {
                stop.stop();
            }
        });
        if let Err(error) = installed {
            // Without a handler Ctrl-C ends the process at once, which is safe and merely less kind.
            crate::output::remark(&format!("reprise: Ctrl-C will end the program at once: {error}"));
        }
        interrupt
    }

    /// Whether Ctrl-C was pressed since the last [`Self::wait`].
    pub(crate) fn pressed(&self) -> bool {
        self.state.pressed.load(Ordering::SeqCst)
    }

    /// The same, for code that polls a flag.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.state.pressed
    }

    /// A generation runs: the next Ctrl-C stops it. One pressed just before stops it at once.
    pub(crate) fn running(&self, stop: StopHandle) {
        let early = self.pressed();
        if early {
            stop.stop();
        }
        *self.state.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop.clone());
        // The handler may have run between the look and the store.
        if !early && self.pressed() {
            stop.stop();
        }
    }

    /// Nothing runs and the user is asked for input: Ctrl-C quits.
    pub(crate) fn wait(&self) {
        self.idle();
        self.state.waiting.store(true, Ordering::SeqCst);
        self.state.pressed.store(false, Ordering::SeqCst);
    }

    /// Work begins: Ctrl-C stops it.
    pub(crate) fn work(&self) {
        self.state.waiting.store(false, Ordering::SeqCst);
    }

    /// The generation is over.
    pub(crate) fn idle(&self) {
        *self.state.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
