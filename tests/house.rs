//! The house rules that a machine can check: who imports whom, who may read a clock, what lies at the top level.
//!
//! The rules stand as tables at the top; below them are the checks over the real tree, then the reader that finds
//! paths in source text, then the tests of the checks themselves (a planted violation must be found). The reader
//! knows Rust's tokens, not its grammar: it sees every path that starts at `crate`, `super` or a crate's name,
//! whether in a `use` line or inline, and leaves out comments, strings and what is compiled for tests only.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Each top-level module of the crate with its layer. An import points to the same or a lower number.
const LAYERS: &[(&str, u8)] = &[
    ("realtime", 1),
    ("telemetry", 1),
    ("transport", 1),
    ("outbound", 1),
    ("secret", 1),
    ("media", 2),
    ("call", 3),
    ("auth", 4),
    ("quota", 4),
    ("routing", 4),
    ("records", 4),
    ("traces", 4),
    ("ingress", 5),
    ("upstream", 5),
    ("bridge", 6),
    ("listener", 7),
    ("admin", 8),
    ("config", 8),
    ("simulator", 8),
    ("cli", 8),
];

/// Modules that are crates of their own: `trunkline` names them `crate::media` too.
const OWN_CRATES: &[&str] = &["media", "simulator"];

/// Imports that the layers alone would allow: who, what, and why not.
const FORBIDDEN: &[(&[&str], &[&str], &str)] = &[
    (LAYER_1, LAYER_1, "layer 1 imports nothing of ours"),
    (
        &["outbound"],
        &["realtime", "telemetry", "secret"],
        "what is asked of others rests on transport alone",
    ),
    (
        PURE,
        &["transport", "outbound"],
        "a pure module holds no socket",
    ),
    (
        &["auth", "quota", "routing", "records", "traces"],
        &["auth", "quota", "routing", "records", "traces"],
        "decisions do not know each other",
    ),
    (
        &["auth", "quota", "routing", "records", "traces"],
        &["media"],
        "decisions do not know audio",
    ),
    (
        &["ingress", "upstream"],
        &["ingress", "upstream"],
        "the two legs do not know each other",
    ),
];

const LAYER_1: &[&str] = &["realtime", "telemetry", "transport", "secret"];

/// The stand-in deployment is checked against the gateway, so it shares no protocol code with it.
const SIMULATOR_MAY_IMPORT: &[&str] = &["media", "telemetry"];

/// Who may start the stand-in deployment (the `loadtest` crate may as well).
const SIMULATOR_IS_IMPORTED_BY: &[&str] = &["cli"];

/// Modules that are functions of their inputs: no clock, no socket, no task.
const PURE: &[&str] = &["realtime", "media", "call", "ingress", "routing"];

/// Paths that a pure module does not name.
const IMPURE_PATHS: &[&[&str]] = &[
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["std", "net"],
    &["std", "thread"],
    &["hyper"],
    &["tokio"],
    &["tokio_tungstenite"],
    &["tokio_util"],
];

/// Beyond that, the call core speaks the vocabulary of calls, not of any wire format.
const NOT_IN_CALL: &[&[&str]] = &[&["serde_json"], &["base64"]];

/// What may be seen at the top level of the repository; names that begin with a dot are settings and free.
const TOP_LEVEL: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "deploy",
    "loadtest",
    "proto",
    "src",
    "target",
    "tests",
];

/// Findings that are known and wanted: the file, what it names, and the reason. One that no longer occurs fails.
const EXCEPTIONS: &[Exception] = &[Exception {
    file: "src/ingress/upgrade.rs",
    names: "tokio_tungstenite::tungstenite::handshake::derive_accept_key",
    reason: "a hash of a header (RFC 6455 section 4.2.2), without socket or task",
}];

struct Exception {
    file: &'static str,
    names: &'static str,
    reason: &'static str,
}

#[test]
fn imports_point_downward() {
    assert_clean(all_sources().iter().flat_map(check_imports).collect());
}

#[test]
fn each_module_with_a_layer_is_there() {
    let sources = all_sources();
    for (module, _) in LAYERS {
        let is_there = sources.iter().any(|it| it.top_module() == Some(module));
        assert!(is_there, "there is no module {module} any more");
    }
}

#[test]
fn pure_modules_read_no_clock_and_open_no_socket() {
    assert_clean(all_sources().iter().flat_map(check_purity).collect());
}

#[test]
fn every_module_says_what_it_is_for() {
    assert_clean(all_sources().iter().flat_map(check_header).collect());
}

#[test]
fn unwrap_is_not_allowed_back_in_outside_tests() {
    assert_clean(all_sources().iter().flat_map(check_allowed_lints).collect());
}

#[test]
fn only_known_names_lie_at_the_top_level() {
    let names = fs::read_dir(root())
        .expect("the repository root is readable")
        .map(|entry| entry.expect("a readable entry").file_name());
    let strangers: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| !is_allowed_at_top(name))
        .collect();
    assert!(
        strangers.is_empty(),
        "not allowed at the top level: {strangers:?}"
    );
}

#[test]
fn exceptions_are_still_needed_and_give_a_reason() {
    let sources = all_sources();
    let findings: Vec<_> = sources
        .iter()
        .flat_map(|source| {
            [
                check_imports(source),
                check_purity(source),
                check_header(source),
                check_allowed_lints(source),
            ]
        })
        .flatten()
        .collect();
    for exception in EXCEPTIONS {
        assert!(!exception.reason.is_empty(), "{}", exception.file);
        assert!(
            findings.iter().any(|finding| exception.covers(finding)),
            "the exception for {} and {} is no longer needed",
            exception.file,
            exception.names,
        );
    }
}

fn assert_clean(findings: Vec<Finding>) {
    let open: Vec<_> = findings
        .iter()
        .filter(|finding| !EXCEPTIONS.iter().any(|known| known.covers(finding)))
        .map(Finding::to_string)
        .collect();
    assert!(open.is_empty(), "\n{}\n", open.join("\n"));
}

fn is_allowed_at_top(name: &str) -> bool {
    name.starts_with('.') || TOP_LEVEL.contains(&name)
}

// --- The checks, each over one file.

/// One source file, by its path from the repository root with forward slashes.
struct Source {
    file: String,
    text: String,
}

/// One broken rule and where.
struct Finding {
    file: String,
    line: usize,
    names: String,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            file,
            line,
            names,
            rule,
        } = self;
        write!(f, "{file}:{line}: `{names}`: {rule}")
    }
}

impl Exception {
    fn covers(&self, finding: &Finding) -> bool {
        finding.file == self.file && finding.names == self.names
    }
}

impl Source {
    /// The module path of this file inside its crate: `src/call/event.rs` is `[call, event]`.
    fn module(&self) -> Vec<&str> {
        let inside = self
            .file
            .strip_prefix("src/")
            .unwrap_or(&self.file)
            .trim_end_matches(".rs");
        let mut module: Vec<_> = inside.split('/').collect();
        if matches!(module.last(), Some(&("mod" | "lib" | "main"))) {
            module.pop();
        }
        module
    }

    /// The top-level module that this file belongs to; none for the crate roots and for other crates.
    fn top_module(&self) -> Option<&str> {
        if self.file.starts_with("src/") {
            self.module().first().copied()
        } else {
            None
        }
    }

    fn finding(&self, path: &FoundPath, rule: impl Into<String>) -> Finding {
        Finding {
            file: self.file.clone(),
            line: path.line,
            names: path.segments.join("::"),
            rule: rule.into(),
        }
    }
}

fn check_imports(source: &Source) -> Vec<Finding> {
    paths_outside_tests(source)
        .iter()
        .filter_map(|path| {
            let rule = broken_import_rule(source.top_module(), source, &path.segments)?;
            Some(source.finding(path, rule))
        })
        .collect()
}

fn broken_import_rule(from: Option<&str>, source: &Source, path: &[String]) -> Option<String> {
    let to = match (path.first().map(String::as_str)?, path.get(1)) {
        // A root item (a macro, `crate` itself) would hide the module that it comes from.
        ("crate", None) => return None,
        ("crate", Some(_)) if from.is_some_and(|from| OWN_CRATES.contains(&from)) => return None,
        ("crate" | "trunkline", Some(module)) => module.as_str(),
        (name, _) => name
            .strip_prefix("trunkline_")
            .filter(|name| OWN_CRATES.contains(name))?,
    };
    // The crate roots and the load generator stand above all layers.
    let Some(from) = from else {
        return (!is_layer(to) && source.file.starts_with("src/"))
            .then(|| format!("`{to}` has no layer; name it in tests/house.rs"));
    };
    if from == to {
        return None;
    }
    let Some((from_layer, to_layer)) = layer(from).zip(layer(to)) else {
        let unknown = if is_layer(from) { to } else { from };
        return Some(format!(
            "`{unknown}` has no layer; name it in tests/house.rs"
        ));
    };
    if to_layer > from_layer {
        return Some(format!(
            "upward import: {from} is layer {from_layer}, {to} is layer {to_layer}"
        ));
    }
    if from == "simulator" && !SIMULATOR_MAY_IMPORT.contains(&to) {
        return Some(format!("simulator knows only {SIMULATOR_MAY_IMPORT:?}"));
    }
    if to == "simulator" && !SIMULATOR_IS_IMPORTED_BY.contains(&from) {
        return Some(format!(
            "only {SIMULATOR_IS_IMPORTED_BY:?} start the simulator"
        ));
    }
    FORBIDDEN
        .iter()
        .find(|(who, what, _)| who.contains(&from) && what.contains(&to))
        .map(|(_, _, why)| format!("{from} imports {to}: {why}"))
}

fn layer(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find_map(|(name, layer)| (*name == module).then_some(*layer))
}

fn is_layer(module: &str) -> bool {
    layer(module).is_some()
}

fn check_purity(source: &Source) -> Vec<Finding> {
    let Some(module) = source.top_module().filter(|module| PURE.contains(module)) else {
        return Vec::new();
    };
    let also = if module == "call" { NOT_IN_CALL } else { &[] };
    let banned: Vec<_> = IMPURE_PATHS.iter().chain(also).collect();
    paths_outside_tests(source)
        .iter()
        .filter(|path| banned.iter().any(|banned| path.contains(banned)))
        .map(|path| {
            source.finding(
                path,
                format!("`{module}` is pure: no clock, socket or task"),
            )
        })
        .collect()
}

fn check_header(source: &Source) -> Vec<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty());
    let has_header =
        first.is_some_and(|line| line.starts_with("//! ") || line.starts_with("#![doc"));
    if has_header {
        return Vec::new();
    }
    vec![Finding {
        file: source.file.clone(),
        line: 1,
        names: "//!".to_owned(),
        rule: "a module opens with what it is for".to_owned(),
    }]
}

fn check_allowed_lints(source: &Source) -> Vec<Finding> {
    let tokens = without_tests(tokenize(&source.text));
    let words: Vec<_> = tokens.iter().map(|token| token.text.as_str()).collect();
    let mut findings = Vec::new();
    for (at, window) in words.windows(3).enumerate() {
        if matches!(window, ["clippy", "::", "unwrap_used"]) {
            findings.push(Finding {
                file: source.file.clone(),
                line: tokens[at].line,
                names: "clippy::unwrap_used".to_owned(),
                rule: "unwrap stays in tests; `expect` states an invariant".to_owned(),
            });
        }
    }
    findings
}

fn all_sources() -> Vec<Source> {
    let mut files = BTreeSet::new();
    collect_rust_files(&root().join("src"), &mut files);
    collect_rust_files(&root().join("loadtest"), &mut files);
    assert!(files.len() > 10, "the sources are found");
    files
        .into_iter()
        .map(|path| Source {
            file: path
                .strip_prefix(root())
                .expect("collected below the root")
                .to_string_lossy()
                .replace('\\', "/"),
            text: fs::read_to_string(&path).expect("a source file is UTF-8"),
        })
        .collect()
}

fn collect_rust_files(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect_rust_files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.insert(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// --- The reader: source text to paths.

/// A path as written, groups expanded and `super` resolved, with the line where it begins.
struct FoundPath {
    segments: Vec<String>,
    line: usize,
}

impl FoundPath {
    fn contains(&self, banned: &[&str]) -> bool {
        match banned {
            // A crate's name counts only where the path begins.
            [crate_name] => self
                .segments
                .first()
                .is_some_and(|first| first == crate_name),
            _ => self.segments.windows(banned.len()).any(|w| w == banned),
        }
    }
}

/// Every path of two or more segments and every `use` tree that is compiled outside tests.
fn paths_outside_tests(source: &Source) -> Vec<FoundPath> {
    let module = source.module().into_iter().map(str::to_owned).collect();
    let mut reader = PathReader {
        tokens: without_tests(tokenize(&source.text)),
        at: 0,
        module,
        inline_modules: Vec::new(),
        depth: 0,
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

struct PathReader {
    tokens: Vec<Token>,
    at: usize,
    /// The module that the reader stands in, inline modules included.
    module: Vec<String>,
    /// The brace depth inside each inline module that is open.
    inline_modules: Vec<usize>,
    depth: usize,
    found: Vec<FoundPath>,
}

impl PathReader {
    fn read(&mut self) {
        while self.at < self.tokens.len() {
            match self.word(0) {
                "use" => {
                    self.at += 1;
                    self.skip("::");
                    self.use_tree(Vec::new());
                }
                "mod" if self.word(2) == "{" => {
                    self.module.push(self.word(1).to_owned());
                    self.depth += 1;
                    self.inline_modules.push(self.depth);
                    self.at += 3;
                }
                "{" => {
                    self.depth += 1;
                    self.at += 1;
                }
                "}" => {
                    if self.inline_modules.last() == Some(&self.depth) {
                        self.inline_modules.pop();
                        self.module.pop();
                    }
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                word if is_identifier(word) && self.word(1) == "::" => self.inline_path(),
                _ => self.at += 1,
            }
        }
    }

    /// `a::b::c`, from `a` on.
    fn inline_path(&mut self) {
        let line = self.line();
        let mut segments = vec![self.word(0).to_owned()];
        self.at += 1;
        while self.word(0) == "::" && is_identifier(self.word(1)) {
            segments.push(self.word(1).to_owned());
            self.at += 2;
        }
        self.push(segments, line);
    }

    /// `a::{b, c::d as e, *}` below `prefix`; ends behind the tree.
    fn use_tree(&mut self, mut prefix: Vec<String>) {
        let line = self.line();
        loop {
            let word = self.word(0).to_owned();
            match word.as_str() {
                "{" => {
                    self.at += 1;
                    while !matches!(self.word(0), "}" | "") {
                        self.use_tree(prefix.clone());
                        self.skip(",");
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    return self.push(prefix, line);
                }
                _ if is_identifier(&word) => {
                    prefix.push(word);
                    self.at += 1;
                }
                // Not a path: let the main loop go on behind it.
                _ => {
                    self.at += 1;
                    return;
                }
            }
            if self.word(0) == "as" {
                self.at += 2;
            }
            if self.word(0) != "::" {
                return self.push(prefix, line);
            }
            self.at += 1;
        }
    }

    fn push(&mut self, segments: Vec<String>, line: usize) {
        let segments = resolve(&self.module, segments);
        self.found.push(FoundPath { segments, line });
    }

    fn word(&self, ahead: usize) -> &str {
        self.tokens
            .get(self.at + ahead)
            .map_or("", |token| token.text.as_str())
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |token| token.line)
    }

    fn skip(&mut self, word: &str) {
        if self.word(0) == word {
            self.at += 1;
        }
    }
}

/// `super` and `self` at the head, rewritten to start at `crate`.
fn resolve(module: &[String], segments: Vec<String>) -> Vec<String> {
    let ups = segments.iter().take_while(|word| *word == "super").count();
    let starts_at_self = segments.first().is_some_and(|word| word == "self");
    if ups == 0 && !starts_at_self {
        return segments;
    }
    let keep = module.len().saturating_sub(ups);
    let mut resolved = vec!["crate".to_owned()];
    resolved.extend(module[..keep].iter().cloned());
    resolved.extend(segments.into_iter().skip(ups.max(1)));
    resolved
}

/// The tokens without the items that an attribute gives to tests.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "#" && tokens.get(at + 1).is_some_and(|next| next.text == "[") {
            let end = matching(&tokens, at + 1);
            if is_for_tests(&tokens[at..end]) {
                at = item_end(&tokens, end);
            } else {
                kept.extend_from_slice(&tokens[at..end]);
                at = end;
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_for_tests(attribute: &[Token]) -> bool {
    let words: Vec<_> = attribute.iter().map(|token| token.text.as_str()).collect();
    match words.get(2) {
        Some(&"cfg") => words.contains(&"test") && !words.contains(&"not"),
        // `#[test]`, `#[tokio::test]`, `#[tokio::test(start_paused = true)]`.
        Some(_) => {
            let path: Vec<_> = words[2..]
                .iter()
                .take_while(|word| is_identifier(word) || **word == "::")
                .collect();
            path.last() == Some(&&"test")
        }
        None => false,
    }
}

/// The index behind the item that starts at `at`, further attributes included.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    let words: Vec<_> = tokens[at..].iter().map(|t| t.text.as_str()).collect();
    let keyword = words
        .windows(2)
        .filter(|pair| *pair != ["const", "fn"])
        .map(|pair| pair[0])
        .find(|word| ITEM_KEYWORDS.contains(word));
    let has_body = !matches!(keyword, Some("use" | "static" | "const" | "let"));
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            ";" => return at + 1,
            // The end of what holds the item: it was a field or a last expression.
            "}" => return at,
            "{" if has_body => return matching(tokens, at),
            "{" | "(" | "[" => at = matching(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// The first of these says whether an item ends with a block or with a semicolon.
const ITEM_KEYWORDS: &[&str] = &[
    "use", "static", "const", "let", "mod", "fn", "struct", "enum", "impl", "trait", "type",
];

/// The index behind the bracket that closes the one at `open`.
fn matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

#[derive(Clone)]
struct Token {
    text: String,
    line: usize,
}

/// Identifiers, `::` and single punctuation characters; comments, strings, chars and lifetimes are left out.
fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        match chars[at] {
            '/' if next == '/' => at = end_of_line(&chars, at),
            '/' if next == '*' => at = end_of_block_comment(&chars, at),
            '"' => at = end_of_string(&chars, at),
            '\'' => at = end_of_char_or_lifetime(&chars, at),
            'r' | 'b' | 'c' if string_prefix(&chars, at).is_some() => {
                at = string_prefix(&chars, at).expect("just seen");
            }
            first if is_word(first) => {
                while at < chars.len() && is_word(chars[at]) {
                    at += 1;
                }
                tokens.push(token(&chars[start..at], line));
            }
            ':' if next == ':' => {
                at += 2;
                tokens.push(token(&chars[start..at], line));
            }
            first => {
                at += 1;
                if !first.is_whitespace() {
                    tokens.push(token(&chars[start..at], line));
                }
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn token(chars: &[char], line: usize) -> Token {
    Token {
        text: chars.iter().collect(),
        line,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    chars[at..]
        .iter()
        .position(|c| *c == '\n')
        .map_or(chars.len(), |length| at + length)
}

fn end_of_block_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => {
                depth += 1;
                at += 2;
            }
            ('*', '/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `b"…"`, `c"…"`, `r"…"`, `br#"…"#` and their like at `at`; none if an identifier starts here.
fn string_prefix(chars: &[char], at: usize) -> Option<usize> {
    let mut quote = at;
    let mut raw = false;
    while let Some('r' | 'b' | 'c') = chars.get(quote) {
        raw |= chars[quote] == 'r';
        quote += 1;
    }
    let hashes = chars[quote..].iter().take_while(|c| **c == '#').count();
    quote += hashes;
    if chars.get(quote) != Some(&'"') || quote - hashes - at > 2 || (hashes > 0 && !raw) {
        return None;
    }
    if !raw {
        return Some(end_of_string(chars, quote));
    }
    let mut end = quote + 1;
    while end < chars.len() {
        let tail = chars[end + 1..]
            .iter()
            .take(hashes)
            .filter(|c| **c == '#')
            .count();
        if chars[end] == '"' && tail == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(chars.len())
}

fn end_of_char_or_lifetime(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => chars[at + 3..]
            .iter()
            .position(|c| *c == '\'')
            .map_or(chars.len(), |length| at + 3 + length + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

// --- The checks find what they are for.

fn source(file: &str, text: &str) -> Source {
    Source {
        file: file.to_owned(),
        text: text.to_owned(),
    }
}

/// The lines at which `check` finds something in `text` if it stood in `file`.
fn lines(check: fn(&Source) -> Vec<Finding>, file: &str, text: &str) -> Vec<usize> {
    let mut lines: Vec<_> = check(&source(file, text))
        .iter()
        .map(|finding| finding.line)
        .collect();
    lines.dedup();
    lines
}

#[track_caller]
fn check_import(file: &str, text: &str, expected: &[usize]) {
    assert_eq!(lines(check_imports, file, text), expected, "{file}: {text}");
}

#[test]
fn upward_imports_are_found() {
    check_import("src/media/pacer.rs", "use trunkline::call::Mark;", &[1]);
    check_import("src/realtime/a.rs", "\nuse crate::{\n  call,\n};", &[3]);
    check_import(
        "src/call/core.rs",
        "use crate::{media::Frame,\n bridge::Leg};",
        &[2],
    );
    check_import("src/call/core.rs", "fn f(leg: crate::bridge::Leg) {}", &[1]);
    check_import("src/call/core.rs", "pub use super::super::bridge;", &[1]);
    check_import("src/call/mod.rs", "use super::listener::Route;", &[1]);
    check_import(
        "src/call/mod.rs",
        "mod m { use super::super::cli::A; }",
        &[1],
    );
    check_import("src/telemetry/mod.rs", "use crate::media as m;", &[1]);
    check_import("src/bridge/mod.rs", "use crate::config::*;", &[1]);
}

#[test]
fn sideways_imports_are_found_where_forbidden() {
    check_import("src/telemetry/mod.rs", "use crate::realtime::X;", &[1]);
    check_import("src/realtime/mod.rs", "use crate::telemetry::X;", &[1]);
    check_import("src/media/mod.rs", "use trunkline_simulator::X;", &[1]);
    check_import("src/ingress/mod.rs", "use crate::outbound::X;", &[1]);
    check_import("src/outbound.rs", "use crate::telemetry::X;", &[1]);
    check_import("src/auth/mod.rs", "use crate::quota::X;", &[1]);
    check_import("src/routing/mod.rs", "use crate::auth::X;", &[1]);
    check_import("src/quota/mod.rs", "use crate::media::X;", &[1]);
    check_import("src/ingress/twilio.rs", "use crate::upstream::X;", &[1]);
    check_import("src/upstream/mod.rs", "use crate::ingress::X;", &[1]);
    check_import("src/simulator/mod.rs", "use trunkline::realtime::X;", &[1]);
    check_import("src/admin/mod.rs", "use trunkline_simulator::X;", &[1]);
    check_import("src/admin/mod.rs", "use crate::simulator::X;", &[1]);
    check_import("src/call/mod.rs", "use crate::RootItem;", &[1]);
    check_import("src/newcomer/mod.rs", "use crate::media::X;", &[1]);
    check_import("src/main.rs", "use trunkline::newcomer::X;", &[1]);
}

#[test]
fn wanted_imports_pass() {
    check_import("src/call/core.rs", "use crate::media::{Frame, Pacer};", &[]);
    check_import(
        "src/call/core.rs",
        "use super::event::X; use super::X;",
        &[],
    );
    check_import("src/call/mod.rs", "use self::event::X;", &[]);
    check_import("src/ingress/twilio.rs", "use crate::{call, realtime};", &[]);
    check_import(
        "src/simulator/mod.rs",
        "use trunkline_media::X; use crate::vad::X;",
        &[],
    );
    check_import("src/outbound.rs", "use crate::transport::X;", &[]);
    check_import("src/cli/demo.rs", "use crate::{simulator, listener};", &[]);
    check_import("src/config/mod.rs", "use crate::listener::X;", &[]);
    check_import("src/main.rs", "use trunkline::cli;", &[]);
    check_import("loadtest/src/main.rs", "use trunkline::simulator::X;", &[]);
    check_import("src/media/mod.rs", "use std::fmt; use rubato::Fft;", &[]);
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    let upward = "use crate::cli::X;";
    for text in [
        format!("// {upward}\n/* {upward} /* nested */ {upward} */"),
        format!("const A: &str = \"{upward}\";"),
        format!("const A: &[u8] = br#\"\" {upward}\"#;"),
        format!("#[cfg(test)]\nmod tests {{ {upward} fn f() {{}} }}"),
        format!("#[cfg(test)]\n{upward}"),
        format!("#[cfg(test)]\n#[path = \"x\"]\npub(crate) mod m {{ {upward} }}"),
        format!("#[test]\nfn f() {{ {upward} }}"),
        format!("#[tokio::test(start_paused = true)]\nasync fn f() {{ {upward} }}"),
        "#[cfg(test)]\nuse crate::{cli::A, cli::B};".to_owned(),
        "#[cfg(test)]\npub(crate) const fn f() { crate::cli::f(); }".to_owned(),
        "#[cfg(test)]\nfn f(a: [u8; 2]) { crate::cli::f(); }".to_owned(),
        "struct S { #[cfg(test)] a: crate::cli::A }".to_owned(),
    ] {
        check_import("src/call/mod.rs", &text, &[]);
        // What stands behind is seen again, at its own line.
        let behind = format!("{text}\n{upward}");
        let last = behind.lines().count();
        check_import("src/call/mod.rs", &behind, &[last]);
    }
    check_import(
        "src/call/mod.rs",
        "#[cfg(not(test))]\nuse crate::cli;",
        &[2],
    );
    check_import(
        "src/call/mod.rs",
        "fn f<'a>(c: char) { c == '\"' || c == '\\''; }\nuse crate::cli::A;",
        &[2],
    );
}

#[test]
fn clocks_and_sockets_are_found_in_pure_modules() {
    let found = |file, text| lines(check_purity, file, text);
    assert_eq!(found("src/call/core.rs", "\nlet t = Instant::now();"), [2]);
    assert_eq!(found("src/media/a.rs", "std::time::Instant::now()"), [1]);
    assert_eq!(found("src/realtime/a.rs", "SystemTime::now()"), [1]);
    assert_eq!(found("src/ingress/a.rs", "use tokio::net::TcpStream;"), [1]);
    assert_eq!(
        found("src/ingress/a.rs", "use std::{fmt, net::IpAddr};"),
        [1]
    );
    assert_eq!(found("src/call/a.rs", "use serde_json::Value;"), [1]);
    assert_eq!(found("src/ingress/a.rs", "use serde_json::Value;"), [0; 0]);
    assert_eq!(found("src/call/a.rs", "fn f(now: Instant) {}"), [0; 0]);
    assert_eq!(found("src/bridge/a.rs", "Instant::now()"), [0; 0]);
    let in_test = "#[cfg(test)] mod tests { fn f() { Instant::now(); } }";
    assert_eq!(found("src/call/a.rs", in_test), [0; 0]);
}

#[test]
fn a_missing_header_is_found() {
    let found = |text| lines(check_header, "src/call/a.rs", text);
    assert_eq!(found("use std::fmt;\n"), [1]);
    assert_eq!(found("// Not documentation.\n"), [1]);
    assert_eq!(found("//!\n"), [1]);
    assert_eq!(found("//! Says it.\n"), [0; 0]);
    assert_eq!(found("#![doc = include_str!(\"X.md\")]\n"), [0; 0]);
}

#[test]
fn an_allowed_unwrap_is_found() {
    let found = |text| lines(check_allowed_lints, "src/call/a.rs", text);
    assert_eq!(found("\n#[allow(clippy::unwrap_used)]\nfn f() {}"), [2]);
    assert_eq!(found("#![expect(clippy::unwrap_used)]"), [1]);
    let in_test = "#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod t {}";
    assert_eq!(found(in_test), [0; 0]);
}

#[test]
fn strangers_at_the_top_level_are_found() {
    assert!(is_allowed_at_top("Cargo.toml"));
    assert!(is_allowed_at_top(".venv"));
    assert!(!is_allowed_at_top("docs"));
    assert!(!is_allowed_at_top("NOTES.md"));
}
