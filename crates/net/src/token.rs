//! Join tokens: `moe2j1.<SHA-256 of the CA certificate>.<id>.<secret>`, base64url without padding.
//!
//! The hash lets an agent recognise the coordinator before it says the secret; the id lets the
//! coordinator find the token without storing the secret, of which it keeps a hash only. The secret
//! has 256 random bits, so a plain fast hash is enough: there is nothing to guess.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::certificate::sha256;

const PREFIX: &str = "moe2j1";
/// Enough that ids never collide; public.
const ID_BYTES: usize = 9;
/// Beyond guessing.
const SECRET_BYTES: usize = 32;
/// Longest id or secret accepted, in characters.
const MAX_PART: usize = 64;

/// Text that is not a join token. What was given is not repeated: it may be most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a join token: it has the form moe2j1.HASH.ID.SECRET; copy the whole line that `moe2 join-token create` printed"
)]
pub struct InvalidToken;

/// What an operator hands to a new agent.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA's certificate, DER.
    pub ca_sha256: [u8; 32],
    /// Public half: names the token.
    pub id: String,
    secret: String,
}

impl JoinToken {
    /// A new random token for the CA with this hash.
    #[must_use]
    pub fn generate(ca_sha256: [u8; 32]) -> Self {
        Self {
            ca_sha256,
            id: random::<ID_BYTES>(),
            secret: random::<SECRET_BYTES>(),
        }
    }

    /// Secret half.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

/// The whole token, secret included: for the operator's eyes.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = URL_SAFE_NO_PAD.encode(self.ca_sha256);
        write!(f, "{PREFIX}.{hash}.{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts: Vec<&str> = text.trim().splitn(5, '.').collect();
        let &[PREFIX, hash, id, secret] = parts.as_slice() else {
            return Err(InvalidToken);
        };
        let hash = URL_SAFE_NO_PAD.decode(hash).map_err(|_| InvalidToken)?;
        if !is_part(id) || !is_part(secret) {
            return Err(InvalidToken);
        }
        Ok(Self {
            ca_sha256: hash.try_into().map_err(|_| InvalidToken)?,
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

fn is_part(text: &str) -> bool {
    (1..=MAX_PART).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn random<const N: usize>() -> String {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What the coordinator stores of a secret: its SHA-256.
#[must_use]
pub fn hash_secret(secret: &str) -> [u8; 32] {
    sha256(secret.as_bytes())
}

/// Whether two byte strings are equal, in time that depends on their lengths only.
#[must_use]
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y));
    // Keeps the compiler from leaving the loop at the first difference.
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_reads_back_and_its_debug_form_hides_the_secret() {
        let token = JoinToken::generate([7; 32]);
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_ne!(token, JoinToken::generate([7; 32]));
        assert!(!format!("{token:?}").contains(token.secret()));
    }

    #[test]
    fn every_missing_or_extra_part_is_refused() {
        let text = JoinToken::generate([7; 32]).to_string();
        let parts: Vec<&str> = text.split('.').collect();
        for kept in 0..parts.len() {
            assert!(parts[..kept].join(".").parse::<JoinToken>().is_err());
        }
        for bad in [
            format!("{text}."),
            format!("{text}.x"),
            format!("x{text}"),
            text.replace("moe2j1", "moe2j2"),
            format!("moe2j1.AAAA.{}.{}", parts[2], parts[3]),
            format!("moe2j1.{}..{}", parts[1], parts[3]),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(InvalidToken), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_that_reads_back_or_an_error(text in "\\PC*") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text.trim());
            }
        }

        #[test]
        fn any_valid_parts_read_back(
            hash in any::<[u8; 32]>(), id in "[A-Za-z0-9_-]{1,64}", secret in "[A-Za-z0-9_-]{1,64}",
        ) {
            let text = format!("{PREFIX}.{}.{id}.{secret}", URL_SAFE_NO_PAD.encode(hash));
            let token: JoinToken = text.parse().expect("valid parts make a token");
            prop_assert_eq!(token.ca_sha256, hash);
            prop_assert_eq!(&token.id, &id);
            prop_assert_eq!(token.secret(), &secret);
            prop_assert_eq!(token.to_string(), text);
        }

        #[test]
        fn constant_time_equality_is_equality(a in any::<Vec<u8>>(), b in any::<Vec<u8>>()) {
            prop_assert_eq!(constant_time_eq(&a, &b), a == b);
            prop_assert!(constant_time_eq(&a, &a));
        }
    }

    #[test]
    fn fuzz_join_token() {
        bolero::check!(name = "join_token").for_each(|bytes: &[u8]| {
            let Ok(text) = std::str::from_utf8(bytes) else {
                return;
            };
            if let Ok(token) = text.parse::<JoinToken>() {
                assert_eq!(token.to_string(), text.trim());
                assert_eq!(token.to_string().parse(), Ok(token));
            }
        });
    }
}
