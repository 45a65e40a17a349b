//! What an expert is asked: a chat, or raw text to continue.
//!
//! The coordinator never renders a chat template: two experts asked the same question need
//! different templates, and only the worker that holds the model knows its own.

use serde::{Deserialize, Serialize};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole chat.
    System,
    /// The person or program asking.
    User,
    /// An earlier answer.
    Assistant,
}

impl Role {
    /// The name chat templates use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// What an expert is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A chat, rendered by the worker with the model's own template.
    Chat(Vec<Message>),
    /// Text to continue, tokenised as it stands.
    Raw(String),
}

impl Prompt {
    /// Bytes of text in it, the size forecasts are made from before a tokeniser has seen it.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(|m| m.content.len()).sum(),
            Self::Raw(text) => text.len(),
        }
    }

    /// The text a gate looks at: the last thing the user said, or all of a raw prompt.
    #[must_use]
    pub fn question(&self) -> &str {
        match self {
            Self::Chat(messages) => messages
                .iter()
                .rev()
                .find(|m| m.role == Role::User)
                .or_else(|| messages.last())
                .map_or("", |m| m.content.as_str()),
            Self::Raw(text) => text,
        }
    }
}
