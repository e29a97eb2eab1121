//! The pages of the documentation, and the code on them.

use std::path::Path;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

pub struct Page {
    /// From the root of the checkout.
    pub path: String,
    /// What its commands find: `<!-- commands: WORLD -->` is its first line.
    pub world: Option<String>,
    pub blocks: Vec<Block>,
}

pub struct Block {
    /// The number of the first line of its text.
    pub line: usize,
    /// What follows the opening fence; none if there is no fence, only space at the beginning of each line.
    pub language: Option<String>,
    /// Without the indentation of the list that it is in.
    pub text: String,
}

/// What happens with a block.
#[derive(Clone, Copy, PartialEq)]
pub enum Use<'a> {
    Run,
    /// Its last command has to fail, and no other.
    Refused,
    /// Run in the database.
    Query,
    /// To this file.
    WrittenTo(&'a str),
    Read,
}

// === impl Page ===

impl Page {
    pub fn read(path: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        Self::new(path, &std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    pub fn new(path: &str, markdown: &str) -> Self {
        let first = markdown.lines().next().unwrap_or_default();
        let world = first.strip_prefix("<!-- commands: ").and_then(|rest| rest.strip_suffix(" -->"));
        Self { path: path.to_owned(), world: world.map(ToOwned::to_owned), blocks: blocks(markdown) }
    }

    pub fn use_of<'a>(&self, block: &'a Block) -> Use<'a> {
        match block.language.as_deref() {
            Some("sh") => Use::Run,
            Some("sh refused") => Use::Refused,
            Some("sql") if self.world.as_deref() == Some("postgres") => Use::Query,
            Some("yaml") => {
                let first = block.text.lines().next().unwrap_or_default();
                first.strip_prefix("# file: ").map_or(Use::Read, Use::WrittenTo)
            }
            _ => Use::Read,
        }
    }

    pub fn has_commands(&self) -> bool {
        self.blocks.iter().any(|block| matches!(self.use_of(block), Use::Run | Use::Refused | Use::Query))
    }
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut within = None;
    for (event, range) in Parser::new(markdown).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                let first = markdown[..range.start].matches('\n').count() + 1;
                within = Some(match kind {
                    CodeBlockKind::Fenced(language) => {
                        Block { line: first + 1, language: Some(language.to_string()), text: String::new() }
                    }
                    CodeBlockKind::Indented => Block { line: first, language: None, text: String::new() },
                });
            }
            Event::Text(text) => {
                if let Some(block) = &mut within {
                    block.text += &text;
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(within.take()),
            _ => {}
        }
    }
    blocks
}
