//! Finds the line of a field in a TOML text.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// The line, from 1, in which byte `at` lies.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of the deepest part of `path` that the text has.
pub(super) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut path = path.iter();
    let (key, mut value) = entry(table.get_ref(), path.next()?)?;
    let mut at = key;
    for name in path {
        let found = match value.get_ref() {
            DeValue::Table(table) => entry(table, name),
            DeValue::Array(items) => item(items, name),
            _ => None,
        };
        match found {
            Some(found) => (at, value) = found,
            None => break,
        }
    }
    Some(line_at(text, at))
}

fn entry<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<(usize, &'a Spanned<DeValue<'i>>)> {
    let mut entries = table.iter();
    let (key, value) = entries.find(|(key, _)| key.get_ref().as_ref() == name)?;
    Some((key.span().start, value))
}

/// An array's items are named by their number, from 1.
fn item<'a, 'i>(items: &'a DeArray<'i>, name: &str) -> Option<(usize, &'a Spanned<DeValue<'i>>)> {
    let value = items.get(name.parse::<usize>().ok()?.checked_sub(1)?)?;
    Some((value.span().start, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_part_that_exists_is_found() {
        let text = "a = 1\n\n[b.c]\nd = 2\ne = { f = 3 }\n[[g]]\nh = 4\n[[g]]\nh = 5\n";
        for (path, expected) in [
            (&["a"][..], Some(1)),
            (&["b", "c", "d"], Some(4)),
            (&["b", "c", "e", "f"], Some(5)),
            (&["b", "c", "missing"], Some(3)),
            (&["g"], Some(6)),
            (&["g", "1", "h"], Some(7)),
            (&["g", "2"], Some(8)),
            (&["g", "2", "h"], Some(9)),
            (&["g", "2", "missing"], Some(8)),
            (&["g", "3", "h"], Some(6)),
            (&["g", "0"], Some(6)),
            (&["missing"], None),
        ] {
            assert_eq!(line_of(text, path), expected, "{path:?}");
        }
    }
}
