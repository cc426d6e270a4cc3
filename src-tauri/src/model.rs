//! The one model: loaded in the background, its status announced.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mac_attention::RingLayout;
use reprise_engine::{Device, Engine, LoadOptions, memory, weights};
use reprise_library::models;

use crate::app::{App, lock};
use crate::ipc::{Advice, ContextCost, KvFormat, ModelCard, ModelStatus, Settings, UserError};
use crate::{device, room};

/// Which model file the next start loads; the demo model where unset.
const KEY: &str = "model";
/// Shortest time between two announcements of the share loaded.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(100);

/// The loaded model and how it is.
#[derive(Default)]
pub struct Keeper {
    status: Mutex<Option<ModelStatus>>,
    engine: Mutex<Option<Engine>>,
    /// Where the loaded or loading model is; `None` for the demo model.
    choice: Mutex<Option<PathBuf>>,
    /// Loads asked for so far; a load that is no longer the newest gives up.
    asked: AtomicU64,
    /// Held while loading, so that two models are never in memory at once.
    loading: Mutex<()>,
}

impl Keeper {
    /// How the model is.
    pub fn status(&self) -> ModelStatus {
        lock(&self.status).clone().unwrap_or(ModelStatus::None)
    }

    /// The loaded model, or why there is none.
    pub fn engine(&self) -> Result<Engine, UserError> {
        if let Some(engine) = &*lock(&self.engine) {
            return Ok(engine.clone());
        }
        Err(match self.status() {
            ModelStatus::Failed { error } => error,
            ModelStatus::Loading { name, share } => {
                UserError::new(format!("The model {name} is still being loaded ({:.0} %).", share * 100.0))
                    .kept("Your text is still in the box.")
                    .hint("Ask again in a moment.")
            }
            ModelStatus::None | ModelStatus::Ready { .. } => {
                UserError::new("No model is loaded.").kept("Your text is still in the box.").advise(Advice::ChooseModel)
            }
        })
    }

    fn serialize(&self) -> MutexGuard<'_, ()> {
        lock(&self.loading)
    }
}

/// Loads what was loaded last, in the background.
pub fn load_last(app: &App) {
    let kept = app.chats().setting(KEY).ok().flatten().filter(|path| !path.is_empty()).map(PathBuf::from);
    load(app, kept);
}

/// Loads the current model again, as the settings are now.
pub fn reload(app: &App) -> Result<(), UserError> {
    let choice = lock(&app.model().choice).clone();
    load(app, choice);
    Ok(())
}

/// One core is left to the window. The engine's threads wait for each other by spinning, so sharing a core with the
/// page's drawing costs both: on two cores an answer streamed at 54 to 75 tokens/s with two threads, at 400 to 500 with one.
fn engine_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1))
}

/// Lets the user choose a model file.
pub fn pick(app: &App) -> Result<(), UserError> {
    if let Some(path) = app.desktop().pick_model() {
        load(app, Some(path));
    }
    Ok(())
}

/// Loads the demo model.
pub fn demo(app: &App) -> Result<(), UserError> {
    load(app, None);
    Ok(())
}

/// Starts loading; the page hears how it goes. `None` is the demo model.
pub fn load(app: &App, choice: Option<PathBuf>) {
    let number = app.model().asked.fetch_add(1, Ordering::AcqRel) + 1;
    announce(app, ModelStatus::Loading { name: title(choice.as_deref()), share: 0.0 });
    let app = app.clone();
    std::thread::spawn(move || {
        let _one_at_a_time = app.model().serialize();
        if !newest(&app, number) {
            return;
        }
        let settings = app.settings();
        let outcome = load_now(&app, choice.as_deref(), &settings, number);
        if !newest(&app, number) {
            return;
        }
        match outcome {
            Ok((engine, fallback)) => {
                let info = Box::new(card(&engine, settings.kv, fallback, choice.is_none()));
                keep_choice(&app, choice);
                *lock(&app.model().engine) = Some(engine);
                announce(&app, ModelStatus::Ready { info });
            }
            Err(error) => {
                *lock(&app.model().choice) = choice;
                announce(&app, ModelStatus::Failed { error });
            }
        }
    });
}

/// The model, and what is to be told of where it is and how its context is held.
fn load_now(
    app: &App,
    choice: Option<&Path>,
    settings: &Settings,
    number: u64,
) -> Result<(Engine, Option<UserError>), UserError> {
    let named = choice.map(|path| path.to_string_lossy().into_owned());
    let path = models::resolve(named.as_deref())?;
    // The old model goes first: both at once may not fit.
    app.stop_reply();
    app.reply().wait(crate::reply::LONGEST_STOP);
    let old = lock(&app.model().engine).take();
    if let Some(engine) = old {
        engine.close(crate::reply::LONGEST_STOP);
    }
    app.library().forget_counts();
    let options = LoadOptions {
        model: path,
        context_tokens: settings.context_tokens.map(|tokens| tokens as usize),
        threads: Some(engine_threads()),
        ring: RingLayout::default(),
        precision: weights::Precision::default(),
        device: Device::default(),
        kv: settings.kv.into(),
    };
    device::place(settings.device, options.kv, &device::look(), |device, kv| {
        Engine::load(LoadOptions { device, kv, ..options.clone() }, progress(app, title(choice), number))
    })
}

/// Announces the share loaded, and ends a load that is no longer wanted.
fn progress(app: &App, name: String, number: u64) -> impl FnMut(f32) -> bool + Send + 'static {
    let app = app.clone();
    let mut told_at = Instant::now();
    move |share| {
        if told_at.elapsed() >= ANNOUNCE_EVERY && newest(&app, number) {
            told_at = Instant::now();
            announce(&app, ModelStatus::Loading { name: name.clone(), share: share.clamp(0.0, 1.0) });
        }
        newest(&app, number)
    }
}

fn newest(app: &App, number: u64) -> bool {
    app.model().asked.load(Ordering::Acquire) == number
}

fn announce(app: &App, status: ModelStatus) {
    *lock(&app.model().status) = Some(status.clone());
    app.desktop().announce_model(&status);
}

/// A model that loaded is loaded again at the next start. If that cannot be saved the demo model is loaded then,
/// which the status line shows.
fn keep_choice(app: &App, choice: Option<PathBuf>) {
    let path = choice.as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let _ = app.chats().set_setting(KEY, &path);
    *lock(&app.model().choice) = choice;
}

fn title(choice: Option<&Path>) -> String {
    match choice {
        None => "demo model".to_owned(),
        Some(path) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
    }
}

fn card(engine: &Engine, kv_wished: KvFormat, fallback: Option<UserError>, demo: bool) -> ModelCard {
    let info = engine.info();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (device_name, kernels) = device::name_and_kernels(&info.device);
    ModelCard {
        name: info.name.clone(),
        architecture: info.architecture.clone(),
        weights: info.weights.clone(),
        parameters: info.parameters as f64,
        device: info.device.clone(),
        device_name,
        kernels,
        device_kind: info.device_kind.into(),
        kv: info.kv.into(),
        kv_wished,
        fallback,
        gpu_memory: device::gpu_memory(info),
        context_tokens: count(info.context_tokens),
        max_context_tokens: count(info.max_context_tokens),
        layers: count(info.layers),
        query_heads: count(info.num_q_heads),
        kv_heads: count(info.num_kv_heads),
        weights_bytes: info.memory.weights_bytes as f64,
        kv_bytes: info.memory.kv_bytes as f64,
        ring_bytes: info.memory.ring_bytes as f64,
        scratch_bytes: info.memory.scratch_bytes as f64,
        fixed_bytes: room::fixed_bytes(info) as f64,
        context_costs: info.context_costs.iter().map(ContextCost::from).collect(),
        context_room_bytes: room::context_room(info) as f64,
        free_bytes: memory::available_bytes() as f64,
        demo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_model_the_error_says_what_to_do() {
        let error = Keeper::default().engine().unwrap_err();
        assert_eq!(error.advice, [Advice::ChooseModel]);
    }
}
