//! What the demo prints: steps, facts, and for each thing to be seen whether it was.

/// Collects whether all was seen.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    missing: usize,
}

impl Screen {
    /// A step begins.
    pub(crate) fn step(&self, title: &str, note: &str) {
        println!("\n{title:<12} {note}");
    }

    /// One party's view, and whether it is what it should be.
    pub(crate) fn view(&mut self, who: &str, seen: bool, what: &str) {
        if !seen {
            self.missing += 1;
        }
        println!("  {} {who:<8} {what}", if seen { '✓' } else { '✗' });
    }

    /// The last line.
    pub(crate) fn end(&self) -> bool {
        match self.missing {
            0 => println!("\nAll of it was seen."),
            1 => println!("\nOne thing was not seen (✗)."),
            missing => println!("\n{missing} things were not seen (✗)."),
        }
        self.missing == 0
    }
}
