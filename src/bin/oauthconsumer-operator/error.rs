//! Why a program ends, besides the errors of the store and of the certificate.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The docs of the variants are a part of docs/reference/messages.md.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A core dump would hold secrets.
    /// Cause: the kernel or the container runtime forbids `setrlimit` or `prctl`.
    /// Next step: allow these calls.
    #[error("failed to switch core dumps off: {0}")]
    CoreDumps(std::io::Error),
    /// Next step: check `--store-url-file` and the rights on the file.
    #[error("failed to read the store's URL from {0}: {1}")]
    StoreUrlFile(PathBuf, std::io::Error),
    /// Cause: another program uses the port, or the address is not this machine's.
    /// Next step: change the flag.
    #[error("failed to listen on {0} ({1}): {2}")]
    Listen(SocketAddr, &'static str, std::io::Error),
    /// Next step: set `KUBECONFIG`, or run in a pod with a service account.
    #[error("no Kubernetes API server is known; set KUBECONFIG, or run in a pod: {0}")]
    NoCluster(String),
    /// Cause: the kubeconfig is incomplete, or names files that cannot be read.
    /// Next step: correct the kubeconfig.
    #[error("failed to make a Kubernetes client: {0}")]
    Client(String),
    /// Cause: the limit of threads or of memory.
    /// Next step: raise the limit.
    #[error("failed to start the threads for hashes: {0}")]
    Threads(String),
    /// The program has a fault.
    /// Next step: report it, with the log. Kubernetes starts the pod again.
    #[error("a part of the program panicked: {0}")]
    Panic(String),
    /// Cause: a request, a reconcile or a hash did not end in time.
    /// Next step: none.
    #[error("the shutdown took longer than {0} s; the rest of the work was given up")]
    SlowShutdown(u64),
    /// The command `cleanup` has found consumers. Without a controller they could not be deleted.
    /// Next step: [delete them, or keep them for the next installation](../how-to/uninstall.md#while-there-are-consumers).
    #[error(
        "{count} consumers are left: {names}\nWithout the operator they cannot be deleted, and their records stay in the store.\n\
         Either delete them, and uninstall again:\n  kubectl delete oauthconsumers --all -n NAMESPACE\n\
         Or keep them for the next installation. First take the uninstall back, to the revision that `helm list` shows:\n  \
         helm rollback RELEASE REVISION\n  \
         helm upgrade RELEASE CHART --reset-then-reuse-values --set uninstall.force=true\n  helm uninstall RELEASE"
    )]
    ConsumersLeft { count: usize, names: String },
}

// === impl ProgramError ===

impl ProgramError {
    /// Keeps the text of a cause, whatever its type.
    pub fn because<E: Display>(error: impl Fn(String) -> Self) -> impl Fn(E) -> Self {
        move |cause| error(cause.to_string())
    }
}
