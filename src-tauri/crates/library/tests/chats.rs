//! The promise about a killed app, with a real process that is really killed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use reprise_library::chats::{Author, ChatError, ChatStore, MessageState};

const FILE_VARIABLE: &str = "REPRISE_TEST_CHATS";

#[test]
#[ignore = "the process that a_killed_app_loses_at_most_the_last_token starts and kills"]
fn app_to_be_killed() {
    let store = ChatStore::open(&PathBuf::from(std::env::var_os(FILE_VARIABLE).unwrap())).unwrap();
    let chat = store.create().unwrap();
    let question = store.add(chat, None, Author::User, "Count.", MessageState::Done).unwrap();
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    for number in 0_u64.. {
        store.append(reply, &format!("{number} ")).unwrap();
        println!("saved {number}");
    }
}

#[test]
fn a_killed_app_loses_at_most_the_last_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chats.sqlite");
    for round in 0..3 {
        let mut app = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "app_to_be_killed", "--nocapture"])
            .env(FILE_VARIABLE, &file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(app.stdout.take().unwrap()).lines().map_while(Result::ok);
        let saved = |line: &str| line.split_once("saved ").and_then(|(_, n)| n.trim().parse::<u64>().ok());
        let enough = 100 + 57 * round;
        let mut last = lines.by_ref().filter_map(|l| saved(&l)).find(|n| *n >= enough).unwrap();
        app.kill().unwrap();
        // What it had said before it died counts too; a line cut in the middle does not.
        for line in lines {
            if let Some(number) = saved(&line).filter(|n| *n == last + 1) {
                last = number;
            }
        }
        assert!(!app.wait().unwrap().success());

        let store = ChatStore::open(&file).unwrap();
        let chat = store.list().unwrap()[0].id;
        let branch = store.branch(chat).unwrap();
        assert_eq!(branch[1].state, MessageState::Stopped);
        let counted: Vec<u64> = branch[1].text.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(counted, (0..counted.len() as u64).collect::<Vec<_>>(), "no hole, nothing twice");
        let kept = counted.len() as u64 - 1;
        assert!(kept == last || kept == last + 1, "kept {kept}, said to be saved {last}");
        assert!(store.search("Count").unwrap().iter().any(|(row, _)| row.id == chat));
    }
}

#[test]
#[ignore = "the process without a page of disk that a_full_disk_leaves_the_chats_readable starts"]
fn app_on_a_full_disk() {
    let store = ChatStore::open(&PathBuf::from(std::env::var_os(FILE_VARIABLE).unwrap())).unwrap();
    let chat = store.list().unwrap()[0].id;
    assert_eq!(store.branch(chat).unwrap()[0].text, "Count.");
    assert_eq!(store.search("count").unwrap().len(), 1);
    for _ in 0..2 {
        assert!(matches!(store.set_draft(chat, "x"), Err(ChatError::DiskFull { .. })));
    }
}

#[test]
fn a_full_disk_leaves_the_chats_readable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chats.sqlite");
    let store = ChatStore::open(&file).unwrap();
    let chat = store.create().unwrap();
    store.add(chat, None, Author::User, "Count.", MessageState::Done).unwrap();
    // Closed in good order, so that the log and its index have to be made anew.
    drop(store);
    let before = std::fs::read(&file).unwrap();
    // A limit on file sizes stands for the disk: it refuses every page, here with an error and no signal.
    let app = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" --ignored --exact app_on_a_full_disk --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(FILE_VARIABLE, &file)
        .output()
        .unwrap();
    assert!(app.status.success(), "{}", String::from_utf8_lossy(&app.stderr));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let store = ChatStore::open(&file).unwrap();
    store.set_draft(chat, "there is room again").unwrap();
}

#[test]
fn appending_a_token_costs_far_less_than_making_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = ChatStore::open(&folder.path().join("chats.sqlite")).unwrap();
    let chat = store.create().unwrap();
    let question = store.add(chat, None, Author::User, "q", MessageState::Done).unwrap();
    let reply = store.add(chat, Some(question), Author::Assistant, "", MessageState::Writing).unwrap();
    let start = Instant::now();
    for _ in 0..2000 {
        store.append(reply, "token ").unwrap();
    }
    let per_token = start.elapsed() / 2000;
    store.finish(reply, MessageState::Done, None).unwrap();
    println!("append: {per_token:?} a token");
    // 200 tokens a second leave 5 ms for each.
    assert!(per_token.as_micros() < 2500, "{per_token:?}");
}
