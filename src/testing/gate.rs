//! A value that futures wait for. Unlike `watch`, which wakes its waiters in a random order, one after the other as they
//! came: under paused time a test then runs the same way each time.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::lock::lock;

#[derive(Debug)]
pub(super) struct Gate<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Gate<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            changed: Notify::new(),
        }
    }

    fn value(&self) -> MutexGuard<'_, T> {
        lock(&self.value)
    }

    pub(super) fn get(&self) -> T {
        *self.value()
    }

    pub(super) fn set(&self, value: T) {
        self.change(|old| *old = value);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.value());
        self.changed.notify_waiters();
    }

    /// Waits until the value is such; answers it.
    pub(super) async fn wait_for(&self, is_such: impl Fn(T) -> bool) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let value = self.get();
            if is_such(value) {
                return value;
            }
            changed.await;
        }
    }
}
