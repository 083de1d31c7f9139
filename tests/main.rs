//! Every test from outside, one binary: servers are started once, and files are named after the promise they keep.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]
#![expect(
    unreachable_pub,
    reason = "a test binary exports nothing: pub marks what other test modules use"
)]

mod access;
mod archive;
mod bounds;
mod broker_clusters;
mod broker_weather;
mod cli;
mod config;
mod conformance;
mod dashboard;
mod destinations;
mod doctor;
mod doctor_brokers;
mod duplicates;
mod engine;
mod failed;
mod failover;
mod fencing;
mod foreign;
mod gaps;
mod hostile;
mod http;
mod http_api;
mod identity;
mod instances;
mod isolation;
mod late_commits;
mod lines;
mod locks;
mod logs;
mod loss;
mod loud;
mod migrate;
mod misleading;
mod monitoring;
mod numbers;
mod openapi;
mod order;
mod outage;
mod outboxes;
mod pause;
mod poison;
mod priority;
mod quotes;
mod reconnect;
mod reload;
mod replay;
mod retention;
mod roles;
mod rounds;
mod secrets;
mod seen;
mod selftest;
mod several;
mod shutdown;
mod simulation;
mod stuck;
#[expect(dead_code, reason = "the benchmark uses the rest")]
mod support;
mod thin_line;
mod throttled;
mod tidy;
mod tidy_documents;
mod traces;
mod units;
mod unreadable;
mod upgrade;
mod wait;
mod watchdog;
mod why;
mod wire;
