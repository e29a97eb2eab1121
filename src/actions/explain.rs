//! Why a consumer cannot sign in, and the next command to type.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::api::OAuthConsumer;
use crate::consumer::Reason;

/// What the condition Active comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub can_sign_in: bool,
    /// The condition's reason.
    pub reason: String,
    /// Why, in the controller's words.
    pub why: String,
    pub since: Option<Timestamp>,
    /// What to type or to do next, the first thing first.
    pub next: Vec<String>,
}

/// Says what the controller found. The condition has one reason: the first thing to mend.
pub fn explain(object: &OAuthConsumer) -> Explanation {
    let conditions = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let active = conditions.iter().find(|condition| condition.type_ == "Active");
    let is_current = |generation: Option<i64>| generation == object.metadata.generation;
    let Some(active) = active.filter(|active| is_current(active.observed_generation)) else {
        return Explanation {
            can_sign_in: false,
            reason: Reason::Pending.to_string(),
            why: "The controller has not seen this version of the object yet.".into(),
            since: None,
            next: next(Reason::Pending, object),
        };
    };
    Explanation {
        can_sign_in: active.status == "True",
        reason: active.reason.clone(),
        why: active.message.clone(),
        since: Some(active.last_transition_time.0),
        next: active.reason.parse().map(|reason| next(reason, object)).unwrap_or_default(),
    }
}

fn next(reason: Reason, object: &OAuthConsumer) -> Vec<String> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let us = |command: &str| format!("kubectl oauthconsumer -n {namespace} {command} {name}");
    let secret = &object.spec.secret_ref;
    let look = || format!("kubectl -n {namespace} describe oauthconsumer {name}");
    let again = || vec![us("disapprove"), us("approve")];
    match reason {
        Reason::Active | Reason::Synced | Reason::Approved | Reason::Accepted => Vec::new(),
        Reason::AwaitingApproval | Reason::Disapproved => vec![us("approve")],
        Reason::ApprovalUnproved | Reason::Revoked => again(),
        Reason::OnHold => vec![us("release")],
        Reason::SecretNotFound | Reason::SecretKeyMissing => {
            vec![format!("{} --new-secret", us("edit")), format!("kubectl -n {namespace} get secret {}", secret.name)]
        }
        Reason::SecretTooShort | Reason::SecretTooLong | Reason::SecretInvalid => vec![format!("{} --new-secret", us("edit"))],
        Reason::Pending | Reason::StoreUnavailable | Reason::DeletionBlocked => {
            vec![look(), "kubectl logs -A -l app.kubernetes.io/component=controller".into()]
        }
        Reason::KeyInUse | Reason::ForeignKey => vec![look(), us("remove")],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(generation: i64, status: &str, reason: &str) -> OAuthConsumer {
        serde_json::from_value(json!({
            "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer",
            "metadata": { "name": "jazz", "namespace": "team-a", "generation": generation },
            "spec": { "name": "Jazz", "secretRef": { "name": "jazz-oauth" } },
            "status": { "conditions": [{
                "type": "Active", "status": status, "reason": reason, "message": "Why.", "observedGeneration": 2,
                "lastTransitionTime": "2026-11-25T10:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_next_command_is_the_first_thing_to_mend() {
        let first = |reason: &str| explain(&with(2, "False", reason)).next.first().cloned().unwrap_or_default();
        assert!(explain(&with(2, "True", "Active")).can_sign_in);
        assert_eq!(first("Active"), "");
        assert_eq!(first("AwaitingApproval"), "kubectl oauthconsumer -n team-a approve jazz");
        assert_eq!(first("OnHold"), "kubectl oauthconsumer -n team-a release jazz");
        assert_eq!(first("ApprovalUnproved"), "kubectl oauthconsumer -n team-a disapprove jazz");
        assert_eq!(first("SecretTooShort"), "kubectl oauthconsumer -n team-a edit jazz --new-secret");
        assert_eq!(first("OfALaterRelease"), "");
    }

    #[test]
    fn a_status_of_an_older_generation_explains_nothing() {
        let explained = explain(&with(3, "True", "Active"));
        assert_eq!((explained.can_sign_in, explained.reason.as_str()), (false, "Pending"));
    }
}
