//! What the controllers' accounts may do, whatever roles they are given: the status, their finalizer, and dry runs.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use oauthconsumer_operator::api::{DECIDED, DECIDED_BY, FINALIZER, OAuthConsumer};
use serde_json::{Value, json};

use super::{SECRET, awaiting, consumer, object};
use crate::support::chart::{self, CONTROLLER, Guard, allow};
use crate::support::{Cluster, client_of};

fn metadata(metadata: Value) -> Patch<Value> {
    let mut patch = json!({});
    patch["metadata"] = metadata;
    Patch::Merge(patch)
}

/// A consumer as an editor makes it, with labels and the like, and the controller's account with every verb there is.
async fn a_stolen_token() -> (Cluster, Api<OAuthConsumer>) {
    let cluster = chart::guarded(Guard::Deny).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let mut jazz = object("jazz", awaiting());
    jazz["metadata"]["labels"] = json!({ "team": "a" });
    jazz["metadata"]["annotations"] = json!({ "an.example/url": "https://jazz.example" });
    jazz["metadata"]["finalizers"] = json!(["example.com/other"]);
    cluster.consumers.create(&PostParams::default(), &serde_json::from_value(jazz).unwrap()).await.unwrap();
    for verb in ["create", "update", "patch", "delete", "approve"] {
        allow(&cluster.client, &cluster.namespace, CONTROLLER, ("oauthconsumers.dev", "oauthconsumers", verb)).await;
        allow(&cluster.client, &cluster.namespace, CONTROLLER, ("", "secrets", verb)).await;
    }
    let consumers = Api::namespaced(client_of(CONTROLLER).await, &cluster.namespace);
    (cluster, consumers)
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_written_by_controllers_only() {
    let (cluster, controllers) = a_stolen_token().await;
    let plain = PatchParams::default();
    let status = Patch::Merge(json!({ "status": { "consumerKey": "a-forged-key" } }));
    for user in ["admin", "editor"] {
        // Even with every verb there is.
        allow(&cluster.client, &cluster.namespace, user, ("oauthconsumers.dev", "oauthconsumers/status", "patch")).await;
        let consumers: Api<OAuthConsumer> = Api::namespaced(client_of(user).await, &cluster.namespace);
        let refused = consumers.patch_status("jazz", &plain, &status).await.unwrap_err().to_string();
        assert!(refused.contains("written by its controllers only") && refused.contains(CONTROLLER), "{refused}");
    }
    let before = cluster.get("jazz").await;
    let observed = Patch::Merge(json!({
        "metadata": { "labels": { "stolen": "yes" }, "annotations": { DECIDED_BY: "alice" }, "finalizers": null },
        "spec": { "approved": true }, "status": { "observedGeneration": 1 },
    }));
    let after = controllers.patch_status("jazz", &plain, &observed).await.unwrap();
    assert_eq!(after.status.as_ref().unwrap().observed_generation, Some(1));
    assert_eq!(after.spec, before.spec, "by way of the status nothing else is written");
    assert_eq!(
        (after.metadata.labels, after.metadata.annotations, after.metadata.finalizers),
        (before.metadata.labels, before.metadata.annotations, before.metadata.finalizers)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_writes_its_finalizer_and_nothing_else_of_an_object() {
    let (cluster, controllers) = a_stolen_token().await;
    let plain = PatchParams::default();
    let spec = "change nothing in their spec";
    let meta = "change nothing in their metadata but the finalizer oauthconsumers.dev/record";
    let owner = json!({ "apiVersion": "v1", "kind": "Secret", "name": "jazz-oauth", "uid": "1" });
    let refused = [
        ("approve", Patch::Merge(json!({ "spec": { "approved": true } })), spec),
        ("disapprove", Patch::Merge(json!({ "spec": { "approved": false } })), spec),
        ("rename", Patch::Merge(json!({ "spec": { "name": "Blues" } })), spec),
        ("hold", Patch::Merge(json!({ "spec": { "hold": { "reason": "stolen" } } })), spec),
        ("a label", metadata(json!({ "labels": { "stolen": "yes" } })), meta),
        ("another value of a label", metadata(json!({ "labels": { "team": "b" } })), meta),
        ("a label less", metadata(json!({ "labels": { "team": null } })), meta),
        ("no labels", metadata(json!({ "labels": null })), meta),
        ("an annotation", metadata(json!({ "annotations": { "stolen": "yes" } })), meta),
        ("no annotations", metadata(json!({ "annotations": null })), meta),
        ("another stamp", metadata(json!({ "annotations": { DECIDED: "true" } })), meta),
        ("an owner", metadata(json!({ "ownerReferences": [owner] })), meta),
        ("another prefix of generated names", metadata(json!({ "generateName": "stolen-" })), meta),
        ("another finalizer", metadata(json!({ "finalizers": ["example.com/other", "stolen.example/yes"] })), "no finalizer but"),
        ("another one's finalizer off", metadata(json!({ "finalizers": null })), "no finalizer but"),
        (
            "its finalizer and a label",
            metadata(json!({ "finalizers": [FINALIZER, "example.com/other"], "labels": { "stolen": "yes" } })),
            meta,
        ),
    ];
    for (what, patch, words) in refused {
        let refused = controllers.patch("jazz", &plain, &patch).await;
        let refused = refused.expect_err(what).to_string();
        // The stamp has a policy of its own, which may be the one to answer.
        let stamped = what == "another stamp" && refused.contains("set by the API server only");
        assert!(stamped || refused.contains(words), "{what}: {refused}");
    }
    // On, and off again.
    for finalizers in [json!([FINALIZER, "example.com/other"]), json!(["example.com/other"])] {
        let written = controllers.patch("jazz", &plain, &metadata(json!({ "finalizers": finalizers }))).await.unwrap();
        assert_eq!(json!(written.metadata.finalizers), finalizers);
    }

    let never = [
        controllers.delete("jazz", &DeleteParams::default()).await.unwrap_err(),
        controllers.create(&PostParams::default(), &consumer("blues", awaiting())).await.unwrap_err(),
    ];
    for refused in never {
        assert!(refused.to_string().contains("neither create nor delete"), "{refused}");
    }
    // What it tries out is left to the other policies, and has no effect.
    let without_effect = PostParams { dry_run: true, ..PostParams::default() };
    controllers.create(&without_effect, &consumer("blues", awaiting())).await.unwrap();
    assert!(cluster.consumers.get_opt("blues").await.unwrap().is_none());

    let secrets: Api<Secret> = Api::namespaced(client_of(CONTROLLER).await, &cluster.namespace);
    let written = Patch::Merge(json!({ "stringData": { "consumerSecret": "another secret, long enough" } }));
    let refused = secrets.patch("jazz-oauth", &plain, &written).await.unwrap_err().to_string();
    assert!(refused.contains("never write Secrets"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_lets_a_deleted_object_go_also_past_a_webhook_that_labels_it() {
    let (cluster, controllers) = a_stolen_token().await;
    let plain = PatchParams::default();
    cluster.consumers.patch("jazz", &plain, &metadata(json!({ "finalizers": [FINALIZER, "example.com/other"] }))).await.unwrap();
    cluster.delete("jazz").await;
    let labelled = |finalizers: Value| metadata(json!({ "finalizers": finalizers, "labels": { "from": "webhook" } }));
    // It still stays, so a label would stay with it.
    controllers.patch("jazz", &plain, &labelled(json!(["example.com/other"]))).await.unwrap_err();
    cluster.consumers.patch("jazz", &plain, &metadata(json!({ "finalizers": [FINALIZER] }))).await.unwrap();
    controllers.patch("jazz", &plain, &labelled(json!([]))).await.unwrap();
    assert!(cluster.consumers.get_opt("jazz").await.unwrap().is_none());
}
