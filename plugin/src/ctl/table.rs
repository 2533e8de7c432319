//! A table that fits into its window.

use std::fmt::Write as _;
use std::time::Duration;

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// Its title.
    pub(super) title: &'static str,
    /// Numbers stand at the right.
    pub(super) right: bool,
    /// Those with the highest go first where there is no room for all; 0 stays, and is cut if it must be.
    pub(super) spare: u8,
}

const GAP: usize = 2;
/// Narrower than this a column says nothing.
const LEAST: usize = 8;

/// Lines of a table, each no wider than `width`, if that is given.
pub(super) fn lines(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> Vec<String> {
    let cells = |index: usize| rows.iter().filter_map(move |row| row.get(index));
    let mut shown: Vec<(usize, Column, usize)> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let widest = cells(index).map(|cell| cell.chars().count()).max().unwrap_or(0);
            (index, *column, widest.max(column.title.len()))
        })
        .collect();
    if let Some(width) = width {
        fit(&mut shown, width);
    }
    let line = |cell: &dyn Fn(usize, &Column) -> String| -> String {
        let mut line = String::new();
        for (index, column, room) in &shown {
            let text = cut(&cell(*index, column), *room);
            // Writing into a String cannot fail.
            let _ = if column.right {
                write!(line, "{text:>room$}{:GAP$}", "")
            } else {
                write!(line, "{text:room$}{:GAP$}", "")
            };
        }
        line.truncate(line.trim_end().len());
        width.map_or_else(|| line.clone(), |width| cut(&line, width))
    };
    let head = line(&|_, column| column.title.to_owned());
    let body = rows.iter().map(|row| line(&|index, _| row.get(index).cloned().unwrap_or_default()));
    std::iter::once(head).chain(body).collect()
}

/// Leaves columns out, then narrows what may not be left out.
fn fit(shown: &mut Vec<(usize, Column, usize)>, width: usize) {
    let total = |shown: &[(usize, Column, usize)]| {
        shown.iter().map(|(_, _, room)| room + GAP).sum::<usize>().saturating_sub(GAP)
    };
    while total(shown) > width {
        let narrow = shown.iter().enumerate().filter(|(_, (_, column, _))| column.spare > 0);
        match narrow.max_by_key(|(_, (_, column, _))| column.spare).map(|(at, _)| at) {
            Some(at) => drop(shown.remove(at)),
            None => break,
        }
    }
    let over = total(shown).saturating_sub(width);
    if let Some((_, _, room)) = shown.iter_mut().find(|(_, column, _)| !column.right) {
        *room = room.saturating_sub(over).max(LEAST.min(*room));
    }
}

/// The text in so many characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// `17`, `1.2k`, `34M`: bytes by powers of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 1024 {
        return count.to_string();
    }
    let (mut whole, mut rest, mut unit) = (count, 0, "");
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        (whole, rest, unit) = (whole / 1024, whole % 1024, next);
    }
    if whole < 10 { format!("{whole}.{}{unit}", rest * 10 / 1024) } else { format!("{whole}{unit}") }
}

/// `85us`, `1.25ms`, `2.50s`.
pub(super) fn round_trip(microseconds: u32) -> String {
    match microseconds {
        0 => "-".to_owned(),
        1..1000 => format!("{microseconds}us"),
        1000..1_000_000 => format!("{}.{:02}ms", microseconds / 1000, microseconds % 1000 / 10),
        _ => format!("{}.{:02}s", microseconds / 1_000_000, microseconds % 1_000_000 / 10_000),
    }
}

/// `7s`, `3m07s`, `2h03m`, `5d02h`.
pub(super) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column { title: "DESTINATION", right: false, spare: 0 },
        Column { title: "SENT", right: true, spare: 0 },
        Column { title: "STATE", right: false, spare: 2 },
        Column { title: "POD", right: false, spare: 1 },
    ];

    #[test]
    fn a_table_fits() {
        let rows = [["[fd00::1:2:3]:8080", "1.2M", "established", "shop/cart"].map(str::to_owned).to_vec()];
        let whole = lines(&COLUMNS, &rows, None);
        assert_eq!(
            whole,
            [
                "DESTINATION         SENT  STATE        POD",
                "[fd00::1:2:3]:8080  1.2M  established  shop/cart"
            ]
        );
        for width in 1..60 {
            for line in lines(&COLUMNS, &rows, Some(width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        let narrow = lines(&COLUMNS, &rows, Some(40));
        assert_eq!(narrow[1], "[fd00::1:2:3]:8080  1.2M  shop/cart");
        assert_eq!(lines(&COLUMNS, &rows, Some(20))[1], "[fd00::1:2:3]…  1.2M");
    }

    #[test]
    fn numbers_for_people() {
        for (count, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0k"),
            (1536, "1.5k"),
            (10 * 1024, "10k"),
            (1024 * 1024 - 1, "1023k"),
            (3 * 1024 * 1024, "3.0M"),
            (u64::MAX, "15E"),
        ] {
            assert_eq!(bytes(count), text, "{count}");
        }
        for (microseconds, text) in [(0, "-"), (85, "85us"), (1250, "1.25ms"), (2_500_000, "2.50s")] {
            assert_eq!(round_trip(microseconds), text);
        }
        for (seconds, text) in [(7, "7s"), (187, "3m07s"), (7380, "2h03m"), (439_200, "5d02h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
