//! Subjects take turns, so that what slows the machine down for a while slows all of them.

/// Each subject once for each round, after `warm_up` rounds whose values nobody keeps. Who begins moves on by one each round: what
/// comes right after something heavy is not always the same one.
pub fn take<S>(
    subjects: &mut [S],
    warm_up: usize,
    rounds: usize,
    mut run: impl FnMut(&mut S) -> f64,
) -> Vec<Vec<f64>> {
    take_many(subjects, warm_up, rounds, |subject| [run(subject)])
        .into_iter()
        .map(|values| values.into_iter().map(|[value]| value).collect())
        .collect()
}

/// The same where one run says several things.
pub fn take_many<S, V>(
    subjects: &mut [S],
    warm_up: usize,
    rounds: usize,
    mut run: impl FnMut(&mut S) -> V,
) -> Vec<Vec<V>> {
    let count = subjects.len();
    let mut values: Vec<Vec<V>> = subjects.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..warm_up + rounds {
        for turn in 0..count {
            let who = (round + turn) % count;
            let value = run(&mut subjects[who]);
            if round >= warm_up {
                values[who].push(value);
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_as_many_turns() {
        let mut order = Vec::new();
        let values = take(&mut [10.0, 20.0, 30.0], 1, 2, |subject| {
            order.push(*subject);
            *subject
        });
        assert_eq!(values, [[10.0; 2], [20.0; 2], [30.0; 2]]);
        assert_eq!(order, [10.0, 20.0, 30.0, 20.0, 30.0, 10.0, 30.0, 10.0, 20.0]);
    }

    #[test]
    fn nobody_takes_no_turns() {
        assert!(take(&mut [0_u8; 0], 3, 3, |_| 0.0).is_empty());
    }
}
