//! Which key of a transport's section a refused connection is about.
//!
//! Client libraries and servers say in words why a handshake or a login failed; the operator is to read which key to look
//! at. What is not recognised is nobody's key: the words stand alone then.

use super::settings::Section;

/// Why a server and we do not trust each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// No authority we trust signed the server's certificate.
    Issuer,
    /// The server's certificate is for other names than the one we connect to.
    Name,
    /// The server's certificate is out of date.
    Expired,
    /// The broker's certificate was refused, and OpenSSL's error does not say which of the three it is.
    Unverified,
    /// The server wants a certificate of ours, or does not accept the one it got.
    OurCertificate,
    /// The server does not know us, or the password is wrong.
    Login,
    /// The server waits for us to speak: TLS from the first byte, perhaps.
    Silent,
}

/// Phrases of rustls, OpenSSL, NATS, Kafka and Redis, lower case; the first that occurs decides.
const PHRASES: [(&str, Cause); 26] = [
    ("unknownissuer", Cause::Issuer),
    ("unknown issuer", Cause::Issuer),
    ("causedasendentity", Cause::Issuer),
    ("notvalidforname", Cause::Name),
    ("not valid for name", Cause::Name),
    ("certificate expired", Cause::Expired),
    ("certificate: expired", Cause::Expired),
    ("certificate not valid yet", Cause::Expired),
    ("certificate verify failed", Cause::Unverified),
    ("alert: certificate", Cause::OurCertificate),
    ("alert: badcertificate", Cause::OurCertificate),
    ("alert: unknownca", Cause::OurCertificate),
    ("alert: decrypterror", Cause::OurCertificate),
    ("alert: accessdenied", Cause::OurCertificate),
    ("alert certificate", Cause::OurCertificate),
    ("alert bad certificate", Cause::OurCertificate),
    ("alert unknown ca", Cause::OurCertificate),
    ("client ssl authentication might be required", Cause::OurCertificate),
    ("authorization violation", Cause::Login),
    ("user authentication", Cause::Login),
    ("sasl authentication error", Cause::Login),
    ("authentication failed", Cause::Login),
    ("wrongpass", Cause::Login),
    ("noauth", Cause::Login),
    ("authenticationfailed", Cause::Login),
    ("timed out", Cause::Silent),
];

fn cause(error: &str) -> Option<Cause> {
    let error = error.to_lowercase();
    PHRASES
        .iter()
        .find(|(phrase, _)| error.contains(phrase))
        .map(|(_, cause)| *cause)
}

/// What of one transport's section can be to blame.
#[derive(Clone, Debug)]
pub(super) struct Blame {
    /// The transport's name.
    pub(super) name: String,
    /// `nats`, `kafka`, `redis`.
    pub(super) kind: &'static str,
    /// The key that names the server.
    pub(super) server: &'static str,
    /// The key that holds or names the secret of our login, if we have one.
    pub(super) login: Option<&'static str>,
    /// Without a login: the key to begin with, and what to do.
    pub(super) to_log_in: (&'static str, &'static str),
    /// `tls_ca_file` is set.
    pub(super) own_authorities: bool,
    /// `tls_cert_file` is set.
    pub(super) own_certificate: bool,
    /// We let the server speak first, and TLS is wanted.
    pub(super) waits_for_tls: bool,
}

impl Blame {
    /// The line that names the key `error` is about and says what to do; `None` where it is about none.
    pub(super) fn line(&self, error: &str) -> Option<String> {
        let (key, problem) = match cause(error)? {
            Cause::Issuer if self.own_authorities => (
                "tls_ca_file",
                "the server's certificate is signed by none of the authorities in it",
            ),
            Cause::Issuer => (
                "tls_ca_file",
                "the server's certificate is signed by no authority of the system: set the file of the one that did",
            ),
            Cause::Name => (
                self.server,
                "the server's certificate is not for this host: connect to a name it is for, or have it made for this one",
            ),
            Cause::Expired => (
                self.server,
                "the server's certificate is out of date: the server needs a new one (or a clock is wrong)",
            ),
            Cause::Unverified => (
                "tls_ca_file",
                "the server's certificate cannot be verified: its authority is not in this file, it has expired, or it is for \
                 another host",
            ),
            Cause::OurCertificate if self.own_certificate => {
                ("tls_cert_file", "the server does not accept this certificate")
            }
            Cause::OurCertificate => (
                "tls_cert_file",
                "the server asks for a certificate: set tls_cert_file and tls_key_file",
            ),
            Cause::Silent if !self.waits_for_tls => return None,
            Cause::Silent => (
                "tls_first",
                "the server says nothing: true, where it wants TLS from the first byte",
            ),
            Cause::Login => match self.login {
                Some(key) => (key, "the server refuses this login"),
                None => self.to_log_in,
            },
        };
        let section = Section {
            name: &self.name,
            kind: self.kind,
        };
        Some(section.wrong(key, format!("{problem} ({})", error.trim())).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_a_refusal_is_about_is_named() {
        let blame = Blame {
            name: "main".to_owned(),
            kind: "nats",
            server: "url",
            login: Some("token_file"),
            to_log_in: ("user", "set it"),
            own_authorities: true,
            own_certificate: false,
            waits_for_tls: false,
        };
        for (error, key) in [
            ("IO error: invalid peer certificate: UnknownIssuer", "tls_ca_file"),
            ("invalid peer certificate: certificate not valid for name \"x\"", "url"),
            ("invalid peer certificate: certificate expired: verification", "url"),
            ("received fatal alert: CertificateRequired", "tls_cert_file"),
            ("SSL handshake failed: alert certificate required", "tls_cert_file"),
            ("authorization violation: nats: x", "token_file"),
        ] {
            let line = blame.line(error).unwrap();
            assert!(line.starts_with(&format!("transports.main.nats.{key}: ")), "{line}");
            assert!(line.contains(error), "{line}");
        }
        assert_eq!(blame.line("connection refused"), None);
    }
}
