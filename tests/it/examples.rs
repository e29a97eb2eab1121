//! What the documentation tells people to apply can be applied, and does what it says.

use crate::support::{Cluster, Operator, TestStore, is, kubectl};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_apply_as_they_are() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let operator = Operator::start(&cluster, store.store.clone()).await;
    let applied = kubectl(&cluster.namespace, &["apply", "--validate=strict", "-k", EXAMPLES]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert!(applied.stderr.is_empty(), "warnings: {}", String::from_utf8_lossy(&applied.stderr));
    let all = cluster.consumers.list(&kube::api::ListParams::default()).await.unwrap();
    assert!(all.items.len() >= 3);
    for object in all {
        let name = object.metadata.name.unwrap();
        let ready = cluster.ready(&name).await;
        let expected = if object.spec.approved == Some(true) { "True/Approved" } else { "False/AwaitingApproval" };
        assert!(is("Approved", expected)(&ready), "{name}: {:?}", ready.status);
    }
    let deleted = kubectl(&cluster.namespace, &["delete", "--wait", "--timeout=30s", "-k", EXAMPLES]);
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    operator.stop().await;
}

#[test]
fn the_kustomization_leaves_no_example_out() {
    let kustomization = std::fs::read_to_string(format!("{EXAMPLES}/kustomization.yaml")).unwrap();
    for file in std::fs::read_dir(EXAMPLES).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_example = file.extension().is_some_and(|extension| extension == "yaml") && name != "kustomization.yaml";
        assert!(!is_example || kustomization.contains(&format!("- {name}")), "{name} is not in examples/kustomization.yaml");
    }
}
