//! TLS towards PostgreSQL: what is checked of the server's certificate, and which one we show.
//!
//! libpq's meanings (PostgreSQL manual, 34.19): `require` checks nothing, `verify-ca` the chain, `verify-full` the name too.
//! The handshake's signature is checked in every case. A certificate that stands itself among the roots is trusted as it is,
//! also when it says that it is an authority, as self-signed server certificates often do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whom to trust.
#[derive(Clone, Debug)]
pub(super) enum Roots {
    /// The system's authorities.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// What to check of the server's certificate.
#[derive(Clone, Debug)]
pub(super) enum Check {
    Nothing,
    Chain(Roots),
    Full(Roots),
}

/// A connector for modes that never encrypt: the driver's type wants one.
pub(super) fn unused() -> MakeRustlsConnect {
    connector(Check::Nothing, None).expect("no file is read")
}

/// A connector that checks `check` and shows `client` (certificate file, key file).
pub(super) fn connector(check: Check, client: Option<(PathBuf, PathBuf)>) -> Result<MakeRustlsConnect, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match check {
        Check::Nothing => Arc::new(Unverified(Arc::clone(&provider))),
        Check::Chain(roots) => Arc::new(Verifier::new(&roots, false, Arc::clone(&provider))?),
        Check::Full(roots) => Arc::new(Verifier::new(&roots, true, Arc::clone(&provider))?),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates("sslcert", &certificate)?;
            let secret = PrivateKeyDer::from_pem_file(&key)
                .map_err(|error| format!("sslkey: no unencrypted key in {}: {error}", key.display()))?;
            config
                .with_client_auth_cert(chain, secret)
                .map_err(|error| format!("sslcert and sslkey do not fit ({}): {error}", certificate.display()))?
        }
    };
    // PostgreSQL 17 requires it for direct TLS (protocol-flow, "SSL Session Encryption"); earlier ones ignore it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error| format!("{key}: no certificates in {}: {error}", path.display());
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    let list = list.map_err(unreadable)?;
    if list.is_empty() {
        Err(format!("{key}: no certificates in {}", path.display()))
    } else {
        Ok(list)
    }
}

/// `require`: encrypted, towards whoever answers.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

/// `verify-ca` and `verify-full`.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl Verifier {
    fn new(roots: &Roots, check_name: bool, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        let trusted = match roots {
            Roots::File(path) => {
                let list = certificates("sslrootcert", path)?;
                for certificate in &list {
                    let unusable =
                        |error| format!("sslrootcert: a certificate in {} is no use: {error}", path.display());
                    store.add(certificate.clone()).map_err(unusable)?;
                }
                list
            }
            Roots::System => {
                let found = rustls_native_certs::load_native_certs();
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    return Err(
                        "the system has no certificate authorities: install ca-certificates, or set sslrootcert"
                            .to_owned(),
                    );
                }
                Vec::new()
            }
        };
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|error| format!("sslrootcert: {error}"))?;
        Ok(Self {
            chain,
            roots: trusted,
            check_name,
        })
    }

    /// The chain's verdict on a certificate that is itself a root: its dates were checked before it was found to be an
    /// authority, which is all that is held against it.
    fn is_trusted_itself(&self, certificate: &CertificateDer<'_>, error: &Error) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
            return false;
        };
        other.to_string().contains("CaUsedAsEndEntity") && self.roots.iter().any(|root| root == certificate)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .chain
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Ok(verified) => Ok(verified),
            // The name is looked at only after the chain was found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            Err(error) if self.is_trusted_itself(end_entity, &error) => {
                if self.check_name {
                    rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
