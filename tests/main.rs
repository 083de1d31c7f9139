//! Every test from outside, one binary: servers are started once, and files are named after the promise they keep.

mod bounds;
mod duplicates;
mod late_commits;
mod loss;
mod loud;
mod migrate;
mod order;
mod outage;
mod poison;
mod shutdown;
#[expect(dead_code, reason = "the benchmark uses the rest")]
mod support;
mod tidy;
mod wire;
