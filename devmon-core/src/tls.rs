//! Certificates: found by file name, read with errors that name the file, made into rustls configurations.
//!
//! The names are those of AWS IoT Core's set-up: `root-CA.crt`, `<device>.cert.pem`, `<device>.private.key` in one directory (`certs/`).
//! Crypto is ring's: it builds with a C compiler only. Verification can not be switched off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// ALPN protocol for AWS IoT Core on port 443, where it tells MQTT from HTTPS.
pub const AWS_ALPN: &[u8] = b"x-amzn-mqtt-ca";

/// The three files of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFiles {
    /// Certificates that the other side's must be signed by.
    pub ca: PathBuf,
    /// Our certificate and, behind it, any intermediates.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1 PEM, not encrypted.
    pub key: PathBuf,
}

/// What is wrong with which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error(
        "cannot read {what} {path}: {source}; check that the file exists and that this user may read it"
    )]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{what} {path} is not usable: {detail}")]
    Content {
        what: &'static str,
        path: PathBuf,
        detail: String,
    },
    #[error("certificate {cert} and key {key} can not be used together: {detail}")]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        detail: String,
    },
}

impl CertFiles {
    /// The files of `name` (a device, or `collector`) in `dir` by the names above, whether or not they exist.
    #[must_use]
    pub fn named(dir: &Path, name: &str) -> Self {
        Self {
            ca: dir.join("root-CA.crt"),
            cert: dir.join(format!("{name}.cert.pem")),
            key: dir.join(format!("{name}.private.key")),
        }
    }

    /// For connecting to a broker with this identity.
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| self.pair_error(&e))?;
        let mut config = builder
            .with_root_certificates(roots(&self.ca)?)
            .with_client_auth_cert(certificates("certificate", &self.cert)?, key(&self.key)?)
            .map_err(|e| self.pair_error(&e))?;
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// For accepting devices: their certificates must be signed by [`ca`](Self::ca).
    ///
    /// # Errors
    /// [`TlsError`] naming the file.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots(&self.ca)?),
            provider.clone(),
        )
        .build()
        .map_err(|e| TlsError::Content {
            what: "CA certificate",
            path: self.ca.clone(),
            detail: e.to_string(),
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| self.pair_error(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates("certificate", &self.cert)?, key(&self.key)?)
            .map_err(|e| self.pair_error(&e))?;
        config.alpn_protocols = vec![b"mqtt".to_vec(), AWS_ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn pair_error(&self, error: &rustls::Error) -> TlsError {
        TlsError::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            detail: error.to_string(),
        }
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |detail: String| TlsError::Content {
        what,
        path: path.to_owned(),
        detail,
    };
    let certs = CertificateDer::pem_slice_iter(&read(what, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| content(e.to_string()))?;
    if certs.is_empty() {
        return Err(content(
            "no certificate in PEM form (-----BEGIN CERTIFICATE-----) is in it".to_owned(),
        ));
    }
    Ok(certs)
}

/// For calling an HTTPS server that one of `roots` has signed, with a certificate and its key if the server asks for one.
///
/// # Errors
/// [`TlsError`] naming the file.
pub fn https_config(
    roots: RootCertStore,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let pair_error = |error: rustls::Error| {
        let (cert, key) = identity.unwrap_or((Path::new("none"), Path::new("none")));
        TlsError::Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            detail: error.to_string(),
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair_error)?
        .with_root_certificates(roots);
    let Some((cert, path)) = identity else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let config = builder.with_client_auth_cert(certificates("certificate", cert)?, key(path)?);
    config.map(Arc::new).map_err(pair_error)
}

/// The certificate authorities of a PEM file.
///
/// # Errors
/// [`TlsError`] naming the file.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in certificates("CA certificate", path)? {
        store.add(cert).map_err(|e| TlsError::Content {
            what: "CA certificate",
            path: path.to_owned(),
            detail: e.to_string(),
        })?;
    }
    Ok(store)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read("private key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| {
        let encrypted = bytes.windows(9).any(|w| w == b"ENCRYPTED");
        let detail = if encrypted {
            "it is encrypted; decrypt it first (openssl pkey -in … -out …)".to_owned()
        } else {
            format!("no private key in PEM form: {e}")
        };
        TlsError::Content {
            what: "private key",
            path: path.to_owned(),
            detail,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(dir: &Path) -> CertFiles {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let cert = cert.signed_by(&key, &issuer).unwrap();
        let files = CertFiles::named(dir, "edge_device_01");
        std::fs::write(&files.ca, ca.pem()).unwrap();
        std::fs::write(&files.cert, cert.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn an_identity_is_found_by_the_seeds_names() {
        let dir = tempfile::tempdir().unwrap();
        let files = identity(dir.path());
        assert!(files.cert.ends_with("edge_device_01.cert.pem"));
        assert!(files.key.ends_with("edge_device_01.private.key"));
        let client = files.client_config(&[AWS_ALPN]).unwrap();
        assert_eq!(client.alpn_protocols, [AWS_ALPN.to_vec()]);
        files.server_config().unwrap();
    }

    #[test]
    fn each_unusable_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = identity(dir.path());
        let error = |files: &CertFiles| files.client_config(&[]).unwrap_err().to_string();

        let missing = CertFiles {
            cert: dir.path().join("nobody.cert.pem"),
            ..files.clone()
        };
        assert!(
            error(&missing).contains("nobody.cert.pem"),
            "{}",
            error(&missing)
        );

        let swapped = CertFiles {
            key: files.cert.clone(),
            ..files.clone()
        };
        assert!(
            error(&swapped).contains("private key"),
            "{}",
            error(&swapped)
        );

        let other = tempfile::tempdir().unwrap();
        let foreign = CertFiles {
            key: identity(other.path()).key,
            ..files.clone()
        };
        assert!(error(&foreign).contains("together"), "{}", error(&foreign));

        std::fs::write(&files.ca, "not a certificate").unwrap();
        assert!(error(&files).contains("root-CA.crt"), "{}", error(&files));
    }
}
