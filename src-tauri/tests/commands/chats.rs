//! Chats and settings through the page's commands.

use reprise_app_lib::app::App;
use serde_json::json;

use crate::desk::Bench;
use crate::page::Page;

#[test]
fn a_chat_lives_through_its_commands() {
    let bench = Bench::new();
    let page = Page::open(&bench.app);
    let chat = page.ok("chat_create", json!({}))["id"].as_i64().unwrap();
    page.ok("chat_rename", json!({ "chat": chat, "title": "  Pump manual " }));
    page.ok("chat_set_draft", json!({ "chat": chat, "text": "half a quest" }));
    let open = page.ok("chat_open", json!({ "chat": chat }));
    assert_eq!((open["title"].as_str(), open["draft"].as_str()), (Some("Pump manual"), Some("half a quest")));

    let rows = page.ok("chat_list", json!({}));
    assert_eq!((rows.as_array().unwrap().len(), rows[0]["title"].as_str()), (1, Some("Pump manual")));
    assert_eq!(page.ok("chat_search", json!({ "query": "pump" }))[0]["id"], chat);
    assert_eq!(page.ok("chat_search", json!({ "query": "turbine" })), json!([]));

    page.ok("chat_delete", json!({ "chat": chat }));
    assert_eq!(page.ok("chat_list", json!({})), json!([]));
    page.ok("chat_undelete", json!({ "chat": chat }));
    assert_eq!(page.ok("chat_list", json!({}))[0]["id"], chat);
}

#[test]
fn what_is_not_there_is_a_message_with_advice() {
    let bench = Bench::new();
    let page = Page::open(&bench.app);
    for (command, arguments) in [
        ("chat_open", json!({ "chat": 99 })),
        ("message_show", json!({ "message": 99 })),
        ("document_page", json!({ "document": 99, "page": 1 })),
        ("document_remove", json!({ "document": 99 })),
        ("context_use", json!({ "chat": 99, "draft": "x" })),
        ("ask", json!({ "chat": 99, "ask": { "kind": "question", "text": "x" }, "channel": "__CHANNEL__:1" })),
    ] {
        let error = page.call(command, arguments).unwrap_err();
        assert!(!error["message"].as_str().unwrap().is_empty(), "{command}: {error}");
        assert!(!error["advice"].as_array().unwrap().is_empty(), "{command}: {error}");
    }
}

#[test]
fn settings_come_back_as_kept_and_stay() {
    let bench = Bench::new();
    let page = Page::open(&bench.app);
    let mut wanted = page.ok("app_state", json!({}))["settings"].clone();
    wanted["theme"] = json!("dark");
    wanted["maxReplyTokens"] = json!(0);
    let kept = page.ok("settings_set", json!({ "settings": wanted }));
    assert_eq!((kept["theme"].as_str(), kept["maxReplyTokens"].as_i64()), (Some("dark"), Some(1)));

    let again = App::new(bench.desk.clone(), bench.dir.path(), crate::desk::reader()).unwrap();
    assert_eq!(serde_json::to_value(again.settings()).unwrap(), kept);
}

#[test]
fn the_first_start_shows_the_handbook_and_the_second_what_was_open() {
    let bench = Bench::new();
    let page = Page::open(&bench.app);
    let state = page.ok("app_state", json!({}));
    assert_eq!((state["firstStart"].as_bool(), state["storageProblem"].is_null()), (Some(true), true));
    let open = page.ok("chat_open", json!({ "chat": state["openChat"] }));
    let handbook = &open["documents"][0];
    assert!(handbook["name"].as_str().unwrap().ends_with("handbook.pdf"), "{open}");
    assert!(handbook["pages"].as_i64().unwrap() > 5, "{open}");
    assert!(!state["suggestions"].as_array().unwrap().is_empty(), "no suggestions beside the handbook");

    let second = page.ok("chat_create", json!({}))["id"].clone();
    let again = App::new(bench.desk.clone(), bench.dir.path(), crate::desk::reader()).unwrap();
    let state = Page::open(&again).ok("app_state", json!({}));
    assert_eq!((state["firstStart"].as_bool(), &state["openChat"]), (Some(false), &second));
}

#[test]
fn the_window_is_shown_when_the_page_is_ready() {
    let bench = Bench::new();
    Page::open(&bench.app).ok("page_ready", json!({}));
    assert_eq!(*bench.desk.shown.lock().unwrap(), 1);
}
