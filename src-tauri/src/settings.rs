//! What the user can set: kept as one JSON value, brought into range before it is used.

use reprise_library::chats::ChatStore;
use serde_json::Value;

use crate::app::App;
use crate::ipc::{AttentionMode, DeviceChoice, KvFormat, Settings, Theme, UserError};

const KEY: &str = "settings";

/// Shortest context worth loading, in tokens.
const LEAST_CONTEXT: u32 = 512;
/// Longest reply, in tokens.
const LONGEST_REPLY: u32 = 32_768;
/// Longest standing instructions, in characters.
const LONGEST_INSTRUCTIONS: usize = 20_000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            theme: Theme::System,
            attention: AttentionMode::Mac,
            device: DeviceChoice::Auto,
            kv: KvFormat::Bf16,
            context_tokens: None,
            max_reply_tokens: 1024,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: 0,
            system_prompt: String::new(),
            dashboard_open: true,
        }
    }
}

/// The kept settings. What is missing or cannot be understood takes its default, so that an older or newer version's
/// settings never keep the app from starting.
pub fn read(chats: &ChatStore) -> Settings {
    let kept = chats.setting(KEY).ok().flatten().and_then(|text| serde_json::from_str(&text).ok());
    kept.map_or_else(Settings::default, |kept| in_range(over_defaults(&kept)))
}

/// Brings settings into range, keeps them and puts them in force.
pub fn set(app: &App, wanted: Settings) -> Result<Settings, UserError> {
    let settings = in_range(wanted);
    let text = serde_json::to_string(&settings)
        .map_err(|error| UserError::new("The settings cannot be saved.").because(&error))?;
    app.chats().set_setting(KEY, &text)?;
    app.replace_settings(settings.clone());
    Ok(settings)
}

/// Takes each kept field that still makes sense on its own.
fn over_defaults(kept: &Value) -> Settings {
    let mut settings = Settings::default();
    let (Ok(Value::Object(defaults)), Some(kept)) = (serde_json::to_value(&settings), kept.as_object()) else {
        return settings;
    };
    let mut merged = defaults;
    for (key, value) in kept {
        let Some(before) = merged.insert(key.clone(), value.clone()) else {
            merged.shift_remove(key);
            continue;
        };
        match serde_json::from_value(Value::Object(merged.clone())) {
            Ok(understood) => settings = understood,
            Err(_) => {
                merged.insert(key.clone(), before);
            }
        }
    }
    settings
}

/// NaN is refused by every comparison here and so takes the default.
fn in_range(mut settings: Settings) -> Settings {
    let usual = Settings::default();
    let within = |value: f32, low: f32, high: f32, usual: f32| {
        if (low..=high).contains(&value) {
            value
        } else if value > high {
            high
        } else if value < low {
            low
        } else {
            usual
        }
    };
    settings.temperature = within(settings.temperature, 0.0, 5.0, usual.temperature);
    settings.top_p = within(settings.top_p, 0.01, 1.0, usual.top_p);
    settings.min_p = within(settings.min_p, 0.0, 0.99, usual.min_p);
    settings.repeat_penalty = within(settings.repeat_penalty, 0.5, 2.0, usual.repeat_penalty);
    settings.max_reply_tokens = settings.max_reply_tokens.clamp(1, LONGEST_REPLY);
    settings.context_tokens = settings.context_tokens.map(|tokens| tokens.max(LEAST_CONTEXT));
    if let Some((end, _)) = settings.system_prompt.char_indices().nth(LONGEST_INSTRUCTIONS) {
        settings.system_prompt.truncate(end);
    }
    settings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn out_of_range_is_brought_in() {
        let wild = Settings {
            temperature: f32::NAN,
            top_p: 9.0,
            min_p: -1.0,
            repeat_penalty: 0.0,
            max_reply_tokens: 0,
            context_tokens: Some(1),
            system_prompt: "ü".repeat(LONGEST_INSTRUCTIONS + 5),
            ..Settings::default()
        };
        let tame = in_range(wild);
        assert_eq!((tame.temperature, tame.top_p, tame.min_p, tame.repeat_penalty), (0.0, 1.0, 0.0, 0.5));
        assert_eq!((tame.max_reply_tokens, tame.context_tokens), (1, Some(LEAST_CONTEXT)));
        assert_eq!(tame.system_prompt.chars().count(), LONGEST_INSTRUCTIONS);
        assert_eq!(in_range(tame.clone()), tame);
    }

    #[test]
    fn a_field_that_makes_no_sense_costs_only_itself() {
        let read = over_defaults(&json!({ "theme": "dark", "temperature": "hot", "seed": 7, "fromTheFuture": true }));
        assert_eq!(read, Settings { theme: Theme::Dark, seed: 7, ..Settings::default() });
    }

    #[test]
    fn settings_kept_before_there_was_a_device_to_choose_are_read() {
        let read = over_defaults(&json!({ "contextTokens": 8192 }));
        assert_eq!(read, Settings { context_tokens: Some(8192), ..Settings::default() });
        let chosen = over_defaults(&json!({ "device": "gpu" }));
        assert_eq!(chosen.device, DeviceChoice::Gpu);
        assert_eq!(over_defaults(&json!({ "device": "quantum" })).device, DeviceChoice::Auto);
    }

    #[test]
    fn how_the_context_is_held_is_read_under_its_name_and_else_is_16_bits() {
        let older = over_defaults(&json!({ "device": "cpu", "contextTokens": 8192 }));
        assert_eq!(older, Settings { device: DeviceChoice::Cpu, context_tokens: Some(8192), ..Settings::default() });
        let named = |name: &str| over_defaults(&json!({ "kv": name, "seed": 7 }));
        for kv in [KvFormat::Bf16, KvFormat::Q8_0, KvFormat::Fp8] {
            let name = reprise_engine::KvFormat::from(kv).name();
            assert_eq!(named(name), Settings { kv, seed: 7, ..Settings::default() }, "as the engine names it: {name}");
        }
        assert_eq!(named("q2_k"), Settings { seed: 7, ..Settings::default() });
    }
}
