//! From a prompt to tokens.
//!
//! A chat goes through the model's own template, but with placeholders where the contents belong:
//! the text between them is the template's and may name control tokens, the contents are the user's
//! and may not. Tokenising the whole rendering at once, as is usual, lets anyone who types
//! `<|im_end|>` end their turn and speak as the system. For ordinary text both give the same
//! tokens, since a control token or a line break stands on either side of a content.
//!
//! The engine recognises well-known templates instead of running them, so a default system message
//! that a template would add is not added. A model without chat tuning gets `Question:`/`Answer:`
//! turns, and stops before it makes up the next question.

use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use moe2_model::{Message, Prompt, Role};

use crate::args::Chat;
use crate::load::LoadError;

/// Brackets of a placeholder: control characters that no template contains or trims.
const OPEN: char = '\u{1}';
const CLOSE: char = '\u{2}';

/// Where a plain answer ends: before the next question that the model would ask itself.
const PLAIN_STOPS: [&str; 2] = ["\n\nQuestion:", "\nQuestion:"];

/// Why a request makes no prompt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptError {
    /// A chat of nothing.
    #[error("the chat has no messages; send at least one")]
    NoMessages,
    /// Nothing to continue.
    #[error("the prompt is empty; send at least one character")]
    Empty,
    /// An option of nothing.
    #[error("an option has no tokens; leave out empty options")]
    EmptyOption,
    /// The template lost or refused a message.
    #[error("the model's chat template cannot express this chat: {0}")]
    Template(String),
}

/// How chats become tokens.
#[derive(Debug)]
pub(crate) enum ChatFormat {
    /// The model's own template.
    Template(LlamaChatTemplate),
    /// `Question:`/`Answer:` turns.
    Plain,
}

/// Tokens and what follows from how they were made.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) tokens: Vec<LlamaToken>,
    /// Ends of an answer besides those asked for.
    pub(crate) stops: &'static [&'static str],
    /// The answer begins after the white space the model puts first.
    pub(crate) skip_space: bool,
    /// An option continues the prompt as a word of its own and needs a space in front.
    space_before_option: bool,
}

impl ChatFormat {
    /// The format to use with `model`.
    pub(crate) fn of(model: &LlamaModel, wanted: Chat) -> Result<Self, LoadError> {
        let template = match (wanted, model.chat_template(None)) {
            (Chat::Template, Ok(template)) => template,
            (Chat::Plain, _) | (Chat::Template, Err(_)) => return Ok(Self::Plain),
        };
        let probe = [Role::System, Role::User].map(|role| Message {
            role,
            content: String::new(),
        });
        match pieces(model, &template, &probe) {
            Ok(_) => Ok(Self::Template(template)),
            Err(error) => Err(LoadError::Template(error.to_string())),
        }
    }

    /// The tokens of `prompt`, at least one.
    pub(crate) fn render(
        &self,
        model: &LlamaModel,
        prompt: &Prompt,
    ) -> Result<Rendered, PromptError> {
        let rendered = match (prompt, self) {
            (Prompt::Raw(text), _) => plain(model, text, false),
            (Prompt::Chat(messages), _) if messages.is_empty() => {
                return Err(PromptError::NoMessages);
            }
            (Prompt::Chat(messages), Self::Plain) => plain(model, &plain_text(messages), true),
            (Prompt::Chat(messages), Self::Template(template)) => Rendered {
                tokens: templated(model, &pieces(model, template, messages)?, messages),
                stops: &[],
                skip_space: false,
                space_before_option: false,
            },
        };
        if rendered.tokens.is_empty() {
            return Err(PromptError::Empty);
        }
        Ok(rendered)
    }
}

impl Rendered {
    /// The tokens of an option as the continuation of this prompt.
    pub(crate) fn option(
        &self,
        model: &LlamaModel,
        option: &str,
    ) -> Result<Vec<LlamaToken>, PromptError> {
        let spaced = self.space_before_option && !option.starts_with(char::is_whitespace);
        let text = if spaced {
            format!(" {option}")
        } else {
            option.to_owned()
        };
        let tokens = model.vocab().tokenize(text.as_bytes(), false, false);
        if tokens.is_empty() {
            return Err(PromptError::EmptyOption);
        }
        Ok(tokens)
    }
}

fn plain(model: &LlamaModel, text: &str, is_chat: bool) -> Rendered {
    let mut tokens = model.vocab().tokenize(text.as_bytes(), false, false);
    begin_once(model, &mut tokens);
    Rendered {
        tokens,
        stops: if is_chat { &PLAIN_STOPS } else { &[] },
        skip_space: is_chat,
        space_before_option: wants_space(text),
    }
}

/// After a word or a mark such as `Answer:` comes a space, after a space or a bracket does not.
fn wants_space(text: &str) -> bool {
    let last = text.chars().next_back();
    last.is_some_and(|c| !c.is_whitespace() && !"([{<\"'`/-_".contains(c))
}

/// A chat as text for a model that was only taught to continue text.
fn plain_text(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        let content = content.trim();
        let (before, after) = match role {
            Role::System => ("", "\n\n"),
            Role::User => ("Question: ", "\n"),
            Role::Assistant => ("Answer: ", "\n\n"),
        };
        text.extend([before, content, after]);
    }
    text.push_str("Answer:");
    text
}

/// A part of a rendered template.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// The template's own words.
    Template(String),
    /// The content of the message with this index.
    Content(usize),
}

fn pieces(
    model: &LlamaModel,
    template: &LlamaChatTemplate,
    messages: &[Message],
) -> Result<Vec<Piece>, PromptError> {
    let refused = |error: &dyn std::fmt::Display| PromptError::Template(error.to_string());
    let chat = messages.iter().enumerate().map(|(index, message)| {
        let placeholder = format!("{OPEN}{index}{CLOSE}");
        LlamaChatMessage::new(message.role.as_str().to_owned(), placeholder)
    });
    let chat = chat
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| refused(&e))?;
    let rendered = model
        .apply_chat_template(template, &chat, true)
        .map_err(|e| refused(&e))?;
    split(&rendered, messages.len())
}

/// Cuts a rendering at its placeholders; each of the `count` must be there.
fn split(rendered: &str, count: usize) -> Result<Vec<Piece>, PromptError> {
    let mut pieces = Vec::new();
    let mut seen = vec![false; count];
    let mut rest = rendered;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (index, after) = after.split_once(CLOSE).unwrap_or((after, ""));
        let index = index.parse().ok().filter(|index| *index < count);
        let index = index.ok_or_else(|| {
            PromptError::Template("it alters the contents of messages".to_owned())
        })?;
        if !before.is_empty() {
            pieces.push(Piece::Template(before.to_owned()));
        }
        pieces.push(Piece::Content(index));
        seen[index] = true;
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Template(rest.to_owned()));
    }
    if let Some(lost) = seen.iter().position(|seen| !seen) {
        let lost = lost + 1;
        return Err(PromptError::Template(format!(
            "it leaves out message {lost}"
        )));
    }
    Ok(pieces)
}

fn templated(model: &LlamaModel, pieces: &[Piece], messages: &[Message]) -> Vec<LlamaToken> {
    let vocab = model.vocab();
    let mut tokens = Vec::new();
    for piece in pieces {
        let (text, special) = match piece {
            Piece::Template(text) => (text.as_str(), true),
            Piece::Content(index) => (messages[*index].content.as_str(), false),
        };
        tokens.extend(vocab.tokenize(text.as_bytes(), false, special));
    }
    begin_once(model, &mut tokens);
    tokens
}

/// Puts the beginning-of-stream token first if the model wants it and the template has not.
fn begin_once(model: &LlamaModel, tokens: &mut Vec<LlamaToken>) {
    let vocab = model.vocab();
    if vocab.should_add_bos() && tokens.first() != Some(&vocab.bos()) {
        tokens.insert(0, vocab.bos());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message {
            role,
            content: content.to_owned(),
        }
    }

    #[test]
    fn a_plain_chat_is_questions_and_answers() {
        let chat = [
            message(Role::System, "Be brief."),
            message(Role::User, "1+1?"),
            message(Role::Assistant, "2"),
            message(Role::User, " 2+2? "),
        ];
        let text = "Be brief.\n\nQuestion: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer:";
        assert_eq!(plain_text(&chat), text);
    }

    #[test]
    fn a_rendering_is_cut_at_its_placeholders() {
        let cut = split("<s>\u{1}1\u{2}\n\u{1}0\u{2}", 2).unwrap();
        let template = |text: &str| Piece::Template(text.to_owned());
        let expected = [
            template("<s>"),
            Piece::Content(1),
            template("\n"),
            Piece::Content(0),
        ];
        assert_eq!(cut, expected);
    }

    #[test]
    fn a_template_that_loses_or_alters_a_message_is_refused() {
        assert!(split("<s>\u{1}0\u{2}", 2).is_err());
        assert!(split("<s>\u{1}7\u{2}", 1).is_err());
        assert!(split("<s>\u{1}0", 2).is_err());
    }

    #[test]
    fn an_option_gets_a_space_only_after_a_word_or_mark() {
        assert!(wants_space("Answer:") && wants_space("the capital is"));
        assert!(!wants_space("Answer: ") && !wants_space("(") && !wants_space(""));
    }
}
