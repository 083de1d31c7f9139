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

/// The page of the program, followed by one section for each verb, and for each verb below it.
fn man(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(page)?;
    verbs(page, &command)
}

fn verbs(page: &mut Vec<u8>, command: &clap::Command) -> std::io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name());
        page.extend(format!(".SH \"{}\"\n", name.to_uppercase()).bytes());
        let section = clap_mangen::Man::new(verb.clone());
        section.render_description_section(page)?;
        section.render_options_section(page)?;
        verbs(page, verb)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_the_manual() {
        let mut page = Vec::new();
        man(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for verb in ["RUN", "FAILED EXPORT", "REPLAY", "PRUNE", "ENQUEUE", "WAIT"] {
            assert!(page.contains(&format!(".SH \"OUTBOXD {verb}\"")), "{verb}: {page}");
        }
    }
}
