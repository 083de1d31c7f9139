//! The dashboard as an operator meets it, in a real browser: rows that move, a broker that goes away, messages that fail
//! and are retried or discarded, a daemon and a database that come back. Pictures of it are left beside the build.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::support::broker::{Broker, Kind};
use crate::support::browser::Browser;
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{self, Cluster, Database, Session};
use crate::support::web::{TOKEN, with_token};
use crate::support::{eventually, together};

/// What an operator waits for without wondering, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(30);
const FAILED: &str = "select count(*) from outbox_messages where failed_at is not null";

/// A broker, a daemon with a token, and a browser that has its page open.
struct Stage {
    broker: Broker,
    database: Database,
    site: Site,
    daemon: Daemon,
    session: Session,
    browser: Browser,
}

impl Stage {
    async fn set() -> Self {
        Self::on(Cluster::shared().database().await).await
    }

    async fn on(database: Database) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders", "audit"]).await;
        let routes = "[[routes]]\ntopic = \"orders*\"\ntransport = \"main\"\norder = \"strict\"\n
            [[routes]]\ntopic = \"*\"\ntransport = \"main\"\n";
        let site = Site::new(&database, &(broker.section("main") + routes));
        with_token(&site);
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        let mut browser = Browser::start();
        browser.resize(1280, 900, false);
        browser.open(&format!("http://127.0.0.1:{}/", site.port()));
        browser.wait(
            "the page knows the daemon",
            "document.querySelector('#state')?.innerText === 'Relaying'",
            SOON,
        );
        Self {
            broker,
            database,
            site,
            daemon,
            session,
            browser,
        }
    }

    async fn insert(&self, topic: &str, key: &str, count: u32) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload, headers)
             select '{topic}', '{key}', jsonb_build_object('order', g), '{{\"shop\": \"demo\"}}' from generate_series(1, {count}) g"
        );
        self.session.run(&insert).await;
    }

    /// Failed messages as they would be, each with two attempts on record.
    async fn fail(&self, key: &str, error: &str, count: u32) {
        self.session
            .run(&format!(
                "with failed as (
                   insert into outbox_messages (topic, key, payload, headers, failed_at, last_error, attempt)
                   select 'orders', '{key}-' || g, jsonb_build_object('order', g, 'note', '<b>bold</b>'), '{{\"shop\": \"demo\"}}',
                          now() - g * interval '3 minutes', '{error}', 3
                   from generate_series(1, {count}) g returning seq, id, last_error)
                 insert into outboxd_attempts (seq, message_id, attempt, instance, class, code, error, latency_ms, at)
                 select seq, id::text, a, 'db1', 'rejected', '10054', last_error, 1.25, now() - (4 - a) * interval '1 minute'
                 from failed, generate_series(1, 2) a"
            ))
            .await;
    }

    fn wait(&mut self, what: &str, expression: &str) {
        self.browser.wait(what, expression, SOON);
    }

    /// Waits until an element shows this text.
    fn shows(&mut self, selector: &str, text: &str) {
        let expression = format!(
            "document.querySelector({})?.innerText.includes({})",
            json!(selector),
            json!(text)
        );
        self.wait(&format!("{selector} shows {text:?}"), &expression);
    }

    fn picture(&mut self, name: &str) {
        self.browser.screenshot(&pictures().join(format!("{name}.png")));
    }

    /// The page never complained; not even of the content security policy.
    #[track_caller]
    fn content(&mut self) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

fn pictures() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[tokio::test]
async fn rows_move_and_a_pause_shows_its_reason() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    stage.shows("#failed-note", "Nothing failed.");
    stage.shows("#paused", "Every destination takes messages.");
    stage.shows("#held", "No key waits");
    stage.shows("#instances", &stage.site.instance());
    stage.insert("orders", "a", 300).await;
    stage.shows("#routes", "300");
    stage.wait(
        "a chart tells the rate",
        "/highest in 15 minutes [1-9]/.test(document.querySelectorAll('#charts svg')[2].getAttribute('aria-label'))",
    );
    stage.content();

    stage.broker.kill9().await;
    stage.insert("orders", "a", 7).await;
    stage.shows("#state", "Paused");
    stage.shows("#paused", "main → orders");
    stage.shows("#banners", "A destination takes nothing:");
    stage.shows("#tile-due", "7");
    stage.broker.bring_back();
    stage.session.drained(SOON).await;
    stage.shows("#state", "Relaying");
    stage.shows("#paused", "Every destination takes messages.");
    stage.shows("#tile-due", "0");
    stage.content();
}

#[tokio::test]
async fn a_failed_message_is_looked_at_and_retried() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    stage
        .fail("alice", "message is 2097152 bytes, the stream takes 1048576", 1)
        .await;
    stage.fail("bob", "no route", 2).await;
    stage.shows("#failed-count", "3 shown");
    stage.shows("#failed-rows", "alice-1");
    // By search, and with the keyboard.
    stage.browser.click("input[name=error]");
    stage.browser.write("2097152");
    stage.browser.press("Enter");
    stage.shows("#failed-count", "1 shown");
    stage.browser.click("button.expand");
    stage.shows(".detail", "rejected 10054");
    assert!(
        !stage.browser.text(".detail").contains("bold"),
        "contents need the token"
    );
    // The token is asked for, kept for the session, and shows what the message contains; as text.
    stage.browser.click(".detail button");
    stage.shows("#ask-token", "holder of the token");
    stage.browser.write("wrong");
    stage.browser.press("Enter");
    stage.wait("a wrong token shows nothing", "sessionStorage.length === 0");
    stage.browser.click(".detail button");
    stage.browser.write(TOKEN);
    stage.browser.press("Enter");
    stage.shows(".detail", "<b>bold</b>");
    assert_eq!(
        stage.browser.evaluate("document.querySelectorAll('b b, pre b').length"),
        0
    );
    assert_eq!(
        stage.browser.evaluate("[localStorage.length, document.cookie]"),
        json!([0, ""])
    );
    let complaints = stage.browser.complaints();
    assert!(
        complaints.len() == 1 && complaints[0].contains("401"),
        "only the wrong token: {complaints:?}"
    );

    stage.browser.click("tr.message input");
    stage.shows("#selected", "1 selected");
    stage.browser.click("#retry");
    stage.shows("#confirm", "Retry 1 message?");
    stage.browser.press("Escape");
    stage.wait(
        "nothing happens when it is not confirmed",
        "!document.querySelector('#confirm').open",
    );
    assert_eq!(stage.session.count(FAILED).await, 3);
    stage.browser.click("#retry");
    stage.wait("it asks again", "document.querySelector('#confirm').open");
    stage.browser.click("#confirm-yes");
    stage.shows("#toast", "Retried 1 message.");
    stage.shows("#failed-note", "No failed message matches.");
    stage.session.drained(SOON).await;
    let arrived = stage.broker.arrivals(&["orders"]).await;
    assert_eq!(arrived.len(), 1, "it reached the broker");
    stage.browser.click("#clear");
    stage.shows("#failed-count", "2 shown");
    stage.shows("#tile-failed", "2");
    stage.content();
}

/// Whoever may insert rows writes what an operator reads.
#[tokio::test]
async fn a_topic_of_markup_is_shown_and_not_run() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    let markup = "<img src=x onerror=\"document.title=1\">";
    stage.fail(markup, markup, 1).await;
    let topic = format!("update outbox_messages set topic = '{markup}'");
    stage.session.run(&topic).await;
    stage.shows("#failed-rows", markup);
    stage.browser.click("button.expand");
    stage.shows(".detail", markup);
    stage.wait(
        "no element was made of it",
        "document.querySelectorAll('#failed-rows img, .detail img').length === 0 && document.title !== '1'",
    );
    stage.content();
}

#[tokio::test]
async fn several_are_discarded_after_a_confirmation() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    stage.fail("carol", "no route", 130).await;
    stage.shows("#failed-count", "100 of 130 shown");
    stage.browser.click("#more");
    stage.shows("#failed-count", "130 shown");
    stage.browser.click("#clear");
    stage.shows("#failed-count", "100 of 130 shown");
    stage.browser.click("#select-all");
    stage.shows("#selected", "100 selected");
    stage.browser.click("#selected button");
    stage.shows("#selected", "Every failed message");
    stage.browser.click("#discard");
    stage.shows("#confirm", "Discard every failed message?");
    stage.browser.click("#confirm-yes");
    stage.shows("#ask-token", "http.token_file");
    stage.browser.write(TOKEN);
    stage.browser.press("Enter");
    stage.shows("#toast", "Discarded 130 messages.");
    stage.shows("#failed-note", "Nothing failed.");
    assert_eq!(stage.session.count(FAILED).await, 0);
    assert_eq!(
        stage
            .session
            .count("select sum(count)::bigint from outboxd_audit where who = 'http'")
            .await,
        130
    );
    stage.content();
}

#[tokio::test]
async fn a_daemon_that_stops_is_waited_for() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    stage.insert("orders", "a", 20).await;
    stage.shows("#routes", "20");
    stage.content();
    assert!(stage.daemon.terminate(Duration::from_secs(30)).await.success());
    stage.browser.wait(
        "the page says so",
        "document.querySelector('#banners').innerText.includes('outboxd does not answer.')",
        SOON,
    );
    assert_eq!(stage.browser.text("#state"), "Reconnecting");
    assert!(stage.browser.text("#routes").contains("20"), "the last figures stay");
    assert_eq!(
        stage.browser.evaluate("document.body.classList.contains('stale')"),
        true
    );
    stage.browser.wait(
        "their age is told",
        "document.querySelector('#updated').innerText.startsWith('Last answer')",
        SOON,
    );
    let _daemon = stage.site.start().await;
    stage.browser.wait(
        "it goes on by itself",
        "document.querySelector('#state').innerText === 'Relaying'",
        SOON,
    );
    assert_eq!(stage.browser.text("#banners"), "");
    assert_eq!(
        stage.browser.evaluate("document.body.classList.contains('stale')"),
        false
    );
    let complaints = stage.browser.complaints();
    let other: Vec<_> = complaints.iter().filter(|line| !line.contains("net::ERR_")).collect();
    assert!(other.is_empty(), "only that nobody answered: {other:?}");
}

#[tokio::test]
async fn a_database_that_is_away_is_told_apart() {
    let _guard = together().await;
    let cluster = Cluster::own();
    cluster.wait();
    let mut stage = Stage::on(cluster.database().await).await;
    stage.fail("dave", "no route", 2).await;
    stage.shows("#failed-count", "2 shown");
    stage.content();
    cluster.kill9().await;
    stage.shows("#state", "Database away");
    stage.shows("#banners", "The database does not answer:");
    stage.shows("#banners", "database.url");
    stage.shows("#failed-note", "The list comes from the database");
    stage.picture("database-away-1280-light");
    cluster.start();
    stage.session = stage.database.connect_when_up().await;
    stage.shows("#state", "Relaying");
    stage.shows("#failed-count", "2 shown");
    stage.wait("the note is gone", "document.querySelector('#failed-note').hidden");
    // The list may have been asked for in the moment before the outage was known.
    let other: Vec<_> = stage
        .browser
        .complaints()
        .into_iter()
        .filter(|line| !line.contains("503"))
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

#[tokio::test]
async fn stuck_messages_and_a_lock_are_seen_with_who_is_behind_them() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    let row = |seq: i64, reason: &str, detail: &str| json!({"seq": seq, "id": "0197a3c2-77de-7b4e-9d39-5a8f0a8a2f10", "reason": reason, "detail": detail, "seconds": 600});
    let report = json!({"count": 23, "rows": [
        row(42, "locked", "pid 4711 (psql, user postgres, idle in transaction, open for 9m 3s)"),
        row(43, "refused", "a check constraint is violated, constraint a_price_is_never_below_what_it_cost_us_to_make_it (23514)"),
    ]});
    assert_eq!(
        stage.browser.evaluate("document.querySelector('#stuck-card').hidden"),
        true
    );
    crate::seen::registers(&stage.session, "neighbour", true, &report).await;
    stage.shows("#stuck", "Message 42 (id 0197a3c2");
    stage.shows("#stuck", "another transaction locks it");
    stage.shows("#stuck", "pid 4711 (psql, user postgres, idle in transaction");
    stage.shows("#stuck", "on neighbour");
    stage.shows("#stuck", "and 21 more");
    stage.shows(
        "#banners",
        "23 messages stuck: message 42: another transaction locks it, and 22 more.",
    );
    stage.shows("#state", "Messages stuck");
    for (width, height) in [(1280, 1000), (390, 844)] {
        stage.browser.resize(width, height, width < 500);
        let wide = "document.documentElement.scrollWidth";
        assert_eq!(
            stage.browser.evaluate(wide),
            width,
            "something is wider than the window"
        );
        stage.picture(&format!("stuck-{width}"));
    }
    let holder = stage.database.connect().await;
    holder
        .run("set application_name = 'a migration'; begin; lock table outbox_messages in access exclusive mode")
        .await;
    stage.shows("#banners", "Waiting for a lock:");
    stage.shows("#banners", "table public.outbox_messages is locked by pid");
    stage.shows("#state", "Waiting for a lock");
    stage.picture("locked-390");
    holder.run("rollback").await;
    stage.shows("#state", "Messages stuck");
}

/// Wide and narrow, light and dark; nothing is wider than the window, and all of it can be reached with the keyboard.
#[tokio::test]
async fn it_fits_a_phone_and_a_desk_by_day_and_by_night() {
    let _guard = together().await;
    let mut stage = Stage::set().await;
    stage.insert("orders", "alice", 400).await;
    stage.insert("audit", "a", 60).await;
    stage.session.drained(SOON).await;
    stage
        .fail(
            "a-key-that-is-rather-long-and-has-no-place-to-break-it-at-all",
            "message is 2097152 bytes, the stream takes 1048576: lower the payload or raise max_msg_size",
            3,
        )
        .await;
    // These fail by themselves, and the next ones wait behind the first of them: the route is strict.
    stage
        .session
        .run(
            "insert into outbox_messages (topic, key, payload, headers)
             select 'orders', 'bob-' || g, '{}', '[1]' from generate_series(1, 4) g",
        )
        .await;
    stage.shows("#failed-count", "7 shown");
    stage.insert("orders", "bob-1", 5).await;
    stage.insert("nowhere", "z", 12).await;
    stage.shows("#paused", "nowhere");
    stage.shows("#held", "bob-1");
    stage.shows("#failed-count", "7 shown");
    stage.browser.click("button.expand");
    stage.shows(".detail", "rejected 10054");
    stage.browser.click("tr.message input");
    for (width, height) in [(1280, 1000), (390, 844)] {
        for dark in [false, true] {
            stage.browser.resize(width, height, dark);
            stage.wait("the charts are drawn anew", "[...document.querySelectorAll('#charts svg')].every((svg) => Math.abs(svg.querySelector('.grid').getAttribute('x2') - svg.clientWidth) < 2)");
            let wide = "document.documentElement.scrollWidth";
            assert_eq!(
                stage.browser.evaluate(wide),
                width,
                "something is wider than the window"
            );
            stage.picture(&format!("{width}-{}", if dark { "dark" } else { "light" }));
        }
    }
    stage.browser.evaluate("document.querySelector('#retry').click()");
    stage.shows("#confirm", "Retry 1 message?");
    stage.picture("390-dark-confirm");
    stage.browser.press("Escape");
    every_control_is_reached_by_tab_and_has_a_name(&mut stage.browser);
    stage.content();
}

fn every_control_is_reached_by_tab_and_has_a_name(browser: &mut Browser) {
    browser.evaluate("document.activeElement.blur()");
    let mut reached = Vec::new();
    for _ in 0..60 {
        browser.press("Tab");
        let at = browser
            .evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.className");
        reached.push(at.as_str().unwrap_or_default().to_owned());
    }
    for stop in [
        "topic",
        "key",
        "error",
        "clear",
        "select-all",
        "retry",
        "discard",
        "expand",
    ] {
        assert!(
            reached.iter().any(|at| at == stop),
            "{stop} cannot be reached: {reached:?}"
        );
    }
    let unnamed = "[...document.querySelectorAll('input, button, svg')].filter((node) => !(node.innerText?.trim() || node.ariaLabel || node.labels?.length)).length";
    assert_eq!(browser.evaluate(unnamed), 0, "every control has a name");
}

/// Three outboxes, one of which cannot be relayed: a switch shows one at a time, and the address remembers which.
#[tokio::test]
async fn a_switch_shows_one_of_several_outboxes() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session.run("create schema money").await;
    let outboxes = "[[outboxes]]\nname = \"shop\"\n[[outboxes]]\nname = \"billing\"\nschema = \"money\"\n\
                    [[outboxes]]\nname = \"gone\"\nschema = \"gone\"\n";
    let site = Site::new(&database, &(broker.section("main") + outboxes));
    with_token(&site);
    for name in ["shop", "billing"] {
        site.succeed(&["migrate", "--outbox", name]);
        let script = site.succeed(&["roles", "--print", "--outbox", name]);
        let output = postgres::psql(&database.url(), &script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    session
        .run(
            "insert into money.outbox_messages (topic, key, payload, failed_at, last_error, attempt)
             select 'orders', 'k' || g, '1', now(), 'no such account', 5 from generate_series(1, 2) g;
             insert into outbox_messages (topic, payload) select 'orders', '1' from generate_series(1, 50)",
        )
        .await;
    let daemon = site.launch();
    let mut page = Browser::start();
    page.resize(1280, 900, false);
    let shows = |browser: &mut Browser, selector: &str, text: &str| {
        let expression = format!(
            "document.querySelector({})?.innerText.includes({})",
            json!(selector),
            json!(text)
        );
        browser.wait(&format!("{selector} shows {text:?}"), &expression, SOON);
    };
    eventually("the page is served", SOON, || async { daemon.get("/livez").await }).await;
    page.open(&format!("http://127.0.0.1:{}/", site.port()));
    shows(&mut page, "#state", "Relaying");
    shows(&mut page, "#switch", "gone (not ready)");
    shows(&mut page, "#routes", "50");
    shows(&mut page, "#failed-note", "Nothing failed.");
    let choose = "{ const box = document.querySelector('#outbox'); box.value = 'billing'; box.dispatchEvent(new Event('change')); true }";
    page.evaluate(choose);
    shows(&mut page, "#failed-rows", "no such account");
    shows(&mut page, "#tile-failed", "2");
    page.screenshot(&pictures().join("outboxes.png"));
    page.wait("the address says which", "location.search === '?outbox=billing'", SOON);
    page.open(&format!("http://127.0.0.1:{}/?outbox=gone", site.port()));
    shows(&mut page, "#banners", "gone");
    let complaints = page.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
