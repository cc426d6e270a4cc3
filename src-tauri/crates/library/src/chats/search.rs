//! Full-text search over titles and messages.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::{ChatError, ChatRow, ChatStore};

/// Matching messages looked at; a chat is named once, whatever number of its messages match.
const MAX_MATCHES: i64 = 500;

/// Words of a query that are looked for; the time of a search grows with their square.
const MAX_WORDS: usize = 256;

/// Characters of a snippet on either side of a match that was found letter by letter.
const SNIPPET_CHARS: usize = 40;

impl ChatStore {
    /// Full-text search over titles and messages; best first, with a snippet.
    ///
    /// All words must occur, the last one may be unfinished; case and accents do not count; of a long query the
    /// first 256 words and the last one count. Where no word matches, the query is looked for
    /// letter by letter, which also finds parts of words and scripts written without blanks.
    pub fn search(&self, query: &str) -> Result<Vec<(ChatRow, String)>, ChatError> {
        let query = query.trim();
        if query.is_empty() {
            return Ok(Vec::new());
        }
        self.read(|db| {
            let mut matches = match word_query(query) {
                Some(words) => by_words(db, &words)?,
                None => Vec::new(),
            };
            if matches.is_empty() {
                matches = by_letters(db, query)?;
            }
            if matches.is_empty() {
                return Ok(Vec::new());
            }
            let mut rows: HashMap<i64, ChatRow> = super::rows(db)?.into_iter().map(|row| (row.id, row)).collect();
            let mut seen = HashSet::new();
            let firsts = matches.into_iter().filter(|(chat, _)| seen.insert(*chat));
            Ok(firsts.filter_map(|(chat, snippet)| rows.remove(&chat).map(|row| (row, snippet))).collect())
        })
    }
}

/// The query in FTS5's language: every word quoted, so that nothing in it is an operator.
fn word_query(query: &str) -> Option<String> {
    let mut words: Vec<String> = query
        .split_whitespace()
        .filter(|word| word.chars().any(char::is_alphanumeric))
        .map(|word| format!("\"{}\"", word.replace('"', "\"\"").replace('\0', "")))
        .collect();
    let last = words.pop()?;
    let mut seen = HashSet::new();
    words.retain(|word| seen.len() < MAX_WORDS && seen.insert(word.clone()));
    words.push(last);
    Some(format!("{}*", words.join(" ")))
}

/// Chats with a snippet, titles before messages, best first; a chat may come more than once.
fn by_words(db: &Connection, words: &str) -> Result<Vec<(i64, String)>, ChatError> {
    let mut titles = db.prepare_cached(
        "SELECT chats.id, title_words.title FROM title_words JOIN chats ON chats.id = title_words.rowid
         WHERE title_words MATCH ?1 AND deleted_ms IS NULL ORDER BY rank, updated_ms DESC LIMIT ?2",
    )?;
    let mut texts = db.prepare_cached(
        "SELECT chats.id, snippet(message_words, 0, '', '', '…', 24) FROM message_words
         JOIN messages ON messages.id = message_words.rowid JOIN chats ON chats.id = messages.chat
         WHERE message_words MATCH ?1 AND deleted_ms IS NULL ORDER BY rank, updated_ms DESC LIMIT ?2",
    )?;
    let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let mut matches: Vec<(i64, String)> =
        titles.query_map(params![words, MAX_MATCHES], pair)?.collect::<Result<_, _>>()?;
    for found in texts.query_map(params![words, MAX_MATCHES], pair)? {
        matches.push(found?);
    }
    Ok(matches)
}

fn by_letters(db: &Connection, query: &str) -> Result<Vec<(i64, String)>, ChatError> {
    // Not LIKE, which refuses a long query. Like LIKE, `lower` folds ASCII case only.
    let mut statement = db.prepare_cached(
        "SELECT id, title FROM (
             SELECT id, title, 0 AS place, updated_ms FROM chats WHERE deleted_ms IS NULL AND instr(lower(title), lower(?1))
             UNION ALL
             SELECT chats.id, text, 1, updated_ms FROM messages JOIN chats ON chats.id = messages.chat
             WHERE deleted_ms IS NULL AND instr(lower(text), lower(?1))
         ) ORDER BY place, updated_ms DESC LIMIT ?2",
    )?;
    let mut matches = Vec::new();
    for found in statement.query_map(params![query, MAX_MATCHES], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))? {
        let (chat, text) = found?;
        matches.push((chat, cut_around(&text, query)));
    }
    Ok(matches)
}

/// The neighbourhood of the first match; the search folds ASCII case only, and so does this.
fn cut_around(text: &str, query: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let at = lower.find(&query.to_ascii_lowercase()).unwrap_or(0);
    let before: Vec<char> = text[..at].chars().rev().take(SNIPPET_CHARS + 1).collect();
    let after: Vec<char> = text[at..].chars().take(query.chars().count() + SNIPPET_CHARS + 1).collect();
    let mut snippet = String::new();
    if before.len() > SNIPPET_CHARS {
        snippet.push('…');
    }
    snippet.extend(before.iter().take(SNIPPET_CHARS).rev());
    let whole = after.len() <= query.chars().count() + SNIPPET_CHARS;
    snippet.extend(after.iter().take(query.chars().count() + SNIPPET_CHARS));
    if !whole {
        snippet.push('…');
    }
    snippet
}
