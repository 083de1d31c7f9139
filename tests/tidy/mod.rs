//! The house rules a reviewer would otherwise have to remember, read off `src/`: who may import whom, which crates live
//! in which folder, where SQL lives, how long files and functions are, and what must not be left behind.
//!
//! Sources are parsed, not searched: text in comments and code under `#[cfg(test)]` are told apart. One rule a file; each
//! has a test of its own (`the_checker_itself`) that shows it both ways.

mod circles;
mod imports;
mod leftovers;
mod lengths;
mod source;
mod sql;
mod the_checker_itself;

use std::path::{Path, PathBuf};

use source::Source;

/// Every finding about one file, one line each: `path:line: what is wrong`.
fn findings(source: &Source) -> Vec<String> {
    let mut all = Vec::new();
    for rule in [
        imports::imports,
        lengths::lengths,
        sql::sql_in_strings,
        leftovers::tokens_that_must_not_be,
        leftovers::machine_paths,
        leftovers::reminders,
    ] {
        all.extend(
            rule(source)
                .into_iter()
                .map(|(line, what)| format!("{}:{line}: {what}", source.path)),
        );
    }
    all
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All of `src/`; what does not parse is the second.
fn the_source() -> (Vec<Source>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 10, "src/ was not found");
    files.sort();
    let (mut sources, mut broken) = (Vec::new(), Vec::new());
    for file in files {
        let path = file.strip_prefix(root).expect("below the package").to_string_lossy();
        match Source::parse(&path, &std::fs::read_to_string(&file).expect("readable")) {
            Ok(source) => sources.push(source),
            Err(error) => broken.push(error),
        }
    }
    (sources, broken)
}

#[test]
fn the_source_is_tidy() {
    let (sources, mut found) = the_source();
    found.extend(sources.iter().flat_map(findings));
    found.extend(circles::circles(&sources));
    found.extend(imports::stale(&sources));
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

/// Each statement's file says, in comments at its top, what a reader must know before changing it.
#[test]
fn every_statement_has_a_header() {
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut without = Vec::new();
    for dir in [sql.join("fragments"), sql] {
        let entries = std::fs::read_dir(&dir).expect("sql/ is readable").flatten();
        for path in entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "sql"))
        {
            let text = std::fs::read_to_string(&path).expect("readable");
            if !text.starts_with("--") {
                without.push(path);
            }
        }
    }
    assert!(without.is_empty(), "statements without a header comment: {without:?}");
}
