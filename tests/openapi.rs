//! `openapi.json` and the server say the same: every path and method, every status and every body, for sensible requests
//! and for a few thousand senseless ones.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::together;
use crate::support::web::{Answer, TOKEN, call, with_token};

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// Senseless requests per operation.
const TRIES: usize = 150;

fn document() -> Value {
    serde_json::from_str(include_str!("../src/http/openapi.json")).unwrap()
}

/// JSON Schema as far as the document uses it (2020-12). A keyword it does not know is a fault of the document's.
struct Schemas(Value);

impl Schemas {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (keyword, wanted) in schema.as_object().ok_or("a schema is an object")? {
            let holds = match keyword.as_str() {
                "description" | "default" | "format" => true,
                "$ref" => {
                    let name = wanted.as_str().unwrap().trim_start_matches('#');
                    let target = self.0.pointer(name).ok_or_else(|| format!("{wanted} is nowhere"))?;
                    self.check(target, value, at)?;
                    true
                }
                "anyOf" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|one| self.check(one, value, at).is_ok()),
                "type" => match wanted.as_array() {
                    Some(kinds) => kinds.iter().any(|kind| is_a(kind, value)),
                    None => is_a(wanted, value),
                },
                "const" => wanted == value,
                "enum" => wanted.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
                "minItems" => value
                    .as_array()
                    .is_none_or(|list| list.len() as u64 >= wanted.as_u64().unwrap()),
                "maxItems" => value
                    .as_array()
                    .is_none_or(|list| list.len() as u64 <= wanted.as_u64().unwrap()),
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, item, &format!("{at}/{index}"))?;
                    }
                    true
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().unwrap() {
                        if let Some(item) = value.get(name) {
                            self.check(schema, item, &format!("{at}/{name}"))?;
                        }
                    }
                    true
                }
                "required" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|name| value.get(name.as_str().unwrap()).is_some()),
                "additionalProperties" if *wanted == json!(true) => true,
                "additionalProperties" if *wanted == json!(false) => {
                    let known = schema["properties"].as_object().cloned().unwrap_or_default();
                    let surplus = value
                        .as_object()
                        .into_iter()
                        .flatten()
                        .find(|(name, _)| !known.contains_key(*name));
                    surplus.is_none()
                }
                unknown => return Err(format!("the keyword {unknown} is not checked by this test")),
            };
            if !holds {
                return Err(format!("{at}: {value} against {keyword}: {wanted}"));
            }
        }
        Ok(())
    }

    /// Whether `answer` is one that `operation` documents.
    fn documented(&self, operation: &Value, answer: &Answer, head_only: bool) -> Result<(), String> {
        let status = answer.status.to_string();
        let response = operation["responses"]
            .get(&status)
            .ok_or_else(|| format!("status {status} is not documented"))?;
        let (kind, content) = response["content"].as_object().unwrap().iter().next().unwrap();
        if !answer.head.contains(&format!("content-type: {kind}")) {
            return Err(format!("no {kind}: {}", answer.head));
        }
        if head_only || kind != "application/json" {
            return Ok(());
        }
        let body: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
        self.check(&content["schema"], &body, "")
    }
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// A daemon with a few failed messages, one of them with an attempt.
async fn daemon() -> (Site, crate::support::daemon::Daemon) {
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "[transports.main.stdout]\n");
    with_token(&site);
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload, failed_at, last_error, attempt)
             select 'orders', nullif('k' || g, 'k3'), '{\"n\": 1}', now(), 'no', 2 from generate_series(1, 40) g;
             insert into outboxd_attempts (seq, message_id, attempt, class, code)
             select seq, id::text, 1, 'rejected', '10054' from outbox_messages",
        )
        .await;
    let daemon = site.start().await;
    (site, daemon)
}

/// A sensible path of this template.
fn concrete(path: &str) -> String {
    path.replace("{id}", "2").replace("{seq}", "2")
}

fn credentials(token: &str) -> [(String, String); 2] {
    [
        ("Authorization".to_owned(), format!("Bearer {token}")),
        ("Content-Type".to_owned(), "application/json".to_owned()),
    ]
}

async fn request(port: u16, method: &str, path: &str, headers: &[(String, String)], body: &str) -> Answer {
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    call(port, method, path, &headers, body).await
}

#[tokio::test]
async fn the_document_names_every_path_and_method_and_no_other() {
    let _guard = together().await;
    let (site, _daemon) = daemon().await;
    let schemas = Schemas(document());
    let served: BTreeSet<String> = outboxd::http::paths().into_iter().map(str::to_owned).collect();
    let documented: BTreeSet<String> = schemas.0["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(served, documented);
    let shown = call(site.port(), "GET", "/api/v1/openapi.json", &[], "").await;
    assert_eq!(shown.done(), schemas.0);
    for (path, item) in schemas.0["paths"].as_object().unwrap() {
        for method in METHODS {
            let answer = request(
                site.port(),
                method,
                &concrete(path),
                &credentials(TOKEN),
                r#"{"ids": [1]}"#,
            )
            .await;
            let name = if method == "HEAD" {
                "get"
            } else {
                &method.to_lowercase()
            };
            match item.get(name) {
                Some(operation) => {
                    assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
                    let fault = schemas.documented(operation, &answer, method == "HEAD").err();
                    assert_eq!(fault, None, "{method} {path}");
                }
                None => assert_eq!(answer.status, 405, "{method} {path}"),
            }
            for header in [
                "content-security-policy: default-src 'none'",
                "x-content-type-options: nosniff",
            ] {
                assert!(answer.head.contains(header), "{method} {path}: {}", answer.head);
            }
        }
    }
}

/// Texts that programs stumble over.
const TEXTS: [&str; 17] = [
    "a\0b",
    "",
    "0",
    "1",
    "-1",
    "2",
    "1001",
    "9223372036854775807",
    "9223372036854775808",
    "1e3",
    "NaN",
    "orders",
    "k1",
    "90m",
    "2026-01-31T12:00:00Z",
    "\u{1f4a5}'\"\\;--",
    "00000000-0000-0000-0000-000000000000",
];

fn text(random: &mut fastrand::Rng) -> String {
    match random.u8(0..12) {
        0 => "x".repeat(random.usize(0..3_000)),
        1 => (0..random.usize(0..12))
            .map(|_| random.char('\0'..='\u{2fff}'))
            .collect(),
        2 => format!("{}years", random.u64(..)),
        _ => random.choice(TEXTS).unwrap().to_owned(),
    }
}

fn anything(random: &mut fastrand::Rng, depth: usize) -> Value {
    match random.u8(0..if depth > 0 { 8 } else { 6 }) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(random.f64() * 1e9),
        4 => json!(random.i64(-2..60)),
        5 => json!(text(random)),
        6 => (0..random.usize(0..4)).map(|_| anything(random, depth - 1)).collect(),
        _ => (0..random.usize(0..4))
            .map(|_| (text(random), anything(random, depth - 1)))
            .collect(),
    }
}

/// Sometimes what is expected under `name`, sometimes anything.
fn value(random: &mut fastrand::Rng, name: &str) -> Value {
    if random.u8(0..3) == 0 {
        return anything(random, 2);
    }
    match name {
        "ids" => (0..random.usize(0..5))
            .map(|_| {
                if random.bool() {
                    json!(random.i64(-1..45))
                } else {
                    json!(text(random))
                }
            })
            .collect(),
        "all" => json!(random.bool()),
        "filter" => object(random, &["topic", "key", "since", "error"]),
        _ => json!(text(random)),
    }
}

fn object(random: &mut fastrand::Rng, names: &[&str]) -> Value {
    let mut made = Map::new();
    for name in names {
        if random.bool() {
            made.insert((*name).to_owned(), value(random, name));
        }
    }
    if random.u8(0..8) == 0 {
        made.insert(text(random), anything(random, 1));
    }
    Value::Object(made)
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A path of `template` with made-up parameters.
fn path(random: &mut fastrand::Rng, template: &str, operation: &Value) -> String {
    let id = if random.bool() {
        random.i64(-1..45).to_string()
    } else {
        text(random)
    };
    let id = if id.is_empty() { "-".to_owned() } else { id };
    let mut path = template.replace("{id}", &percent(&id));
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let mut separator = '?';
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
        if random.u8(0..3) == 0 {
            let name = parameter["name"].as_str().unwrap();
            let value = if random.u8(0..9) == 0 {
                "%ff%".to_owned()
            } else {
                percent(&text(random))
            };
            path.push_str(&format!("{separator}{name}={value}"));
            separator = '&';
        }
    }
    path
}

/// Whatever it is asked, the server answers with a documented status and a body of the documented form, and never blames
/// itself or the database for it.
#[tokio::test]
async fn senseless_requests_are_answered_as_documented() {
    let _guard = together().await;
    let (site, mut daemon) = daemon().await;
    let schemas = Schemas(document());
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for (template, item) in schemas.0["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for _ in 0..TRIES {
                let path = path(&mut random, template, operation);
                let mut headers = credentials(if random.u8(0..5) == 0 { "wrong" } else { TOKEN }).to_vec();
                if random.u8(0..5) == 0 {
                    headers.remove(random.usize(0..2));
                }
                let body = match (method.as_str(), random.u8(0..10)) {
                    ("get", _) => String::new(),
                    (_, 0) => text(&mut random),
                    (_, 1) => anything(&mut random, 3).to_string(),
                    (_, _) => object(&mut random, &["ids", "filter", "all"]).to_string(),
                };
                let method = method.to_uppercase();
                let answer = request(site.port(), &method, &path, &headers, &body).await;
                let told = format!(
                    "seed {seed}: {method} {path} {headers:?} {body}\n{} {}",
                    answer.status, answer.body
                );
                assert!(answer.status < 500, "{told}");
                if answer.status != 404 || template.contains("{id}") {
                    let fault = schemas.documented(operation, &answer, false).err();
                    assert_eq!(fault, None, "{told}");
                }
            }
        }
    }
    daemon.ready(std::time::Duration::from_secs(10)).await;
}
