//! What there is to say of the rows a command chose.

use crate::store::postgres::desk::failed::{Chosen, Done};

use super::terminal::{Out, safe};

/// An error that names the first id nobody has, if there is one.
pub(super) fn known(chosen: &Chosen) -> anyhow::Result<()> {
    match chosen.unknown.as_slice() {
        [] => Ok(()),
        [one] => anyhow::bail!("no failed message has id {one}, or a filter leaves it out"),
        [first, rest @ ..] => anyhow::bail!(
            "no failed message has id {first} (nor {} more of those given)",
            rest.len()
        ),
    }
}

/// A line for each row that refused to be changed.
pub(super) fn refusals(out: &mut Out, done: &Done) -> std::io::Result<()> {
    let lines = done.refusals();
    lines
        .iter()
        .try_for_each(|line| out.line(safe(format!("refused: {line}"))))
}
