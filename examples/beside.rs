//! Two relays of one outbox on one Kafka, side by side: Debezium Server with the outbox event router, and outboxd.
//! `dev/debezium compare` runs it. It is no part of outboxd and uses nothing of it.
//!
//! ```text
//! beside topics BROKERS PARTITIONS NAME...  makes topics
//! beside compare BROKERS ROWS THEIRS OURS   the topics whose names begin with THEIRS and with OURS, message by message
//! beside consume BROKERS PREFIX             a consumer written for Debezium Server: topic, key, eventType, value
//! ```
//!
//! `compare` waits until both hold ROWS messages. It holds those of one id against each other: topic (without the prefix),
//! partition, key, value and headers, byte for byte but for the JSON quotes that Debezium Server puts around a header's
//! text; and the order of ids within each key. Exit code 0: all of it is the same, and each message came once. 1: it is
//! not; the first differences are printed. 2: Kafka could not be read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Longest silence of a relay that has not sent everything yet.
const PATIENCE: Duration = Duration::from_secs(120);
/// What comes after the last expected message is one too many: so long it is waited for.
const QUIET: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// Differences of one kind that are printed.
const SHOWN: usize = 5;

const USAGE: &str = "usage: beside topics BROKERS PARTITIONS NAME... | beside compare BROKERS ROWS THEIRS OURS | beside consume BROKERS PREFIX";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["compare", brokers, rows, theirs, ours] => compare(brokers, rows, theirs, ours),
        ["topics", brokers, partitions, names @ ..] => make(brokers, partitions, names).map(|()| true),
        ["consume", brokers, prefix] => consume(brokers, prefix).map(|()| true),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("beside: {error}");
            ExitCode::from(2)
        }
    }
}

/// A message as Kafka holds it.
struct Record {
    /// Without the prefix.
    topic: String,
    partition: i32,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut named = self.headers.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| &**value)
    }
}

/// Ahead of both relays: a producer's first messages to a topic that the broker makes meanwhile can get stuck.
fn make(brokers: &str, partitions: &str, names: &[&str]) -> Outcome<()> {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let partitions: i32 = partitions.parse()?;
    let new = names
        .iter()
        .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)));
    let new: Vec<NewTopic<'_>> = new.collect();
    let options = AdminOptions::new().operation_timeout(Some(ANSWER));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for made in runtime.block_on(admin.create_topics(&new, &options))? {
        made.map_err(|(name, code)| format!("topic {name}: {code}"))?;
    }
    Ok(())
}

// ---- a consumer ----

/// Written for Debezium Server, whose header texts stand in quotes. Where there are none, there is nothing to take away.
fn consume(brokers: &str, prefix: &str) -> Outcome<()> {
    let unquoted = |header: &[u8]| match header {
        [b'"', ..] => serde_json::from_slice(header).unwrap_or_else(|_| text(header)),
        _ => text(header),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for record in Topics::of(brokers, prefix)?.read()? {
        let kind = record.header("eventType").map(unquoted);
        let (key, value) = (record.key.as_deref().map(text), record.value.as_deref().map(text));
        // As JSON, so that what a person wrote into a key cannot end a line.
        let fields = [key, kind, value].map(|field| serde_json::json!(field).to_string());
        writeln!(out, "{}\t{}", record.topic, fields.join("\t"))?;
    }
    Ok(out.flush()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// ---- the topics of one relay ----

struct Topics {
    consumer: BaseConsumer,
    prefix: String,
    partitions: Vec<(String, i32)>,
}

impl Topics {
    fn of(brokers: &str, prefix: &str) -> Outcome<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "beside")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut topics = Self {
            consumer,
            prefix: prefix.to_owned(),
            partitions: Vec::new(),
        };
        topics.look()?;
        Ok(topics)
    }

    /// Which topics there are by now.
    fn look(&mut self) -> Outcome<()> {
        let metadata = self.consumer.fetch_metadata(None, ANSWER)?;
        let ours = metadata
            .topics()
            .iter()
            .filter(|topic| topic.name().starts_with(&self.prefix));
        let partitions = ours.flat_map(|topic| {
            let ids = topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id);
            ids.map(|id| (topic.name().to_owned(), id))
        });
        self.partitions = partitions.collect();
        Ok(())
    }

    fn held(&mut self) -> Outcome<i64> {
        self.look()?;
        let mut held = 0;
        for (topic, partition) in &self.partitions {
            let (low, high) = self.consumer.fetch_watermarks(topic, *partition, ANSWER)?;
            held += high - low;
        }
        Ok(held)
    }

    /// Everything they hold now, each partition in its order.
    fn read(&mut self) -> Outcome<Vec<Record>> {
        let held = usize::try_from(self.held()?)?;
        let mut all = TopicPartitionList::new();
        for (topic, partition) in &self.partitions {
            all.add_partition_offset(topic, *partition, Offset::Beginning)?;
        }
        self.consumer.assign(&all)?;
        let mut records = Vec::with_capacity(held);
        while records.len() < held {
            let message = self.consumer.poll(ANSWER).ok_or("Kafka holds more than it gives")??;
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            records.push(Record {
                topic: message.topic()[self.prefix.len()..].to_owned(),
                partition: message.partition(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: headers
                    .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                    .collect(),
            });
        }
        Ok(records)
    }
}

// ---- the comparison ----

/// What one relay has sent.
struct Side {
    name: &'static str,
    records: Vec<Record>,
    /// The first copy of each message.
    by_id: HashMap<String, usize>,
    /// Ids as they came within a topic's key.
    order: BTreeMap<(String, Option<Vec<u8>>), Vec<String>>,
}

impl Side {
    fn of(name: &'static str, records: Vec<Record>) -> Self {
        let (mut by_id, mut order) = (HashMap::new(), BTreeMap::<_, Vec<String>>::new());
        for (index, record) in records.iter().enumerate() {
            let id = record.header("id").map(text).unwrap_or_default();
            if let std::collections::hash_map::Entry::Vacant(place) = by_id.entry(id.clone()) {
                place.insert(index);
                let of_key = order.entry((record.topic.clone(), record.key.clone()));
                of_key.or_default().push(id);
            }
        }
        Self {
            name,
            records,
            by_id,
            order,
        }
    }
}

fn compare(brokers: &str, rows: &str, theirs: &str, ours: &str) -> Outcome<bool> {
    let rows: usize = rows.parse()?;
    let mut topics = [Topics::of(brokers, theirs)?, Topics::of(brokers, ours)?];
    arrive(&mut topics, i64::try_from(rows)?)?;
    let [theirs, ours] = &mut topics;
    let (mut theirs, ours) = (theirs.read()?, ours.read()?);
    let quoted = theirs.first().map(headers).unwrap_or_default();
    // From here on: without the quotes. What is no JSON text stays as it is, and differs.
    for (_, header) in theirs.iter_mut().flat_map(|record| &mut record.headers) {
        if let Ok(plain) = serde_json::from_slice::<String>(header) {
            *header = plain.into_bytes();
        }
    }
    let (theirs, ours) = (Side::of("Debezium Server", theirs), Side::of("outboxd", ours));
    let first = theirs.records.first().and_then(|record| record.header("id")).map(text);
    if let Some(at) = first.and_then(|id| ours.by_id.get(&id)) {
        println!("headers of a message of Debezium Server  {quoted}");
        println!(
            "the same message of outboxd              {}",
            headers(&ours.records[*at])
        );
    }
    let mut same = true;
    for side in [&theirs, &ours] {
        let (messages, ids) = (side.records.len(), side.by_id.len());
        println!("{:<16} {messages} messages of {rows} rows, {ids} ids", side.name);
        same &= messages == rows && ids == rows;
    }
    same &= missing(&theirs, &ours) & missing(&ours, &theirs);
    describe(&ours);
    same &= contents(&theirs, &ours);
    same &= orders(&theirs, &ours);
    println!("{}", if same { "no difference" } else { "THEY DIFFER" });
    Ok(same)
}

/// Waits until both hold what they are to hold, or one has been silent for too long; then for what should not come.
fn arrive(topics: &mut [Topics; 2], rows: i64) -> Outcome<()> {
    let (mut before, mut since) = ([-1, -1], Instant::now());
    loop {
        let held = [topics[0].held()?, topics[1].held()?];
        if held != before {
            (before, since) = (held, Instant::now());
        }
        let enough = held.iter().all(|held| *held >= rows);
        if since.elapsed() >= if enough { QUIET } else { PATIENCE } {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether `other` has every message of `side`.
fn missing(side: &Side, other: &Side) -> bool {
    let missing: Vec<&String> = side.by_id.keys().filter(|id| !other.by_id.contains_key(*id)).collect();
    if !missing.is_empty() {
        println!("{} has not {} messages of {}:", other.name, missing.len(), side.name);
        for id in missing.iter().take(SHOWN) {
            println!("  {}", shown(id, &side.records[side.by_id[*id]]));
        }
    }
    missing.is_empty()
}

/// What was compared, so that nobody takes a poor mix for a rich one.
fn describe(side: &Side) {
    let values = || side.records.iter().map(|record| record.value.as_deref());
    let distinct: HashSet<&[u8]> = values().flatten().collect();
    println!(
        "values           {} null, {} different, the largest {} bytes, {} bytes in all",
        values().filter(Option::is_none).count(),
        distinct.len(),
        values().flatten().map(<[u8]>::len).max().unwrap_or_default(),
        values().flatten().map(<[u8]>::len).sum::<usize>()
    );
    let kinds: HashSet<Option<&[u8]>> = side.records.iter().map(|record| record.header("eventType")).collect();
    let topics: HashSet<&str> = side.records.iter().map(|record| &*record.topic).collect();
    println!("topics           {}, event types {}", topics.len(), kinds.len());
}

type Aspect = (&'static str, fn(&Record, &Record) -> bool);
const ASPECTS: [Aspect; 5] = [
    ("topic", |theirs, ours| theirs.topic == ours.topic),
    ("partition", |theirs, ours| theirs.partition == ours.partition),
    ("key", |theirs, ours| theirs.key == ours.key),
    ("value", |theirs, ours| theirs.value == ours.value),
    ("headers", |theirs, ours| theirs.headers == ours.headers),
];

fn contents(theirs: &Side, ours: &Side) -> bool {
    let both = |id: &String| Some((*theirs.by_id.get(id)?, *ours.by_id.get(id)?));
    let mut pairs: Vec<(&String, (usize, usize))> =
        theirs.by_id.keys().filter_map(|id| Some((id, both(id)?))).collect();
    pairs.sort_by_key(|(_, (at, _))| *at);
    let mut same = true;
    for (aspect, is_same) in ASPECTS {
        let differ: Vec<_> = pairs
            .iter()
            .map(|(id, (one, other))| (id, &theirs.records[*one], &ours.records[*other]))
            .filter(|(_, one, other)| !is_same(one, other))
            .collect();
        println!(
            "{aspect:<16} {} of {} the same",
            pairs.len() - differ.len(),
            pairs.len()
        );
        for (id, one, other) in differ.iter().take(SHOWN) {
            println!(
                "  {}: {}\n  {}: {}",
                theirs.name,
                shown(id, one),
                ours.name,
                shown(id, other)
            );
        }
        same &= differ.is_empty();
    }
    same
}

fn orders(theirs: &Side, ours: &Side) -> bool {
    let keys: Vec<_> = theirs.order.keys().collect();
    let differ: Vec<_> = keys
        .iter()
        .filter(|key| ours.order.get(**key) != theirs.order.get(**key))
        .collect();
    let longest = theirs.order.values().map(Vec::len).max().unwrap_or_default();
    println!(
        "order            of {} keys of {} the same (up to {longest} messages a key)",
        keys.len() - differ.len(),
        keys.len()
    );
    for key in differ.iter().take(SHOWN) {
        let nothing = Vec::new();
        let (one, other) = (&theirs.order[**key], ours.order.get(**key).unwrap_or(&nothing));
        let at = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        let name = key.1.as_deref().map(text);
        println!("  {} key {name:?}, from its message {at} on:", key.0);
        println!("    {}: {:?}", theirs.name, &one[at..one.len().min(at + 4)]);
        println!("    {}: {:?}", ours.name, &other[at..other.len().min(at + 4)]);
    }
    differ.is_empty()
}

fn headers(record: &Record) -> String {
    let pairs = record.headers.iter();
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}: {}", text(value))).collect();
    pairs.join("  ")
}

fn shown(id: &str, record: &Record) -> String {
    let brief = |bytes: &[u8]| text(bytes).chars().take(300).collect::<String>();
    format!(
        "{id} {}/{} key {:?} [{}] value {:?}",
        record.topic,
        record.partition,
        record.key.as_deref().map(text),
        headers(record),
        record.value.as_deref().map(brief)
    )
}
