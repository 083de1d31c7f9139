//! Where messages of the topics met last go: topics are few, and matching a pattern costs as much as the rest of letting a row in.

use std::sync::Arc;

use crate::message::SHARED_TOPIC_MAX;
use crate::route::{Resolved, Routes, Unroutable};

/// So many topics are remembered.
const REMEMBERED: usize = 8;

/// See the module. Made anew with the routes it is asked about.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    known: Vec<(Arc<str>, Resolved)>,
    /// Whose place the next one takes.
    oldest: usize,
}

impl Addresses {
    /// As [`Routes::resolve`]; a topic is known by its allocation, which rows share.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn resolve(
        &mut self,
        routes: &Routes,
        topic: &Arc<str>,
        key: Option<&str>,
    ) -> Result<Resolved, Unroutable> {
        if let Some((_, resolved)) = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, topic)) {
            return Ok(resolved.clone());
        }
        let resolved = routes.resolve(topic, key)?;
        // A long topic is no other row's.
        if topic.len() <= SHARED_TOPIC_MAX && !routes.get(resolved.route).names_the_key() {
            let entry = (Arc::clone(topic), resolved.clone());
            if self.known.len() < REMEMBERED {
                self.known.push(entry);
            } else {
                self.known[self.oldest] = entry;
                self.oldest = (self.oldest + 1) % REMEMBERED;
            }
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;
    use crate::delivery::Order;
    use crate::route::{Limits, Route, RouteSpec};
    use std::time::Duration;

    fn routes(specs: &[(&str, &str)]) -> Routes {
        let spec = |(topic, destination): &(&str, &str)| {
            let spec = RouteSpec {
                topic,
                transport: 0,
                destination,
                order: Order::Key,
                max_attempts: 1,
                backoff: Backoff {
                    min: Duration::ZERO,
                    max: Duration::ZERO,
                    factor: 2,
                },
                commit_order: false,
                limits: Limits::default(),
                prefix: "",
                reserved: &[],
            };
            Route::new(&spec).unwrap()
        };
        Routes::new(specs.iter().map(spec).collect())
    }

    #[test]
    fn what_it_remembers_is_what_the_routes_say() {
        let routes = routes(&[("a*", "to.{key}"), ("b*", "all"), ("c*", "{topic}")]);
        let topics: Vec<Arc<str>> = (0..40)
            .map(|n| format!("{}{n}", ["a", "b", "c", "none"][n % 4]).into())
            .collect();
        let mut addresses = Addresses::default();
        for round in 0..3 {
            for topic in &topics {
                let key = format!("k{round}");
                let found = addresses.resolve(&routes, topic, Some(&key)).map_err(|none| none.code);
                let expected = routes.resolve(topic, Some(&key)).map_err(|none| none.code);
                assert_eq!(found, expected, "{topic}");
                let again = addresses.resolve(&routes, topic, Some(&key)).map_err(|none| none.code);
                assert_eq!(again, expected, "{topic}");
            }
        }
        assert_eq!(addresses.known.len(), REMEMBERED);
    }
}
