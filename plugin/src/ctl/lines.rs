//! Answers for people: named lines, and columns.

use std::fmt::Write as _;

/// Width of the names.
const NAMES: usize = 11;

/// Lines with a name before each.
#[derive(Debug, Default)]
pub(super) struct Lines(pub(super) String);

impl Lines {
    pub(super) fn put(&mut self, name: &str, text: &str) {
        // Writing to a text does not fail.
        let _never = writeln!(self.0, "{}", format!("{name:<NAMES$}{text}").trim_end());
    }

    /// What belongs to the line before.
    pub(super) fn again(&mut self, text: &str) {
        if self.0.ends_with('\n') {
            self.0.pop();
        }
        let column = self.0.rsplit('\n').next().map_or(0, |line| line.chars().count());
        let _never = writeln!(self.0, "{:1$}{text}", "", NAMES.saturating_sub(column));
    }

    /// Several lines of one name.
    pub(super) fn list(&mut self, name: &str, texts: impl IntoIterator<Item = String>) {
        for (index, text) in texts.into_iter().enumerate() {
            self.put(if index == 0 { name } else { "" }, &text);
        }
    }
}

/// Rows under a head, each column as wide as it has to be.
pub(super) fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell));
        cells.chain(head.get(column).map(|word| length(word))).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut put = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _never = write!(line, "{cell:<width$}  ");
        }
        let _never = writeln!(text, "{}", line.trim_end());
    };
    put(&mut head.iter().copied());
    for row in rows {
        put(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Lines, columns};

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [vec!["a".to_owned(), "long".to_owned()], vec!["größer".to_owned(), String::new()]];
        assert_eq!(columns(&["X", "Y"], &rows), "X       Y\na       long\ngrößer\n");
        assert_eq!(columns(&["X", "Y"], &[]), "X  Y\n");
    }

    #[test]
    fn a_name_is_said_once() {
        let mut lines = Lines::default();
        lines.list("one", ["a".to_owned(), "b".to_owned()]);
        lines.put("two", "");
        lines.again("c");
        assert_eq!(lines.0, "one        a\n           b\ntwo        c\n");
    }
}
