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
    // A 422 that names causes is the schema's: the API server refuses what we say, and will again.
    let refused = |status: &Status| status.details.as_ref().is_some_and(|details| !details.causes.is_empty());
    match error {
        // 409: the resourceVersion has moved on; 422: the UID is another one; 404: it is gone. The watch tells the rest.
        kube::Error::Api(status) if verb == "patch" && matches!(status.code, 404 | 409 | 422) && !refused(status) => {
            Failure::Conflict(text)
        }
        _ => Failure::Api(text),
    }
}

/// The message of an error without kube's decoration, cut to what a status can carry.
pub fn message(error: &kube::Error) -> String {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        // What does not parse may be a Secret, and parsers quote what they do not like.
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => "the answer cannot be understood".to_owned(),
        other => other.to_string(),
    };
    text.chars().take(1024).collect()
}

/// Whether the answer has this status code. Not `Status::is_not_found` and its kin: in kube 5.0 they compare the reason alone, and the
/// answer to a question for a kind that is not served is plain text.
pub(super) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the API server says that the object itself does not exist. A 404 about anything else, as when the CRD is
/// missing, says nothing about the object; nor do 403 and time-outs.
pub(super) fn is_absent(error: &kube::Error, name: &str) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name))
}
