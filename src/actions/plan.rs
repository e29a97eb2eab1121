//! What an action changes in an object, and what its author is told before.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::ownership::other_decider;
use crate::api::OAuthConsumer;

/// What a person does to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Approve,
    Disapprove,
    Hold { reason: String },
    Release,
    Rename { name: String },
    Remove,
}

/// What an action comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The change of `spec`, as a JSON merge patch (RFC 7396). None if there is nothing to change.
    pub spec: Option<Value>,
    /// What will happen, as asked before it is done.
    pub effect: String,
    /// What else has to be known or done.
    pub notes: Vec<String>,
}

// === impl Action ===

impl Action {
    /// The action and its result, as words of a sentence.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Approve => ("approve", "approved"),
            Self::Disapprove => ("disapprove", "disapproved"),
            Self::Hold { .. } => ("hold", "put on hold"),
            Self::Release => ("release", "released"),
            Self::Rename { .. } => ("rename", "renamed"),
            Self::Remove => ("remove", "removed"),
        }
    }
}

/// What the action changes in this object. Fails if the action cannot have its effect, and says what to do first.
pub fn plan(action: &Action, object: &OAuthConsumer) -> Result<Planned, String> {
    let (spec, who) = (&object.spec, described(object));
    let status = object.status.as_ref();
    let is_state = |state: &str| status.and_then(|status| status.state.as_deref()) == Some(state);
    let nothing = |effect: String| Ok(Planned { effect, ..Planned::default() });
    match action {
        Action::Approve if spec.approved == Some(true) => {
            if status.is_some_and(|status| status.unproved_approval.is_some()) {
                return Err(format!(
                    "{who} has an approval that does not count: the API server did not check who gave it. Disapprove it, wait \
                     until it is Disapproved, and approve it again."
                ));
            }
            if is_state("Revoked") {
                return Err(format!("{who} is revoked. Disapprove it, wait until that is seen, and approve it again."));
            }
            nothing(format!("{who} is approved already"))
        }
        Action::Approve => Ok(Planned {
            spec: Some(json!({ "approved": true })),
            effect: format!("{who} will be able to sign in"),
            notes: hold_note(object).into_iter().chain(sync_note(object, "may withdraw the approval")).collect(),
        }),
        Action::Disapprove => Ok(disapproval(object)),
        Action::Hold { reason } if spec.hold.as_ref().is_some_and(|hold| hold.reason == *reason) => {
            nothing(format!("{who} is on hold for this reason already"))
        }
        Action::Hold { reason } => Ok(Planned {
            spec: Some(json!({ "hold": { "reason": reason } })),
            effect: format!("{who} will not be able to sign in until an approver lifts the hold"),
            notes: Vec::new(),
        }),
        Action::Release if spec.hold.is_none() => nothing(format!("{who} is not on hold")),
        Action::Release => Ok(Planned {
            spec: Some(json!({ "hold": null })),
            effect: match spec.approved {
                Some(true) => format!("the hold on {who} will be lifted, and it will be able to sign in"),
                Some(false) => format!("the hold on {who} will be lifted; it stays disapproved"),
                None => format!("the hold on {who} will be lifted; it still awaits approval"),
            },
            notes: Vec::new(),
        }),
        Action::Rename { name } if spec.name == *name => nothing(format!("{who} has this name already")),
        Action::Rename { name } => Ok(Planned {
            spec: Some(json!({ "name": name })),
            effect: format!("{who} will be named \"{name}\"; its key stays"),
            notes: Vec::new(),
        }),
        Action::Remove => Ok(Planned {
            spec: None,
            effect: format!("{who} will be removed, and its key {} will be refused for good", key(object)),
            notes: Vec::new(),
        }),
    }
}

/// `jazz (Jazz Team Server)`.
pub(super) fn described(object: &OAuthConsumer) -> String {
    format!("{} ({})", object.name_any(), object.spec.name)
}

fn key(object: &OAuthConsumer) -> &str {
    object.status.as_ref().and_then(|status| status.consumer_key.as_deref()).unwrap_or("(none yet)")
}

/// With a hold, where a tool would approve it again.
fn disapproval(object: &OAuthConsumer) -> Planned {
    let (who, hold) = (described(object), &object.spec.hold);
    match other_decider(object) {
        Some(tool) if hold.is_none() => {
            let reason = format!("disapproved by hand, while {tool} sets spec.approved");
            Planned {
                spec: Some(json!({ "approved": false, "hold": { "reason": reason } })),
                effect: format!("{who} will be refused at once, and put on hold"),
                notes: vec![format!(
                    "{tool} sets spec.approved and may approve it again at its next sync. The hold outlasts that: an approver lifts \
                     it. Change spec.approved where {tool} reads it from."
                )],
            }
        }
        _ if object.spec.approved == Some(false) => {
            Planned { effect: format!("{who} is disapproved already"), ..Planned::default() }
        }
        _ => Planned {
            spec: Some(json!({ "approved": false })),
            effect: format!("{who} will be refused at once"),
            notes: Vec::new(),
        },
    }
}

fn hold_note(object: &OAuthConsumer) -> Option<String> {
    let hold = object.spec.hold.as_ref()?;
    Some(format!("It stays on hold (\"{}\") and cannot sign in until an approver lifts the hold.", hold.reason))
}

fn sync_note(object: &OAuthConsumer, consequence: &str) -> Option<String> {
    let tool = other_decider(object)?;
    Some(format!("{tool} sets spec.approved and {consequence} at its next sync. Change it where {tool} reads it from."))
}

#[cfg(test)]
mod tests {
    use super::super::FIELD_MANAGER;
    use super::super::ownership::LAST_APPLIED;
    use super::*;

    fn object(json: Value) -> OAuthConsumer {
        let mut whole = json!({
            "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "jazz" },
            "spec": { "name": "Jazz", "secretRef": { "name": "jazz-oauth" } },
        });
        json_merge(&mut whole, json);
        serde_json::from_value(whole).unwrap()
    }

    fn json_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    json_merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn applied_by(manager: &str, operation: &str) -> Value {
        json!({ "managedFields": [{
            "manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:approved": {} } },
        }] })
    }

    #[test]
    fn an_action_patches_what_it_is_about_and_nothing_else() {
        let hold = || Action::Hold { reason: "leaked".into() };
        let rename = || Action::Rename { name: "Blues".into() };
        let by_flux = applied_by("kustomize-controller", "Apply");
        let by_kubectl = json!({ "annotations": { LAST_APPLIED: r#"{"spec":{"approved":true}}"# } });
        let undecided_by_kubectl = json!({ "annotations": { LAST_APPLIED: r#"{"spec":{"name":"Jazz"}}"# } });
        let leaked = json!({ "reason": "leaked" });
        let and_held = |tool: &str| json!({ "approved": false, "hold": { "reason": format!("disapproved by hand, while {tool} sets spec.approved") } });
        // spec, metadata, action, patch, notes
        let cases = [
            (json!({}), json!({}), Action::Approve, Some(json!({ "approved": true })), 0),
            (json!({ "approved": false }), json!({}), Action::Approve, Some(json!({ "approved": true })), 0),
            (json!({ "approved": true }), json!({}), Action::Approve, None, 0),
            (json!({ "hold": leaked }), json!({}), Action::Approve, Some(json!({ "approved": true })), 1),
            (json!({ "approved": false }), by_flux.clone(), Action::Approve, Some(json!({ "approved": true })), 1),
            (json!({ "approved": true }), json!({}), Action::Disapprove, Some(json!({ "approved": false })), 0),
            (json!({}), json!({}), Action::Disapprove, Some(json!({ "approved": false })), 0),
            (json!({ "approved": false }), json!({}), Action::Disapprove, None, 0),
            (json!({ "approved": true }), by_flux.clone(), Action::Disapprove, Some(and_held("kustomize-controller")), 1),
            (json!({ "approved": true }), by_kubectl, Action::Disapprove, Some(and_held("kubectl apply")), 1),
            (json!({ "approved": true }), undecided_by_kubectl, Action::Disapprove, Some(json!({ "approved": false })), 0),
            (
                json!({ "approved": true }),
                applied_by("helm", "Update"),
                Action::Disapprove,
                Some(json!({ "approved": false })),
                0,
            ),
            (
                json!({ "approved": true }),
                applied_by(FIELD_MANAGER, "Apply"),
                Action::Disapprove,
                Some(json!({ "approved": false })),
                0,
            ),
            (json!({ "approved": true, "hold": leaked }), by_flux, Action::Disapprove, Some(json!({ "approved": false })), 0),
            (json!({}), json!({}), hold(), Some(json!({ "hold": leaked })), 0),
            (json!({ "hold": leaked }), json!({}), hold(), None, 0),
            (json!({ "hold": { "reason": "else" } }), json!({}), hold(), Some(json!({ "hold": leaked })), 0),
            (json!({ "hold": leaked, "approved": true }), json!({}), Action::Release, Some(json!({ "hold": null })), 0),
            (json!({}), json!({}), Action::Release, None, 0),
            (json!({}), json!({}), rename(), Some(json!({ "name": "Blues" })), 0),
            (json!({ "name": "Blues" }), json!({}), rename(), None, 0),
            (json!({}), json!({}), Action::Remove, None, 0),
        ];
        for (spec, metadata, action, patch, notes) in cases {
            let planned = plan(&action, &object(json!({ "spec": spec, "metadata": metadata }))).unwrap();
            assert_eq!((planned.spec, planned.notes.len()), (patch, notes), "{action:?} of {spec} {metadata}");
        }
    }

    #[test]
    fn an_approval_that_would_have_no_effect_says_what_to_do_first() {
        for status in [json!({ "unprovedApproval": { "generation": 2 } }), json!({ "state": "Revoked" })] {
            let refused = plan(&Action::Approve, &object(json!({ "spec": { "approved": true }, "status": status }))).unwrap_err();
            assert!(refused.contains("Disapprove it, wait"), "{refused}");
        }
    }
}
