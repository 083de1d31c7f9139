//! How long files and functions are.

use syn::spanned::Spanned;
use syn::visit::Visit;

use super::source::{Findings, Source, attributes_of, is_test};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

struct Functions(Findings);

impl Functions {
    fn judge(&mut self, name: &syn::Ident, whole: impl Spanned) {
        let span = whole.span();
        let lines = span.end().line - span.start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("function {name} has {lines} lines, {FUNCTION_LINES_MAX} at most");
            self.0.push((span.start().line, what));
        }
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.judge(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.judge(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}

pub fn lengths(source: &Source) -> Findings {
    let mut functions = Functions(Vec::new());
    functions.visit_file(&source.items);
    let mut found = functions.0;
    let lines = source.text.lines().count() - test_lines(&source.text);
    if lines > FILE_LINES_MAX {
        found.push((1, format!("{lines} lines outside tests, {FILE_LINES_MAX} at most")));
    }
    found
}

/// Lines of the top-level items under `#[cfg(test)]`.
fn test_lines(text: &str) -> usize {
    let Ok(file) = syn::parse_file(text) else { return 0 };
    if is_test(&file.attrs) {
        return text.lines().count();
    }
    let tests = file.items.iter().filter(|item| is_test(attributes_of(item)));
    tests
        .map(|item| item.span().end().line - item.span().start().line + 1)
        .sum()
}
