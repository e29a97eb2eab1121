//! Argo CD's health of a consumer, as the shipped Lua tells it from statuses that the operator has written.

use mlua::{Lua, LuaOptions, StdLib, Table};
use oauthconsumer_operator::api::OAuthConsumer;
use serde_json::{Value, json};

use crate::support::{Cluster, FaultyStore, Operator, TestStore, is};

const HEALTH: &str = include_str!("../../examples/gitops/argo-cd/health.lua");
const CONFIG: &str = include_str!("../../examples/gitops/argo-cd/argocd-cm.yaml");

const SECRET: &str = "a secret, long enough for all";

/// As Argo CD hands an object over: what is null is not there.
fn table(lua: &Lua, value: &Value) -> mlua::Value {
    match value {
        Value::Null => mlua::Value::Nil,
        Value::Bool(value) => mlua::Value::Boolean(*value),
        Value::Number(value) => mlua::Value::Number(value.as_f64().unwrap()),
        Value::String(value) => mlua::Value::String(lua.create_string(value).unwrap()),
        Value::Array(values) => {
            mlua::Value::Table(lua.create_sequence_from(values.iter().map(|value| table(lua, value))).unwrap())
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), table(lua, value)));
            mlua::Value::Table(lua.create_table_from(fields).unwrap())
        }
    }
}

/// What Argo CD shows of an object, `Status | message`. Like Argo CD's own, this Lua 5.1 has the base and table libraries alone.
fn health_of(object: &Value) -> String {
    let lua = Lua::new_with(StdLib::TABLE, LuaOptions::new()).unwrap();
    assert!(!lua.globals().contains_key("string").unwrap());
    lua.globals().set("obj", table(&lua, object)).unwrap();
    let health: Table = lua.load(HEALTH).eval().unwrap();
    let field = |name| health.get::<String>(name).unwrap();
    format!("{} | {}", field("status"), field("message"))
}

fn health(object: &OAuthConsumer) -> String {
    health_of(&serde_json::to_value(object).unwrap())
}

#[test]
fn the_config_map_says_what_the_file_says() {
    let config: Value = serde_yaml::from_str(CONFIG).unwrap();
    assert_eq!(config["data"]["resource.customizations.health.oauthconsumers.dev_OAuthConsumer"], HEALTH);
}

#[test]
fn an_object_without_a_status_is_on_its_way() {
    for status in [Value::Null, json!({}), json!({ "conditions": [] }), json!({ "observedGeneration": 1, "conditions": [] })] {
        let object = json!({ "metadata": { "generation": 1 }, "status": status });
        assert_eq!(health_of(&object), "Progressing | Waiting for the controller");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_is_what_needs_nothing_but_a_decision() {
    let (cluster, store) = (Cluster::new().await, TestStore::sqlite().await);
    let waiting = "Progressing | Waiting for the controller";
    assert_eq!(health(&cluster.consumer("jazz", json!({})).await), waiting);
    let faulty = FaultyStore::over(&store);
    let operator = Operator::start(&cluster, faulty.clone()).await;

    let jazz = |kind, expected| cluster.wait("jazz", expected, is(kind, expected));
    // The Secret may come: Argo CD waits.
    let missing = health(&jazz("Ready", "False/SecretNotFound").await);
    assert!(missing.starts_with("Progressing | SecretNotFound: "), "{missing}");
    // What only a person can mend ends the sync.
    cluster.secret("jazz-oauth", "too short").await;
    let short = health(&jazz("Ready", "False/SecretTooShort").await);
    assert!(short.starts_with("Degraded | SecretTooShort: "), "{short}");

    // No decision is a fault, nor is it one that none was made. (On hold is not Suspended: a sync would wait.)
    cluster.secret("jazz-oauth", SECRET).await;
    let awaiting = health(&jazz("Active", "False/AwaitingApproval").await);
    assert!(awaiting.starts_with("Healthy | AwaitingApproval: The decision is still to be made"), "{awaiting}");
    cluster.edit("jazz", json!({ "approved": true })).await;
    assert_eq!(health(&jazz("Active", "True/Active").await), "Healthy | Active: The consumer can sign in.");
    cluster.edit("jazz", json!({ "hold": { "reason": "leaked, INC-1234" } })).await;
    let held = health(&jazz("Active", "False/OnHold").await);
    assert!(held.starts_with("Healthy | OnHold: On hold: leaked, INC-1234. An approver lifts the hold: kubectl "), "{held}");
    cluster.edit("jazz", json!({ "approved": false, "hold": null })).await;
    let disapproved = health(&jazz("Active", "False/Disapproved").await);
    assert!(disapproved.starts_with("Healthy | Disapproved: "), "{disapproved}");

    let key = cluster.get("jazz").await.status.unwrap().consumer_key.unwrap();
    cluster.consumer("second", json!({ "consumerKey": key })).await;
    let in_use = health(&cluster.wait("second", "KeyInUse", is("Ready", "False/KeyInUse")).await);
    assert!(in_use.starts_with("Degraded | KeyInUse: "), "{in_use}");
    cluster.delete("second").await;

    faulty.set_down(true);
    cluster.edit("jazz", json!({ "approved": true })).await;
    let outage = health(&jazz("Ready", "False/StoreUnavailable").await);
    assert!(outage.starts_with("Progressing | StoreUnavailable: "), "{outage}");
    faulty.set_down(false);
    jazz("Active", "True/Active").await;
    operator.stop().await;
    // What is said of an older generation says nothing of this one.
    assert_eq!(health(&cluster.edit("jazz", json!({ "name": "Blues" })).await), waiting);
}
