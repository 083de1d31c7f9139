//! Asking Redis whether a stream could take a message: is it a primary, is the key a stream?
//!
//! Neither question is needed to publish, and a user may lack the right to ask. What is answered counts; where something is
//! refused, only a message can tell.

use redis::{RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout_at};

use super::classify::{is_unknown_command, leads_elsewhere};
use super::{Redis, timed_out};
use crate::delivery::{Failure, FailureClass};
use crate::transport::Probe;

impl Redis {
    /// See [`crate::transport::Transport::probe`].
    pub(super) async fn question(&self, destination: &str) -> Result<Probe, Failure> {
        let give_up = Instant::now() + self.ack_timeout;
        let late = || timed_out(self.ack_timeout);
        let mut line = timeout_at(give_up, self.line()).await.map_err(|_| late())??;
        let mut questions = redis::pipe();
        questions.cmd("ROLE").cmd("TYPE").arg(destination).ignore_errors();
        let ask = questions.query_async::<(RedisResult<Value>, RedisResult<Value>)>(&mut line.connection);
        let (role, kind) = match timeout_at(give_up, ask).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                self.link.give_up(&line);
                return Err(self.failure(&error, "redis"));
            }
            Err(_) => {
                self.link.give_up(&line);
                return Err(late());
            }
        };
        let refused = [&role, &kind].into_iter().find_map(|answer| answer.as_ref().err());
        let elsewhere = refused.is_some_and(|error| {
            let code = error.code().unwrap_or_default();
            !is_unknown_command(code, &error.to_string()) && leads_elsewhere(code, &error.to_string())
        });
        let judged = self.judge(destination, role, kind);
        if let Err(failure) = &judged
            && (elsewhere || failure.code == "READONLY")
        {
            self.leave(&line, failure);
        }
        judged
    }

    fn judge(&self, destination: &str, role: RedisResult<Value>, kind: RedisResult<Value>) -> Result<Probe, Failure> {
        let unavailable = |code: &'static str, error: String| Err(Failure::new(FailureClass::Unavailable, code, error));
        let mut unknown = None;
        match role {
            Ok(role) => match word(&role).as_deref() {
                Some("slave") => {
                    return unavailable(
                        "READONLY",
                        "redis is a replica: point the url at the primary".to_owned(),
                    );
                }
                Some("sentinel") => {
                    return unavailable(
                        "SENTINEL",
                        "this is a redis sentinel, which holds no data: point the url at the primary".to_owned(),
                    );
                }
                Some(_) | None => {}
            },
            Err(error) if may_not_ask(&error) => unknown = Some(self.unasked("ROLE", "+role", &error)),
            Err(error) => return Err(self.failure(&error, "redis")),
        }
        match kind {
            Ok(kind) => match word(&kind).as_deref() {
                Some("stream" | "none") | None => {}
                Some(kind) => {
                    let error = format!("redis key {destination:?} is a {kind}, not a stream");
                    return unavailable("WRONGTYPE", error);
                }
            },
            Err(error) if may_not_ask(&error) => {
                unknown.get_or_insert_with(|| self.unasked("TYPE", "+type and to read the stream", &error));
            }
            Err(error) => return Err(self.failure(&error, "redis")),
        }
        Ok(unknown.map_or(Probe::Ready, Probe::Unknown))
    }

    fn unasked(&self, command: &str, right: &str, error: &RedisError) -> Failure {
        let failure = self.failure(error, "redis");
        let error = format!(
            "redis does not answer {command}, so only a message can tell: allow the user {right} (ACL SETUSER), where the \
             server has it: {}",
            failure.error
        );
        Failure { error, ..failure }
    }
}

/// The question itself is refused, which says nothing of a message.
fn may_not_ask(error: &RedisError) -> bool {
    let code = error.code().unwrap_or_default();
    code == "NOPERM" || is_unknown_command(code, &error.to_string())
}

/// The answer, or the first of a list, as a word.
fn word(value: &Value) -> Option<String> {
    if let Value::Array(list) = value {
        return list.first().and_then(word);
    }
    if let Value::BulkString(bytes) = value {
        return Some(String::from_utf8_lossy(bytes).into_owned());
    }
    let Value::SimpleString(text) = value else {
        return None;
    };
    Some(text.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::redis::config::RedisConfig;

    const PRIMARY: &str = "*1\r\n$6\r\nmaster\r\n";
    const REPLICA: &str = "*1\r\n$5\r\nslave\r\n";
    const SENTINEL: &str = "*1\r\n$8\r\nsentinel\r\n";
    const NOT_ROLE: &str = "-NOPERM User x has no permissions to run the 'role' command\r\n";
    const NOT_TYPE: &str = "-NOPERM User x has no permissions to run the 'type' command\r\n";
    const NO_ROLE: &str = "-ERR unknown command 'ROLE', with args beginning with: \r\n";
    const LOADING: &str = "-LOADING Redis is loading the dataset in memory\r\n";

    fn said(text: &str) -> RedisResult<Value> {
        redis::parse_redis_value(text.as_bytes()).and_then(Value::extract_error)
    }

    #[tokio::test]
    async fn what_is_answered_counts_and_what_is_refused_leaves_it_open() {
        let config: RedisConfig = serde_json::from_str(r#"{"url":"redis://127.0.0.1:1"}"#).unwrap();
        let redis = Redis::connect("main", &config).await.unwrap();
        for (role, kind, known) in [
            (PRIMARY, "+stream\r\n", Some("")),
            (PRIMARY, "+none\r\n", Some("")),
            (PRIMARY, "+hash\r\n", Some("WRONGTYPE")),
            (REPLICA, NOT_TYPE, Some("READONLY")),
            (SENTINEL, NOT_TYPE, Some("SENTINEL")),
            (NOT_ROLE, "+hash\r\n", Some("WRONGTYPE")),
            (LOADING, LOADING, Some("LOADING")),
            (NOT_ROLE, LOADING, Some("LOADING")),
            (NOT_ROLE, "+stream\r\n", None),
            (NO_ROLE, "+none\r\n", None),
            (PRIMARY, NOT_TYPE, None),
            (NOT_ROLE, NOT_TYPE, None),
        ] {
            let found = match redis.judge("orders", said(role), said(kind)) {
                Ok(Probe::Ready) => Some(String::new()),
                Ok(Probe::Unknown(failure)) => {
                    assert!(failure.error.contains("allow the user +"), "{}", failure.error);
                    None
                }
                Err(failure) => Some(failure.code.into_owned()),
            };
            assert_eq!(found.as_deref(), known, "{role} {kind}");
        }
    }
}
