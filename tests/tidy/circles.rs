//! Import circles between the files of a folder. A folder has its file and what lies beside it for one, so two files that name each
//! other's insides, however deep, are found where their ways part.
//!
//! The file of the folder itself (`mod.rs`) is not one of those: it is what they share. What it merely passes on from one
//! of them counts as that one's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Source, is_within};

/// Who names whom in a folder, and where: `path:line`.
type Arrows = BTreeMap<String, BTreeMap<String, String>>;

/// One finding for each circle: the shortest way round, and a place to cut it.
pub fn circles(sources: &[Source]) -> Vec<String> {
    let folders: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| folders_above(&source.module))
        .collect();
    let mut found = Vec::new();
    for folder in folders {
        let arrows = arrows(sources, folder);
        let mut seen = BTreeSet::new();
        for entry in arrows.keys() {
            let Some(way) = way_back(&arrows, entry).filter(|_| !seen.contains(entry)) else {
                continue;
            };
            seen.extend(way.iter().cloned());
            let place = &arrows[&way[way.len() - 2]][entry];
            let name = if folder.is_empty() { "src" } else { folder };
            found.push(format!("{place}: an import circle in {name}: {}", way.join(" -> ")));
        }
    }
    found
}

/// The modules a module lies in, the root as well.
fn folders_above(module: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(module.match_indices("::").map(|(at, _)| &module[..at]))
}

/// The part of `path` right below `folder`.
fn entry<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let inside = if folder.is_empty() {
        path
    } else {
        path.strip_prefix(folder)?.strip_prefix("::")?
    };
    inside.split("::").next().filter(|entry| !entry.is_empty())
}

fn arrows(sources: &[Source], folder: &str) -> Arrows {
    let inside: Vec<&Source> = sources
        .iter()
        .filter(|source| folder.is_empty() || is_within(&source.module, folder))
        .collect();
    let entries: BTreeSet<&str> = inside
        .iter()
        .filter_map(|source| entry(&source.module, folder))
        .collect();
    let root = if folder.is_empty() { "lib" } else { folder };
    let door = inside.iter().find(|source| source.module == root);
    let passed_on = door.map(|door| passed_on(door, folder, &entries)).unwrap_or_default();
    let mut arrows = Arrows::new();
    for source in inside.iter().filter(|source| source.module != root) {
        let Some(from) = entry(&source.module, folder) else {
            continue;
        };
        for (path, line) in source.names() {
            let Some(named) = entry(&path, folder) else { continue };
            let to = entries
                .get(named)
                .copied()
                .or_else(|| passed_on.get(named).map(String::as_str));
            if let Some(to) = to.filter(|to| *to != from) {
                let place = format!("{}:{line}", source.path);
                arrows
                    .entry(from.to_owned())
                    .or_default()
                    .entry(to.to_owned())
                    .or_insert(place);
            }
        }
    }
    arrows
}

/// What the folder's own file imports from its entries: by the name it has there, whose it is.
fn passed_on(door: &Source, folder: &str, entries: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut passed_on = BTreeMap::new();
    for path in door.imports() {
        let inside = match path.first().map(String::as_str) {
            Some("self") => &path[1..],
            Some("crate") => {
                let depth = if folder.is_empty() {
                    0
                } else {
                    folder.split("::").count()
                };
                let is_ours = path[1..]
                    .iter()
                    .take(depth)
                    .map(String::as_str)
                    .eq(folder.split("::").take(depth));
                if is_ours { &path[1 + depth..] } else { &[] }
            }
            Some(_) | None => &path[..],
        };
        if let [entry, .., name] = inside
            && entries.contains(entry.as_str())
        {
            passed_on.insert(name.clone(), entry.clone());
        }
    }
    passed_on
}

/// The shortest way from `start` back to it.
fn way_back(arrows: &Arrows, start: &str) -> Option<Vec<String>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(at) = next.pop_front() {
        for to in arrows.get(at).into_iter().flat_map(BTreeMap::keys) {
            if to == start {
                let mut way = vec![start.to_owned(), at.to_owned()];
                let mut at = at;
                while at != start {
                    at = before[at];
                    way.push(at.to_owned());
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(to.as_str()) {
                before.insert(to, at);
                next.push_back(to);
            }
        }
    }
    None
}
