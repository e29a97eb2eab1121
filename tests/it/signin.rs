//! Refusals that tell nothing.

use axum::http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::support::{Cluster, Operator, TestStore, eventually, is};

const SECRET: &str = "a secret, long enough for all";

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_the_same() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    cluster.secret("common", SECRET).await;
    let specs = [
        ("approved", json!({ "approved": true })),
        ("awaiting", json!({})),
        ("disapproved", json!({ "approved": false })),
        ("held", json!({ "approved": true, "hold": { "reason": "leaked" } })),
        ("deleted", json!({ "approved": true })),
        ("secretless", json!({ "approved": true, "secretRef": { "name": "nowhere" } })),
    ];
    let mut keys = std::collections::HashMap::new();
    for (name, mut spec) in specs {
        if name != "secretless" {
            spec["secretRef"] = json!({ "name": "common" });
        }
        cluster.consumer(name, spec).await;
        let object =
            cluster.wait(name, "has its key", |object| object.status.iter().any(|status| status.consumer_key.is_some())).await;
        keys.insert(name, object.status.unwrap().consumer_key.unwrap());
    }
    cluster.wait("approved", "Approved", is("Active", "True/Active")).await;
    cluster.delete("deleted").await;
    eventually("it is gone", || async { cluster.consumers.get_opt("deleted").await.unwrap().is_none() }).await;
    assert!(operator.admits(&keys["approved"], SECRET).await);

    let mut answers = vec![
        ("no credentials", operator.ask(&[]).await),
        ("an unknown scheme", operator.ask(&[("authorization", b"Bearer abc")]).await),
        ("broken base64", operator.ask(&[("authorization", b"Basic !!!")]).await),
        ("a key never issued", operator.signin("00000000-0000-5000-8000-000000000000", SECRET).await),
        ("a wrong secret", operator.signin(&keys["approved"], "a wrong secret, long enough").await),
        ("an empty secret", operator.signin(&keys["approved"], "").await),
    ];
    for name in ["awaiting", "disapproved", "held", "deleted", "secretless"] {
        answers.push((name, operator.signin(&keys[name], SECRET).await));
    }
    let (_, reference) = &answers[0];
    assert_eq!(reference.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reference.body, "{\"error\":\"invalid_client\"}\n");
    let header = |headers: &HeaderMap, name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(header(&reference.headers, "cache-control"), "no-store");
    assert!(header(&reference.headers, "www-authenticate").starts_with("Basic realm="));
    for (what, answer) in &answers {
        assert_eq!(answer, reference, "{what}");
    }
    operator.stop().await;
}
