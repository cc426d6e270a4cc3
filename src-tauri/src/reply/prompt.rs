//! From stored turns to the messages a model gets. Byte-stable, so that what was read stays read.

use reprise_engine::{Message, Role};
use reprise_library::chats::Author;
use reprise_library::documents::Document;
use reprise_library::prompt::first_message;

/// Standing instructions first, then the turns; the documents stand in the first question, in attachment order.
pub fn messages(instructions: &str, documents: &[(i64, Document)], turns: &[(Author, String)]) -> Vec<Message> {
    let mut messages = Vec::with_capacity(turns.len() + 1);
    let instructions = instructions.trim();
    if !instructions.is_empty() {
        messages.push(Message { role: Role::System, content: instructions.to_owned() });
    }
    let mut documents: Vec<&Document> = documents.iter().map(|(_, document)| document).collect();
    for (author, text) in turns {
        messages.push(match author {
            Author::Assistant => Message { role: Role::Assistant, content: text.clone() },
            // The first question takes the documents with it.
            Author::User => {
                Message { role: Role::User, content: first_message(&std::mem::take(&mut documents), text).0 }
            }
        });
    }
    messages
}

#[cfg(test)]
mod tests {
    use reprise_library::documents::from_paste;

    use super::*;

    #[test]
    fn documents_stand_in_the_first_question_only() {
        let documents = [(1, from_paste("The pump is rated at 40 litres.", 1))];
        let turns = [
            (Author::User, "What is the rating?".to_owned()),
            (Author::Assistant, "40 litres.".to_owned()),
            (Author::User, "Of what?".to_owned()),
        ];
        let got = messages("  Be brief. ", &documents, &turns);
        assert_eq!(
            got.iter().map(|m| m.role).collect::<Vec<_>>(),
            [Role::System, Role::User, Role::Assistant, Role::User]
        );
        assert_eq!(got[0].content, "Be brief.");
        assert!(got[1].content.starts_with("<document name=\"pasted-1"), "{}", got[1].content);
        assert!(got[1].content.ends_with("</document>\n\nWhat is the rating?"), "{}", got[1].content);
        assert_eq!(got[3].content, "Of what?");
    }

    #[test]
    fn another_turn_leaves_the_earlier_ones_as_they_were() {
        let documents = [(1, from_paste("text", 1))];
        let mut turns = vec![(Author::User, "One?".to_owned())];
        let before = messages("", &documents, &turns);
        turns.push((Author::Assistant, "One.".to_owned()));
        turns.push((Author::User, "Two?".to_owned()));
        assert_eq!(messages("", &documents, &turns)[..before.len()], before[..]);
    }
}
