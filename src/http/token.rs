//! The token that changes something, and shows what messages contain.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::answer::Refusal;

/// What a request's token proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// No token was sent: it may read what is no secret.
    Nobody,
    /// The right one was.
    Operator,
}

/// `http.token_file`'s content; every clone follows [`Token::replace`].
#[derive(Clone, Debug, Default)]
pub struct Token(Arc<ArcSwapOption<SecretString>>);

impl Token {
    /// This token; `None`: whatever needs one is refused.
    #[must_use]
    pub fn new(token: Option<SecretString>) -> Self {
        Self(Arc::new(ArcSwapOption::from_pointee(token)))
    }

    /// From now on it is this one.
    pub fn replace(&self, token: SecretString) {
        self.0.store(Some(Arc::new(token)));
    }

    /// Whether there is one.
    pub(super) fn is_configured(&self) -> bool {
        self.0.load().is_some()
    }

    /// Who asks to read. A wrong token is refused rather than ignored: its sender believes to see everything.
    pub(super) fn reader(&self, headers: &HeaderMap) -> Result<Holder, Refusal> {
        if headers.contains_key(header::AUTHORIZATION) {
            self.check(headers).map(|()| Holder::Operator)
        } else {
            Ok(Holder::Nobody)
        }
    }

    /// Whether the request may change something.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(expected) = self.0.load_full() else {
            let hint =
                "no token is configured, so nothing can be changed here: set http.token_file, or use the command line";
            return Err(Refusal::new(StatusCode::FORBIDDEN, hint));
        };
        let sent = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| bearer(value.as_bytes()));
        match sent {
            Some(sent) if same(sent, expected.expose_secret().as_bytes()) => Ok(()),
            Some(_) => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this token is not the one in http.token_file",
            )),
            None => Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this needs the token in http.token_file: Authorization: Bearer <token>",
            )),
        }
    }
}

/// What follows the scheme, which is written in any case (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Whether two tokens are equal, in a time that tells neither where they differ nor how long the right one is.
fn same(sent: &[u8], expected: &[u8]) -> bool {
    let (sent, expected) = (Sha256::digest(sent), Sha256::digest(expected));
    sent.iter()
        .zip(expected.iter())
        .fold(0, |differs, (a, b)| differs | (a ^ b))
        == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let value = authorization.parse().unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn only_the_right_token_is_let_through() {
        let token = Token::new(Some("s3cret".into()));
        for right in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
            assert_eq!(token.check(&headers(right)), Ok(()), "{right}");
        }
        for wrong in [
            "Bearer s3creT",
            "Bearer s3cret2",
            "Bearer s3cre",
            "Bearer ",
            "Bearer",
            "Basic s3cret",
            "s3cret",
        ] {
            let refusal = token.check(&headers(wrong)).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED, "{wrong}");
            assert!(!refusal.error.contains("s3cre"), "{refusal:?}");
        }
        assert_eq!(
            token.check(&HeaderMap::new()).unwrap_err().status,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(token.reader(&HeaderMap::new()), Ok(Holder::Nobody));
        assert_eq!(token.reader(&headers("Bearer s3cret")), Ok(Holder::Operator));
        assert!(token.reader(&headers("Bearer x")).is_err());
    }

    #[test]
    fn without_a_token_nothing_is_allowed_and_a_new_one_counts_at_once() {
        let token = Token::new(None);
        let refusal = token.check(&headers("Bearer ")).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert!(refusal.error.contains("http.token_file"), "{refusal:?}");
        token.clone().replace("new".into());
        assert_eq!(token.check(&headers("Bearer new")), Ok(()));
    }
}
