//! What a request of the page means: which turns the model gets, and what is stored before it writes.

use reprise_library::chats::{Author, ChatError, MessageState, StoredMessage};

use crate::app::App;
use crate::chats::page_id;
use crate::ipc::{Ask, AttentionMode, UserError};

/// A request brought down to turns and places in the chat's tree.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    /// The chat so far as the model gets it, the new question included.
    pub turns: Vec<(Author, String)>,
    /// Where the new messages go.
    pub place: Place,
    /// Attention asked for with this request alone.
    pub attention: Option<AttentionMode>,
}

/// Where the new messages go.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// A new question under `parent`, then a reply under it.
    Question {
        /// The message before.
        parent: Option<i64>,
        /// The question.
        text: String,
    },
    /// Another reply to the same question.
    Reply {
        /// The question.
        question: i64,
    },
    /// The reply goes on.
    Continue {
        /// The reply.
        reply: i64,
    },
}

impl Plan {
    /// Looks the request up in the chat's shown branch.
    pub(super) fn new(branch: &[StoredMessage], ask: Ask) -> Result<Self, UserError> {
        match ask {
            Ask::Question { text } => Self::question(branch, branch.last().map(|last| last.id), text),
            Ask::Edit { message, text } => {
                let at = find(branch, message, Author::User)?;
                Self::question(&branch[..at], branch[at].parent, text)
            }
            Ask::Again { message, attention } => {
                let at = find(branch, message, Author::Assistant)?;
                let question = branch[at].parent.ok_or_else(|| missing(message))?;
                Ok(Self { turns: turns(&branch[..at]), place: Place::Reply { question }, attention })
            }
            Ask::Continue { message } => {
                let at = find(branch, message, Author::Assistant)?;
                if at + 1 != branch.len() {
                    return Err(UserError::new("Only the last answer can go on.")
                        .kept("The chat is unchanged.")
                        .hint("Ask a new question instead."));
                }
                let place = Place::Continue { reply: branch[at].id };
                Ok(Self { turns: turns(branch), place, attention: None })
            }
        }
    }

    fn question(before: &[StoredMessage], parent: Option<i64>, text: String) -> Result<Self, UserError> {
        if text.trim().is_empty() {
            return Err(UserError::new("There is no question yet.").hint("Write one first."));
        }
        let mut turns = turns(before);
        turns.push((Author::User, text.clone()));
        Ok(Self { turns, place: Place::Question { parent, text }, attention: None })
    }

    /// Whether the model carries on its own text.
    pub(super) fn continues(&self) -> bool {
        matches!(self.place, Place::Continue { .. })
    }

    /// Stores the question, durably, and the reply about to be written; gives the reply's id.
    pub(super) fn store(&self, app: &App, chat: i32) -> Result<i64, UserError> {
        let (store, chat) = (app.chats(), i64::from(chat));
        let under = match &self.place {
            Place::Continue { reply } => {
                store.resume(*reply)?;
                return Ok(*reply);
            }
            Place::Reply { question } => *question,
            Place::Question { parent, text } => store.add(chat, *parent, Author::User, text, MessageState::Done)?,
        };
        let reply = store.add(chat, Some(under), Author::Assistant, "", MessageState::Writing)?;
        page_id(reply)?;
        Ok(reply)
    }
}

fn find(branch: &[StoredMessage], message: i32, author: Author) -> Result<usize, UserError> {
    let at = branch.iter().position(|stored| stored.id == i64::from(message) && stored.author == author);
    at.ok_or_else(|| missing(message))
}

fn missing(message: i32) -> UserError {
    ChatError::NotFound { what: "message", id: message.into() }.into()
}

fn turns(branch: &[StoredMessage]) -> Vec<(Author, String)> {
    branch.iter().map(|message| (message.author, message.text.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: i64, author: Author, text: &str) -> StoredMessage {
        StoredMessage {
            id,
            parent: (id > 1).then(|| id - 1),
            author,
            text: text.to_owned(),
            state: MessageState::Done,
            stats_json: None,
            version: (1, 1),
            siblings: vec![id],
        }
    }

    fn branch() -> Vec<StoredMessage> {
        vec![
            message(1, Author::User, "One?"),
            message(2, Author::Assistant, "One."),
            message(3, Author::User, "Two?"),
            message(4, Author::Assistant, "Tw"),
        ]
    }

    fn said(plan: &Plan) -> Vec<&str> {
        plan.turns.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_question_goes_to_the_end() {
        let plan = Plan::new(&branch(), Ask::Question { text: "Three?".into() }).unwrap();
        assert_eq!(said(&plan), ["One?", "One.", "Two?", "Tw", "Three?"]);
        assert_eq!(plan.place, Place::Question { parent: Some(4), text: "Three?".into() });
    }

    #[test]
    fn an_edit_is_a_sibling_and_forgets_what_followed() {
        let plan = Plan::new(&branch(), Ask::Edit { message: 3, text: "Zwei?".into() }).unwrap();
        assert_eq!(said(&plan), ["One?", "One.", "Zwei?"]);
        assert_eq!(plan.place, Place::Question { parent: Some(2), text: "Zwei?".into() });
        let first = Plan::new(&branch(), Ask::Edit { message: 1, text: "Eins?".into() }).unwrap();
        assert_eq!(first.place, Place::Question { parent: None, text: "Eins?".into() });
    }

    #[test]
    fn again_answers_the_same_question() {
        let again = Ask::Again { message: 2, attention: Some(AttentionMode::Exact) };
        let plan = Plan::new(&branch(), again).unwrap();
        assert_eq!(said(&plan), ["One?"]);
        assert_eq!((plan.place, plan.attention), (Place::Reply { question: 1 }, Some(AttentionMode::Exact)));
    }

    #[test]
    fn only_the_last_reply_continues() {
        let plan = Plan::new(&branch(), Ask::Continue { message: 4 }).unwrap();
        assert!(plan.continues());
        assert_eq!(said(&plan).last(), Some(&"Tw"));
        assert!(Plan::new(&branch(), Ask::Continue { message: 2 }).is_err());
    }

    #[test]
    fn what_is_not_there_or_empty_is_refused() {
        for ask in [
            Ask::Question { text: " \n".into() },
            Ask::Edit { message: 2, text: "not mine".into() },
            Ask::Again { message: 3, attention: None },
            Ask::Continue { message: 99 },
        ] {
            let error = Plan::new(&branch(), ask).unwrap_err();
            assert!(!error.advice.is_empty(), "{error:?}");
        }
    }
}
