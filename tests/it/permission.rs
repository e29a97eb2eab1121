//! Who may do what: real users without any power but their roles, against the chart's roles and policies.

mod controllers;
mod holds;
mod proof;

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use oauthconsumer_operator::api::{DECIDED, DECIDED_BY, FINALIZER, OAuthConsumer};
use oauthconsumer_operator::controller::ApprovalProof;
use serde_json::{Value, json};

use crate::support::chart::{self, CONTROLLER, Guard, allow, grant};
use crate::support::{Cluster, Operator, TestStore, client_of, condition, is, kubectl, on_both_stores};

const SECRET: &str = "a secret of jazz, long enough";

/// What a request needs, beyond the verb on the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Approve,
    Adopt,
    Secret,
    /// The field manager of those who decide.
    Manager,
    /// A request of its own: no request that does this besides something else is accepted.
    Alone,
}
use Needs::{Adopt, Alone, Approve, Manager, Secret};

/// Somebody, and what their roles let them do.
struct User {
    name: &'static str,
    /// What the chart has for people.
    roles: &'static [&'static str],
    /// What they are given besides.
    besides: &'static [(&'static str, &'static str, &'static str)],
    verbs: &'static [&'static str],
    may: &'static [Needs],
}

/// The field manager of those who decide.
const MANAGER: &str = "oauthconsumers-approval";

const READ_SECRETS: (&str, &str, &str) = ("", "secrets", "get");
const ADOPT: (&str, &str, &str) = ("oauthconsumers.dev", "oauthconsumers", "adopt");

const USERS: &[User] = &[
    User { name: "stranger", roles: &[], besides: &[], verbs: &[], may: &[] },
    User { name: "viewer", roles: &["oauthconsumers-viewer"], besides: &[], verbs: &[], may: &[] },
    User {
        name: "editor",
        roles: &["oauthconsumers-editor"],
        besides: &[READ_SECRETS],
        verbs: &["create", "update", "patch", "delete"],
        may: &[Secret],
    },
    User {
        name: "editor-without-secrets",
        roles: &["oauthconsumers-editor"],
        besides: &[],
        verbs: &["create", "update", "patch", "delete"],
        may: &[],
    },
    User { name: "approver", roles: &["oauthconsumers-approver"], besides: &[], verbs: &["update", "patch"], may: &[Approve] },
    User {
        name: "configure-server",
        roles: &["oauthconsumers-configure-server"],
        besides: &[],
        verbs: &["create", "update", "patch", "delete"],
        may: &[Approve, Secret],
    },
    User {
        name: "migrator",
        roles: &["oauthconsumers-editor"],
        besides: &[READ_SECRETS, ADOPT],
        verbs: &["create", "update", "patch", "delete"],
        may: &[Secret, Adopt],
    },
];

/// How an object is written. `kubectl apply` without `--server-side` is a merge patch to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Merge,
    Json,
    Apply,
    Replace,
    /// A merge patch with the field manager of those who decide.
    Approval,
}

/// A change of a spec, and what it needs.
type Change = (&'static str, fn() -> Value, fn() -> Value, &'static [Needs]);

fn awaiting() -> Value {
    json!({ "name": "Jazz", "secretRef": { "name": "jazz-oauth", "key": "consumerSecret" } })
}

fn with(mut spec: Value, field: &str, value: impl Into<Value>) -> Value {
    spec[field] = value.into();
    spec
}

fn approved() -> Value {
    with(awaiting(), "approved", true)
}

fn held() -> Value {
    with(approved(), "hold", hold("leaked"))
}

fn hold(reason: &str) -> Value {
    json!({ "reason": reason })
}

fn held_and_disapproved() -> Value {
    with(held(), "approved", false)
}

fn other_secret(mut spec: Value) -> Value {
    spec["secretRef"]["name"] = "other-oauth".into();
    spec
}

const CHANGES: &[Change] = &[
    ("approve", awaiting, approved, &[Approve]),
    ("approve after a disapproval", || with(awaiting(), "approved", false), approved, &[Approve]),
    ("approve and hold at once", awaiting, held, &[Approve]),
    ("disapprove", approved, || with(awaiting(), "approved", false), &[]),
    ("disapprove what awaits", awaiting, || with(awaiting(), "approved", false), &[]),
    ("withdraw the approval", approved, awaiting, &[]),
    ("withdraw a disapproval", || with(awaiting(), "approved", false), awaiting, &[]),
    ("disapprove what is on hold", held, || with(held(), "approved", false), &[]),
    ("disapprove and rename at once", approved, || with(with(awaiting(), "approved", false), "name", "Blues"), &[]),
    ("hold", approved, held, &[]),
    ("say more about a hold", held, || with(approved(), "hold", hold("leaked, INC-1234")), &[]),
    ("lift a hold", held, approved, &[Approve, Manager]),
    ("lift the hold of what awaits", || with(awaiting(), "hold", hold("leaked")), awaiting, &[Approve, Manager]),
    ("lift the hold of what is disapproved", held_and_disapproved, || with(awaiting(), "approved", false), &[Approve, Manager]),
    ("lift a hold and approve at once", held_and_disapproved, approved, &[Approve, Alone]),
    ("lift a hold and disapprove at once", held, || with(awaiting(), "approved", false), &[Approve, Alone]),
    ("withdraw the approval and the hold at once", held, awaiting, &[Approve, Alone]),
    ("lift a hold and rename at once", held, || with(approved(), "name", "Blues"), &[Approve, Alone]),
    (
        "lift the hold of what awaits, and rename it",
        || with(awaiting(), "hold", hold("leaked")),
        || with(awaiting(), "name", "Blues"),
        &[Approve, Alone],
    ),
    ("lift a hold and refer to another Secret at once", held, || other_secret(approved()), &[Approve, Alone, Secret]),
    ("approve what is on hold", held_and_disapproved, held, &[Approve]),
    ("rename what awaits", awaiting, || with(awaiting(), "name", "Blues"), &[]),
    ("rename what is approved", approved, || with(approved(), "name", "Blues"), &[Approve]),
    ("rename what is approved and on hold", held, || with(held(), "name", "Blues"), &[Approve]),
    ("rename what is approved, and hold it", approved, || with(held(), "name", "Blues"), &[Approve]),
    ("another Secret for what awaits", awaiting, || other_secret(awaiting()), &[Secret]),
    ("another Secret for what is approved", approved, || other_secret(approved()), &[Approve, Secret]),
    (
        "another key of the Secret",
        approved,
        || with(approved(), "secretRef", json!({ "name": "jazz-oauth", "key": "other" })),
        &[Approve, Secret],
    ),
    ("nothing", approved, approved, &[]),
];

/// A spec to begin with, and what it needs.
type Creation = (&'static str, fn() -> Value, &'static [Needs]);

const CREATIONS: &[Creation] = &[
    ("register", awaiting, &[Secret]),
    ("register as approved", approved, &[Secret, Approve]),
    ("register as disapproved", || with(awaiting(), "approved", false), &[Secret]),
    ("register on hold", || with(awaiting(), "hold", hold("not yet")), &[Secret]),
    ("bring a key along", || with(awaiting(), "consumerKey", uuid::Uuid::new_v4().to_string()), &[Secret, Adopt]),
    (
        "bring a key along as approved",
        || with(approved(), "consumerKey", uuid::Uuid::new_v4().to_string()),
        &[Secret, Adopt, Approve],
    ),
];

fn object(name: &str, spec: impl Into<Value>) -> Value {
    json!({ "apiVersion": "oauthconsumers.dev/v1alpha1", "kind": "OAuthConsumer", "metadata": { "name": name }, "spec": spec.into() })
}

fn consumer(name: &str, spec: Value) -> OAuthConsumer {
    serde_json::from_value(object(name, spec)).unwrap()
}

/// A patch of this field manager.
fn by(manager: &str) -> PatchParams {
    PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() }
}

type Written = Result<OAuthConsumer, kube::Error>;

/// Brings an object from one spec to another.
async fn change(consumers: &Api<OAuthConsumer>, old: &OAuthConsumer, way: Way, before: &Value, after: Value) -> Written {
    let name = old.name_any();
    let plain = PatchParams::default();
    match way {
        Way::Merge | Way::Approval => {
            let params = if way == Way::Approval { by(MANAGER) } else { plain };
            let mut patch = after;
            // What is no longer there has to be said.
            for gone in before.as_object().unwrap().keys() {
                patch.as_object_mut().unwrap().entry(gone).or_insert(Value::Null);
            }
            consumers.patch(&name, &params, &Patch::Merge(json!({ "spec": patch }))).await
        }
        Way::Json => {
            let replace = serde_json::from_value(json!([{ "op": "replace", "path": "/spec", "value": after }])).unwrap();
            consumers.patch(&name, &plain, &Patch::<OAuthConsumer>::Json(replace)).await
        }
        // As the manager that made it: what it no longer says goes.
        Way::Apply => consumers.patch(&name, &PatchParams::apply("gitops").force(), &Patch::Apply(object(&name, after))).await,
        Way::Replace => {
            let mut new = object(&name, after);
            new["metadata"]["resourceVersion"] = old.resource_version().into();
            consumers.replace(&name, &PostParams::default(), &serde_json::from_value(new).unwrap()).await
        }
    }
}

/// Why a request has to be refused, in the words that the message must have; none if it has to be accepted.
fn refusal(user: &User, verbs: &[&str], way: Option<Way>, needs: &[Needs]) -> Option<Vec<&'static str>> {
    if !verbs.iter().all(|verb| user.verbs.contains(verb)) {
        return Some(vec!["cannot"]);
    }
    let has = |need: &Needs| user.may.contains(need) || *need == Manager && way == Some(Way::Approval);
    let missing: Vec<_> = needs.iter().filter(|need| !has(need)).collect();
    let words = |need: &&Needs| match need {
        Approve => "needs the verb approve on oauthconsumers in namespace",
        Adopt => "needs the verb adopt on oauthconsumers in namespace",
        Secret => "needs the verb get on secrets in namespace",
        Manager | Alone => {
            "lifting a hold takes a request with the field manager oauthconsumers-approval that changes nothing else"
        }
    };
    (!missing.is_empty()).then(|| missing.iter().map(words).collect())
}

fn judge(what: &str, result: Result<(), kube::Error>, expected: Option<Vec<&str>>) {
    match (result, expected) {
        (Ok(()), None) => {}
        (Err(kube::Error::Api(status)), Some(words)) => {
            assert_eq!(status.code, 403, "{what}: {status:?}");
            // One refusal is enough, and the API server tells of one only.
            assert!(words.iter().any(|words| status.message.contains(words)), "{what}: {words:?}: {}", status.message);
            let tells = ["cannot", "; ask ", ": ask ", "an approver types: kubectl -n "];
            assert!(
                tells.iter().any(|words| status.message.contains(words)),
                "{what} does not say who can help: {}",
                status.message
            );
        }
        (result, expected) => panic!("{what}: {result:?}, expected: {expected:?}"),
    }
}

async fn people(cluster: &Cluster) -> BTreeMap<&'static str, Client> {
    let mut clients = BTreeMap::new();
    for user in USERS {
        for role in user.roles {
            grant(&cluster.client, &cluster.namespace, user.name, role).await;
        }
        for right in user.besides {
            allow(&cluster.client, &cluster.namespace, user.name, *right).await;
        }
        clients.insert(user.name, client_of(user.name).await);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_do_what_their_roles_say_and_no_more() {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    let ways = [Way::Merge, Way::Json, Way::Apply, Way::Replace, Way::Approval];
    let cells = USERS.iter().flat_map(|user| ways.into_iter().map(move |way| (user, way)));
    let cells = cells.flat_map(|(user, way)| CHANGES.iter().map(move |change| (user, way, change)));
    let cluster = &cluster;
    let changed = stream::iter(cells.enumerate())
        .map(|(i, (user, way, (title, before, after, needs)))| {
            let client = people[user.name].clone();
            async move {
                let (what, name) = (format!("{}: {title} by {way:?}", user.name), format!("c{i}"));
                let made = Patch::Apply(object(&name, before()));
                let old = cluster.consumers.patch(&name, &PatchParams::apply("gitops"), &made).await.unwrap();
                let consumers = Api::namespaced(client, &cluster.namespace);
                let result = change(&consumers, &old, way, &before(), after()).await;
                let verb = if way == Way::Replace { "update" } else { "patch" };
                if let Ok(new) = &result {
                    let decided = serde_json::to_value(new).unwrap()["spec"]["approved"] != before()["approved"];
                    let stamp = new.annotations().get(DECIDED_BY).map(String::as_str);
                    let expected = match before().get("approved") {
                        _ if decided => Some(user.name),
                        Some(_) => Some("admin"),
                        None => None,
                    };
                    assert_eq!(stamp, expected, "{what}");
                }
                judge(&what, result.map(drop), refusal(user, &[verb], Some(way), needs));
            }
        })
        .buffer_unordered(8);
    assert_eq!(changed.count().await, USERS.len() * ways.len() * CHANGES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_may_register_what_their_roles_say_and_no_more() {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    for (i, user) in USERS.iter().enumerate() {
        let consumers: Api<OAuthConsumer> = Api::namespaced(people[user.name].clone(), &cluster.namespace);
        for (j, (title, spec, needs)) in CREATIONS.iter().enumerate() {
            let posted = consumer(&format!("posted-{i}-{j}"), spec());
            let result = consumers.create(&PostParams::default(), &posted).await;
            judge(&format!("{}: {title}", user.name), result.map(drop), refusal(user, &["create"], None, needs));

            let applied = Patch::Apply(object(&format!("applied-{i}-{j}"), spec()));
            let result = consumers.patch(&format!("applied-{i}-{j}"), &PatchParams::apply("gitops"), &applied).await;
            judge(
                &format!("{}: {title} by apply", user.name),
                result.map(drop),
                refusal(user, &["patch", "create"], None, needs),
            );

            let mut unnamed = object("", spec());
            unnamed["metadata"] = json!({ "generateName": "generated-" });
            let result = consumers.create(&PostParams::default(), &serde_json::from_value(unnamed).unwrap()).await;
            judge(&format!("{}: {title} without a name", user.name), result.map(drop), refusal(user, &["create"], None, needs));
        }
        // Whoever may delete may delete what is approved, too.
        let name = format!("deleted-{i}");
        cluster.consumers.create(&PostParams::default(), &consumer(&name, held())).await.unwrap();
        let deleted = consumers.delete(&name, &DeleteParams::default()).await;
        judge(&format!("{}: delete", user.name), deleted.map(drop), refusal(user, &["delete"], None, &[]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_finalizers_are_nobodys_decision() {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    let mut made = object("jazz", held());
    made["metadata"]["finalizers"] = json!([FINALIZER, "example.com/other"]);
    cluster.consumers.create(&PostParams::default(), &serde_json::from_value(made).unwrap()).await.unwrap();
    cluster.delete("jazz").await;
    let consumers: Api<OAuthConsumer> = Api::namespaced(client_of("editor-without-secrets").await, &cluster.namespace);
    for metadata in [json!({ "labels": { "a": "b" } }), json!({ "annotations": { "a": "b" } }), json!({ "finalizers": null })] {
        consumers.patch("jazz", &PatchParams::default(), &Patch::Merge(json!({ "metadata": metadata }))).await.unwrap();
    }
    assert!(cluster.consumers.get_opt("jazz").await.unwrap().is_none(), "with its last finalizer it goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stamp_cannot_be_forged() {
    let cluster = chart::guarded(Guard::Deny).await;
    people(&cluster).await;
    let client = client_of("editor").await;
    let consumers: Api<OAuthConsumer> = Api::namespaced(client, &cluster.namespace);
    let forged = || json!({ "annotations": { DECIDED_BY: "alice" } });
    let stamp = |object: &OAuthConsumer| object.annotations().get(DECIDED_BY).cloned();

    // At creation: with a decision it becomes one's own, without one there is none.
    let mut decided = object("decided", with(awaiting(), "approved", false));
    decided["metadata"]["annotations"] = forged()["annotations"].clone();
    let made = consumers.create(&PostParams::default(), &serde_json::from_value(decided).unwrap()).await.unwrap();
    assert_eq!(stamp(&made).as_deref(), Some("editor"));
    let mut undecided = object("undecided", awaiting());
    undecided["metadata"]["annotations"] = forged()["annotations"].clone();
    let made = consumers.create(&PostParams::default(), &serde_json::from_value(undecided).unwrap()).await;
    assert!(made.is_err() || stamp(&made.unwrap()).is_none());

    cluster.consumer("jazz", json!({ "approved": true })).await;
    let plain = PatchParams::default();
    // Alone, with a change of something else, and on the way through status.
    for patch in [json!({ "metadata": forged() }), json!({ "metadata": forged(), "spec": { "hold": { "reason": "leaked" } } })] {
        let refused = consumers.patch("jazz", &plain, &Patch::Merge(patch)).await.unwrap_err().to_string();
        assert!(refused.contains("set by the API server only"), "{refused}");
    }
    let through_status = Patch::Merge(json!({ "metadata": forged(), "status": { "observedGeneration": 1 } }));
    let controller: Api<OAuthConsumer> = Api::namespaced(client_of(CONTROLLER).await, &cluster.namespace);
    let passed = controller.patch_status("jazz", &plain, &through_status).await;
    assert!(passed.is_err() || stamp(&cluster.get("jazz").await).as_deref() == Some("admin"));
    // With a decision it is one's own, whatever one says.
    let patch = Patch::Merge(json!({ "metadata": forged(), "spec": { "approved": false } }));
    let decided = consumers.patch("jazz", &plain, &patch).await.unwrap();
    assert_eq!(stamp(&decided).as_deref(), Some("editor"));
    // A manifest that does not have it takes nothing away, however it is brought.
    let mut bare = object("jazz", with(awaiting(), "approved", false));
    bare["metadata"]["resourceVersion"] = decided.resource_version().into();
    bare["spec"]["name"] = "Blues".into();
    let replaced = consumers.replace("jazz", &PostParams::default(), &serde_json::from_value(bare).unwrap()).await.unwrap();
    assert_eq!(stamp(&replaced).as_deref(), Some("editor"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_was_not_stamped_is_nobodys() {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    let store = TestStore::sqlite().await;
    let operator = controller(&cluster, &store).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let consumers = |user: &str| Api::<OAuthConsumer>::namespaced(people[user].clone(), &cluster.namespace);
    let plain = PatchParams::default();
    consumers("configure-server").create(&PostParams::default(), &consumer("jazz", approved())).await.unwrap();
    cluster.wait("jazz", "Approved", is("Approved", "True/Approved")).await;

    // As in the seconds after an API server has started.
    chart::bind(&cluster, Guard::Unstamped).await;
    let decide = |approved: bool| Patch::Merge(json!({ "spec": { "approved": approved } }));
    consumers("editor").patch("jazz", &plain, &decide(false)).await.unwrap();
    let object = cluster.wait("jazz", "Disapproved", is("Approved", "False/Disapproved")).await;
    assert_eq!(object.annotations()[DECIDED_BY], "configure-server", "that is the stamp of the decision before");
    assert_eq!(object.status.unwrap().decision.unwrap().by, None);
    // Nor can what tells them apart be taken off.
    let without = Patch::Merge(json!({ "metadata": { "annotations": { DECIDED: null } } }));
    consumers("editor").patch("jazz", &plain, &without).await.unwrap_err();
    // An approval that nobody answers for is none.
    let refused = consumers("approver").patch("jazz", &plain, &decide(true)).await.unwrap_err().to_string();
    assert!(refused.contains("has not stamped this one"), "{refused}");
    operator.stop().await;
}

on_both_stores!(decisions_name_who_made_them, a_hold_is_lifted_by_an_approver_only, a_key_is_adopted_with_the_verb_for_it);

fn proving(settings: &mut oauthconsumer_operator::controller::Settings) {
    settings.approval_proof = ApprovalProof::Required;
}

async fn controller(cluster: &Cluster, store: &TestStore) -> Operator {
    Operator::start_with(cluster, store.store.clone(), CONTROLLER, proving).await
}

async fn decisions_name_who_made_them(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    let operator = controller(&cluster, &store).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let consumers = |user: &str| Api::<OAuthConsumer>::namespaced(people[user].clone(), &cluster.namespace);
    let decision = |object: &OAuthConsumer| {
        let decision = object.status.clone().unwrap().decision.unwrap();
        (decision.approved, decision.by.unwrap(), decision.generation)
    };

    consumers("configure-server").create(&PostParams::default(), &consumer("jazz", approved())).await.unwrap();
    let object = cluster.wait("jazz", "Approved", is("Approved", "True/Approved")).await;
    assert_eq!(decision(&object), (true, "configure-server".into(), 1));
    let mut since = object.status.clone().unwrap().decision.unwrap().at;

    // To and fro, by everybody who may and in every way there is.
    let rounds = [
        ("editor", Way::Merge, false),
        ("approver", Way::Json, true),
        ("configure-server", Way::Apply, false),
        ("approver", Way::Apply, true),
        ("editor-without-secrets", Way::Replace, false),
        ("approver", Way::Replace, true),
        ("migrator", Way::Json, false),
        ("configure-server", Way::Merge, true),
    ];
    for (user, way, approve) in rounds {
        let old = cluster.get("jazz").await;
        let before = serde_json::to_value(&old.spec).unwrap();
        let changed = change(&consumers(user), &old, way, &before, with(before.clone(), "approved", approve)).await.unwrap();
        let expected = if approve { "True/Approved" } else { "False/Disapproved" };
        let object = cluster.wait("jazz", expected, is("Approved", expected)).await;
        assert_eq!(decision(&object), (approve, user.to_owned(), changed.metadata.generation.unwrap()), "{user} by {way:?}");
        let at = object.status.unwrap().decision.unwrap().at;
        assert!(at.0 >= since.0, "{user} by {way:?}");
        since = at;
    }
    let columns = kubectl(&cluster.namespace, &["get", "oac", "jazz", "-o", "wide"]);
    assert!(String::from_utf8_lossy(&columns.stdout).contains("configure-server"), "{columns:?}");
    operator.stop().await;
}

async fn a_hold_is_lifted_by_an_approver_only(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    let operator = controller(&cluster, &store).await;
    let key = cluster.approved("jazz", SECRET).await;
    assert!(operator.admits(&key, SECRET).await);
    let consumers = |user: &str| Api::<OAuthConsumer>::namespaced(people[user].clone(), &cluster.namespace);
    let plain = PatchParams::default();

    let hold = |hold: Value| Patch::Merge(json!({ "spec": { "hold": hold } }));
    consumers("editor").patch("jazz", &plain, &hold(self::hold("leaked, INC-1234"))).await.unwrap();
    let object = cluster.wait("jazz", "OnHold", is("Active", "False/OnHold")).await;
    assert_eq!(condition(&object, "Approved"), "True/Approved", "the decision is what it was");
    assert!(!operator.admits(&key, SECRET).await);
    consumers("editor").patch("jazz", &plain, &hold(Value::Null)).await.unwrap_err();
    consumers("editor").patch("jazz", &by(MANAGER), &hold(Value::Null)).await.unwrap_err();
    assert!(!operator.admits(&key, SECRET).await);
    // Approved again and again by Git, it stays on hold.
    for params in [&plain, &by(MANAGER)] {
        let approved = Patch::Merge(json!({ "spec": { "approved": true } }));
        let object = consumers("approver").patch("jazz", params, &approved).await.unwrap();
        assert!(object.spec.hold.is_some());
        assert!(!operator.admits(&key, SECRET).await);
    }
    // Nor does it end when a pipeline that may approve leaves it out.
    consumers("approver").patch("jazz", &plain, &hold(Value::Null)).await.unwrap_err();
    assert!(!operator.admits(&key, SECRET).await);
    consumers("approver").patch("jazz", &by(MANAGER), &hold(Value::Null)).await.unwrap();
    cluster.wait("jazz", "Active", is("Active", "True/Active")).await;
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}

async fn a_key_is_adopted_with_the_verb_for_it(store: TestStore) {
    let cluster = chart::guarded(Guard::Deny).await;
    let people = people(&cluster).await;
    let operator = controller(&cluster, &store).await;
    cluster.secret("jazz-oauth", SECRET).await;
    let consumers = |user: &str| Api::<OAuthConsumer>::namespaced(people[user].clone(), &cluster.namespace);
    let key = format!("from-another-system-{}", cluster.namespace);
    let make = |name: &str| consumer(name, with(awaiting(), "consumerKey", key.clone()));

    consumers("configure-server").create(&PostParams::default(), &make("first")).await.unwrap_err();
    consumers("migrator").create(&PostParams::default(), &make("first")).await.unwrap();
    let first = cluster.ready("first").await;
    assert_eq!(first.status.unwrap().consumer_key.unwrap(), key);
    consumers("approver")
        .patch("first", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "approved": true } })))
        .await
        .unwrap();
    cluster.wait("first", "Approved", is("Approved", "True/Approved")).await;
    assert!(operator.admits(&key, SECRET).await);

    consumers("migrator").create(&PostParams::default(), &make("second")).await.unwrap();
    let second = cluster.wait("second", "KeyInUse", is("Ready", "False/KeyInUse")).await;
    assert_eq!((condition(&second, "Approved"), second.status.unwrap().consumer_key), ("Unknown/KeyInUse".into(), None));
    // Nor can a key be changed afterwards, by anybody.
    let other = Patch::Merge(json!({ "spec": { "consumerKey": "another-key" } }));
    consumers("migrator").patch("first", &PatchParams::default(), &other).await.unwrap_err();
    assert!(operator.admits(&key, SECRET).await);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_its_role_keeps_nobody_else_waiting() {
    let (cluster, lost) = (chart::guarded(Guard::Deny).await, chart::guarded(Guard::Deny).await);
    let both = [cluster.namespace.clone(), lost.namespace.clone()];
    let watch_both = |settings: &mut oauthconsumer_operator::controller::Settings| {
        proving(settings);
        settings.namespaces = both.to_vec();
    };
    let store = TestStore::sqlite().await;
    let operator = Operator::start_with(&cluster, store.store.clone(), CONTROLLER, watch_both).await;
    let (key, gone) = (cluster.approved("jazz", SECRET).await, lost.approved("jazz", SECRET).await);
    assert!(operator.admits(&gone, SECRET).await);
    operator.stop().await;

    // As when the namespace is on its way out, or by its administrator's mistake.
    let bindings: Api<k8s_openapi::api::rbac::v1::RoleBinding> = Api::namespaced(cluster.client.clone(), &lost.namespace);
    bindings.delete("oac-controller", &DeleteParams::default()).await.unwrap();
    let operator = Operator::start_with(&cluster, store.store.clone(), CONTROLLER, watch_both).await;
    assert!(operator.admits(&key, SECRET).await);
    cluster.approved("blues", SECRET).await;
    assert!(operator.admits(&gone, SECRET).await, "what cannot be read is not absent");
    let object = lost.get("jazz").await;
    lost.delete("jazz").await;
    lost.gone(&object).await;
    assert!(!operator.admits(&gone, SECRET).await);
    operator.stop().await;
}
