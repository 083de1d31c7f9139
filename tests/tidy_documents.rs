//! What the documents say of the code is there: findings of the doctor, tests that show something, files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = package().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    });
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Codes in the first column of the table that begins with `heading`.
fn listed<'a>(guide: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let (_, table) = guide.split_once(heading).expect("the guide has this table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap_or_default()))
        .collect()
}

/// `Finding::fault("code", ...)` and `Finding::warning("code", ...)`, and all other texts.
#[derive(Default)]
struct Codes {
    made: BTreeSet<(String, String)>,
    texts: BTreeSet<String>,
}

impl Codes {
    /// What stands in a macro's brackets is not parsed any further.
    fn read_tokens(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.texts.insert(text.value());
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

impl<'a> Visit<'a> for Codes {
    fn visit_expr_call(&mut self, call: &'a syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func {
            let names: Vec<String> = function
                .path
                .segments
                .iter()
                .map(|part| part.ident.to_string())
                .collect();
            if let ([of, level], Some(syn::Expr::Lit(first))) = (&names[..], call.args.first())
                && of == "Finding"
                && let syn::Lit::Str(code) = &first.lit
            {
                self.made.insert((level.clone(), code.value()));
            }
        }
        syn::visit::visit_expr_call(self, call);
    }

    fn visit_lit_str(&mut self, text: &'a syn::LitStr) {
        self.texts.insert(text.value());
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        self.read_tokens(called.tokens.clone());
    }
}

#[test]
fn every_finding_stands_in_the_guide_and_no_other() {
    let mut codes = Codes::default();
    for path in rust_files(&package().join("src")) {
        codes.visit_file(&syn::parse_file(&read(&path)).expect("it parses"));
    }
    assert!(codes.made.len() > 20, "the calls are found: {:?}", codes.made);
    let guide = read("docs/guide.md");
    let (faults, warnings) = (listed(&guide, "| fault | |"), listed(&guide, "| warning | |"));
    for (level, code) in &codes.made {
        let table = if level == "fault" { &faults } else { &warnings };
        assert!(table.contains(&**code), "{level} {code} is not in the guide's table");
    }
    for code in faults.union(&warnings) {
        assert!(
            codes.texts.contains(*code),
            "the guide lists {code}, which nobody finds"
        );
    }
}

/// Whether `module::test` is a test of `tests/` or of a file of `src/`, a module of either without its test's name.
fn is_test(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else {
        return false;
    };
    let module = module.replace("::", "/");
    let homes = ["tests", "src"].map(|folder| package().join(folder).join(&module));
    let function = format!("fn {test}(");
    homes.iter().any(|home| {
        let file = home.with_extension("rs");
        file.with_extension("").join(test).with_extension("rs").exists()
            || std::iter::once(file)
                .chain(rust_files(home))
                .any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains(&function)))
    })
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut named = 0;
    for document in ["docs/security.md", "docs/guarantees.md"] {
        let text = read(document);
        for name in quoted(&text) {
            let word = |text: &str| {
                text.chars()
                    .all(|one| one.is_ascii_lowercase() || one == '_' || one.is_ascii_digit())
            };
            if name.contains("::") && name.split("::").all(word) {
                assert!(is_test(name), "{document} names {name}, which is no test");
                named += 1;
            }
            if let Some(stem) = name.strip_suffix(".rs") {
                let at = if name.contains('/') {
                    name.to_owned()
                } else {
                    format!("tests/{name}")
                };
                let there = package().join(at).exists() || package().join("tests").join(stem).join("mod.rs").exists();
                assert!(there, "{document} names {name}, which is no file");
            }
        }
    }
    assert!(named > 20, "the names are found");
    assert!(is_test("tidy_documents::every_test_that_a_document_names_is_there"));
    assert!(!is_test("tidy_documents::one_that_nobody_wrote"));
}
