//! `outboxd completions SHELL` and `outboxd man`: made from the same definition as the help.

use std::process::ExitCode;

use clap::CommandFactory;

use super::Cli;
use super::terminal::Out;

/// Verbs about the program itself.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Print a completion script for a shell
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

pub(super) fn print(verb: &Verb) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    match verb {
        Verb::Completions { shell } => clap_complete::generate(*shell, &mut Cli::command(), "outboxd", &mut text),
        Verb::Man => man(&mut text)?,
    }
    let mut out = Out::stdout();
    out.bytes(&text)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The page of the program, followed by one section for each verb.
fn man(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let section = clap_mangen::Man::new(verb.clone());
        page.extend(format!(".SH \"OUTBOXD {}\"\n", verb.get_name().to_uppercase()).bytes());
        section.render_description_section(page)?;
        section.render_options_section(page)?;
    }
    Ok(())
}
