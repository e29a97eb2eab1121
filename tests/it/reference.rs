//! The pages of docs/reference that are made from the code: `make generate` writes them, and the test says when they are stale.
//!
//! Texts come from what really happens (the same functions say them in a reconcile) or from the sources. Causes and next steps
//! are in the comments right above them there: `Cause: ...` and `Next step: ...`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use oauthconsumer_operator::api::crd;
use oauthconsumer_operator::consumer::{
    Conclusion, ConditionState, ConsumerKey, EventReason, Failure, Object, Outcome, Reason, Record, Revocation, SecretLimits,
    SecretOutcome, SecretProblem, State, Stored, conclude,
};
use oauthconsumer_operator::telemetry::{Metrics, PortName};
use serde_json::Value;
use strum::{EnumCount, EnumMessage, VariantArray};

use crate::decisions::{VALUE, World, object};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

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
    format!("`{}`", text.trim().replace('\n', " "))
}

/// A comment in parts: what it means, the cause, and the next step. Each may be empty.
fn parts(comment: &str) -> [String; 3] {
    let text = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    let (text, next) = text.split_once("Next step: ").unwrap_or((&text, ""));
    let (meaning, cause) = text.split_once("Cause: ").unwrap_or((text, ""));
    [meaning, cause, next].map(|part| part.trim().to_owned())
}

/// The same in one cell; it has to have a next step.
fn explained(comment: &str, of: &str) -> String {
    let [meaning, cause, next] = parts(comment);
    assert!(!next.is_empty(), "a comment above it has to say the next step, as `Next step: ...`: {of}");
    let cause = if cause.is_empty() { cause } else { format!("Cause: {cause}") };
    [meaning, cause, format!("Next step: {next}")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

// === What conditions and events say ===

fn failure_samples() -> [Failure; Failure::COUNT] {
    [
        Failure::Conflict("CAUSE".into()),
        Failure::Store("CAUSE".into()),
        Failure::KeyInUse("KEY".into()),
        Failure::Api("failed to VERB OBJECT: CAUSE".into()),
        Failure::Internal("CAUSE".into()),
    ]
}

/// What is said of a consumer, for one case of each kind.
fn conclusions() -> Vec<Conclusion> {
    type Change<'a> = &'a dyn Fn(&mut Object);
    let changed = |world: &World, change: Change| {
        let mut world = world.clone();
        change(world.object.as_mut().unwrap());
        world
    };
    // The next generation of the object.
    let then = |world: &World, change: Change| changed(&changed(&world.settle().0, &|object| object.generation += 1), change);
    let new = World { object: Some(object()), secret: Some(("1", VALUE)), record: None, guarded: true };
    let approved = changed(&new, &|object| (object.approved, object.decided_by) = (Some(true), Some("alice".into())));
    let held = then(&approved, &|object| object.hold = Some("REASON".into()));
    let known = approved.settle().0;
    let stored = known.record.clone().unwrap();
    let going = |finalizer: Option<&str>| {
        changed(&known, &|object| {
            (object.deleting, object.other_finalizers) = (true, finalizer.map(str::to_owned).into_iter().collect());
        })
    };
    let worlds = [
        new.clone(),
        approved.clone(),
        then(&approved, &|object| (object.approved, object.decided_by) = (Some(false), Some("bob".into()))),
        then(&approved, &|object| (object.approved, object.decided_by) = (None, Some("bob".into()))),
        held.clone(),
        then(&held, &|object| object.hold = None),
        World { guarded: false, ..approved.clone() },
        World { secret: Some(("2", "another secret, long enough")), ..known.clone() },
        changed(&approved, &|object| object.published.key = Some(stored.record.consumer_key.to_string())),
        World { record: Some(Stored { intact: false, ..stored.clone() }), ..known.clone() },
        changed(&new, &|object| object.published.key = Some("ANOTHER-KEY".into())),
        going(Some("FINALIZER")),
    ];
    let mut conclusions: Vec<_> = worlds
        .iter()
        .map(|world| conclude(&world.look(), &Outcome { record: world.settle().0.record, ..Outcome::default() }))
        .collect();

    let said_of = |world: &World, record: Record, failure: Option<Failure>, cluster_restored: bool| {
        let version = stored.version + i64::from(record != stored.record);
        let record = Some(Stored { record, version, ..stored.clone() });
        conclude(&world.look(), &Outcome { record, failure, cluster_restored })
    };
    let record = || stored.record.clone();
    for problem in SecretProblem::VARIANTS {
        let refused = Record { secret: SecretOutcome::Refused(*problem), secret_floor: 16, ..record() };
        conclusions.push(said_of(&known, refused, None, false));
    }
    for disapproved in [false, true] {
        let revocation = Some(Revocation { at: Timestamp::UNIX_EPOCH, reason: "REASON".into(), disapproved });
        conclusions.push(said_of(&known, Record { state: State::Revoked, revocation, ..record() }, None, false));
    }
    conclusions.push(said_of(&known, stored.clone().out_of_scope(), None, false));
    conclusions.push(said_of(&known, record(), Some(Failure::Conflict(String::new())), true));
    let adopting = changed(&known, &|object| object.adopted_key = ConsumerKey::parse("ANOTHER-KEY").ok());
    for failure in failure_samples() {
        conclusions.push(said_of(&known, record(), Some(failure.clone()), false));
        conclusions.push(said_of(&going(None), record(), Some(failure.clone()), false));
        if matches!(failure, Failure::KeyInUse(_)) {
            conclusions.push(said_of(&adopting, record(), Some(failure), false));
        }
    }
    conclusions.push(said_of(&going(None), record().removed(), Some(Failure::Api("CAUSE".into())), false));
    let status =
        said_of(&known, record(), None, false).status.map(oauthconsumer_operator::consumer::StatusUpdate::without_secret);
    conclusions.push(Conclusion { status, events: Vec::new(), ..conclusions[0].clone() });
    conclusions
}

fn conditions(conclusions: &[Conclusion]) -> String {
    let key = ConsumerKey::derive("cluster", "uid");
    let mut said: BTreeMap<&str, (Vec<String>, Vec<String>)> = BTreeMap::new();
    let mut add = |reason: Reason, kind: &str, status: &str, message: &str| {
        let (conditions, messages) = said.entry(reason.into()).or_default();
        for (list, one) in [(conditions, format!("{kind}={status}")), (messages, message.replace(key.as_str(), "KEY"))] {
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
        let always = [("Ready", &status.ready), ("Active", &status.active), ("Approved", &status.approved)];
        let perhaps = [("SecretReady", &status.secret_ready), ("Stalled", &status.stalled)];
        let perhaps = perhaps.into_iter().filter_map(|(kind, state)| Some((kind, state.as_ref()?)));
        for (kind, ConditionState { status, reason, message }) in always.into_iter().chain(perhaps) {
            add(*reason, kind, &status.to_string(), message);
        }
    }
    let mut text = String::new();
    for reason in Reason::VARIANTS {
        let (conditions, messages) = said.get(<&str>::from(reason)).unwrap_or_else(|| panic!("no case has the reason {reason}"));
        let [meaning, cause, next] = parts(reason.get_documentation().unwrap_or_default());
        let is_good = conditions.iter().all(|condition| condition.ends_with("=True"));
        assert!(!meaning.is_empty() && (is_good || !(cause.is_empty() || next.is_empty())), "{reason} has to be explained");
        writeln!(text, "### `{reason}`\n\n{meaning}\n\n* Conditions: {}.", code(&conditions.join("`, `"))).unwrap();
        for (what, part) in [("Cause", cause), ("Next step", next)].iter().filter(|(_, part)| !part.is_empty()) {
            writeln!(text, "* {what}: {part}").unwrap();
        }
        // The messages of a Secret's problems are in a table of their own.
        if SecretProblem::VARIANTS.iter().any(|problem| problem.reason() == *reason) {
            writeln!(text, "* Message: see [problems with a Secret](#problems-with-a-secret).").unwrap();
        } else {
            for message in messages {
                writeln!(text, "* Message: {}", code(message)).unwrap();
            }
        }
        text.push('\n');
    }
    text
}

fn secrets() -> String {
    let row = |problem: &SecretProblem| {
        let Object { namespace, secret_ref, .. } = object();
        let message = problem.message(&namespace, &secret_ref, SecretLimits::default());
        [code(&problem.reason().to_string()), problem.get_documentation().unwrap().to_owned(), code(&message)]
    };
    table(["Reason", "Cause", "Message, with the next step"], SecretProblem::VARIANTS.iter().map(row))
}

fn events(conclusions: &[Conclusion]) -> String {
    let key = ConsumerKey::derive("cluster", "uid");
    let row = |reason: &EventReason| {
        let of_it = || conclusions.iter().flat_map(|conclusion| &conclusion.events).filter(|event| event.reason == *reason);
        let is_warning = of_it().next().unwrap_or_else(|| panic!("no case has the event {reason}")).is_warning();
        let doc = reason.get_documentation().unwrap();
        let meaning = if is_warning { explained(doc, <&str>::from(reason)) } else { parts(doc)[0].clone() };
        let mut notes: Vec<_> = of_it().map(|event| code(&event.note.replace(key.as_str(), "KEY"))).collect();
        notes.dedup();
        notes.truncate(if *reason == EventReason::SecretUnusable { 1 } else { notes.len() });
        [code(&reason.to_string()), if is_warning { "Warning" } else { "Normal" }.into(), meaning, notes.join("<br>")]
    };
    table(["Event", "Type", "Meaning and next step", "Text"], EventReason::VARIANTS.iter().map(row))
}

fn failures() -> String {
    let row = |failure: Failure| {
        let handling = failure.handling();
        let status = handling
            .ready
            .map_or("stays".into(), |(status, reason)| format!("[{status}, `{reason}`](#{})", reason.to_string().to_lowercase()));
        let result = <&str>::from(handling.result);
        [
            code(result),
            failure.get_documentation().unwrap().to_owned(),
            status,
            if handling.is_logged { "yes" } else { "no" }.into(),
        ]
    };
    table(["`result`", "Meaning", "Condition `Ready`", "Logged"], failure_samples().map(row))
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
    let (mut text, mut name) = (String::new(), String::new());
    for (index, part) in cel.replace(r"\'", "\u{0}").split('\'').enumerate() {
        if index % 2 == 1 {
            text.push_str(part);
        } else {
            name.clear();
            name.push_str(part.trim_matches(|c: char| c == '+' || c.is_whitespace()).rsplit('.').next().unwrap());
            if !name.is_empty() {
                write!(text, "{{{name}}}").unwrap();
            }
        }
    }
    text.replace('\u{0}', "'")
}

fn policies() -> String {
    let mut text = String::new();
    for file in files("charts/oauthconsumer-operator/templates/cluster", "yaml") {
        let source = fs::read_to_string(&file).unwrap();
        let Some(name) = file.file_stem().unwrap().to_str().unwrap().strip_prefix("policy-") else { continue };
        let meaning =
            source.split_once("{{- /*").and_then(|(_, rest)| rest.split_once("*/}}")).expect("a comment says what for").0;
        writeln!(text, "### `oauthconsumers-{name}`\n\n{}\n", parts(meaning)[0]).unwrap();
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
    let plain = |message: String| code(&message.replace("%s", "…").replace("%d", "…").replace('`', "\""));
    messages.fold(String::new(), |text, message| text + "* " + &plain(message) + "\n")
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
            let explained = if level == "info" { String::new() } else { explained(&comment, &format!("{file}: {text}")) };
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
        rows.map(|(_, message, comment)| [code(&text(&message).replace('`', "\"")), explained(&comment, &message)]),
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
    // Comments first, and the labels' values in one order.
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    for line in lines {
        if let Some((what, (name, value))) = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(what, rest)| Some((what, rest.split_once(' ')?)))
        {
            let row = found.entry(name).or_default();
            row[0] = code(name);
            match what {
                "HELP" => value.clone_into(&mut row[3]),
                "TYPE" => value.clone_into(&mut row[1]),
                _ => {}
            }
        } else if let Some((name, label)) = line.split_once('{').filter(|(_, label)| !label.starts_with("le=")) {
            let row = found.get_mut(name.trim_end_matches("_total")).unwrap();
            let (label, value) = label.split_once("=\"").unwrap();
            let first = if row[2].is_empty() { format!("`{label}`: ") } else { format!("{}, ", row[2]) };
            row[2] = format!("{first}{}", code(value.split('"').next().unwrap()));
        }
    }
    table(["Metric", "Type", "Label", "Meaning"], found.into_values())
}

fn commands() -> String {
    let help = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_oauthconsumer-operator"));
        let output = program.args(args).arg("--help").env_clear().env("COLUMNS", "100").output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
    };
    let all = help(&[]);
    let names = all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !["", "help"].contains(name));
    let mut text = format!("## All commands\n\n```text\n{all}```\n");
    for name in names {
        write!(text, "\n## {name}\n\n```text\n{}```\n", help(&[name])).unwrap();
    }
    text
}
