//! Taking a lock of ours. A holder that panicked ends the process, and every change behind these leaves its value whole: there is
//! nothing to find out from a poisoned one.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The value behind `mutex`.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
