//! Identifiers.
//!
//! Names that people type (models, nodes, tenants) are short, printable and checked once; numbers
//! that only this process hands out (queries, dispatches, sessions) are plain counters. An expert
//! is one model on one node, so its identity is the pair, written `model@node`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest accepted name in bytes: a DNS label, so that a node's name can be its host name.
const MAX_NAME: usize = 63;

/// A name with characters or a length that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a name: use 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', starting with a letter or digit"
)]
pub struct InvalidName {
    /// What was given, cut to 80 characters.
    pub name: String,
}

fn check(name: &str) -> Result<Arc<str>, InvalidName> {
    let ok = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if ok {
        Ok(name.into())
    } else {
        Err(InvalidName {
            name: name.chars().take(80).collect(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// A checked name.
            ///
            /// # Errors
            /// [`InvalidName`] unless it is 1 to 63 letters, digits, `.`, `_` or `-`.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                check(name).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }
    };
}

name!(
    /// An agent's machine, as its certificate names it.
    NodeId
);
name!(
    /// What an expert is called by users: a model and quantisation, e.g. `smollm2-135m-instruct`.
    /// Several nodes may host the same name.
    ExpertName
);
name!(
    /// Whose budgets a query is charged to.
    TenantId
);

/// One expert: a model on a node, written `model@node`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExpertId {
    /// The model's name.
    pub name: ExpertName,
    /// The machine it runs on.
    pub node: NodeId,
}

impl fmt::Display for ExpertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.node)
    }
}
impl FromStr for ExpertId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, node) = text.split_once('@').ok_or_else(|| InvalidName {
            name: text.chars().take(80).collect(),
        })?;
        Ok(Self {
            name: ExpertName::new(name)?,
            node: NodeId::new(node)?,
        })
    }
}
impl TryFrom<String> for ExpertId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}
impl From<ExpertId> for String {
    fn from(id: ExpertId) -> String {
        id.to_string()
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// One submitted query, unique within a coordinator's run.
    QueryId
);
number!(
    /// One attempt to have one expert work on one query; never reused.
    DispatchId
);
number!(
    /// One connection of one agent; a reconnect is a new session.
    SessionId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for bad in ["", "-a", "a b", "a@b", "ä", &"x".repeat(64)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(
            NodeId::new("orin-1").map(|n| n.to_string()),
            Ok("orin-1".to_owned())
        );
    }

    #[test]
    fn an_expert_reads_back_as_it_is_written() {
        let id: ExpertId = "qwen2.5-coder@pc-2".parse().expect("a valid id");
        assert_eq!(id.to_string(), "qwen2.5-coder@pc-2");
        assert!("qwen2.5-coder".parse::<ExpertId>().is_err());
    }
}
