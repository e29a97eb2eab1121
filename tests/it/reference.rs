//! The pages of docs/reference that are made from the code: `make generate` writes them, and the test says when they are stale.
//!
//! Texts come from what really happens (the same functions say them in a reconcile) or from the sources. Causes and next steps
//! are in the comments right above them there: `Cause: ...` and `Next step: ...`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use jiff::Timestamp;
use oauthconsumer_operator::api::crd;
use oauthconsumer_operator::consumer::{
    Conclusion, ConsumerKey, EventReason, Failure, Handling, Object, Outcome, Reason, Record, Revocation, SecretLimits,
    SecretOutcome, SecretProblem, State, StatusUpdate, Stored, conclude,
};
use oauthconsumer_operator::telemetry::{Metrics, PortName};
use serde_json::Value;
use strum::{EnumCount, EnumMessage, VariantArray};

use crate::decisions::{VALUE, World, object};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

static KEY: LazyLock<ConsumerKey> = LazyLock::new(|| ConsumerKey::derive("cluster", "uid"));

/// Where each error has to have a next step, because a program may end with it.
const ENDS: [&str; 4] = ["src/bin/", "src/store/", "src/signin/tls.rs", "src/signin/directory.rs"];

#[test]
fn the_generated_pages_are_current() {
    let fill = |page: &str, parts: &[(&str, String)]| {
        let template = read(&format!("tests/it/reference/{page}.in"));
        let filled = parts.iter().fold(template, |text, (name, part)| text.replace(&format!("{{{{{name}}}}}"), part.trim_end()));
        let path = format!("{ROOT}/docs/reference/{page}");
        if std::env::var_os("GENERATE").is_some() {
            fs::write(&path, &filled).unwrap();
        }
        assert!(fs::read_to_string(path).is_ok_and(|now| now == filled), "docs/reference/{page} is stale; run `make generate`");
    };
    let conclusions = conclusions();
    let messages = [
        ("conditions", conditions(&conclusions)),
        ("secrets", secrets()),
        ("events", events(&conclusions)),
        ("failures", failures()),
        ("schema", schema()),
        ("policies", policies()),
        ("chart", chart()),
        ("logs", logs()),
        ("errors", errors()),
    ];
    fill("messages.md", &messages);
    fill("metrics.md", &[("metrics", metrics())]);
    fill("command-line.md", &[("commands", commands())]);
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let row = |cells: [String; N]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let rows: String = rows.into_iter().map(row).collect();
    format!("{}|{}\n{rows}", row(head.map(str::to_owned)), "---|".repeat(N))
}

fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {} ``", text.trim()) } else { format!("`{}`", text.trim()) }
}

/// What a comment says: what it means, then `Cause: ...` and `Next step: ...`, which may be left out if nothing is wrong.
fn explained(comment: &str, what_is_wrong: &str) -> String {
    let text = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(what_is_wrong.is_empty() || text.contains("Next step: "), "`// Next step: ...` is missing above: {what_is_wrong}");
    text
}

// === What conditions and events say ===

fn failure_samples() -> [Failure; Failure::COUNT] {
    let cause = || "CAUSE".to_owned();
    let api = Failure::Api("failed to VERB OBJECT: CAUSE".into());
    [Failure::Conflict(cause()), Failure::Store(cause()), Failure::KeyInUse("KEY".into()), api, Failure::Internal(cause())]
}

/// What is said of a consumer, for one case of each kind.
fn conclusions() -> Vec<Conclusion> {
    let edit = |world: &World, change: fn(&mut World, &mut Object)| {
        let (mut world, mut object) = (world.clone(), world.object.clone().unwrap());
        object.generation += 1;
        change(&mut world, &mut object);
        World { object: Some(object), ..world }
    };
    let new = World { object: Some(object()), secret: Some(("1", VALUE)), record: None, guarded: true };
    let approved = edit(&new, |_, object| (object.approved, object.decided_by) = (Some(true), Some("alice".into())));
    let known = approved.settle().0;
    let held = edit(&known, |_, object| object.hold = Some("REASON".into()));
    let going = edit(&known, |_, object| object.deleting = true);
    let worlds = [
        edit(&known, |_, object| (object.approved, object.decided_by) = (Some(false), Some("bob".into()))),
        edit(&known, |_, object| (object.approved, object.decided_by) = (None, Some("bob".into()))),
        edit(&held.settle().0, |_, object| object.hold = None),
        edit(&approved, |world, _| world.guarded = false),
        edit(&known, |world, _| world.secret = Some(("2", "another secret, long enough"))),
        edit(&approved, |_, object| object.published.key = Some(KEY.to_string())),
        edit(&known, |world, _| world.record.as_mut().unwrap().intact = false),
        edit(&new, |_, object| object.published.key = Some("ANOTHER-KEY".into())),
        edit(&going, |_, object| object.other_finalizers = vec!["FINALIZER".into()]),
    ];
    let settled = |world: &World| conclude(&world.look(), &Outcome { record: world.settle().0.record, ..Outcome::default() });
    let mut said: Vec<_> = [&new, &approved, &held].into_iter().chain(&worlds).map(settled).collect();

    // What another writer, or no writer, has left in the store.
    let stored = known.record.clone().unwrap();
    let mut say = |world: &World, record: &Record, failure: Option<Failure>| {
        let cluster_restored = matches!(failure, Some(Failure::Conflict(_)));
        let record = Some(Stored { record: record.clone(), version: stored.version + 1, ..stored.clone() });
        said.push(conclude(&world.look(), &Outcome { record, failure, cluster_restored }));
    };
    for problem in SecretProblem::VARIANTS {
        say(&known, &Record { secret: SecretOutcome::Refused(*problem), ..stored.record.clone() }, None);
    }
    for disapproved in [false, true] {
        let revocation = Some(Revocation { at: Timestamp::UNIX_EPOCH, reason: "REASON".into(), disapproved });
        say(&known, &Record { state: State::Revoked, revocation, ..stored.record.clone() }, None);
    }
    say(&known, &stored.clone().out_of_scope(), None);
    say(&going, &stored.record.clone().removed(), Some(Failure::Api("CAUSE".into())));
    let adopting = edit(&known, |_, object| object.adopted_key = ConsumerKey::parse("ANOTHER-KEY").ok());
    for failure in failure_samples() {
        for world in [&known, &adopting, &going] {
            say(world, &stored.record, Some(failure.clone()));
        }
    }
    let status = said[0].status.clone().map(StatusUpdate::without_secret);
    said.push(Conclusion { status, ..said[0].clone() });
    said
}

fn conditions(conclusions: &[Conclusion]) -> String {
    let mut said: HashMap<Reason, [Vec<String>; 2]> = HashMap::new();
    let mut add = |reason: Reason, kind: &str, status: &str, message: &str| {
        let lists = said.entry(reason).or_default();
        for (list, one) in lists.iter_mut().zip([format!("{kind}={status}"), message.replace(KEY.as_str(), "KEY")]) {
            if !list.contains(&one) {
                list.push(one);
            }
        }
    };
    let crd = serde_json::to_value(crd()).unwrap();
    let default = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]["conditions"];
    for pending in default.as_array().unwrap() {
        let text = |field: &str| pending[field].as_str().unwrap();
        add(Reason::Pending, text("type"), text("status"), text("message"));
    }
    for status in conclusions.iter().filter_map(|conclusion| conclusion.status.as_ref()) {
        let StatusUpdate { ready, active, approved, secret_ready, stalled, .. } = status;
        let all = [("Ready", Some(ready)), ("Active", Some(active)), ("Approved", Some(approved))];
        for (kind, state) in all.into_iter().chain([("SecretReady", secret_ready.as_ref()), ("Stalled", stalled.as_ref())]) {
            if let Some(state) = state {
                add(state.reason, kind, &state.status.to_string(), &state.message);
            }
        }
    }
    let mut text = String::new();
    for reason in Reason::VARIANTS {
        let [conditions, messages] = said.get(reason).unwrap_or_else(|| panic!("no case has the reason {reason}"));
        let is_good = conditions.iter().all(|condition| condition.ends_with("=True"));
        let parts = explained(reason.get_documentation().unwrap(), if is_good { "" } else { reason.into() });
        let parts = parts.replace("Cause: ", "\n\n* Cause: ").replace("Next step: ", "\n* Next step: ").replace(" \n", "\n");
        writeln!(text, "### `{reason}`\n\n{parts}{}", if is_good { "\n" } else { "" }).unwrap();
        writeln!(text, "* Conditions: {}", conditions.iter().map(|text| code(text)).collect::<Vec<_>>().join(", ")).unwrap();
        // The messages of a Secret's problems are in a table of their own.
        let is_of_secret = SecretProblem::VARIANTS.iter().any(|problem| problem.reason() == *reason);
        let messages = if is_of_secret {
            vec!["[problems with a Secret](#problems-with-a-secret)".into()]
        } else {
            messages.iter().map(|text| code(text)).collect()
        };
        writeln!(text, "* Message: {}\n", messages.join("\n* Or: ")).unwrap();
    }
    text
}

fn secrets() -> String {
    let Object { namespace, secret_ref, .. } = object();
    let message = |problem: &SecretProblem| code(&problem.message(&namespace, &secret_ref, SecretLimits::default()));
    let row = |problem: &SecretProblem| {
        [code(&problem.reason().to_string()), problem.get_documentation().unwrap().into(), message(problem)]
    };
    table(["Reason", "Cause", "Message, with the next step"], SecretProblem::VARIANTS.iter().map(row))
}

fn events(conclusions: &[Conclusion]) -> String {
    let row = |reason: &EventReason| {
        let of_it: Vec<_> = conclusions.iter().flat_map(|said| &said.events).filter(|event| event.reason == *reason).collect();
        let is_warning = of_it.first().unwrap_or_else(|| panic!("no case has the event {reason}")).is_warning();
        let notes: BTreeSet<_> = of_it.iter().map(|event| code(&event.note.replace(KEY.as_str(), "KEY"))).collect();
        let notes = if *reason == EventReason::SecretUnusable {
            "[The problem](#problems-with-a-secret)".into()
        } else {
            Vec::from_iter(notes).join("<br>")
        };
        let kind = if is_warning { "Warning" } else { "Normal" };
        [
            code(&reason.to_string()),
            kind.into(),
            explained(reason.get_documentation().unwrap(), if is_warning { reason.into() } else { "" }),
            notes,
        ]
    };
    table(["Event", "Type", "Meaning and next step", "Text"], EventReason::VARIANTS.iter().map(row))
}

fn failures() -> String {
    let row = |failure: Failure| {
        let Handling { result, is_logged, ready, .. } = failure.handling();
        let status = ready
            .map_or("stays".into(), |(status, reason)| format!("{status}, [`{reason}`](#{})", reason.to_string().to_lowercase()));
        let level = if is_logged { "warn" } else { "debug" };
        [code(result.into()), failure.get_documentation().unwrap().into(), status, level.into()]
    };
    table(["`result`", "Meaning", "Condition `Ready`", "Logged as"], failure_samples().map(row))
}

// === What the schema and the chart say ===

fn schema() -> String {
    fn rules(path: &str, schema: &Value, found: &mut Vec<[String; 2]>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let field = if path.is_empty() { "`status`".into() } else { code(&path[1..]) };
            found.push([field, code(rule["message"].as_str().unwrap())]);
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            rules(&format!("{path}.{name}"), inner, found);
        }
    }
    let (crd, mut found) = (serde_json::to_value(crd()).unwrap(), Vec::new());
    rules("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
    table(["Field", "Message, with the next step"], found)
}

/// The text of a CEL expression that joins strings: what is not a string stands in braces, by its last name.
fn spelled_out(cel: &str) -> String {
    let parts = cel.replace(r"\'", "\u{0}");
    let parts = parts.split('\'').enumerate().map(|(index, part)| {
        let name = part.trim_matches(['+', ' ']).rsplit('.').next().unwrap();
        if index % 2 == 1 {
            part.into()
        } else if name.is_empty() {
            String::new()
        } else {
            format!("{{{name}}}")
        }
    });
    parts.collect::<String>().replace('\u{0}', "'")
}

fn policies() -> String {
    let mut text = String::new();
    for file in files("charts/oauthconsumer-operator/templates/cluster", "yaml") {
        let source = fs::read_to_string(&file).unwrap();
        let Some(name) = file.file_stem().unwrap().to_str().unwrap().strip_prefix("policy-") else { continue };
        let meaning =
            source.split_once("{{- /*").and_then(|(_, rest)| rest.split_once("*/}}")).expect("a comment says what for").0;
        writeln!(text, "### `oauthconsumers-{name}`\n\n{}\n", explained(meaning, "")).unwrap();
        let mut lines = source.lines().peekable();
        while let Some(line) = lines.next() {
            let Some((key, value)) = line.trim().split_once(':').filter(|(key, _)| key.starts_with("message")) else { continue };
            let depth = |line: &str| line.len() - line.trim_start().len();
            let mut message = value.trim().trim_start_matches(">-").to_owned();
            while let Some(more) = lines.next_if(|next| depth(next) > depth(line)) {
                message = format!("{message} {}", more.trim());
            }
            let message = if key == "messageExpression" { spelled_out(&message) } else { message };
            assert!(message.contains("; "), "it has to say what to do, after a semicolon: {message}");
            writeln!(text, "* {}", code(&message)).unwrap();
        }
        text.push('\n');
    }
    text
}

fn chart() -> String {
    let source = read("charts/oauthconsumer-operator/templates/_checks.tpl");
    let messages = source.split("{{- fail ").skip(1).map(|rest| literals(rest.trim_start_matches("(printf ")).remove(0));
    table(["Message, with the next step"], messages.map(|message| [code(&message.replace("%s", "…").replace("%d", "…"))]))
}

// === What the sources say ===

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![Path::new(ROOT).join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The string literals up to the parenthesis that closes.
fn literals(source: &str) -> Vec<String> {
    let (mut found, mut depth, mut chars) = (Vec::new(), 0, source.chars().peekable());
    while let Some(c) = chars.next() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth < 0 {
            break;
        } else if c == '"' {
            let mut literal = String::new();
            while let Some(c) = chars.next().filter(|c| *c != '"') {
                match if c == '\\' { chars.next() } else { None } {
                    // A line that goes on.
                    Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                    Some('n') => literal.push(' '),
                    Some(escaped) => literal.push(escaped),
                    None => literal.push(c),
                }
            }
            found.push(literal);
        }
    }
    found
}

/// What the sources say after this opening, outside of tests: the file, the text, and the comment above it.
fn said(opening: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for file in files("src", "rs") {
        let (source, name) = (fs::read_to_string(&file).unwrap(), file.strip_prefix(ROOT).unwrap().display().to_string());
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (at, _) in source.match_indices(opening) {
            // The text is the last string; those before it are values of fields.
            let Some(text) = literals(&source[at + opening.len()..]).pop() else { continue };
            let line = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let above = source[..line].lines().rev().map(str::trim).take_while(|line| line.starts_with("//"));
            let mut comment: Vec<_> = above.map(|line| line.trim_start_matches('/')).collect();
            comment.reverse();
            found.push((name.clone(), text, comment.join(" ")));
        }
    }
    found
}

fn logs() -> String {
    let mut rows = Vec::new();
    for (level, opening) in [("error", " error!("), ("warn", " warn!("), ("info", " info!(")] {
        // `{}` is the text of an event.
        for (file, text, comment) in said(opening).into_iter().filter(|(_, text, _)| text != "{}") {
            let explained = explained(if level == "info" { "" } else { &comment }, if level == "info" { "" } else { &text });
            rows.push([level.into(), code(&text), explained, code(file.trim_start_matches("src/"))]);
        }
    }
    table(["Level", "Text", "Cause and next step", "Where in `src`"], rows)
}

fn errors() -> String {
    let rows = said("#[error(").into_iter().filter(|(file, ..)| ENDS.iter().any(|end| file.starts_with(end)));
    let text = |text: &str| (0..3).fold(text.to_owned(), |text, n| text.replace(&format!("{{{n}}}"), "…"));
    table(
        ["Text", "Cause and next step"],
        rows.map(|(_, message, comment)| [code(&text(&message)), explained(&comment, &message)]),
    )
}

// === What the running program says ===

fn metrics() -> String {
    let metrics = Metrics::default();
    // The values of this label are counted once there is something to count.
    for port in [PortName::Signin, PortName::Admin] {
        metrics.connections_refused.inc(port);
    }
    let (text, mut found) = (metrics.render(), BTreeMap::<&str, [String; 4]>::new());
    for line in text.lines().collect::<BTreeSet<_>>() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        if let ["#", what @ ("HELP" | "TYPE"), name, value] = words[..] {
            let row = found.entry(name).or_default();
            (row[0], row[if what == "HELP" { 3 } else { 1 }]) = (code(name), value.to_owned());
        } else if let Some((name, labels)) = line.split_once('{').filter(|(_, labels)| !labels.starts_with("le=")) {
            let row = found.get_mut(name.trim_end_matches("_total")).unwrap();
            let (label, value) = labels.split('}').next().unwrap().split_once('=').unwrap();
            let before = if row[2].is_empty() { format!("{label}: ") } else { format!("{}, ", row[2]) };
            row[2] = before + &code(value.trim_matches('"'));
        }
    }
    table(["Metric", "Type", "Label", "Meaning"], found.into_values())
}

fn commands() -> String {
    let help = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).arg("--help").env_clear().env("COLUMNS", "100").output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        format!("```text\n{}\n```\n", lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    };
    let mut text = String::new();
    let operator = env!("CARGO_BIN_EXE_oauthconsumer-operator");
    for (name, program) in
        [("oauthconsumer-operator", operator), ("kubectl oauthconsumer", env!("CARGO_BIN_EXE_kubectl-oauthconsumer"))]
    {
        let all = help(program, &[]);
        writeln!(text, "## {name}\n\n{all}").unwrap();
        let names = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        for command in names.filter(|name| !["", "help"].contains(name)) {
            writeln!(text, "### {name} {command}\n\n{}", help(program, &[command])).unwrap();
        }
    }
    text
}
