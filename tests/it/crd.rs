//! The resource as the API server sees it: what is accepted, and what is refused with which words.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use oauthconsumer_operator::api::{OAuthConsumer, crd};
use serde_json::{Value, json};

use crate::support::{Cluster, kubectl};

/// Specs to be accepted.
fn good() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "name": "ü" }),
        json!({ "name": "x".repeat(255) }),
        json!({ "name": "統合サーバー 2" }),
        json!({ "approved": true, "hold": { "reason": "leaked, INC-1234" } }),
        json!({ "hold": { "reason": " x " } }),
        json!({ "hold": { "reason": "ü".repeat(1024) } }),
        json!({ "consumerKey": "legacy.key_1~2-3" }),
        json!({ "consumerKey": "k".repeat(128) }),
        json!({ "secretRef": { "name": "a.b-c", "key": "UPPER_lower.1" } }),
    ]
}

/// Specs to be refused, and a word of the refusal.
fn bad() -> Vec<(Value, &'static str)> {
    vec![
        (json!({ "name": "" }), "spec.name"),
        (json!({ "name": "x".repeat(256) }), "spec.name"),
        (json!({ "name": "tab\there" }), "control, bidirectional or zero-width"),
        (json!({ "name": "nul\u{0}" }), "control, bidirectional or zero-width"),
        (json!({ "name": "c1\u{85}" }), "control, bidirectional or zero-width"),
        (json!({ "name": "right\u{202e}left" }), "control, bidirectional or zero-width"),
        (json!({ "name": "isolate\u{2066}d" }), "control, bidirectional or zero-width"),
        (json!({ "name": "zero\u{200b}width" }), "control, bidirectional or zero-width"),
        (json!({ "name": "bom\u{feff}" }), "control, bidirectional or zero-width"),
        (json!({ "name": "line\u{2028}" }), "control, bidirectional or zero-width"),
        (json!({ "secretRef": { "name": "" } }), "spec.secretRef.name"),
        (json!({ "secretRef": { "name": "Upper" } }), "spec.secretRef.name"),
        (json!({ "secretRef": { "name": "../etc" } }), "spec.secretRef.name"),
        (json!({ "secretRef": { "name": "x", "key": "" } }), "spec.secretRef.key"),
        (json!({ "secretRef": { "name": "x", "key": "a/b" } }), "spec.secretRef.key"),
        (json!({ "hold": { "reason": "nul\u{0}" } }), "control, bidirectional or zero-width"),
        (json!({ "hold": { "reason": "" } }), "spec.hold.reason"),
        (json!({ "hold": { "reason": "  " } }), "spec.hold.reason"),
        (json!({ "hold": { "reason": "\u{a0}\u{3000}" } }), "spec.hold.reason"),
        (json!({ "hold": { "reason": "x".repeat(1025) } }), "spec.hold.reason"),
        (json!({ "consumerKey": "short" }), "spec.consumerKey"),
        (json!({ "consumerKey": "k".repeat(129) }), "spec.consumerKey"),
        (json!({ "consumerKey": "has a space" }), "spec.consumerKey"),
    ]
}

#[test]
fn the_committed_crd_is_the_generated_one() {
    let committed = include_str!("../../crds/oauthconsumers.yaml");
    let generated = serde_yaml::to_string(&crd()).unwrap();
    assert!(committed == generated, "crds/oauthconsumers.yaml is stale; run `make generate` and commit the result");
}

#[test]
fn every_string_and_list_is_bounded() {
    fn walk(path: &str, schema: &Value) {
        let bounded = |key: &str| schema.get(key).is_some();
        match schema["type"].as_str() {
            Some("string") => assert!(
                bounded("maxLength") || bounded("enum") || schema["format"] == "date-time",
                "{path} is a string without a bound"
            ),
            Some("array") => assert!(bounded("maxItems"), "{path} is a list without a bound"),
            _ => {}
        }
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), child);
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items);
        }
    }
    let crd = serde_json::to_value(crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in ["spec", "status"] {
        walk(part, &schema["properties"][part]);
    }
}

fn object(spec: &Value) -> OAuthConsumer {
    let mut whole = json!({ "name": "A consumer", "secretRef": { "name": "a-secret" } });
    for (name, value) in spec.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let object = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer",
                         "metadata": { "generateName": "crd-" }, "spec": whole });
    serde_json::from_value(object).unwrap()
}

#[test]
fn the_rules_hold_offline() {
    for spec in good() {
        assert!(object(&spec).validate_cel().is_ok(), "{spec}");
    }
    for (spec, word) in bad().into_iter().filter(|(_, word)| word.contains("control")) {
        let refusal = object(&spec).validate_cel().unwrap_err().to_string();
        assert!(refusal.contains(word), "{spec}: {refusal}");
    }
}

#[test]
fn keys_are_immutable_offline() {
    let with = |spec: Value, status: Value| {
        let mut object = object(&spec);
        object.status = serde_json::from_value(status).unwrap();
        object
    };
    let published = with(json!({}), json!({ "consumerKey": "first-key", "conditions": [] }));
    assert!(published.validate_cel_update(&object(&json!({}))).is_ok(), "a first key is welcome");
    assert!(published.validate_cel_update(&published).is_ok());
    for (status, what) in [
        (json!({ "consumerKey": "other-key", "conditions": [] }), "changed"),
        (json!({ "conditions": [] }), "removed"),
        (Value::Null, "removed with the status"),
    ] {
        assert!(with(json!({}), status).validate_cel_update(&published).is_err(), "the key was {what}");
    }
    let (own, brought) = (object(&json!({})), object(&json!({ "consumerKey": "brought-along" })));
    assert!(own.validate_cel_update(&brought).is_err(), "spec.consumerKey was removed");
    assert!(brought.validate_cel_update(&own).is_err(), "spec.consumerKey was added later");
}

#[tokio::test]
async fn the_api_server_accepts_and_refuses() {
    let cluster = Cluster::new().await;
    for spec in good() {
        let created = cluster.consumers.create(&PostParams::default(), &object(&spec)).await;
        assert!(created.is_ok(), "{spec}: {created:?}");
    }
    for (spec, word) in bad() {
        let refusal = cluster.consumers.create(&PostParams::default(), &object(&spec)).await.unwrap_err().to_string();
        assert!(refusal.contains(word), "{spec}: {refusal}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_under_strict_validation() {
    let cluster = Cluster::new().await;
    let manifest = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "strict" },
                           "spec": { "name": "x", "secretRef": { "name": "x" }, "aproved": true } });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), manifest.to_string()).unwrap();
    let applied = kubectl(&cluster.namespace, &["apply", "--validate=strict", "-f", file.path().to_str().unwrap()]);
    let refusal = String::from_utf8_lossy(&applied.stderr);
    assert!(!applied.status.success() && refusal.contains("unknown field \"spec.aproved\""), "{refusal}");
}

#[tokio::test]
async fn a_new_object_has_its_defaults_and_does_not_look_finished() {
    let cluster = Cluster::new().await;
    let created = cluster.consumer("fresh", json!({})).await;
    assert_eq!(created.spec.secret_ref.key, "consumerSecret");
    let status = created.status.unwrap();
    let conditions: Vec<_> =
        status.conditions.iter().map(|found| (found.type_.as_str(), found.status.as_str(), found.reason.as_str())).collect();
    assert_eq!(conditions, [("Ready", "Unknown", "Pending"), ("Active", "Unknown", "Pending")]);
    assert_eq!((status.state, status.consumer_key, status.observed_generation), (None, None, None));
}

/// A hold without its reason is no hold: the API server refuses what an old manifest or a slip says.
#[tokio::test]
async fn a_hold_has_a_reason_and_nothing_else() {
    let cluster = Cluster::new().await;
    let apply = |hold: Value| {
        let manifest = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "held" },
                               "spec": { "name": "x", "secretRef": { "name": "x" }, "hold": hold } });
        let consumers = cluster.consumers.clone();
        async move { consumers.patch("held", &PatchParams::apply("test"), &Patch::Apply(manifest)).await }
    };
    for (hold, word) in [
        (json!("leaked"), "spec.hold"),
        (json!(true), "spec.hold"),
        (json!({}), "spec.hold.reason"),
        (json!({ "reason": null }), "spec.hold.reason"),
        (json!({ "reason": "leaked", "until": "tomorrow" }), "until"),
    ] {
        let refusal = apply(hold.clone()).await.unwrap_err().to_string();
        assert!(refusal.contains(word), "{hold}: {refusal}");
    }
    apply(json!({ "reason": "leaked" })).await.unwrap();
}

/// Two field managers cannot own a half each, so that what one of them applies is all of it, or a conflict.
#[tokio::test]
async fn a_reference_and_a_hold_have_one_owner_as_a_whole() {
    let cluster = Cluster::new().await;
    let apply = |manager: &'static str, force: bool, spec: Value| {
        let mut whole = json!({ "name": "Jazz" });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let manifest = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "jazz" },
                               "spec": whole });
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        let consumers = cluster.consumers.clone();
        async move { consumers.patch("jazz", &params, &Patch::Apply(manifest)).await }
    };
    let ours = json!({ "secretRef": { "name": "jazz-oauth" }, "hold": { "reason": "leaked" } });
    apply("pipeline", false, ours.clone()).await.unwrap();
    let theirs = json!({ "secretRef": { "name": "jazz-oauth", "key": "other" }, "hold": { "reason": "nothing" } });
    let conflict = apply("editor", false, theirs.clone()).await.unwrap_err().to_string();
    assert!(conflict.contains(".spec.secretRef") && conflict.contains(".spec.hold"), "{conflict}");
    let taken = apply("editor", true, theirs).await.unwrap();
    assert_eq!(taken.spec.secret_ref.key, "other");
    for owned in taken.metadata.managed_fields.unwrap() {
        let fields = serde_json::to_value(owned.fields_v1).unwrap();
        let expected = if owned.manager.as_deref() == Some("editor") { json!({}) } else { Value::Null };
        assert_eq!(
            (&fields["f:spec"]["f:secretRef"], &fields["f:spec"]["f:hold"]),
            (&expected, &expected),
            "{:?}",
            owned.manager
        );
    }
    // The pipeline's reference does not keep the key that the other manager chose.
    let back = apply("pipeline", true, ours).await.unwrap();
    assert_eq!(back.spec.secret_ref.key, "consumerSecret");
}

#[tokio::test]
async fn a_later_release_may_have_states_of_its_own() {
    let cluster = Cluster::new().await;
    cluster.consumer("jazz", json!({})).await;
    let status = |state: String| Patch::Merge(json!({ "status": { "state": state } }));
    let published = cluster.consumers.patch_status("jazz", &PatchParams::default(), &status("Expired".into())).await.unwrap();
    assert_eq!(published.status.unwrap().state.as_deref(), Some("Expired"));
    cluster.consumers.patch_status("jazz", &PatchParams::default(), &status("x".repeat(65))).await.unwrap_err();
}

#[tokio::test]
async fn null_is_no_value() {
    let cluster = Cluster::new().await;
    let manifest = json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": "nulls" },
                           "spec": { "name": "x", "secretRef": { "name": "x" }, "approved": null, "hold": null, "consumerKey": null } });
    let params = PatchParams::apply("test");
    let refusal = cluster.consumers.patch("nulls", &params, &Patch::Apply(manifest)).await.unwrap_err().to_string();
    for field in ["spec.approved", "spec.hold", "spec.consumerKey"] {
        assert!(refusal.contains(field), "{refusal}");
    }
}

#[tokio::test]
async fn the_api_server_keeps_keys_as_they_are() {
    let cluster = Cluster::new().await;
    let name = "keys";
    cluster.consumer(name, json!({})).await;
    let status = |status: Value| {
        let (consumers, params) = (cluster.consumers.clone(), PatchParams::default());
        async move { consumers.patch_status(name, &params, &Patch::Merge(json!({ "status": status }))).await }
    };
    status(json!({ "consumerKey": "first-key" })).await.unwrap();
    for (change, what) in [
        (json!({ "consumerKey": "other-key" }), "changed"),
        (json!({ "consumerKey": null }), "removed"),
        (Value::Null, "removed with the status"),
    ] {
        let refusal = status(change).await.unwrap_err().to_string();
        assert!(refusal.contains("given once"), "{what}: {refusal}");
    }
    let late = Patch::Merge(json!({ "spec": { "consumerKey": "too-late-1" } }));
    let refusal = cluster.consumers.patch(name, &PatchParams::default(), &late).await.unwrap_err().to_string();
    assert!(refusal.contains("can only be given when the object is created"), "{refusal}");
    assert_eq!(cluster.get(name).await.status.unwrap().consumer_key.as_deref(), Some("first-key"));
}

#[tokio::test]
async fn columns_short_name_and_selectors_work() {
    let cluster = Cluster::new().await;
    cluster.consumer("jazz", json!({ "name": "Jazz Team Server" })).await;
    cluster.consumer("blues", json!({})).await;
    let keys = Patch::Merge(json!({ "status": { "consumerKey": "the-key-of-jazz" } }));
    cluster.consumers.patch_status("jazz", &PatchParams::default(), &keys).await.unwrap();
    let text = |args: &[&str]| String::from_utf8(kubectl(&cluster.namespace, args).stdout).unwrap();
    let columns = |table: &str| -> Vec<String> {
        let first = table.lines().next().unwrap().split("  ").map(str::trim);
        first.filter(|column| !column.is_empty()).map(str::to_owned).collect()
    };
    let common = ["NAME", "CONSUMER NAME", "CONSUMER KEY", "STATUS", "ACTIVE", "READY", "AGE"];
    let table = text(&["get", "oac"]);
    assert_eq!(columns(&table), common);
    assert!(table.contains("Jazz Team Server"));
    let wide = text(&["get", "oac", "-o", "wide"]);
    assert_eq!(columns(&wide), [&common[..], &["SECRET", "DECIDED BY", "DECIDED", "REASON"]].concat());
    let jazz = wide.lines().find(|line| line.starts_with("jazz")).unwrap();
    assert!(["the-key-of-jazz", "Unknown", "jazz-oauth", "Pending"].iter().all(|part| jazz.contains(part)), "{wide}");

    let names = |args: &[&str]| text(&[&["get", "oac", "-o", "name"], args].concat());
    let jazz = "oauthconsumer.oauthconsumers.dev/jazz\n";
    assert_eq!(names(&["--field-selector", "spec.secretRef.name=jazz-oauth"]), jazz);
    assert_eq!(names(&["--field-selector", "spec.secretRef.name=other"]), "");
    assert_eq!(names(&["--field-selector", "status.consumerKey=the-key-of-jazz"]), jazz);
    assert_eq!(names(&["--field-selector", "status.consumerKey=another-key"]), "");
    // OpenShift has a resource of that name, which `oc edit oauth cluster` is to find.
    assert!(!kubectl(&cluster.namespace, &["get", "oauth"]).status.success(), "a category hides other resources of its name");
    let explained = text(&["explain", "oac.spec.approved"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "true approves, false disapproves, absent means that it is still to be made";
    assert!(explained.contains(expected), "{explained}");
}

#[test]
fn the_crd_is_in_no_category() {
    assert_eq!(crd().spec.names.categories, None);
}

#[tokio::test]
async fn the_installed_crd_serves_what_the_committed_one_says() {
    let cluster = Cluster::new().await;
    let crds: kube::Api<CustomResourceDefinition> = kube::Api::all(cluster.client.clone());
    let installed = crds.get("oauthconsumers.oauthconsumers.dev").await.unwrap();
    let (installed, generated) = (&installed.spec.versions[0], &crd().spec.versions[0]);
    // The API server fills in nothing and prunes nothing: what is written down is what holds.
    assert_eq!(serde_json::to_value(&installed.schema).unwrap(), serde_json::to_value(&generated.schema).unwrap());
}
