#![no_main]

use std::cell::LazyCell;

#[path = "../../tests/support/hostile.rs"]
mod hostile;

thread_local! {
    static SERVER: LazyCell<(tokio::runtime::Runtime, axum::Router)> = const {
        LazyCell::new(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let router = runtime.block_on(async { hostile::router() });
            (runtime, router)
        })
    };
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    SERVER.with(|server| server.0.block_on(hostile::request(&server.1, input)));
});
