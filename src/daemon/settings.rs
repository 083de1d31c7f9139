//! What the configuration means for whoever uses the outbox: the daemon, and people's commands alike.

use std::time::Duration;

use secrecy::ExposeSecret;

use crate::config::{Config, OnRelayed, Retention};
use crate::delivery::Order;
use crate::route::Routes;
use crate::store::StoreError;
use crate::store::postgres::desk::retention::{Rule as Pruned, Settled};
use crate::store::postgres::desk::rules::{Rule, Rules};
use crate::store::postgres::link::connect::{Connection, parse_url};
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::mapping::Column;
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::schema::foreign;
use crate::store::postgres::schema::rights::Duties;

/// A mistake in what was asked for, as one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Where notifications are listened for; `None`: nowhere.
pub(crate) fn listen(config: &Config) -> Result<Option<Connection>, Usage> {
    let url = config.database.listen_url.as_ref().unwrap_or(&config.database.url);
    let connection = || {
        let wrong = |problem| Usage(format!("database.listen_url: {problem}"));
        parse_url(url.expose_secret()).map_err(wrong)
    };
    config.relay.notify.then(connection).transpose()
}

/// The names of the configured tables and columns, of a table of ours. Of any: [`outbox`].
pub(crate) fn names(config: &Config) -> Names {
    let outbox = &config.outbox;
    let names = Names::new(&outbox.schema, &outbox.table, outbox.lanes);
    outbox.columns.iter().fold(names, |names, (ours, theirs)| match theirs {
        Column::Named(theirs) => names.with_column(ours, theirs),
        Column::Missing | Column::Sql(_) => names,
    })
}

/// The names of the outbox as it is in the database: its table may be one that is not ours.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line where that table cannot be relayed, or something is asked for that cannot be had of
/// it; [`StoreError::Unavailable`].
pub(crate) async fn outbox(config: &Config, database: &Database) -> Result<Names, StoreError> {
    let names = foreign::recognize(database, names(config), &config.outbox.mapping()).await?;
    if names.is_foreign() {
        let retention = config.retention;
        let refused = if config.routes.iter().any(|route| route.commit_order) {
            Some(
                "commit_order: of a table that is not outboxd's own the order of commits is not known: set it to false",
            )
        } else if retention.relayed_is_set && retention.relayed.is_some() {
            Some("retention.relayed: outboxd deletes nothing old from a table that is not its own: leave it out")
        } else if retention.failed.is_some() {
            Some("retention.failed: outboxd deletes nothing old from a table that is not its own: set it to \"0s\"")
        } else {
            None
        };
        if let Some(line) = refused {
            return Err(StoreError::Misconfigured(line.to_owned()));
        }
    }
    Ok(names)
}

/// What the configuration asks of the daemon's role.
pub(crate) fn duties(config: &Config) -> Duties {
    let retention = config.retention;
    let asked = config.http.token_file.is_some() || retention.failed.is_some();
    Duties {
        deletes_relayed: config.outbox.on_relayed == OnRelayed::Delete,
        keeps_house: asked || retention.relayed.is_some(),
        by_default: !asked && !retention.relayed_is_set && retention.relayed.is_some(),
    }
}

/// What `[retention]` asks for.
pub(crate) fn pruned(retention: Retention) -> Vec<Pruned> {
    let rule = |settled, age: Option<Duration>, said| {
        Some(Pruned {
            settled,
            age: age?,
            said,
        })
    };
    [
        rule(Settled::Relayed, retention.relayed, retention.relayed_is_set),
        rule(Settled::Failed, retention.failed, true),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the route of `topic` says. A topic without a route is rejected, which holds nobody.
pub(crate) fn rule_of(routes: &Routes, topic: &str) -> Rule {
    let route = routes.find(topic).map(|route| routes.get(route));
    Rule {
        order: route.map_or(Order::None, |route| route.order),
        paused: route.is_some_and(|route| route.limits.paused),
        routed: route.is_some(),
    }
}

/// The rules of `routes`; `of` is [`rule_of`] them.
pub(crate) fn rules<'a>(routes: &Routes, of: &'a (dyn Fn(&str) -> Rule + Sync)) -> Rules<'a> {
    Rules {
        of,
        any_paused: any_paused(routes),
    }
}

/// Whether some route is paused by the configuration.
pub(crate) fn any_paused(routes: &Routes) -> bool {
    routes.iter().any(|route| route.limits.paused)
}
