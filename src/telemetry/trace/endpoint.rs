//! Where the collector is: `trace.otlp_endpoint`.

use hyper::Uri;

/// The path of OTLP over HTTP below an endpoint (OTLP specification, "OTLP/HTTP Request").
const TRACES: &str = "/v1/traces";

/// A checked `trace.otlp_endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) https: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What goes into `Host`.
    pub(super) authority: String,
    pub(super) path: String,
}

impl Endpoint {
    /// Reads an `http://` or `https://` URL without user, query and fragment; `/v1/traces` is added unless it ends so.
    ///
    /// # Errors
    /// One line: what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        // What stands before an @ may be a password.
        let shown = if text.contains('@') {
            "it".to_owned()
        } else {
            format!("{text:?}")
        };
        let no_url = || format!("{shown} is no http:// or https:// URL, such as \"http://127.0.0.1:4318\"");
        let uri: Uri = text.parse().map_err(|_| no_url())?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(no_url()),
        };
        let authority = uri.authority().ok_or_else(no_url)?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(format!(
                "{shown} has a user, query or fragment: host, port and path only"
            ));
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(no_url());
        }
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix(TRACES).unwrap_or(path);
        Ok(Self {
            https,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: format!("{path}{TRACES}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_once() {
        for (text, https, host, port, path) in [
            ("http://127.0.0.1:4318", false, "127.0.0.1", 4318, "/v1/traces"),
            ("http://127.0.0.1:4318/", false, "127.0.0.1", 4318, "/v1/traces"),
            ("https://collector/otlp", true, "collector", 443, "/otlp/v1/traces"),
            ("http://[::1]/v1/traces", false, "::1", 80, "/v1/traces"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(
                (endpoint.https, &*endpoint.host, endpoint.port, &*endpoint.path),
                (https, host, port, path),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "collector:4317",
            "/v1/traces",
            "grpc://h:1",
            "http://",
            "http://u:p@h",
            "http://h?x=1",
            "",
        ] {
            let line = Endpoint::parse(text).expect_err(text);
            assert_eq!(line.contains(&format!("{text:?}")), !text.contains('@'), "{line}");
        }
    }
}
