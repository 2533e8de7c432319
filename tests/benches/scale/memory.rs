//! What the kernel spends on the pods of a node: what it says of our maps and programs, and beside it what the whole machine has more.

use shunt_tests::figures::{Curve, Figures, Group};
use shunt_tests::held::{Held, Meminfo};

use crate::site::Site;

/// A figure of what was seen at one time.
type Measure<'a> = dyn Fn(&Held, &Meminfo) -> f64 + 'a;

/// Taken while a node grows.
pub(crate) struct Memory {
    before: Meminfo,
    seen: Vec<(usize, Held, Meminfo)>,
}

impl Memory {
    /// Before the node has its first pod.
    pub(crate) fn before(far: &Site) -> Self {
        let mut memory = Self { before: Meminfo::now(), seen: Vec::new() };
        memory.look(far, 0);
        memory
    }

    /// With so many pods.
    pub(crate) fn look(&mut self, far: &Site, pods: usize) {
        let held = Held::below(&far.host.path("sys/fs/bpf/shunt"));
        self.seen.push((pods, held, Meminfo::now()));
    }

    /// All of it as figures; what is held at the end.
    #[expect(clippy::cast_precision_loss, reason = "bytes of a machine that exists, and pods on a node")]
    pub(crate) fn tell(mut self, figures: &mut Figures) -> Held {
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        let before = self.before;
        let more = |now: u64, before: u64| now as f64 - before as f64;
        let measures: [(&str, &Measure<'_>); 5] = [
            ("our maps", &|held, _| kib(held.map_bytes())),
            ("our programs, instructions", &|held, _| kib(held.program_bytes())),
            ("Slab of the machine, more", &|_, all| more(all.slab, before.slab)),
            ("Percpu of the machine, more", &|_, all| more(all.percpu, before.percpu)),
            ("VmallocUsed of the machine, more", &|_, all| more(all.vmalloc, before.vmalloc)),
        ];
        // What the first pods bring is there once.
        let (Some((first, held_first, all_first)), Some((last, held, all))) =
            (self.seen.iter().find(|(pods, ..)| *pods >= 10), self.seen.last())
        else {
            panic!("nothing was looked at");
        };
        if last > first {
            let each = |value: &Measure<'_>| {
                (value(held, all) - value(held_first, all_first)) / (last - first) as f64
            };
            let subjects = measures.iter().map(|(name, value)| (*name, vec![each(value)]));
            let setting = format!("from {first} to {last} pods");
            figures.groups.push(Group::of(["kernel memory of a pod", &setting, "", "KiB"], subjects));
        }
        let line = |(name, value): &(&str, &Measure<'_>)| {
            let points = self.seen.iter().filter(|(pods, ..)| *pods > 0);
            let points = points.map(|(pods, held, all)| (*pods as f64, value(held, all)));
            ((*name).to_owned(), points.collect())
        };
        let lines = measures.iter().map(line).collect();
        let counts = [("programs", held.programs()), ("links", held.links())];
        let setting = format!("{last} pods");
        let subjects = counts.map(|(name, count)| (name, vec![count as f64]));
        figures.groups.push(Group::of(["in the kernel", &setting, "", ""], subjects));
        let (what, over, unit) =
            ("kernel memory".to_owned(), "pods on the node".to_owned(), "KiB".to_owned());
        figures.curves.push(Curve { what, over, unit, lines });
        self.seen.pop().map(|(_, held, _)| held).unwrap_or_default()
    }
}
