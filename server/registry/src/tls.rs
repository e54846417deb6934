//! Certificates: given, or made once and kept.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use shale_files::{
    FileError, FilePath, IfHeld, LockError, LockFiles, LockKind, put_durably, read_file,
    remove_durably,
};
use shale_wire::Fingerprint;

/// Largest self-signed certificate with its key, in bytes of PEM: far more than we write.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// A certificate chain with its key, ready to serve.
#[derive(Clone)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    fingerprint: Fingerprint,
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text is not PEM, or lacks a certificate or a key.
    #[error("the {what} is not in PEM form")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// The fault.
        source: pem::Error,
    },
    /// There is no certificate in the text.
    #[error("there is no certificate in the PEM text")]
    Empty,
    /// The certificate cannot be served, or the key is another one's.
    #[error("the certificate and the key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// No certificate could be made.
    #[error("make a self-signed certificate")]
    Make(#[from] rcgen::Error),
    /// The kept one cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The lock beside it cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl Certificate {
    /// The chain, the server's own first, and its key, both as PEM text.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| fault("certificate", source))?;
        let own = chain.first().ok_or(CertificateError::Empty)?;
        let fingerprint = Fingerprint::of(own);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| fault("key", source))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(CertificateError::Unusable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            fingerprint,
        })
    }

    /// The self-signed certificate in `files`, made for these names and addresses if there is none yet.
    /// It is kept so that clients can pin its fingerprint; they do not look at its names.
    pub fn self_signed(
        files: &dyn LockFiles,
        names: Vec<String>,
    ) -> Result<Self, CertificateError> {
        let path = path("tls-self-signed.pem");
        let lock = path_lock();
        let _lock = files.lock(&lock, LockKind::Exclusive, IfHeld::Wait)?;
        let pem = match read_file(files, &path, MAX_PEM_BYTES) {
            Err(error) if error.is_missing() => {
                let pem = make(names)?;
                let temp = self::path("tls-self-signed.tmp");
                remove_durably(files, &temp)?;
                put_durably(files, &temp, &path, |file| file.write_at(0, pem.as_bytes()))?;
                pem.into_bytes()
            }
            pem => pem?,
        };
        Self::from_pem(&pem, &pem)
    }

    /// What a client can pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// Certificate and key in one text, so that one rename makes both visible.
fn make(names: Vec<String>) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, "Shale registry, self-signed");
    let certificate = params.self_signed(&key)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

fn fault(what: &'static str, source: pem::Error) -> CertificateError {
    CertificateError::Pem { what, source }
}

fn path_lock() -> FilePath {
    path("tls-self-signed.lock")
}

/// A path of one component that is known to be valid.
fn path(name: &str) -> FilePath {
    FilePath::new(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use shale_files::MemoryFiles;

    use super::*;

    #[test]
    fn a_self_signed_certificate_stays() {
        let files = MemoryFiles::new();
        let names = || vec!["localhost".to_owned(), "10.0.0.1".to_owned()];
        let one = Certificate::self_signed(&files, names()).unwrap();
        let again = Certificate::self_signed(&files, names()).unwrap();
        assert_eq!(one.fingerprint(), again.fingerprint());
        let other = Certificate::self_signed(&MemoryFiles::new(), names()).unwrap();
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let pem = make(vec!["localhost".into()]).unwrap();
        let other = make(vec!["localhost".into()]).unwrap();
        let no =
            |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).err();
        assert!(no(&pem, &pem).is_none());
        assert!(matches!(no("", &pem), Some(CertificateError::Empty)));
        assert!(matches!(
            no(&pem, ""),
            Some(CertificateError::Pem { what: "key", .. })
        ));
        assert!(matches!(
            no(&pem, &other),
            Some(CertificateError::Unusable(_))
        ));
    }
}
