//! Commands as the page calls them: names, argument names and answers in JSON.

use reprise_app_lib::app::App;
use reprise_app_lib::ipc::contract;
use serde_json::Value;
use tauri::WebviewWindow;
use tauri::ipc::{CallbackFn, InvokeBody};
use tauri::test::{INVOKE_KEY, MockRuntime, get_ipc_response, mock_builder, mock_context, noop_assets};
use tauri::webview::InvokeRequest;

/// The page of an app, on the mock runtime.
pub(crate) struct Page {
    window: WebviewWindow<MockRuntime>,
    _app: tauri::App<MockRuntime>,
}

impl Page {
    pub(crate) fn open(app: &App) -> Self {
        let contract = contract::<MockRuntime>();
        let tauri_app = mock_builder()
            .invoke_handler(contract.invoke_handler())
            .manage(app.clone())
            .build(mock_context(noop_assets()))
            .unwrap();
        contract.mount_events(&tauri_app);
        let window =
            tauri::WebviewWindowBuilder::new(&tauri_app, "main", tauri::WebviewUrl::default()).build().unwrap();
        Self { window, _app: tauri_app }
    }

    /// Value or error of a command, in JSON.
    pub(crate) fn call(&self, command: &str, arguments: Value) -> Result<Value, Value> {
        let request = InvokeRequest {
            cmd: command.into(),
            callback: CallbackFn(0),
            error: CallbackFn(1),
            url: "tauri://localhost".parse().unwrap(),
            body: InvokeBody::Json(arguments),
            headers: tauri::http::HeaderMap::default(),
            invoke_key: INVOKE_KEY.to_owned(),
        };
        get_ipc_response(&self.window, request).map(|body| body.deserialize::<Value>().unwrap())
    }

    /// Value of a command that must not fail.
    pub(crate) fn ok(&self, command: &str, arguments: Value) -> Value {
        self.call(command, arguments).unwrap_or_else(|error| panic!("{command}: {error}"))
    }
}
