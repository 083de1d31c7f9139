//! `/api/v1` of a running daemon: what it shows to whom, what it changes, and how it answers while something is wrong.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::processes::signal;
use crate::support::web::{TOKEN, call, get, get_as, post, with_token, write_token};
use crate::support::{alone, assert_within, eventually, together};

const STDOUT: &str = "[transports.main.stdout]\n";
/// Whatever is wrong, an answer takes no longer.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A daemon with a token that relays to its standard output, and a connection to its database.
async fn daemon() -> (Site, Daemon, Session) {
    daemon_of(&Cluster::shared().database().await).await
}

async fn daemon_of(database: &Database) -> (Site, Daemon, Session) {
    let site = Site::new(database, STDOUT);
    with_token(&site);
    site.migrate();
    let daemon = site.start().await;
    (site, daemon, database.connect().await)
}

/// `count` failed messages: topics `orders.0` to `orders.2`, keys `k1`..., two kinds of errors.
async fn fail(session: &Session, count: u32) {
    let insert = format!(
        "insert into outbox_messages (topic, key, payload, headers, failed_at, last_error, attempt)
         select 'orders.' || g % 3, 'k' || g, jsonb_build_object('n', g), '{{\"h\": \"v\"}}', now() - g * interval '1 minute',
                case when g % 2 = 0 then 'too large: 10054' else 'no route' end, 6
         from generate_series(1, {count}) g"
    );
    session.run(&insert).await;
}

fn seqs(list: &Value) -> Vec<i64> {
    let list = list.as_array().expect("an array");
    list.iter()
        .map(|message| message["seq"].as_i64().expect("a seq"))
        .collect()
}

#[tokio::test]
async fn failed_messages_are_listed_filtered_and_paged() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    assert_eq!(get(port, "/api/v1/failed").await.done(), json!([]));
    fail(&session, 6).await;
    let whole = get(port, "/api/v1/failed?topic=&limit=1000").await.done();
    assert_eq!(whole, json!([]), "an empty topic is a topic");
    let all = get(port, "/api/v1/failed?limit=999").await.done();
    assert_eq!(seqs(&all), [1, 2, 3, 4, 5, 6]);
    let first = &all[0];
    assert_eq!(
        (&first["topic"], &first["key"], &first["attempt"]),
        (&json!("orders.1"), &json!("k1"), &json!(6))
    );
    assert_eq!(first["last_error"], "no route");
    assert!(
        first.get("payload").is_none() && first.get("headers").is_none(),
        "{first}"
    );
    for (query, wanted) in [
        ("topic=orders.0", &[3, 6][..]),
        ("key=k4", &[4]),
        ("error=10054", &[2, 4, 6]),
        ("error=10054&topic=orders.1", &[4]),
        ("since=150s", &[1, 2]),
        ("id=5", &[5]),
        ("limit=2", &[1, 2]),
        ("limit=2&after=2", &[3, 4]),
        ("after=6", &[]),
    ] {
        assert_eq!(
            seqs(&get(port, &format!("/api/v1/failed?{query}")).await.done()),
            wanted,
            "{query}"
        );
    }
    let shown = get_as(port, TOKEN, "/api/v1/failed?key=k4").await.done();
    assert_eq!(
        (&shown[0]["payload"], &shown[0]["headers"]),
        (&json!({"n": 4}), &json!({"h": "v"}))
    );
    assert!(
        get_as(port, "wrong", "/api/v1/failed")
            .await
            .refused(401)
            .contains("http.token_file")
    );
    for wrong in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "since=yesterday",
        "since=99999years",
        "id=4x",
        "topic=%00",
        "colour=red",
    ] {
        assert!(
            !get(port, &format!("/api/v1/failed?{wrong}"))
                .await
                .refused(400)
                .is_empty(),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn one_failed_message_shows_its_attempts_and_its_contents_to_the_holder_of_the_token() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    session
        .run("alter table outbox_messages add column customer text default 'a secret'")
        .await;
    fail(&session, 2).await;
    session
        .run(
            "insert into outboxd_attempts (seq, message_id, attempt, instance, class, code, error, latency_ms)
             select seq, id::text, 5, 'db1', 'rejected', '10054', 'too large', 1.5 from outbox_messages where seq = 2",
        )
        .await;
    let id: String = session
        .query_one("select id::text from outbox_messages where seq = 2", &[])
        .await
        .unwrap()
        .get(0);
    for name in ["2", id.as_str()] {
        let open = get(port, &format!("/api/v1/failed/{name}")).await;
        let shown = open.done();
        assert_eq!(
            (&shown["seq"], &shown["id"], &shown["last_error"]),
            (&json!(2), &json!(id), &json!("too large: 10054"))
        );
        let attempt = &shown["attempts"][0];
        assert_eq!(
            (&attempt["attempt"], &attempt["code"], &attempt["error"]),
            (&json!(5), &json!("10054"), &json!("too large"))
        );
        assert!(
            !open.body.contains("payload") && !open.body.contains("secret"),
            "{}",
            open.body
        );
        let whole = get_as(port, TOKEN, &format!("/api/v1/failed/{name}")).await.done();
        assert_eq!(
            (&whole["payload"], &whole["customer"]),
            (&json!({"n": 2}), &json!("a secret"))
        );
    }
    get_as(port, "wrong", "/api/v1/failed/2").await.refused(401);
    session
        .run("update outbox_messages set failed_at = null, relayed_at = now() where seq = 1")
        .await;
    for unknown in ["1", "99", "6b6e6f77-6e20-4e6f-8065-7665727768ff"] {
        assert!(
            get(port, &format!("/api/v1/failed/{unknown}"))
                .await
                .refused(404)
                .contains(unknown)
        );
    }
    get(port, "/api/v1/failed/4x").await.refused(400);
}

#[tokio::test]
async fn a_change_needs_the_token_json_and_a_clear_wish() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    fail(&session, 6).await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    let json = ("Content-Type", "application/json");
    let all = r#"{"all": true}"#;
    let discard = "/api/v1/failed/discard";
    let none = call(port, "POST", discard, &[json], all).await;
    none.refused(401);
    assert!(none.head.contains("www-authenticate: bearer"), "{none:?}");
    call(port, "POST", discard, &[json, ("Authorization", "Bearer wrong")], all)
        .await
        .refused(401);
    let authorization = format!("Bearer {TOKEN}");
    let authorization = ("Authorization", authorization.as_str());
    call(port, "POST", discard, &[authorization], all).await.refused(415);
    call(
        port,
        "POST",
        discard,
        &[authorization, ("Content-Type", "text/plain")],
        all,
    )
    .await
    .refused(415);
    let long = " ".repeat((1 << 20) + 1);
    call(port, "POST", discard, &[authorization, json], &long)
        .await
        .refused(413);
    for wrong in [
        json!({}),
        json!({"filter": {}}),
        json!({"all": false}),
        json!({"ids": []}),
        json!({"ids": ["4x"]}),
        json!({"ids": [1.5]}),
        json!({"filter": {"colour": "red"}}),
        json!({"filter": {"topic": "\0"}}),
        json!({"everything": true}),
        json!([1]),
    ] {
        assert!(!post(port, discard, &wrong).await.refused(400).is_empty(), "{wrong}");
    }
    assert_eq!(session.count(failed).await, 6, "nothing of that changed anything");
}

#[tokio::test]
async fn retry_and_discard_do_what_is_asked_and_the_audit_keeps_it() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    fail(&session, 6).await;
    let discard = "/api/v1/failed/discard";
    let changed = |changed, remaining| json!({"changed": changed, "remaining": remaining});
    assert_eq!(
        post(port, "/api/v1/failed/retry", &json!({"ids": [1, "2", 99]}))
            .await
            .done(),
        changed(2, 0)
    );
    session.drained(Duration::from_secs(20)).await;
    let relayed = "select count(*) from outbox_messages where relayed_at is not null and seq in (1, 2)";
    assert_eq!(session.count(relayed).await, 2);
    let filter = json!({"filter": {"topic": "orders.0", "error": "10054"}});
    assert_eq!(post(port, discard, &filter).await.done(), changed(1, 0));
    assert_eq!(seqs(&get(port, "/api/v1/failed").await.done()), [3, 4, 5]);
    assert_eq!(
        post(port, discard, &json!({"all": true, "filter": null})).await.done(),
        changed(3, 0)
    );
    assert_eq!(session.count("select count(*) from outbox_messages").await, 2);
    let audited =
        "select string_agg(who || ' ' || action || ' ' || count || ' ' || filter, '; ' order by id) from outboxd_audit";
    let audit: String = session.query_one(audited, &[]).await.unwrap().get(0);
    let begun = "http retry 2 {\"ids\": [1, 2, 99]}; http discard 1 {\"error\": \"10054\", \"topic\": \"orders.0\"}; http discard 1 {}";
    assert!(audit.starts_with(begun), "{audit}");
    assert_eq!(
        session
            .count("select count(*) from outboxd_audit where detail ->> 'key' in ('k3', 'k4', 'k5', 'k6')")
            .await,
        4
    );
}

#[tokio::test]
async fn a_large_change_is_done_in_parts() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    fail(&session, 7_000).await;
    let all = json!({"all": true});
    let first = post(site.port(), "/api/v1/failed/discard", &all).await.done();
    assert_eq!(first, json!({"changed": 5_000, "remaining": 2_000}));
    let second = post(site.port(), "/api/v1/failed/discard", &all).await.done();
    assert_eq!(second, json!({"changed": 2_000, "remaining": 0}));
    assert_eq!(session.count("select count(*) from outbox_messages").await, 0);
    assert_eq!(
        session.count("select sum(count)::bigint from outboxd_audit").await,
        7_000
    );
}

#[tokio::test]
async fn the_token_is_read_again_on_sighup() {
    let _guard = together().await;
    let (site, daemon, _session) = daemon().await;
    let port = site.port();
    get_as(port, TOKEN, "/api/v1/failed").await.done();
    write_token(&site, "another");
    signal(daemon.pid(), "HUP");
    eventually("the new token counts", Duration::from_secs(10), || async {
        (get_as(port, "another", "/api/v1/failed").await.status == 200).then_some(())
    })
    .await;
    get_as(port, TOKEN, "/api/v1/failed").await.refused(401);
    write_token(&site, "");
    signal(daemon.pid(), "HUP");
    eventually(
        "the log says that the old token stays",
        Duration::from_secs(10),
        || async { site.log().contains("the old token stays").then_some(()) },
    )
    .await;
    get_as(port, "another", "/api/v1/failed").await.done();
}

#[tokio::test]
async fn without_a_token_file_nothing_can_be_changed() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, STDOUT);
    site.migrate();
    let _daemon = site.start().await;
    let session = database.connect().await;
    fail(&session, 1).await;
    let refused = post(site.port(), "/api/v1/failed/retry", &json!({"all": true}))
        .await
        .refused(403);
    assert!(refused.contains("http.token_file"), "{refused}");
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where failed_at is null")
            .await,
        0
    );
    let summary = get(site.port(), "/api/v1/summary").await.done();
    assert_eq!(summary["token_configured"], false);
}

#[tokio::test]
async fn a_token_everyone_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, STDOUT);
    with_token(&site);
    let everyone = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.config().with_file_name("token"), everyone).unwrap();
    site.migrate();
    let _daemon = site.start().await;
    assert!(
        site.log()
            .contains("can be read by everyone on this machine: chmod 640"),
        "{}",
        site.log()
    );
    assert!(!site.log().contains(TOKEN));
}

#[tokio::test]
async fn the_status_is_what_the_command_line_prints_with_the_paused_destinations() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let _daemon = site.start().await;
    let session = database.connect().await;
    let insert = "insert into outbox_messages (topic, key, payload) values ('orders', 'a', '{}')";
    session.run(insert).await;
    session.drained(Duration::from_secs(20)).await;
    broker.kill9().await;
    session.run(insert).await;
    let port = site.port();
    let status = eventually("the pause is in the status", Duration::from_secs(20), || async {
        let status = get(port, "/api/v1/status").await.done();
        (status["paused_destinations"] != json!([])).then_some(status)
    })
    .await;
    let paused = &status["paused_destinations"][0];
    assert_eq!(
        (&paused["transport"], &paused["destination"]),
        (&json!("main"), &json!("orders"))
    );
    assert!(!paused["error"].as_str().unwrap().is_empty() && paused["since_seconds"].as_f64().unwrap() >= 0.0);
    let printed: Value = serde_json::from_str(&site.succeed(&["status", "--json"])).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), keys(&printed));
    assert_eq!(
        status["pending"],
        json!({"due": 1, "delayed": 0, "retrying": 0, "held": 0})
    );
    let summary = get(port, "/api/v1/summary").await;
    assert_within("the summary", summary.took, AT_ONCE);
    assert_eq!(summary.done()["paused_destinations"][0]["destination"], "orders");
}

/// Every address answers at once; those that need the database say that it is away.
async fn says_the_database_is_away(port: u16, known: bool) {
    for path in ["/api/v1/status", "/api/v1/failed", "/api/v1/failed/1"] {
        let answer = get(port, path).await;
        assert_within(path, answer.took, AT_ONCE);
        let error = answer.refused(503);
        assert!(error.starts_with("database unavailable: "), "{error}");
        assert!(
            !known || error.contains(" for ") && error.contains("database.url"),
            "{error}"
        );
    }
    let changed = post(port, "/api/v1/failed/retry", &json!({"all": true})).await;
    assert!(changed.status == 503, "{changed:?}");
    let summary = get(port, "/api/v1/summary").await;
    assert_within("the summary", summary.took, AT_ONCE);
    let summary = summary.done();
    assert!(!known || !summary["database"].is_null(), "{summary}");
    for path in ["/", "/livez", "/metrics"] {
        let answer = get(port, path).await;
        assert_within(path, answer.took, AT_ONCE);
        assert_eq!(answer.status, 200, "{path}");
    }
}

#[tokio::test]
async fn with_the_database_down_everything_answers_at_once_and_says_so() {
    let _guard = together().await;
    let cluster = Cluster::own();
    cluster.wait();
    let database = cluster.database().await;
    let site = Site::new(&database, STDOUT);
    with_token(&site);
    site.migrate();
    let mut daemon = site.start().await;
    let port = site.port();
    assert_eq!(
        get(port, "/api/v1/summary").await.done()["instances"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    cluster.kill9().await;
    eventually("the daemon has noticed", Duration::from_secs(20), || async {
        let summary = get(port, "/api/v1/summary").await.done();
        (!summary["database"].is_null()).then_some(())
    })
    .await;
    says_the_database_is_away(port, true).await;
    let unready = get(port, "/readyz").await;
    assert_within("/readyz", unready.took, AT_ONCE);
    assert!(
        unready.status == 503 && unready.body.contains("database.url"),
        "{unready:?}"
    );
    let summary = get(port, "/api/v1/summary").await.done();
    assert_eq!(
        summary["instances"].as_array().unwrap().len(),
        1,
        "what was known stays: {summary}"
    );
    cluster.start();
    daemon.ready(Duration::from_secs(30)).await;
    eventually("the API answers again", Duration::from_secs(20), || async {
        (get(port, "/api/v1/status").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_a_database_that_is_silent_everything_still_answers_at_once() {
    let _guard = together().await;
    let cluster = Cluster::own();
    cluster.wait();
    let database = cluster.database().await;
    let site = Site::new(&database, STDOUT);
    with_token(&site);
    site.migrate();
    let _daemon = site.start().await;
    cluster.freeze();
    says_the_database_is_away(site.port(), false).await;
}

/// Whoever asks for what takes too long is refused in time, its statement is cancelled, only one was asked at a time, and
/// the engine's own connections know nothing of it.
#[tokio::test]
async fn a_slow_answer_is_given_up_and_harms_nobody() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let (site, _daemon, session) = daemon_of(&database).await;
    let port = site.port();
    fail(&session, 3).await;
    // The instance's own report waits for the lock too, and gives up sooner than anybody's question.
    let engines = "select string_agg(pid::text, ' ' order by pid) from pg_stat_activity
        where datname = current_database() and application_name ~ '/(read|settle|lease)$'";
    let before: String = session.query_one(engines, &[]).await.unwrap().get(0);
    // What the engine's side connection does never looks at the instances.
    session
        .run("begin; lock table outboxd_instances in access exclusive mode")
        .await;
    // Within a transaction pg_stat_activity stands still.
    let observer = database.connect().await;
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and application_name ~ '/side$'";
    let asked = futures_util::future::join_all((0..12).map(|_| get(port, "/api/v1/status")));
    let seen = eventually("one of them waits", AT_ONCE, || async {
        (observer.count(waiting).await == 1).then_some(())
    });
    let (answers, ()) = tokio::join!(asked, seen);
    for answer in answers {
        assert_within("/api/v1/status", answer.took, AT_ONCE);
        answer.refused(503);
    }
    eventually("the statement was cancelled", AT_ONCE, || async {
        (observer.count(waiting).await == 0).then_some(())
    })
    .await;
    session.run("rollback").await;
    eventually("it is answered again", AT_ONCE, || async {
        let answer = get(port, "/api/v1/status").await;
        if answer.status != 200 {
            println!("not yet: {answer:?}");
        }
        (answer.status == 200).then_some(())
    })
    .await;
    let after: String = session.query_one(engines, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "the engine kept its connections");
}

#[tokio::test]
async fn with_fifty_thousand_failed_rows_everything_answers_at_once() {
    let _guard = alone().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    fail(&session, 50_000).await;
    for path in [
        "/readyz",
        "/api/v1/status",
        "/api/v1/summary",
        "/api/v1/failed?limit=1000",
        "/api/v1/failed?error=nowhere",
        "/api/v1/failed/50000",
        "/",
    ] {
        let answer = get(port, path).await;
        assert_within(path, answer.took, AT_ONCE);
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(get(port, "/api/v1/status").await.done()["failed"], 50_000);
    let retried = post(port, "/api/v1/failed/retry", &json!({"filter": {"topic": "orders.1"}})).await;
    assert!(retried.took < Duration::from_secs(10));
    assert_eq!(retried.done(), json!({"changed": 5_000, "remaining": 11_667}));
}

#[tokio::test]
async fn a_summary_holds_what_happened_lately() {
    let _guard = together().await;
    let (site, _daemon, session) = daemon().await;
    let port = site.port();
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k', '{}' from generate_series(1, 50)")
        .await;
    let summary = eventually("the fifty are in the summary", Duration::from_secs(20), || async {
        let summary = get(port, "/api/v1/summary").await.done();
        (summary["routes"][0]["relayed_total"] == 50 && summary["samples"].as_array().unwrap().len() > 1)
            .then_some(summary)
    })
    .await;
    assert_eq!((&summary["ready"], &summary["reasons"]), (&json!(true), &json!([])));
    assert_eq!(
        (&summary["routes"][0]["transport"], &summary["instances"][0]["lanes"]),
        (&json!("main"), &json!(64))
    );
    assert!(summary["routes"][0]["p99_seconds"].as_f64().unwrap() > 0.0);
    let last = summary["samples"].as_array().unwrap().last().unwrap()["number"]
        .as_u64()
        .unwrap();
    let later = eventually("a later sample", Duration::from_secs(10), || async {
        let later = get(port, &format!("/api/v1/summary?after={last}")).await.done();
        (later["samples"] != json!([])).then_some(later)
    })
    .await;
    assert_eq!(later["samples"][0]["number"], last + 1);
    assert_eq!(later["run"], summary["run"]);
}
