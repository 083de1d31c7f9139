//! Everything redis-server (7 to 8), Valkey and the client can answer, each with what it is about: nothing is left to a default.
#![cfg(test)]

use redis::{ErrorKind, RedisError};

use super::{classify, known, leads_elsewhere};
use crate::delivery::FailureClass::{self, Rejected, TimedOut, Unavailable};
use crate::transport::Transport as _;
use crate::transport::redis::Redis;
use crate::transport::redis::config::RedisConfig;

/// Code, what it says, its class, and whether a new connection may lead to another server.
#[rustfmt::skip]
const ERRORS: &[(&str, &str, FailureClass, bool)] = &[
    // server.c (shared objects), cluster.c, networking.c, acl.c, replication.c, sentinel.c.
    ("LOADING", "Redis is loading the dataset in memory", Unavailable, true),
    ("BUSY", "Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Unavailable, false),
    ("BUSY", "Redis is busy running a module command.", Unavailable, false),
    ("MASTERDOWN", "Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable, true),
    ("MISCONF", "Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", Unavailable, false),
    ("MISCONF", "Errors writing to the AOF file: No space left on device", Unavailable, false),
    ("READONLY", "You can't write against a read only replica.", Unavailable, true),
    ("NOAUTH", "Authentication required.", Unavailable, true),
    ("WRONGPASS", "invalid username-password pair or user is disabled.", Unavailable, true),
    ("NOPERM", "User x has no permissions to run the 'xadd' command", Unavailable, false),
    ("NOPERM", "No permissions to access a key", Unavailable, false),
    ("DENIED", "Redis is running in protected mode because protected mode is enabled", Unavailable, true),
    ("OOM", "command not allowed when used memory > 'maxmemory'.", Unavailable, false),
    ("EXECABORT", "Transaction discarded because of previous errors.", Unavailable, false),
    ("NOREPLICAS", "Not enough good replicas to write.", Unavailable, true),
    ("NOSCRIPT", "No matching script. Please use EVAL.", Unavailable, false),
    ("NOTBUSY", "No scripts in execution right now.", Unavailable, false),
    ("UNKILLABLE", "Sorry the script already executed write commands", Unavailable, false),
    ("BUSYKEY", "Target key name already exists.", Unavailable, false),
    ("BUSYGROUP", "Consumer Group name already exists", Unavailable, false),
    ("NOGROUP", "No such key 'x' or consumer group 'y'", Unavailable, false),
    ("WRONGTYPE", "Operation against a key holding the wrong kind of value", Unavailable, false),
    ("WRONGTYPE", "Key is not a valid HyperLogLog string value.", Unavailable, false),
    ("INVALIDOBJ", "Corrupted HLL object detected", Unavailable, false),
    ("CROSSSLOT", "Keys in request don't hash to the same slot", Unavailable, false),
    ("TRYAGAIN", "Multiple keys request during rehashing of slot", Unavailable, false),
    ("CLUSTERDOWN", "The cluster is down", Unavailable, true),
    ("CLUSTERDOWN", "Hash slot not served", Unavailable, true),
    ("MOVED", "3999 127.0.0.1:6381", Unavailable, false),
    ("ASK", "3999 127.0.0.1:6381", Unavailable, false),
    ("REDIRECT", "127.0.0.1:6381", Unavailable, true),
    ("UNBLOCKED", "force unblock from blocking operation, instance state changed (master -> replica?)", Unavailable, true),
    ("NOMASTERLINK", "Can't SYNC while not connected with my master", Unavailable, true),
    ("INPROG", "Failover already in progress", Unavailable, false),
    ("FAILOVER", "failover in progress", Unavailable, true),
    ("NOGOODSLAVE", "No suitable replica to promote", Unavailable, false),
    ("NOQUORUM", "1 usable Sentinels.", Unavailable, false),
    ("IOERR", "error or timeout connecting to the client", Unavailable, false),
    ("NOPROTO", "unsupported protocol version", Unavailable, true),
    ("NOSUB", "'unsubscribe' was called when not subscribed", Unavailable, false),
    ("DUPLICATE", "Subscription already exists", Unavailable, false),
    // What `XADD` says.
    ("ERR", "Elements are too large to be stored", Rejected, false),
    ("ERR", "The ID specified in XADD is equal or smaller than the target stream top item", Unavailable, false),
    ("ERR", "The ID specified in XADD must be greater than 0-0", Unavailable, false),
    ("ERR", "The stream has exhausted the last possible ID, unable to add more items", Unavailable, false),
    ("ERR", "Invalid stream ID specified as stream command argument", Unavailable, false),
    ("ERR", "wrong number of arguments for 'xadd' command", Unavailable, false),
    ("ERR", "syntax error", Unavailable, false),
    ("ERR", "syntax error, LIMIT cannot be used without specifying a trimming strategy", Unavailable, false),
    ("ERR", "The MAXLEN argument must be >= 0.", Unavailable, false),
    ("ERR", "value is not an integer or out of range", Unavailable, false),
    // What any command may meet.
    ("ERR", "unknown command 'XADD', with args beginning with: 'orders' '*' ", Unavailable, true),
    ("ERR", "unknown command `XADD`, with args beginning with: `orders`, `*`, ", Unavailable, true),
    ("ERR", "unsupported command", Unavailable, true),
    ("ERR", "Command XADD is not supported", Unavailable, true),
    ("ERR", "max number of clients reached", Unavailable, true),
    ("ERR", "max number of clients + cluster connections reached", Unavailable, true),
    ("ERR", "Protocol error: invalid bulk length", Rejected, true),
    ("ERR", "Protocol error: unauthenticated bulk length", Unavailable, true),
    ("ERR", "Protocol error: unauthenticated multibulk length", Unavailable, true),
    ("ERR", "Protocol error: invalid multibulk length", Unavailable, true),
    ("ERR", "Protocol error: expected '$', got 'x'", Unavailable, true),
    ("ERR", "Protocol error: too big inline request", Unavailable, true),
    ("ERR", "Protocol error: too big mbulk count string", Unavailable, true),
    ("ERR", "string exceeds maximum allowed size (proto-max-bulk-len)", Rejected, false),
    ("ERR", "max request size exceeded. Limit: 1048576 bytes, Actual: 2000000 bytes", Rejected, false),
    ("ERR", "max daily request limit exceeded. Limit: 10000, Usage: 10000.", Unavailable, false),
    ("ERR", "DB index is out of range", Unavailable, false),
    ("ERR", "SELECT is not allowed in cluster mode", Unavailable, false),
    ("ERR", "operation not permitted", Unavailable, false),
    ("ERR", "Replica can't interact with the keyspace", Unavailable, false),
    ("ERR", "Can't start thread", Unavailable, false),
    ("ERR", "no such key", Unavailable, false),
    ("ERR", "index out of range", Unavailable, false),
    ("ERR", "Client sent AUTH, but no password is set", Unavailable, false),
    ("ERR", "This instance has cluster support disabled", Unavailable, false),
];

#[test]
fn every_error_of_the_server_has_its_class() {
    for (code, detail, class, elsewhere) in ERRORS {
        assert_eq!(known(code, detail), Some(*class), "{code} {detail}");
        assert_eq!(classify(code, detail), *class, "{code} {detail}");
        assert_eq!(leads_elsewhere(code, detail), *elsewhere, "{code} {detail}");
    }
    assert_eq!(classify("NEWCODE", "of a server to come"), Unavailable);
}

#[tokio::test]
async fn every_error_of_the_client_is_about_the_connection_or_the_time() {
    let config: RedisConfig = serde_json::from_str(r#"{"url":"redis://127.0.0.1:1"}"#).unwrap();
    let redis = Redis::connect("main", &config).await.unwrap();
    for kind in [
        ErrorKind::Parse,
        ErrorKind::AuthenticationFailed,
        ErrorKind::UnexpectedReturnType,
        ErrorKind::InvalidClientConfig,
        ErrorKind::Io,
        ErrorKind::Client,
        ErrorKind::MasterNameNotFoundBySentinel,
        ErrorKind::NoValidReplicasFoundBySentinel,
        ErrorKind::EmptySentinelList,
        ErrorKind::ClusterConnectionNotFound,
        ErrorKind::RESP3NotSupported,
    ] {
        let failure = redis.failure(&RedisError::from((kind, "words")), "redis");
        assert_eq!((failure.class, &*failure.code), (Unavailable, "CONNECTION"), "{kind:?}");
    }
    for (kind, class) in [
        (std::io::ErrorKind::TimedOut, TimedOut),
        (std::io::ErrorKind::ConnectionReset, Unavailable),
        (std::io::ErrorKind::BrokenPipe, Unavailable),
        (std::io::ErrorKind::UnexpectedEof, Unavailable),
        (std::io::ErrorKind::ConnectionRefused, Unavailable),
    ] {
        let error = RedisError::from(std::io::Error::from(kind));
        assert_eq!(redis.failure(&error, "redis").class, class, "{kind:?}");
    }
    redis.close().await;
}
