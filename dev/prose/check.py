"""Checks the words of the documentation; dev/prose.sh says what for. Prints what is wrong, a line each."""

import re
import subprocess
import sys
from pathlib import Path

from markdown_it import MarkdownIt

# Words at most, as `wc -w` counts them: in a page, and in all that users read. Generated pages do not count.
PAGE, PAGES = 1100, {"README.md": 800, "docs/architecture.md": 1500, "CHANGELOG.md": 5000}
TOTAL = 20_000
NOT_FOR_USERS = {"CHANGELOG.md", "CONTRIBUTING.md", "dev/README.md"}
SENTENCE = 30
GLOSSARY, TERMS = "docs/glossary.md", 30

# What is never written, and what is written instead.
NOT_OURS = {
    r"nobody|no one|somebody|someone|anybody|anyone|whoever|whosoever|everybody|everyone": "name the actor",
    r"simply|just|obviously|of course|note that": "leave it out",
    r"incarnations?": "epoch",
    r"resync(s|ed|ing)?": "verification, or sweep",
    r"vouch(es|ed)?": "verify",
    r"glances?": "snapshot",
    r"namesakes?": "another object of the same name",
}

wrong = []


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def text_of(inline):
    """The text as it is read; code counts as a word."""
    kinds = {"text": lambda t: t.content, "code_inline": lambda t: "code", "softbreak": lambda t: " ", "hardbreak": lambda t: " "}
    return "".join(kinds[token.type](token) for token in inline.children if token.type in kinds)


class Page:
    def __init__(self, name):
        self.name, self.source = name, Path(name).read_text()
        self.is_generated = "generated" in self.source.split("\n", 1)[0]
        tokens = MarkdownIt("commonmark").enable("table").parse(self.source)
        self.anchors, self.links, self.sentences = set(), [], []
        for before, token in zip([None, *tokens], tokens):
            if token.type != "inline":
                continue
            line, text = token.map[0] + 1, text_of(token)
            if before.type == "heading_open":
                anchor, again = slug("".join(t.content for t in token.children if t.type in ("text", "code_inline"))), 0
                while (name := f"{anchor}-{again}" if again else anchor) in self.anchors:
                    again += 1
                self.anchors.add(name)
            self.links += [(line, t.attrGet("href")) for t in token.children if t.type == "link_open"]
            self.sentences += [(line, s) for s in re.split(r"(?<=[.!?:])\s+", text)]

    def complain(self, line, what):
        wrong.append(f"{self.name}:{line}: {what}")

    def check(self, pages):
        for line, link in self.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            path = Path(self.name).parent / target if target else Path(self.name)
            name = str(path.resolve().relative_to(Path.cwd()))
            if not path.exists():
                self.complain(line, f"the link {link} leads nowhere")
            elif anchor and name in pages and anchor not in pages[name].anchors:
                self.complain(line, f"{name} has no heading for the link {link}")
        if self.is_generated:
            return
        words, most = len(self.source.split()), PAGES.get(self.name, PAGE)
        if words > most:
            self.complain(1, f"{words} words, and {most} are allowed")
        for line, sentence in self.sentences:
            if len(sentence.split()) > SENTENCE:
                self.complain(line, f"{len(sentence.split())} words in a sentence, and {SENTENCE} are allowed: {sentence[:60]} ...")
            for pattern, instead in NOT_OURS.items():
                for found in re.finditer(rf"\b({pattern})\b", sentence, re.IGNORECASE):
                    self.complain(line, f'"{found[0]}": {instead}')


def check_glossary(page, others):
    terms = [row.split("|")[1].strip() for row in page.source.splitlines() if row.startswith("| ")][1:]
    if len(terms) > TERMS:
        page.complain(1, f"{len(terms)} terms, and {TERMS} are allowed")
    for term in terms:
        if not any(re.search(rf"\b{re.escape(term)}", other.source, re.IGNORECASE) for other in others):
            page.complain(1, f'no page uses "{term}"')
    for other in others:
        is_linked = any("glossary.md" in link for _, link in other.links)
        if other.name.startswith("docs/") and not other.is_generated and not is_linked:
            other.complain(1, "it does not link to the glossary")


names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], capture_output=True, text=True, check=True).stdout.split()
pages = {name: Page(name) for name in names if Path(name).exists()}
for page in pages.values():
    page.check(pages)
check_glossary(pages[GLOSSARY], [page for page in pages.values() if page.name != GLOSSARY])
for_users = [page for name, page in pages.items() if name not in NOT_FOR_USERS and not page.is_generated]
total = sum(len(page.source.split()) for page in for_users)
if total > TOTAL:
    wrong.append(f"{total} words in all, and {TOTAL} are allowed")
print(*wrong, sep="\n", file=sys.stderr, end="\n" if wrong else "")
print(f"prose: {len(pages)} pages, {total} words for users, {len(wrong)} complaints")
sys.exit(bool(wrong))
