//! The certificate of the sign-in check, read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tracing::{info, warn};

/// How often the files are read. Kubernetes needs up to a minute to bring a changed Secret into a pod anyway.
const RELOAD_PERIOD: Duration = Duration::from_secs(5);

/// A certificate with its chain, and its private key, both in PEM.
pub struct Certificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    pem: Pem,
}

/// The contents of the files, to notice changes.
#[derive(PartialEq, Eq)]
struct Pem {
    chain: Vec<u8>,
    key: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Next step: check `--signin-tls-cert`, `--signin-tls-key` and the rights on the files.
    #[error("failed to read {0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Next step: put the certificate chain and the private key into the files, in PEM.
    #[error("{0} holds no usable {1} in PEM: {2}")]
    Pem(PathBuf, &'static str, pem::Error),
    /// Cause: the key is of another certificate, or of a kind that is not supported.
    /// Next step: use the key that belongs to the certificate.
    #[error("the certificate and its key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

// === impl Certificate ===

impl Certificate {
    pub fn load(chain_file: PathBuf, key_file: PathBuf) -> Result<Self, CertificateError> {
        let pem = Pem::read(&chain_file, &key_file)?;
        let config = configure(&pem, &chain_file, &key_file)?;
        Ok(Self { chain_file, key_file, current: RwLock::new(Loaded { config, pem }) })
    }

    /// Loads the files again whenever they change. Logs an error in them, and keeps the certificate in use.
    pub async fn follow_files(&self) {
        let mut period = interval(RELOAD_PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            period.tick().await;
            match self.reload() {
                Ok(true) => info!(file = %self.chain_file.display(), "the certificate has changed and is in use"),
                Ok(false) => {}
                // Next step: correct the certificate and the key in [the Secret](../how-to/gateway.md#4-encrypt-the-connection-to-the-check).
                Err(error) => warn!(%error, "the certificate files cannot be used; the former certificate stays in use"),
            }
        }
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().config.clone().into()
    }

    fn reload(&self) -> Result<bool, CertificateError> {
        let pem = Pem::read(&self.chain_file, &self.key_file)?;
        if self.current.read().pem == pem {
            return Ok(false);
        }
        let config = configure(&pem, &self.chain_file, &self.key_file)?;
        *self.current.write() = Loaded { config, pem };
        Ok(true)
    }
}

fn configure(pem: &Pem, chain_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(&pem.chain).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| CertificateError::Pem(chain_file.to_owned(), "certificate", error))?;
    let private = PrivateKeyDer::from_pem_slice(&pem.key);
    let private = private.map_err(|error| CertificateError::Pem(key_file.to_owned(), "private key", error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    Ok(Arc::new(config))
}

// === impl Pem ===

impl Pem {
    fn read(chain_file: &Path, key_file: &Path) -> Result<Self, CertificateError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| CertificateError::File(path.to_owned(), error));
        Ok(Self { chain: read(chain_file)?, key: read(key_file)? })
    }
}
