//! The page: goals first, then each bench's groups, in Markdown.

use std::fmt::Write as _;

use shunt_tests::figures::sample::{Spread, short};
use shunt_tests::figures::{Curve, Figures, Group};

use crate::goals::Outcome;

/// All of it.
pub(crate) fn page(all: &[Figures], outcomes: &[Outcome]) -> String {
    let mut page = String::from("# Figures\n\n");
    page.push_str(
        "Subjects take turns; a ratio is the median of the ratios of each round, with the tenth below and above.\n\n",
    );
    page.push_str(&goals(outcomes));
    for figures in all {
        let Figures { bench, title, machine, .. } = figures;
        let _infallible = writeln!(page, "\n## {bench}: {title}\n\n{machine}.\n");
        for group in &figures.groups {
            page.push_str(&group_table(group));
        }
        for curve in &figures.curves {
            page.push_str(&curve_table(curve));
        }
    }
    page
}

/// Goals as a table.
pub(crate) fn goals(outcomes: &[Outcome]) -> String {
    let mut text = String::from("| what | against | goal | measured | |\n|---|---|---|---|---|\n");
    for Outcome { words, goal, against, found, met } in outcomes {
        let found = found.map_or_else(|| "not measured".to_owned(), spread);
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "",
        };
        let _infallible = writeln!(text, "| {words} | {against} | {goal} | {found} | {verdict} |");
    }
    text
}

fn spread(spread: Spread) -> String {
    let Spread { median, p10, p90 } = spread;
    if p10.total_cmp(&p90).is_eq() {
        return digits(median);
    }
    format!("{} ({} .. {})", digits(median), digits(p10), digits(p90))
}

/// Ratios around one need two digits behind the point.
fn digits(value: f64) -> String {
    if value.abs() < 10.0 && value != 0.0 { format!("{value:.2}") } else { short(value) }
}

fn group_table(group: &Group) -> String {
    let mut text =
        format!("**{}**\n\n| | ratio to {} | {} |\n|---|---|---|\n", group.title(), group.base, group.unit);
    for subject in &group.subjects {
        let ratio = group.ratio(&subject.name, &group.base).map_or_else(String::new, spread);
        let value = Spread::of(&subject.values).map_or_else(String::new, |found| {
            format!("{} ({} .. {})", short(found.median), short(found.p10), short(found.p90))
        });
        let _infallible = writeln!(text, "| {} | {ratio} | {value} |", subject.name);
    }
    text.push('\n');
    text
}

fn curve_table(curve: &Curve) -> String {
    let mut text = format!("**{}, {} over {}**\n\n", curve.what, curve.unit, curve.over);
    for (name, points) in &curve.lines {
        let points: Vec<String> =
            points.iter().map(|(x, y)| format!("{}: {}", short(*x), short(*y))).collect();
        let _infallible = writeln!(text, "- {name}: {}", points.join(", "));
    }
    text.push('\n');
    text
}
