//! The policies themselves go missing, or are watered down; as a cluster administrator could, by mistake.

use serde_json::{Value, json};

use crate::support::{
    POSTGRES, SECRET, SYSTEM, TEAM, World, apply, condition, consumer, decide, eventually, get, key_of, kubectl, kubectl_as,
    pods, secret, text, wait_for,
};

/// Whether a requester is kept from approving, as far as the API server is concerned.
fn is_guarded() -> bool {
    let patch = r#"{"spec":{"name":"Something else"}}"#;
    let tried = kubectl_as("requester", &["patch", "oac", "jazz", "--dry-run=server", "--type=merge", "-p", patch]);
    // A warning has the same words.
    !tried.status.success() && text(&tried).contains("needs the verb approve")
}

fn spoil(kind: &str, patch: &Value) {
    kubectl(&["patch", kind, "oauthconsumers-approve", "--type=merge", "-p", &patch.to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_stop_counting_when_the_policies_do_not_deny() {
    let World { cluster, postgres: _postgres, check, key } = World::with_jazz().await;
    let binding = "validatingadmissionpolicybinding";
    let unbound = || {
        kubectl(&["delete", binding, "oauthconsumers-approve"]);
    };
    let missing = || {
        kubectl(&["delete", "validatingadmissionpolicy", "oauthconsumers-approve"]);
    };
    let warns = || spoil(binding, &json!({ "spec": { "validationActions": ["Warn"] } }));
    let audits = || spoil(binding, &json!({ "spec": { "validationActions": ["Audit"] } }));
    let excluded = || {
        let selector =
            json!({ "matchExpressions": [{ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [TEAM] }] });
        spoil(binding, &json!({ "spec": { "matchResources": { "namespaceSelector": selector } } }));
    };
    let ways: [(&str, &dyn Fn()); 5] =
        [("unbound", &unbound), ("missing", &missing), ("warns", &warns), ("audits", &audits), ("excluded", &excluded)];
    for (way, spoil) in ways {
        spoil();
        eventually(&format!("{way}: not guarded"), || !is_guarded());
        // What was proved a moment ago is believed for a minute; a controller that starts asks anew.
        kubectl(&["-n", SYSTEM, "rollout", "restart", "deployment/oac-controller"]);
        kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/oac-controller", "--timeout=120s"]);
        eventually("the old ones are gone", || pods(SYSTEM, "controller").len() == 2);
        let made = [secret(TEAM, &format!("{way}-oauth"), SECRET), consumer(TEAM, way, &json!({}))];
        apply(&made);
        assert!(decide("requester", way, &json!({ "approved": true })).status.success());
        wait_for(TEAM, way, "Approved", "False/ApprovalUnproved");
        assert_eq!(check.ask(&key_of(TEAM, way), SECRET).unwrap(), 401, "{way}");
        // What was approved before is not touched.
        check.answers(&key, SECRET, 200);
        assert_eq!(condition(TEAM, "jazz", "Approved"), "True/Approved");

        // An upgrade puts the policies back as they are to be. That approval still counts for nothing.
        kubectl(&["delete", binding, "oauthconsumers-approve", "--ignore-not-found"]);
        cluster.helm("upgrade", &POSTGRES);
        eventually(&format!("{way}: guarded again"), is_guarded);
        assert_eq!(condition(TEAM, way, "Approved"), "False/ApprovalUnproved");
        assert!(decide("approver", way, &json!({ "approved": false })).status.success());
        wait_for(TEAM, way, "Approved", "False/Disapproved");
        cluster.approve(way);
        wait_for(TEAM, way, "Approved", "True/Approved");
        assert_eq!(get(TEAM, "oac", way)["status"]["decision"]["by"], "approver");
    }
}
