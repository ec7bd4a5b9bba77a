//! Finds the line of a field in a TOML text.

use toml::de::{DeTable, DeValue};

/// The line, from 1, in which byte `at` lies.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of the deepest part of `path` that the text has.
pub(super) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut table = table.get_ref();
    let mut line = None;
    for name in path {
        let Some((key, value)) = table
            .iter()
            .find(|(key, _)| key.get_ref().as_ref() == *name)
        else {
            break;
        };
        line = Some(line_at(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_part_that_exists_is_found() {
        let text = "a = 1\n\n[b.c]\nd = 2\ne = { f = 3 }\n";
        for (path, expected) in [
            (&["a"][..], Some(1)),
            (&["b", "c", "d"], Some(4)),
            (&["b", "c", "e", "f"], Some(5)),
            (&["b", "c", "missing"], Some(3)),
            (&["missing"], None),
        ] {
            assert_eq!(line_of(text, path), expected, "{path:?}");
        }
    }
}
