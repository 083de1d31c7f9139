//! What is done to the table of any framework: its rows are relayed, one fails for good, is mended and retried, and nothing of it is
//! changed but how its rows stand.

use super::scene::Scene;
use crate::support::together;

/// A table as its framework makes and fills it.
pub struct Framework {
    pub table: &'static str,
    pub ddl: &'static str,
    pub config: &'static str,
    /// What the stream takes.
    pub subjects: &'static [&'static str],
    /// Inserts five rows; one of them arrives as `first`.
    pub fill: &'static str,
    /// Inserts one that no attempt can send.
    pub poison: &'static str,
    /// Mends it.
    pub mend: &'static str,
    /// How many rows are relayed, as its own code would ask.
    pub relayed: &'static str,
    /// Whether one says that it has failed; empty: its rows cannot.
    pub failed: &'static str,
    pub first: First,
}

/// How a message arrives.
pub struct First {
    pub key: Option<&'static str>,
    pub header: Option<(&'static str, &'static str)>,
    pub body: &'static str,
}

impl Framework {
    pub async fn is_relayed(&self) {
        let _guard = together().await;
        let scene = Scene::new(self.table, self.ddl, self.config, self.subjects).await;
        let here = |condition: &str| format!("select count(*) from \"outboxd_rows_{}\" where {condition}", self.table);
        let _daemon = scene.site.start().await;
        scene.session.run(self.fill).await;
        scene.counts(self.relayed, 5).await;
        scene.session.run(self.poison).await;
        scene
            .counts(&here("failed_at is not null and last_error is not null"), 1)
            .await;
        if !self.failed.is_empty() {
            assert_eq!(scene.session.count(self.failed).await, 1, "{}", self.failed);
        }
        let listed = scene.site.succeed(&["failed", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
        scene.session.run(self.mend).await;
        if scene.session.count(&here("failed_at is not null")).await == 1 {
            scene.site.succeed(&["failed", "retry", "--all"]);
        }
        scene.counts(self.relayed, 6).await;
        scene.counts(&here("true"), 0).await;

        let letters = scene.held(6).await;
        assert_eq!(letters.len(), 6, "each was sent once");
        let First { key, header, body } = self.first;
        let letter = letters.iter().find(|letter| letter.body == body);
        let letter = letter.unwrap_or_else(|| panic!("{body} arrives: {letters:?}"));
        assert_eq!(letter.key.as_deref(), key);
        if let Some((name, value)) = header {
            assert_eq!(letter.header(name), Some(value));
        }
        scene.is_untouched();
    }
}
