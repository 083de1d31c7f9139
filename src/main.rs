//! The `outboxd` program: everything is in [`outboxd::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    outboxd::cli::main(std::env::args_os())
}
