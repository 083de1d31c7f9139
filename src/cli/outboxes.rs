//! Which of several outboxes a command is about: `--outbox NAME`, or all of them one after the other.

use std::process::ExitCode;

use crate::config::Config;
use crate::daemon::settings::Usage;
use crate::store::postgres::link::about::one_line;

use super::terminal::{Out, Tone, safe};
use super::{exit_code, what_to_do};

/// The parts of `config` a command is about: that of `name`, or all.
pub(super) fn chosen(config: &Config, name: Option<&str>) -> Result<Vec<Config>, Usage> {
    let mut parts = config.parts();
    let Some(name) = name else {
        return Ok(parts);
    };
    parts.retain(|part| part.outbox.name.as_deref() == Some(name));
    if parts.is_empty() {
        let names = config.outbox_names();
        let known = if names.is_empty() {
            "the only outbox has no name: leave it out, or set outbox.name".to_owned()
        } else {
            format!("outboxes: {}", names.join(", "))
        };
        return Err(Usage(format!("--outbox {name:?} is not configured; {known}")));
    }
    Ok(parts)
}

/// The only one, for a command that is about one.
pub(super) fn one(mut parts: Vec<Config>) -> Result<Config, Usage> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let names = parts.iter().filter_map(|part| part.outbox.name.as_deref());
    let names = names.collect::<Vec<_>>().join(", ");
    Err(Usage(format!("which outbox? add --outbox NAME, one of {names}")))
}

/// Does `work` for one outbox after the other, under a line with its name unless `bare`. One that fails is told on standard error, and
/// keeps none of the others; the exit code is the first that is not 0.
pub(super) async fn each(
    parts: Vec<Config>,
    bare: bool,
    work: impl AsyncFn(&Config) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    if let [only] = parts.as_slice() {
        return work(only).await;
    }
    let mut code = ExitCode::SUCCESS;
    for (index, part) in parts.iter().enumerate() {
        let name = part.outbox.name.as_deref().unwrap_or_default();
        if !bare {
            heading(name, index > 0)?;
        }
        let ended = work(part).await.unwrap_or_else(|error| {
            let line = one_line(&*error) + &what_to_do(&error);
            eprintln!("outboxd: outbox {name}: {}", safe(line));
            ExitCode::from(exit_code(&error))
        });
        if code == ExitCode::SUCCESS {
            code = ended;
        }
    }
    Ok(code)
}

fn heading(name: &str, apart: bool) -> std::io::Result<()> {
    let mut out = Out::stdout();
    if apart {
        out.line("")?;
    }
    let line = out.paint(Tone::Heading, &format!("outbox {name}"));
    out.line(line)?;
    out.finish()
}
