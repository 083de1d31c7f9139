//! The `outboxd` program: everything is in [`outboxd::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Messages come and go by the thousand, which costs libc's allocator more: see docs/performance.md, "Drain".
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    outboxd::cli::main(std::env::args_os())
}
