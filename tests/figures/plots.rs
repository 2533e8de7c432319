//! Plots: for each bench, its groups as bars of ratios; each curve as lines.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use shunt_tests::figures::sample::Spread;
use shunt_tests::figures::{Curve, Figures, Group};

/// A file.
pub(crate) struct Plot {
    pub(crate) name: String,
    pub(crate) svg: String,
}

const WIDTH: u32 = 900;
const MARGIN: u32 = 14;
const BAR: i32 = 13;
/// Between two groups of a page.
const GAP: i32 = 30;
const NAMES: i32 = 190;
/// Width that the longest bar may have.
const LONGEST: i32 = 470;
/// A page with more groups than this is no picture any more.
const MOST: usize = 12;

/// All plots of these figures. What cannot be drawn is left out: the tables have it.
pub(crate) fn all(all: &[Figures]) -> Vec<Plot> {
    let mut plots = Vec::new();
    for figures in all {
        // Medians: a bar for each percentile would hide the picture.
        let groups: Vec<&Group> = figures
            .groups
            .iter()
            .filter(|group| matches!(group.figure.as_str(), "" | "p50") && compares(group))
            .collect();
        for (number, part) in groups.chunks(MOST).enumerate() {
            let name =
                if number == 0 { figures.bench.clone() } else { format!("{}-{}", figures.bench, number + 1) };
            if let Ok(svg) = bars(figures, part) {
                plots.push(Plot { name, svg });
            }
        }
        for (number, curve) in figures.curves.iter().enumerate() {
            if let Ok(svg) = lines(figures, curve) {
                plots.push(Plot { name: format!("{}-curve-{}", figures.bench, number + 1), svg });
            }
        }
    }
    plots
}

/// Whether there is a ratio to be drawn besides that of the base to itself.
fn compares(group: &Group) -> bool {
    let ratios = group.subjects.iter().filter_map(|subject| group.ratio(&subject.name, &group.base));
    ratios.count() > 1
}

/// Names of a page in the order in which they come: a subject has one colour on it.
fn names<'a>(groups: &[&'a Group]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for subject in groups.iter().flat_map(|group| &group.subjects) {
        if !names.contains(&subject.name.as_str()) {
            names.push(&subject.name);
        }
    }
    names
}

fn pixels(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// Groups below each other, a bar for each subject: how it compares with the group's base, which is 1.
fn bars(figures: &Figures, groups: &[&Group]) -> Result<String, Box<dyn Error>> {
    let rows: i32 =
        groups.iter().map(|group| i32::try_from(group.subjects.len()).unwrap_or(0) * (BAR + 4) + GAP).sum();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, pixels(rows) + 60)).into_drawing_area();
        area.fill(&WHITE)?;
        let left = i32::try_from(MARGIN)?;
        area.draw(&Text::new(
            format!("{}: {}", figures.bench, figures.title),
            (left, 10),
            ("sans-serif", 16),
        ))?;
        area.draw(&Text::new(
            figures.machine.to_string(),
            (left, 30),
            ("sans-serif", 10).into_font().color(&BLACK.mix(0.6)),
        ))?;
        let names = names(groups);
        let mut y = 52;
        for group in groups {
            y = bars_of(&area, group, &names, y)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn bars_of(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    group: &Group,
    names: &[&str],
    mut y: i32,
) -> Result<i32, Box<dyn Error>> {
    let left = i32::try_from(MARGIN)?;
    let title = group.title();
    area.draw(&Text::new(format!("{title} (1 = {})", group.base), (left, y), ("sans-serif", 12)))?;
    y += 17;
    let ratios: Vec<(&str, Spread, Option<Spread>)> = group
        .subjects
        .iter()
        .filter_map(|subject| {
            let ratio = group.ratio(&subject.name, &group.base)?;
            Some((subject.name.as_str(), ratio, Spread::of(&subject.values)))
        })
        .collect();
    let longest = ratios.iter().map(|(_, ratio, _)| ratio.p90).fold(1.0, f64::max);
    let at = |ratio: f64| {
        #[expect(clippy::cast_possible_truncation, reason = "a place on the page")]
        let width = (f64::from(LONGEST) * ratio / longest) as i32;
        NAMES + width
    };
    for (name, ratio, value) in &ratios {
        let small = ("sans-serif", 11);
        area.draw(&Text::new((*name).to_owned(), (left, y + 1), small))?;
        let number = names.iter().position(|other| other == name).unwrap_or_default();
        let color = Palette99::pick(number).mix(0.75);
        area.draw(&Rectangle::new([(NAMES, y), (at(ratio.median), y + BAR)], color.filled()))?;
        let middle = y + BAR / 2;
        area.draw(&PathElement::new([(at(ratio.p10), middle), (at(ratio.p90), middle)], BLACK))?;
        let unit = &group.unit;
        let value = value.map_or_else(String::new, |value| {
            format!("  {} {unit}", shunt_tests::figures::sample::short(value.median))
        });
        area.draw(&Text::new(
            format!("{:.2}{value}", ratio.median),
            (at(ratio.p90.max(ratio.median)) + 6, y + 1),
            small,
        ))?;
        y += BAR + 4;
    }
    let one = at(1.0);
    let height = i32::try_from(ratios.len())? * (BAR + 4);
    area.draw(&PathElement::new([(one, y - height - 2), (one, y)], BLACK.mix(0.5)))?;
    Ok(y + GAP - 17)
}

/// A curve as lines with a dot for each point.
fn lines(figures: &Figures, curve: &Curve) -> Result<String, Box<dyn Error>> {
    let points = || curve.lines.iter().flat_map(|(_, points)| points);
    let (right, top) = points().fold((1.0_f64, 0.0_f64), |(right, top), (x, y)| (right.max(*x), top.max(*y)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(MARGIN)
            .caption(format!("{}: {}", figures.bench, curve.what), ("sans-serif", 16))
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right, 0.0..top * 1.1)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(curve.over.as_str())
            .y_desc(curve.unit.as_str())
            .draw()?;
        for (number, (name, points)) in curve.lines.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use shunt_tests::figures::Subject;

    use super::*;

    #[test]
    fn bars_and_lines_are_drawn() {
        let mut figures = Figures::new("process", "whole processes");
        let subject = |name: &str, value| Subject { name: name.to_owned(), values: vec![value; 3] };
        figures.groups.push(Group {
            what: "ADD".into(),
            setting: String::new(),
            figure: String::new(),
            unit: "us".into(),
            base: "tuning".into(),
            subjects: vec![subject("shunt & co", 1.0), subject("tuning", 2.0)],
        });
        figures.curves.push(Curve {
            what: "ADD".into(),
            over: "pods".into(),
            unit: "us".into(),
            lines: vec![("eBPF".into(), vec![(1.0, 2.0), (500.0, 2.2)])],
        });
        let plots = all(&[figures]);
        let names: Vec<&str> = plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["process", "process-curve-1"]);
        for plot in plots {
            assert!(plot.svg.contains("<svg") && plot.svg.contains("</svg>"), "{}", plot.svg);
        }
    }
}
