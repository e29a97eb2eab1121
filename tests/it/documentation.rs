//! That the commands in the documentation are run: by `tests/cluster/docs.rs`, which has to know of them.

use std::fs;
use std::path::Path;

use crate::support::pages::{Page, Use};

const LANGUAGES: [&str; 5] = ["sh", "sh refused", "yaml", "sql", "text"];

/// All that a user may read.
fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    for folder in ["docs", "examples", "charts"] {
        find(folder, &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

fn find(folder: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            find(&path, paths);
        } else if entry.path().extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

#[test]
fn every_block_of_code_says_what_it_is() {
    let mut problems = Vec::new();
    for page in pages() {
        for block in &page.blocks {
            let is_known = block.language.as_deref().is_some_and(|language| LANGUAGES.contains(&language));
            if !is_known {
                problems.push(format!("{}:{}: {:?}", page.path, block.line, block.language));
            }
        }
    }
    assert!(problems.is_empty(), "code without a fence, or in a language other than {LANGUAGES:?}:\n{}", problems.join("\n"));
}

#[test]
fn every_page_with_commands_says_where_they_run_and_is_run_there() {
    let worlds = include_str!("../cluster/docs/worlds.sh");
    let run = include_str!("../cluster/docs.rs");
    let mut count = 0;
    for page in pages() {
        let path = &page.path;
        let is_run = run.contains(&format!("{path:?}"));
        if let Some(world) = &page.world {
            assert!(worlds.contains(&format!("\n{world}() {{\n")), "{path}: there is no world {world:?} in worlds.sh");
            assert!(page.has_commands(), "{path} has no commands to run in the world {world:?}");
            assert!(is_run, "{path} is not among the pages of tests/cluster/docs.rs");
            count += 1;
        } else {
            assert!(!page.has_commands(), "{path} has commands, but its first line is not <!-- commands: WORLD -->");
            assert!(
                page.blocks.iter().all(|block| page.use_of(block) == Use::Read),
                "{path} has a file to be written, and no commands that use it"
            );
            assert!(!is_run, "{path} has no commands");
        }
    }
    assert!(count > 0);
}
