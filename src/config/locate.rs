//! Finds the line of a field in a TOML text.

use toml::de::{DeTable, DeValue};

/// The line, from 1, in which byte `at` lies.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The line of the deepest part of `path` that the text has. Members of lists are numbered from 1.
pub(super) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (first, rest) = path.split_first()?;
    let (line, value) = member(text, table.get_ref(), first)?;
    Some(deepest(text, value, rest).unwrap_or(line))
}

fn deepest(text: &str, value: &DeValue<'_>, path: &[&str]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (line, value) = match value {
        DeValue::Table(table) => member(text, table, first)?,
        DeValue::Array(list) => {
            let value = list.get(first.parse::<usize>().ok()?.checked_sub(1)?)?;
            (line_at(text, value.span().start), value.get_ref())
        }
        _ => return None,
    };
    Some(deepest(text, value, rest).unwrap_or(line))
}

fn member<'a, 'b>(
    text: &str,
    table: &'b DeTable<'a>,
    name: &str,
) -> Option<(usize, &'b DeValue<'a>)> {
    let (key, value) = table
        .iter()
        .find(|(key, _)| key.get_ref().as_ref() == name)?;
    Some((line_at(text, key.span().start), value.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_part_that_exists_is_found() {
        let text = "a = 1\n\n[b.c]\nd = 2\ne = { f = 3 }\n[[g]]\nh = 4\n[[g]]\ni = 5\n";
        for (path, expected) in [
            (&["a"][..], Some(1)),
            (&["b", "c", "d"], Some(4)),
            (&["b", "c", "e", "f"], Some(5)),
            (&["b", "c", "missing"], Some(3)),
            (&["g", "1", "h"], Some(7)),
            (&["g", "2", "i"], Some(9)),
            (&["g", "2", "missing"], Some(8)),
            (&["g", "3", "h"], Some(6)),
            (&["g", "0", "h"], Some(6)),
            (&["g", "h"], Some(6)),
            (&["missing"], None),
        ] {
            assert_eq!(line_of(text, path), expected, "{path:?}");
        }
    }
}
