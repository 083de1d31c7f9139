//! Which kinds of transports there are: the one list. To add a kind is a line of it.
//!
//! A binary knows the names of all kinds, those it was built without too: they are refused, and the line says what to do.

use serde::Deserialize;

use super::ConfigError;
use super::bounds::wrong;
use crate::transport::settings::Settings;

/// Of each kind: what it is, its arm, its name in the file, what it is built with, and what its section says.
macro_rules! kinds {
    ($($(#[$doc:meta])* $Kind:ident, $kind:ident, $built:meta, $section:ty;)+) => {
        /// A transport's kind and settings.
        #[derive(Clone, Debug)]
        pub enum TransportConfig {
            $($(#[$doc])* #[cfg($built)] $Kind(Box<$section>),)+
        }

        impl TransportConfig {
            /// What every kind can be asked.
            #[must_use]
            pub fn settings(&self) -> &dyn Settings {
                match self {
                    $(#[cfg($built)] Self::$Kind(section) => &**section,)+
                }
            }

            pub(super) fn settings_mut(&mut self) -> &mut dyn Settings {
                match self {
                    $(#[cfg($built)] Self::$Kind(section) => &mut **section,)+
                }
            }
        }

        /// `[transports.<name>]`: exactly one of the kinds.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct Sections {
            $(
                #[cfg($built)]
                $kind: Option<$section>,
                #[cfg(not($built))]
                $kind: Option<serde::de::IgnoredAny>,
            )+
        }

        const NAMES: &[&str] = &[$(stringify!($kind)),+];

        impl Sections {
            /// Those that are there; of a kind that was not built in, its name.
            fn found(self) -> Vec<Result<TransportConfig, &'static str>> {
                let found = [$(
                    #[cfg($built)]
                    self.$kind.map(|section| Ok(TransportConfig::$Kind(Box::new(section)))),
                    #[cfg(not($built))]
                    self.$kind.map(|_| Err(stringify!($kind))),
                )+];
                found.into_iter().flatten().collect()
            }
        }
    };
}

kinds! {
    /// NATS JetStream.
    Nats, nats, feature = "nats", crate::transport::nats::config::NatsConfig;
    /// Kafka.
    Kafka, kafka, feature = "kafka", crate::transport::kafka::config::KafkaConfig;
    /// Redis Streams.
    Redis, redis, feature = "redis", crate::transport::redis::config::RedisConfig;
    /// JSON Lines in a file.
    File, file, all(), crate::transport::file::config::FileConfig;
    /// JSON Lines on standard output.
    Stdout, stdout, all(), crate::transport::stdout::config::StdoutConfig;
}

impl Sections {
    /// The only one; `key` is the transport's.
    pub(super) fn only(self, key: &str) -> Result<TransportConfig, ConfigError> {
        let mut found = Vec::new();
        for section in self.found() {
            found.push(section.map_err(|kind| {
                let problem = format!("this binary was built without {kind}: build it with --features {kind}");
                wrong(format!("{key}.{kind}"), problem)
            })?);
        }
        let kinds: Vec<&str> = found.iter().map(|config| config.settings().kind()).collect();
        let problem = match (kinds.as_slice(), found.pop()) {
            ([_], Some(config)) => return Ok(config),
            ([], _) => format!("has no kind: write the section as {}", forms(key)),
            (several, _) => format!(
                "has several kinds ({}): give each a name of its own",
                several.join(", ")
            ),
        };
        Err(wrong(key, problem))
    }
}

/// `[transports.main.nats], .kafka or .stdout`.
fn forms(key: &str) -> String {
    let mut text = format!("[{key}.{}]", NAMES[0]);
    for (at, name) in NAMES.iter().enumerate().skip(1) {
        text += if at + 1 == NAMES.len() { " or ." } else { ", ." };
        text += name;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_called_alike_in_the_list_and_by_its_settings() {
        for name in NAMES {
            let config = format!("{{\"{name}\": {{}}}}");
            // Where a key is required, or the kind was not built in, there is nothing to compare.
            let Ok(sections) = serde_json::from_str::<Sections>(&config) else {
                continue;
            };
            if let Ok(config) = sections.only("transports.main") {
                assert_eq!(config.settings().kind(), *name);
            }
        }
    }

    #[test]
    fn a_transport_has_one_kind() {
        let refused = |text: &str| {
            let sections: Sections = serde_json::from_str(text).unwrap();
            sections.only("transports.a").unwrap_err().to_string()
        };
        let forms = "[transports.a.nats], .kafka, .redis, .file or .stdout";
        assert_eq!(
            refused("{}"),
            format!("transports.a: has no kind: write the section as {forms}")
        );
        if cfg!(not(feature = "redis")) {
            assert_eq!(
                refused("{\"redis\": {}}"),
                "transports.a.redis: this binary was built without redis: build it with --features redis"
            );
        }
    }
}
