//! Errors of the API server and the store, classified once.

use kube::core::Status;

use crate::consumer::Failure;
use crate::hashing::HashError;
use crate::store::StoreError;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Conflict(error.to_string()),
            StoreError::KeyInUse(key) => Self::KeyInUse(key.to_string()),
            StoreError::Unavailable(_) => Self::Store(error.to_string()),
        }
    }
}

impl From<HashError> for Failure {
    fn from(error: HashError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Classifies an answer of the API server to `verb` on `what`.
pub(super) fn api(verb: &str, what: &str, error: &kube::Error) -> Failure {
    let text = format!("failed to {verb} {what}: {}", message(error));
    // A 422 with causes comes from the schema: a retry would be refused again.
    let refused = |status: &Status| status.details.as_ref().is_some_and(|details| !details.causes.is_empty());
    match error {
        // 409: another resourceVersion; 422: another UID; 404: the object is gone. The watch brings the new state.
        kube::Error::Api(status) if verb == "patch" && matches!(status.code, 404 | 409 | 422) && !refused(status) => {
            Failure::Conflict(text)
        }
        _ => Failure::Api(text),
    }
}

/// The message of an error without kube's prefix, cut so that it fits into a status.
pub fn message(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        // An answer that does not parse may be a Secret, and parsers quote their input.
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => "the answer cannot be understood".to_owned(),
        other => other.to_string(),
    };
    text.chars().take(1024).collect()
}

/// Whether the answer has this status code. `Status::is_not_found` and the like compare only the reason in kube 5.0, and the
/// answer for a kind that is not served is plain text.
pub(super) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the API server says that the object itself does not exist. Other 404s (a missing CRD), 403s and time-outs do not say
/// that.
pub(super) fn is_absent(error: &kube::Error, name: &str) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name))
}
