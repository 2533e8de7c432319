//! `figures DIR`: reads what the benches wrote down there and says it once more, all together: each goal beside what was measured, a
//! table in Markdown (`report.md`), everything as one JSON (`report.json`), and plots (`*.svg`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "prints a report, or why there is none")]

mod goals;
mod plots;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use shunt_tests::figures::Figures;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("figures DIR: the directory that the benches wrote into");
        return ExitCode::from(2);
    };
    match run(&dir) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> Result<String, String> {
    let all = read(dir)?;
    let goals = goals::judge(&all);
    let page = report::page(&all, &goals);
    let json = serde_json::to_string(&all).map_err(|error| error.to_string())?;
    for (name, content) in [("report.md", &page), ("report.json", &json)] {
        let file = dir.join(name);
        std::fs::write(&file, content).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    for plot in plots::all(&all) {
        let file = dir.join(format!("{}.svg", plot.name));
        std::fs::write(&file, plot.svg).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(report::goals(&goals))
}

/// What each bench wrote, in the order of their names.
fn read(dir: &Path) -> Result<Vec<Figures>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension().is_some_and(|kind| kind == "json")
                && path.file_stem().is_some_and(|name| name != "report")
        })
        .collect();
    files.sort();
    let all: Vec<Figures> = files
        .iter()
        .map(|file| {
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
        })
        .collect::<Result<_, String>>()?;
    if all.is_empty() {
        return Err(format!("{}: no bench has left anything here", dir.display()));
    }
    Ok(all)
}
