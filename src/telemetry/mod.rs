//! Metrics, health and logs.
use crate::delivery::{Failure, FailureClass};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Clone, Default)]
pub struct Telemetry { pub metrics: Arc<M>, pub health: Arc<H> }
#[derive(Default)]
pub struct M;
#[derive(Default)]
pub struct H;
impl Telemetry {
    pub fn paused(&self, _transport: usize, _name: &Arc<str>, _error: &str) { tracing::warn!(destination=%_name, error=%_error, "paused"); }
    pub fn recovered(&self, _transport: usize, _name: &Arc<str>) { tracing::info!(destination=%_name, "recovered"); }
    pub fn attempt_failed(&self, _transport: usize, _failure: &Failure) {}
    pub fn failed(&self, _route: usize, _failure: &Failure) {}
}
impl M {
    pub fn settle_latency(&self, _d: Duration) {}
    pub fn fetch_latency(&self, _d: Duration) {}
    pub fn publish_latency(&self, _t: usize, _d: Duration) {}
    pub fn window(&self, _rows: usize, _bytes: usize) {}
    pub fn lease_lost(&self) {}
    pub fn lanes_owned(&self, _n: usize) {}
    pub fn gaps_open(&self, _n: usize) {}
    pub fn relayed(&self, _route: usize, _latency: Duration, _duplicate: bool) {}
    pub fn attempt_failed(&self, _t: &str, _class: FailureClass, _code: &str) {}
    pub fn failed(&self, _t: &str, _route: &str, _class: FailureClass) {}
}
impl H {
    pub fn progress(&self) {}
    pub fn database_up(&self) {}
    pub fn database_down(&self, _e: &(dyn std::error::Error + 'static), _now: Instant) { tracing::warn!(error=%_e, "database away"); }
    pub fn lanes(&self, _held: usize, _of: usize) {}
}
